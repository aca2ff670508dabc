/* SPDX-License-Identifier: Apache-2.0
 * core/op/moe/moe.c: tokens to rows grouped by expert, and back.
 *
 * A slot is one choice of one token, numbered (batch seq choice) row-major. Rows are slots sorted
 * by expert, stably: the rows of expert x are offsets[x] ... offsets[x+1]-1. A slot without an
 * expert (index below 0) has no row. order[row] is the slot of a row, position[slot] the row of a
 * slot: each the other's inverse, -1 where there is none. There are as many rows as slots or, if no
 * expert gets more than `capacity` tokens of a sequence, at most batch * experts * capacity; those
 * past the last offset belong to nobody.
 *
 *   moe_sort      index (batch seq choice)           -> order (row), offsets (bound), position
 *   moe_gather    x (batch seq embed)                -> rows (row embed): rows_r = x[token of r]
 *   moe_combine   rows (row embed), weight or absent -> y (batch seq embed):
 *                 y_t = sum over choices j of weight_tj rows[position_tj]
 *   moe_combine_grad  (.., dy)  drows_r = weight[order_r] dy[token of r], dweight_tj =
 *                 rows[position_tj] . dy_t
 *   moe_weight    weight (batch seq choice)          -> y (row): y_r = weight[order_r]
 *   moe_weight_grad   dy (row)                       -> (batch seq choice): dy[position]
 *
 * What order or position does not lead to (-1) is zero. Each rank sorts its own tokens and numbers
 * its rows by itself. So rows (letter r) and offsets (letter o) are a rank's own wherever the
 * tokens, b or s, are split; the rules say it by "ragged".
 */
#include "core/op/shape.h"

lmoe_status lmoe__moe_sort_reference(const lmoe_args *args);
lmoe_status lmoe__moe_gather_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_reference(const lmoe_args *args);
lmoe_status lmoe__moe_combine_grad_reference(const lmoe_args *args);
lmoe_status lmoe__moe_weight_reference(const lmoe_args *args);
lmoe_status lmoe__moe_weight_grad_reference(const lmoe_args *args);

/* order and position belong together. */
static lmoe_status need_order(lmoe_trace *t, const lmoe_desc *order, const lmoe_desc *position)
{
    LMOE_TRY(lmoe__need_dtype(t, order, "order", LMOE_I32));
    LMOE_TRY(lmoe__need_dtype(t, position, "position", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, order, "order", 1, "row"));
    LMOE_TRY(lmoe__need_rank(t, position, "position", 3, "batch seq choice"));
    int64_t slots = lmoe_desc_count(position);
    if (order->dim[0] <= slots) return LMOE_OK;
    char text[256];
    return lmoe_shape_error(t,
                            "axis '%s' of 'order' has %lld elements, more than 'position', %s: "
                            "%lld",
                            order->axis[0], (long long)order->dim[0],
                            lmoe__desc_text(text, sizeof text, position), (long long)slots);
}

/* x has the tokens of position. */
static lmoe_status need_tokens(lmoe_trace *t, const lmoe_desc *position, const lmoe_desc *x,
                               const char *name)
{
    LMOE_TRY(lmoe__need_float(t, x, name));
    LMOE_TRY(lmoe__need_rank(t, x, name, 3, "batch seq embed"));
    LMOE_TRY(lmoe__need_axis(t, position, "position", 0, x, name, 0));
    return lmoe__need_axis(t, position, "position", 1, x, name, 1);
}

/* rows has the rows of order. */
static lmoe_status need_rows(lmoe_trace *t, const lmoe_desc *order, const lmoe_desc *rows)
{
    LMOE_TRY(lmoe__need_float(t, rows, "rows"));
    LMOE_TRY(lmoe__need_rank(t, rows, "rows", 2, "row embed"));
    return lmoe__need_axis(t, order, "order", 0, rows, "rows", 0);
}

/* ---- cases ---- */

