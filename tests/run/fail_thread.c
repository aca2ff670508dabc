/* SPDX-License-Identifier: Apache-2.0
 * tests/run/fail_thread.c: preloaded into a program, lets call number $FAIL_THREAD (from 1) of
 * pthread_create fail as it does when the system has no more threads to give.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *arg)
{
    static atomic_int calls;
    const char *number = getenv("FAIL_THREAD");
    if (number && atomic_fetch_add(&calls, 1) + 1 == atoi(number)) return EAGAIN;
    create_fn *create = (create_fn *)dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, attributes, start, arg);
}
