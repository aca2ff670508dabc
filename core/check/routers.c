/* SPDX-License-Identifier: Apache-2.0
 * core/check/routers.c: whether a router's choices are legal, and are the same whatever the tokens'
 * order, the experts' numbers, and the ranks.
 */
#include "core/check/ranks.h"

#include <lmoe/nn.h>

#include <math.h>
#include <stdlib.h>

enum { BATCH = 2, SEQ = 12, TOKENS = BATCH * SEQ };

/* A router alone in float64, and what it says of some tokens. */
typedef struct scene {
    lmoe__exam *x;
    const lmoe__form *form;
    lmoe__sheet s;
    bool training, generating, relabelled, no_weights;
    bool dispatch; /* to experts that give their input back: fills y */
    /* answers */
    int64_t choice, capacity;
    double *index, *weight; /* (batch seq choice) */
    double *y;              /* (batch seq embed), with dispatch */
    bool has_experts;       /* a parameter has the axis `expert` */
} scene;

static scene scene_of(lmoe__exam *x, const lmoe__form *f)
{
    scene c = {.x = x, .form = f, .training = true};
    c.s = lmoe__sheet_new(x, f, BATCH, SEQ, x->seed, 1);
    return c;
}

static void set_sizes(lmoe_trace *t, const scene *c)
{
    const lmoe__model *m = &c->form->model;
    lmoe__trace_set_size(t, "embed", m->o.embed);
    lmoe__trace_set_size(t, "experts", m->ffn.experts);
    lmoe__trace_set_size(t, "top_k", m->ffn.top_k);
    lmoe__trace_set_size(t, "batch", BATCH);
    lmoe__trace_set_size(t, "seq", SEQ);
    lmoe__trace_set_size(t, "layers", 1);
    lmoe__trace_set_size(t, "training", c->training);
    lmoe__trace_set_size(t, "generating", c->generating);
}

/* Records the router, and what is asked for. */
static lmoe_status record(lmoe_trace *t, scene *c)
{
    const lmoe__model *m = &c->form->model;
    const lmoe_value_kind in = LMOE_VALUE_INPUT;
    const int64_t dim[3] = {BATCH, SEQ, m->o.embed};
    lmoe_routing r = {.size = sizeof r};
    lmoe_desc index, weight;
    set_sizes(t, c);
    t->ambient[LMOE_AMBIENT_TOKENS] =
        lmoe__trace_enter(t, in, "in:tokens", LMOE_I32, "batch seq", dim).id;
    t->ambient[LMOE_AMBIENT_NOISE] =
        lmoe__trace_enter(t, in, "in:noise", LMOE_I32, "batch seq", dim).id;
    lmoe_tensor x = lmoe__trace_enter(t, in, "in:x", LMOE_F64, "batch seq embed", dim);
    void *params = lmoe__arena_alloc(t->graph->arena, m->router->params_size + 1);
    t->class_name = m->router->base.name;
    LMOE_TRY(m->router->params(t, m->router_options, params));
    LMOE_TRY(m->router->forward(t, m->router_options, params, x, &r));
    LMOE_TRY(lmoe__trace_status(t));
    LMOE_TRY(lmoe_describe(t, r.index, &index));
    LMOE_TRY(lmoe_describe(t, r.weight, &weight));
    if (index.rank != 3 || weight.rank != 3 || index.dim[0] != BATCH || index.dim[1] != SEQ ||
        index.dim[2] != weight.dim[2] || index.dtype != LMOE_I32)
        return lmoe_error(t->ctx, LMOE_E_USAGE,
                          "index must be (batch seq choice) i32 and weight of the same shape");
    c->choice = index.dim[2];
    c->capacity = r.capacity;
    lmoe__trace_result(t, r.index, "index");
    lmoe__trace_result(t, r.weight, "weight");
    if (!c->dispatch) return lmoe__trace_status(t);
    lmoe_moe_order order = lmoe_moe_sort(t, r.index, m->ffn.experts, r.capacity);
    lmoe_tensor rows = lmoe_moe_gather(t, x, order);
    lmoe__trace_result(t, lmoe_moe_combine(t, rows, order, r.weight), "y");
    return lmoe__trace_status(t);
}

