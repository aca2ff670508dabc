/* SPDX-License-Identifier: Apache-2.0
 * core/op/short_conv/short_conv.c: depthwise causal convolution along seq, its derivative, and what
 * sequence parallelism needs of both.
 *
 *   p_s = sum over j of weight[kernel-1-j] x_{s-j}      y_s = silu(p_s), or p_s
 *   dp_s = dy_s silu'(p_s)   dx_s = sum over j of weight[kernel-1-j] dp_{s+j} (+ dtail)
 *   dweight[kernel-1-j] = sum over b, s of dp_s x_{s-j}
 *
 * Letters: b batch, s seq, ... any axes, w kernel, t kernel-1, r rank; (o) may be absent.
 *   short_conv/1              x (b s ...), weight (... w), reset (b s) (o), skip (b s) (o),
 *                             tail (b t ...) (o), count (b) (o) -> y (b s ...), tail, count
 *   short_conv_grad/1         x, weight, reset, skip, dy, tail, count: the forward op's, dtail:
 *                             d(tail out) -> dx, dweight, dtail: d(tail in)
 *   short_conv_summary/1      x, weight, reset, skip -> tail (b t ...), count (b), fresh (b)
 *   short_conv_combine/1      tail (r b t ...), count (r b), fresh (r b) -> tail, count
 *   short_conv_grad_summary/1 x, weight, reset, skip, dy, tail, count -> dtail (b t ...),
 *                             count (b)
 *   short_conv_grad_combine/1 dtail (r b t ...), count (r b) -> dtail
 *
 * tail: the newest kernel-1 inputs, newest last, of which the last `count` rows are of this
 * document; other rows are not read, and are written as 0. reset at s: nothing before token s is
 * seen from s on, also if s is skipped. skip at s: the token is not in the sequence: y_s is 0, its
 * neighbours see through it. fresh: 1 if a segment holds a reset. A summary's tail and count are
 * those of the segment alone. In the backward summary dtail is the segment's own, at d(tail out) =
 * 0, and count the number of its tokens, at most kernel-1: what later segments add passes through
 * one that is shorter than the tail. Combine ops go one way each; `reverse` is not read.
 */
#include "core/op/carry.h"

static const lmoe_option options[] = {{"silu", LMOE_OPTION_BOOL, offsetof(lmoe_conv_attrs, silu),
                                       "yes", 0, 0, NULL, NULL, "Apply silu to the result."},
                                      LMOE_OPTION_END};

/* ---- ports ---- */

enum { X, WEIGHT, RESET, SKIP };

static const lmoe_port op_in[] = {{.name = "x"},
                                  {.name = "weight"},
                                  {LMOE__RESET},
                                  {LMOE__SKIP},
                                  {.name = "tail", .flags = LMOE__CARRY_IN},
                                  {.name = "count", .flags = LMOE__CARRY_IN | LMOE_PORT_NO_GRAD},
                                  {.name = NULL}};
static const char *const op_forms[] = {"b s ...", "... w",   "b s: u8",
                                       "b s: u8", "b t ...", "b: i32"};
static const lmoe_port op_out[] = {{.name = "y"},
                                   {.name = "tail", .flags = LMOE_PORT_CARRY},
                                   {.name = "count", .flags = LMOE_PORT_CARRY},
                                   {.name = NULL}};

static const lmoe_port grad_in[] = {{.name = "x"},
                                    {.name = "weight"},
                                    {LMOE__RESET},
                                    {LMOE__SKIP},
                                    {.name = "dy"},
                                    {.name = "tail", .flags = LMOE__FORWARD_CARRY},
                                    {.name = "count", .flags = LMOE__FORWARD_CARRY},
                                    {.name = "dtail", .flags = LMOE__CARRY_IN},
                                    {.name = NULL}};
static const char *const grad_forms[] = {"b s ...", "... w",   "b s: u8", "b s: u8",
                                         "b s ...", "b t ...", "b: i32",  "b t ..."};
static const lmoe_port grad_out[] = {{.name = "dx"},
                                     {.name = "dweight"},
                                     {.name = "dtail", .flags = LMOE_PORT_CARRY},
                                     {.name = NULL}};

static const lmoe_port summary_in[] = {
    {.name = "x"}, {.name = "weight"}, {LMOE__RESET}, {LMOE__SKIP}, {.name = NULL}};
static const lmoe_port summary_out[] = {
    {.name = "tail"}, {.name = "count"}, {.name = "fresh"}, {.name = NULL}};
