/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_pipeline.c: a pipeline trains as one rank does with the same micro-batches, in
 * float64: losses, gradient norms and evaluations of 20 steps within 1e-11, parameters within 1e-9.
 * 1F1B and interleaved, even and uneven stages, many and few micro-batches, within other mesh axes;
 * weights and values that several stages share; what rank 0 reports of other stages.
 */
#include "core/engine/pipeline.h"
#include "tests/run/model.h"

#include <lmoe/nn.h>

#include <pthread.h>

enum { ROWS = 2, SEQ = 12, LAYERS = 8, STEPS = 20, VOCAB = 24, MAX_MICRO = 8, EXPERTS = 4 };

enum {
    UNTIED = 1,
    BALANCED = 2 /* by a state of the router that follows each step */
};

typedef struct layout {
    const char *mixer, *mesh, *pp; /* pp: lines of its section */
    int micro_batches;
    int how;
} layout;

/* Mixers L and N alternate. */
#define GLA                                                                                      \
    "[layer L]\nclass = lsm/gla\nheads = 2\nlow_rank = 3\nshort_conv = yes\n[layer N]\nclass = " \
    "lsm/attention\nheads = 2\n"
#define BLA "[layer L]\nclass = lsm/bla\nheads = 2\n[layer N]\nclass = lsm/retention\nheads = 2\n"
#define RWKV                                                                                      \
    "[layer L]\nclass = lsm/rwkv7\nhead_dim = 4\n[layer N]\nclass = lsm/gated_deltanet\nheads = " \
    "2\nhead_dim = 4\n"
#define SHARED "shared" BLA /* the test's own layer, which shares weights and values */

static const layout layouts[] = {
    {GLA, "pp:2", "", 4, 0},
    {GLA, "pp:2", "", 4, UNTIED},
    {GLA, "pp:4", "", 3, BALANCED},
    {BLA, "dp:2 pp:2", "interleave = 2\n", 3, BALANCED},
    {BLA, "pp:4", "", 6, 0},
    {GLA, "pp:8", "", 1, 0},
    {BLA, "pp:2", "interleave = 2\n", 4, 0},
    {GLA, "pp:2", "interleave = 2\n", 3, UNTIED},
    {GLA, "pp:4", "interleave = 2\n", 2, 0},
    {BLA, "pp:2", "interleave = 4\nlayers = 1 1 1 1 1 1 1 1\n", 5, 0},
    {GLA, "pp:3", "layers = 1 4 3\n", 4, 0},
    {BLA, "pp:2", "interleave = 2\nlayers = 3 1 2 2\n", 4, 0},
    {GLA, "dp:2 pp:2", "", 4, 0},
    {GLA, "pp:2 sp:2", "", 4, 0},
    {BLA, "sp:2 pp:2 dp:2", "interleave = 2\n", 4, 0},
    {GLA, "pp:4 sp:2", "", 3, UNTIED},
    {RWKV, "pp:4", "", 4, 0}, /* values of the first layer go to all others */
    {RWKV, "pp:2", "interleave = 2\n", 3, 0},
    {GLA, "pp:2 sp:2\nsp = parallel/ring", "", 3, 0},
    {GLA, "sp:2 pp:2\nsp = parallel/scan", "interleave = 2\n", 3, 0},
    {GLA, "pp:2 sp:2\nsp = parallel/ulysses", "", 3, 0},
    {GLA, "pp:2 tp:2", "", 3, 0},
    {BLA, "tp:2 pp:2 dp:2", "interleave = 2\n", 4, UNTIED},
    {GLA, "fsdp:2 pp:2", "", 3, 0},
    {BLA, "dp:2 pp:4\ndp = parallel/zero1", "", 3, 0},
    {GLA, "pp:2 ep:2", "", 3, BALANCED},
    {SHARED, "pp:4", "", 4, 0},
    {SHARED, "pp:2", "interleave = 2\n", 4, UNTIED},
    {SHARED, "dp:2 pp:2", "interleave = 3\n", 2, 0},
};

/* ---- a layer with a weight of the whole model, and a value of its first instance ---- */

