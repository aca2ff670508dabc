/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/silent
 * Has no time-out.
 */
#include "comm.h"

static lmoe_status open_patiently(const void *options, const lmoe_comm_env *given, void **comm)
{
    lmoe_comm_env env = *given;
    env.timeout = 0;
    return good()->open(options, &env, comm);
}

ZOO_COMM(c->open = open_patiently;)
