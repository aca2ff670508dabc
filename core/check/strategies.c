/* SPDX-License-Identifier: Apache-2.0
 * core/check/strategies.c: whether a parallelism strategy changes nothing but where the work is
 * done: short trainings in float64 on ranks that are threads of comm/loop, against one rank.
 *
 *   losses of each step within 1e-11; each weight after the last step within 1e-9
 *
 * A gradient that is wrong, left out, or counted twice shows in the weights after one step.
 */
#include "core/check/check.h"
#include "core/ckpt/ckpt.h"
#include "core/train/train.h"

#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 3 };
static const double loss_bar = 1e-11, weight_bar = 1e-9;

/* Sizes of a model and its batch. */
typedef struct sizes {
    int embed, heads, hidden, experts, layers, batch, accumulate, seq;
} sizes;

static const sizes even = {16, 4, 12, 4, 4, 8, 2, 16}, odd = {18, 3, 7, 3, 3, 3, 1, 9};

typedef enum model_kind { DENSE, MOE, HYBRID } model_kind;
static const char *const model_words[] = {"dense", "mixture of experts", "hybrid"};

/* ---- the mesh ---- */

/* The axis that suits the strategy; its name matters to nobody but people. */
static const char *axis_of(const lmoe__exam *x)
{
    const lmoe_strategy *s = (const lmoe_strategy *)(const void *)x->class;
    if (s->stages) return "pp";
    return s->base.flags & LMOE_STRATEGY_EXPERTS ? "ep" : "sp";
}

/* Lines of [parallel]; before, after: other axes, "" for none. ranks 1: no mesh. */
static const char *mesh_of(lmoe__exam *x, const char *before, int ranks, const char *after)
{
    const char *axis = axis_of(x);
    if (ranks == 1) return "";
    return lmoe__arena_printf(x->arena,
                              "[parallel]\ncomm = comm/loop\nmesh = %s %s:%d %s\n%s = %s\n", before,
                              axis, ranks, after, axis, x->class->name);
}

/* ---- a run and what it leaves ---- */

typedef struct tensor {
    char *name;
    double *values;
    int64_t count;
} tensor;

typedef struct outcome {
    double loss[3 * STEPS];
    tensor *tensors;
    int n_tensors;
} outcome;

typedef struct place {
    char folder[64];
} place;

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *f)
{
    return remove(path);
}