static const struct moe_case {
    int64_t batch, seq, choice, embed, experts;
    double a, b; /* experts drawn from [a, b) */
    uint32_t flags;
    int64_t capacity; /* 0: as many rows as slots */
} moe_cases[] = {
    {1, 1, 1, 1, 1, 0, 1, 0, 0},
    {2, 63, 2, 5, 8, 0, 8, 0, 0},
    {1, 65, 1, 64, 1, 0, 1, 0, 0},   /* one expert */
    {3, 7, 4, 31, 4, 0, 4, 0, 0},    /* as many choices as experts */
    {2, 9, 2, 17, 8, 3, 4, 0, 0},    /* all tokens to one of several experts */
    {1, 129, 3, 2, 16, 5, 9, 0, 0},  /* none to some */
    {1, 2, 2, 128, 64, 0, 64, 0, 0}, /* more experts than rows */
    {2, 33, 3, 7, 8, -4, 8, 0, 0},   /* slots without an expert */
    {2, 63, 2, 5, 4, -20, 4, 0, 20}, /* and fewer rows than slots */
    {1, 5, 2, 3, 4, -1, 0, 0, 1},    /* nothing has an expert */
    {2, 3, 2, 4, 3, 0, 3, LMOE_CASE_GRADCHECK, 0},
    {4, 256, 8, 256, 64, 0, 64, LMOE_CASE_BENCH, 0},
};

static const struct moe_case *case_at(int index)
{
    return index < (int)(sizeof moe_cases / sizeof *moe_cases) ? &moe_cases[index] : NULL;
}

static int64_t gcd(int64_t a, int64_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* Rows of a case: all slots, or what experts may take. */
static int64_t rows_of(int64_t slots, int64_t batch, int64_t experts, int64_t capacity)
{
    if (capacity <= 0 || capacity >= slots || experts >= slots) return slots;
    int64_t most = batch * experts * capacity;
    return most < slots ? most : slots;
}

static int64_t case_rows(const struct moe_case *k)
{
    return rows_of(k->batch * k->seq * k->choice, k->batch, k->experts, k->capacity);
}

/* Inputs i (order) and i + 1 (position): a permutation r = a s + b and its inverse. Where slots
 * have no rows, any numbers: no result reads both. */
static void sample_order(const struct moe_case *k, lmoe_case *c, int i)
{
    const int64_t slots = k->batch * k->seq * k->choice, b = 3 % slots, rows = case_rows(k);
    const int64_t dim[3] = {k->batch, k->seq, k->choice};
    if (k->a < 0) {
        lmoe__case_input(c, i, LMOE_I32, "row", &rows, LMOE_FILL_INT, -1, (double)slots);
        lmoe__case_input(c, i + 1, LMOE_I32, "batch seq choice", dim, LMOE_FILL_INT, -1,
                         (double)rows);
        return;
    }
    int64_t a = slots * 5 / 8 + 1, inverse = 1;
    while (gcd(a, slots) != 1) a++;
    while (a * inverse % slots != 1 % slots) inverse++;
    int64_t back = (slots - inverse * b % slots) % slots;
    lmoe__case_input(c, i, LMOE_I32, "row", &slots, LMOE_FILL_PERMUTED, (double)a, (double)b);
    lmoe__case_input(c, i + 1, LMOE_I32, "batch seq choice", dim, LMOE_FILL_PERMUTED,
                     (double)inverse, (double)back);
}

static void sample_tokens(const struct moe_case *k, lmoe_case *c, int i)
{
    const int64_t dim[3] = {k->batch, k->seq, k->embed};
    lmoe__case_input(c, i, LMOE_F32, "batch seq embed", dim, LMOE_FILL_NORMAL, 0, 1);
}

static void sample_rows(const struct moe_case *k, lmoe_case *c, int i)
{
    const int64_t dim[2] = {case_rows(k), k->embed};
    lmoe__case_input(c, i, LMOE_F32, "row embed", dim, LMOE_FILL_NORMAL, 0, 1);
}

static void sample_weight(const struct moe_case *k, lmoe_case *c, int i)
{
    const int64_t dim[3] = {k->batch, k->seq, k->choice};
    lmoe__case_input(c, i, LMOE_F32, "batch seq choice", dim, LMOE_FILL_UNIFORM, 0, 1);
}

/* ---- moe_sort ---- */

static lmoe_status sort_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    const lmoe_moe_sort_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "index", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, &in[0], "index", 3, "batch seq choice"));
    if (o->experts < 1 || o->experts >= INT32_MAX)
        return lmoe_shape_error(t,
                                "there must be at least 1 expert, and fewer than 2^31 - 1, not "
                                "%lld",
                                (long long)o->experts);
    int64_t slots = lmoe_desc_count(&in[0]);
    if (slots > INT32_MAX)
        return lmoe_shape_error(t,
                                "%lld choices are too many for indices of dtype i32; make the "
                                "micro-batch smaller",
                                (long long)slots);
    if (o->capacity < 0)
        return lmoe_shape_error(t, "the capacity is %lld; 0 is none", (long long)o->capacity);
    int64_t rows = rows_of(slots, in[0].dim[0], o->experts, o->capacity);
    out[0] = (lmoe_desc){.dtype = LMOE_I32, .rank = 1, .dim = {rows}, .axis = {"row"}};
    out[1] = (lmoe_desc){.dtype = LMOE_I32, .rank = 1, .dim = {o->experts + 1}, .axis = {"bound"}};
    out[2] = in[0];
    return LMOE_OK;
}

