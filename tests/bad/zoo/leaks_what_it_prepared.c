/* SPDX-License-Identifier: Apache-2.0
 * breaks: endurance/launches
 * Prepares a kernel and never releases it.
 */
#include "kernel.h"

#include <stdlib.h>

static lmoe_status prepare(const lmoe_args *a, void **prepared)
{
    *prepared = malloc(100);
    return *prepared ? LMOE_OK : LMOE_E_MEMORY;
}

ZOO_KERNEL(.prepare = prepare)