static void leave(place *p)
{
    nftw(p->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A folder with a text in it. */
static bool arrive(lmoe__exam *x, place *p)
{
    snprintf(p->folder, sizeof p->folder, "/tmp/lmoe-check-XXXXXX");
    FILE *f =
        mkdtemp(p->folder) ? fopen(lmoe__arena_printf(x->arena, "%s/text", p->folder), "w") : NULL;
    for (int i = 0; f && i < 3000; i++)
        fprintf(f, "%d ", (int)lmoe__below(x->seed, 71, (uint64_t)i, 60));
    if (f && fclose(f) == 0) return true;
    lmoe__check_fail(x, "no folder can be made in /tmp");
    return false;
}

/* Values that a line of metrics.jsonl holds under a key. */
static void read_losses(lmoe__exam *x, const place *p, outcome *o)
{
    char line[8192];
    FILE *f = fopen(lmoe__arena_printf(x->arena, "%s/run/metrics.jsonl", p->folder), "r");
    while (f && fgets(line, sizeof line, f)) {
        int step = 0;
        const char *loss = strstr(line, "\"train_loss\":");
        if (sscanf(line, "{\"step\":%d", &step) != 1 || !loss) continue;
        if (step >= 1 && step <= 3 * STEPS)
            o->loss[step - 1] = strtod(loss + strlen("\"train_loss\":"), NULL);
    }
    if (f) fclose(f);
}

/* Weights of the newest checkpoint. */
static void read_weights(lmoe__exam *x, const place *p, int step, outcome *o)
{
    glob_t files;
    int cap = 0;
    const char *pattern =
        lmoe__arena_printf(x->arena, "%s/run/checkpoints/step-*%d/*.safetensors", p->folder, step);
    if (glob(pattern, 0, NULL, &files) != 0) return;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        lmoe__st st;
        if (lmoe__st_open(x->ctx, files.gl_pathv[i], &st) != LMOE_OK) continue;
        for (int k = 0; k < st.count; k++) {
            const lmoe__st_tensor *t = &st.tensors[k];
            if (strchr(t->name, ':')) continue; /* of the optimiser */
            int64_t n = (int64_t)(t->bytes / lmoe_dtype_bytes(t->dtype));
            tensor w = {lmoe__arena_strdup(x->arena, t->name), LMOE_NEW_N(x->arena, double, n + 1),
                        n};
            void *copy = lmoe__arena_alloc(x->arena, t->bytes + 1);
            memcpy(copy, t->data, t->bytes); /* not aligned in the file */
            const lmoe_buf b = {.data = copy, .dtype = t->dtype};
            for (int64_t e = 0; e < n; e++) w.values[e] = lmoe_get(&b, e);
            LMOE_PUSH(o->tensors, o->n_tensors, cap, w);
        }
        lmoe__st_close(&st);
    }
    globfree(&files);
}

static const char *text_of(lmoe__exam *x, const place *p, model_kind kind, const sizes *z,
                           const char *mesh, int steps)
{
    const char *layers = "pattern = L\n";
    const char *ffn = lmoe__arena_printf(
        x->arena, "hidden = %d\nexperts = %d\ntop_k = 2\n[router]\naux_loss = 0.02\n", z->hidden,
        z->experts);
    const char *attention = "";
    if (kind == DENSE) ffn = lmoe__arena_printf(x->arena, "kind = dense\nhidden = %d\n", z->hidden);
    if (kind == HYBRID) {
        layers = "pattern = LN\n";
        attention = lmoe__arena_printf(x->arena, "[layer N]\nclass = lsm/attention\nheads = %d\n",
                                       z->heads);
    }
    return lmoe__arena_printf(
        x->arena,
        "[run]\ndir = %s/run\n[model]\nembed = %d\nlayers = %d\ninit_std = 0.2\n%s"
        "[layer L]\nclass = lsm/gla\nheads = %d\nlow_rank = 3\n%s[ffn]\n%s"
        "[data]\ntrain = %s/text\n[train]\nbatch = %d\naccumulate = %d\nseq = %d\nsteps = %d\n"
        "lr = 1e-3\neps = 1e-6\nwarmup = 0\nschedule = constant\ndtype = f64\n%s",
        p->folder, z->embed, z->layers, layers, z->heads, attention, ffn, p->folder, z->batch,
        z->accumulate, z->seq, steps, mesh);
}

/* Reads a run file; the plugin under check is known to it. Afterwards: drop. */
static lmoe_status read_setup(lmoe__exam *x, const char *text, int needs, lmoe__setup *s)
{
    *s = (lmoe__setup){.registry = x->registry};
    s->conf = lmoe__conf_read_text(x->ctx, "check.ini", text, strlen(text));
    return s->conf ? lmoe__setup_read(x->ctx, s, NULL, needs) : LMOE_E_CONFIG;
}

static void drop(lmoe__setup *s)
{
    s->registry = NULL; /* the exam's */
    lmoe__setup_free(s);
}

/* lmoe__train, without the lines that it prints for people. */
static lmoe_status train_silently(lmoe__exam *x, const lmoe__setup *s)
{
    fflush(stdout);
    int out = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY);
    if (out < 0 || null < 0) return lmoe_error(x->ctx, LMOE_E_IO, "/dev/null cannot be opened");
    dup2(null, STDOUT_FILENO);
    close(null);
    int code = lmoe__train(x->ctx, s);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    close(out);
    if (code == 0) return LMOE_OK;
    return x->ctx->status != LMOE_OK ? x->ctx->status : LMOE_E_INTERNAL;
}

/* Goes on in the folder from what is there. */
static lmoe_status train(lmoe__exam *x, const place *p, model_kind kind, const sizes *z,
                         const char *mesh, int steps, outcome *o)
{
    lmoe__setup s;
    const char *text = text_of(x, p, kind, z, mesh, steps);
    int level = x->ctx->log_level;
    lmoe__ctx_clear(x->ctx);
    x->ctx->log_level = LMOE_LOG_ERROR - 1; /* the check tells what happens */
    lmoe_status status = read_setup(x, text, LMOE__SETUP_DATA, &s);
    if (status == LMOE_OK) status = train_silently(x, &s);
    drop(&s);
    x->ctx->log_level = level;
    *o = (outcome){0};
    if (status != LMOE_OK) return status;
    read_losses(x, p, o);
    read_weights(x, p, steps, o);
    return LMOE_OK;
}