static int sort_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index);
    if (!k) return 0;
    const int64_t dim[3] = {k->batch, k->seq, k->choice};
    lmoe_moe_sort_attrs o = {k->experts, k->capacity};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = k->flags & ~(uint32_t)LMOE_CASE_GRADCHECK;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq choice", dim, LMOE_FILL_INT, k->a, k->b);
    return 1;
}

static const lmoe_option sort_options[] = {
    {"experts", LMOE_OPTION_INT, offsetof(lmoe_moe_sort_attrs, experts), NULL, 1, INT32_MAX - 1,
     NULL, NULL, "How many experts there are."},
    {"capacity", LMOE_OPTION_INT, offsetof(lmoe_moe_sort_attrs, capacity), "0", 0, 0, NULL,
     "tokens", "Most tokens of one sequence that an expert gets; 0: not known."},
    LMOE_OPTION_END};

static const lmoe_port sort_inputs[] = {{.name = "index", .flags = LMOE_PORT_NO_GRAD},
                                        {.name = NULL}};
static const lmoe_port sort_outputs[] = {
    {.name = "order"}, {.name = "offsets"}, {.name = "position"}, {.name = NULL}};

const lmoe_op lmoe__op_moe_sort = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_sort/1",
             "sorts the choices of tokens by expert, stably", sort_options,
             sizeof(lmoe_moe_sort_attrs), 0},
    .inputs = sort_inputs,
    .outputs = sort_outputs,
    .shape = sort_shape,
    .rule = "b s k -> r, o, b s k | ragged r, ragged o, whole k",
    .reference = lmoe__moe_sort_reference,
    .sample = sort_sample,
};

/* ---- moe_gather ---- */

static lmoe_status gather_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    LMOE_TRY(need_order(t, &in[1], &in[2]));
    LMOE_TRY(need_tokens(t, &in[2], &in[0], "x"));
    out[0] = (lmoe_desc){.dtype = in[0].dtype,
                         .rank = 2,
                         .dim = {in[1].dim[0], in[0].dim[2]},
                         .axis = {in[1].axis[0], in[0].axis[2]}};
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status gather_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_moe_order m = {.order = v->in[1], .position = v->in[2]};
    v->din[0] = lmoe_moe_combine(t, v->dout[0], m, lmoe_absent());
    return LMOE_OK;
}

static int gather_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index);
    if (!k) return 0;
    c->flags = k->flags;
    sample_tokens(k, c, 0);
    sample_order(k, c, 1);
    return 1;
}

static const lmoe_port gather_inputs[] = {{.name = "x"},
                                          {.name = "order", .flags = LMOE_PORT_NO_GRAD},
                                          {.name = "position", .flags = LMOE_PORT_NO_GRAD},
                                          {.name = NULL}};
static const lmoe_port gather_outputs[] = {{.name = "rows"}, {.name = NULL}};

