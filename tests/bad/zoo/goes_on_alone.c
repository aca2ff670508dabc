/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/early
 * What a rank that has closed would have sent is left out.
 */
#include "comm.h"

static char nothing; /* a request that is answered at once */

static lmoe_status start(void *comm, const lmoe_exchange *e, void **request)
{
    lmoe_status status = good()->start(comm, e, request);
    if (status == LMOE_OK || !strstr(good()->message(comm), "has closed")) return status;
    *request = &nothing;
    return LMOE_OK;
}

static lmoe_status wait(void *comm, void *request)
{
    return request == &nothing ? LMOE_OK : wait_but(comm, request, "has closed");
}

ZOO_COMM(c->start = start; c->wait = wait;)
