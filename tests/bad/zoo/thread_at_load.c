/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/threads
 * Starts a thread in load().
 */
#define _GNU_SOURCE
#include "layer.h"

#include <pthread.h>
#include <unistd.h>

static void *work(void *arg)
{
    for (;;) pause();
    return arg;
}

static lmoe_status load(const lmoe_host *host)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, work, NULL) == 0 ? LMOE_OK : LMOE_E_MEMORY;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