const lmoe_op lmoe__op_moe_gather = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_gather/1", "tokens as rows grouped by expert",
             NULL, 0, 0},
    .inputs = gather_inputs,
    .outputs = gather_outputs,
    .shape = gather_shape,
    .rule = "b s e, r, b s k -> r e | ragged r, whole k, linear 0",
    .vjp = gather_vjp,
    .reference = lmoe__moe_gather_reference,
    .sample = gather_sample,
};

/* ---- moe_combine ---- */

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    LMOE_TRY(need_order(t, &in[1], &in[2]));
    LMOE_TRY(need_rows(t, &in[1], &in[0]));
    if (n_in > 3 && in[3].dtype != LMOE_NONE) {
        LMOE_TRY(lmoe__need_dtype(t, &in[3], "weight", lmoe__state_of(in[0].dtype)));
        LMOE_TRY(lmoe__need_axes(t, &in[2], "position", &in[3], "weight"));
    }
    out[0] = in[2];
    out[0].dtype = in[0].dtype;
    out[0].dim[2] = in[0].dim[1];
    out[0].axis[2] = in[0].axis[1];
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status combine_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_moe_order m = {.order = v->in[1], .position = v->in[2]};
    if (lmoe_is_absent(v->in[3])) {
        v->din[0] = lmoe_moe_gather(t, v->dout[0], m);
        return LMOE_OK;
    }
    lmoe_tensor in[5] = {v->in[0], v->in[1], v->in[2], v->in[3], v->dout[0]}, out[2];
    lmoe_apply_at(t, LMOE_HERE, "moe_combine_grad/1", in, 5, NULL, 0, out, 2);
    v->din[0] = out[0];
    v->din[3] = out[1];
    return LMOE_OK;
}

static int combine_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index / 2);
    if (!k) return 0;
    c->flags = k->flags;
    sample_rows(k, c, 0);
    sample_order(k, c, 1);
    if (index % 2 == 0) sample_weight(k, c, 3);
    return 1;
}

static double combine_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                            int n_out)
{
    return 2.0 * (double)lmoe_desc_count(&in[0]);
}

static const lmoe_port combine_inputs[] = {
    {.name = "rows"},
    {.name = "order", .flags = LMOE_PORT_NO_GRAD},
    {.name = "position", .flags = LMOE_PORT_NO_GRAD},
    {.name = "weight", .flags = LMOE_PORT_OPTIONAL | LMOE_PORT_STATE},
    {.name = NULL}};
static const lmoe_port combine_outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_moe_combine = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_combine/1",
             "weighted sum of the rows of each token", NULL, 0, 0},
    .inputs = combine_inputs,
    .outputs = combine_outputs,
    .shape = combine_shape,
    .rule = "r e, r, b s k, b s k -> b s e | ragged r, whole k, linear 0",
    .vjp = combine_vjp,
    .reference = lmoe__moe_combine_reference,
    .sample = combine_sample,
    .flops = combine_flops,
};

/* ---- moe_combine_grad ---- */

static lmoe_status combine_grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe_desc y;
    LMOE_TRY(combine_shape(t, attrs, in, n_in, &y));
    LMOE_TRY(lmoe__need_axes(t, &y, "y", &in[4], "dy"));
    LMOE_TRY(lmoe__need_float(t, &in[4], "dy"));
    out[0] = in[0];
    out[1] = in[3];
    return LMOE_OK;
}

static int combine_grad_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index);
    if (!k) return 0;
    c->flags = k->flags & ~(uint32_t)LMOE_CASE_GRADCHECK;
    sample_rows(k, c, 0);
    sample_order(k, c, 1);
    sample_weight(k, c, 3);
    sample_tokens(k, c, 4);
    return 1;
}

static double combine_grad_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                 const lmoe_desc *out, int n_out)
{
    return 3.0 * (double)lmoe_desc_count(&in[0]);
}

static const lmoe_port combine_grad_inputs[] = {
    {.name = "rows"},     {.name = "order"},
    {.name = "position"}, {.name = "weight", .flags = LMOE_PORT_STATE},
    {.name = "dy"},       {.name = NULL}};
