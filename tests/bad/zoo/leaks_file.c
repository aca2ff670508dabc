/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/process
 * Leaves a file open.
 */
#define _GNU_SOURCE
#include "layer.h"

#include <fcntl.h>

static lmoe_status load(const lmoe_host *host)
{
    return open("/dev/null", O_RDONLY) >= 0 ? LMOE_OK : LMOE_E_IO;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
