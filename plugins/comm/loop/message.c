/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/message.c: point to point. A send copies to the receive that waits for it, or to
 * a buffer that the receive will find.
 */
#include "loop.h"

static bool belongs(const lmoe_exchange *send, int32_t sender, const lmoe_exchange *recv,
                    int32_t receiver)
{
    return send->peer == receiver && recv->peer == sender && send->tag == recv->tag;
}

/* The first posted receive of what c sends, taken from the list; NULL if there is none. */
static request *take_receive(comm *c, const lmoe_exchange *e)
{
    request **at = &c->group->receives;
    while (*at && !belongs(e, c->rank, &(*at)->e, (*at)->rank)) at = &(*at)->next;
    request *r = *at;
    if (r) *at = r->next;
    return r;
}

static message *take_message(comm *c, const lmoe_exchange *e)
{
    message **at = &c->group->messages;
    while (*at && !belongs(&(*at)->e, (*at)->from, e, c->rank)) at = &(*at)->next;
    message *m = *at;
    if (m) *at = m->next;
    return m;
}

/* A message that holds a copy of the data; the lock is given back meanwhile. NULL: out of memory. */
static message *pack(comm *c, const lmoe_exchange *e, int64_t number)
{
    hub *h = c->group->hub;
    message *m = h->free_messages;
    if (m) h->free_messages = m->next;
    pthread_mutex_unlock(&h->mutex);
    size_t bytes = (size_t)e->count * lmoe_dtype_bytes(e->dtype);
    if (!m) m = calloc(1, sizeof *m);
    if (m && m->room < bytes) {
        free(m->data);
        m->data = malloc(bytes);
        m->room = m->data ? bytes : 0;
    }
    bool fits = m && m->room >= bytes;
    if (fits) {
        m->from = c->rank;
        m->e = *e;
        m->number = number;
        if (bytes > 0) memcpy(m->data, e->send, bytes);
    }
    pthread_mutex_lock(&h->mutex);
    if (fits) return m;
    if (m) {
        m->next = h->free_messages;
        h->free_messages = m;
    }
    return NULL;
}

static void check(const group *g, int32_t sender, const lmoe_exchange *e, int64_t number,
                  const request *r)
{
    char us[64], them[64], ours[160], theirs[160];
    if (e->count == r->e.count && e->dtype == r->e.dtype) return;
    loop_fail(g->hub,
              "%s called %s, but %s expects it in %s; both must name the same number of "
              "elements of the same dtype",
              loop_who(us, sizeof us, g, sender), lmoe_exchange_text(ours, sizeof ours, e, number),
              loop_who(them, sizeof them, g, r->rank),
              lmoe_exchange_text(theirs, sizeof theirs, &r->e, r->number));
}

/* Gives data to a receive that is in no list any more. */
static void deliver(request *r, const void *data)
{
    hub *h = r->group->hub;
    size_t bytes = (size_t)r->e.count * lmoe_dtype_bytes(r->e.dtype);
    r->matched = true;
    loop_wake(r);
    pthread_mutex_unlock(&h->mutex);
    if (bytes > 0) memcpy(r->e.recv, data, bytes);
    pthread_mutex_lock(&h->mutex);
    r->complete = true;
    pthread_cond_broadcast(&h->changed);
}

void loop_send(comm *c, const lmoe_exchange *e, int64_t number)
{
    group *g = c->group;
    request gone = {.rank = c->rank, .e = *e, .number = number};
    if (g->member[e->peer].closed) loop_fail_closed(g, e->peer, &gone);
    if (g->hub->failed) return;
    message *m = NULL;
    request *r = take_receive(c, e);
    if (!r) {
        m = pack(c, e, number);
        if (!m) loop_fail(g->hub, "send: out of memory");
        if (!m || g->hub->failed) goto end;
        r = take_receive(c, e); /* it may have been posted meanwhile */
    }
    if (r) {
        check(g, c->rank, e, number, r);
        if (!g->hub->failed) deliver(r, m ? m->data : e->send);
    } else {
        message **last = &g->messages;
        while (*last) last = &(*last)->next;
        m->next = NULL;
        *last = m;
        return;
    }
end:
    if (m) {
        m->next = g->hub->free_messages;
        g->hub->free_messages = m;
    }
}

void loop_receive(comm *c, request *r)
{
    group *g = c->group;
    message *m = take_message(c, &r->e);
    if (m) {
        check(g, m->from, &m->e, m->number, r);
        if (!g->hub->failed) deliver(r, m->data);
        m->next = g->hub->free_messages;
        g->hub->free_messages = m;
        return;
    }
    if (g->member[r->e.peer].closed) loop_fail_closed(g, r->e.peer, r);
    if (g->hub->failed) return;
    request **last = &g->receives;
    while (*last) last = &(*last)->next;
    r->next = NULL;
    *last = r;
}
