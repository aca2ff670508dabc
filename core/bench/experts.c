/* SPDX-License-Identifier: Apache-2.0
 * core/bench/experts.c: lmoe bench experts: a mixture of experts, forward and backward, without a
 * router: its time against the same products with one matrix, and what it keeps for the backward
 * pass.
 *
 * With skew s expert i is chosen in proportion to 1 / (i + 1)^s (Zipf); 0: all alike. Runs take turns
 * and the shortest of each counts, so that what else the machine does matters little.
 */
#include "core/bench/bench.h"
#include "core/engine/engine.h"

#include <lmoe/nn.h>

#include <math.h>
#include <stdlib.h>

typedef struct bench_program {
    lmoe__graph *graph;
    lmoe__plan *plan;
    double flops, best; /* of products; seconds */
} bench_program;

typedef struct experts_bench {
    lmoe__bench *b;
    lmoe__experts_options o;
    lmoe__op_set ops;
    lmoe__model model;
    lmoe__store store;
} experts_bench;

/* ---- graphs ---- */

static lmoe_tensor enter(lmoe_trace *t, const char *name, const char *axes, int64_t a, int64_t b,
                         int64_t c)
{
    const int64_t dim[3] = {a, b, c};
    lmoe_dtype dtype = strcmp(name, "in:index") == 0 ? LMOE_I32 : t->dtype;
    return lmoe__trace_enter(t, LMOE_VALUE_INPUT, name, dtype, axes, dim);
}

/* The derivative of sum(y dy) by all weights and by `wrt`. */
static void backward(lmoe_trace *t, lmoe_tensor y, lmoe_tensor dy, const lmoe_tensor *wrt, int n)
{
    lmoe_tensor in[16], d[16];
    int all = 0;
    for (int i = 0; i < n; i++) in[all++] = wrt[i];
    for (int i = 0; i < t->n_weights; i++) in[all++].id = t->weights[i].value;
    lmoe_desc desc;
    bool rows = lmoe_describe(t, y, &desc) == LMOE_OK && desc.rank == 2;
    lmoe_tensor loss = lmoe_einsum(t, rows ? "r e, r e ->" : "b s e, b s e ->", y, dy);
    lmoe__vjp(t, loss, in, all, d);
    for (int i = 0; i < all; i++) {
        char name[32];
        snprintf(name, sizeof name, "out:d%d", i);
        lmoe__trace_result(t, d[i], name);
    }
}

static void record_experts(lmoe_trace *t, const experts_bench *e, bool train)
{
    const lmoe__experts_options *o = &e->o;
    lmoe_tensor x = enter(t, "in:x", "batch seq embed", 1, o->tokens, o->embed);
    lmoe_routing r = {.size = sizeof r};
    r.index = enter(t, "in:index", "batch seq choice", 1, o->tokens, o->top_k);
    r.weight = enter(t, "in:weight", "batch seq choice", 1, o->tokens, o->top_k);
    lmoe_tensor y = lmoe__experts(t, &e->model, x, &r);
    lmoe__trace_result(t, y, "out:y");
    if (!train) return;
    lmoe_tensor dy = enter(t, "in:dy", "batch seq embed", 1, o->tokens, o->embed);
    backward(t, y, dy, (lmoe_tensor[]){x, r.weight}, 2);
}

/* All rows by one matrix, as often as an expert multiplies. */
static void record_products(lmoe_trace *t, const experts_bench *e, bool train)
{
    const int64_t rows = e->o.tokens * e->o.top_k, embed = e->o.embed, hidden = e->o.hidden;
    lmoe_tensor x = enter(t, "in:rows", "row embed", rows, embed, 0);
    lmoe_tensor h = enter(t, "in:h", "row hidden", rows, hidden, 0);
    lmoe_tensor up = lmoe_matrix(t, "one.up", "embed hidden", embed, hidden, 0);
    lmoe_tensor down = lmoe_matrix(t, "one.down", "hidden embed", hidden, embed, 0);
    lmoe_tensor y[3] = {lmoe_einsum(t, "r e, e f -> r f", x, up),
                        lmoe_einsum(t, "r e, e f -> r f", h, down)};
    lmoe__trace_result(t, y[0], "out:y0");
    lmoe__trace_result(t, y[1], "out:y1");
    if (!train) return;
    lmoe_tensor dy[2] = {h, x};
    static const char *const texts[2][2] = {{"r f, e f -> r e", "r e, r f -> e f"},
                                            {"r e, f e -> r f", "r f, r e -> f e"}};
    for (int i = 0; i < 2; i++) {
        char name[32];
        snprintf(name, sizeof name, "out:p%d", i);
        lmoe__trace_result(t, lmoe_einsum(t, texts[i][0], dy[i], i == 0 ? up : down), name);
        snprintf(name, sizeof name, "out:q%d", i);
        lmoe__trace_result(t, lmoe_einsum(t, texts[i][1], i == 0 ? x : h, dy[i]), name);
    }
}

