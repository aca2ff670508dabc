/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/speed
 * Crashes in sizes that are worth timing.
 */
#include "kernel.h"

#include <stdlib.h>

static lmoe_status launch(const lmoe_args *a)
{
    if (lmoe_buf_count(&a->out[0]) > 10000) abort();
    return good_launch(a);
}

ZOO_KERNEL(.launch = launch)