static const lmoe_port combine_out[] = {{.name = "tail"}, {.name = "count"}, {.name = NULL}};

static const lmoe_port grad_summary_in[] = {{.name = "x"},
                                            {.name = "weight"},
                                            {LMOE__RESET},
                                            {LMOE__SKIP},
                                            {.name = "dy"},
                                            {.name = "tail", .flags = LMOE_PORT_OPTIONAL},
                                            {.name = "count", .flags = LMOE_PORT_OPTIONAL},
                                            {.name = NULL}};
static const lmoe_port grad_summary_out[] = {{.name = "dtail"}, {.name = "count"}, {.name = NULL}};
static const lmoe_port grad_combine_out[] = {{.name = "dtail"}, {.name = NULL}};
static const char *const combine_forms[] = {"r b t ...", "r b: i32", "r b: i32"};

/* ---- shapes ---- */

/* Binds operands that start with x and weight. */
static lmoe_status bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                        const char *const *forms, const lmoe_desc *in, int n_in)
{
    memset(l, 0, sizeof *l);
    LMOE_TRY(lmoe__letters_bind(t, l, ports, forms, in, n_in));
    if (l->dim['w'] < 2)
        return lmoe_shape_error(t, "the kernel has %lld taps and needs 2 or more",
                                (long long)l->dim['w']);
    if (l->port['t'] && l->dim['t'] != l->dim['w'] - 1)
        return lmoe_shape_error(t, "'%s' has %lld rows where a kernel of %lld needs %lld",
                                l->port['t'], (long long)l->dim['t'], (long long)l->dim['w'],
                                (long long)l->dim['w'] - 1);
    lmoe__letters_set(l, 't', l->axis['w'], l->dim['w'] - 1);
    return LMOE_OK;
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, op_in, op_forms, in, n_in));
    out[0] = in[X];
    lmoe__letters_desc(&l, "b t ...", in[X].dtype, &out[1]);
    lmoe__letters_desc(&l, "b", LMOE_I32, &out[2]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_in, grad_forms, in, n_in));
    out[0] = in[X];
    out[1] = in[WEIGHT];
    lmoe__letters_desc(&l, "b t ...", in[X].dtype, &out[2]);
    return LMOE_OK;
}

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, summary_in, op_forms, in, n_in));
    lmoe__letters_desc(&l, "b t ...", in[X].dtype, &out[0]);
    lmoe__letters_desc(&l, "b", LMOE_I32, &out[1]);
    out[2] = out[1];
    return LMOE_OK;
}

static lmoe_status grad_summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_summary_in, grad_forms, in, n_in));
    lmoe__letters_desc(&l, "b t ...", in[X].dtype, &out[0]);
    lmoe__letters_desc(&l, "b", LMOE_I32, &out[1]);
    return LMOE_OK;
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, summary_out, combine_forms, in, n_in));
    lmoe__letters_desc(&l, "b t ...", in[0].dtype, &out[0]);
    lmoe__letters_desc(&l, "b", LMOE_I32, &out[1]);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

static lmoe_status grad_combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, grad_summary_out, combine_forms, in, n_in));
    lmoe__letters_desc(&l, "b t ...", in[0].dtype, &out[0]);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    lmoe_desc out[3];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < 2 ? n_in : 2, out));
    carry[0] = out[1];
    carry[1] = out[2];
    return LMOE_OK;
}

static lmoe_status grad_carry_shape(const void *attrs, const lmoe_desc *in, int n_in,
                                    int64_t context, lmoe_desc *carry)
{
    lmoe_desc out[3];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < 2 ? n_in : 2, out));
    carry[0] = out[1];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {.size = sizeof(lmoe_carry),
                                    .count = 2,
                                    .in = 4,
                                    .out = 1,
                                    .shape = carry_shape,
                                    .summary = "short_conv_summary/1",
                                    .n_summary_in = 4,
                                    .summary_in = {0, 1, 2, 3},
                                    .n_summary = 3,
                                    .combine = "short_conv_combine/1",
                                    .summary_state = {1, 2}};
