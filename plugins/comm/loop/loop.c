/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/loop/loop.c: class comm/loop: the ranks are threads of one process.
 */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

/* ---- start ---- */

/* Lock held. The request of a call that is under way, or NULL; then the hub has failed. */
static request *begin(comm *c, const lmoe_exchange *e, int32_t color, int32_t key)
{
    bool collective = lmoe_exchange_is_collective(e);
    request *r = loop_request_new(c, e, collective ? ++c->collectives : ++c->messages);
    if (!r) return NULL;
    r->color = color;
    r->key = key;
    if (collective)
        loop_arrive(c, r);
    else
        loop_receive(c, r);
    if (!c->group->hub->failed || loop_ready(r)) return r;
    if (r->op) loop_leave(r->op, c->rank);
    loop_request_free(c, r);
    return NULL;
}

static lmoe_status start(void *p, const lmoe_exchange *e, void **out)
{
    comm *c = p;
    group *g = c->group;
    char us[64], ours[160];
    *out = NULL;
    pthread_mutex_lock(&g->hub->mutex);
    const char *problem = lmoe_exchange_problem(e, c->rank, g->ranks);
    if (problem)
        loop_fail(g->hub, "%s called %s, which is not possible: %s",
                  loop_who(us, sizeof us, g, c->rank),
                  lmoe_exchange_text(ours, sizeof ours, e, c->collectives + 1), problem);
    lmoe_status s = loop_status(c);
    if (s == LMOE_OK && e->kind == LMOE_SEND) {
        loop_send(c, e, ++c->messages);
        s = loop_status(c);
        *out = s == LMOE_OK ? &c->sent : NULL;
    } else if (s == LMOE_OK) {
        *out = begin(c, e, 0, 0);
        if (!*out) s = loop_status(c);
    }
    pthread_mutex_unlock(&g->hub->mutex);
    return s;
}

/* ---- wait ---- */

/* A request that will never be ready is taken from the lists. */
static void withdraw(request *r)
{
    request **at = &r->group->receives;
    if (r->op) {
        loop_leave(r->op, r->rank);
        return;
    }
    while (*at && *at != r) at = &(*at)->next;
    if (*at) *at = r->next;
}

/* Lock held: waits until r is ready, or something has failed. */
static void until_ready(comm *c, request *r)
{
    hub *h = c->group->hub;
    place *here = &h->place[c->group->member[c->rank].world];
    struct timespec end;
    if (loop_ready(r) || h->failed) return;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (time_t)c->timeout;
    end.tv_nsec += (long)((c->timeout - (double)(time_t)c->timeout) * 1e9);
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    here->at = r;
    h->waiting++;
    loop_check_stuck(h);
    while (!loop_ready(r) && !h->failed) {
        int error = c->timeout > 0 ? pthread_cond_timedwait(&h->changed, &h->mutex, &end)
                                   : pthread_cond_wait(&h->changed, &h->mutex);
        if (error == ETIMEDOUT && !loop_ready(r)) loop_fail_timeout(c, r);
    }
    if (here->at == r) loop_wake(r);
}

/* Lock held: what is ready is completed, whatever has failed: other ranks may be working on it. */
static lmoe_status finish(comm *c, request *r)
{
    hub *h = c->group->hub;
    if (!loop_ready(r)) {
        withdraw(r);
        return loop_status(c);
    }
    if (r->op) loop_help(r->op);
    while (!loop_complete(r)) pthread_cond_wait(&h->changed, &h->mutex);
    if (r->op) loop_leave(r->op, r->rank);
    return LMOE_OK;
}

static lmoe_status wait_for(void *p, void *request_)
{
    comm *c = p;
    request *r = request_;
    hub *h = c->group->hub;
    if (r == &c->sent) return LMOE_OK;
    pthread_mutex_lock(&h->mutex);
    until_ready(c, r);
    lmoe_status s = finish(c, r);
    loop_request_free(c, r);
    pthread_mutex_unlock(&h->mutex);
    return s;
}

static lmoe_status test(void *p, void *request_, int32_t *done)
{
    comm *c = p;
    request *r = request_;
    hub *h = c->group->hub;
    *done = 1;
    if (r == &c->sent) return LMOE_OK;
    pthread_mutex_lock(&h->mutex);
    lmoe_status s = loop_ready(r) ? LMOE_OK : loop_status(c);
    if (r->op && loop_ready(r)) loop_help(r->op);
    *done = loop_complete(r) || s != LMOE_OK;
    pthread_mutex_unlock(&h->mutex);
    return s;
}

/* ---- a rank comes and goes ---- */

static const char cannot_open[] =
    "comm/loop is opened by each thread of a run once, with the group that group_create made for "
    "their number; it was asked for another rank, or memory is exhausted";

