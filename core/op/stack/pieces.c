/* SPDX-License-Identifier: Apache-2.0
 * core/op/stack/pieces.c: pieces/1 and join/1: between a tensor and its equal pieces of one
 * dimension, stacked in the order of ranks.
 *
 *   pieces  x (... d ...) -> y (rank ... d/n ...): y[j] is piece j of n of dimension `dim`
 *   join    x (rank ... d ...) -> y (... n d ...): the reverse; `dim` counts y's dimensions
 *
 * Strategies emit them around collectives; nothing differentiates them.
 */
#include "core/op/collective/collective.h"

lmoe_status lmoe__pieces_reference(const lmoe_args *args);
lmoe_status lmoe__join_reference(const lmoe_args *args);

static lmoe_status pieces_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    const lmoe_desc *x = &in[0];
    char text[256];
    if (x->dtype == LMOE_NONE) return lmoe_shape_error(t, "'x' is absent");
    if (o->dim < 0 || o->dim >= x->rank || x->rank == LMOE_MAX_DIMS || o->ranks < 1 ||
        x->dim[o->dim] % o->ranks != 0)
        return lmoe_shape_error(t, "dimension %lld of 'x', which is %s, has no %lld equal pieces",
                                (long long)o->dim, lmoe__desc_text(text, sizeof text, x),
                                (long long)o->ranks);
    out[0] = (lmoe_desc){.dtype = x->dtype, .rank = x->rank + 1};
    out[0].dim[0] = o->ranks;
    out[0].axis[0] = lmoe__rank_axis(x);
    for (int i = 0; i < x->rank; i++) {
        out[0].dim[i + 1] = x->dim[i] / (i == o->dim ? o->ranks : 1);
        out[0].axis[i + 1] = x->axis[i];
    }
    return LMOE_OK;
}

static lmoe_status join_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    const lmoe_collective_attrs *o = attrs;
    const lmoe_desc *x = &in[0];
    char text[256];
    if (x->dtype == LMOE_NONE) return lmoe_shape_error(t, "'x' is absent");
    if (x->rank < 2 || o->dim < 0 || o->dim >= x->rank - 1)
        return lmoe_shape_error(t, "the pieces of 'x', which is %s, have no dimension %lld",
                                lmoe__desc_text(text, sizeof text, x), (long long)o->dim);
    out[0] = (lmoe_desc){.dtype = x->dtype, .rank = x->rank - 1};
    for (int i = 0; i < out[0].rank; i++) {
        out[0].dim[i] = x->dim[i + 1] * (i == o->dim ? x->dim[0] : 1);
        out[0].axis[i] = x->axis[i + 1];
    }
    return LMOE_OK;
}

/* Every dimension but the one that is cut may be split over another mesh axis. */
static void rule(bool join, int rank, int64_t dim, char *text, size_t n)
{
    char letters[2 * LMOE_MAX_DIMS + 1] = "";
    for (int i = 0; i < rank; i++) snprintf(letters + 2 * i, 3, "%c ", 'a' + i);
    snprintf(text, n, "%s%s-> %s%s| whole %c%s, linear 0", join ? "z " : "", letters,
             join ? "" : "z ", letters, (char)('a' + dim), join ? ", whole z" : "");
}

static lmoe_status pieces_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                               size_t n)
{
    rule(false, in[0].rank, ((const lmoe_collective_attrs *)attrs)->dim, text, n);
    return LMOE_OK;
}

static lmoe_status join_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    rule(true, in[0].rank - 1, ((const lmoe_collective_attrs *)attrs)->dim, text, n);
    return LMOE_OK;
}

static const struct pieces_case {
    int64_t ranks, dim, size[3];
    uint32_t flags;
} pieces_cases[] = {
    {1, 0, {1, 1, 1}, 0}, {2, 0, {4, 3, 5}, 0},   {3, 1, {2, 9, 7}, 0},
    {4, 2, {3, 5, 8}, 0}, {8, 1, {2, 64, 33}, 0}, {4, 1, {8, 512, 256}, LMOE_CASE_BENCH},
};

static int sample(int index, lmoe_case *c, bool join)
{
    if (index >= (int)(sizeof pieces_cases / sizeof *pieces_cases)) return 0;
    const struct pieces_case *k = &pieces_cases[index];
    lmoe_collective_attrs o = {.ranks = k->ranks, .dim = k->dim};
    int64_t dim[4] = {k->ranks, k->size[0], k->size[1], k->size[2]};
    dim[k->dim + 1] /= k->ranks;
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = k->flags;
    lmoe__case_input(c, 0, LMOE_F32, join ? "rank batch seq embed" : "batch seq embed",
                     join ? dim : k->size, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static int pieces_sample(int index, lmoe_case *c)
{
    return sample(index, c, false);
}

static int join_sample(int index, lmoe_case *c)
{
    return sample(index, c, true);
}

static const lmoe_port inputs[] = {{.name = "x"}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_pieces = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "pieces/1", "equal pieces of one dimension, stacked",
             lmoe__collective_options, sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = pieces_shape,
    .rule_of = pieces_rule,
    .reference = lmoe__pieces_reference,
    .sample = pieces_sample,
};

const lmoe_op lmoe__op_join = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "join/1",
             "stacked pieces side by side in one dimension", lmoe__collective_options,
             sizeof(lmoe_collective_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = join_shape,
    .rule_of = join_rule,
    .reference = lmoe__join_reference,
    .sample = join_sample,
};
