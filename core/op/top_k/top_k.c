/* SPDX-License-Identifier: Apache-2.0
 * core/op/top_k/top_k.c: top_k/1, the k largest along the last axis, and gather_last/1,
 * scatter_last/1, which read and write chosen places of the last axis.
 *
 *   top_k         x (... n)                       -> values (... choice), index (... choice)
 *   gather_last   x (... n), index (... choice)   -> y_j = x[index_j]
 *   scatter_last  x (... choice), index           -> y (... n): y_i = sum of x_j with index_j = i
 *
 * scatter_last is the transpose of gather_last: each is the other's derivative. An index outside
 * [0, n) reads zero and writes nothing.
 */
#include "core/op/shape.h"

lmoe_status lmoe__top_k_reference(const lmoe_args *args);
lmoe_status lmoe__gather_last_reference(const lmoe_args *args);
lmoe_status lmoe__scatter_last_reference(const lmoe_args *args);

static const int64_t max_axis = INT32_MAX; /* indices are i32 */

/* index has the leading axes of x and one more of its own. */
static lmoe_status need_index(lmoe_trace *t, const lmoe_desc *x, const lmoe_desc *index)
{
    char text[256], index_text[256];
    LMOE_TRY(lmoe__need_dtype(t, index, "index", LMOE_I32));
    if (x->rank < 1 || index->rank != x->rank) {
        return lmoe_shape_error(t,
                                "'index' is %s and 'x' is %s; both must have the same axes before "
                                "their last one",
                                lmoe__desc_text(index_text, sizeof index_text, index),
                                lmoe__desc_text(text, sizeof text, x));
    }
    for (int i = 0; i < x->rank - 1; i++)
        LMOE_TRY(lmoe__need_axis(t, x, "x", i, index, "index", i));
    return LMOE_OK;
}

/* dy scattered to a tensor with the last axis of x: gradient of reading places of x. */
static lmoe_tensor scatter_like(lmoe_trace *t, lmoe_tensor dy, lmoe_tensor index, lmoe_tensor x)
{
    lmoe_desc d;
    lmoe_scatter_attrs o = {0, ""};
    lmoe_tensor in[2] = {dy, index};
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    o.n = d.dim[d.rank - 1];
    snprintf(o.axis, sizeof o.axis, "%s", d.axis[d.rank - 1]);
    return lmoe_apply_at(t, LMOE_HERE, "scatter_last/1", in, 2, &o, sizeof o, NULL, 0);
}

/* ---- top_k ---- */

static lmoe_status top_k_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_top_k_attrs *o = attrs;
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    if (in[0].rank < 1) return lmoe_shape_error(t, "'x' is a scalar; it must have an axis");
    int last = in[0].rank - 1;
    if (o->k < 1 || o->k > in[0].dim[last]) {
        return lmoe_shape_error(t,
                                "k is %lld, but axis '%s' of 'x' has %lld elements to choose from",
                                (long long)o->k, in[0].axis[last], (long long)in[0].dim[last]);
    }
    if (in[0].dim[last] > max_axis)
        return lmoe_shape_error(t, "axis '%s' of 'x' is too long for indices of dtype i32",
                                in[0].axis[last]);
    for (int i = 0; i < 2; i++) {
        out[i] = in[0];
        out[i].dim[last] = o->k;
        out[i].axis[last] = "choice";
    }
    out[1].dtype = LMOE_I32;
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status top_k_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = scatter_like(t, v->dout[0], v->out[1], v->in[0]);
    return LMOE_OK;
}

static int top_k_sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3], k;
        int ties; /* values drawn from so many different ones; 0: all different */
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 1, 0, 0},
        {{2, 63, 5}, 2, 0, 0},
        {{1, 65, 64}, 8, 0, 0},
        {{2, 3, 8}, 8, 0, 0}, /* all are chosen: a sort */
        {{3, 7, 16}, 5, 2, 0},
        {{2, 129, 7}, 7, 1, 0}, /* nothing but ties: 0, 1, 2, ... */
        {{1, 2, 1000}, 127, 40, 0},
        {{2, 3, 6}, 2, 0, LMOE_CASE_GRADCHECK},
        {{8, 256, 64}, 8, 0, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_top_k_attrs o = {cases[index].k};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq expert", cases[index].dim,
                     cases[index].ties ? LMOE_FILL_INT : LMOE_FILL_NORMAL, 0,
                     cases[index].ties ? cases[index].ties : 1);
    return 1;
}

static const lmoe_option top_k_options[] = {{"k", LMOE_OPTION_INT, offsetof(lmoe_top_k_attrs, k),
                                             NULL, 1, INT32_MAX, NULL, NULL,
                                             "How many are chosen."},
                                            LMOE_OPTION_END};

static const lmoe_port top_k_inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port top_k_outputs[] = {{.name = "values"}, {.name = "index"}, {.name = NULL}};

const lmoe_op lmoe__op_top_k = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "top_k/1",
             "the k largest along the last axis, largest first, the lower index on ties",
             top_k_options, sizeof(lmoe_top_k_attrs), 0},
    .inputs = top_k_inputs,
    .outputs = top_k_outputs,
    .shape = top_k_shape,
    .rule = "... n -> ... k, ... k | whole n",
    .vjp = top_k_vjp,
    .reference = lmoe__top_k_reference,
    .sample = top_k_sample,
};

