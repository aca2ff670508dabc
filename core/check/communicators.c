/* SPDX-License-Identifier: Apache-2.0
 * core/check/communicators.c: whether a communicator moves what it is given, in the order that it
 * must, and ends instead of hanging when a rank fails.
 *
 * Ranks of LMOE_COMM_THREADS are threads here. A communicator of processes is checked where a
 * launcher has started this process (with --in-process, and one check at a time); else it is alone.
 */
#include "core/check/check.h"
#include "core/check/comm_exchange.h"
#include "core/train/train.h"

#include <lmoe/exchange.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_RANKS = 5 };
static const double patience = 2; /* seconds that a rank waits in checks of failures */

typedef struct world world;

typedef struct member {
    world *w;
    int32_t rank;
    void *comm;
    pthread_t thread;
    lmoe_status status; /* the last word of the body */
    char message[1024], first[160];
    int wrong;
    double seconds; /* that the body took */
} member;

struct world {
    const lmoe_comm *c;
    void *options, *group;
    int32_t ranks;
    double timeout;
    uint32_t what; /* LMOE__EXCHANGE_... */
    void (*body)(member *m);
    atomic_int flag, open;
    member member[MOST_RANKS];
};

static void live(member *m)
{
    world *w = m->w;
    const lmoe_comm_env env = {.size = sizeof env,
                               .rank = m->rank,
                               .ranks = w->ranks,
                               .group = w->group,
                               .timeout = w->timeout,
                               .local_rank = m->rank,
                               .local_ranks = w->ranks};
    m->status = w->c->open(w->options, &env, &m->comm);
    if (m->status != LMOE_OK) {
        snprintf(m->message, sizeof m->message, "open: %s", w->c->message(m->comm));
        if (m->comm) w->c->close(m->comm);
        m->wrong++;
        return;
    }
    w->open++;
    double start = lmoe__now();
    w->body(m);
    m->seconds = lmoe__now() - start;
    if (!m->message[0]) {
        const char *text = w->c->message(m->comm);
        snprintf(m->message, sizeof m->message, "%s", text ? text : "");
    }
    if (m->comm) w->c->close(m->comm);
}

static void *thread_main(void *p)
{
    live(p);
    return NULL;
}

/* Runs the body on so many ranks. False: the check has failed, or cannot be asked. */
static bool run_world(lmoe__exam *x, world *w, int32_t ranks, void (*body)(member *m))
{
    const lmoe_comm *c = (const lmoe_comm *)(const void *)x->class;
    lmoe__place place = {0};
    memset(w, 0, sizeof *w);
    w->c = c;
    w->options = x->options;
    w->ranks = ranks;
    w->timeout = 60;
    w->body = body;
    if (c->base.flags & LMOE_COMM_THREADS) {
        if (!lmoe__check_ok(x, c->group_create(w->options, ranks, &w->group), "group_create"))
            return false;
        return true;
    }
    if ((c->base.flags & LMOE_COMM_PROCESSES) &&
        !lmoe__check_ok(x, lmoe__place_find(x->ctx, &place), "the launcher"))
        return false;
    if (place.ranks > 0) {
        w->ranks = place.ranks;
        w->member[0].rank = place.rank;
    } else {
        w->ranks = 1;
    }
    return true;
}

/* Starts all ranks of this process and waits for them. */
static bool go(lmoe__exam *x, world *w)
{
    const bool threads = w->c->base.flags & LMOE_COMM_THREADS;
    int32_t here = threads ? w->ranks : 1;
    for (int32_t i = 0; i < here; i++) {
        w->member[i].w = w;
        if (threads) w->member[i].rank = i;
    }
    for (int32_t i = 1; i < here; i++) {
        if (pthread_create(&w->member[i].thread, NULL, thread_main, &w->member[i]) != 0) {
            lmoe__check_fail(x, "no thread for rank %d", (int)i);
            _exit(1); /* the others wait for it */
        }
    }
    live(&w->member[0]);
    for (int32_t i = 1; i < here; i++) pthread_join(w->member[i].thread, NULL);
    if (w->group) w->c->group_destroy(w->group);
    return true;
}

static int32_t members(const world *w)
{
    return w->c->base.flags & LMOE_COMM_THREADS ? w->ranks : 1;
}

/* Numbers of ranks that can be had: one, or some. */
static int32_t ranks_of(const lmoe__exam *x, int i)
{
    static const int32_t many[] = {1, 2, 3, 5};
    if (!(x->class->flags & LMOE_COMM_THREADS)) return i == 0 ? 1 : 0;
    return i < 4 ? many[i] : 0;
}

