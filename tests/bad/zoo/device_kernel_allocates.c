/* SPDX-License-Identifier: Apache-2.0
 * breaks: devices/launch
 * Its kernel allocates in its launch.
 */
#include "device.h"

static lmoe_status launch(const lmoe_args *a)
{
    void *scratch = calloc(1, 16);
    if (scratch) *(volatile char *)scratch = 1; /* or compilers leave all of it out */
    lmoe_status status = scratch ? good_launch(a) : LMOE_E_MEMORY;
    free(scratch);
    return status;
}

ZOO_AFFINE(.launch = launch)
ZOO_DEVICE_CLASS()