typedef struct shared_params {
    lmoe_tensor in, out;
} shared_params;

static lmoe_status shared_declare(lmoe_trace *t, const void *options, void *params)
{
    shared_params *w = params;
    lmoe_param_def in = {.size = sizeof in, .name = "in.weight", .axes = "embed inner"};
    in.dim[0] = lmoe_size(t, "embed");
    in.dim[1] = 6;
    in.flags = LMOE_PARAM_MODEL;
    w->in = lmoe_param(t, &in);
    w->out = lmoe_matrix(t, "out.weight", "inner embed", 6, lmoe_size(t, "embed"), 0);
    return LMOE_OK;
}

static lmoe_tensor shared_forward(lmoe_trace *t, const void *options, const void *params,
                                  lmoe_tensor x)
{
    const shared_params *w = params;
    lmoe_tensor h = lmoe_einsum(t, "b s e, e i -> b s i", x, w->in);
    lmoe_tensor first = lmoe_recall(t, "first");
    if (first.id)
        h = lmoe_mul(t, h, lmoe_sigmoid(t, first));
    else
        lmoe_publish(t, "first", h);
    return lmoe_einsum(t, "b s i, i e -> b s e", h, w->out);
}

static const lmoe_layer shared_layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "test/shared", "shares", NULL, 0, 0},
    .params_size = sizeof(shared_params),
    .params = shared_declare,
    .forward = shared_forward,
};

/* ---- a run ---- */

static void setup_of(lmoe_ctx *ctx, lmoe__setup *s, const layout *l, bool alone)
{
    bool shared = strncmp(l->mixer, "shared", 6) == 0;
    char pp[128] = "";
    if (!alone && *l->pp) snprintf(pp, sizeof pp, "[pp]\n%s", l->pp);
    model_setup(ctx, s,
                "[model]\nembed = 8\nvocab_size = %d\nlayers = %d\ninit_std = 0.08\npattern = LN\n"
                "tie_embeddings = %s\n%s[ffn]\nhidden = 6\nexperts = %d\ntop_k = "
                "2\n%s[train]\nbatch = %d\naccumulate = %d\nseq = %d\n"
                "dtype = f64\n[parallel]\nmesh = %s\ncomm = comm/loop\n%s",
                VOCAB, LAYERS, l->how & UNTIED ? "no" : "yes", l->mixer + (shared ? 6 : 0), EXPERTS,
                l->how & BALANCED ? "router = moe/deepseek_v3\n[router]\nbias_speed = 0.01\n"
                                  : "[router]\naux_loss = 0.02\nz_loss = 0.01\n",
                ROWS * l->micro_batches, l->micro_batches, SEQ, alone ? "" : l->mesh, pp);
    if (shared) s->model.mixers[0].layer = &shared_layer;
}

typedef struct inputs {
    int micro_batches;
    int32_t tokens[MAX_MICRO][ROWS * SEQ], labels[MAX_MICRO][ROWS * SEQ];
    int32_t positions[ROWS * SEQ], document[ROWS * SEQ];
    uint8_t reset[ROWS * SEQ];
} inputs;

/* Documents of 5, 1 and 6 tokens in every row. */
static void make_inputs(inputs *in, int micro_batches, int step)
{
    static const int32_t starts[] = {0, 5, 6, SEQ};
    in->micro_batches = micro_batches;
    for (int m = 0; m < micro_batches; m++)
        random_tokens(in->tokens[m], ROWS * SEQ, VOCAB, (uint64_t)(1 + step * MAX_MICRO + m));
    for (int i = 0; i < ROWS * SEQ; i++) {
        int at = i % SEQ, d = at >= 6 ? 2 : at >= 5;
        in->positions[i] = at;
        in->document[i] = starts[d];
        in->reset[i] = at == starts[d];
        for (int m = 0; m < micro_batches; m++)
            in->labels[m][i] = at + 1 == starts[d + 1] ? -1 : in->tokens[m][i + 1];
    }
}