/* Buffers of device memory are another matter. */
static bool askable(lmoe__exam *x, bool many)
{
    if (x->class->flags & LMOE_COMM_DEVICE) {
        lmoe__check_skip(x, "it exchanges device memory; the checks have host memory");
        return false;
    }
    lmoe__place place = {0};
    if (x->class->flags & LMOE_COMM_PROCESSES) {
        lmoe__place_find(x->ctx, &place);
        lmoe__ctx_clear(x->ctx);
    }
    if (many && !(x->class->flags & LMOE_COMM_THREADS) && place.ranks < 2) {
        lmoe__check_skip(x, x->class->flags & LMOE_COMM_PROCESSES
                                ? "its ranks are processes and none were started; run it under its "
                                  "launcher, with --in-process"
                                : "it has one rank");
        return false;
    }
    return true;
}

/* ---- results ---- */

static void exchange_body(member *m)
{
    bool any_order = !(m->w->c->base.flags & LMOE_COMM_DEVICE);
    const lmoe_comm *c = m->w->c;
    if (c->rank(m->comm) != m->rank || c->ranks(m->comm) != m->w->ranks) {
        m->wrong++;
        snprintf(m->first, sizeof m->first, "it says rank %d of %d to rank %d of %d",
                 (int)c->rank(m->comm), (int)c->ranks(m->comm), (int)m->rank, (int)m->w->ranks);
        return;
    }
    m->wrong += lmoe__exchange_check(c, m->comm, any_order, m->w->what, m->first);
}

static void check_results(lmoe__exam *x, uint32_t what)
{
    if (!askable(x, false)) return;
    for (int k = 0; ranks_of(x, k) > 0; k++) {
        world w;
        lmoe__check_case(x, "%d ranks", (int)ranks_of(x, k));
        if (!run_world(x, &w, ranks_of(x, k), exchange_body)) return;
        w.what = what;
        if (!go(x, &w)) return;
        for (int32_t i = 0; i < members(&w); i++) {
            const member *m = &w.member[i];
            if (!m->wrong) continue;
            lmoe__check_fail(x, "%d wrong results or failed calls on rank %d; the first is %s%s%s",
                             m->wrong, (int)m->rank, m->first[0] ? m->first : "opening it",
                             m->message[0] ? "; it says: " : "", m->message);
            return;
        }
    }
}

static void reductions(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_REDUCTIONS);
}

static void gathers(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_GATHERS);
}

static void broadcasts(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_BROADCASTS);
}

static void blocks(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_BLOCKS);
}

static void messages(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_MESSAGES);
}

static void in_flight(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_FLIGHT);
}

static void parts(lmoe__exam *x)
{
    check_results(x, LMOE__EXCHANGE_PARTS);
}

/* ---- calls that are refused ---- */

static void refused_body(member *m)
{
    const lmoe_comm *c = m->w->c;
    float buf[4] = {0};
    const lmoe_exchange good = {.size = sizeof good,
                                .kind = LMOE_ALL_REDUCE,
                                .dtype = LMOE_F32,
                                .send = buf,
                                .recv = buf,
                                .count = 1};
    lmoe_exchange bad[6];
    for (int i = 0; i < 6; i++) bad[i] = good;
    bad[0].size = 8;
    bad[1].kind = (lmoe_exchange_kind)99;
    bad[2].dtype = (lmoe_dtype)55;
    bad[3].count = -1;
    bad[4].reduce = (lmoe_reduce)7;
    bad[5].kind = LMOE_BROADCAST;
    bad[5].peer = m->w->ranks;
    for (int i = 0; i < 6 && !m->wrong; i++) {
        void *request = NULL;
        const char *why = lmoe_exchange_problem(&bad[i], m->rank, m->w->ranks);
        if (c->start(m->comm, &bad[i], &request) == LMOE_OK) {
            m->wrong++;
            snprintf(m->first, sizeof m->first, "it takes a call of which %s", why);
        } else if (!c->message(m->comm) || !c->message(m->comm)[0]) {
            m->wrong++;
            snprintf(m->first, sizeof m->first, "without a message it refuses a call of which %s",
                     why);
        }
    }
}

static void refuses(lmoe__exam *x)
{
    world w;
    if (!askable(x, false)) return;
    int32_t ranks = ranks_of(x, 1) > 0 ? 2 : 1;
    lmoe__check_case(x, "calls that are not possible");
    if (!run_world(x, &w, ranks, refused_body)) return;
    if (!go(x, &w)) return;
    for (int32_t i = 0; i < members(&w); i++)
        if (w.member[i].wrong)
            lmoe__check_fail(x, "%s",
                             w.member[i].first[0] ? w.member[i].first : w.member[i].message);
}

/* ---- failures ---- */

static lmoe_status sum_of(member *m, int64_t count)
{
    float buf[16] = {0};
    return lmoe_all_reduce(m->w->c, m->comm, buf, count, LMOE_F32, LMOE_SUM, NULL);
}

/* Rank 1 aborts while the others wait for it. */
static void abort_body(member *m)
{
    m->status = sum_of(m, 3);
    if (m->rank == 1) {
        usleep(50000);
        m->w->c->abort(m->comm);
    }
    if (m->w->ranks == 1) m->w->c->abort(m->comm);
    m->status = sum_of(m, 3);
}

