/* SPDX-License-Identifier: Apache-2.0
 * core/cli/cli_convert.c: lmoe convert: from one model to another.
 *
 *   upcycle   a dense model's weights become those of a mixture of experts (arXiv 2212.05055): every
 *             expert is a copy of the dense feed-forward, plus noise if wanted. A shared expert
 *             starts by adding nothing. So, where a token's weights sum to 1, the first loss is the
 *             dense model's.
 */
#include "core/cli/cli.h"
#include "core/train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *const flags[] = {"--noise", "--set", "--plugin-path", "--help", NULL};

/* A model on its device. rank: what saves a checkpoint. */
typedef struct side {
    lmoe__setup s;
    lmoe__rank rank;
    lmoe__program *eval;
} side;

static lmoe_status read_side(side *m, const char *file, const lmoe__arguments *a, bool sets)
{
    lmoe__arguments own = {.file = file, .plugin_path = a->plugin_path};
    for (int i = 0; sets && i < a->n_sets; i++) own.sets[own.n_sets++] = a->sets[i];
    lmoe__ctx_init(&m->rank.ctx);
    m->rank.setup = &m->s;
    m->s.conf = lmoe__arguments_read(&m->rank.ctx, &own);
    if (!m->s.conf) return m->rank.ctx.status;
    return lmoe__setup_read(&m->rank.ctx, &m->s, a->plugin_path, 0);
}

static lmoe_status open_side(side *m, bool train)
{
    lmoe__rank *r = &m->rank;
    lmoe__model_shape shape = lmoe__setup_shape(&m->s);
    const lmoe__optimiser o = lmoe__setup_optimiser(&m->s);
    LMOE_TRY(m->s.device->open(&r->ctx, m->s.device_options, &r->dev));
    LMOE_TRY(lmoe__engine_init(&r->engine, &r->ctx, &m->s.model, NULL, m->s.device, r->dev,
                               lmoe__setup_dtype(&m->s)));
    LMOE_TRY(lmoe__engine_program(&r->engine, LMOE__EVAL, &shape, &m->eval));
    if (train) LMOE_TRY(lmoe__engine_update_program(&r->engine, &o, &r->update));
    LMOE_TRY(lmoe__engine_bind(&r->engine));
    return lmoe__engine_init_weights(&r->engine, (uint64_t)m->s.run.seed);
}

static void close_side(side *m)
{
    if (m->rank.engine.arena) lmoe__engine_free(&m->rank.engine);
    if (m->rank.dev) m->s.device->close(m->rank.dev);
    lmoe__setup_free(&m->s);
}

/* Fails with the message of the side's context. */
static lmoe_status pass_up(lmoe_ctx *ctx, const side *m, lmoe_status status)
{
    if (status == LMOE_OK || m->rank.ctx.status == LMOE_OK) return status;
    return lmoe_error(ctx, status, "%s", m->rank.ctx.message);
}

/* ---- weights ---- */

/* The dense weight that a weight of the mixture comes from: its own name, or that of an expert
 * without "experts."; NULL: there is none. */
static lmoe__buffer *source_of(side *dense, const char *name, bool *expert)
{
    char plain[320];
    const char *at = strstr(name, ".mlp.experts.");
    *expert = at != NULL;
    if (at)
        snprintf(plain, sizeof plain, "%.*s.mlp.%s", (int)(at - name), name,
                 at + strlen(".mlp.experts."));
    else
        snprintf(plain, sizeof plain, "%s", name);
    return lmoe__store_find(&dense->rank.engine.store, plain);
}

static double deviation(const lmoe_buf *x, int64_t n)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += lmoe_get(x, i);
    for (int64_t i = 0; i < n; i++) squares += pow(lmoe_get(x, i) - sum / (double)n, 2);
    return sqrt(squares / (double)n);
}

/* Copies x (n numbers) as often as buffer `to` holds it, with noise of this deviation. The numbers
 * are those of the weight `name`, whichever part of it the buffer holds. */
