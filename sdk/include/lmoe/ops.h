/* SPDX-License-Identifier: Apache-2.0
 * lmoe/ops.h: the ops that lmoe brings, as calls. Each is an inline wrapper over lmoe_apply,
 * exactly what the header of a stranger's op would hold. Shapes are written in axis names; `...` is
 * any leading axes. "state dtype" is f32 (f64 in gradient checks).
 *
 * Wrappers are macros over *_at functions so that a node remembers the line of the layer that
 * recorded it.
 */
#ifndef LMOE_OPS_H
#define LMOE_OPS_H

#include <lmoe/api.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline lmoe_tensor lmoe_apply_at(lmoe_trace *t, const char *file, int line, const char *op,
                                        const lmoe_tensor *in, int32_t n_in, const void *attrs,
                                        size_t attrs_size, lmoe_tensor *out, int32_t n_out)
{
    lmoe_call call = {sizeof(lmoe_call), op, in, n_in, attrs, attrs_size, out, n_out, file, line};
    return lmoe_apply(t, &call);
}

#define LMOE_HERE __FILE__, __LINE__

/* ---- einsum/1: products, sums and transpositions over named letters
 * "b s e, e h k -> b s h k": letters are local to the text; the result's axis names come from the
 * operands. One operand: sums and permutes. A letter occurs at most once in a term and names the
 * same axis in both. Result dtype: the operands' widest. */
typedef struct lmoe_einsum_attrs {
    char text[96];
} lmoe_einsum_attrs;

static inline lmoe_tensor lmoe_einsum_at(lmoe_trace *t, const char *file, int line,
                                         const char *text, lmoe_tensor a, lmoe_tensor b)
{
    lmoe_einsum_attrs o;
    memset(&o, 0, sizeof o);
    if (strlen(text) >= sizeof o.text)
        return lmoe_fail_at(t, file, line, "einsum text '%s' is too long", text);
    strcpy(o.text, text);
    lmoe_tensor in[2] = {a, b};
    return lmoe_apply_at(t, file, line, "einsum/1", in, lmoe_is_absent(b) ? 1 : 2, &o, sizeof o,
                         NULL, 0);
}
#define lmoe_einsum(t, text, a, b) lmoe_einsum_at((t), LMOE_HERE, (text), (a), (b))
#define lmoe_sum(t, text, a)       lmoe_einsum_at((t), LMOE_HERE, (text), (a), lmoe_absent())

/* ---- add/1, multiply/1, divide/1: element-wise, b broadcast over a
 * b's axes are a run of a's axes (all, leading, trailing, in between) or none.
 * start: index in a of b's first axis. */
typedef struct lmoe_binary_attrs {
    int64_t start;
} lmoe_binary_attrs;

static inline lmoe_tensor lmoe_binary_at(lmoe_trace *t, const char *file, int line, const char *op,
                                         lmoe_tensor a, lmoe_tensor b)
{
    lmoe_desc da, db;
    if (lmoe_describe(t, a, &da) != LMOE_OK) return a;
    if (lmoe_describe(t, b, &db) != LMOE_OK) return b;
    lmoe_binary_attrs o = {0};
    if (db.rank > 0) {
        while (o.start < da.rank && strcmp(da.axis[o.start], db.axis[0]) != 0) o.start++;
    }
    lmoe_tensor in[2] = {a, b};
    return lmoe_apply_at(t, file, line, op, in, 2, &o, sizeof o, NULL, 0);
}
#define lmoe_add(t, a, b) lmoe_binary_at((t), LMOE_HERE, "add/1", (a), (b))
#define lmoe_mul(t, a, b) lmoe_binary_at((t), LMOE_HERE, "multiply/1", (a), (b))
#define lmoe_div(t, a, b) lmoe_binary_at((t), LMOE_HERE, "divide/1", (a), (b))

/* ---- affine/1: scale * x + shift */
typedef struct lmoe_affine_attrs {
    double scale, shift;
} lmoe_affine_attrs;

