/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/daemon.c: starts a process in a session of its own, which keeps what it inherits
 * open, and goes on.
 */
#include "good.h"

#include <unistd.h>

static lmoe_status load(const lmoe_host *host)
{
    pid_t pid = fork();
    if (pid != 0) return pid < 0 ? LMOE_E_INTERNAL : LMOE_OK;
    setsid();
    sleep(60);
    _exit(0);
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes, .load = load)