static double product_flops(const lmoe__graph *g)
{
    double all = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const lmoe__node *n = &g->nodes[i];
        lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO];
        if (strncmp(n->op->base.name, "grouped_", 8) != 0 && n->op != &lmoe__op_einsum) continue;
        for (int k = 0; k < n->n_in; k++) in[k] = g->values[n->in[k]].desc;
        for (int k = 0; k < n->n_out; k++) out[k] = g->values[n->out[k]].desc;
        all += n->op->flops(n->attrs, in, n->n_in, out, n->n_out);
    }
    return all;
}

static lmoe_status make(experts_bench *e, void (*record)(lmoe_trace *, const experts_bench *, bool),
                        bool train, bench_program *p)
{
    lmoe_trace t;
    lmoe__trace_init(&t, e->b->ctx, &e->ops, e->b->dtype);
    lmoe__trace_set_size(&t, "embed", e->o.embed);
    record(&t, e, train);
    lmoe_status status = lmoe__trace_status(&t);
    if (status == LMOE_OK) {
        p->graph = lmoe__trace_take_graph(&t);
        p->flops = product_flops(p->graph);
        p->best = INFINITY;
        status = lmoe__plan_new(e->b->ctx, p->graph, &e->store, NULL, &p->plan);
    }
    lmoe__trace_free(&t);
    return status;
}

/* ---- what is kept ---- */

/* Elements of values that the forward pass (or an input) makes and the backward pass reads. Integers
 * and numbers for each row alone, such as where rows lie, are counted apart. */
static void count_kept(const lmoe__graph *g, double *numbers, double *indices)
{
    *numbers = *indices = 0;
    for (int v = 1; v < g->n_values; v++) {
        const lmoe__value *x = &g->values[v];
        bool forward = x->node < 0 ? x->kind == LMOE_VALUE_INPUT && strcmp(x->name, "in:dy") != 0
                                   : g->nodes[x->node].forward < 0;
        bool read = false;
        for (int i = 0; i < g->n_nodes && forward && !read; i++) {
            const lmoe__node *n = &g->nodes[i];
            for (int k = 0; n->forward >= 0 && k < n->n_in; k++) read |= n->in[k] == v;
        }
        if (!read || x->desc.rank == 0) continue; /* the seed of the backward pass is a scalar */
        bool index = !lmoe_dtype_is_float(x->desc.dtype);
        bool one = x->name && strcmp(x->name, "in:weight") == 0; /* the router's */
        *(index || one ? indices : numbers) += (double)lmoe_desc_count(&x->desc);
    }
}

/* ---- inputs ---- */

/* Expert of a draw u of [0, 1): the place of u among the sums of the shares. */
static int32_t expert_at(const double *sums, int64_t n, double u)
{
    int64_t i = 0;
    while (i < n - 1 && u * sums[n - 1] >= sums[i]) i++;
    return (int32_t)i;
}

/* top_k different experts for each token */
static void draw_index(const experts_bench *e, double skew, int32_t *index)
{
    const lmoe__experts_options *o = &e->o;
    double *sums = lmoe__malloc(sizeof *sums * (size_t)o->experts);
    uint64_t draw = 0;
    for (int64_t i = 0; i < o->experts; i++)
        sums[i] = (i ? sums[i - 1] : 0) + pow((double)(i + 1), -skew);
    for (int64_t s = 0; s < o->tokens; s++) {
        for (int64_t k = 0; k < o->top_k;) {
            int32_t x = expert_at(sums, o->experts, lmoe__uniform(1, 2, draw++));
            bool taken = false;
            for (int64_t j = 0; j < k; j++) taken |= index[s * o->top_k + j] == x;
            if (!taken) index[s * o->top_k + k++] = x;
        }
    }
    free(sums);
}

static lmoe_status fill(experts_bench *e, double skew)
{
    for (int i = 0; i < e->store.count; i++) {
        lmoe__buffer *x = &e->store.buffers[i];
        int64_t n = lmoe_desc_count(&x->desc);
        lmoe_buf host = {.data = lmoe__malloc((size_t)lmoe_desc_bytes(&x->desc) + 1),
                         .dtype = x->desc.dtype};
        bool index = x->desc.dtype == LMOE_I32, weight = x->kind == LMOE__MEM_WEIGHT;
        if (index) draw_index(e, skew, host.data);
        for (int64_t k = 0; k < n && !index; k++) {
            double u = lmoe__normal(3, (uint64_t)i, (uint64_t)k);
            lmoe_put(&host, k, weight ? 0.05 * u : u);
        }
        lmoe_status status = e->b->on.device->upload(e->b->on.dev, x->data, host.data,
                                                     (size_t)lmoe_desc_bytes(&x->desc));
        free(host.data);
        LMOE_TRY(status);
    }
    return LMOE_OK;
}

/* ---- times ---- */

static lmoe_status time_once(experts_bench *e, bench_program *p)
{
    double start = lmoe__now();
    LMOE_TRY(lmoe__plan_replay(p->plan));
    LMOE_TRY(e->b->on.device->synchronize(e->b->on.dev));
    p->best = fmin(p->best, lmoe__now() - start);
    return LMOE_OK;
}

