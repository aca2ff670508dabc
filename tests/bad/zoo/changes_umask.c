/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/process
 * Makes every file that the run writes from then on writable by all.
 */
#define _GNU_SOURCE
#include "layer.h"

#include <sys/stat.h>

static lmoe_status load(const lmoe_host *host)
{
    umask(0);
    return LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
