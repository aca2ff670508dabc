/* SPDX-License-Identifier: Apache-2.0
 * tests/run/test_routers.c: what each router promises, in float64: which experts, how many, weights
 * that sum as stated; the same whatever the tokens' order or the experts' numbers; ties; capacities;
 * a bias that balances.
 */
#include "core/bench/bench.h"
#include "tests/run/model.h"

enum { BATCH = 2, SEQ = 12, EMBED = 10, EXPERTS = 8, MAX_CHOICE = 8 };
enum { TOKENS = BATCH * SEQ };

typedef struct subject {
    const char *lines; /* of [ffn] and [router] */
    double sum;        /* of a token's weights; 0: below 1, -1: not stated */
    bool ids;          /* reads token ids, not x */
    bool columns;      /* experts choose: as many tokens for each */
} subject;

static const subject subjects[] = {
    {"top_k = 3\nrouter = moe/qwen2\n", 0, false, false},
    {"top_k = 3\nrouter = moe/qwen2\n[router]\nnorm_topk_prob = yes\n", 1, false, false},
    {"top_k = 3\nrouter = moe/mixtral\n", 1, false, false},
    {"top_k = 3\nrouter = moe/deepseek_v2\n", 0, false, false},
    {"top_k = 3\nrouter = moe/deepseek_v2\n[router]\ngroups = 4\ntop_groups = 2\n"
     "norm_topk_prob = yes\nscale = 1.5\n",
     1.5, false, false},
    {"top_k = 3\nrouter = moe/deepseek_v3\n[router]\nscale = 2.5\n", 2.5, false, false},
    {"top_k = 3\nrouter = moe/deepseek_v3\n[router]\ngroups = 2\ntop_groups = 1\n", 1, false,
     false},
    {"top_k = 1\nrouter = moe/switch\n", 0, false, false},
    {"top_k = 1\nrouter = moe/sinkhorn\n", 0, false, false},
    {"top_k = 3\nrouter = moe/sinkhorn\n", 0, false, false},
    {"top_k = 3\nrouter = moe/hash\n", 1, true, false},
    {"top_k = 2\nrouter = moe/expert_choice\n", -1, false, true},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

typedef struct scene {
    lmoe_ctx ctx;
    lmoe__setup s;
    void *dev;
    double x[TOKENS * EMBED], gate[EMBED * EXPERTS], bias[EXPERTS];
    int32_t ids[TOKENS];
    /* what the router says */
    int64_t choice, capacity;
    double index[TOKENS * MAX_CHOICE], weight[TOKENS * MAX_CHOICE];
} scene;

static void open_scene(scene *c, const char *lines)
{
    model_setup(&c->ctx, &c->s,
                "[model]\nembed = %d\nlayers = 1\n[layer L]\nclass = lsm/bla\nheads = 2\n"
                "[ffn]\nhidden = 4\nexperts = %d\n%s[train]\nbatch = %d\nseq = %d\ndtype = f64\n",
                EMBED, EXPERTS, lines, BATCH, SEQ);
    must(&c->ctx, c->s.device->open(&c->ctx, c->s.device_options, &c->dev));
    for (int i = 0; i < TOKENS * EMBED; i++) c->x[i] = lmoe__normal(7, 1, (uint64_t)i);
    for (int i = 0; i < EMBED * EXPERTS; i++) c->gate[i] = lmoe__normal(7, 2, (uint64_t)i);
    for (int i = 0; i < EXPERTS; i++) c->bias[i] = 0.2 * lmoe__normal(7, 3, (uint64_t)i);
    random_tokens(c->ids, TOKENS, 1000, 9);
}

static void close_scene(scene *c)
{
    c->s.device->close(c->dev);
    lmoe__setup_free(&c->s);
    free(c);
}

static void record(lmoe_trace *t, scene *c)
{
    const int64_t dim[3] = {BATCH, SEQ, EMBED};
    const lmoe_router *router = c->s.model.router;
    static const char *const names[] = {"embed", "experts", "top_k",    "batch",
                                        "seq",   "layers",  "training", "generating"};
    const int64_t sizes[] = {EMBED, EXPERTS, c->s.model.ffn.top_k, BATCH, SEQ, 1, 1, 0};
    for (int i = 0; i < 8; i++) lmoe__trace_set_size(t, names[i], sizes[i]);
    t->ambient[LMOE_AMBIENT_TOKENS] =
        lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:tokens", LMOE_I32, "batch seq", dim).id;
    t->ambient[LMOE_AMBIENT_NOISE] =
        lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:noise", LMOE_I32, "batch seq", dim).id;
    lmoe_tensor x =
        lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:x", LMOE_F64, "batch seq embed", dim);
    void *params = lmoe__arena_alloc(t->graph->arena, router->params_size + 1);
    lmoe_routing r = {.size = sizeof r};
    must(&c->ctx, router->params(t, c->s.model.router_options, params));
    must(&c->ctx, router->forward(t, c->s.model.router_options, params, x, &r));
    c->capacity = r.capacity;
    lmoe__trace_result(t, r.index, "index");
    lmoe__trace_result(t, r.weight, "weight");
}

static void write_doubles(lmoe__store *store, const char *name, const double *from, int64_t n)
{
    lmoe__buffer *b = lmoe__store_find(store, name);
    if (b) memcpy(b->data, from, sizeof *from * (size_t)n);
}

/* Runs the router on the scene's x, ids, gate and bias. */
static void route(scene *c)
{
    char name[128];
    lmoe_trace t;
    lmoe__store store;
    lmoe__plan *plan;
    lmoe__trace_init(&t, &c->ctx, &c->s.model.ops, LMOE_F64);
    record(&t, c);
    must(&c->ctx, lmoe__trace_status(&t));
    lmoe__graph *g = lmoe__trace_take_graph(&t);
    lmoe__trace_free(&t);
    lmoe__store_init(&store, &c->ctx, c->s.device, c->dev);
    must(&c->ctx, lmoe__plan_new(&c->ctx, g, &store, NULL, &plan));
    void *a = calloc(1, (size_t)plan->arena_bytes + 64), *w = NULL;
    w = calloc(1, (size_t)plan->workspace_bytes + 64);
    must(&c->ctx, lmoe__plan_bind(plan, a, w));
    lmoe_desc d = {.dtype = LMOE_F64, .rank = 3, .dim = {BATCH, SEQ, EMBED}};
    write_doubles(&store, lmoe__store_input(name, sizeof name, "in:x", &d), c->x, TOKENS * EMBED);
    write_doubles(&store, "gate.weight", c->gate, EMBED * EXPERTS);
    write_doubles(&store, "gate.e_score_correction_bias", c->bias, EXPERTS);
    d.rank = 2;
    d.dtype = LMOE_I32;
    lmoe__buffer *ids =
        lmoe__store_find(&store, lmoe__store_input(name, sizeof name, "in:tokens", &d));
    if (ids) memcpy(ids->data, c->ids, sizeof c->ids);
    must(&c->ctx, lmoe__plan_replay(plan));
    const lmoe__buffer *index = lmoe__store_find(&store, "index");
    const lmoe__buffer *weight = lmoe__store_find(&store, "weight");
    c->choice = index->desc.dim[2];
    for (int64_t i = 0; i < TOKENS * c->choice; i++) {
        c->index[i] = ((const int32_t *)index->data)[i];
        c->weight[i] = ((const double *)weight->data)[i];
    }
    lmoe__plan_free(plan);
    lmoe__graph_free(g);
    lmoe__store_free(&store);
    free(a);
    free(w);
}

/* Weight with which token s goes to expert x; 0 if it does not. */
static double weight_of(const scene *c, int64_t s, int64_t x)
{
    for (int64_t k = 0; k < c->choice; k++) {
        if (c->index[s * c->choice + k] == (double)x) return c->weight[s * c->choice + k];
    }
    return 0;
}

/* ---- properties ---- */

START_TEST(choices_are_as_stated)
{
    const subject *j = &subjects[_i];
    scene *c = calloc(1, sizeof *c);
    open_scene(c, j->lines);
    route(c);
    int64_t k = c->s.model.ffn.top_k;
    for (int64_t s = 0; s < TOKENS; s++) {
        double sum = 0;
        int64_t chosen = 0;
        for (int64_t i = s * c->choice; i < (s + 1) * c->choice; i++) {
            ck_assert(c->index[i] >= -1 && c->index[i] < EXPERTS);
            if (c->index[i] < 0) continue;
            ck_assert(c->weight[i] > 0);
            ck_assert(weight_of(c, s, (int64_t)c->index[i]) == c->weight[i]); /* once each */
            sum += c->weight[i];
            chosen++;
        }
        if (!j->columns) ck_assert_int_eq(chosen, k);
        if (j->sum > 0) ck_assert_double_eq_tol(sum, j->sum, 1e-12);
        if (j->sum == 0) ck_assert(sum < 1 + 1e-12);
    }
    for (int b = 0; b < BATCH && j->columns; b++) {
        for (int x = 0; x < EXPERTS; x++) {
            int64_t tokens = 0;
            for (int s = 0; s < SEQ; s++) tokens += weight_of(c, b * SEQ + s, x) > 0;
            ck_assert_int_eq(tokens, c->capacity);
            ck_assert_int_eq(tokens, SEQ * k / EXPERTS);
        }
    }
    close_scene(c);
}
END_TEST

/* Tokens of a sequence in another order: their experts and weights in that order. */
START_TEST(order_of_tokens_does_not_matter)
{
    scene *c = calloc(1, sizeof *c), *d = calloc(1, sizeof *d);
    open_scene(c, subjects[_i].lines);
    open_scene(d, subjects[_i].lines);
    for (int s = 0; s < TOKENS; s++) {
        int from = s / SEQ * SEQ + (s % SEQ * 5 + 3) % SEQ;
        memcpy(d->x + s * EMBED, c->x + from * EMBED, sizeof *c->x * EMBED);
        d->ids[s] = c->ids[from];
    }
    route(c);
    route(d);
    for (int s = 0; s < TOKENS; s++) {
        int from = s / SEQ * SEQ + (s % SEQ * 5 + 3) % SEQ;
        for (int x = 0; x < EXPERTS; x++)
            ck_assert_double_eq_tol(weight_of(d, s, x), weight_of(c, from, x), 1e-12);
    }
    close_scene(c);
    close_scene(d);
}
END_TEST

/* Experts called otherwise, neighbours within their group: the same experts under their new names. */
START_TEST(names_of_experts_do_not_matter)
{
    scene *c = calloc(1, sizeof *c), *d = calloc(1, sizeof *d);
    open_scene(c, subjects[_i].lines);
    open_scene(d, subjects[_i].lines);
    for (int x = 0; x < EXPERTS && !subjects[_i].ids; x++) {
        for (int e = 0; e < EMBED; e++) d->gate[e * EXPERTS + (x ^ 1)] = c->gate[e * EXPERTS + x];
        d->bias[x ^ 1] = c->bias[x];
    }
    route(c);
    route(d);
    for (int s = 0; s < TOKENS; s++) {
        for (int x = 0; x < EXPERTS; x++) {
            int other = subjects[_i].ids ? x : x ^ 1;
            ck_assert_double_eq_tol(weight_of(d, s, other), weight_of(c, s, x), 1e-12);
        }
    }
    close_scene(c);
    close_scene(d);
}
END_TEST

/* Nothing tells experts apart: the lower numbers; experts that choose take the earlier tokens. */
START_TEST(ties_are_decided)
{
    const subject *j = &subjects[_i];
    scene *c = calloc(1, sizeof *c);
    open_scene(c, j->lines);
    memset(c->gate, 0, sizeof c->gate);
    memset(c->bias, 0, sizeof c->bias);
    for (int s = 0; s < TOKENS; s++) c->ids[s] = 5;
    route(c);
    for (int s = 0; s < TOKENS; s++) {
        for (int x = 0; x < EXPERTS; x++) {
            bool chosen = weight_of(c, s, x) > 0, want = x < c->s.model.ffn.top_k;
            if (j->columns) want = s % SEQ < c->capacity;
            if (j->ids) want = weight_of(c, 0, x) > 0; /* one id, one choice */
            ck_assert(chosen == want);
        }
    }
    close_scene(c);
}
END_TEST

/* ---- the whole feed-forward ---- */

typedef struct block {
    lmoe__engine e;
    lmoe__program *p;
    double load[EXPERTS], kept[EXPERTS], y[TOKENS * EMBED];
} block;

static void run_block(scene *c, block *b, const double *gate)
{
    static const int layer[] = {0};
    lmoe__layer_shape shape = {.shape = {.batch = BATCH, .seq = SEQ}, .layers = layer, .count = 1};
    c->s.model.n_mixers = 0;
    must(&c->ctx,
         lmoe__engine_init(&b->e, &c->ctx, &c->s.model, NULL, c->s.device, c->dev, LMOE_F64));
    must(&c->ctx, lmoe__engine_layer_program(&b->e, &shape, &b->p));
    must(&c->ctx, lmoe__engine_bind(&b->e));
    must(&c->ctx, lmoe__engine_init_weights(&b->e, 3));
    write_doubles(&b->e.store, "gate.weight", gate, EMBED * EXPERTS);
    must(&c->ctx, lmoe__program_set(&b->e, b->p, "in:x", c->x));
    must(&c->ctx, lmoe__program_set(&b->e, b->p, "in:tokens", c->ids));
    must(&c->ctx, lmoe__program_run(&b->e, b->p));
    lmoe__engine_read(&b->e, "stat:moe/load/0", b->load, EXPERTS);
    if (lmoe__engine_read(&b->e, "stat:moe/kept/0", b->kept, EXPERTS) < 0)
        memcpy(b->kept, b->load, sizeof b->kept);
    char name[32];
    snprintf(name, sizeof name, "out:y/%d", SEQ);
    ck_assert_int_eq(lmoe__engine_read(&b->e, name, b->y, TOKENS * EMBED), TOKENS * EMBED);
    lmoe__engine_free(&b->e);
}

/* Every token to one expert, and none to most: counted so, and a result that is a number. */
START_TEST(all_to_one)
{
    const subject *j = &subjects[_i];
    scene *c = calloc(1, sizeof *c);
    block *b = calloc(1, sizeof *b);
    open_scene(c, j->lines);
    for (int i = 0; i < EMBED * EXPERTS; i++) c->gate[i] = i % EXPERTS == 6 ? 3 : 0.001 * (i % 7);
    for (int i = 0; i < TOKENS * EMBED; i++) c->x[i] = 1 + 0.1 * fabs(c->x[i]);
    run_block(c, b, c->gate);
    double most = 0, all = 0;
    for (int x = 0; x < EXPERTS; x++) all += b->load[x];
    for (int x = 0; x < EXPERTS; x++) most = fmax(most, b->load[x]);
    ck_assert(all == TOKENS * (double)c->s.model.ffn.top_k);
    if (!j->ids && !j->columns) ck_assert(most == TOKENS && b->load[6] == TOKENS);
    if (j->columns) ck_assert(most == all / EXPERTS);
    for (int i = 0; i < TOKENS * EMBED; i++) ck_assert(isfinite(b->y[i]));
    free(b);
    close_scene(c);
}
END_TEST

/* No expert keeps more than its capacity, each keeps as many as it may, and only what was chosen. */
START_TEST(capacity_is_respected)
{
    const subject *j = &subjects[_i % SUBJECTS];
    const char *drop = _i < SUBJECTS ? "probability" : "position";
    char lines[512];
    scene *c = calloc(1, sizeof *c);
    block *b = calloc(1, sizeof *b);
    snprintf(lines, sizeof lines, "capacity_eval = 0.6\ndrop = %s\n%s", drop, j->lines);
    open_scene(c, lines);
    run_block(c, b, c->gate);
    double capacity = ceil(0.6 * SEQ * (double)c->s.model.ffn.top_k / EXPERTS), dropped = 0;
    for (int x = 0; x < EXPERTS; x++) {
        ck_assert(b->kept[x] <= BATCH * capacity && b->kept[x] <= b->load[x]);
        ck_assert(b->kept[x] >= fmin(b->load[x], capacity)); /* two sequences: at least so many */
        dropped += b->load[x] - b->kept[x];
    }
    ck_assert(dropped > 0);
    for (int i = 0; i < TOKENS * EMBED; i++) ck_assert(isfinite(b->y[i]));
    free(b);
    close_scene(c);
}
END_TEST

/* ---- a bias that balances ---- */

/* Tokens by Zipf's law through untrained layers, and a bias that is wrong, load experts unevenly.
 * 300 steps of the bias alone, without a loss, bring the largest load within 1.3 shares. */
START_TEST(bias_balances)
{
    enum { B = 16, S = 256, E = 16, STEPS = 300, LAST = 20 };
    lmoe_ctx ctx;
    lmoe__setup s;
    lmoe__engine e;
    lmoe__program *forward, *balance;
    void *dev;
    double load[E], first = 0, last = 0;
    int32_t *tokens = calloc(B * S, sizeof *tokens);
    model_setup(&ctx, &s,
                "[model]\nembed = 32\nvocab_size = 500\nlayers = 1\ninit_std = 0.3\n[layer L]\n"
                "class = lsm/bla\nheads = 2\n[ffn]\nhidden = 4\nexperts = %d\ntop_k = 4\n"
                "router = moe/deepseek_v3\n[router]\naux_loss = 0\nbias_speed = 0.003\n[train]\n"
                "batch = %d\nseq = %d\n",
                E, B, S);
    model_engine(&ctx, &s, &e, &dev);
    lmoe__model_shape shape = lmoe__setup_shape(&s);
    must(&ctx, lmoe__engine_program(&e, LMOE__EVAL, &shape, &forward));
    must(&ctx, lmoe__engine_balance_program(&e, &balance));
    must(&ctx, lmoe__engine_bind(&e));
    must(&ctx, lmoe__engine_init_weights(&e, 7));
    lmoe__buffer *bias =
        lmoe__store_find(&e.store, "model.layers.0.mlp.gate.e_score_correction_bias");
    for (int x = 0; x < E; x++) /* unevenly from the start */
        ((float *)bias->data)[x] = 0.25f * (float)lmoe__normal(23, 0, (uint64_t)x);
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < B * S; i++) { /* a little steeper than Zipf */
            double u = lmoe__uniform(17, (uint64_t)step, (uint64_t)i);
            tokens[i] = (int32_t)(pow(500.0, pow(u, 1.1)) - 1);
        }
        set_plain_inputs(&ctx, &e, forward, B, S, tokens);
        must(&ctx, lmoe__program_run(&e, forward));
        must(&ctx, lmoe__program_run(&e, balance));
        double most = 0;
        ck_assert_int_eq(lmoe__engine_read(&e, "stat:moe/load/0", load, E), E);
        for (int x = 0; x < E; x++) most = fmax(most, load[x] * E / (4.0 * B * S) - 1);
        if (step == 0) first = most;
        if (step >= STEPS - LAST) last = fmax(last, most);
    }
    printf("violation: %.2f at first, at most %.2f in the last %d of %d steps\n", first, last, LAST,
           STEPS);
    fflush(stdout);
    ck_assert(first > 1);
    ck_assert_msg(last < 0.3, "the violation was %.2f at first and is %.2f", first, last);
    lmoe__engine_free(&e);
    s.device->close(dev);
    lmoe__setup_free(&s);
    free(tokens);
}
END_TEST