static void print_line(FILE *out, const char *what, const bench_program *p, double rate)
{
    double own = p->flops / p->best;
    fprintf(out, "%-28s %10.2f ms %10.1f GFLOP/s %8.1f %%\n", what, 1e3 * p->best, 1e-9 * own,
            100 * own / rate);
}

enum { ONE_FORWARD, ONE, FORWARD, TRAIN, PROGRAMS };

static lmoe_status measure(experts_bench *e, bench_program *p)
{
    FILE *out = e->b->out;
    double even = 0, numbers, indices;
    for (int skewed = 0; skewed < 2; skewed++) {
        double skew = skewed ? e->o.skew : 0;
        LMOE_TRY(fill(e, skew));
        p[FORWARD].best = p[TRAIN].best = INFINITY;
        for (int64_t i = 0; i < e->o.repeats + 1; i++) {
            for (int k = 0; k < PROGRAMS; k++) {
                if (i == 0) LMOE_TRY(lmoe__plan_replay(p[k].plan)); /* unmeasured */
                LMOE_TRY(time_once(e, &p[k]));
            }
        }
        if (!skewed) {
            print_line(out, "one matrix, forward", &p[ONE_FORWARD],
                       p[ONE_FORWARD].flops / p[ONE_FORWARD].best);
            print_line(out, "one matrix, all products", &p[ONE], p[ONE].flops / p[ONE].best);
            even = p[TRAIN].best;
        }
        fprintf(out, "experts alike by Zipf's exponent %g:\n", skew);
        print_line(out, "  forward", &p[FORWARD], p[ONE_FORWARD].flops / p[ONE_FORWARD].best);
        print_line(out, "  forward and backward", &p[TRAIN], p[ONE].flops / p[ONE].best);
        if (skewed) fprintf(out, "  %.2f times the time of even loads\n", p[TRAIN].best / even);
    }
    count_kept(p[TRAIN].graph, &numbers, &indices);
    fprintf(out, "kept for the backward pass, per token: %g numbers, %g of routing\n",
            numbers / (double)e->o.tokens, indices / (double)e->o.tokens);
    return LMOE_OK;
}

static lmoe_status with_store(experts_bench *e)
{
    bench_program p[PROGRAMS] = {{0}};
    int64_t activations = 0, workspace = 0;
    lmoe_status status = make(e, record_products, false, &p[ONE_FORWARD]);
    if (status == LMOE_OK) status = make(e, record_products, true, &p[ONE]);
    if (status == LMOE_OK) status = make(e, record_experts, false, &p[FORWARD]);
    if (status == LMOE_OK) status = make(e, record_experts, true, &p[TRAIN]);
    for (int i = 0; i < PROGRAMS && status == LMOE_OK; i++) {
        activations = activations > p[i].plan->arena_bytes ? activations : p[i].plan->arena_bytes;
        workspace = workspace > p[i].plan->workspace_bytes ? workspace : p[i].plan->workspace_bytes;
    }
    void *a = NULL, *w = NULL;
    if (status == LMOE_OK) {
        a = lmoe__store_block(&e->store, (size_t)activations, LMOE__MEM_ACTIVATION);
        w = lmoe__store_block(&e->store, (size_t)workspace, LMOE__MEM_WORKSPACE);
        if (!a || !w) status = e->b->ctx->status;
    }
    for (int i = 0; i < PROGRAMS && status == LMOE_OK; i++)
        status = lmoe__plan_bind(p[i].plan, a, w);
    if (status == LMOE_OK) status = measure(e, p);
    for (int i = 0; i < PROGRAMS; i++) {
        lmoe__plan_free(p[i].plan);
        lmoe__graph_free(p[i].graph);
    }
    e->b->on.device->free(e->b->on.dev, a);
    e->b->on.device->free(e->b->on.dev, w);
    return status;
}

lmoe_status lmoe__bench_experts(lmoe__bench *b, const lmoe__experts_options *o)
{
    experts_bench e = {.b = b, .o = *o};
    if (o->top_k > o->experts)
        return lmoe_error(b->ctx, LMOE_E_CONFIG, "--top_k %lld is more than --experts %lld",
                          (long long)o->top_k, (long long)o->experts);
    e.model.o.embed = o->embed;
    e.model.ffn = (lmoe__ffn_options){
        .hidden = o->hidden, .experts = o->experts, .top_k = o->top_k, .kind = LMOE__FFN_MOE};
    lmoe__op_set_init(&e.ops);
    lmoe__store_init(&e.store, b->ctx, b->on.device, b->on.dev);
    fprintf(b->out, "%lld tokens, %lld of %lld experts, embed %lld, hidden %lld, %d threads\n",
            (long long)o->tokens, (long long)o->top_k, (long long)o->experts, (long long)o->embed,
            (long long)o->hidden, lmoe_threads(b->ctx));
    lmoe_status status = with_store(&e);
    lmoe__store_free(&e.store);
    lmoe__op_set_free(&e.ops);
    return status;
}
