/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/launch
 * Allocates in its launch, and frees again.
 */
#include "kernel.h"

#include <stdlib.h>

static lmoe_status launch(const lmoe_args *a)
{
    size_t n = (size_t)lmoe_buf_count(&a->out[0]) * sizeof(float);
    void *scratch = malloc(n);
    if (!scratch) return lmoe_error(a->ctx, LMOE_E_MEMORY, "no memory");
    *(volatile char *)scratch = 0; /* or compilers leave all of it out */
    lmoe_status status = good_launch(a);
    free(scratch);
    return status;
}

ZOO_KERNEL(.launch = launch)
