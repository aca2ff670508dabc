/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_layout.c: any layout gives the loss and the gradients of one rank, in float64:
 * data parallelism, LASP-2 sequence parallelism, both; with documents that lie across the borders
 * between ranks.
 */
#include "tests/run/layers.h"
#include "tests/run/model.h"

#include <pthread.h>

static const char *const meshes[] = {"dp:2", "sp:2", "sp:4", "sp:12", "dp:2 sp:3", "sp:2 dp:2"};
enum {
    N_MESHES = sizeof meshes / sizeof *meshes,
    BATCH = 2,
    SEQ = 24,
    N = BATCH * SEQ,
    MAX_VALUES = 40000
};

typedef struct inputs {
    int32_t tokens[N], labels[N], positions[N], document[N];
    uint8_t reset[N];
} inputs;

/* Documents of 5, 1, 9, 1 and 8 tokens in the first row; 20 and 4 in the second. */
static void make_inputs(inputs *in)
{
    static const int32_t starts[BATCH][6] = {{0, 5, 6, 15, 16, SEQ}, {0, 20, SEQ, SEQ, SEQ, SEQ}};
    random_tokens(in->tokens, N, 40, 21);
    for (int b = 0; b < BATCH; b++) {
        for (int s = 0, d = 0; s < SEQ; s++) {
            int i = b * SEQ + s;
            if (s == starts[b][d + 1]) d++;
            in->positions[i] = s;
            in->document[i] = starts[b][d];
            in->reset[i] = s == starts[b][d];
            in->labels[i] = s + 1 == starts[b][d + 1] ? -1 : in->tokens[i + 1];
        }
    }
}

typedef struct result {
    int n;
    double values[MAX_VALUES]; /* loss, auxiliary losses, statistics, gradients */
} result;

static void read_results(lmoe__engine *e, result *out)
{
    char name[300];
    out->n = 0;
    out->n += (int)lmoe__engine_read(e, "out:loss", out->values, 1);
    for (int layer = 0; layer < 2; layer++) {
        static const char *const more[] = {"stat:moe/load", "stat:moe/kept", "aux:aux_loss",
                                           "aux:device_loss", "aux:z_loss"};
        for (int k = 0; k < 5; k++) {
            snprintf(name, sizeof name, "%s/%d", more[k], layer);
            int64_t n = lmoe__engine_read(e, name, out->values + out->n, 64);
            ck_assert(n > 0 || k > 0); /* not every router has all */
            if (n > 0) out->n += (int)n;
        }
    }
    for (int i = 0; i < e->n_weights; i++) {
        if (e->weights[i].flags & LMOE_PARAM_STATE) continue;
        snprintf(name, sizeof name, "grad:%s", e->weights[i].name);
        out->n += (int)lmoe__engine_read(e, name, out->values + out->n, MAX_VALUES - out->n);
        ck_assert_int_le(out->n, MAX_VALUES);
    }
}

static void run(lmoe_ctx *ctx, const lmoe__setup *s, const lmoe__mesh *mesh, const inputs *in,
                result *out)
{
    lmoe__engine e;
    lmoe__program *p;
    void *dev;
    must(ctx, s->device->open(ctx, s->device_options, &dev));
    must(ctx, lmoe__engine_init(&e, ctx, &s->model, mesh, s->device, dev, LMOE_F64));
    const lmoe__model_shape shape = {.batch = BATCH, .seq = SEQ, .resets = true, .loss = true};
    must(ctx, lmoe__engine_program(&e, LMOE__TRAIN_FIRST, &shape, &p));
    must(ctx, lmoe__engine_bind(&e));
    must(ctx, lmoe__engine_init_weights(&e, 5));
    must(ctx, lmoe__program_set(&e, p, "in:tokens", in->tokens));
    must(ctx, lmoe__program_set(&e, p, "in:labels", in->labels));
    must(ctx, lmoe__program_set(&e, p, "in:positions", in->positions));
    must(ctx, lmoe__program_set(&e, p, "in:document", in->document));
    must(ctx, lmoe__program_set(&e, p, "in:reset", in->reset));
    must(ctx, lmoe__program_set(&e, p, "in:noise", in->tokens));
    must(ctx, lmoe__program_set_scalar(&e, p, "in:factor", 1.0 / 41));
    must(ctx, lmoe__program_set_scalar(&e, p, "in:aux_scale", 1.0));
    must(ctx, lmoe__program_run(&e, p));
    read_results(&e, out);
    lmoe__engine_free(&e);
    s->device->close(dev);
}

typedef struct rank_arg {
    const lmoe__setup *setup;
    const inputs *in;
    void *group;
    int rank;
    result *out;
} rank_arg;