static void write_input(lmoe__store *store, const char *name, lmoe_dtype dtype, int rank,
                        int64_t embed, const void *data)
{
    char full[256];
    lmoe_desc d = {.dtype = dtype, .rank = rank, .dim = {BATCH, SEQ, embed}};
    lmoe__buffer *b = lmoe__store_find(store, lmoe__store_input(full, sizeof full, name, &d));
    if (b) memcpy(b->data, data, (size_t)lmoe_desc_bytes(&d));
}

/* Neighbours among the experts change their numbers: value i of a weight goes to this place. */
static int64_t relabel(const lmoe_desc *d, int64_t i)
{
    int64_t inner = 1;
    for (int k = d->rank - 1; k >= 0; inner *= d->dim[k--]) {
        int64_t at = i / inner % d->dim[k];
        if (strcmp(d->axis[k], "expert") == 0) i += ((at ^ 1) - at) * inner;
    }
    return i;
}

static void write_weights(scene *c, const lmoe_trace *t, lmoe__store *store)
{
    for (int i = 0; i < t->n_weights; i++) {
        lmoe__weight w = t->weights[i];
        lmoe__buffer *b = lmoe__store_find(store, w.name);
        int64_t n = lmoe_desc_count(&w.desc);
        for (int k = 0; k < w.desc.rank; k++)
            c->has_experts |= strcmp(w.desc.axis[k], "expert") == 0;
        if (!b) continue;
        double *values = LMOE_NEW_N(c->x->arena, double, n + 1);
        lmoe_buf to = {.data = b->data, .dtype = b->desc.dtype};
        w.desc.dtype = LMOE_F64;
        lmoe__weight_init(c->x->ctx, &c->form->model, &w, c->x->seed, 0, n, values);
        for (int64_t k = 0; k < n; k++) {
            double v = values[k] +
                       0.3 * lmoe__normal(c->x->seed, lmoe__hash_text(w.name) ^ 5, (uint64_t)k);
            lmoe_put(&to, c->relabelled ? relabel(&w.desc, k) : k, c->no_weights ? 0 : v);
        }
    }
}

static double *read_all(scene *c, lmoe__store *store, const char *name)
{
    const lmoe__buffer *b = lmoe__store_find(store, name);
    int64_t n = lmoe_desc_count(&b->desc);
    const lmoe_buf from = {.data = b->data, .dtype = b->desc.dtype};
    double *out = LMOE_NEW_N(c->x->arena, double, n + 1);
    for (int64_t i = 0; i < n; i++) out[i] = lmoe_get(&from, i);
    return out;
}

/* Records and runs the scene; false: the check has failed. */
static bool route(scene *c)
{
    lmoe__exam *x = c->x;
    lmoe_trace t;
    lmoe__store store;
    lmoe__plan *plan = NULL;
    if (!lmoe__check_device(x)) return false;
    lmoe__trace_init(&t, x->ctx, &c->form->model.ops, LMOE_F64);
    lmoe_status status = record(&t, c);
    if (status != LMOE_OK) {
        lmoe__trace_free(&t);
        return lmoe__check_ok(x, status, "recording the router");
    }
    lmoe__graph *g = lmoe__trace_take_graph(&t);
    lmoe__store_init(&store, x->ctx, x->device, x->dev);
    status = lmoe__plan_new(x->ctx, g, &store, NULL, &plan);
    void *a = status == LMOE_OK ? calloc(1, (size_t)plan->arena_bytes + 64) : NULL;
    void *w = status == LMOE_OK ? calloc(1, (size_t)plan->workspace_bytes + 64) : NULL;
    if (status == LMOE_OK) status = lmoe__plan_bind(plan, a, w);
    if (status == LMOE_OK) {
        write_weights(c, &t, &store);
        write_input(&store, "in:x", LMOE_F64, 3, c->s.embed, c->s.x);
        write_input(&store, "in:tokens", LMOE_I32, 2, 0, c->s.tokens);
        write_input(&store, "in:noise", LMOE_I32, 2, 0, c->s.noise);
        status = lmoe__plan_replay(plan);
    }
    if (status == LMOE_OK) {
        c->index = read_all(c, &store, "index");
        c->weight = read_all(c, &store, "weight");
        if (c->dispatch) c->y = read_all(c, &store, "y");
    }
    lmoe__trace_free(&t);
    lmoe__plan_free(plan);
    lmoe__graph_free(g);
    lmoe__store_free(&store);
    free(a);
    free(w);
    return lmoe__check_ok(x, status, "running the router");
}

