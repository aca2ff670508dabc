/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/driver
 * Opens the GPU driver in load(); here a library of that name which does nothing.
 */
#define _GNU_SOURCE
#include "layer.h"

#include <dlfcn.h>

static lmoe_status load(const lmoe_host *host)
{
    return dlopen(ZOO_DRIVER, RTLD_NOW | RTLD_LOCAL) ? LMOE_OK : LMOE_E_DEVICE;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