static void *rank_main(void *p)
{
    rank_arg *a = p;
    const lmoe__setup *s = a->setup;
    lmoe_ctx ctx;
    lmoe__mesh mesh;
    void *world;
    lmoe__ctx_init(&ctx);
    lmoe__setup_place(s, a->rank, &mesh);
    const lmoe_comm_env env = {
        .size = sizeof env, .rank = a->rank, .ranks = s->world, .group = a->group};
    must(&ctx, s->comm->open(s->comm_options, &env, &world));
    for (int i = 0; i < mesh.count; i++) {
        int color = 0, stride = 1;
        for (int k = mesh.count - 1; k >= 0; k--) { /* the rank's number without axis i */
            if (k == i) continue;
            color += mesh.axis[k].rank * stride;
            stride *= mesh.axis[k].ranks;
        }
        mesh.comm[i].comm = s->comm;
        must(&ctx, s->comm->split(world, color, mesh.axis[i].rank, &mesh.comm[i].handle));
    }
    run(&ctx, s, &mesh, a->in, a->out);
    for (int i = 0; i < mesh.count; i++) s->comm->close(mesh.comm[i].handle);
    s->comm->close(world);
    return NULL;
}

/* Routers, and experts that drop tokens, on meshes that split the batch, the sequence, both. */
static const char *const routers[] = {
    "top_k = 2\nrouter = moe/qwen2\ncapacity = 1\n[router]\naux_loss = 0.1\naux_scope = sequence",
    "top_k = 2\nrouter = moe/mixtral\ncapacity = 0.7\ndrop = position\n[router]\njitter = 0.1",
    "top_k = 2\nrouter = moe/deepseek_v2\nshared_hidden = 5\n[router]\naux_loss = 0.1\ngroups = 2\n"
    "device_loss = 0.2\ndevices = 2",
    "top_k = 2\nrouter = moe/deepseek_v2\nactivation = relu2\n[router]\naux_loss = 0.1\n"
    "aux_scope = micro_batch\ndevice_loss = 0.2\ndevices = 2",
    "top_k = 2\nrouter = moe/deepseek_v3\n[router]\naux_loss = 0.1\ngroups = 2",
    "top_k = 1\nrouter = moe/switch\ncapacity = 1.1",
    "top_k = 2\nrouter = moe/sinkhorn\n[router]\nz_loss = 0.1",
    "top_k = 2\nrouter = moe/expert_choice",
    "top_k = 2\nrouter = moe/hash",
};
static const char *const router_meshes[] = {"dp:2", "sp:3", "dp:2 sp:2"};
enum { N_ROUTERS = sizeof routers / sizeof *routers, N_ROUTER_MESHES = 3 };

#define ROUTER_TEXT                                                                          \
    "[model]\nembed = 16\nvocab_size = 40\nlayers = 2\ninit_std = 0.3\n[layer L]\n"          \
    "class = lsm/bla\nheads = 2\n[ffn]\nhidden = 12\nexperts = 4\n%s\n[train]\nbatch = %d\n" \
    "seq = %d\ndtype = f64\n[parallel]\nmesh = %s\ncomm = comm/loop\n"

static void setup_of(lmoe_ctx *ctx, lmoe__setup *s, const char *layer, const char *router,
                     const char *mesh)
{
    char format[1024];
    if (router)
        snprintf(format, sizeof format, ROUTER_TEXT, router, BATCH, SEQ, mesh);
    else
        snprintf(format, sizeof format,
                 MODEL_TEXT("%s") "[parallel]\nmesh = %s\ncomm = comm/loop\n", layer, BATCH, SEQ,
                 "f64", mesh);
    model_setup(ctx, s, "%s", format);
}

/* The mesh's results are those of one rank. */
static void compare(const char *layer, const char *router, const char *mesh)
{
    lmoe_ctx ctx;
    lmoe__setup s;
    inputs in;
    void *group;
    result *one = calloc(1, sizeof *one);
    make_inputs(&in);
    setup_of(&ctx, &s, layer, router, "");
    run(&ctx, &s, NULL, &in, one);
    lmoe__setup_free(&s);

    setup_of(&ctx, &s, layer, router, mesh);
    must(&ctx, s.comm->group_create(s.comm_options, s.world, &group));
    rank_arg *a = calloc((size_t)s.world, sizeof *a);
    pthread_t *thread = calloc((size_t)s.world, sizeof *thread);
    for (int i = 0; i < s.world; i++) {
        a[i] = (rank_arg){&s, &in, group, i, calloc(1, sizeof(result))};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, rank_main, &a[i]), 0);
    }
    for (int i = 0; i < s.world; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < s.world; i++) {
        double error = 0, norm = 0;
        ck_assert_int_eq(a[i].out->n, one->n);
        for (int k = 0; k < one->n; k++) {
            error = fmax(error, fabs(a[i].out->values[k] - one->values[k]));
            norm = fmax(norm, fabs(one->values[k]));
        }
        ck_assert_msg(error < 1e-12 * norm, "%s, mesh %s, rank %d: off by %g of %g",
                      router ? router : layer, mesh, i, error, norm);
        free(a[i].out);
    }
    s.comm->group_destroy(group);
    lmoe__setup_free(&s);
    free(a);
    free(thread);
    free(one);
}

START_TEST(layout)
{
    compare(layers[_i % N_LAYERS], NULL, meshes[_i / N_LAYERS]);
}
END_TEST

START_TEST(router_layout)
{
    compare(NULL, routers[_i % N_ROUTERS], router_meshes[_i / N_ROUTERS]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("layouts");
    TCase *t = tcase_create("layers and meshes");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, layout, 0, N_LAYERS * N_MESHES);
    tcase_add_loop_test(t, router_layout, 0, N_ROUTERS * N_ROUTER_MESHES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
