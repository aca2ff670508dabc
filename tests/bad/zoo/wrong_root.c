/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/broadcasts
 * broadcast takes the data of the next rank, which received them before.
 */
#include "comm.h"

static lmoe_status start(void *comm, const lmoe_exchange *given, void **request)
{
    lmoe_exchange e = *given;
    if (e.kind == LMOE_BROADCAST && e.count > 500) {
        e.peer = (e.peer + 1) % good()->ranks(comm);
        if (e.peer == good()->rank(comm)) e.send = e.recv;
    }
    return good()->start(comm, &e, request);
}

ZOO_COMM(c->start = start;)
