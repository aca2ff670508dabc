/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/early
 * What a rank that has closed would have sent is left out.
 */
#include "comm.h"

static lmoe_status wait(void *comm, void *request)
{
    return wait_but(comm, request, "has closed");
}

ZOO_COMM(c->wait = wait;)