/* From nothing, in a folder of its own. */
static lmoe_status train_anew(lmoe__exam *x, model_kind kind, const sizes *z, const char *mesh,
                              int steps, outcome *o)
{
    place p;
    if (!arrive(x, &p)) return LMOE_E_IO;
    lmoe_status status = train(x, &p, kind, z, mesh, steps, o);
    leave(&p);
    return status;
}

static void forget(outcome *o)
{
    free(o->tensors);
    *o = (outcome){0};
}

/* ---- comparing ---- */

static double apart(const tensor *a, const tensor *b)
{
    double difference = 0, norm = 0;
    if (a->count != b->count || strcmp(a->name, b->name) != 0) return INFINITY;
    for (int64_t i = 0; i < a->count; i++) {
        difference += (a->values[i] - b->values[i]) * (a->values[i] - b->values[i]);
        norm += a->values[i] * a->values[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

static bool same(lmoe__exam *x, const outcome *one, const outcome *o, int first, int steps,
                 double *worst)
{
    for (int i = first; i < steps; i++) {
        double e = fabs(one->loss[i] - o->loss[i]) / fabs(one->loss[i]);
        if (e <= loss_bar) continue;
        lmoe__check_fail(x, "the loss of step %d is %.15g, and on one rank %.15g", i + 1,
                         o->loss[i], one->loss[i]);
        return false;
    }
    if (one->n_tensors == 0 || one->n_tensors != o->n_tensors) {
        lmoe__check_fail(x, "the checkpoint has %d weights, and that of one rank %d", o->n_tensors,
                         one->n_tensors);
        return false;
    }
    for (int i = 0; i < one->n_tensors; i++) {
        double e = apart(&one->tensors[i], &o->tensors[i]);
        *worst = fmax(*worst, e);
        if (e <= weight_bar) continue;
        lmoe__check_fail(x, "after %d steps %s is off by %.2g of its size; allowed is %.0e", steps,
                         one->tensors[i].name, e, weight_bar);
        return false;
    }
    return true;
}

/* Whether a run could not be made, and says why as it should. */
static bool refused(lmoe__exam *x, lmoe_status status, const char **why)
{
    bool no = status == LMOE_E_CONFIG || status == LMOE_E_UNSUPPORTED;
    *why = NULL;
    if (!no || strlen(x->ctx->message) < 10) return false;
    *why = lmoe__arena_strdup(x->arena, x->ctx->message);
    lmoe__ctx_clear(x->ctx);
    return true;
}

/* One run on a mesh against that on one rank. may_refuse: a sentence is as good. */
static bool compare(lmoe__exam *x, model_kind kind, const sizes *z, const char *mesh,
                    const outcome *one, bool may_refuse, double *worst)
{
    outcome o;
    const char *why;
    lmoe_status status = train_anew(x, kind, z, mesh, STEPS, &o);
    if (refused(x, status, &why)) {
        if (!may_refuse) lmoe__check_fail(x, "it refuses sizes that divide: %s", why);
        return may_refuse;
    }
    bool ok = lmoe__check_ok(x, status, "training") && same(x, one, &o, 0, STEPS, worst);
    forget(&o);
    return ok;
}

/* A run on one rank, of which every check of this group is a copy. */
static bool alone(lmoe__exam *x, model_kind kind, const sizes *z, int steps, outcome *one)
{
    lmoe__check_case(x, "%s, one rank", model_words[kind]);
    return lmoe__check_ok(x, train_anew(x, kind, z, "", steps, one), "training on one rank");
}

/* ---- checks ---- */

static void equal(lmoe__exam *x)
{
    double worst = 0;
    for (int kind = DENSE; kind <= HYBRID; kind++) {
        outcome one;
        bool ok = alone(x, (model_kind)kind, &even, STEPS, &one);
        for (int ranks = 2; ok && ranks <= (x->level == LMOE__QUICK ? 2 : 4); ranks += 2) {
            lmoe__check_case(x, "%s, %s:%d", model_words[kind], axis_of(x), ranks);
            ok = compare(x, (model_kind)kind, &even, mesh_of(x, "", ranks, ""), &one, ranks > 2,
                         &worst);
        }
        forget(&one);
        if (!ok) return;
    }
    lmoe__check_note(x, "weights off by %.1e at most", worst);
}

static void uneven(lmoe__exam *x)
{
    double worst = 0;
    for (int kind = DENSE; kind <= MOE; kind++) {
        outcome one;
        bool ok = alone(x, (model_kind)kind, &odd, STEPS, &one);
        lmoe__check_case(x, "%s, odd sizes, %s:2", model_words[kind], axis_of(x));
        ok = ok && compare(x, (model_kind)kind, &odd, mesh_of(x, "", 2, ""), &one, true, &worst);
        forget(&one);
        if (!ok) return;
    }
}

static void nests(lmoe__exam *x)
{
    double worst = 0;
    outcome one;
    bool ok = alone(x, HYBRID, &even, STEPS, &one);
    for (int inner = 0; ok && inner < 2; inner++) {
        lmoe__check_case(x, "hybrid, %s", inner ? "within dp:2" : "around dp:2");
        ok = compare(x, HYBRID, &even, mesh_of(x, inner ? "dp:2" : "", 2, inner ? "" : "dp:2"),
                     &one, false, &worst);
    }
    forget(&one);
}

/* A run that changes its mesh between checkpoints is the run that never did. */
static void resumes(lmoe__exam *x)
{
    const struct {
        const char *what, *first, *second;
    } ways[] = {{"saved on its mesh, goes on on one rank", mesh_of(x, "", 2, ""), ""},
                {"saved on one rank, goes on on its mesh", "", mesh_of(x, "", 2, "")},
                {"saved within dp:2, goes on on its mesh", mesh_of(x, "dp:2", 2, ""),
                 mesh_of(x, "", 2, "")}};
    double worst = 0;
    outcome one;
    bool ok = alone(x, MOE, &even, 2 * STEPS, &one);
    for (int i = 0; ok && i < 3; i++) {
        place p;
        outcome o = {0};
        lmoe__check_case(x, "%s", ways[i].what);
        if (!arrive(x, &p)) break;
        ok = lmoe__check_ok(x, train(x, &p, MOE, &even, ways[i].first, STEPS, &o), "training");
        forget(&o);
        ok = ok &&
             lmoe__check_ok(x, train(x, &p, MOE, &even, ways[i].second, 2 * STEPS, &o),
                            "going on") &&
             same(x, &one, &o, 0, 2 * STEPS, &worst);
        forget(&o);
        leave(&p);
    }
    forget(&one);
}

/* ---- the order of exchanges ---- */

typedef struct exchange_list {
    int n, cap;
    struct listed {
        int kind, peer;
        int64_t count;
        lmoe_dtype dtype;
        const char *source;
    } * at;
    int64_t bytes;
} exchange_list;

/* What this rank would exchange in a step, from its plan; nothing is run. */
static lmoe_status list_exchanges(lmoe__exam *x, const lmoe__setup *s, int rank, exchange_list *l)
{
    lmoe__engine e;
    lmoe__program *p;
    lmoe__mesh mesh;
    const lmoe__model_shape shape = lmoe__setup_shape(s);
    lmoe__setup_place(s, rank, &mesh);
    LMOE_TRY(lmoe__engine_init(&e, x->ctx, &s->model, &mesh, s->device, NULL, LMOE_F64));
    lmoe_status status = lmoe__engine_program(&e, LMOE__TRAIN_FIRST, &shape, &p);
    for (int i = 0; status == LMOE_OK && i < p->plan->n_steps; i++) {
        const lmoe__step *step = &p->plan->steps[i];
        if (!step->exchange) continue;
        const lmoe_collective_attrs *a = step->node->attrs;
        const lmoe_buf *b = step->exchange == LMOE_RECV ? &step->args.out[0] : &step->args.in[0];
        struct listed one = {
            step->exchange, (int)a->peer, lmoe_buf_count(b), b->dtype,
            lmoe__arena_printf(x->arena, "%s:%d", step->node->file, step->node->line)};
        LMOE_PUSH(l->at, l->n, l->cap, one);
        l->bytes += lmoe__exchange_bytes(step);
    }
    lmoe__engine_free(&e);
    return status;
}

/* i-th exchange of the list that is (not) a message with this rank; NULL past the last. */
static const struct listed *pick(const exchange_list *l, int kind, int peer, int i)
{
    for (int k = 0; k < l->n; k++) {
        bool message = l->at[k].kind == LMOE_SEND || l->at[k].kind == LMOE_RECV;
        bool meant = kind ? l->at[k].kind == kind && l->at[k].peer == peer : !message;
        if (meant && i-- == 0) return &l->at[k];
    }
    return NULL;
}

static bool agree(lmoe__exam *x, const exchange_list *a, const exchange_list *b, int ra, int rb,
                  int kind_a, int kind_b)
{
    for (int i = 0;; i++) {
        const struct listed *p = pick(a, kind_a, rb, i), *q = pick(b, kind_b, ra, i);
        if (!p && !q) return true;
        if (p && q && p->count == q->count && p->dtype == q->dtype &&
            (kind_a || p->kind == q->kind))
            continue;
        lmoe__check_fail(
            x, "%s number %d: rank %d has one of %lld elements (%s), rank %d of %lld (%s)",
            kind_a ? "message" : "exchange", i + 1, ra, p ? (long long)p->count : 0LL,
            p ? p->source : "none", rb, q ? (long long)q->count : 0LL, q ? q->source : "none");
        return false;
    }
}

static void order(lmoe__exam *x)
{
    const lmoe_strategy *strategy = (const lmoe_strategy *)(const void *)x->class;
    const place nowhere = {"."};
    enum { RANKS = 4 };
    int64_t bytes = 0;
    if (strategy->stages) {
        lmoe__check_skip(x, "it cuts a model into stages; their messages are the core's");
        return;
    }
    for (int kind = DENSE; kind <= HYBRID && !lmoe__check_failed(x); kind++) {
        lmoe__setup s;
        exchange_list list[RANKS] = {{0}};
        lmoe__check_case(x, "%s, %s:%d", model_words[kind], axis_of(x), RANKS);
        const char *text =
            text_of(x, &nowhere, (model_kind)kind, &even, mesh_of(x, "", RANKS, ""), 1);
        bool ok = lmoe__check_ok(x, read_setup(x, text, 0, &s), "reading the run file");
        for (int r = 0; ok && r < RANKS; r++)
            ok = lmoe__check_ok(x, list_exchanges(x, &s, r, &list[r]), "planning");
        for (int r = 0; ok && r < RANKS; r++) {
            bytes += list[r].bytes;
            ok = agree(x, &list[0], &list[r], 0, r, 0, 0);
            for (int q = 0; ok && q < RANKS; q++)
                ok = q == r || agree(x, &list[r], &list[q], r, q, LMOE_SEND, LMOE_RECV);
        }
        for (int r = 0; r < RANKS; r++) free(list[r].at);
        drop(&s);
    }
    lmoe__check_note(x, "%.1f KiB a rank and micro-batch", (double)bytes / 3 / RANKS / 1024);
}

#define STRATEGY(name, doc, seconds, fn)                                         \
    {                                                                            \
        "strategies", name, doc, LMOE_KIND_STRATEGY, LMOE__QUICK, seconds, fn, 0 \
    }

const lmoe__check lmoe__checks_strategies[] = {
    STRATEGY("order", "All ranks start the same exchanges in the same order; messages meet.", 60,
             order),
    STRATEGY("equal", "Losses and weights of tiny models are those of one rank.", 120, equal),
    STRATEGY("uneven", "Sizes that do not divide are refused with a sentence, or right.", 120,
             uneven),
    STRATEGY("nests", "It works within data parallelism, and around it.", 120, nests),
    STRATEGY("resumes", "A checkpoint goes on at another layout as if nothing had changed.", 120,
             resumes),
    {NULL, NULL, NULL, NULL, 0, 0, NULL, 0}};
