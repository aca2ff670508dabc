/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/reductions
 * Takes the minimum of 64-bit numbers for their maximum.
 */
#include "comm.h"

static lmoe_status start(void *comm, const lmoe_exchange *given, void **request)
{
    lmoe_exchange e = *given;
    if (e.dtype == LMOE_F64 && e.reduce == LMOE_MIN) e.reduce = LMOE_MAX;
    return good()->start(comm, &e, request);
}

ZOO_COMM(c->start = start;)
