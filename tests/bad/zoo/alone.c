/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/beside
 * Refuses to be loaded beside another plugin of its vendor, which it knows by the name of the thread.
 */
#define _GNU_SOURCE
#include "layer.h"

#include <string.h>
#include <sys/prctl.h>

static lmoe_status load(const lmoe_host *host)
{
    static int mine;
    char name[16];
    prctl(PR_GET_NAME, name);
    if (!mine && strcmp(name, "zoo") == 0) return LMOE_E_USAGE;
    mine = 1;
    prctl(PR_SET_NAME, "zoo");
    return LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
