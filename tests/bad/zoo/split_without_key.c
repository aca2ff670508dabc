/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/parts
 * split orders ranks as they are, whatever their keys.
 */
#include "comm.h"

static lmoe_status split(void *comm, int32_t color, int32_t key, void **sub)
{
    return good()->split(comm, color, 0, sub);
}

ZOO_COMM(c->split = split;)
