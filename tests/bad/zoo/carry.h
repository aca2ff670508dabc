/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/carry.h: a carry op with nothing wrong, and its summary: a leaky sum.
 *
 *   h_s = decay h_{s-1} + x_s    y_s = h_s         x, y: (batch seq embed)   h: (batch embed)
 *   summary of a segment (p, m): h -> p h + m      p: (batch)   m: (batch embed)
 *
 *   ZOO_CARRY(reference, summary, combine): what the three ops compute
 */
#ifndef LMOE_ZOO_CARRY_H
#define LMOE_ZOO_CARRY_H

#include <lmoe/lmoe.h>

static const double decay = 0.8;

enum { X, RESET, SKIP, H };

#define PORT(name, flags, ambient) \
    {                              \
        name, flags, ambient       \
    }
#define GIVEN LMOE_PORT_OPTIONAL | LMOE_PORT_NO_GRAD
static const lmoe_port good_inputs[] = {
    PORT("x", 0, LMOE_AMBIENT_NONE), PORT("reset", GIVEN, LMOE_AMBIENT_RESET),
    PORT("skip", GIVEN, LMOE_AMBIENT_SKIP),
    PORT("h", LMOE_PORT_OPTIONAL | LMOE_PORT_CARRY, LMOE_AMBIENT_NONE), PORT(NULL, 0, 0)};
static const lmoe_port good_outputs[] = {PORT("y", 0, LMOE_AMBIENT_NONE),
                                         PORT("h", LMOE_PORT_CARRY, LMOE_AMBIENT_NONE),
                                         PORT(NULL, 0, 0)};
static const lmoe_port summary_inputs[] = {
    PORT("x", 0, LMOE_AMBIENT_NONE), PORT("reset", GIVEN, LMOE_AMBIENT_RESET),
    PORT("skip", GIVEN, LMOE_AMBIENT_SKIP), PORT(NULL, 0, 0)};
static const lmoe_port summary_outputs[] = {PORT("p", 0, LMOE_AMBIENT_NONE),
                                            PORT("m", 0, LMOE_AMBIENT_NONE), PORT(NULL, 0, 0)};
static const lmoe_port combine_outputs[] = {PORT("h", 0, LMOE_AMBIENT_NONE), PORT(NULL, 0, 0)};

static lmoe_desc state_desc(const lmoe_desc *x)
{
    lmoe_desc d = {x->dtype, 2, {x->dim[0], x->dim[2]}, {x->axis[0], x->axis[2]}};
    return d;
}

static lmoe_status need_x(lmoe_trace *t, const lmoe_desc *in)
{
    if (in[X].rank == 3 && lmoe_dtype_is_float(in[X].dtype)) return LMOE_OK;
    return lmoe_shape_error(t, "x must be (batch seq embed), of a float dtype");
}

static lmoe_status need_flags(lmoe_trace *t, const lmoe_desc *in)
{
    for (int i = RESET; i <= SKIP; i++) {
        if (in[i].dtype == LMOE_NONE) continue;
        if (in[i].dtype != LMOE_U8 || in[i].rank != 2 || in[i].dim[0] != in[X].dim[0] ||
            in[i].dim[1] != in[X].dim[1])
            return lmoe_shape_error(t, "reset and skip are (batch seq), u8");
    }
    return LMOE_OK;
}

static lmoe_status good_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(need_x(t, in));
    LMOE_TRY(need_flags(t, in));
    out[0] = in[X];
    out[1] = state_desc(&in[X]);
    if (in[H].dtype != LMOE_NONE &&
        (in[H].rank != 2 || in[H].dim[0] != in[X].dim[0] || in[H].dim[1] != in[X].dim[2]))
        return lmoe_shape_error(t, "h must be (batch embed)");
    return LMOE_OK;
}

