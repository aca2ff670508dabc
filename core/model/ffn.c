/* SPDX-License-Identifier: Apache-2.0
 * core/model/ffn.c: the feed-forward of a block: one for every token, or a mixture of experts.
 *
 *   dense    y = down(f(gate x) * (up x)), or without gate down(f(up x))
 *   experts  index, weight = router(x)      tokens become rows, sorted by expert
 *            y = sum over choices of weight * expert(x), plus the shared expert
 *
 * Kept for the backward pass are x, where rows lie, and what the experts' first products give. The
 * rows themselves and the activations are made again: a copy and a pass over memory, against products
 * that cost a hundred times more. With `recompute = experts` the first products are made again too.
 */
#include "core/model/model.h"

#include <lmoe/nn.h>

static lmoe_tensor residual_weight(lmoe_trace *t, const char *name, const char *axes, int64_t a,
                                   int64_t b, int64_t c)
{
    lmoe_param_def d = {.size = sizeof d, .name = name, .axes = axes, .dim = {a, b, c}};
    d.flags = LMOE_PARAM_RESIDUAL;
    return lmoe_param(t, &d);
}

static bool gated(const lmoe__model *m)
{
    return m->ffn.activation == LMOE__FFN_SWIGLU || m->ffn.activation == LMOE__FFN_GEGLU;
}

/* ---- for every token ---- */

/* gate: absent without one */
static lmoe_tensor activate(lmoe_trace *t, const lmoe__model *m, lmoe_tensor gate, lmoe_tensor up)
{
    switch (m->ffn.activation) {
    case LMOE__FFN_SWIGLU: return lmoe_swiglu(t, gate, up);
    case LMOE__FFN_GEGLU: return lmoe_mul(t, lmoe_map(t, gate, LMOE_MAP_GELU), up);
    case LMOE__FFN_GELU: return lmoe_map(t, up, LMOE_MAP_GELU);
    default: return lmoe_map(t, lmoe_relu(t, up), LMOE_MAP_SQUARE);
    }
}

static lmoe_tensor dense_weight(lmoe_trace *t, const char *prefix, const char *name, int64_t hidden)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return lmoe_matrix(t, full, "embed hidden", lmoe_size(t, "embed"), hidden, 0);
}

static lmoe_tensor dense(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x, const char *prefix,
                         int64_t hidden)
{
    char name[64];
    lmoe_tensor gate = lmoe_absent();
    if (gated(m))
        gate = lmoe_einsum(t, "b s e, e f -> b s f", x,
                           dense_weight(t, prefix, "gate_proj.weight", hidden));
    lmoe_tensor up =
        lmoe_einsum(t, "b s e, e f -> b s f", x, dense_weight(t, prefix, "up_proj.weight", hidden));
    snprintf(name, sizeof name, "%sdown_proj.weight", prefix);
    lmoe_tensor down = residual_weight(t, name, "hidden embed", hidden, m->o.embed, 0);
    return lmoe_einsum(t, "b s f, f e -> b s e", activate(t, m, gate, up), down);
}

static lmoe_tensor shared_expert(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x)
{
    lmoe_tensor y = dense(t, m, x, "shared_expert.", m->ffn.shared_hidden);
    if (!m->ffn.shared_gate) return y;
    lmoe_tensor w = lmoe_vector(t, "shared_expert_gate.weight", "embed", m->o.embed, 0.0);
    lmoe_tensor gate = lmoe_sigmoid(t, lmoe_einsum(t, "b s e, e -> b s", x, w));
    return lmoe_mul(t, y, gate);
}

/* ---- experts ---- */

/* The router's choice; false if it failed. */
static bool route(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x, lmoe_routing *r)
{
    void *params = lmoe__arena_alloc(t->graph->arena, m->router->params_size + 1);
    const char *class_name = t->class_name;
    t->class_name = m->router->base.name;
    bool ok = m->router->params(t, m->router_options, params) == LMOE_OK &&
              m->router->forward(t, m->router_options, params, x, r) == LMOE_OK;
    if (!ok) lmoe_fail(t, "the router reported a failure without a message");
    t->class_name = class_name;
    return ok;
}