static lmoe_status put_copies(lmoe__engine *e, const char *name, lmoe__buffer *to, int part,
                              const lmoe_buf *x, int64_t n, double noise, uint64_t seed)
{
    if (!to) return LMOE_OK;
    int64_t copies = lmoe_desc_count(&to->desc) / n;
    size_t bytes = (size_t)n * lmoe_dtype_bytes(to->desc.dtype);
    lmoe_buf host = {.data = lmoe__malloc(bytes + 1), .dtype = to->desc.dtype};
    lmoe_status status = LMOE_OK;
    for (int64_t c = 0; c < copies && status == LMOE_OK; c++) {
        uint64_t stream = lmoe__hash_text(name) + (uint64_t)c;
        for (int64_t i = 0; i < n; i++) {
            double more = noise > 0 ? noise * lmoe__normal(seed, stream, (uint64_t)i) : 0;
            float f = (float)(lmoe_get(x, i) + more);
            if (part == LMOE_INITIAL_WHOLE)
                lmoe_put(&host, i, lmoe_get(x, i) + more);
            else
                ((uint16_t *)host.data)[i] =
                    part == LMOE_INITIAL_UPPER ? lmoe_upper_half(f) : lmoe_lower_half(f);
        }
        status = e->device->upload(e->dev, (char *)to->data + (size_t)c * bytes, host.data, bytes);
    }
    free(host.data);
    return status;
}

/* Weight w of the mixture, and its master if there is one, from the dense buffer. */
static lmoe_status take_weight(side *moe, const lmoe__weight *w, side *dense,
                               const lmoe__buffer *from, bool expert, double noise)
{
    lmoe__engine *e = &moe->rank.engine;
    const lmoe_desc *d = &from->desc;
    char master[320], have[160] = "", want[160] = "";
    int skip = expert ? 1 : 0;
    bool same = w->desc.rank == d->rank + skip;
    for (int i = 0; i < d->rank; i++)
        snprintf(have + strlen(have), sizeof have - strlen(have), " %lld", (long long)d->dim[i]);
    for (int i = skip; i < w->desc.rank; i++)
        snprintf(want + strlen(want), sizeof want - strlen(want), " %lld",
                 (long long)w->desc.dim[i]);
    for (int i = 0; same && i < d->rank; i++) same = d->dim[i] == w->desc.dim[i + skip];
    if (!same)
        return lmoe_error(&moe->rank.ctx, LMOE_E_CONFIG,
                          "'%s' needs (%s ), the dense model has (%s ): both need the same [model] "
                          "sizes and [ffn] hidden",
                          w->name, want, have);
    int64_t n = lmoe_desc_count(d);
    lmoe_buf x = {.data = lmoe__malloc((size_t)lmoe_desc_bytes(d) + 1), .dtype = d->dtype};
    const lmoe_device *device = dense->rank.engine.device;
    lmoe_status status =
        device->download(dense->rank.engine.dev, x.data, from->data, (size_t)lmoe_desc_bytes(d));
    if (!expert) noise = 0;
    if (noise > 0) noise *= deviation(&x, n);
    snprintf(master, sizeof master, "master:%s", w->name);
    lmoe__buffer *to[2] = {lmoe__store_find(&e->store, w->name),
                           lmoe__store_find(&e->store, master)};
    int part[2] = {to[1] ? LMOE_INITIAL_UPPER : LMOE_INITIAL_WHOLE, LMOE_INITIAL_LOWER};
    for (int i = 0; i < 2 && status == LMOE_OK; i++)
        status = put_copies(e, w->name, to[i], part[i], &x, n, noise, (uint64_t)moe->s.run.seed);
    free(x.data);
    return status;
}