static lmoe_status group_create(const void *options, int32_t ranks, void **out)
{
    if (ranks < 1) return LMOE_E_USAGE;
    hub *h = loop_hub_new(ranks);
    if (!h) return LMOE_E_MEMORY;
    *out = h->groups;
    return LMOE_OK;
}

static void group_destroy(void *p)
{
    loop_hub_free(((group *)p)->hub);
}

static comm *new_comm(group *g, int32_t rank, double timeout)
{
    comm *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->group = g;
    c->rank = rank;
    c->timeout = timeout;
    return c;
}

static lmoe_status split(void *p, int32_t color, int32_t key, void **out)
{
    comm *c = p;
    hub *h = c->group->hub;
    const lmoe_exchange e = {.size = sizeof e, .kind = SPLIT};
    comm *sub = NULL;
    pthread_mutex_lock(&h->mutex);
    lmoe_status s = loop_status(c);
    request *r = s == LMOE_OK ? begin(c, &e, color, key) : NULL;
    if (r) {
        until_ready(c, r);
        if (loop_ready(r)) {
            sub = new_comm(r->sub, r->sub_rank, c->timeout);
            if (sub)
                h->place[c->group->member[c->rank].world].comms++;
            else
                loop_fail(h, "split: out of memory");
        }
        finish(c, r);
        loop_request_free(c, r);
    }
    if (!sub) s = loop_status(c);
    pthread_mutex_unlock(&h->mutex);
    *out = sub;
    return s;
}

static lmoe_status open_rank(const void *options, const lmoe_comm_env *env, void **out)
{
    group *g = env->group;
    if (!g) return LMOE_E_USAGE;
    hub *h = g->hub;
    comm *c = NULL;
    pthread_mutex_lock(&h->mutex);
    bool fits = env->ranks == g->ranks && env->rank >= 0 && env->rank < g->ranks;
    if (fits && !g->member[env->rank].opened) c = new_comm(g, env->rank, env->timeout);
    if (c) {
        g->member[c->rank].opened = true;
        h->place[c->rank].comms++;
    } else {
        loop_fail(h, "rank %d could not be opened: %s", env->rank, cannot_open);
    }
    pthread_mutex_unlock(&h->mutex);
    *out = c;
    return c ? LMOE_OK : LMOE_E_USAGE;
}

/* Who waits for this rank, which has closed, is told. */
static void tell_waiting(comm *c)
{
    const group *g = c->group;
    for (const op *o = g->ops; o; o = o->next) {
        for (int32_t i = 0; o->arrived < g->ranks && i < g->ranks; i++)
            if (o->part[i] && i != c->rank) loop_fail_closed(g, c->rank, o->part[i]);
    }
    for (const request *r = g->receives; r; r = r->next)
        if (r->e.peer == c->rank) loop_fail_closed(g, c->rank, r);
}

static void close_rank(void *p)
{
    comm *c = p;
    group *g = c->group;
    hub *h = g->hub;
    member *m = &g->member[c->rank];
    pthread_mutex_lock(&h->mutex);
    m->closed = true;
    g->closed++;
    if (--h->place[m->world].comms == 0) h->gone++;
    tell_waiting(c);
    while (c->open) {
        request *r = c->open;
        finish(c, r);
        loop_request_free(c, r);
    }
    loop_check_stuck(h);
    pthread_mutex_unlock(&h->mutex);
    free(c);
}

static void abort_all(void *p)
{
    comm *c = p;
    hub *h = c->group->hub;
    pthread_mutex_lock(&h->mutex);
    loop_fail(h, "rank %d of the run aborted the communication", c->group->member[c->rank].world);
    pthread_mutex_unlock(&h->mutex);
}

static int32_t rank_of(void *p)
{
    return ((comm *)p)->rank;
}

static int32_t ranks_of(void *p)
{
    return ((comm *)p)->group->ranks;
}

static const char *message_of(void *p)
{
    return p ? ((comm *)p)->message : cannot_open;
}

static const lmoe_comm comm_loop = {
    .base = {sizeof(lmoe_comm), LMOE_KIND_COMM, "comm/loop", "Ranks are threads of one process.",
             NULL, 0, LMOE_COMM_THREADS},
    .group_create = group_create,
    .group_destroy = group_destroy,
    .open = open_rank,
    .close = close_rank,
    .abort = abort_all,
    .split = split,
    .rank = rank_of,
    .ranks = ranks_of,
    .start = start,
    .wait = wait_for,
    .test = test,
    .message = message_of,
};

static const lmoe_class *const classes[] = {&comm_loop.base, NULL};

LMOE_PLUGIN(.id = "comm/loop", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
