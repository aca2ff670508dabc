/* SPDX-License-Identifier: Apache-2.0
 * lmoe/sequence.h: how a split sequence gets its carries; part of the draft "lmoe.graph/0".
 *
 * Every rank finds what its tokens amount to (the summary of an op with a carry) at once. Then
 * either all summaries are gathered, and each rank combines those before it; or the carry goes from
 * rank to rank: each receives the one with which its tokens start, puts its summary on top, and
 * hands on, whole or in blocks of heads, so that a rank hands on the first while the next is on its
 * way. What has no summary hands on the carry that the op itself leaves. Keys and values of softmax
 * attention grow with the tokens, so they are gathered here (parallel/ring does it otherwise).
 */
#ifndef LMOE_SEQUENCE_H
#define LMOE_SEQUENCE_H

#include <lmoe/graph.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { LMOE_MOST_BLOCKS = 4 };

static inline int32_t lmoe_carry_has_summary(const lmoe_carry *c)
{
    return c->summary && c->combine;
}

/* The carry of softmax attention is all keys and values before: nothing to add up. */
static inline int32_t lmoe_carry_adds_up(const lmoe_carry *c)
{
    return lmoe_carry_has_summary(c) && c->summary_state[0] > 0;
}

/* All summaries, combined up to this rank: one all-gather for each tensor of a summary. */
static inline lmoe_status lmoe_emit_gathered_carry(const lmoe_graph_api *api, lmoe_graph *g,
                                                   const lmoe_site *site, lmoe_value *out)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_value summary[LMOE_MAX_IO] = {0};
    lmoe_combine_attrs at = {api->mesh_rank(g), api->mesh_size(g), c->reverse};
    LMOE_TRY(lmoe_emit_summary(api, g, site, summary));
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue; /* an optional part, which this call does not have */
        LMOE_TRY(api->emit(g, "all_gather/1", NULL, 0, &summary[i], 1, &summary[i], 1, NULL));
    }
    return api->emit(g, c->combine, &at, sizeof at, summary, c->n_summary, out, c->count, NULL);
}

/* carry and then this rank's tokens: the carry of the next rank. The combine of three segments gives
 * the carry of the third (of the first, for backward ops): what comes before is a segment too, of
 * which only the state is looked at. */
static inline lmoe_status lmoe_emit_advance(const lmoe_graph_api *api, lmoe_graph *g,
                                            const lmoe_carry *c, const lmoe_value *summary,
                                            const lmoe_value *carry, lmoe_value *next)
{
    lmoe_combine_attrs at = {c->reverse ? 0 : 2, 3, c->reverse};
    lmoe_value stacked[LMOE_MAX_IO] = {0};
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue;
        lmoe_value three[3] = {summary[i], summary[i], summary[i]};
        for (int32_t k = 0; k < c->count; k++) {
            if (c->summary_state[k] == i + 1) three[c->reverse ? 2 : 0] = carry[k];
        }
        LMOE_TRY(api->emit(g, "stack/1", NULL, 0, three, 3, &stacked[i], 1, NULL));
    }
    return api->emit(g, c->combine, &at, sizeof at, stacked, c->n_summary, next, c->count, NULL);
}

static inline lmoe_status lmoe_emit_exchange(const lmoe_graph_api *api, lmoe_graph *g,
                                             const char *op, int32_t peer, const lmoe_value *in,
                                             lmoe_value *out, int32_t count)
{
    lmoe_collective_attrs a;
    memset(&a, 0, sizeof a);
    a.peer = peer;
    for (int32_t i = 0; i < count; i++)
        LMOE_TRY(
            api->emit(g, op, &a, sizeof a, &in[i], 1, out ? &out[i] : NULL, out ? 1 : 0, NULL));
    return LMOE_OK;
}

/* One block: receive, put the summary on top, hand on. */
static inline lmoe_status lmoe_emit_hand_along(const lmoe_graph_api *api, lmoe_graph *g,
                                               const lmoe_carry *c, const lmoe_value *summary,
                                               lmoe_value *carry)
{
    int32_t step = c->reverse ? -1 : 1, rank = api->mesh_rank(g), ranks = api->mesh_size(g);
    int32_t first = rank - step < 0 || rank - step >= ranks;
    lmoe_value own[4], next[4];
    for (int32_t i = 0; i < c->count; i++) own[i] = summary[c->summary_state[i] - 1];
    if (!first) LMOE_TRY(lmoe_emit_exchange(api, g, "recv/1", rank - step, own, carry, c->count));
    if (rank + step < 0 || rank + step >= ranks) return LMOE_OK;
    if (first) return lmoe_emit_exchange(api, g, "send/1", rank + step, own, NULL, c->count);
    LMOE_TRY(lmoe_emit_advance(api, g, c, summary, carry, next));
    return lmoe_emit_exchange(api, g, "send/1", rank + step, next, NULL, c->count);
}

