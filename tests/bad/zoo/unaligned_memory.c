/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/memory
 * Its memory is aligned as malloc does it.
 */
#include "device.h"

static lmoe_status alloc(void *dev, size_t bytes, void **p)
{
    char *block = malloc(bytes + 128);
    if (!block) return LMOE_E_MEMORY;
    char *at = block + 64 - (uintptr_t)block % 64 + 16;
    memcpy(at - sizeof block, &block, sizeof block);
    *p = at;
    return LMOE_OK;
}

static void release(void *dev, void *p)
{
    void *block;
    if (!p) return;
    memcpy(&block, (char *)p - sizeof block, sizeof block);
    free(block);
}

ZOO_DEVICE(.alloc = alloc, .free = release)
