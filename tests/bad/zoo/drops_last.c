/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/gathers
 * also: communicators/parts (gathers are used there)
 * all_gather leaves out the last element of each rank.
 */
#include "comm.h"

static lmoe_status start(void *comm, const lmoe_exchange *given, void **request)
{
    lmoe_exchange e = *given;
    if (e.kind == LMOE_ALL_GATHER && e.count > 1) e.count--;
    return good()->start(comm, &e, request);
}

ZOO_COMM(c->start = start;)
