/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/entry_time
 * Waits 3 ms in load().
 */
#define _GNU_SOURCE
#include "layer.h"

#include <time.h>

static lmoe_status load(const lmoe_host *host)
{
    struct timespec t = {0, 3000000};
    nanosleep(&t, NULL);
    return LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