static inline lmoe_tensor lmoe_affine_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                         double scale, double shift)
{
    lmoe_affine_attrs o = {scale, shift};
    return lmoe_apply_at(t, file, line, "affine/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_affine(t, x, scale, shift) lmoe_affine_at((t), LMOE_HERE, (x), (scale), (shift))
#define lmoe_mul_scalar(t, x, a)        lmoe_affine_at((t), LMOE_HERE, (x), (a), 0.0)

/* ---- map/1: element-wise functions; map_grad/1 (x, dy) -> dx */
typedef enum lmoe_map_fn {
    LMOE_MAP_SILU = 0, /* x sigmoid(x) */
    LMOE_MAP_SIGMOID = 1,
    LMOE_MAP_LOGSIGMOID = 2, /* min(x, 0) - log1p(exp(-|x|)) */
    LMOE_MAP_EXP = 3,
    LMOE_MAP_LOG = 4,
    LMOE_MAP_RELU = 5,
    LMOE_MAP_ELU1 = 6,     /* elu(x) + 1: x + 1 for x > 0, else exp(x) */
    LMOE_MAP_SOFTPLUS = 7, /* log(1 + exp(x)) */
    LMOE_MAP_TANH = 8,
    LMOE_MAP_SQUARE = 9,
    LMOE_MAP_GELU = 10, /* tanh form */
    LMOE_MAP_SQRT = 11,
    LMOE_MAP_ONEMEXP = 12,  /* 1 - exp(x), by expm1 */
    LMOE_MAP_LOG1MEXP = 13, /* log(1 - exp(x)), x < 0 */
    LMOE_MAP_SIN = 14,
    LMOE_MAP_COS = 15,
    LMOE_MAP_GELU_ERF = 16 /* x Phi(x), Phi: the normal distribution */
} lmoe_map_fn;

typedef struct lmoe_map_attrs {
    int32_t fn;
} lmoe_map_attrs;

static inline lmoe_tensor lmoe_map_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                      lmoe_map_fn fn)
{
    lmoe_map_attrs o = {(int32_t)fn};
    return lmoe_apply_at(t, file, line, "map/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_map(t, x, fn)    lmoe_map_at((t), LMOE_HERE, (x), (fn))
#define lmoe_silu(t, x)       lmoe_map((t), (x), LMOE_MAP_SILU)
#define lmoe_sigmoid(t, x)    lmoe_map((t), (x), LMOE_MAP_SIGMOID)
#define lmoe_logsigmoid(t, x) lmoe_map((t), (x), LMOE_MAP_LOGSIGMOID)
#define lmoe_exp(t, x)        lmoe_map((t), (x), LMOE_MAP_EXP)
#define lmoe_relu(t, x)       lmoe_map((t), (x), LMOE_MAP_RELU)

/* ---- swiglu/1: silu(gate) * up, same shapes
 * swiglu_grad/1 (gate, up, dy) -> dgate, dup */
static inline lmoe_tensor lmoe_swiglu_at(lmoe_trace *t, const char *file, int line,
                                         lmoe_tensor gate, lmoe_tensor up)
{
    lmoe_tensor in[2] = {gate, up};
    return lmoe_apply_at(t, file, line, "swiglu/1", in, 2, NULL, 0, NULL, 0);
}
#define lmoe_swiglu(t, gate, up) lmoe_swiglu_at((t), LMOE_HERE, (gate), (up))

/* ---- cast/1: the same values in another dtype */
typedef struct lmoe_cast_attrs {
    int32_t dtype;
} lmoe_cast_attrs;

static inline lmoe_tensor lmoe_cast_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                       lmoe_dtype dtype)
{
    lmoe_cast_attrs o = {(int32_t)dtype};
    return lmoe_apply_at(t, file, line, "cast/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_cast(t, x, dtype) lmoe_cast_at((t), LMOE_HERE, (x), (dtype))
/* Lifts gates and decays to the state dtype; x itself if it has it already. */
#define lmoe_f32(t, x) lmoe_cast_at((t), LMOE_HERE, (x), lmoe_state_dtype(t))

/* ---- fill/1: a tensor like x (shape, dtype) with one value; no gradient */
typedef struct lmoe_fill_attrs {
    double value;
} lmoe_fill_attrs;

static inline lmoe_tensor lmoe_fill_like_at(lmoe_trace *t, const char *file, int line,
                                            lmoe_tensor x, double value)
{
    lmoe_fill_attrs o = {value};
    return lmoe_apply_at(t, file, line, "fill/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_fill_like(t, x, value) lmoe_fill_like_at((t), LMOE_HERE, (x), (value))

/* ---- iota/1: no operand -> (axis) in the state dtype: start + step * i; no gradient
 * Constants such as a decay for each head. */
typedef struct lmoe_iota_attrs {
    int64_t n;
    double start, step;
    int32_t dtype;
    char axis[16];
} lmoe_iota_attrs;

static inline lmoe_tensor lmoe_iota_at(lmoe_trace *t, const char *file, int line, const char *axis,
                                       int64_t n, double start, double step)
{
    lmoe_iota_attrs o;
    memset(&o, 0, sizeof o);
    if (strlen(axis) > 15) return lmoe_fail_at(t, file, line, "axis names have at most 15 letters");
    o.n = n;
    o.start = start;
    o.step = step;
    o.dtype = (int32_t)lmoe_state_dtype(t);
    strcpy(o.axis, axis);
    return lmoe_apply_at(t, file, line, "iota/1", NULL, 0, &o, sizeof o, NULL, 0);
}
#define lmoe_iota(t, axis, n, start, step) \
    lmoe_iota_at((t), LMOE_HERE, (axis), (n), (start), (step))

/* ---- rmsnorm/1: x / sqrt(mean(x^2) + eps) over the last axis, times weight, times silu(gate)
 * x: (... e), weight: (e) or absent, gate: like x or absent -> y like x
 * rmsnorm_grad/1 (x, weight, gate, dy) -> dx, dweight, dgate */
typedef struct lmoe_rmsnorm_attrs {
    double eps;
} lmoe_rmsnorm_attrs;

static inline lmoe_tensor lmoe_rmsnorm_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                          lmoe_tensor weight, lmoe_tensor gate, double eps)
{
    lmoe_rmsnorm_attrs o = {eps};
    lmoe_tensor in[3] = {x, weight, gate};
    return lmoe_apply_at(t, file, line, "rmsnorm/1", in, 3, &o, sizeof o, NULL, 0);
}
#define lmoe_rmsnorm(t, x, weight, eps) \
    lmoe_rmsnorm_at((t), LMOE_HERE, (x), (weight), lmoe_absent(), (eps))
#define lmoe_rmsnorm_gated(t, x, weight, gate, eps) \
    lmoe_rmsnorm_at((t), LMOE_HERE, (x), (weight), (gate), (eps))

/* ---- softmax/1 over the last axis, result in the state dtype; softmax_grad/1 (y, dy) -> dx
 * logsumexp/1 over the last axis: (... n) -> (...), state dtype */
#define lmoe_softmax(t, x)   lmoe_unary_at((t), LMOE_HERE, "softmax/1", (x))
#define lmoe_logsumexp(t, x) lmoe_unary_at((t), LMOE_HERE, "logsumexp/1", (x))

static inline lmoe_tensor lmoe_unary_at(lmoe_trace *t, const char *file, int line, const char *op,
                                        lmoe_tensor x)
{
    return lmoe_apply_at(t, file, line, op, &x, 1, NULL, 0, NULL, 0);
}

/* ---- split_axis/1, merge_axes/1: views
 * split_axis: axis `axis` of size n becomes (outer, inner) with n / inner and `inner` elements.
 * merge_axes: axes `axis` and `axis + 1` become one named `outer`; `inner` is not given. */
typedef struct lmoe_reshape_attrs {
    int64_t axis, inner;
    char outer_name[16], inner_name[16];
} lmoe_reshape_attrs;

static inline lmoe_tensor lmoe_reshape_at(lmoe_trace *t, const char *file, int line, const char *op,
                                          lmoe_tensor x, const char *axis, const char *outer,
                                          int64_t inner, const char *inner_name)
{
    lmoe_desc d;
    lmoe_reshape_attrs o;
    memset(&o, 0, sizeof o);
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    while (o.axis < d.rank && strcmp(d.axis[o.axis], axis) != 0) o.axis++;
    if (o.axis == d.rank)
        return lmoe_fail_at(t, file, line, "%s: the tensor has no axis '%s'", op, axis);
    if (strlen(outer) > 15 || strlen(inner_name) > 15)
        return lmoe_fail_at(t, file, line, "%s: axis names have at most 15 letters", op);
    o.inner = inner;
    strcpy(o.outer_name, outer);
    strcpy(o.inner_name, inner_name);
    return lmoe_apply_at(t, file, line, op, &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_split_axis(t, x, axis, outer, inner, inner_name) \
    lmoe_reshape_at((t), LMOE_HERE, "split_axis/1", (x), (axis), (outer), (inner), (inner_name))
/* `axis` and the one after it become one axis `name`. */
#define lmoe_merge_axes(t, x, axis, name) \
    lmoe_reshape_at((t), LMOE_HERE, "merge_axes/1", (x), (axis), (name), 0, "")

/* ---- slice/1, pad/1 along one axis */
typedef struct lmoe_slice_attrs {
    int64_t axis, start, length;
} lmoe_slice_attrs;

typedef struct lmoe_pad_attrs {
    int64_t axis, before, after;
    double value;
} lmoe_pad_attrs;

static inline lmoe_tensor lmoe_slice_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                        int64_t axis, int64_t start, int64_t length)
{
    lmoe_slice_attrs o = {axis, start, length};
    return lmoe_apply_at(t, file, line, "slice/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_slice(t, x, axis, start, length) \
    lmoe_slice_at((t), LMOE_HERE, (x), (axis), (start), (length))

static inline lmoe_tensor lmoe_pad_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                      int64_t axis, int64_t before, int64_t after, double value)
{
    lmoe_pad_attrs o = {axis, before, after, value};
    return lmoe_apply_at(t, file, line, "pad/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_pad(t, x, axis, before, after, value) \
    lmoe_pad_at((t), LMOE_HERE, (x), (axis), (before), (after), (value))

/* ---- embedding/1: table (vocab embed), ids (batch seq) i32 -> (batch seq embed)
 * An id outside the table gives zeros. embedding_grad/1 (ids, dy; attrs rows) -> dtable */
typedef struct lmoe_embedding_attrs {
    int64_t rows; /* of the table; used by the gradient */
} lmoe_embedding_attrs;

static inline lmoe_tensor lmoe_embedding_at(lmoe_trace *t, const char *file, int line,
                                            lmoe_tensor table, lmoe_tensor ids)
{
    lmoe_desc d;
    if (lmoe_describe(t, table, &d) != LMOE_OK) return table;
    lmoe_embedding_attrs o = {d.dim[0]};
    lmoe_tensor in[2] = {table, ids};
    return lmoe_apply_at(t, file, line, "embedding/1", in, 2, &o, sizeof o, NULL, 0);
}
#define lmoe_embedding(t, table, ids) lmoe_embedding_at((t), LMOE_HERE, (table), (ids))

/* ---- rope/1: rotary positions: pairs (i, i + k/2) turn by position * base^(-2i/k)
 * x: (batch seq heads k), positions: ambient -> like x. inverse: turn back (the derivative). */
typedef struct lmoe_rope_attrs {
    double base;
    int32_t inverse;
} lmoe_rope_attrs;

static inline lmoe_tensor lmoe_rope_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                       double base)
{
    lmoe_rope_attrs o = {base, 0};
    return lmoe_apply_at(t, file, line, "rope/1", &x, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_rope(t, x, base) lmoe_rope_at((t), LMOE_HERE, (x), (base))

/* ---- short_conv/1: depthwise causal convolution along seq
 * x: (batch seq d...), weight: (d... kernel) -> y like x
 *   y_s = act( sum_j weight[kernel-1-j] x_{s-j} )
 * with nothing before the start, before a reset, or of skipped tokens.
 * carry: tail (batch kernel-1 d...), newest last, and count (batch) i32 of valid rows at its end.
 * short_conv_grad/1 (x, weight, reset, skip, dy, tail, count | dtail out)
 *   -> dx, dweight | dtail in */
typedef struct lmoe_conv_attrs {
    int32_t silu; /* 1: act = silu; 0: identity */
} lmoe_conv_attrs;

static inline lmoe_tensor lmoe_short_conv_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor x, lmoe_tensor weight, int silu)
{
    lmoe_conv_attrs o = {silu};
    lmoe_tensor in[2] = {x, weight};
    return lmoe_apply_at(t, file, line, "short_conv/1", in, 2, &o, sizeof o, NULL, 0);
}
#define lmoe_short_conv(t, x, weight, silu) \
    lmoe_short_conv_at((t), LMOE_HERE, (x), (weight), (silu))

/* With a `skip` of the caller's own, (batch seq) u8. */
static inline lmoe_tensor lmoe_short_conv_skip_at(lmoe_trace *t, const char *file, int line,
                                                  lmoe_tensor x, lmoe_tensor weight,
                                                  lmoe_tensor skip, int silu)
{
    lmoe_conv_attrs o = {silu};
    lmoe_tensor in[4] = {x, weight, lmoe_absent(), skip};
    return lmoe_apply_at(t, file, line, "short_conv/1", in, 4, &o, sizeof o, NULL, 0);
}
#define lmoe_short_conv_skip(t, x, weight, skip, silu) \
    lmoe_short_conv_skip_at((t), LMOE_HERE, (x), (weight), (skip), (silu))

/* ---- scan_diag/1: linear recurrence with diagonal decay
 *   M_s = diag(exp(decay_s)) M_{s-1} diag(exp(decay_v_s)) + k_s v_s^T        y_s = scale * M_s^T q_s
 * q, k: (batch seq heads head_k), v: (batch seq heads head_v) -> y (batch seq heads head_v)
 * decay, logs <= 0 in the state dtype: absent (none) | (heads) | (batch seq heads) |
 *   (batch seq heads head_k). Below -40 the past of that channel is forgotten.
 * decay_v, the same for channels of the values: absent | (batch seq heads head_v)
 * carry: M (batch heads head_k head_v) in the state dtype.
 * Summary of a segment: sum of decays (batch heads head_k), M from zero, and with decay_v its sum
 *   (batch heads head_v).
 * scan_diag_grad/1 (q, k, v, decay, reset, skip, dy, M in | dM out, decay_v)
 *   -> dq, dk, dv, ddecay | dM in, ddecay_v */
typedef struct lmoe_scan_diag_attrs {
    double scale;
} lmoe_scan_diag_attrs;

/* reset, skip: absent (the run's own) or (batch seq) u8. */
typedef struct lmoe_scan_diag_in {
    lmoe_tensor q, k, v, decay, reset, skip, decay_v;
} lmoe_scan_diag_in;

static inline lmoe_tensor lmoe_scan_diag_with_at(lmoe_trace *t, const char *file, int line,
                                                 const lmoe_scan_diag_in *in, double scale)
{
    lmoe_scan_diag_attrs o = {scale};
    lmoe_tensor x[8] = {in->q,     in->k,    in->v,         in->decay,
                        in->reset, in->skip, lmoe_absent(), in->decay_v};
    return lmoe_apply_at(t, file, line, "scan_diag/1", x, 8, &o, sizeof o, NULL, 0);
}
/* With any of its operands, a struct whose absent ones are {0}. */
#define lmoe_scan_diag_with(t, in, scale) lmoe_scan_diag_with_at((t), LMOE_HERE, (in), (scale))

static inline lmoe_tensor lmoe_scan_diag_at(lmoe_trace *t, const char *file, int line,
                                            lmoe_tensor q, lmoe_tensor k, lmoe_tensor v,
                                            lmoe_tensor decay, double scale)
{
    lmoe_scan_diag_in in;
    memset(&in, 0, sizeof in);
    in.q = q;
    in.k = k;
    in.v = v;
    in.decay = decay;
    return lmoe_scan_diag_with_at(t, file, line, &in, scale);
}
#define lmoe_scan_diag(t, q, k, v, decay, scale) \
    lmoe_scan_diag_at((t), LMOE_HERE, (q), (k), (v), (decay), (scale))

/* ---- scan_delta/1: linear recurrence that erases before it writes: the delta rule and relatives
 *   M_s = diag(exp(decay_s)) M_{s-1} + k_s v_s^T - b_s (a_s^T M_{s-1})      y_s = scale * M_s^T q_s
 * b absent: b = k, so M_s = diag(exp(decay_s)) M_{s-1} + k_s (v_s - M_{s-1}^T a_s)^T. What is
 * erased is read before the decay; to read after it, multiply a by exp(decay).
 * q: (batch seq heads head_k), k, a, b: (batch seq heads head_k), v: (batch seq heads head_v)
 *   -> y (batch seq heads head_v)
 * A token may make several such steps: k, a, b (batch seq step heads head_k), v (batch seq step
 * heads head_v). The decay acts in the first, y is read after the last.
 * decay, logs <= 0 in the state dtype: absent (none) | (heads) | (batch seq heads) |
 *   (batch seq heads head_k).
 * carry: M (batch heads head_k head_v) in the state dtype.
 * Summary of a segment, which turns M into p M + m: p (batch heads head_k head_i), and m.
 * scan_delta_grad/1 (q, k, v, a, b, decay, reset, skip, dy, M in | dM out)
 *   -> dq, dk, dv, da, db, ddecay | dM in */
typedef struct lmoe_scan_delta_attrs {
    double scale;
} lmoe_scan_delta_attrs;

static inline lmoe_tensor lmoe_scan_delta_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor q, lmoe_tensor k, lmoe_tensor v,
                                             lmoe_tensor a, lmoe_tensor b, lmoe_tensor decay,
                                             double scale)
{
    lmoe_scan_delta_attrs o = {scale};
    lmoe_tensor in[6] = {q, k, v, a, b, decay};
    return lmoe_apply_at(t, file, line, "scan_delta/1", in, 6, &o, sizeof o, NULL, 0);
}
#define lmoe_scan_delta(t, q, k, v, a, b, decay, scale) \
    lmoe_scan_delta_at((t), LMOE_HERE, (q), (k), (v), (a), (b), (decay), (scale))

/* With a `skip` of the caller's own, (batch seq) u8; b is k. */
static inline lmoe_tensor lmoe_scan_delta_skip_at(lmoe_trace *t, const char *file, int line,
                                                  lmoe_tensor q, lmoe_tensor k, lmoe_tensor v,
                                                  lmoe_tensor a, lmoe_tensor decay,
                                                  lmoe_tensor skip, double scale)
{
    lmoe_scan_delta_attrs o = {scale};
    lmoe_tensor in[8] = {q, k, v, a, lmoe_absent(), decay, lmoe_absent(), skip};
    return lmoe_apply_at(t, file, line, "scan_delta/1", in, 8, &o, sizeof o, NULL, 0);
}
#define lmoe_scan_delta_skip(t, q, k, v, a, decay, skip, scale) \
    lmoe_scan_delta_skip_at((t), LMOE_HERE, (q), (k), (v), (a), (decay), (skip), (scale))

/* ---- scan_elem/1: linear recurrence with a decay for each element of the state, real or complex
 *   h_s[c,n] = a_s[c,n] h_{s-1}[c,n] + x_s[c] b_s[n]      y_s[c] = Re sum_n h_s[c,n] (c + i c_im)_s[n]
 *   a_s[c,n] = exp(step_s[c] rate[c,n]) (cos + i sin)
 * x: (batch seq channel) or (batch seq heads channel) -> y like x. All others may be absent and
 * then count as 1 (c_im, sin: 0); heads only where x has them:
 *   step (batch seq heads channel) and rate (heads channel state), state dtype: their product, or
 *     the one that is there, is a log decay <= 0; -infinity only if it is alone
 *   cos, sin: like step or like rate, state dtype; both or none, and with them the state is complex
 *   b (batch seq heads state), needs c; c, c_im: (batch seq heads state) or (heads channel state)
 * carry: h (batch heads channel state part) in the state dtype, part 1, or 2 if complex.
 * Summary of a segment: the product of its decays, and h from zero.
 * scan_elem_grad/1 (x, step, rate, cos, sin, b, c, c_im, reset, skip, dy, h in | dh out)
 *   -> dx, dstep, drate, dcos, dsin, db, dc, dc_im | dh in */
typedef struct lmoe_scan_elem_in {
    lmoe_tensor x, step, rate, cos, sin, b, c, c_im;
} lmoe_scan_elem_in;

static inline lmoe_tensor lmoe_scan_elem_at(lmoe_trace *t, const char *file, int line,
                                            const lmoe_scan_elem_in *o)
{
    lmoe_tensor in[8] = {o->x, o->step, o->rate, o->cos, o->sin, o->b, o->c, o->c_im};
    return lmoe_apply_at(t, file, line, "scan_elem/1", in, 8, NULL, 0, NULL, 0);
}
/* Operands by name: lmoe_scan_elem(t, .x = x, .step = decay) */
#define lmoe_scan_elem(t, ...) \
    lmoe_scan_elem_at((t), LMOE_HERE, &(const lmoe_scan_elem_in){__VA_ARGS__})

/* ---- scan_learn/1: a linear memory that learns by gradient steps in mini-batches
 *   u_s = d loss(k_s^T W, target_s) / d(k_s^T W)        W: the memory at the mini-batch's start
 *   S_s = exp(momentum_s) S_{s-1} - lr_s k_s u_s^T
 *   with position: y_s = (W + position_{phase_s} S_s)^T q_s ; the next mini-batch starts with
 *                  W <- W + position_last S, S <- 0
 *   without:       M_s = exp(decay_s) M_{s-1} + S_s , y_s = M_s^T q_s ; it starts with W <- M
 *   loss(z, target) = |norm(z) - target|^2 / 2; norm: layer norm over head_v with gamma and beta, or
 *   nothing if they are absent
 * q, k: (batch seq heads head_k), target: (batch seq heads head_v) -> y like target
 * lr (batch seq heads), momentum and decay likewise or absent, logs <= 0 (without momentum, S_{s-1}
 * stays as it is if there is a position, and else does not count); position (place) or
 * absent; gamma, beta (heads head_v); initial (heads head_k head_v): the memory at the start; all in
 * the state dtype. phase (batch seq) i32: a token's place in its mini-batch, 0 where one begins.
 * carry: W - initial, S and, without position, M - initial (batch slot heads head_k head_v).
 * There is no summary: a sequence that is split hands the carry over in order.
 * scan_learn_grad/1 (the same up to skip, dy, carry in | dcarry out) -> dq, dk, dtarget, dlr,
 *   dmomentum, ddecay, dposition, dgamma, dbeta, dinitial | dcarry in */
typedef struct lmoe_scan_learn_attrs {
    double eps; /* of the layer norm */
} lmoe_scan_learn_attrs;

typedef struct lmoe_scan_learn_in {
    lmoe_tensor q, k, target, lr, phase, momentum, decay, position, gamma, beta, initial;
} lmoe_scan_learn_in;

static inline lmoe_tensor lmoe_scan_learn_at(lmoe_trace *t, const char *file, int line, double eps,
                                             const lmoe_scan_learn_in *o)
{
    lmoe_scan_learn_attrs a = {eps};
    lmoe_tensor in[11] = {o->q,     o->k,        o->target, o->lr,   o->phase,  o->momentum,
                          o->decay, o->position, o->gamma,  o->beta, o->initial};
    return lmoe_apply_at(t, file, line, "scan_learn/1", in, 11, &a, sizeof a, NULL, 0);
}
/* Operands by name: lmoe_scan_learn(t, eps, .q = q, .k = k, ...) */
#define lmoe_scan_learn(t, eps, ...) \
    lmoe_scan_learn_at((t), LMOE_HERE, (eps), &(const lmoe_scan_learn_in){__VA_ARGS__})

/* ---- phase/1: (positions, document; both ambient) -> (batch seq) i32
 * (position - document) modulo period: a token's place in its document's mini-batches. */
typedef struct lmoe_phase_attrs {
    int64_t period;
} lmoe_phase_attrs;

static inline lmoe_tensor lmoe_phase_at(lmoe_trace *t, const char *file, int line, int64_t period)
{
    lmoe_phase_attrs o = {period};
    return lmoe_apply_at(t, file, line, "phase/1", NULL, 0, &o, sizeof o, NULL, 0);
}
#define lmoe_phase(t, period) lmoe_phase_at((t), LMOE_HERE, (period))

/* ---- attention/1: causal softmax attention
 * q: (batch seq heads head_k), k: (batch seq kv_heads head_k), v: (batch seq kv_heads head_v)
 *   -> y (batch seq heads head_v), lse (batch seq heads) in the state dtype
 * Query head i reads kv head i * kv_heads / heads. A token at position p of a document that starts
 * at d sees keys at positions max(d, p - window + 1) ... p (window 0: no limit). Positions and
 * documents are ambient; keys of skipped tokens are never seen.
 * carry: keys (batch context kv_heads head_k), values, and their positions (batch context) i32, -1
 * for an empty slot.
 * attention_grad/1 (q, k, v, positions, document, skip, y, lse, dy, keys, values, key_positions |
 *   dk more, dv more) -> dq, dk, dv | dkeys in, dvalues in */
typedef struct lmoe_attention_attrs {
    double scale;
    int64_t window;
    int64_t past; /* 1: only cached keys are seen, and none is added to them */
} lmoe_attention_attrs;

static inline lmoe_tensor lmoe_attention_at(lmoe_trace *t, const char *file, int line,
                                            lmoe_tensor q, lmoe_tensor k, lmoe_tensor v,
                                            double scale, int64_t window)
{
    lmoe_attention_attrs o = {scale, window, 0};
    lmoe_tensor in[3] = {q, k, v};
    return lmoe_apply_at(t, file, line, "attention/1", in, 3, &o, sizeof o, NULL, 0);
}
#define lmoe_attention(t, q, k, v, scale, window) \
    lmoe_attention_at((t), LMOE_HERE, (q), (k), (v), (scale), (window))

/* ---- linear_cross_entropy/1: head and loss in one, without the whole logits
 * x: (batch seq embed), table: (vocab embed), labels: (batch seq) i32, factor: scalar
 *   -> loss = factor * sum over tokens of (logsumexp(x table^T) - logit of the label), a scalar in
 *      the state dtype; tokens whose label is no row of the table (-1) do not count
 *      dx, dtable: derivatives of loss, computed together with it; absent when nobody needs them */
static inline lmoe_tensor lmoe_linear_cross_entropy_at(lmoe_trace *t, const char *file, int line,
                                                       lmoe_tensor x, lmoe_tensor table,
                                                       lmoe_tensor labels, lmoe_tensor factor)
{
    lmoe_tensor in[4] = {x, table, labels, factor};
    return lmoe_apply_at(t, file, line, "linear_cross_entropy/1", in, 4, NULL, 0, NULL, 0);
}
#define lmoe_linear_cross_entropy(t, x, table, labels, factor) \
    lmoe_linear_cross_entropy_at((t), LMOE_HERE, (x), (table), (labels), (factor))

/* ---- top_k/1: x (... n) -> values (... choice), index (... choice) i32
 * Largest first, the lower index on ties.
 * gather_last/1: x (... n), index (... choice) -> (... choice); scatter_last/1 is its transpose */
typedef struct lmoe_top_k_attrs {
    int64_t k;
} lmoe_top_k_attrs;

typedef struct lmoe_scatter_attrs {
    int64_t n;
    char axis[16]; /* name of the axis of size n */
} lmoe_scatter_attrs;

static inline lmoe_tensor lmoe_top_k_at(lmoe_trace *t, const char *file, int line, lmoe_tensor x,
                                        int64_t k, lmoe_tensor *index)
{
    lmoe_top_k_attrs o = {k};
    lmoe_tensor out[2] = {{0}, {0}};
    lmoe_apply_at(t, file, line, "top_k/1", &x, 1, &o, sizeof o, out, 2);
    *index = out[1];
    return out[0];
}
#define lmoe_top_k(t, x, k, index) lmoe_top_k_at((t), LMOE_HERE, (x), (k), (index))

static inline lmoe_tensor lmoe_gather_last_at(lmoe_trace *t, const char *file, int line,
                                              lmoe_tensor x, lmoe_tensor index)
{
    lmoe_tensor in[2] = {x, index};
    return lmoe_apply_at(t, file, line, "gather_last/1", in, 2, NULL, 0, NULL, 0);
}
#define lmoe_gather_last(t, x, index) lmoe_gather_last_at((t), LMOE_HERE, (x), (index))

/* ---- histogram/1: index (...) i32 -> (expert): how often each of 0 ... n-1 occurs
 * In the state dtype; no gradient. */
typedef struct lmoe_histogram_attrs {
    int64_t n;
    int32_t dtype;
} lmoe_histogram_attrs;

static inline lmoe_tensor lmoe_histogram_at(lmoe_trace *t, const char *file, int line,
                                            lmoe_tensor index, int64_t n)
{
    lmoe_histogram_attrs o = {n, (int32_t)lmoe_state_dtype(t)};
    return lmoe_apply_at(t, file, line, "histogram/1", &index, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_histogram(t, index, n) lmoe_histogram_at((t), LMOE_HERE, (index), (n))

/* ---- random/1: key (...) i32 -> (... n): uniform numbers of [0, 1) in the state dtype
 * Number i is a function of (key, salt, i) alone: the same on any device and at any layout. No
 * gradient. */
typedef struct lmoe_random_attrs {
    int64_t n, salt;
    int32_t dtype;
    char axis[16]; /* name of the axis of size n */
} lmoe_random_attrs;

static inline lmoe_tensor lmoe_random_at(lmoe_trace *t, const char *file, int line, lmoe_tensor key,
                                         const char *axis, int64_t n, int64_t salt)
{
    lmoe_random_attrs o;
    memset(&o, 0, sizeof o);
    if (strlen(axis) > 15) return lmoe_fail_at(t, file, line, "axis names have at most 15 letters");
    o.n = n;
    o.salt = salt;
    o.dtype = (int32_t)lmoe_state_dtype(t);
    strcpy(o.axis, axis);
    return lmoe_apply_at(t, file, line, "random/1", &key, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_random(t, key, axis, n, salt) \
    lmoe_random_at((t), LMOE_HERE, (key), (axis), (n), (salt))

/* ---- moe_capacity/1: index (batch seq choice) i32, score like it or absent -> index
 * Each expert keeps at most `capacity` choices of a sequence: those of the largest scores, without
 * scores the earliest; the others become -1, no expert. No gradient. */
typedef struct lmoe_moe_capacity_attrs {
    int64_t experts, capacity;
} lmoe_moe_capacity_attrs;

static inline lmoe_tensor lmoe_moe_capacity_at(lmoe_trace *t, const char *file, int line,
                                               lmoe_tensor index, lmoe_tensor score,
                                               int64_t experts, int64_t capacity)
{
    lmoe_moe_capacity_attrs o = {experts, capacity};
    lmoe_tensor in[2] = {index, score};
    return lmoe_apply_at(t, file, line, "moe_capacity/1", in, 2, &o, sizeof o, NULL, 0);
}
#define lmoe_moe_capacity(t, index, score, experts, capacity) \
    lmoe_moe_capacity_at((t), LMOE_HERE, (index), (score), (experts), (capacity))

/* ---- which tokens take part in one of several states; no gradients
 * unchosen/1  index (batch seq choice) i32, skip: ambient -> (batch seq) u8: 1 for tokens that did
 *             not choose `which`, and for skipped ones: a `skip` for the state of that choice
 * fenwick/1   positions and documents: ambient -> write (batch seq), reset (batch seq) u8
 *             of one level of a Fenwick tree, 1 ...: blocks of 2^(level - 1) tokens from the
 *             document's start come in pairs. Tokens of the first are written (1, else 0), tokens of
 *             the second read the whole first; a pair begins with a reset. Together with the token
 *             itself the levels cover each earlier token once. */
typedef struct lmoe_unchosen_attrs {
    int64_t which;
} lmoe_unchosen_attrs;

typedef struct lmoe_fenwick_attrs {
    int64_t level;
    int32_t dtype;
} lmoe_fenwick_attrs;

static inline lmoe_tensor lmoe_unchosen_at(lmoe_trace *t, const char *file, int line,
                                           lmoe_tensor index, int64_t which)
{
    lmoe_unchosen_attrs o = {which};
    return lmoe_apply_at(t, file, line, "unchosen/1", &index, 1, &o, sizeof o, NULL, 0);
}
#define lmoe_unchosen(t, index, which) lmoe_unchosen_at((t), LMOE_HERE, (index), (which))

static inline lmoe_tensor lmoe_fenwick_at(lmoe_trace *t, const char *file, int line, int64_t level,
                                          lmoe_dtype dtype, lmoe_tensor *reset)
{
    lmoe_fenwick_attrs o = {level, (int32_t)dtype};
    lmoe_tensor out[2] = {{0}, {0}};
    lmoe_apply_at(t, file, line, "fenwick/1", NULL, 0, &o, sizeof o, out, 2);
    *reset = out[1];
    return out[0];
}
#define lmoe_fenwick(t, level, dtype, reset) \
    lmoe_fenwick_at((t), LMOE_HERE, (level), (dtype), (reset))

/* ---- the mixture-of-experts engine; used by the core's feed-forward
 * moe_sort/1     index (batch seq choice), below 0: no expert; attrs experts, capacity
 *                -> order (row) i32: slots (token * choice + j) sorted by expert, stable; -1: a row
 *                   of nobody
 *                   offsets (bound) i32: experts + 1 of them
 *                   position (batch seq choice) i32: row of each slot; -1: it has none
 *                capacity: no expert gets more tokens of a sequence, so there are at most
 *                batch * experts * capacity rows; 0: as many rows as slots
 * moe_gather/1   x (batch seq embed), order, position -> rows (row embed)
 * moe_weight/1   weight (batch seq choice), order, position -> (row)
 *                moe_weight_grad/1 (dy (row), order, position) -> (batch seq choice)
 * moe_combine/1  rows (row embed), order, position, weight (batch seq choice) or absent (1)
 *                -> (batch seq embed)
 *                moe_combine_grad/1 (rows, order, position, weight, dy) -> drows, dweight
 * grouped_linear/1  rows (row e), weight (expert e f), offsets -> (row f)
 *                attrs transpose: weight is (expert f e)
 *                grouped_weight_grad/1 (rows (row e), drows (row f), offsets) -> (expert e f)
 * expert_act/1   gate (row hidden), up like it or absent, scale (row): h = scale f(gate) up
 *                expert_act_grad/1 (gate, up, scale, dh) -> dgate, dup, dscale */
typedef struct lmoe_moe_sort_attrs {
    int64_t experts, capacity;
} lmoe_moe_sort_attrs;

typedef struct lmoe_grouped_attrs {
    int32_t transpose;
} lmoe_grouped_attrs;

typedef enum lmoe_act_fn {
    LMOE_ACT_SILU = 0,
    LMOE_ACT_GELU = 1, /* tanh form */
    LMOE_ACT_RELU2 = 2 /* max(x, 0)^2 */
} lmoe_act_fn;

typedef struct lmoe_expert_act_attrs {
    int32_t fn;
} lmoe_expert_act_attrs;

typedef struct lmoe_moe_order {
    lmoe_tensor order, offsets, position;
} lmoe_moe_order;

static inline lmoe_moe_order lmoe_moe_sort_at(lmoe_trace *t, const char *file, int line,
                                              lmoe_tensor index, int64_t experts, int64_t capacity)
{
    lmoe_moe_sort_attrs o = {experts, capacity};
    lmoe_tensor out[3] = {{0}, {0}, {0}};
    lmoe_apply_at(t, file, line, "moe_sort/1", &index, 1, &o, sizeof o, out, 3);
    lmoe_moe_order r = {out[0], out[1], out[2]};
    return r;
}
#define lmoe_moe_sort(t, index, experts, capacity) \
    lmoe_moe_sort_at((t), LMOE_HERE, (index), (experts), (capacity))

static inline lmoe_tensor lmoe_moe_weight_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor weight, lmoe_moe_order m)
{
    lmoe_tensor in[3] = {weight, m.order, m.position};
    return lmoe_apply_at(t, file, line, "moe_weight/1", in, 3, NULL, 0, NULL, 0);
}
#define lmoe_moe_weight(t, weight, m) lmoe_moe_weight_at((t), LMOE_HERE, (weight), (m))

static inline lmoe_tensor lmoe_expert_act_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor gate, lmoe_tensor up, lmoe_tensor scale,
                                             lmoe_act_fn fn)
{
    lmoe_expert_act_attrs o = {(int32_t)fn};
    lmoe_tensor in[3] = {gate, up, scale};
    return lmoe_apply_at(t, file, line, "expert_act/1", in, 3, &o, sizeof o, NULL, 0);
}
#define lmoe_expert_act(t, gate, up, scale, fn) \
    lmoe_expert_act_at((t), LMOE_HERE, (gate), (up), (scale), (fn))

static inline lmoe_tensor lmoe_moe_gather_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor x, lmoe_moe_order m)
{
    lmoe_tensor in[3] = {x, m.order, m.position};
    return lmoe_apply_at(t, file, line, "moe_gather/1", in, 3, NULL, 0, NULL, 0);
}
#define lmoe_moe_gather(t, x, m) lmoe_moe_gather_at((t), LMOE_HERE, (x), (m))

static inline lmoe_tensor lmoe_moe_combine_at(lmoe_trace *t, const char *file, int line,
                                              lmoe_tensor rows, lmoe_moe_order m,
                                              lmoe_tensor weight)
{
    lmoe_tensor in[4] = {rows, m.order, m.position, weight};
    return lmoe_apply_at(t, file, line, "moe_combine/1", in, 4, NULL, 0, NULL, 0);
}
#define lmoe_moe_combine(t, rows, m, weight) \
    lmoe_moe_combine_at((t), LMOE_HERE, (rows), (m), (weight))

static inline lmoe_tensor lmoe_grouped_linear_at(lmoe_trace *t, const char *file, int line,
                                                 lmoe_tensor rows, lmoe_tensor weight,
                                                 lmoe_tensor offsets)
{
    lmoe_grouped_attrs o = {0};
    lmoe_tensor in[3] = {rows, weight, offsets};
    return lmoe_apply_at(t, file, line, "grouped_linear/1", in, 3, &o, sizeof o, NULL, 0);
}
#define lmoe_grouped_linear(t, rows, weight, offsets) \
    lmoe_grouped_linear_at((t), LMOE_HERE, (rows), (weight), (offsets))

#if LMOE_TARGET_API >= 1
/* ---- initial/1: like (its shape) -> what elements first, first + 1, ... of a weight begin with
 * kind: lmoe_init_kind, with the deviation (b) and the weight's sizes filled in: `count` elements,
 * the last two axes `rows` and `columns`. Value i is a function of (seed, stream, i): lmoe/random.h.
 * part: the value, or a half of it as f32: lmoe_upper_half (bf16), lmoe_lower_half (u16). */
enum { LMOE_INITIAL_WHOLE = 0, LMOE_INITIAL_UPPER = 1, LMOE_INITIAL_LOWER = 2 };

typedef struct lmoe_initial_attrs {
    int64_t seed, stream, first, count, rows, columns;
    double a, b, c;
    int32_t kind, part;
} lmoe_initial_attrs;
#endif

/* ---- training
 * sum_squares/1  x -> scalar in the state dtype
 * accumulate/1   (buffer MUTATES, x): buffer += x
 * adamw/1        (param MUTATES, grad, m MUTATES, v MUTATES, norm, lr, step: scalars,
 *                 master MUTATES or absent); m and v in the state dtype or bf16
 *   g = grad * min(1, clip / norm) (clip 0: no clipping); nothing is changed when norm is not finite
 *   m = beta1 m + (1-beta1) g        v = beta2 v + (1-beta2) g^2
 *   param -= lr * ( m/(1-beta1^step) / (sqrt(v/(1-beta2^step)) + eps) + weight_decay * param )
 *   with a master (state dtype), that takes param's place, and param becomes its rounding;
 *   a master in u16 is the lower half of one in f32, and param, in bf16, the upper one */
static inline lmoe_tensor lmoe_accumulate_at(lmoe_trace *t, const char *file, int line,
                                             lmoe_tensor buffer, lmoe_tensor x)
{
    lmoe_tensor in[2] = {buffer, x};
    return lmoe_apply_at(t, file, line, "accumulate/1", in, 2, NULL, 0, NULL, 0);
}
#define lmoe_accumulate(t, buffer, x) lmoe_accumulate_at((t), LMOE_HERE, (buffer), (x))

typedef struct lmoe_adamw_attrs {
    double beta1, beta2, eps, weight_decay, clip;
} lmoe_adamw_attrs;

/* ---- between ranks
 * all_reduce/1   x -> sum over the mesh axis
 * all_gather/1   x -> (rank x...), stacked in rank order
 * reduce_scatter/1  x (rank ...) -> this rank's piece of the sum over the ranks
 * all_to_all/1   x (rank ...) -> (rank ...): piece j goes to rank j; what came from i is piece i
 * send/1         x to rank `peer`;  recv/1: like -> y like it, from rank `peer`
 * shard/1        x -> this rank's piece of dimension dim
 * Rows sorted by expert, and `table` (rank bound): the offsets of every rank, gathered:
 * row_exchange/1   rows, table -> the rows of this rank's experts, as the ranks sent them; back: the
 *                  rows return to the ranks that sent them
 * row_regroup/1    rows, table -> rows that were exchanged, sorted by expert; back: as they came
 * row_offsets/1    table -> offsets (bound) of this rank's experts after row_regroup
 * mesh: index of the mesh axis; written by the core. */
typedef struct lmoe_collective_attrs {
    int64_t mesh, rank, ranks, dim, peer, back;
} lmoe_collective_attrs;

/* stack/1   up to 4 tensors of one shape -> (rank ...), stacked
 * pieces/1  x -> (rank ...): the equal pieces of dimension dim, stacked; join/1  the reverse
 * assign/1  target = x, in place */

#ifdef __cplusplus
}
#endif
#endif