/* Weight with which token s goes to expert e; 0 if it does not. */
static double weight_of(const scene *c, int64_t s, int64_t e)
{
    for (int64_t k = 0; k < c->choice; k++) {
        if (c->index[s * c->choice + k] == (double)e) return c->weight[s * c->choice + k];
    }
    return 0;
}

/* ---- choices ---- */

static bool check_token(scene *c, int64_t s)
{
    lmoe__exam *x = c->x;
    const int64_t experts = c->form->model.ffn.experts, k = c->form->model.ffn.top_k;
    const uint32_t flags = x->class->flags;
    int64_t chosen = 0;
    double sum = 0, least = 0;
    for (int64_t i = s * c->choice; i < (s + 1) * c->choice; i++) {
        double e = c->index[i], w = c->weight[i];
        if (e >= (double)experts)
            lmoe__check_fail(x, "token %d goes to expert %g, but there are %d", (int)s, e,
                             (int)experts);
        if (e < 0) continue;
        if (!isfinite(w)) lmoe__check_fail(x, "a weight of token %d is %g", (int)s, w);
        for (int64_t j = i + 1; j < (s + 1) * c->choice; j++)
            if (c->index[j] == e)
                lmoe__check_fail(x, "token %d goes to expert %g twice", (int)s, e);
        sum += w;
        least = fmin(least, w);
        chosen++;
    }
    if (!(flags & LMOE_ROUTER_VARYING) && chosen != k)
        lmoe__check_fail(x,
                         "token %d goes to %d experts instead of top_k = %d; if their number "
                         "varies, say LMOE_ROUTER_VARYING",
                         (int)s, (int)chosen, (int)k);
    if ((flags & LMOE_ROUTER_SUM_ONE) && chosen && fabs(sum - 1) > 1e-9)
        lmoe__check_fail(x, "the weights of token %d sum to %.12g; LMOE_ROUTER_SUM_ONE says 1",
                         (int)s, sum);
    if ((flags & LMOE_ROUTER_SUM_AT_MOST) && (sum > 1 + 1e-9 || least < 0))
        lmoe__check_fail(x,
                         "the weights of token %d sum to %.12g and the least is %.3g; "
                         "LMOE_ROUTER_SUM_AT_MOST says at most 1, and none below 0",
                         (int)s, sum, least);
    return !lmoe__check_failed(x);
}

static const char *mode_of(const scene *c)
{
    return c->generating ? "generating" : c->training ? "training" : "evaluating";
}

static void choices(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (int mode = 0; mode < 3; mode++) {
        for (int seed = 0; seed < (x->level == LMOE__QUICK ? 1 : 8); seed++) {
            scene c = scene_of(x, &f);
            c.s = lmoe__sheet_new(x, &f, BATCH, SEQ, x->seed + (uint64_t)seed, 1 << seed);
            c.training = mode == 0;
            c.generating = mode == 2;
            lmoe__check_case(x, "%s, x times %d, %s", mode_of(&c), 1 << seed, f.text);
            if (!route(&c)) return;
            for (int64_t s = 0; s < TOKENS; s++)
                if (!check_token(&c, s)) return;
        }
    }
}

/* What a router says of its capacity holds: rows beyond it would be lost without a word. */
static void capacity(lmoe__exam *x)
{
    lmoe__form f;
    bool stated = false;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (int mode = 0; mode < 3; mode++) {
        scene c = scene_of(x, &f);
        c.training = mode == 0;
        c.generating = mode == 2;
        lmoe__check_case(x, "%s, %s", mode_of(&c), f.text);
        if (!route(&c)) return;
        stated |= c.capacity > 0;
        for (int b = 0; b < BATCH && c.capacity > 0; b++) {
            for (int64_t e = 0; e < f.model.ffn.experts; e++) {
                int64_t tokens = 0;
                for (int64_t i = b * SEQ * c.choice; i < (b + 1) * SEQ * c.choice; i++)
                    tokens += c.index[i] == (double)e;
                if (tokens > c.capacity)
                    lmoe__check_fail(x,
                                     "expert %d gets %d tokens of a sequence; the router states a "
                                     "capacity of %d",
                                     (int)e, (int)tokens, (int)c.capacity);
            }
        }
    }
    if (!stated) lmoe__check_note(x, "it states none");
}