typedef struct rank {
    lmoe_ctx ctx;
    const lmoe__setup *setup;
    void *group;
    int number;
    lmoe__engine engine;
    inputs in;
    double loss[STEPS], norm[STEPS], valid;
    double load[LAYERS][EXPERTS], aux[LAYERS];
    double *weights[256]; /* NULL: other ranks have it */
    pthread_t thread;
} rank;

static lmoe_status set_inputs(void *user, lmoe__program *p, int micro_batch)
{
    rank *r = user;
    lmoe__engine *e = &r->engine;
    const inputs *in = &r->in;
    LMOE_TRY(lmoe__program_set(e, p, "in:tokens", in->tokens[micro_batch]));
    LMOE_TRY(lmoe__program_set(e, p, "in:labels", in->labels[micro_batch]));
    LMOE_TRY(lmoe__program_set(e, p, "in:positions", in->positions));
    LMOE_TRY(lmoe__program_set(e, p, "in:document", in->document));
    LMOE_TRY(lmoe__program_set(e, p, "in:reset", in->reset));
    LMOE_TRY(lmoe__program_set_scalar(e, p, "in:factor", 1.0 / (in->micro_batches * ROWS * 9)));
    return lmoe__program_set_scalar(e, p, "in:aux_scale", 1.0 / in->micro_batches);
}

/* Micro-batches of the one rank: the first writes gradients, the others add to them. */
static double run_alone(rank *r, lmoe__program *first, lmoe__program *next, int n)
{
    double sum = 0, loss = 0;
    for (int i = 0; i < n; i++) {
        lmoe__program *p = i == 0 ? first : next;
        must(&r->ctx, set_inputs(r, p, i));
        must(&r->ctx, lmoe__program_run(&r->engine, p));
        ck_assert_int_eq(lmoe__engine_read(&r->engine, "out:loss", &loss, 1), 1);
        sum += loss;
    }
    return sum;
}

static void read_report(rank *r)
{
    lmoe__engine *e = &r->engine;
    for (int i = 0; i < LAYERS; i++) {
        char name[64];
        snprintf(name, sizeof name, "stat:moe/load/%d", i);
        ck_assert_int_eq(lmoe__engine_read(e, name, r->load[i], EXPERTS), EXPERTS);
        snprintf(name, sizeof name, "aux:aux_loss/%d", i);
        ck_assert_int_eq(lmoe__engine_read(e, name, &r->aux[i], 1), 1);
    }
}

typedef struct spreading {
    const double *part;
    double *whole;
} spreading;

static lmoe_status spread(void *user, int64_t in_box, int64_t in_whole, int64_t count)
{
    spreading *x = user;
    memcpy(x->whole + in_whole, x->part + in_box, sizeof(double) * (size_t)count);
    return LMOE_OK;
}

/* This rank's part of each weight that its stages have, at its place in the whole; NAN elsewhere. */
static void read_weights(rank *r)
{
    lmoe__engine *e = &r->engine;
    int at[LMOE__MAX_MESH];
    lmoe__mesh_place(&e->mesh, at);
    for (int i = 0; i < e->n_weights; i++) {
        const lmoe__held *h = lmoe__engine_held(e, e->weights[i].name);
        bool here = lmoe__engine_holds(e, i, lmoe__engine_stage_rank(e));
        int64_t n = lmoe_desc_count(&h->desc);
        lmoe__box box;
        lmoe__held_box(h, &e->mesh, at, &box);
        double *part = calloc((size_t)n, sizeof *part), *whole = calloc((size_t)n, sizeof *whole);
        int64_t found = lmoe__engine_read(e, e->weights[i].name, part, n);
        ck_assert_int_eq(found, here ? box.count : -1);
        spreading x = {part, whole};
        for (int64_t k = 0; k < n; k++) whole[k] = NAN;
        if (here) must(&r->ctx, lmoe__box_runs(&box, &h->desc, spread, &x));
        r->weights[i] = here ? whole : NULL;
        if (!here) free(whole);
        free(part);
    }
}

