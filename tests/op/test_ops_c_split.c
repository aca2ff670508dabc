/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_ops_c_split.c: a mixture of experts, its router and its gradients have the same
 * values on one rank and on several, whatever axis of whatever tensor is split.
 *
 *   p, index = top_k(probs)      rows = gather(x) sorted by expert
 *   y = combine(swiglu(rows gate, rows up) down, p)     loss = sum(y c)
 */
#include "core/graph/graph.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

enum { SIZE = 6, N_INPUTS = 6 }; /* every axis has 6 elements, for 2 or 3 ranks */

static const struct input {
    const char *name, *axes;
    lmoe_value_kind kind;
} inputs[N_INPUTS] = {
    {"x", "batch seq embed", LMOE_VALUE_INPUT},
    {"probs", "batch seq expert", LMOE_VALUE_INPUT},
    {"gate", "expert embed hidden", LMOE_VALUE_PARAM},
    {"up", "expert embed hidden", LMOE_VALUE_PARAM},
    {"down", "expert hidden embed", LMOE_VALUE_PARAM},
    {"c", "batch seq embed", LMOE_VALUE_INPUT},
};

/* ---- graphs of one rank or several, computed node by node by the references ---- */

enum { MAX_RANKS = 4 };

typedef struct machine {
    lmoe_ctx ctx;
    lmoe__arena *arena;
    int ranks;
    lmoe__graph *graph[MAX_RANKS];
    lmoe_buf *value[MAX_RANKS]; /* by value of the graph */
} machine;

static void *memory(machine *m, const lmoe_desc *d)
{
    return lmoe__arena_alloc(m->arena, (size_t)lmoe_desc_bytes(d) + 1);
}

static void machine_add(machine *m, lmoe__graph *g)
{
    lmoe_buf *v = LMOE_NEW_N(m->arena, lmoe_buf, g->n_values);
    for (int i = 1; i < g->n_values; i++) {
        const lmoe_desc *d = &g->values[i].desc;
        v[i] = (lmoe_buf){.data = memory(m, d), .dtype = d->dtype, .rank = d->rank};
        memcpy(v[i].dim, d->dim, sizeof v[i].dim);
    }
    m->graph[m->ranks] = g;
    m->value[m->ranks++] = v;
}

/* The collectives of all ranks at once. Returns false for any other op. */
static bool collect(machine *m, int index)
{
    const lmoe__node *n = &m->graph[0]->nodes[index];
    bool sum = strcmp(n->op->base.name, "all_reduce/1") == 0;
    if (!sum && strcmp(n->op->base.name, "all_gather/1") != 0) return false;
    int64_t count = lmoe_buf_count(&m->value[0][n->in[0]]);
    for (int to = 0; to < m->ranks; to++) {
        const lmoe_buf *y = &m->value[to][n->out[0]];
        for (int64_t i = 0; i < lmoe_buf_count(y); i++) {
            double x = 0;
            for (int from = 0; from < m->ranks; from++) {
                if (sum || from == i / count) x += lmoe_get(&m->value[from][n->in[0]], i % count);
            }
            lmoe_put(y, i, x);
        }
    }
    return true;
}

static void compute(machine *m)
{
    for (int i = 0; i < m->graph[0]->n_nodes; i++) {
        if (collect(m, i)) continue;
        for (int r = 0; r < m->ranks; r++) {
            const lmoe__node *n = &m->graph[r]->nodes[i];
            lmoe_buf in[LMOE_MAX_IO], out[LMOE_MAX_IO];
            for (int k = 0; k < n->n_in; k++) in[k] = m->value[r][n->in[k]];
            for (int k = 0; k < n->n_out; k++) out[k] = m->value[r][n->out[k]];
            lmoe_args a = {.size = sizeof a, .attrs = n->attrs, .n_in = n->n_in, .n_out = n->n_out};
            a.in = in;
            a.out = out;
            a.ctx = &m->ctx;
            ck_assert_msg(n->op->reference(&a) == LMOE_OK, "%s", m->ctx.message);
        }
    }
}

/* ---- the graph ---- */