static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    carry[0] = state_desc(&in[X]);
    return LMOE_OK;
}

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    LMOE_TRY(need_x(t, in));
    LMOE_TRY(need_flags(t, in));
    out[1] = state_desc(&in[X]);
    out[0] = out[1];
    out[0].rank = 1;
    return LMOE_OK;
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    if (in[0].rank != 2 || in[1].rank != 3 || in[0].dim[0] != in[1].dim[0] ||
        in[0].dim[1] != in[1].dim[1])
        return lmoe_shape_error(t, "p must be (rank batch), m (rank batch embed)");
    lmoe_desc d = {in[1].dtype, 2, {in[1].dim[1], in[1].dim[2]}, {in[1].axis[1], in[1].axis[2]}};
    out[0] = d;
    return LMOE_OK;
}

static int flag(const lmoe_args *a, int i, int64_t token)
{
    return lmoe_buf_present(&a->in[i]) && lmoe_get(&a->in[i], token) != 0;
}

static lmoe_status good_reference(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X], *y = &a->out[0], *last = &a->out[1];
    int64_t batch = x->dim[0], seq = x->dim[1], embed = x->dim[2];
    for (int64_t i = 0; i < batch * embed; i++) {
        int64_t b = i / embed, e = i % embed;
        double h = lmoe_buf_present(&a->in[H]) ? lmoe_get(&a->in[H], i) : 0;
        for (int64_t s = 0; s < seq; s++) {
            int64_t token = b * seq + s, at = token * embed + e;
            if (flag(a, RESET, token)) h = 0;
            int skipped = flag(a, SKIP, token);
            if (!skipped) h = decay * h + lmoe_get(x, at);
            if (lmoe_buf_present(y)) lmoe_put(y, at, skipped ? 0 : h);
        }
        if (lmoe_buf_present(last)) lmoe_put(last, i, h);
    }
    return LMOE_OK;
}

static lmoe_status good_summary(const lmoe_args *a)
{
    const lmoe_buf *x = &a->in[X], *p = &a->out[0], *m = &a->out[1];
    int64_t batch = x->dim[0], seq = x->dim[1], embed = x->dim[2];
    for (int64_t i = 0; i < batch * embed; i++) {
        int64_t b = i / embed, e = i % embed;
        double product = 1, h = 0;
        for (int64_t s = 0; s < seq; s++) {
            int64_t token = b * seq + s;
            if (flag(a, RESET, token)) product = h = 0;
            if (flag(a, SKIP, token)) continue;
            product *= decay;
            h = decay * h + lmoe_get(x, token * embed + e);
        }
        if (lmoe_buf_present(p)) lmoe_put(p, b, product);
        if (lmoe_buf_present(m)) lmoe_put(m, i, h);
    }
    return LMOE_OK;
}

static lmoe_status good_combine(const lmoe_args *a)
{
    const lmoe_combine_attrs *o = a->attrs;
    const lmoe_buf *p = &a->in[0], *m = &a->in[1], *h = &a->out[0];
    int64_t batch = m->dim[1], embed = m->dim[2];
    for (int64_t i = 0; i < batch * embed; i++) {
        double state = 0;
        for (int64_t r = 0; r < o->rank; r++)
            state = lmoe_get(p, r * batch + i / embed) * state + lmoe_get(m, r * batch * embed + i);
        lmoe_put(h, i, state);
    }
    return LMOE_OK;
}

static void draw(lmoe_case *c, int i, lmoe_dtype dtype, int rank, const int64_t *dim,
                 const char *const *axis, lmoe_fill fill)
{
    c->in[i] = (lmoe_desc){.dtype = dtype, .rank = rank};
    for (int k = 0; k < rank; k++) {
        c->in[i].dim[k] = dim[k];
        c->in[i].axis[k] = axis[k];
    }
    c->fill[i] = fill;
    if (c->n_in < i + 1) c->n_in = i + 1;
}

static int good_sample(int index, lmoe_case *c)
{
    static const int64_t dim[][3] = {{1, 1, 1}, {2, 5, 3}, {2, 33, 4}};
    static const char *const axis[] = {"batch", "seq", "embed"};
    if (index >= 3) return 0;
    draw(c, X, LMOE_F32, 3, dim[index], axis, (lmoe_fill){LMOE_FILL_NORMAL, 0, 1});
    draw(c, RESET, LMOE_U8, 2, dim[index], axis, (lmoe_fill){LMOE_FILL_FLAG, 0.2, 0});
    if (index == 2)
        draw(c, SKIP, LMOE_U8, 2, dim[index], axis, (lmoe_fill){LMOE_FILL_FLAG, 0.2, 0});
    return 1;
}

