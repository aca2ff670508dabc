/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/opens
 * A constructor makes calls before the host has handed the table over.
 */
#include "layer.h"

static __attribute__((constructor)) void too_early(void)
{
    lmoe_threads(NULL);
}

ZOO_LAYER()