static lmoe__graph *record(lmoe_ctx *ctx, const lmoe__op_set *set)
{
    static const int64_t dim[] = {SIZE, SIZE, SIZE};
    lmoe_trace t;
    lmoe_tensor in[N_INPUTS], d[N_INPUTS], index;
    lmoe__trace_init(&t, ctx, set, LMOE_F64);
    for (int i = 0; i < N_INPUTS; i++)
        in[i] =
            lmoe__trace_enter(&t, inputs[i].kind, inputs[i].name, LMOE_F64, inputs[i].axes, dim);
    lmoe_tensor p = lmoe_top_k(&t, in[1], 3, &index);
    lmoe_moe_order m = lmoe_moe_sort(&t, index, SIZE, 0);
    lmoe_tensor rows = lmoe_moe_gather(&t, in[0], m);
    lmoe_tensor gate = lmoe_grouped_linear(&t, rows, in[2], m.offsets);
    lmoe_tensor up = lmoe_grouped_linear(&t, rows, in[3], m.offsets);
    lmoe_tensor down = lmoe_grouped_linear(&t, lmoe_swiglu(&t, gate, up), in[4], m.offsets);
    lmoe_tensor y = lmoe_moe_combine(&t, down, m, p);
    lmoe_tensor loss = lmoe_sum(&t, "b s e -> ", lmoe_mul(&t, y, in[5]));
    lmoe_tensor squares = lmoe_apply_at(&t, LMOE_HERE, "sum_squares/1", &y, 1, NULL, 0, NULL, 0);
    ck_assert_msg(lmoe__vjp(&t, loss, in, N_INPUTS - 1, d) == LMOE_OK, "%s", ctx->message);
    lmoe__trace_result(&t, loss, "loss");
    lmoe__trace_result(&t, squares, "squares");
    lmoe__trace_result(&t, y, "y");
    lmoe__trace_result(&t, lmoe_histogram(&t, index, SIZE), "load");
    lmoe__trace_result(&t, lmoe_gather_last(&t, in[1], index), "again");
    for (int i = 0; i < N_INPUTS - 1; i++) {
        char name[32];
        snprintf(name, sizeof name, "grad:%s", inputs[i].name);
        lmoe__trace_result(&t, d[i], name);
    }
    ck_assert_msg(lmoe__trace_status(&t) == LMOE_OK, "%s", ctx->message);
    lmoe__graph *g = lmoe__trace_take_graph(&t);
    lmoe__trace_free(&t);
    return g;
}

/* ---- a strategy that splits what it is told ---- */

typedef struct layout {
    const char *split[N_INPUTS]; /* "NAME AXIS" */
} layout;

static const layout layouts[] = {
    {{NULL}},
    {{"x batch", "probs batch", "c batch"}},
    {{"x seq", "probs seq", "c seq"}},
    {{"gate hidden", "up hidden", "down hidden"}},
    {{"x embed", "c embed"}},
    {{"gate embed", "up embed", "down embed"}},
    {{"gate expert", "up expert", "down expert"}},
    {{"x batch"}},   /* the rows are of all tokens: x is gathered */
    {{"probs seq"}}, /* the rows are of a rank's tokens: x is cut */
    {{"c batch", "down embed"}},
    {{"x seq", "gate hidden"}},
    {{"probs seq", "gate hidden", "down embed"}}, /* a rank's own rows come first */
    {{"x embed", "probs batch"}},
    {{"probs expert", "up hidden"}},
};

static const layout *in_use;

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    if (strncmp(name, "grad:", 5) == 0) name += 5; /* gradients lie as their inputs do */
    for (int i = 0; i < N_INPUTS && in_use->split[i]; i++) {
        size_t n = strlen(name);
        if (strncmp(in_use->split[i], name, n) != 0 || in_use->split[i][n] != ' ') continue;
        out->kind = LMOE_SPLIT;
        out->dim = 0;
        while (strcmp(desc->axis[out->dim], in_use->split[i] + n + 1) != 0) out->dim++;
    }
    return LMOE_OK;
}

/* (rank ... n/ranks ...) -> (... n ...): rank moves before the axis and is merged with it. */
static lmoe_status gather(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v, int dim,
                          lmoe_value *out)
{
    lmoe_desc d;
    lmoe_einsum_attrs text = {""};
    lmoe_reshape_attrs merge = {.axis = dim};
    char *p = text.text;
    LMOE_TRY(api->describe(g, v, &d));
    *p++ = 'r';
    for (int i = 0; i < d.rank; i++) p += sprintf(p, " %c", 'a' + i);
    p += sprintf(p, " -> ");
    for (int i = 0; i < d.rank; i++) p += sprintf(p, i == dim ? "r %c " : "%c ", 'a' + i);
    snprintf(merge.outer_name, sizeof merge.outer_name, "%s", d.axis[dim]);
    LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &v, 1, &v, 1, NULL));
    LMOE_TRY(api->emit(g, "einsum/1", &text, sizeof text, &v, 1, &v, 1, NULL));
    return api->emit(g, "merge_axes/1", &merge, sizeof merge, &v, 1, out, 1, NULL);
}

static lmoe_status resolve(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value v, const lmoe_placement *have, const lmoe_placement *want,
                           lmoe_value *out)
{
    if (have->kind == LMOE_PARTIAL)
        LMOE_TRY(api->emit(g, "all_reduce/1", NULL, 0, &v, 1, &v, 1, NULL));
    if (have->kind == LMOE_SPLIT) LMOE_TRY(gather(api, g, v, have->dim, &v));
    *out = v;
    if (want->kind != LMOE_SPLIT) return LMOE_OK;
    lmoe_collective_attrs c = {.dim = want->dim};
    return api->emit(g, "shard/1", &c, sizeof c, &v, 1, out, 1, want);
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/test", "splits as told", NULL, 0,
             0},
    .place = place,
    .resolve = resolve,
};

