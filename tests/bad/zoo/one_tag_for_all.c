/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/messages
 * also: communicators/parts (messages are used there)
 * Does not tell tags apart.
 */
#include "comm.h"

static lmoe_status start(void *comm, const lmoe_exchange *given, void **request)
{
    lmoe_exchange e = *given;
    e.tag = 0;
    return good()->start(comm, &e, request);
}

ZOO_COMM(c->start = start;)
