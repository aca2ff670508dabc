/* SPDX-License-Identifier: Apache-2.0
 * lmoe/route.h: compositions of ops that routers share. Inline code over lmoe/ops.h; never part of
 * the ABI. Letters: b batch, s seq, e embed, x expert, c choice, g group.
 */
#ifndef LMOE_ROUTE_H
#define LMOE_ROUTE_H

#include <lmoe/nn.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- scores ---- */

/* Declares the router's matrix, (embed expert). */
static inline lmoe_tensor lmoe_route_gate(lmoe_trace *t)
{
    return lmoe_matrix(t, "gate.weight", "embed expert", lmoe_size(t, "embed"),
                       lmoe_size(t, "experts"), 0);
}

/* x (b s e) times it, in the state dtype: (b s x). */
static inline lmoe_tensor lmoe_route_logits(lmoe_trace *t, lmoe_tensor x, lmoe_tensor gate)
{
    return lmoe_f32(t, lmoe_einsum(t, "b s e, e x -> b s x", x, gate));
}

/* In training each element of x (... n) times a random number of [1 - eps, 1 + eps); else x. */
static inline lmoe_tensor lmoe_route_jitter(lmoe_trace *t, lmoe_tensor x, double eps)
{
    lmoe_desc d;
    if (eps <= 0 || lmoe_size(t, "training") != 1) return x;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    lmoe_tensor u = lmoe_random(t, lmoe_ambient_value(t, LMOE_AMBIENT_NOISE), d.axis[d.rank - 1],
                                d.dim[d.rank - 1], lmoe_size(t, "layer") + 1);
    return lmoe_mul(t, x, lmoe_cast(t, lmoe_affine(t, u, 2 * eps, 1 - eps), d.dtype));
}

/* weights (b s c) divided by their sum over the choices. */
static inline lmoe_tensor lmoe_route_normalise(lmoe_trace *t, lmoe_tensor weights)
{
    lmoe_tensor sum = lmoe_affine(t, lmoe_sum(t, "b s c -> b s", weights), 1, 1e-20);
    return lmoe_div(t, weights, sum);
}

/* Puts 1 at the places index (... c) of a last axis of n: (... n). ones: (... c). */
static inline lmoe_tensor lmoe_route_marks(lmoe_trace *t, lmoe_tensor ones, lmoe_tensor index,
                                           const char *axis, int64_t n)
{
    lmoe_scatter_attrs o;
    lmoe_tensor in[2] = {ones, index};
    memset(&o, 0, sizeof o);
    o.n = n;
    strncpy(o.axis, axis, sizeof o.axis - 1);
    return lmoe_apply_at(t, LMOE_HERE, "scatter_last/1", in, 2, &o, sizeof o, NULL, 0);
}

/* Scores (b s x) with those far below zero that are not in the `kept` best of `groups` groups of
 * experts side by side. A group is as good as the sum of its `best` largest scores. */
static inline lmoe_tensor lmoe_route_groups(lmoe_trace *t, lmoe_tensor scores, int64_t groups,
                                            int64_t kept, int64_t best)
{
    int64_t experts = lmoe_size(t, "experts");
    lmoe_tensor index;
    if (groups <= 1 || kept >= groups) return scores;
    if (experts % groups != 0 || best > experts / groups)
        return lmoe_fail(t,
                         "%d experts cannot be cut into %d groups of at least %d; choose groups "
                         "that divide the experts",
                         (int)experts, (int)groups, (int)best);
    if (kept * (experts / groups) < lmoe_size(t, "top_k"))
        return lmoe_fail(t, "%d groups of %d experts are too few for top_k = %d", (int)kept,
                         (int)(experts / groups), (int)lmoe_size(t, "top_k"));
    lmoe_tensor parts = lmoe_split_axis(t, scores, "expert", "group", experts / groups, "expert");
    lmoe_tensor values = lmoe_top_k(t, parts, best, &index);
    values = lmoe_top_k(t, lmoe_sum(t, "b s g c -> b s g", values), kept, &index);
    lmoe_tensor marks = lmoe_route_marks(t, lmoe_fill_like(t, values, 1), index, "group", groups);
    parts = lmoe_add(t, parts, lmoe_affine(t, marks, 1e30, -1e30)); /* + 0, or - 1e30 */
    return lmoe_merge_axes(t, parts, "group", "expert");
}

/* ---- losses ---- */

typedef enum lmoe_route_scope {
    LMOE_SCOPE_MICRO_BATCH = 0, /* means over the micro-batch of all ranks */
    LMOE_SCOPE_SEQUENCE = 1     /* means over one sequence; the loss is the mean over sequences */
} lmoe_route_scope;

/* How often experts were chosen for a token, f, and their mean probability, P: (x), or (b x) with
 * means over one sequence. f is counted: gradients go through P. */
typedef struct lmoe_route_shares {
    lmoe_tensor f, p;
    double means; /* number of sequences that the loss is a mean of */
} lmoe_route_shares;

/* probs (b s x), index (b s c), weights (b s c, only for their shape) */
static inline lmoe_route_shares lmoe_route_share(lmoe_trace *t, lmoe_tensor probs,
                                                 lmoe_tensor index, lmoe_tensor weights,
                                                 lmoe_route_scope scope)
{
    int64_t experts = lmoe_size(t, "experts");
    double batch = (double)lmoe_axis_size(t, probs, "batch");
    double seq = (double)lmoe_axis_size(t, probs, "seq");
    lmoe_route_shares r = {{0}, {0}, 1};
    if (scope == LMOE_SCOPE_MICRO_BATCH) {
        r.f = lmoe_mul_scalar(t, lmoe_histogram(t, index, experts), 1 / (batch * seq));
        r.p = lmoe_mul_scalar(t, lmoe_sum(t, "b s x -> x", probs), 1 / (batch * seq));
        return r;
    }
    lmoe_tensor marks =
        lmoe_route_marks(t, lmoe_fill_like(t, weights, 1), index, "expert", experts);
    r.f = lmoe_mul_scalar(t, lmoe_sum(t, "b s x -> b x", marks), 1 / seq);
    r.p = lmoe_mul_scalar(t, lmoe_sum(t, "b s x -> b x", probs), 1 / seq);
    r.means = batch;
    return r;
}

/* Adds the loss: factor * sum over experts of f P. */
static inline void lmoe_route_loss(lmoe_trace *t, const char *name, lmoe_route_shares r,
                                   double factor)
{
    lmoe_desc d;
    if (lmoe_describe(t, r.f, &d) != LMOE_OK) return;
    lmoe_tensor dot = lmoe_einsum(t, d.rank == 1 ? "x, x ->" : "b x, b x ->", r.p, r.f);
    lmoe_add_loss(t, name, lmoe_mul_scalar(t, dot, factor / r.means));
}

/* Adds the loss: factor * mean over tokens of logsumexp(logits)^2. */
static inline void lmoe_route_z_loss(lmoe_trace *t, lmoe_tensor logits, double factor)
{
    lmoe_tensor z = lmoe_logsumexp(t, logits);
    double tokens = (double)lmoe_axis_size(t, z, "batch") * (double)lmoe_axis_size(t, z, "seq");
    lmoe_tensor sum = lmoe_sum(t, "b s ->", lmoe_map(t, z, LMOE_MAP_SQUARE));
    lmoe_add_loss(t, "z_loss", lmoe_mul_scalar(t, sum, factor / tokens));
}

#ifdef __cplusplus
}
#endif
#endif