static void identity(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    scene c = scene_of(x, &f);
    c.training = false;
    c.dispatch = true;
    lmoe__check_case(x, "%s", f.text);
    if (!route(&c)) return;
    for (int64_t s = 0; s < TOKENS; s++) {
        double sum = 0;
        for (int64_t k = s * c.choice; k < (s + 1) * c.choice; k++)
            if (c.index[k] >= 0) sum += c.weight[k];
        for (int64_t e = 0; e < c.s.embed; e++) {
            double got = c.y[s * c.s.embed + e], want = sum * c.s.x[s * c.s.embed + e];
            if (fabs(got - want) < 1e-10 * (1 + fabs(want))) continue;
            lmoe__check_fail(x,
                             "with experts that return their input, token %d comes back as %.9g; "
                             "the sum of its weights times its input is %.9g",
                             (int)s, got, want);
            return;
        }
    }
}

/* ---- symmetries ---- */

static void permuted(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    scene c = scene_of(x, &f), d = scene_of(x, &f);
    lmoe__check_case(x, "%s", f.text);
    for (int s = 0; s < TOKENS; s++) {
        int from = s / SEQ * SEQ + (s % SEQ * 5 + 3) % SEQ;
        memcpy(d.s.x + s * d.s.embed, c.s.x + from * c.s.embed, sizeof(double) * (size_t)c.s.embed);
        d.s.tokens[s] = c.s.tokens[from];
        d.s.noise[s] = c.s.noise[from];
    }
    if (!route(&c) || !route(&d)) return;
    for (int s = 0; s < TOKENS; s++) {
        int from = s / SEQ * SEQ + (s % SEQ * 5 + 3) % SEQ;
        for (int64_t e = 0; e < f.model.ffn.experts; e++) {
            double was = weight_of(&c, from, e), is = weight_of(&d, s, e);
            if (fabs(was - is) < 1e-10) continue;
            lmoe__check_fail(
                x,
                "token %d of its sequence goes to expert %d with weight %.9g; as token "
                "%d, with the others around it, with %.9g",
                from % SEQ, (int)e, was, s % SEQ, is);
            return;
        }
    }
}

static void relabelled(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    scene c = scene_of(x, &f), d = scene_of(x, &f);
    d.relabelled = true;
    lmoe__check_case(x, "%s", f.text);
    if (!route(&c) || !route(&d)) return;
    if (!c.has_experts) {
        lmoe__check_skip(x, "no parameter of it has the axis `expert`, so nothing can be renamed");
        return;
    }
    for (int s = 0; s < TOKENS; s++) {
        for (int64_t e = 0; e < f.model.ffn.experts; e++) {
            double was = weight_of(&c, s, e), is = weight_of(&d, s, e ^ 1);
            if (fabs(was - is) < 1e-10) continue;
            lmoe__check_fail(x,
                             "token %d goes to expert %d with weight %.9g; when that expert is "
                             "called %d, with weight %.9g",
                             s, (int)e, was, (int)(e ^ 1), is);
            return;
        }
    }
}

/* Nothing tells experts apart, nor tokens. */
static void ties(lmoe__exam *x)
{
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    scene c[3];
    for (int i = 0; i < 3; i++) {
        c[i] = scene_of(x, &f);
        c[i].no_weights = true;
        for (int64_t s = 0; s < TOKENS; s++) c[i].s.tokens[s] = 5;
        for (int64_t k = 0; k < TOKENS * c[i].s.embed; k++) c[i].s.x[k] = 1;
        lmoe__check_case(x, "run %d of equal tokens and experts, %s", i, f.text);
        if (!route(&c[i])) return;
        for (int64_t s = 0; s < TOKENS; s++)
            if (!check_token(&c[i], s)) return;
        const int64_t n = TOKENS * c[i].choice;
        if (lmoe__first_difference(c[0].index, c[i].index, n) < 0 &&
            lmoe__first_difference(c[0].weight, c[i].weight, n) < 0)
            continue;
        lmoe__check_fail(x, "where all experts are equal, two runs choose otherwise");
        return;
    }
}