/* ---- memory ---- */

/* Kept for the backward pass, for each token: the token, what an expert's two first products give,
 * and where rows lie. */
START_TEST(little_is_kept)
{
    const lmoe__experts_options o = {
        .tokens = 40, .experts = 4, .top_k = 3, .embed = 24, .hidden = 20, .repeats = 1};
    char *text = NULL;
    size_t size = 0;
    double numbers = 0, routing = 0;
    scene *c = calloc(1, sizeof *c);
    open_scene(c, subjects[0].lines);
    lmoe__bench b = {.ctx = &c->ctx, .dtype = LMOE_F32, .on = {c->s.device, c->dev}};
    b.out = open_memstream(&text, &size);
    must(&c->ctx, lmoe__bench_experts(&b, &o));
    fclose(b.out);
    const char *kept = strstr(text, "per token: ");
    ck_assert(kept && sscanf(kept, "per token: %lf numbers, %lf", &numbers, &routing) == 2);
    ck_assert_msg(numbers == 24 + 2 * 3 * 20, "%s", kept);
    ck_assert_msg(routing < 3 * 3 + 1, "%s", kept); /* order, position, weight; offsets */
    free(text);
    close_scene(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("routers");
    TCase *t = tcase_create("properties");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, choices_are_as_stated, 0, SUBJECTS);
    tcase_add_loop_test(t, order_of_tokens_does_not_matter, 0, SUBJECTS);
    tcase_add_loop_test(t, names_of_experts_do_not_matter, 0, SUBJECTS);
    tcase_add_loop_test(t, ties_are_decided, 0, SUBJECTS);
    tcase_add_loop_test(t, all_to_one, 0, SUBJECTS);
    tcase_add_loop_test(t, capacity_is_respected, 0, 2 * SUBJECTS - 1);
    tcase_add_test(t, bias_balances);
    tcase_add_test(t, little_is_kept);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
