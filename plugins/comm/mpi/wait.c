/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/mpi/wait.c: waiting, and what ranks tell each other when one fails.
 *
 * A rank whose time is over, or that is aborted, sends a word to all others: where it stands. Those
 * that wait hear it, answer with theirs, and fail too. So each can say where the others were, and
 * of whom nothing was heard.
 */
#include "mpi.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define COLLECT 1.0 /* seconds for the words of the others */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_for(double seconds)
{
    const struct timespec t = {0, (long)(seconds * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- failures ---- */

void ranks_fail(world *w, const char *format, ...)
{
    va_list args;
    if (w->failed) return;
    va_start(args, format);
    vsnprintf(w->why, sizeof w->why, format, args);
    va_end(args);
    w->failed = true;
}

bool ranks_failed(world *w, const char *call, int code)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (code == MPI_SUCCESS) return false;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS) n = 0;
    ranks_fail(w, "rank %d: %s: MPI reports %.*s", (int)w->rank, call, n, text);
    return true;
}

lmoe_status ranks_status(comm *c)
{
    if (!c->world->failed) return LMOE_OK;
    memcpy(c->message, c->world->why, sizeof c->message);
    return LMOE_E_COMM;
}

/* ---- words ---- */

/* To all ranks, once. The first letter: W, where this rank waits; A, it aborts. */
static void tell(world *w, char letter, const char *where)
{
    if (w->told) return;
    w->told = true;
    snprintf(w->word, sizeof w->word, "%c%s", letter, where);
    for (int32_t i = 0; i < w->ranks; i++) {
        w->word_sent[i] = MPI_REQUEST_NULL;
        if (i != w->rank) MPI_Isend(w->word, WORD, MPI_CHAR, i, 0, w->words, &w->word_sent[i]);
    }
}

/* A rank that has told something; -1: none. */
static int32_t hear(world *w, char word[WORD])
{
    MPI_Status status;
    int flag = 0;
    if (MPI_Iprobe(MPI_ANY_SOURCE, 0, w->words, &flag, &status) != MPI_SUCCESS || !flag) return -1;
    if (MPI_Recv(word, WORD, MPI_CHAR, status.MPI_SOURCE, 0, w->words, &status) != MPI_SUCCESS)
        return -1;
    word[WORD - 1] = 0;
    return status.MPI_SOURCE;
}

/* Adds to text what the others tell within a second, and who tells nothing. heard: who has. */
static void collect(world *w, bool *heard, char *text, size_t size)
{
    char word[WORD];
    int32_t missing = w->ranks - 1;
    double end = now() + COLLECT;
    for (int32_t i = 0; i < w->ranks; i++) missing -= heard[i] && i != w->rank;
    while (missing > 0 && now() < end) {
        int32_t i = hear(w, word);
        size_t used = strlen(text);
        if (i < 0) {
            sleep_for(1e-3);
            continue;
        }
        missing -= !heard[i];
        heard[i] = true;
        snprintf(text + used, size - used, "; rank %d %s", (int)i, word + 1);
    }
    for (int32_t i = 0; i < w->ranks; i++) {
        size_t used = strlen(text);
        if (heard[i] || i == w->rank) continue;
        snprintf(text + used, size - used,
                 "; nothing is heard of rank %d, which has ended, stands still or is busy", (int)i);
    }
}

static const char *place_of(char *buf, size_t n, const comm *c, const request *r)
{
    char text[160] = "the messages that it has sent";
    if (r) lmoe_exchange_text(text, sizeof text, &r->e, r->number);
    if (c->ranks == c->world->ranks)
        snprintf(buf, n, "%s", text);
    else
        snprintf(buf, n, "%s of a part, rank %d of %d there", text, (int)c->rank, (int)c->ranks);
    return buf;
}

static void fail_waiting(comm *c, const request *r, double waited, int32_t teller, const char *word)
{
    world *w = c->world;
    char text[1400] = "", place[300], own[400];
    bool *heard = calloc((size_t)w->ranks, sizeof *heard);
    place_of(place, sizeof place, c, r);
    snprintf(own, sizeof own, "waits for %.1f seconds in %s", waited, place);
    tell(w, 'W', own);
    if (teller >= 0) {
        heard[teller] = true;
        snprintf(text, sizeof text, "; rank %d %s", (int)teller, word + 1);
    }
    bool aborted = teller >= 0 && *word == 'A';
    if (!aborted) collect(w, heard, text, sizeof text);
    free(heard);
    if (teller < 0)
        ranks_fail(w, "rank %d has waited for %.1f seconds in %s, which is the time-out%s",
                   (int)w->rank, waited, place, text);
    else
        ranks_fail(w, "rank %d waits for %.1f seconds in %s%s", (int)w->rank, waited, place, text);
}

/* ---- waiting ---- */

/* One look around by a rank that waits since `start`. */
static void watch(comm *c, const request *r, double start, bool *warned)
{
    world *w = c->world;
    char word[WORD], place[300];
    double waited = now() - start;
    sigset_t pending;
    int32_t teller = hear(w, word);
    if (teller >= 0) {
        fail_waiting(c, r, waited, teller, word);
    } else if (__atomic_load_n(&w->aborted, __ATOMIC_ACQUIRE)) {
        ranks_fail(w, "rank %d was aborted in %s", (int)w->rank,
                   place_of(place, sizeof place, c, r));
    } else if (w->timeout > 0 && waited > w->timeout) {
        fail_waiting(c, r, waited, -1, "");
    } else if (!*warned && waited > 0.3 && sigpending(&pending) == 0 &&
               sigismember(&pending, SIGTERM)) {
        /* A launcher that has lost a rank ends the others so, and soon for good. */
        *warned = true;
        fprintf(stderr, "lmoe[%d]: warning: asked to end while it waits, for %.1f seconds, in %s\n",
                (int)w->rank, waited, place_of(place, sizeof place, c, r));
    }
}

static bool over(const comm *c, const request *r)
{
    if (r) return ranks_done(r);
    for (const request *s = c->world->sends; s; s = s->next)
        if (s->comm == c) return false;
    return true;
}

lmoe_status ranks_wait(comm *c, const request *r)
{
    world *w = c->world;
    bool warned = false;
    double start = 0;
    for (int64_t polls = 0; !w->failed; polls++) {
        ranks_progress(w);
        if (w->failed || over(c, r)) break;
        if (polls == 0) start = now();
        if (polls < 100) continue;
        if (polls < 2000)
            sched_yield();
        else
            sleep_for(5e-5);
        if (polls % 100 == 0) watch(c, r, start, &warned);
    }
    return r && ranks_done(r) ? LMOE_OK : ranks_status(c);
}

void ranks_abort(world *w)
{
    double end = now() + COLLECT;
    char word[WORD];
    tell(w, 'A', "has failed, and aborts the run");
    while (now() < end) { /* the others get the word, and time to say where they are */
        hear(w, word);
        sleep_for(1e-3);
    }
    MPI_Abort(MPI_COMM_WORLD, 1);
}
