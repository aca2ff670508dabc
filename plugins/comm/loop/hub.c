/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/hub.c: what the ranks share, and how they fail together.
 */
#include "loop.h"

#include <stdio.h>

/* ---- objects ---- */

group *loop_group_new(hub *h, int32_t ranks)
{
    group *g = calloc(1, sizeof *g + (size_t)ranks * sizeof(member));
    if (!g) return NULL;
    g->hub = h;
    g->ranks = ranks;
    g->next = h->groups;
    h->groups = g;
    return g;
}

hub *loop_hub_new(int32_t ranks)
{
    hub *h = calloc(1, sizeof *h + (size_t)ranks * sizeof(place));
    group *world = h ? loop_group_new(h, ranks) : NULL;
    if (!world) {
        free(h);
        return NULL;
    }
    h->ranks = ranks;
    for (int32_t i = 0; i < ranks; i++) world->member[i].world = i;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    return h;
}

static void free_ops(op *o)
{
    for (op *next; o; o = next) {
        next = o->next;
        free(o);
    }
}

static void free_requests(request *r)
{
    for (request *next; r; r = next) {
        next = r->next;
        free(r->counts);
        free(r);
    }
}

static void free_messages(message *m)
{
    for (message *next; m; m = next) {
        next = m->next;
        free(m->data);
        free(m);
    }
}

void loop_hub_free(hub *h)
{
    for (group *g = h->groups, *next; g; g = next) {
        next = g->next;
        free_ops(g->ops);
        free_ops(g->free_ops);
        free_messages(g->messages);
        free(g);
    }
    free_requests(h->free_requests);
    free_messages(h->free_messages);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

/* The counts of the ranks are the caller's; they are copied. */
static bool copy_counts(request *r, int32_t ranks)
{
    size_t bytes = (size_t)ranks * sizeof *r->counts;
    if (r->room < ranks) {
        free(r->counts);
        r->counts = malloc(2 * bytes);
        r->room = r->counts ? ranks : 0;
    }
    if (!r->counts) return false;
    memcpy(r->counts, r->e.send_counts, bytes);
    memcpy(r->counts + ranks, r->e.recv_counts, bytes);
    r->e.send_counts = r->counts;
    r->e.recv_counts = r->counts + ranks;
    return true;
}

request *loop_request_new(comm *c, const lmoe_exchange *e, int64_t number)
{
    hub *h = c->group->hub;
    for (int i = h->free_requests ? 64 : 0; i < 64; i++) { /* some more than are needed now */
        request *more = calloc(1, sizeof *more);
        if (!more) break;
        more->next = h->free_requests;
        h->free_requests = more;
    }
    request *r = h->free_requests;
    if (r) h->free_requests = r->next;
    if (!r) {
        loop_fail(h, "%s: out of memory", lmoe_exchange_name(e));
        return NULL;
    }
    *r = (request){.counts = r->counts, .room = r->room};
    r->group = c->group;
    r->rank = c->rank;
    r->e = *e;
    r->number = number;
    r->open = c->open;
    c->open = r;
    if (e->kind == LMOE_ALL_TO_ALL_V && !copy_counts(r, c->group->ranks)) {
        loop_request_free(c, r);
        loop_fail(h, "%s: out of memory", lmoe_exchange_name(e));
        return NULL;
    }
    return r;
}

void loop_request_free(comm *c, request *r)
{
    hub *h = c->group->hub;
    request **at = &c->open;
    while (*at != r) at = &(*at)->open;
    *at = r->open;
    r->next = h->free_requests;
    h->free_requests = r;
}

/* ---- failures ---- */

void loop_fail(hub *h, const char *format, ...)
{
    va_list args;
    if (h->failed) return;
    va_start(args, format);
    vsnprintf(h->why, sizeof h->why, format, args);
    va_end(args);
    h->failed = true;
    pthread_cond_broadcast(&h->changed);
}

lmoe_status loop_status(comm *c)
{
    const hub *h = c->group->hub;
    if (!h->failed) return LMOE_OK;
    memcpy(c->message, h->why, sizeof c->message);
    return LMOE_E_COMM;
}

/* "rank 1", and in a part of the world "rank 1 of 2 (rank 5 of the run)". */
const char *loop_who(char *buf, size_t n, const group *g, int32_t rank)
{
    if (g->ranks == g->hub->ranks)
        snprintf(buf, n, "rank %d", g->member[rank].world);
    else
        snprintf(buf, n, "rank %d of %d (rank %d of the run)", rank, g->ranks,
                 g->member[rank].world);
    return buf;
}

void loop_fail_closed(const group *g, int32_t closed, const request *r)
{
    char gone[64], us[64], ours[160];
    loop_fail(g->hub, "%s has closed the communicator, but %s is in %s and needs it",
              loop_who(gone, sizeof gone, g, closed), loop_who(us, sizeof us, g, r->rank),
              lmoe_exchange_text(ours, sizeof ours, &r->e, r->number));
}

/* Adds what each rank of the run does: "; rank 1 in all_reduce number 5 (...); rank 2 is busy". */
static void add_places(const hub *h, char *text, size_t size)
{
    char us[64], ours[160];
    for (int32_t i = 0; i < h->ranks; i++) {
        const place *p = &h->place[i];
        size_t used = strlen(text);
        if (p->at)
            snprintf(text + used, size - used, "; %s in %s",
                     loop_who(us, sizeof us, p->at->group, p->at->rank),
                     lmoe_exchange_text(ours, sizeof ours, &p->at->e, p->at->number));
        else
            snprintf(text + used, size - used, "; rank %d %s", i,
                     p->comms > 0 ? "waits for nobody" : "has closed");
    }
}

void loop_fail_timeout(comm *c, const request *r)
{
    char text[800] = "", us[64], ours[160];
    hub *h = c->group->hub;
    add_places(h, text, sizeof text);
    loop_fail(h, "%s has waited for %g seconds in %s, which is the time-out%s",
              loop_who(us, sizeof us, c->group, c->rank), c->timeout,
              lmoe_exchange_text(ours, sizeof ours, &r->e, r->number), text);
}

void loop_check_stuck(hub *h)
{
    char text[900] = "";
    if (h->failed || h->waiting == 0 || h->waiting + h->gone < h->ranks) return;
    add_places(h, text, sizeof text);
    loop_fail(h, "the ranks wait for one another and none can go on%s", text);
}

void loop_wake(const request *r)
{
    hub *h = r->group->hub;
    place *p = &h->place[r->group->member[r->rank].world];
    if (p->at == r) {
        p->at = NULL;
        h->waiting--;
    }
    pthread_cond_broadcast(&h->changed);
}