static inline int32_t lmoe_dim_of_heads(const lmoe_graph_api *api, lmoe_graph *g, lmoe_value v,
                                        int64_t *n)
{
    lmoe_desc d;
    if (api->describe(g, v, &d) != LMOE_OK) return -1;
    for (int32_t i = 0; i < d.rank; i++) {
        *n = d.dim[i];
        if (strcmp(d.axis[i], "heads") == 0) return i;
    }
    return -1;
}

/* Blocks of heads that all tensors of the summary have; 1 if they have none in common. */
static inline int64_t lmoe_head_blocks(const lmoe_graph_api *api, lmoe_graph *g,
                                       const lmoe_carry *c, const lmoe_value *summary, int64_t most)
{
    int64_t heads = 0, n;
    for (int32_t i = 0; i < c->n_summary; i++) {
        if (!summary[i]) continue;
        if (lmoe_dim_of_heads(api, g, summary[i], &n) < 0 || (heads && n != heads)) return 1;
        heads = n;
    }
    while (most > 1 && heads % most != 0) most--;
    return most;
}

static inline lmoe_status lmoe_emit_head_block(const lmoe_graph_api *api, lmoe_graph *g,
                                               lmoe_value v, int64_t at, int64_t blocks,
                                               lmoe_value *out)
{
    lmoe_slice_attrs s;
    int64_t heads;
    memset(&s, 0, sizeof s);
    s.axis = lmoe_dim_of_heads(api, g, v, &heads);
    s.start = heads / blocks * at;
    s.length = heads / blocks;
    return api->emit(g, "slice/1", &s, sizeof s, &v, 1, out, 1, NULL);
}

static inline lmoe_status lmoe_emit_in_blocks(const lmoe_graph_api *api, lmoe_graph *g,
                                              const lmoe_carry *c, const lmoe_value *summary,
                                              int64_t blocks, lmoe_value *carry)
{
    lmoe_value part[LMOE_MAX_IO], parts[LMOE_MOST_BLOCKS][4] = {{0}};
    int64_t heads;
    for (int64_t b = 0; b < blocks; b++) {
        for (int32_t i = 0; i < c->n_summary; i++) {
            part[i] = 0;
            if (summary[i]) LMOE_TRY(lmoe_emit_head_block(api, g, summary[i], b, blocks, &part[i]));
        }
        LMOE_TRY(lmoe_emit_hand_along(api, g, c, part, parts[b]));
    }
    for (int32_t i = 0; i < c->count && parts[0][0]; i++) {
        lmoe_value list[LMOE_MOST_BLOCKS], stacked;
        for (int64_t b = 0; b < blocks; b++) list[b] = parts[b][i];
        LMOE_TRY(api->emit(g, "stack/1", NULL, 0, list, (int32_t)blocks, &stacked, 1, NULL));
        LMOE_TRY(
            lmoe_emit_join(api, g, stacked, lmoe_dim_of_heads(api, g, list[0], &heads), &carry[i]));
    }
    return LMOE_OK;
}

/* Fills carry[] with what this rank starts with (absent: nothing before), and hands on. */
static inline lmoe_status lmoe_emit_hand_over(const lmoe_graph_api *api, lmoe_graph *g,
                                              const lmoe_site *site, int64_t blocks,
                                              lmoe_value *carry)
{
    const lmoe_carry *c = site->op->carry;
    lmoe_value summary[LMOE_MAX_IO] = {0};
    if (!lmoe_carry_has_summary(c)) return lmoe_emit_receive_carry(api, g, site, carry);
    if (!lmoe_carry_adds_up(c)) return lmoe_emit_gathered_carry(api, g, site, carry);
    LMOE_TRY(lmoe_emit_summary(api, g, site, summary));
    blocks = lmoe_head_blocks(api, g, c, summary, blocks);
    if (blocks == 1) return lmoe_emit_hand_along(api, g, c, summary, carry);
    return lmoe_emit_in_blocks(api, g, c, summary, blocks, carry);
}

/* After the op: what has no summary hands its own carry on. */
static inline lmoe_status lmoe_carried(const lmoe_graph_api *api, lmoe_graph *g,
                                       const lmoe_site *site, const lmoe_value *carry)
{
    return lmoe_carry_has_summary(site->op->carry) ? LMOE_OK
                                                   : lmoe_emit_send_carry(api, g, site, carry);
}

#ifdef __cplusplus
}
#endif
#endif