/* All tokens alike: some experts get all, others none; forward and backward, with real experts. */
static void all_to_one(lmoe__exam *x)
{
    static const lmoe_dtype dtypes[2] = {LMOE_F64, LMOE_F32};
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (int d = 0; d < 2; d++) {
        lmoe__lab l;
        lmoe__sheet s = lmoe__sheet_new(x, &f, BATCH, SEQ, x->seed, 1);
        const lmoe__lab_weights w = {x->seed, 3, LMOE_F32};
        const int64_t n = TOKENS * s.embed;
        for (int64_t i = s.embed; i < n; i++) s.x[i] = s.x[i % s.embed];
        for (int64_t i = 1; i < TOKENS; i++) s.tokens[i] = s.tokens[0];
        lmoe__check_case(x, "equal tokens, %s, %s", lmoe__dtype_word(dtypes[d]), f.text);
        if (!lmoe__lab_open(&l, x, &f, dtypes[d], 0)) return;
        lmoe__program *p = lmoe__lab_program(&l, BATCH, SEQ, LMOE__RUN_GRADIENTS, 0);
        if (p && lmoe__lab_bind(&l, &w) && lmoe__lab_run(&l, p, &s)) {
            if (lmoe__not_finite(s.y, n) >= 0 || lmoe__not_finite(s.dx, n) >= 0)
                lmoe__check_fail(x, "y, or the gradient of x, is not finite");
            for (int i = 0; i < l.e.n_weights; i++) {
                int64_t k;
                double *g = lmoe__lab_grad(&l, i, &k);
                if (g && lmoe__not_finite(g, k) >= 0)
                    lmoe__check_fail(x, "the gradient of %s is not finite", l.e.weights[i].name);
            }
        }
        lmoe__lab_close(&l);
        if (lmoe__check_failed(x)) return;
    }
}

/* ---- over ranks ---- */

static void over_ranks(lmoe__exam *x)
{
    static const lmoe__ranks_case cases[] = {
        {{{"ep", "parallel/ep", 2}}, 0},
        {{{"ep", "parallel/ep", 3}}, 0},
        {{{"ep", "parallel/ep", 4}}, 0},
        {{{"dp", "parallel/dp", 2}}, 0},
        {{{"dp", "parallel/dp", 3}}, 0},
        {{{"sp", "parallel/lasp2", 4}}, 0},
        {{{"dp", "parallel/dp", 2}, {"ep", "parallel/ep", 2}}, 0}};
    enum { CASES = sizeof cases / sizeof *cases, ROWS = 12, LENGTH = 8 };
    double worst = 0;
    int done = 0;
    for (int form = 0; form <= (x->level > LMOE__QUICK ? 2 : 0); form++) {
        lmoe__form f;
        if (!lmoe__form_make(x, form, &f)) {
            if (form == 0) return;
            continue;
        }
        lmoe__sheet s = lmoe__sheet_new(x, &f, ROWS, LENGTH, x->seed, 1);
        for (int i = 0; i < CASES; i++) {
            const char *refused;
            lmoe__check_case(x, "%s, %s", lmoe__ranks_text(x, &cases[i]), f.text);
            if (!lmoe__ranks_compare(x, &f, &s, &cases[i], &refused, &worst)) return;
            if (refused)
                lmoe__check_warn(x, "%s is refused: %s", lmoe__ranks_text(x, &cases[i]), refused);
            done += !refused;
        }
    }
    lmoe__check_note(x, "%d layouts, worst error %.1e", done, worst);
}

const lmoe__check lmoe__checks_routers[] = {
    {"routers", "choices",
     "Each token goes to top_k different experts that exist, with weights as declared.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 60, choices, 0},
    {"routers", "capacity", "No expert is chosen by more tokens than the router states.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 60, capacity, 0},
    {"routers", "identity",
     "Experts that return their input return it, times the sum of the weights.", LMOE_KIND_ROUTER,
     LMOE__QUICK, 60, identity, 0},
    {"routers", "permuted", "Tokens of a sequence in another order keep their experts.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 60, permuted, 0},
    {"routers", "relabelled", "Experts that are called otherwise get the same tokens.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 60, relabelled, 0},
    {"routers", "ties",
     "Where nothing tells experts apart, the choice is legal and the same again.", LMOE_KIND_ROUTER,
     LMOE__QUICK, 60, ties, 0},
    {"routers", "all_to_one", "All tokens to the same experts, none to the others, stays finite.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 60, all_to_one, 0},
    {"routers", "ranks", "Experts and rows split over 2, 3 and 4 ranks give what one rank gives.",
     LMOE_KIND_ROUTER, LMOE__QUICK, 120, over_ranks, 0},
    {NULL, NULL, NULL, NULL, 0, 0, NULL, 0}};
