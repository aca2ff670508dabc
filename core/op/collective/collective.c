/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/collective.c: between the ranks of one mesh axis: all_reduce/1, all_gather/1,
 * and shard/1, which needs no communication. Strategies emit them; nothing differentiates them.
 *
 *   all_reduce   x -> y like x: the sum over the ranks
 *   all_gather   x -> y (rank x...): the ranks' x, stacked in rank order
 *   shard        x -> y: piece number `rank` of `ranks` equal ones of x's dimension `dim`
 */
#include "core/op/shape.h"

lmoe_status lmoe__all_reduce_reference(const lmoe_args *args);
lmoe_status lmoe__all_gather_reference(const lmoe_args *args);
lmoe_status lmoe__shard_reference(const lmoe_args *args);

static lmoe_status need_mesh(lmoe_trace *t, const lmoe_collective_attrs *o, const lmoe_desc *x)
{
    if (x->dtype == LMOE_NONE) return lmoe_shape_error(t, "'x' is absent");
    if (o->ranks >= 1 && o->rank >= 0 && o->rank < o->ranks) return LMOE_OK;
    return lmoe_shape_error(t, "rank %lld of %lld ranks does not exist", (long long)o->rank,
                            (long long)o->ranks);
}

/* ---- cases: one rank, as the references of collectives have no other; shard: any ---- */

static const struct collective_case {
    int64_t dim[3], rank, ranks, at;
    uint32_t flags;
} collective_cases[] = {
    {{1, 1, 1}, 0, 1, 0, 0},
    {{2, 64, 5}, 0, 2, 0, 0},
    {{2, 64, 5}, 1, 2, 1, 0},
    {{3, 7, 12}, 3, 4, 2, 0},
    {{3, 7, 12}, 2, 3, 0, 0},
    {{5, 127, 1}, 126, 127, 1, 0},
    {{16, 256, 256}, 3, 4, 1, LMOE_CASE_BENCH},
};

static const struct collective_case *sample_case(int index, lmoe_case *c)
{
    if (index >= (int)(sizeof collective_cases / sizeof *collective_cases)) return NULL;
    const struct collective_case *k = &collective_cases[index];
    c->flags = k->flags;
    lmoe__case_input(c, 0, LMOE_F32, "batch seq embed", k->dim, LMOE_FILL_NORMAL, 0, 1);
    return k;
}

static int sample_alone(int index, lmoe_case *c)
{
    lmoe_collective_attrs o = {0, 0, 1, 0};
    memcpy(c->attrs.bytes, &o, sizeof o);
    return sample_case(index, c) != NULL;
}

static int sample_shard(int index, lmoe_case *c)
{
    const struct collective_case *k = sample_case(index, c);
    if (!k) return 0;
    lmoe_collective_attrs o = {0, k->rank, k->ranks, k->at};
    memcpy(c->attrs.bytes, &o, sizeof o);
    return 1;
}

/* ---- the three ops ---- */

static lmoe_status reduce_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    LMOE_TRY(need_mesh(t, attrs, &in[0]));
    out[0] = in[0];
    return LMOE_OK;
}

static bool has_axis(const lmoe_desc *d, const char *name)
{
    for (int i = 0; i < d->rank; i++) {
        if (strcmp(d->axis[i], name) == 0) return true;
    }
    return false;
}

/* What was gathered over one mesh axis may be gathered over another. */
static const char *new_rank_axis(const lmoe_desc *x)
{
    static const char *const names[LMOE_MAX_DIMS] = {"rank",  "rank2", "rank3", "rank4",
                                                     "rank5", "rank6", "rank7", "rank8"};
    int i = 0;
    while (has_axis(x, names[i])) i++; /* ends: x has fewer axes than there are names */
    return names[i];
}

static lmoe_status gather_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    char text[256];
    LMOE_TRY(need_mesh(t, o, &in[0]));
    if (in[0].rank == LMOE_MAX_DIMS)
        return lmoe_shape_error(t, "'x' is %s: with an axis for ranks it would have more than %d",
                                lmoe__desc_text(text, sizeof text, &in[0]), LMOE_MAX_DIMS);
    out[0] = (lmoe_desc){.dtype = in[0].dtype, .rank = in[0].rank + 1};
    out[0].dim[0] = o->ranks;
    out[0].axis[0] = new_rank_axis(&in[0]);
    for (int i = 0; i < in[0].rank; i++) {
        out[0].dim[i + 1] = in[0].dim[i];
        out[0].axis[i + 1] = in[0].axis[i];
    }
    return LMOE_OK;
}

static lmoe_status shard_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    char text[256];
    LMOE_TRY(need_mesh(t, o, &in[0]));
    if (o->dim < 0 || o->dim >= in[0].rank)
        return lmoe_shape_error(t, "dimension %lld cannot be cut: 'x' is %s", (long long)o->dim,
                                lmoe__desc_text(text, sizeof text, &in[0]));
    if (in[0].dim[o->dim] % o->ranks != 0)
        return lmoe_shape_error(t,
                                "axis '%s' has %lld elements, which %lld ranks cannot share "
                                "equally",
                                in[0].axis[o->dim], (long long)in[0].dim[o->dim],
                                (long long)o->ranks);
    out[0] = in[0];
    out[0].dim[o->dim] /= o->ranks;
    return LMOE_OK;
}

/* Another mesh axis may split every dimension but the one that is cut. */
static lmoe_status shard_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                              size_t n)
{
    const lmoe_collective_attrs *o = attrs;
    char letters[2 * LMOE_MAX_DIMS + 1] = "";
    for (int i = 0; i < in[0].rank; i++) snprintf(letters + 2 * i, 3, "%c ", 'a' + i);
    snprintf(text, n, "%s-> %s| whole %c, linear 0", letters, letters, (char)('a' + o->dim));
    return LMOE_OK;
}

static const lmoe_option options[] = {
    {"mesh", LMOE_OPTION_INT, offsetof(lmoe_collective_attrs, mesh), "0", 0, INT32_MAX, NULL, NULL,
     "Index of the mesh axis."},
    {"rank", LMOE_OPTION_INT, offsetof(lmoe_collective_attrs, rank), "0", 0, INT32_MAX, NULL, NULL,
     "This rank's place on the mesh axis."},
    {"ranks", LMOE_OPTION_INT, offsetof(lmoe_collective_attrs, ranks), "1", 1, INT32_MAX, NULL,
     NULL, "Ranks on the mesh axis."},
    {"dim", LMOE_OPTION_INT, offsetof(lmoe_collective_attrs, dim), "0", 0, LMOE_MAX_DIMS - 1, NULL,
     NULL, "Dimension that is cut."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};
static const signed char over_x[] = {1};

const lmoe_op lmoe__op_all_reduce = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "all_reduce/1", "sum over the ranks of a mesh axis",
             options, sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = reduce_shape,
    .rule = "... -> ... | linear 0",
    .reference = lmoe__all_reduce_reference,
    .sample = sample_alone,
    .inplace = over_x,
};

const lmoe_op lmoe__op_all_gather = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "all_gather/1",
             "tensors of the ranks of a mesh axis, stacked", options, sizeof(lmoe_collective_attrs),
             0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = gather_shape,
    .rule = "... -> r ... | linear 0",
    .reference = lmoe__all_gather_reference,
    .sample = sample_alone,
};

const lmoe_op lmoe__op_shard = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "shard/1", "this rank's piece of one dimension",
             options, sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shard_shape,
    .rule_of = shard_rule,
    .reference = lmoe__shard_reference,
    .sample = sample_shard,
};