static lmoe_status zero_weight(side *moe, const char *name)
{
    lmoe__engine *e = &moe->rank.engine;
    char master[320];
    snprintf(master, sizeof master, "master:%s", name);
    for (int i = 0; i < 2; i++) {
        lmoe__buffer *b = lmoe__store_find(&e->store, i ? master : name);
        if (b) LMOE_TRY(e->device->zero(e->dev, b->data, (size_t)lmoe_desc_bytes(&b->desc)));
    }
    return LMOE_OK;
}

static lmoe_status take_weights(side *moe, side *dense, double noise)
{
    int taken = 0;
    for (int i = 0; i < moe->rank.engine.n_weights; i++) {
        const lmoe__weight *w = &moe->rank.engine.weights[i];
        bool expert;
        const lmoe__buffer *from = source_of(dense, w->name, &expert);
        if (from) {
            LMOE_TRY(take_weight(moe, w, dense, from, expert, noise));
            taken++;
        } else if (strstr(w->name, ".mlp.shared_expert.down_proj.")) {
            LMOE_TRY(zero_weight(moe, w->name));
        } else if (!strstr(w->name, ".mlp.")) { /* routers and shared experts begin anew */
            return lmoe_error(&moe->rank.ctx, LMOE_E_CONFIG,
                              "the dense model has no weight '%s'; both need the same [model] and "
                              "[layer X] sections",
                              w->name);
        }
    }
    if (taken == dense->rank.engine.n_weights) return LMOE_OK;
    return lmoe_error(&moe->rank.ctx, LMOE_E_CONFIG,
                      "%d of the dense model's %d weights have no place in the mixture; both need "
                      "the same [model], [layer X] and [ffn] activation",
                      dense->rank.engine.n_weights - taken, dense->rank.engine.n_weights);
}

/* ---- the first loss ---- */

/* Loss per token on random tokens, the same for both models. */
static lmoe_status loss_of(side *m, double *loss)
{
    lmoe__model_shape shape = lmoe__setup_shape(&m->s);
    lmoe__engine *e = &m->rank.engine;
    size_t n = (size_t)(shape.batch * shape.seq);
    int32_t *tokens = calloc(n, 4), *positions = calloc(n, 4), *zero = calloc(n, 4);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)lmoe__below(1, 2, i, (uint64_t)m->s.model.o.vocab_size);
        positions[i] = (int32_t)(i % (size_t)shape.seq);
    }
    const struct {
        const char *name;
        const int32_t *data;
    } inputs[] = {{"in:tokens", tokens},
                  {"in:labels", tokens},
                  {"in:positions", positions},
                  {"in:document", zero}};
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < 4 && status == LMOE_OK; i++)
        status = lmoe__program_set(e, m->eval, inputs[i].name, inputs[i].data);
    if (status == LMOE_OK)
        status = lmoe__program_set_scalar(e, m->eval, "in:factor", 1 / (double)n);
    if (status == LMOE_OK) status = lmoe__program_set_scalar(e, m->eval, "in:aux_scale", 0);
    if (status == LMOE_OK) status = lmoe__program_run(e, m->eval);
    if (status == LMOE_OK) lmoe__engine_read(e, "out:loss", loss, 1);
    free(tokens);
    free(positions);
    free(zero);
    return status;
}

static void compare_losses(double dense, double moe, double noise)
{
    printf("loss on random tokens: dense %.6f, mixture %.6f\n", dense, moe);
    if (noise == 0 && fabs(dense - moe) > 1e-4 * fabs(dense))
        printf("They differ: the router's weights of a token do not sum to 1. Where it has "
               "norm_topk_prob, set it to yes, and scale to 1.\n");
}

/* ---- the command ---- */

static lmoe_status check_kinds(const side *dense, side *moe)
{
    char path[4200];
    struct stat st;
    lmoe_ctx *ctx = &moe->rank.ctx;
    if (dense->s.model.ffn.kind != LMOE__FFN_DENSE || moe->s.model.ffn.kind != LMOE__FFN_MOE)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "the first run file must have [ffn] kind = dense, the second kind = moe");
    snprintf(path, sizeof path, "%s/checkpoints", moe->s.run.dir);
    if (stat(path, &st) == 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "there is '%s' already; take another [run] dir, or remove it", path);
    return LMOE_OK;
}

