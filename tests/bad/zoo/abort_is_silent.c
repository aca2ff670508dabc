/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/abort
 * abort does nothing.
 */
#include "comm.h"

static void no_abort(void *comm)
{
}

ZOO_COMM(c->abort = no_abort;)
