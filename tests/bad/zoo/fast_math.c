/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/process
 * Rounds downwards in the whole process from its constructor on, as start files of some compilers do.
 */
#include "layer.h"

#include <fenv.h>

static __attribute__((constructor)) void start(void)
{
    fesetround(FE_DOWNWARD);
}

ZOO_LAYER()