static void train(rank *r, const lmoe__mesh *mesh)
{
    const lmoe__setup *s = r->setup;
    lmoe__engine *e = &r->engine;
    lmoe_ctx *ctx = &r->ctx;
    lmoe__program *first = NULL, *next = NULL, *eval = NULL, *update, *balance;
    lmoe__pipeline *pipe = NULL, *pipe_eval = NULL;
    int n = (int)s->train.accumulate, few = n > 1 ? n - 1 : 1;
    const lmoe__model_shape shape = {.batch = ROWS, .seq = SEQ, .resets = true, .loss = true};
    const lmoe__optimiser o = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 0.5};
    void *dev;
    must(ctx, s->device->open(ctx, s->device_options, &dev));
    must(ctx, lmoe__engine_init(e, ctx, &s->model, mesh, s->device, dev, LMOE_F64));
    if (e->pipe_axis >= 0) {
        must(ctx, lmoe__pipeline_new(e, &shape, n, true, &pipe));
        must(ctx, lmoe__pipeline_new(e, &shape, n, false, &pipe_eval));
    } else {
        must(ctx, lmoe__engine_program(e, LMOE__TRAIN_FIRST, &shape, &first));
        must(ctx, lmoe__engine_program(e, LMOE__TRAIN_NEXT, &shape, &next));
        must(ctx, lmoe__engine_program(e, LMOE__EVAL, &shape, &eval));
    }
    must(ctx, lmoe__engine_update_program(e, &o, &update));
    must(ctx, lmoe__engine_balance_program(e, &balance));
    must(ctx, lmoe__engine_bind(e));
    must(ctx, lmoe__engine_init_weights(e, 5));
    for (int step = 0; step < STEPS; step++) {
        make_inputs(&r->in, n, step);
        if (pipe)
            must(ctx, lmoe__pipeline_run(pipe, n, set_inputs, r, &r->loss[step]));
        else
            r->loss[step] = run_alone(r, first, next, n);
        must(ctx, lmoe__program_set_scalar(e, update, "in:lr", 3e-4));
        must(ctx, lmoe__program_set_scalar(e, update, "in:step", step + 1));
        must(ctx, lmoe__program_run(e, update));
        if (balance) must(ctx, lmoe__program_run(e, balance));
        ck_assert_int_eq(lmoe__engine_read(e, "out:grad_norm", &r->norm[step], 1), 1);
    }
    if (lmoe__engine_stage_rank(e) == 0) read_report(r);
    if (pipe)
        must(ctx, lmoe__pipeline_run(pipe_eval, few, set_inputs, r, &r->valid));
    else
        r->valid = run_alone(r, eval, eval, few);
    read_weights(r);
    lmoe__pipeline_free(pipe);
    lmoe__pipeline_free(pipe_eval);
    lmoe__engine_free(e);
    s->device->close(dev);
}

static void *rank_main(void *p)
{
    rank *r = p;
    const lmoe__setup *s = r->setup;
    lmoe__mesh mesh;
    void *world;
    lmoe__ctx_init(&r->ctx);
    lmoe__setup_place(s, r->number, &mesh);
    const lmoe_comm_env env = {
        .size = sizeof env, .rank = r->number, .ranks = s->world, .group = r->group};
    must(&r->ctx, s->comm->open(s->comm_options, &env, &world));
    for (int i = 0; i < mesh.count; i++) {
        int color = 0, stride = 1;
        for (int k = mesh.count - 1; k >= 0; k--) { /* the rank's number without axis i */
            if (k == i) continue;
            color += mesh.axis[k].rank * stride;
            stride *= mesh.axis[k].ranks;
        }
        mesh.comm[i].comm = s->comm;
        must(&r->ctx, s->comm->split(world, color, mesh.axis[i].rank, &mesh.comm[i].handle));
    }
    train(r, &mesh);
    for (int i = 0; i < mesh.count; i++) s->comm->close(mesh.comm[i].handle);
    s->comm->close(world);
    return NULL;
}

/* ---- comparisons ---- */

static void near(const char *what, int step, double have, double want, double limit)
{
    ck_assert_msg(fabs(have - want) <= limit, "%s of step %d is %.15g instead of %.15g", what, step,
                  have, want);
}