static int combine_sample(int index, lmoe_case *c)
{
    static const int64_t dim[] = {3, 2, 5};
    static const char *const axis[] = {"rank", "batch", "embed"};
    if (index >= 3) return 0;
    draw(c, 0, LMOE_F32, 2, dim, axis, (lmoe_fill){LMOE_FILL_UNIFORM, 0, 1});
    draw(c, 1, LMOE_F32, 3, dim, axis, (lmoe_fill){LMOE_FILL_NORMAL, 0, 1});
    *(lmoe_combine_attrs *)c->attrs.bytes = (lmoe_combine_attrs){index, 3, 0};
    return 1;
}

static const lmoe_option combine_table[] = {
    {"rank", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, rank), NULL, 0, 0, NULL, NULL,
     "The segment whose carry is wanted."},
    {"ranks", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, ranks), NULL, 0, 0, NULL, NULL,
     "Segments."},
    {"reverse", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, reverse), "0", 0, 0, NULL, NULL,
     "1: from the end."},
    LMOE_OPTION_END};

#define OP_BASE(end, text) \
    .base = {              \
        .size = sizeof(lmoe_op), .kind = LMOE_KIND_OP, .name = "zoo.x/" ZOO end, .summary = text}

#define ZOO_CARRY(reference_, summary_, combine_)                                              \
    static const lmoe_carry good_carry = {.size = sizeof good_carry,                           \
                                          .count = 1,                                          \
                                          .in = H,                                             \
                                          .out = 1,                                            \
                                          .shape = carry_shape,                                \
                                          .summary = "zoo.x/" ZOO "_summary/1",                \
                                          .n_summary_in = 3,                                   \
                                          .summary_in = {X, RESET, SKIP},                      \
                                          .n_summary = 2,                                      \
                                          .combine = "zoo.x/" ZOO "_combine/1"};               \
    static const lmoe_op zoo_op = {OP_BASE("/1", "A leaky sum."),                              \
                                   .inputs = good_inputs,                                      \
                                   .outputs = good_outputs,                                    \
                                   .shape = good_shape,                                        \
                                   .rule = "b s e, b s, b s -> b s e | order s",               \
                                   .carry = &good_carry,                                       \
                                   .reference = reference_,                                    \
                                   .sample = good_sample};                                     \
    static const lmoe_op zoo_summary = {OP_BASE("_summary/1", "Its segments' summaries."),     \
                                        .inputs = summary_inputs,                              \
                                        .outputs = summary_outputs,                            \
                                        .shape = summary_shape,                                \
                                        .rule = "b s e, b s, b s -> b, b e | whole s whole e", \
                                        .reference = summary_,                                 \
                                        .sample = good_sample};                                \
    static const lmoe_op zoo_combine = {.base = {.size = sizeof(lmoe_op),                      \
                                                 .kind = LMOE_KIND_OP,                         \
                                                 .name = "zoo.x/" ZOO "_combine/1",            \
                                                 .summary = "From summaries to a carry.",      \
                                                 .options = combine_table,                     \
                                                 .options_size = sizeof(lmoe_combine_attrs)},  \
                                        .inputs = summary_outputs,                             \
                                        .outputs = combine_outputs,                            \
                                        .shape = combine_shape,                                \
                                        .rule = "r b, r b e -> b e | whole r",                 \
                                        .reference = combine_,                                 \
                                        .sample = combine_sample};                             \
    static const lmoe_class *const zoo_classes[] = {&zoo_op.base, &zoo_summary.base,           \
                                                    &zoo_combine.base, NULL};                  \
    LMOE_PLUGIN(.id = "zoo.x/" ZOO, .version = "1.0", .licence = "Apache-2.0",                 \
                .classes = zoo_classes)

#endif