static const lmoe_port combine_grad_outputs[] = {
    {.name = "drows"}, {.name = "dweight"}, {.name = NULL}};

const lmoe_op lmoe__op_moe_combine_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_combine_grad/1",
             "derivative of moe_combine/1 with weights", NULL, 0, 0},
    .inputs = combine_grad_inputs,
    .outputs = combine_grad_outputs,
    .shape = combine_grad_shape,
    .rule = "r e, r, b s k, b s k, b s e -> r e, b s k | ragged r, whole k",
    .reference = lmoe__moe_combine_grad_reference,
    .sample = combine_grad_sample,
    .flops = combine_grad_flops,
};

/* ---- moe_weight, moe_weight_grad ---- */

static lmoe_status weight_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "weight"));
    LMOE_TRY(need_order(t, &in[1], &in[2]));
    LMOE_TRY(lmoe__need_axes(t, &in[2], "position", &in[0], "weight"));
    out[0] = in[1];
    out[0].dtype = in[0].dtype;
    return LMOE_OK;
}

static lmoe_status weight_grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                     int n_in, lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "dy"));
    LMOE_TRY(need_order(t, &in[1], &in[2]));
    LMOE_TRY(lmoe__need_axes(t, &in[1], "order", &in[0], "dy"));
    out[0] = in[2];
    out[0].dtype = in[0].dtype;
    return LMOE_OK;
}

static lmoe_status weight_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[3] = {v->dout[0], v->in[1], v->in[2]};
    v->din[0] = lmoe_apply_at(t, LMOE_HERE, "moe_weight_grad/1", in, 3, NULL, 0, NULL, 0);
    return LMOE_OK;
}

static int weight_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index);
    if (!k) return 0;
    c->flags = k->flags;
    sample_weight(k, c, 0);
    sample_order(k, c, 1);
    return 1;
}

static int weight_grad_sample(int index, lmoe_case *c)
{
    const struct moe_case *k = case_at(index);
    if (!k) return 0;
    const int64_t rows = case_rows(k);
    c->flags = k->flags & ~(uint32_t)LMOE_CASE_GRADCHECK;
    lmoe__case_input(c, 0, LMOE_F32, "row", &rows, LMOE_FILL_NORMAL, 0, 1);
    sample_order(k, c, 1);
    return 1;
}

static const lmoe_port weight_inputs[] = {{.name = "weight", .flags = LMOE_PORT_STATE},
                                          {.name = "order", .flags = LMOE_PORT_NO_GRAD},
                                          {.name = "position", .flags = LMOE_PORT_NO_GRAD},
                                          {.name = NULL}};
static const lmoe_port weight_outputs[] = {{.name = "y", .flags = LMOE_PORT_STATE}, {.name = NULL}};

const lmoe_op lmoe__op_moe_weight = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_weight/1", "weights of choices as rows have them",
             NULL, 0, 0},
    .inputs = weight_inputs,
    .outputs = weight_outputs,
    .shape = weight_shape,
    .rule = "b s k, r, b s k -> r | ragged r, whole k, linear 0",
    .vjp = weight_vjp,
    .reference = lmoe__moe_weight_reference,
    .sample = weight_sample,
};

static const lmoe_port weight_grad_inputs[] = {{.name = "dy", .flags = LMOE_PORT_STATE},
                                               {.name = "order"},
                                               {.name = "position"},
                                               {.name = NULL}};
static const lmoe_port weight_grad_outputs[] = {{.name = "dweight", .flags = LMOE_PORT_STATE},
                                                {.name = NULL}};

const lmoe_op lmoe__op_moe_weight_grad = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "moe_weight_grad/1", "derivative of moe_weight/1", NULL,
             0, 0},
    .inputs = weight_grad_inputs,
    .outputs = weight_grad_outputs,
    .shape = weight_grad_shape,
    .rule = "r, r, b s k -> b s k | ragged r, whole k, linear 0",
    .reference = lmoe__moe_weight_grad_reference,
    .sample = weight_grad_sample,
};