/* ---- values ---- */

/* Copies the piece of a whole tensor (its bytes in `from`) that a placement gives to a rank. */
static void cut(const lmoe_buf *to, const lmoe_buf *from, const lmoe_placement *at, int rank)
{
    for (int64_t i = 0; i < lmoe_buf_count(to); i++) {
        int64_t rest = i, place_in = 0, stride = 1;
        for (int k = to->rank - 1; k >= 0; k--) {
            int64_t x = rest % to->dim[k];
            rest /= to->dim[k];
            if (at->kind == LMOE_SPLIT && at->dim == k) x += rank * to->dim[k];
            place_in += x * stride;
            stride *= from->dim[k];
        }
        lmoe_put(to, i, lmoe_get(from, place_in));
    }
}

static void fill_inputs(machine *m)
{
    for (int i = 0; i < N_INPUTS; i++) {
        const lmoe_buf *b = &m->value[0][lmoe__graph_find(m->graph[0], inputs[i].name)];
        for (int64_t k = 0; k < lmoe_buf_count(b); k++)
            lmoe_put(b, k, lmoe__normal(5, (uint64_t)i, (uint64_t)k));
    }
}

static const lmoe_buf *result(const machine *m, int rank, int i)
{
    return &m->value[rank][m->graph[rank]->results[i].value];
}

static void compare(machine *whole, machine *m, const lmoe__layout *placed, int n_placed)
{
    for (int i = 0; i < whole->graph[0]->n_results; i++) {
        const char *name = whole->graph[0]->results[i].name;
        lmoe_placement at = {LMOE_WHOLE, 0};
        for (int k = 0; strncmp(name, "grad:", 5) == 0 && k < n_placed; k++)
            if (strcmp(placed[k].name, name + 5) == 0) at = placed[k].place;
        for (int r = 0; r < m->ranks; r++) {
            const lmoe_buf *got = result(m, r, i);
            lmoe_buf want = *got;
            want.data = lmoe__arena_alloc(m->arena, 8 * (size_t)lmoe_buf_count(got));
            cut(&want, result(whole, 0, i), &at, r);
            for (int64_t k = 0; k < lmoe_buf_count(got); k++) {
                double x = lmoe_get(got, k), y = lmoe_get(&want, k);
                ck_assert_msg(fabs(x - y) <= 1e-11 * fmax(1, fabs(y)),
                              "%s on rank %d of %d, element %lld: %.17g, not %.17g", name, r,
                              m->ranks, (long long)k, x, y);
            }
        }
    }
}

static void check_layout(const layout *l, int ranks)
{
    machine whole = {.arena = lmoe__arena_new()}, m = {.arena = lmoe__arena_new()};
    lmoe__op_set set;
    lmoe__layout *placed[MAX_RANKS];
    int n_placed = 0;
    in_use = l;
    lmoe__ctx_init(&whole.ctx);
    lmoe__op_set_init(&set);
    lmoe__graph *g = record(&whole.ctx, &set);
    machine_add(&whole, g);
    fill_inputs(&whole);
    compute(&whole);
    for (int r = 0; r < ranks; r++) {
        lmoe__mesh_axis axis = {"test", 0, r, ranks, &strategy, NULL};
        lmoe__graph *part;
        lmoe_status status = lmoe__split(&whole.ctx, &set, g, &axis, &part, &placed[r], &n_placed);
        ck_assert_msg(status == LMOE_OK, "%s", whole.ctx.message);
        machine_add(&m, part);
        for (int k = 0; k < n_placed; k++) {
            int32_t from = lmoe__graph_find(g, placed[r][k].name);
            int32_t to = lmoe__graph_find(part, placed[r][k].name);
            cut(&m.value[r][to], &whole.value[0][from], &placed[r][k].place, r);
        }
    }
    compute(&m);
    compare(&whole, &m, placed[0], n_placed);
    for (int r = 0; r < ranks; r++) {
        free(placed[r]);
        lmoe__graph_free(m.graph[r]);
    }
    lmoe__graph_free(g);
    lmoe__op_set_free(&set);
    lmoe__arena_free(whole.arena);
    lmoe__arena_free(m.arena);
}

START_TEST(layouts_agree)
{
    check_layout(&layouts[_i], 1);
    check_layout(&layouts[_i], 2);
    check_layout(&layouts[_i], 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops_c_split");
    TCase *c = tcase_create("layouts");
    tcase_set_timeout(c, 30);
    tcase_add_loop_test(c, layouts_agree, 0, (int)(sizeof layouts / sizeof *layouts));
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