static const lmoe_carry grad_carry = {.size = sizeof(lmoe_carry),
                                      .count = 1,
                                      .in = 7,
                                      .out = 2,
                                      .reverse = 1,
                                      .shape = grad_carry_shape,
                                      .summary = "short_conv_grad_summary/1",
                                      .n_summary_in = 7,
                                      .summary_in = {0, 1, 2, 3, 4, 5, 6},
                                      .n_summary = 2,
                                      .combine = "short_conv_grad_combine/1",
                                      .summary_state = {1}};

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor dy = v->dout[0], d[3];
    if (lmoe_is_absent(dy)) dy = lmoe_fill_like(t, v->out[0], 0);
    lmoe_tensor in[8] = {v->in[0], v->in[1], v->in[2], v->in[3],
                         dy,       v->in[4], v->in[5], v->dout[1]};
    lmoe_apply_at(t, LMOE_HERE, "short_conv_grad/1", in, 8, v->attrs, sizeof(lmoe_conv_attrs), d,
                  3);
    v->din[0] = d[0];
    v->din[1] = d[1];
    v->din[4] = d[2];
    return LMOE_OK;
}

/* ---- cost: a tap is a product and a sum; silu counts 4 ---- */

static double taps(const lmoe_desc *in)
{
    return 2.0 * (double)in[WEIGHT].dim[in[WEIGHT].rank - 1];
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    const lmoe_conv_attrs *o = attrs;
    return (double)lmoe_desc_count(&in[X]) * (taps(in) + 4 * o->silu);
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    const lmoe_conv_attrs *o = attrs; /* dx, dweight; and p again for silu' */
    return (double)lmoe_desc_count(&in[X]) * (2 * taps(in) + o->silu * (taps(in) + 8));
}

/* ---- test cases ---- */

enum { SHAPED = 2 * LMOE__CASE_SEQS, SMOOTH = 6, BENCH = 2, CASES = SHAPED + SMOOTH + BENCH };

/* The letters of a case; kinds of cases as their numbers say. */
static lmoe__letters letters_of(int index, bool smooth, bool bench)
{
    static const int64_t axes[][2] = {{8, 0}, {3, 5}, {1, 0}, {64, 0}, {2, 33}, {65, 0}};
    const int64_t *d = axes[index % 6], smooth_d[] = {2, 1 + index % 2}, bench_d[] = {4, 64};
    lmoe__letters l = {.dots_known = true};
    if (smooth) d = smooth_d;
    if (bench) d = bench_d;
    lmoe__letters_set(&l, 'b', "batch", bench ? 16 : 1 + index % 2);
    lmoe__letters_set(&l, 's', "seq",
                      bench    ? 256
                      : smooth ? 3 + index % 4
                               : lmoe__case_seq[index % LMOE__CASE_SEQS]);
    lmoe__letters_set(&l, 'w', "kernel", bench ? 4 : 2 + index % 3);
    lmoe__letters_set(&l, 't', "kernel", l.dim['w'] - 1);
    lmoe__letters_set(&l, 1, "heads", d[0]);
    lmoe__letters_set(&l, 2, "head_k", d[1]);
    l.dots = d[1] ? 2 : 1;
    return l;
}

static void draw(lmoe_case *c, int i, const char *port, const char *form, const lmoe__letters *l,
                 bool smooth)
{
    if (strcmp(port, "count") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_INT, 0, (double)l->dim['w']);
    else if (strcmp(port, "fresh") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, 0.3, 0);
    else if (strstr(form, "u8"))
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, smooth ? 0.3 : 0.1, 0);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, 1);
}

static int sample(int index, lmoe_case *c, const lmoe_port *ports)
{
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH, bench = index >= SHAPED + SMOOTH;
    bool carry = !bench && index % 3 != 0, reset = !bench && index % 5 < 3;
    bool skip = reset && index % 2 == 1;
    if (index >= CASES) return 0;
    lmoe__letters l = letters_of(index, smooth, bench);
    const char *const *forms = ports == op_in ? op_forms : grad_forms;
    for (int i = 0; ports[i].name; i++) {
        const char *name = ports[i].name;
        if ((strcmp(name, "reset") == 0 && !reset) || (strcmp(name, "skip") == 0 && !skip) ||
            ((strstr(name, "tail") || strcmp(name, "count") == 0) && !carry))
            continue;
        if (strcmp(name, "count") == 0) /* each of 0 ... kernel-1 in turn */
            lmoe__case_port(c, i, forms[i], &l, LMOE_FILL_CONST, (double)(index / 3 % l.dim['w']),
                            0);
        else
            draw(c, i, name, forms[i], &l, smooth);
    }
    lmoe_conv_attrs o = {index % 4 != 0};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    if (smooth && ports == op_in) c->flags |= LMOE_CASE_GRADCHECK;
    return 1;
}

