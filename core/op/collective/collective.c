/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/collective.c: between the ranks of one mesh axis: all_reduce/1, all_gather/1,
 * reduce_scatter/1, all_to_all/1, send/1, recv/1, and shard/1, which needs no communication.
 * Strategies emit them; nothing differentiates them.
 *
 *   all_reduce   x -> y like x: the sum over the ranks
 *   all_gather   x -> y (rank x...): the ranks' x, stacked in rank order
 *   reduce_scatter  x (rank ...) -> y: this rank's piece of the sum over the ranks
 *   all_to_all   x (rank ...) -> y (rank ...): piece j goes to rank j, piece i came from rank i
 *   send, recv   x to, and y from, the rank `peer`; y is like an operand of which only the shape is
 *                read
 *   shard        x -> y: piece number `rank` of `ranks` equal ones of x's dimension `dim`
 */
#include "core/op/collective/collective.h"

lmoe_status lmoe__all_reduce_reference(const lmoe_args *args);
lmoe_status lmoe__all_gather_reference(const lmoe_args *args);
lmoe_status lmoe__reduce_scatter_reference(const lmoe_args *args);
lmoe_status lmoe__all_to_all_reference(const lmoe_args *args);
lmoe_status lmoe__send_reference(const lmoe_args *args);
lmoe_status lmoe__recv_reference(const lmoe_args *args);
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
    lmoe_collective_attrs o = {.ranks = 1};
    memcpy(c->attrs.bytes, &o, sizeof o);
    return sample_case(index, c) != NULL;
}

/* x is one rank's: (rank ...) with one rank. */
static int sample_stacked(int index, lmoe_case *c)
{
    lmoe_collective_attrs o = {.ranks = 1};
    if (index >= (int)(sizeof collective_cases / sizeof *collective_cases)) return 0;
    const struct collective_case *k = &collective_cases[index];
    const int64_t dim[4] = {1, k->dim[0], k->dim[1], k->dim[2]};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = k->flags;
    lmoe__case_input(c, 0, LMOE_F32, "rank batch seq embed", dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static int sample_shard(int index, lmoe_case *c)
{
    const struct collective_case *k = sample_case(index, c);
    if (!k) return 0;
    lmoe_collective_attrs o = {.rank = k->rank, .ranks = k->ranks, .dim = k->at};
    memcpy(c->attrs.bytes, &o, sizeof o);
    return 1;
}

/* ---- the ops ---- */

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
const char *lmoe__rank_axis(const lmoe_desc *x)
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
    out[0].axis[0] = lmoe__rank_axis(&in[0]);
    for (int i = 0; i < in[0].rank; i++) {
        out[0].dim[i + 1] = in[0].dim[i];
        out[0].axis[i + 1] = in[0].axis[i];
    }
    return LMOE_OK;
}

static lmoe_status need_stacked(lmoe_trace *t, const lmoe_collective_attrs *o, const lmoe_desc *x)
{
    LMOE_TRY(need_mesh(t, o, x));
    if (x->rank >= 1 && x->dim[0] == o->ranks) return LMOE_OK;
    char text[256];
    return lmoe_shape_error(t, "'x' is %s; its first axis must count the %lld ranks",
                            lmoe__desc_text(text, sizeof text, x), (long long)o->ranks);
}

static lmoe_status scatter_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    LMOE_TRY(need_stacked(t, attrs, &in[0]));
    out[0] = (lmoe_desc){.dtype = in[0].dtype, .rank = in[0].rank - 1};
    for (int i = 0; i < out[0].rank; i++) {
        out[0].dim[i] = in[0].dim[i + 1];
        out[0].axis[i] = in[0].axis[i + 1];
    }
    return LMOE_OK;
}

static lmoe_status swap_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    LMOE_TRY(need_stacked(t, attrs, &in[0]));
    out[0] = in[0];
    return LMOE_OK;
}

static lmoe_status send_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    return need_mesh(t, attrs, &in[0]);
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

const lmoe_option lmoe__collective_options[] = {
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
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
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
             "tensors of the ranks of a mesh axis, stacked", lmoe__collective_options,
             sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = gather_shape,
    .rule = "... -> r ... | linear 0",
    .reference = lmoe__all_gather_reference,
    .sample = sample_alone,
};

const lmoe_op lmoe__op_reduce_scatter = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "reduce_scatter/1",
             "a piece for each rank of the sum over the ranks of a mesh axis",
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = scatter_shape,
    .rule = "r ... -> ... | whole r, linear 0, same 0",
    .reference = lmoe__reduce_scatter_reference,
    .sample = sample_stacked,
};

const lmoe_op lmoe__op_all_to_all = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "all_to_all/1",
             "pieces of tensors, each to the rank of its number", lmoe__collective_options,
             sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = swap_shape,
    .rule = "r ... -> r ... | whole r, linear 0",
    .reference = lmoe__all_to_all_reference,
    .sample = sample_stacked,
};

static const lmoe_port sent[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port none[] = {{.name = NULL}};
static const lmoe_port like[] = {{.name = "like", .flags = LMOE_PORT_SHAPE}, {.name = NULL}};

const lmoe_op lmoe__op_send = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "send/1", "a tensor to one rank of a mesh axis",
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
    .inputs = sent,
    .outputs = none,
    .shape = send_shape,
    .rule = "... ->",
    .reference = lmoe__send_reference,
    .sample = sample_alone,
};

const lmoe_op lmoe__op_recv = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "recv/1", "a tensor from one rank of a mesh axis",
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
    .inputs = like,
    .outputs = outputs,
    .shape = reduce_shape,
    .rule = "... -> ... | shape 0",
    .reference = lmoe__recv_reference,
    .sample = sample_alone,
};

const lmoe_op lmoe__op_shard = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "shard/1", "this rank's piece of one dimension",
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shard_shape,
    .rule_of = shard_rule,
    .reference = lmoe__shard_reference,
    .sample = sample_shard,
};
