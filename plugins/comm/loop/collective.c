/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/collective.c: collectives: ranks arrive, and those that wait share the work.
 */
#include "loop.h"

/* ---- the work, when all buffers are there ---- */

/* Share r of a reduction over all elements is the r-th part of them. */
static void reduce_part(const op *o, int32_t r)
{
    const lmoe_exchange *e = &o->part[r]->e;
    int32_t n = o->group->ranks;
    int64_t share = e->count / n, more = e->count % n;
    int64_t begin = share * r + (r < more ? r : more), count = share + (r < more);
    lmoe_reduce_ordered(o->from, n, begin, o->to, n, begin, count, e->dtype, e->reduce);
}

static void copy(void *to, const void *from, size_t bytes)
{
    if (bytes > 0 && to != from) memcpy(to, from, bytes);
}

/* Blocks from all ranks to rank r; the senders' are one after another. */
static void collect_blocks(const op *o, int32_t r)
{
    const lmoe_exchange *e = &o->part[r]->e;
    size_t size = lmoe_dtype_bytes(e->dtype), put = 0;
    for (int32_t s = 0; s < o->group->ranks; s++) {
        const lmoe_exchange *his = &o->part[s]->e;
        bool equal = e->kind == LMOE_ALL_TO_ALL;
        int64_t count = equal ? e->count : e->recv_counts[s];
        int64_t at = equal ? e->count * r : lmoe_exchange_sum(his->send_counts, r);
        size_t bytes = (size_t)count * size;
        if (bytes > 0)
            copy((char *)e->recv + put, (const char *)his->send + (size_t)at * size, bytes);
        put += bytes;
    }
}

static void work(const op *o, int32_t r)
{
    const lmoe_exchange *e = &o->part[r]->e;
    int32_t n = o->group->ranks;
    size_t bytes = (size_t)e->count * lmoe_dtype_bytes(e->dtype);
    switch (e->kind) {
    case LMOE_ALL_REDUCE: reduce_part(o, r); break;
    case LMOE_REDUCE_SCATTER:
        lmoe_reduce_ordered(o->from, n, e->count * r, &o->to[r], 1, 0, e->count, e->dtype,
                            e->reduce);
        break;
    case LMOE_ALL_GATHER:
        for (int32_t s = 0; bytes > 0 && s < n; s++)
            copy((char *)e->recv + (size_t)s * bytes, o->from[s], bytes);
        break;
    case LMOE_BROADCAST: copy(e->recv, o->from[e->peer], bytes); break;
    default: collect_blocks(o, r);
    }
}

void loop_help(op *o)
{
    hub *h = o->group->hub;
    while (o->taken < o->group->ranks) {
        int32_t share = o->taken++;
        pthread_mutex_unlock(&h->mutex);
        work(o, share);
        pthread_mutex_lock(&h->mutex);
        if (++o->done == o->group->ranks) pthread_cond_broadcast(&h->changed);
    }
}

/* ---- split ---- */

/* Is the request of rank a placed before that of rank b, which has the same color? */
static bool comes_before(const op *o, int32_t a, int32_t b)
{
    int32_t x = o->part[a]->key, y = o->part[b]->key;
    return x < y || (x == y && a < b);
}

/* Makes the group of each color. */
static bool make_parts(op *o)
{
    group *g = o->group;
    for (int32_t i = 0; i < g->ranks; i++) {
        if (o->part[i]->sub) continue;
        int32_t color = o->part[i]->color, n = 0;
        for (int32_t k = i; k < g->ranks; k++) n += o->part[k]->color == color;
        group *sub = loop_group_new(g->hub, n);
        if (!sub) return false;
        for (int32_t k = i; k < g->ranks; k++) {
            request *r = o->part[k];
            if (r->color != color) continue;
            r->sub = sub;
            for (int32_t m = i; m < g->ranks; m++)
                r->sub_rank += o->part[m]->color == color && comes_before(o, m, k);
            sub->member[r->sub_rank].world = g->member[k].world;
        }
    }
    return true;
}

/* ---- arriving ---- */

