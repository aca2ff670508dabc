/* SPDX-License-Identifier: Apache-2.0
 * tests/run/hang_rank.c: preloaded into lmoe, lets one of its ranks stand still: the second thread
 * that asks for pending signals, as each rank does after a step, never returns from its call number
 * $HANG_AT.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef int wait_fn(const sigset_t *, siginfo_t *, const struct timespec *);

int sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *timeout)
{
    static atomic_int threads;
    static _Thread_local int thread, calls;
    const char *number = getenv("HANG_AT");
    if (thread == 0) thread = atomic_fetch_add(&threads, 1) + 1;
    while (number && thread == 2 && calls + 1 == atoi(number)) sleep(1000);
    calls++;
    wait_fn *next = (wait_fn *)dlsym(RTLD_NEXT, "sigtimedwait");
    return next(set, info, timeout);
}