/* Most tokens of a sequence that an expert gets, 0 for any number. There is none in generation:
 * whether a token is dropped would depend on those that come after it. */
static int64_t capacity_of(lmoe_trace *t, const lmoe__model *m)
{
    double factor = lmoe_size(t, "training") == 1 ? m->ffn.capacity : m->ffn.capacity_eval;
    if (factor <= 0 || lmoe_size(t, "generating") == 1) return 0;
    double seq = (double)lmoe_size(t, "seq");
    double fair = seq * (double)m->ffn.top_k / (double)m->ffn.experts;
    return (int64_t)fmin(fmax(ceil(factor * fair - 1e-9), 1), seq);
}

/* Experts that get too many tokens drop some. */
static void limit(lmoe_trace *t, const lmoe__model *m, lmoe_routing *r)
{
    int64_t capacity = capacity_of(t, m);
    if (capacity == 0) return;
    lmoe_tensor score = m->ffn.drop == LMOE__DROP_PROBABILITY ? r->weight : lmoe_absent();
    r->index = lmoe_moe_capacity(t, r->index, score, m->ffn.experts, capacity);
    if (r->capacity == 0 || capacity < r->capacity) r->capacity = capacity;
    lmoe_add_stat(t, "moe/kept", lmoe_histogram(t, r->index, m->ffn.experts));
}

lmoe_tensor lmoe__experts(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x, const lmoe_routing *r)
{
    static const lmoe_act_fn fn[] = {LMOE_ACT_SILU, LMOE_ACT_GELU, LMOE_ACT_GELU, LMOE_ACT_RELU2};
    const int64_t e = m->o.embed, f = m->ffn.hidden, n = m->ffn.experts;
    lmoe_tensor gate_w = lmoe_absent(), gate = lmoe_absent();
    if (gated(m))
        gate_w = lmoe_cube(t, "experts.gate_proj.weight", "expert embed hidden", n, e, f, 0);
    lmoe_tensor up_w = lmoe_cube(t, "experts.up_proj.weight", "expert embed hidden", n, e, f, 0);
    lmoe_tensor down_w =
        residual_weight(t, "experts.down_proj.weight", "expert hidden embed", n, f, e);
    lmoe_moe_order order = lmoe_moe_sort(t, r->index, n, r->capacity);
    t->recompute = true;
    lmoe_tensor rows = lmoe_moe_gather(t, x, order);
    lmoe_tensor scale = lmoe_moe_weight(t, r->weight, order);
    t->recompute = t->recompute_cheap;
    if (gated(m)) gate = lmoe_grouped_linear(t, rows, gate_w, order.offsets);
    lmoe_tensor up = lmoe_grouped_linear(t, rows, up_w, order.offsets);
    t->recompute = true;
    lmoe_tensor h = gated(m) ? lmoe_expert_act(t, gate, up, scale, fn[m->ffn.activation])
                             : lmoe_expert_act(t, up, gate, scale, fn[m->ffn.activation]);
    t->recompute = false;
    lmoe_tensor y = lmoe_grouped_linear(t, h, down_w, order.offsets);
    return lmoe_moe_combine(t, y, order, lmoe_absent());
}

lmoe_tensor lmoe__feed_forward(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x)
{
    lmoe_routing r = {.size = sizeof r};
    if (m->ffn.kind == LMOE__FFN_DENSE) return dense(t, m, x, "", m->ffn.hidden);
    if (!route(t, m, x, &r)) return x;
    lmoe_add_stat(t, "moe/load", lmoe_histogram(t, r.index, m->ffn.experts));
    limit(t, m, &r);
    lmoe_tensor y = lmoe__experts(t, m, x, &r);
    return m->ffn.shared_hidden ? lmoe_add(t, y, shared_expert(t, m, x)) : y;
}