/* What one rank sends to another must be what that one expects. */
static void check_blocks(const op *o)
{
    const group *g = o->group;
    char us[64], them[64], ours[160];
    for (int32_t a = 0; a < g->ranks; a++) {
        for (int32_t b = 0; b < g->ranks; b++) {
            long long sent = o->part[a]->e.send_counts[b], room = o->part[b]->e.recv_counts[a];
            if (sent != room)
                loop_fail(g->hub, "%s: %s sends %lld elements to %s, which expects %lld",
                          lmoe_exchange_text(ours, sizeof ours, &o->part[a]->e, o->number),
                          loop_who(us, sizeof us, g, a), sent, loop_who(them, sizeof them, g, b),
                          room);
        }
    }
}

/* The last rank has arrived. */
static void make_ready(op *o)
{
    const group *g = o->group;
    int kind = (int)o->part[0]->e.kind;
    if (kind == LMOE_ALL_TO_ALL_V) check_blocks(o);
    if (kind == SPLIT && !make_parts(o)) loop_fail(g->hub, "split: out of memory");
    if (kind == SPLIT || kind == LMOE_BARRIER) o->taken = o->done = g->ranks;
    if (g->hub->failed) {
        o->arrived--; /* it will never be ready */
        return;
    }
    for (int32_t i = 0; i < g->ranks; i++) loop_wake(o->part[i]);
}

/* Room for some more, so that a training step, whose ranks run apart now less, now more, soon needs
 * none. */
static bool make_room(group *g)
{
    size_t n = (size_t)g->ranks, one = sizeof(request *) + 2 * sizeof(void *);
    for (int i = 0; i < 32; i++) {
        op *o = calloc(1, sizeof *o + n * one);
        if (!o) break;
        o->part = (request **)(o + 1);
        o->from = (const void **)(o->part + n);
        o->to = (void **)(o->from + n);
        o->next = g->free_ops;
        g->free_ops = o;
    }
    return g->free_ops != NULL;
}

/* The group's collective of this number; a new one if this rank is the first to start it. */
static op *find(group *g, int64_t number)
{
    op **at = &g->ops;
    while (*at && (*at)->number != number) at = &(*at)->next;
    if (*at) return *at;
    if (!g->free_ops && !make_room(g)) return NULL;
    op *o = g->free_ops;
    g->free_ops = o->next;
    o->next = NULL;
    o->group = g;
    o->number = number;
    o->arrived = o->taken = o->done = o->left = 0;
    *at = o;
    return o;
}

static void fail_mismatch(const op *o, const request *mine)
{
    const group *g = o->group;
    const request *his = o->part[o->first];
    char us[64], them[64], ours[160], theirs[160];
    loop_fail(g->hub,
              "%s called %s while %s waits in %s; all ranks of a communicator must call the same "
              "operations with the same counts and dtypes",
              loop_who(us, sizeof us, g, mine->rank),
              lmoe_exchange_text(ours, sizeof ours, &mine->e, mine->number),
              loop_who(them, sizeof them, g, his->rank),
              lmoe_exchange_text(theirs, sizeof theirs, &his->e, his->number));
}

void loop_arrive(comm *c, request *r)
{
    group *g = c->group;
    for (int32_t i = 0; g->closed > 0 && i < g->ranks; i++)
        if (g->member[i].closed) loop_fail_closed(g, i, r);
    op *o = find(g, r->number);
    if (!o) {
        loop_fail(g->hub, "%s: out of memory", lmoe_exchange_name(&r->e));
        return;
    }
    if (g->hub->failed) return;
    if (o->arrived > 0 && !lmoe_exchange_same(&r->e, &o->part[o->first]->e)) fail_mismatch(o, r);
    if (g->hub->failed) return;
    if (o->arrived == 0) o->first = c->rank;
    r->op = o;
    o->part[c->rank] = r;
    o->from[c->rank] = r->e.send;
    o->to[c->rank] = r->e.recv;
    if (++o->arrived == g->ranks) make_ready(o);
}

void loop_leave(op *o, int32_t rank)
{
    group *g = o->group;
    o->part[rank] = NULL;
    if (++o->left < g->ranks) return;
    op **at = &g->ops;
    while (*at != o) at = &(*at)->next;
    *at = o->next;
    o->next = g->free_ops;
    g->free_ops = o;
}
