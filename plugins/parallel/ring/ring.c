/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/ring/ring.c: sequence parallelism by handing carries from rank to rank;
 * softmax attention as ring attention (Liu et al. 2023, arXiv 2310.01889).
 *
 * A carry that sums up the past goes from rank to rank. Softmax attention has none: there the keys
 * and values of each rank's tokens go along instead, one rank's at a time. Each rank attends to them
 * as they come by and puts the results together by their log-sums (attention_merge/1), so no rank
 * ever holds more than its own and one other's. In the backward pass they come by once more, and what
 * each rank finds for them goes straight to where they belong.
 */
#include <lmoe/plugin.h>
#include <lmoe/sequence.h>

static lmoe_status place(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value_kind kind,
                         const char *name, const lmoe_desc *desc, lmoe_placement *out)
{
    return lmoe_place_inputs(kind, desc, "seq", out);
}

static lmoe_status carry(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                         lmoe_value *out)
{
    return lmoe_emit_hand_over(api, g, site, 1, out);
}

/* Operands: of attention/1 and attention_grad/1; outputs of attention_grad/1. */
enum { Q, K, V, POSITIONS, DOCUMENT, SKIP, CACHE };
enum { GRAD_Y = 6, GRAD_LSE, GRAD_DY, GRAD_CACHE, GRAD_INPUTS = GRAD_CACHE + 3 };
enum { DQ, DK, DV, DKEYS, DVALUES };

typedef struct ring {
    const lmoe_graph_api *api;
    lmoe_graph *g;
    const lmoe_site *site;
    int32_t rank, ranks;
    lmoe_value block[3]; /* keys, values, positions that are here, first the rank's own */
} ring;

static lmoe_status to_or_from(ring *r, const char *op, int32_t peer, const lmoe_value *in,
                              lmoe_value *out, int32_t n)
{
    return lmoe_emit_exchange(r->api, r->g, op, peer, in, out, n);
}

static lmoe_status own_block(ring *r)
{
    const lmoe_value *in = r->site->in;
    const lmoe_value operands[4] = {in[K], in[V], in[POSITIONS], in[SKIP]};
    return r->api->emit(r->g, "attention_summary/1", r->site->attrs, sizeof(lmoe_attention_attrs),
                        operands, 4, r->block, 3, NULL);
}

/* The block that is here goes on, the next comes. */
static lmoe_status pass_on(ring *r)
{
    lmoe_value next[3];
    if (r->rank + 1 < r->ranks) LMOE_TRY(to_or_from(r, "send/1", r->rank + 1, r->block, NULL, 3));
    if (r->rank == 0) return LMOE_OK;
    LMOE_TRY(to_or_from(r, "recv/1", r->rank - 1, r->block, next, 3));
    memcpy(r->block, next, sizeof next);
    return LMOE_OK;
}

static lmoe_status attention(ring *r, lmoe_value *out)
{
    lmoe_attention_attrs attrs = *(const lmoe_attention_attrs *)r->site->attrs;
    lmoe_value in[CACHE + 3], more[4];
    LMOE_TRY(
        r->api->emit(r->g, "attention/1", &attrs, sizeof attrs, r->site->in, CACHE, out, 2, NULL));
    LMOE_TRY(own_block(r));
    memcpy(in, r->site->in, sizeof in);
    attrs.past = 1;
    for (int32_t step = 0; step < r->rank; step++) {
        LMOE_TRY(pass_on(r));
        memcpy(in + CACHE, r->block, sizeof r->block);
        memcpy(more, out, 2 * sizeof *out);
        LMOE_TRY(r->api->emit(r->g, "attention/1", &attrs, sizeof attrs, in, CACHE + 3, more + 2, 2,
                              NULL));
        LMOE_TRY(r->api->emit(r->g, "attention_merge/1", NULL, 0, more, 4, out, 2, NULL));
    }
    /* the last that came is of rank 0 and only goes on */
    return r->rank + 1 < r->ranks ? to_or_from(r, "send/1", r->rank + 1, r->block, NULL, 3)
                                  : LMOE_OK;
}

static lmoe_status sum(ring *r, lmoe_value *to, lmoe_value more)
{
    lmoe_binary_attrs attrs;
    lmoe_value in[2] = {*to, more};
    memset(&attrs, 0, sizeof attrs);
    return r->api->emit(r->g, "add/1", &attrs, sizeof attrs, in, 2, to, 1, NULL);
}

static lmoe_status gradient(ring *r, lmoe_value *out)
{
    lmoe_attention_attrs attrs = *(const lmoe_attention_attrs *)r->site->attrs;
    lmoe_value in[GRAD_INPUTS], part[5];
    memcpy(in, r->site->in, sizeof in);
    memset(in + GRAD_CACHE, 0, 3 * sizeof *in);
    LMOE_TRY(r->api->emit(r->g, "attention_grad/1", &attrs, sizeof attrs, in, GRAD_INPUTS, out, 3,
                          NULL));
    LMOE_TRY(own_block(r));
    attrs.past = 1;
    for (int32_t step = 0; step < r->rank; step++) {
        LMOE_TRY(pass_on(r));
        memcpy(in + GRAD_CACHE, r->block, sizeof r->block);
        LMOE_TRY(r->api->emit(r->g, "attention_grad/1", &attrs, sizeof attrs, in, GRAD_INPUTS, part,
                              5, NULL));
        LMOE_TRY(sum(r, &out[DQ], part[DQ]));
        LMOE_TRY(to_or_from(r, "send/1", r->rank - 1 - step, part + DKEYS, NULL, 2));
    }
    if (r->rank + 1 < r->ranks) LMOE_TRY(to_or_from(r, "send/1", r->rank + 1, r->block, NULL, 3));
    for (int32_t peer = r->rank + 1; peer < r->ranks; peer++) {
        const lmoe_value like[2] = {out[DK], out[DV]};
        LMOE_TRY(to_or_from(r, "recv/1", peer, like, part, 2));
        LMOE_TRY(sum(r, &out[DK], part[0]));
        LMOE_TRY(sum(r, &out[DV], part[1]));
    }
    return LMOE_OK;
}

static lmoe_status replace(const lmoe_graph_api *api, lmoe_graph *g, const lmoe_site *site,
                           lmoe_value *out, int32_t *done)
{
    ring r = {api, g, site, api->mesh_rank(g), api->mesh_size(g), {0}};
    *done = 1;
    if (strcmp(site->op->base.name, "attention/1") == 0) return attention(&r, out);
    if (strcmp(site->op->base.name, "attention_grad/1") == 0) return gradient(&r, out);
    *done = 0;
    return LMOE_OK;
}

static const lmoe_strategy strategy = {
    .base = {sizeof(lmoe_strategy), LMOE_KIND_STRATEGY, "parallel/ring",
             "Splits the sequence, hands carries on; ring attention.", NULL, 0, 0},
    .place = place,
    .resolve = lmoe_resolve,
    .carry = carry,
    .carried = lmoe_carried,
    .replace = replace,
};
static const lmoe_class *const classes[] = {&strategy.base, NULL};

LMOE_PLUGIN(.id = "parallel/ring", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