static int op_sample(int index, lmoe_case *c)
{
    return sample(index, c, op_in);
}

static int grad_sample(int index, lmoe_case *c)
{
    return sample(index, c, grad_in);
}

static int summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, summary_in);
}

static int grad_summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, grad_summary_in);
}

/* Every kernel with all ranks, then one case worth timing. */
static int sample_combine(int index, lmoe_case *c, const lmoe_port *ports, int reverse)
{
    bool bench = index == 3 * LMOE__COMBINE_CASES;
    if (index > 3 * LMOE__COMBINE_CASES) return 0;
    lmoe_combine_attrs o = lmoe__combine_case(index % LMOE__COMBINE_CASES, reverse);
    if (bench) o = (lmoe_combine_attrs){1, 4, reverse};
    lmoe__letters l = letters_of(index, false, bench);
    int64_t kernel = bench ? 4 : 2 + index / LMOE__COMBINE_CASES;
    lmoe__letters_set(&l, 'r', "rank", o.ranks);
    lmoe__letters_set(&l, 'w', "kernel", kernel);
    lmoe__letters_set(&l, 't', "kernel", kernel - 1);
    for (int i = 0; ports[i].name; i++) draw(c, i, ports[i].name, combine_forms[i], &l, false);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

static int combine_sample(int index, lmoe_case *c)
{
    return sample_combine(index, c, summary_out, 0);
}

static int grad_combine_sample(int index, lmoe_case *c)
{
    return sample_combine(index, c, grad_summary_out, 1);
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                                   \
    {                                                                                          \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, options, sizeof(lmoe_conv_attrs), 0 \
    }
#define COMBINE(name, summary)                                                    \
    {                                                                             \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, lmoe__combine_options, \
            sizeof(lmoe_combine_attrs), 0                                         \
    }

const lmoe_op lmoe__op_short_conv = {
    .base = CLASS("short_conv", "Depthwise causal convolution along seq."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule = "b s ..., ... w, b s, b s -> b s ... | order s, whole w",
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__short_conv_ref,
    .sample = op_sample,
    .flops = op_flops,
};

const lmoe_op lmoe__op_short_conv_grad = {
    .base = CLASS("short_conv_grad", "Derivative of short_conv, from the end of seq."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule = "b s ..., ... w, b s, b s, b s ... -> b s ..., ... w | order s, whole w",
    .carry = &grad_carry,
    .reference = lmoe__short_conv_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 16,
};

const lmoe_op lmoe__op_short_conv_summary = {
    .base = CLASS("short_conv_summary", "The last inputs of a segment of short_conv."),
    .inputs = summary_in,
    .outputs = summary_out,
    .shape = summary_shape,
    .rule = "b s ..., ... w, b s, b s -> b t ..., b, b | whole s, whole w, shape 1, "
            "same 1, same 2",
    .reference = lmoe__short_conv_summary_ref,
    .sample = summary_sample,
};

const lmoe_op lmoe__op_short_conv_combine = {
    .base = COMBINE("short_conv_combine", "The inputs before a segment of short_conv."),
    .inputs = summary_out,
    .outputs = combine_out,
    .shape = combine_shape,
    .rule = "r b t ..., r b, r b -> b t ..., b | whole r, whole t, same 1",
    .reference = lmoe__short_conv_combine_ref,
    .sample = combine_sample,
};

const lmoe_op lmoe__op_short_conv_grad_summary = {
    .base = CLASS("short_conv_grad_summary",
                  "What earlier segments need to know of one of short_conv_grad."),
    .inputs = grad_summary_in,
    .outputs = grad_summary_out,
    .shape = grad_summary_shape,
    .rule = "b s ..., ... w, b s, b s, b s ..., b t ..., b -> b t ..., b "
            "| whole s, whole w, whole t, same 1",
    .reference = lmoe__short_conv_grad_summary_ref,
    .sample = grad_summary_sample,
};

const lmoe_op lmoe__op_short_conv_grad_combine = {
    .base = COMBINE("short_conv_grad_combine",
                    "The gradient of the inputs that a segment of short_conv leaves."),
    .inputs = grad_summary_out,
    .outputs = grad_combine_out,
    .shape = grad_combine_shape,
    .rule = "r b t ..., r b -> b t ... | whole r, whole t",
    .reference = lmoe__short_conv_grad_combine_ref,
    .sample = grad_combine_sample,
};