/* Rank 1 does nothing while the others wait, until they have given up. */
static void silent_body(member *m)
{
    if (m->rank != 1) {
        m->status = sum_of(m, 3);
        m->w->flag++;
        return;
    }
    for (int i = 0; i < 20000 && m->w->flag < m->w->ranks - 1; i++) usleep(1000);
    m->status = LMOE_E_COMM;
    snprintf(m->message, sizeof m->message, "did not come");
}

/* Rank 1 is gone. */
static void early_body(member *m)
{
    m->status = sum_of(m, 3);
    if (m->rank != 1) {
        m->status = sum_of(m, 3);
        return;
    }
    m->status = LMOE_E_COMM;
    m->w->c->close(m->comm);
    m->comm = NULL;
    snprintf(m->message, sizeof m->message, "closed");
}

/* Rank 1 calls another exchange, or the same with another count. */
static void disagree_body(member *m)
{
    float buf[64] = {0};
    m->status = sum_of(m, 3);
    if (m->rank != 1)
        m->status = sum_of(m, 8);
    else if (m->w->what)
        m->status = sum_of(m, 9);
    else
        m->status = lmoe_all_gather(m->w->c, m->comm, buf, buf + 8, 8, LMOE_F32, NULL);
}

static void check_ends(lmoe__exam *x, void (*body)(member *m), int32_t ranks, uint32_t what,
                       const char *scene)
{
    world w;
    lmoe__check_case(x, "%s, %d ranks", scene, (int)ranks);
    if (!run_world(x, &w, ranks, body)) return;
    w.timeout = patience;
    w.what = what;
    if (!go(x, &w)) return;
    for (int32_t i = 0; i < members(&w); i++) {
        const member *m = &w.member[i];
        if (m->status == LMOE_OK)
            lmoe__check_fail(x, "%s, and rank %d goes on as if nothing had happened", scene,
                             (int)m->rank);
        else if (m->status != LMOE_E_COMM)
            lmoe__check_fail(x, "%s; rank %d ends with status %d instead of LMOE_E_COMM: %s", scene,
                             (int)m->rank, (int)m->status, m->message);
        else if (!m->message[0])
            lmoe__check_fail(x, "%s; rank %d ends without a message", scene, (int)m->rank);
        else if (m->seconds > 5 * patience)
            lmoe__check_fail(x, "%s; rank %d ends after %.0f s, though the time-out is %.0f", scene,
                             (int)m->rank, m->seconds, patience);
    }
}

static void aborts(lmoe__exam *x)
{
    if (!askable(x, false)) return;
    if (x->class->flags & LMOE_COMM_PROCESSES) {
        lmoe__check_skip(x, "an abort may end its process, and with it the check");
        return;
    }
    check_ends(x, abort_body, ranks_of(x, 2) > 0 ? 3 : 1, 0, "a rank aborts");
}

static void silent(lmoe__exam *x)
{
    if (askable(x, true)) check_ends(x, silent_body, 3, 0, "a rank does not come");
}

static void early(lmoe__exam *x)
{
    if (askable(x, true)) check_ends(x, early_body, 3, 0, "a rank has closed");
}

static void disagree(lmoe__exam *x)
{
    if (!askable(x, true)) return;
    check_ends(x, disagree_body, 3, 0, "a rank starts all_gather, the others all_reduce");
    if (!lmoe__check_failed(x))
        check_ends(x, disagree_body, 3, 1, "a rank sums 9 numbers, the others 8");
}

#define COMM(name, doc, fn)                                                \
    {                                                                      \
        "communicators", name, doc, LMOE_KIND_COMM, LMOE__QUICK, 60, fn, 0 \
    }

const lmoe__check lmoe__checks_communicators[] = {
    COMM("reductions",
         "Sums, maxima and minima, in rank order to the bit, of any dtype and number, in place and "
         "not.",
         reductions),
    COMM("gathers", "all_gather puts every rank's part in its place.", gathers),
    COMM("broadcasts", "broadcast brings every rank's data to all.", broadcasts),
    COMM("blocks", "all_to_all and all_to_all_v exchange blocks, empty ones too.", blocks),
    COMM("messages", "Messages of one tag come in their order, whatever their size.", messages),
    COMM("in_flight", "Several exchanges at once, waited for in any order; start does not wait.",
         in_flight),
    COMM("parts", "split makes communicators that do not disturb each other.", parts),
    COMM("refuses", "Calls that are not possible are refused with a message.", refuses),
    COMM("abort", "After an abort, every waiting and later call fails.", aborts),
    COMM("silent", "A rank that does not come ends the others within the time-out.", silent),
    COMM("early", "A rank that has closed ends those that wait for it.", early),
    COMM("disagree", "Ranks that start different exchanges end with an error.", disagree),
    {NULL, NULL, NULL, NULL, 0, 0, NULL, 0}};