/* ---- gather_last, scatter_last ---- */

static lmoe_status gather_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    LMOE_TRY(need_index(t, &in[0], &in[1]));
    out[0] = in[1];
    out[0].dtype = in[0].dtype;
    return LMOE_OK;
}

static lmoe_status scatter_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    const lmoe_scatter_attrs *o = attrs;
    LMOE_TRY(lmoe__need_float(t, &in[0], "x"));
    LMOE_TRY(lmoe__need_dtype(t, &in[1], "index", LMOE_I32));
    if (in[0].rank < 1) return lmoe_shape_error(t, "'x' is a scalar; it must have an axis");
    LMOE_TRY(lmoe__need_axes(t, &in[0], "x", &in[1], "index"));
    if (o->n < 1 || o->n > max_axis || !o->axis[0])
        return lmoe_shape_error(t,
                                "the result needs an axis name and a size of 1 to %lld, not %lld",
                                (long long)max_axis, (long long)o->n);
    out[0] = in[0];
    out[0].dim[in[0].rank - 1] = o->n;
    out[0].axis[in[0].rank - 1] = o->axis;
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status gather_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = scatter_like(t, v->dout[0], v->in[1], v->in[0]);
    return LMOE_OK;
}

static lmoe_status scatter_vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    v->din[0] = lmoe_gather_last(t, v->dout[0], v->in[1]);
    return LMOE_OK;
}

/* One list for both: the last sizes are n and choice. */
static const struct index_case {
    int64_t dim[2], n, choice;
    double a, b; /* indices drawn from [a, b) */
    uint32_t flags;
} index_cases[] = {
    {{1, 1}, 1, 1, 0, 1, 0},
    {{2, 63}, 5, 2, 0, 5, 0},
    {{3, 7}, 4, 9, 0, 4, 0},     /* more choices than places: repeated indices */
    {{1, 65}, 64, 8, 63, 64, 0}, /* all of them the last place */
    {{2, 5}, 8, 3, -2, 10, 0},   /* some outside */
    {{2, 3}, 5, 4, 0, 5, LMOE_CASE_GRADCHECK},
    {{8, 256}, 64, 8, 0, 64, LMOE_CASE_BENCH},
};

static const struct index_case *index_case_at(int index)
{
    return index < (int)(sizeof index_cases / sizeof *index_cases) ? &index_cases[index] : NULL;
}

static void sample_indexed(const struct index_case *k, lmoe_case *c, const char *axes, int64_t last)
{
    const int64_t x[3] = {k->dim[0], k->dim[1], last};
    const int64_t i[3] = {k->dim[0], k->dim[1], k->choice};
    c->flags = k->flags;
    lmoe__case_input(c, 0, LMOE_F32, axes, x, LMOE_FILL_NORMAL, 0, 1);
    lmoe__case_input(c, 1, LMOE_I32, "batch seq choice", i, LMOE_FILL_INT, k->a, k->b);
}

static int gather_sample(int index, lmoe_case *c)
{
    const struct index_case *k = index_case_at(index);
    if (!k) return 0;
    sample_indexed(k, c, "batch seq expert", k->n);
    return 1;
}

static int scatter_sample(int index, lmoe_case *c)
{
    const struct index_case *k = index_case_at(index);
    if (!k) return 0;
    lmoe_scatter_attrs o = {k->n, "expert"};
    memcpy(c->attrs.bytes, &o, sizeof o);
    sample_indexed(k, c, "batch seq choice", k->choice);
    return 1;
}

static const lmoe_port indexed_inputs[] = {
    {.name = "x"}, {.name = "index", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};
static const lmoe_port indexed_outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_gather_last = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "gather_last/1", "chosen elements of the last axis",
             NULL, 0, 0},
    .inputs = indexed_inputs,
    .outputs = indexed_outputs,
    .shape = gather_shape,
    .rule = "... n, ... k -> ... k | whole n, linear 0",
    .vjp = gather_vjp,
    .reference = lmoe__gather_last_reference,
    .sample = gather_sample,
};

static const lmoe_option scatter_options[] = {
    {"n", LMOE_OPTION_INT, offsetof(lmoe_scatter_attrs, n), NULL, 1, INT32_MAX, NULL, NULL,
     "Size of the result's last axis."},
    {"axis", LMOE_OPTION_CHARS, offsetof(lmoe_scatter_attrs, axis), NULL, 0,
     sizeof((lmoe_scatter_attrs *)0)->axis - 1, NULL, NULL, "Name of the result's last axis."},
    LMOE_OPTION_END};

const lmoe_op lmoe__op_scatter_last = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "scatter_last/1",
             "adds into chosen places of the last axis; zero elsewhere", scatter_options,
             sizeof(lmoe_scatter_attrs), 0},
    .inputs = indexed_inputs,
    .outputs = indexed_outputs,
    .shape = scatter_shape,
    .rule = "... k, ... k -> ... n | linear 0",
    .vjp = scatter_vjp,
    .reference = lmoe__scatter_last_reference,
    .sample = scatter_sample,
};
