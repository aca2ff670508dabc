/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_gradcheck_model.c: gradients of whole models in float64 against central
 * differences, for each layer class of the tree: mixture of experts, auxiliary losses and tied
 * embeddings included.
 */
#include "tests/run/layers.h"
#include "tests/run/model.h"

/* Other feed-forwards, embeddings that are not tied, two kinds of layers. */
#define HEAD "[model]\nembed = 16\nvocab_size = 40\ninit_std = 0.3\nlayers = 2\n"
#define TAIL "\n[train]\nbatch = 2\nseq = 7\ndtype = f64\n"
static const char *const models[] = {
    HEAD "[layer L]\nclass = lsm/gla\nheads = 2\n[ffn]\nkind = dense\nhidden = 12" TAIL,
    HEAD "tie_embeddings = no\n[layer L]\nclass = lsm/bla\nheads = 2\n[ffn]\nkind = none" TAIL,
    HEAD
    "pattern = LN\n[layer L]\nclass = lsm/retention\nheads = 2\n[layer N]\nclass = lsm/attention\n"
    "heads = 2\n[ffn]\nhidden = 12\nexperts = 3\ntop_k = 3\nshared_hidden = 10\nshared_gate = yes\n"
    "[router]\nnorm_topk_prob = yes" TAIL,
    HEAD "[layer L]\nclass = lsm/gla\nheads = 2\n[ffn]\nhidden = 12\nexperts = 4\ntop_k = 1\n"
         "shared_hidden = 10" TAIL,
};

/* Every router: its weights, losses, groups, activations of experts, choices that are dropped. Loads
 * and choices do not change under steps as small as those of the differences. */
#define MOE(lines) \
    HEAD "[layer L]\nclass = lsm/bla\nheads = 2\n[ffn]\nhidden = 6\nexperts = 4\n" lines TAIL
static const char *const routers[] = {
    MOE("top_k = 2\nrouter = moe/qwen2\nactivation = gelu\n[router]\naux_loss = 0.1\nz_loss = 0.1\n"
        "aux_scope = sequence\nnorm_topk_prob = yes\naux_per_choice = yes"),
    MOE("top_k = 2\nrouter = moe/mixtral\nactivation = relu2\n[router]\naux_loss = 0.1\nz_loss = "
        "0.1\n"
        "jitter = 0.1\njitter_on = logits"),
    MOE("top_k = 2\nrouter = moe/mixtral\nshared_hidden = 5\nshared_gate = yes\n"
        "activation = geglu\n[router]\njitter = 0.1"),
    MOE("top_k = 2\nrouter = moe/deepseek_v2\nshared_hidden = 5\n[router]\naux_loss = 0.1\n"
        "groups = 2\ntop_groups = 1\nscale = 1.5\ndevice_loss = 0.2\ndevices = 2"),
    MOE("top_k = 1\nrouter = moe/deepseek_v2\n[router]\naux_loss = 0.1\naux_scope = micro_batch\n"
        "device_loss = 0.2\ndevices = 2\nnorm_topk_prob = yes"),
    MOE("top_k = 2\nrouter = moe/deepseek_v3\nshared_hidden = 5\n[router]\naux_loss = 0.1\n"
        "groups = 2\ntop_groups = 1\nscale = 2.5"),
    MOE("top_k = 1\nrouter = moe/switch\ncapacity = 1\n[router]\naux_loss = 0.1\nz_loss = 0.1"),
    MOE("top_k = 1\nrouter = moe/sinkhorn\n[router]\nz_loss = 0.1"),
    MOE("top_k = 2\nrouter = moe/sinkhorn\ncapacity = 0.5\ndrop = position"),
    MOE("top_k = 2\nrouter = moe/expert_choice\n[router]\nfactor = 0.7\nz_loss = 0.1"),
    MOE("top_k = 2\nrouter = moe/hash\ncapacity = 0.8"),
};

static double total_loss(lmoe_ctx *ctx, lmoe__engine *e, lmoe__program *p)
{
    double total = 0, x;
    must(ctx, lmoe__program_run(e, p));
    for (int i = 0; i < e->store.count; i++) {
        const char *name = e->store.buffers[i].name;
        if (strcmp(name, "out:loss") != 0 && strncmp(name, "aux:", 4) != 0) continue;
        lmoe__engine_read(e, name, &x, 1);
        total += x;
    }
    return total;
}

/* Some elements of one weight; returns the relative error. */
static double compare(lmoe_ctx *ctx, lmoe__engine *e, lmoe__program *p, const lmoe__weight *w)
{
    char name[300];
    snprintf(name, sizeof name, "grad:%s", w->name);
    double *value = lmoe__store_find(&e->store, w->name)->data;
    const double *grad = lmoe__store_find(&e->store, name)->data;
    int64_t n = lmoe_desc_count(&w->desc), stride = n > 6 ? n / 6 : 1;
    const double h = 1e-4;
    double error = 0, norm = 1e-10; /* differences are good to some 1e-12, whatever the gradient */
    total_loss(ctx, e, p);
    for (int64_t i = 0; i < n; i += stride) {
        double was = value[i], analytic = grad[i], f[4];
        static const double steps[4] = {-2, -1, 1, 2};
        for (int k = 0; k < 4; k++) {
            value[i] = was + steps[k] * h;
            f[k] = total_loss(ctx, e, p);
        }
        value[i] = was;
        total_loss(ctx, e, p); /* gradients at the point itself again */
        double numeric = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
        error += (numeric - analytic) * (numeric - analytic);
        norm += numeric * numeric;
    }
    return sqrt(error / norm);
}

/* only: part of the names of the weights that are checked. */
static void check_model(const char *text, const char *only)
{
    lmoe_ctx ctx;
    lmoe__setup s;
    lmoe__engine e;
    lmoe__program *p;
    void *dev;
    int32_t tokens[2 * 7];
    model_setup(&ctx, &s, "%s", text);
    model_engine(&ctx, &s, &e, &dev);
    lmoe__model_shape shape = lmoe__setup_shape(&s);
    must(&ctx, lmoe__engine_program(&e, LMOE__TRAIN_FIRST, &shape, &p));
    must(&ctx, lmoe__engine_bind(&e));
    must(&ctx, lmoe__engine_init_weights(&e, 5));
    random_tokens(tokens, 14, 40, 11);
    set_plain_inputs(&ctx, &e, p, 2, 7, tokens);
    for (int i = 0; i < e.n_weights; i++) {
        if (!strstr(e.weights[i].name, only)) continue;
        if (e.weights[i].flags & LMOE_PARAM_STATE) continue;
        double error = compare(&ctx, &e, p, &e.weights[i]);
        ck_assert_msg(error < 2e-6, "%s\n: gradient of %s is off by %g", text, e.weights[i].name,
                      error);
    }
    lmoe__engine_free(&e);
    s.device->close(dev);
    lmoe__setup_free(&s);
}

START_TEST(each_layer)
{
    char text[1024];
    snprintf(text, sizeof text, MODEL_TEXT("%s"), layers[_i], 2, 7, "f64");
    check_model(text, _i ? ".attn" : ""); /* what is around the layers is the same for all */
}
END_TEST

START_TEST(other_models)
{
    check_model(models[_i], "");
}
END_TEST

START_TEST(each_router)
{
    check_model(routers[_i], ".mlp.");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gradcheck of models");
    TCase *t = tcase_create("layers");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, each_layer, 0, N_LAYERS);
    tcase_add_loop_test(t, other_models, 0, sizeof models / sizeof *models);
    tcase_add_loop_test(t, each_router, 0, sizeof routers / sizeof *routers);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
