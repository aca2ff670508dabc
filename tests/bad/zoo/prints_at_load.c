/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/silent
 * Says hello in load().
 */
#include "layer.h"

#include <stdio.h>

static lmoe_status load(const lmoe_host *host)
{
    printf("welcome to lmoe %s\n", host->version);
    return LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