/* Difference, where there is something to compare, as a part of the tensor's norm. */
static double far_off(const double *have, const double *want, int64_t n)
{
    double d = 0, w = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isnan(have[i])) d += (have[i] - want[i]) * (have[i] - want[i]);
        w += want[i] * want[i];
    }
    return d > 0 ? sqrt(d / w) : d;
}

static void compare(const rank *r, const rank *one, const lmoe__weight *weights, int n_weights,
                    int *found)
{
    for (int i = 0; i < STEPS; i++) {
        near("the loss", i, r->loss[i], one->loss[i], 1e-11);
        near("the gradient norm", i, r->norm[i], one->norm[i], 1e-10 * one->norm[i]);
    }
    near("the evaluation", STEPS, r->valid, one->valid, 1e-11);
    for (int i = 0; i < n_weights; i++) {
        if (!r->weights[i]) continue;
        double off = far_off(r->weights[i], one->weights[i], lmoe_desc_count(&weights[i].desc));
        ck_assert_msg(off <= 1e-9, "rank %d: '%s' is off by %g", r->number, weights[i].name, off);
        found[i]++;
    }
}

static void compare_report(const rank *r, const rank *one)
{
    for (int i = 0; i < LAYERS; i++) {
        near("a layer's auxiliary loss", STEPS, r->aux[i], one->aux[i], 1e-11);
        for (int k = 0; k < EXPERTS; k++)
            near("a layer's load", STEPS, r->load[i][k], one->load[i][k], 0);
    }
}

START_TEST(as_one_rank)
{
    const layout *l = &layouts[_i];
    lmoe__setup alone, s;
    lmoe_ctx ctx;
    rank *one = calloc(1, sizeof *one);
    setup_of(&ctx, &alone, l, true);
    lmoe__ctx_init(&one->ctx);
    one->setup = &alone;
    train(one, NULL);

    setup_of(&ctx, &s, l, false);
    void *group;
    rank *r = calloc((size_t)s.world, sizeof *r);
    must(&ctx, s.comm->group_create(s.comm_options, s.world, &group));
    for (int i = 0; i < s.world; i++) {
        r[i].setup = &s;
        r[i].group = group;
        r[i].number = i;
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, rank_main, &r[i]), 0);
    }
    for (int i = 0; i < s.world; i++) pthread_join(r[i].thread, NULL);

    /* the list of weights, once more: engines are gone */
    lmoe_trace t;
    lmoe_tensor total;
    const lmoe__model_shape shape = {.batch = ROWS, .seq = SEQ, .resets = true, .loss = true};
    lmoe__trace_init(&t, &ctx, &alone.model.ops, LMOE_F64);
    must(&ctx, lmoe__model_trace(&t, &alone.model, &shape, &total));
    int found[256] = {0}, stages = 1;
    for (int i = 0; i < s.world; i++) {
        compare(&r[i], one, t.weights, t.n_weights, found);
        lmoe__mesh mesh;
        lmoe__setup_place(&s, i, &mesh);
        for (int k = 0; k < mesh.count; k++) {
            if (strcmp(mesh.axis[k].name, "pp") != 0) continue;
            if (mesh.axis[k].rank == 0) compare_report(&r[i], one);
            stages = mesh.axis[k].ranks;
        }
    }
    for (int i = 0; i < t.n_weights; i++) {
        bool layer = strncmp(t.weights[i].name, "model.layers.", 13) == 0;
        int copies = s.world / stages; /* on the other axes */
        ck_assert_msg(layer ? found[i] == copies : found[i] >= copies, "%d ranks have '%s'",
                      found[i], t.weights[i].name);
        for (int k = 0; k < s.world; k++) free(r[k].weights[i]);
        free(one->weights[i]);
    }
    lmoe__trace_free(&t);
    s.comm->group_destroy(group);
    lmoe__setup_free(&s);
    lmoe__setup_free(&alone);
    free(r);
    free(one);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pipelines");
    TCase *t = tcase_create("as one rank");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, as_one_rank, 0, (int)(sizeof layouts / sizeof *layouts));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
