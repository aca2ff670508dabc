/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/process
 * Installs a handler of SIGINT, which belongs to the run.
 */
#define _GNU_SOURCE
#include "layer.h"

#include <signal.h>

static void ignore(int signal)
{
}

static lmoe_status load(const lmoe_host *host)
{
    struct sigaction action = {.sa_handler = ignore};
    sigaction(SIGINT, &action, NULL);
    return LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