static lmoe_status make_dir(lmoe_ctx *ctx, const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG, "the directory '%s' cannot be made: %s", path,
                      strerror(errno));
}

static lmoe_status upcycle(side *dense, side *moe, double noise)
{
    int64_t step;
    double losses[2];
    LMOE_TRY(check_kinds(dense, moe));
    dense->s.train = moe->s.train; /* the same tokens for both */
    LMOE_TRY(open_side(dense, false));
    LMOE_TRY(lmoe__state_load_weights(&dense->rank.engine, dense->s.run.dir, &step));
    LMOE_TRY(open_side(moe, true));
    LMOE_TRY(take_weights(moe, dense, noise));
    LMOE_TRY(loss_of(dense, &losses[0]));
    LMOE_TRY(loss_of(moe, &losses[1]));
    moe->rank.best_val = NAN;
    LMOE_TRY(make_dir(&moe->rank.ctx, moe->s.run.dir));
    LMOE_TRY(lmoe__state_save(&moe->rank));
    compare_losses(losses[0], losses[1], noise);
    printf("%s holds the mixture as step 0; lmoe train goes on from it\n", moe->s.run.dir);
    return LMOE_OK;
}

static int help(void)
{
    printf("usage: lmoe convert upcycle DENSE_FILE FILE [--noise X] [--set section.key=value]... "
           "[--plugin-path FOLDERS]\n"
           "The newest checkpoint of DENSE_FILE's run becomes the first one of FILE's, whose "
           "feed-forward is a mixture\n"
           "of experts: each is a copy of the dense one, plus noise of X times its deviation (0). "
           "--set is for FILE.\n");
    return 0;
}

int lmoe__cli_convert(lmoe_ctx *ctx, int argc, char **argv)
{
    lmoe__arguments a = {0};
    const char *dense_file = NULL;
    double noise = 0;
    if (argc > 1 && strcmp(argv[1], "--help") == 0) return help();
    if (argc < 2 || strcmp(argv[1], "upcycle") != 0) {
        fprintf(stderr, "lmoe convert: what? There is: upcycle (lmoe convert --help)\n");
        return LMOE__EXIT_CONFIG;
    }
    for (int i = 2; i < argc;) {
        char *end;
        if (strcmp(argv[i], "--help") == 0) return help();
        if (strcmp(argv[i], "--noise") == 0 && i + 1 < argc) {
            noise = strtod(argv[i + 1], &end);
            if (*end || !(noise >= 0) || noise > 100) {
                fprintf(stderr, "lmoe convert: --noise is a number from 0 to 100\n");
                return LMOE__EXIT_CONFIG;
            }
            i += 2;
            continue;
        }
        if (!dense_file && argv[i][0] != '-') {
            dense_file = argv[i++];
            continue;
        }
        int used = lmoe__arguments_take(ctx, &a, argc, argv, i);
        if (used < 0) return lmoe__cli_report(ctx);
        if (used == 0) return lmoe__arguments_unknown("convert", argv[i], flags);
        i += used;
    }
    if (!dense_file || !a.file) return lmoe__arguments_no_file("convert");
    side *dense = calloc(1, sizeof *dense), *moe = calloc(1, sizeof *moe);
    lmoe_status status = pass_up(ctx, dense, read_side(dense, dense_file, &a, false));
    if (status == LMOE_OK) status = pass_up(ctx, moe, read_side(moe, a.file, &a, true));
    if (status == LMOE_OK) {
        status = upcycle(dense, moe, noise);
        status = pass_up(ctx, moe->rank.ctx.status != LMOE_OK ? moe : dense, status);
    }
    close_side(dense);
    close_side(moe);
    free(dense);
    free(moe);
    return status == LMOE_OK ? 0 : lmoe__cli_report(ctx);
}
