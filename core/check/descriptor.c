/* SPDX-License-Identifier: Apache-2.0
 * core/check/descriptor.c: group descriptor: what a plugin says of itself.
 */
#include "core/check/check.h"

static void accepted(lmoe__exam *x)
{
    lmoe__check_ok(x, lmoe__registry_open(x->registry, x->ctx, x->path), "loading it");
}

const lmoe__check lmoe__checks_descriptor[] = {
    {"descriptor", "accepted",
     "versions, sizes, names, kinds, options and load() are what this host can use", NULL,
     LMOE__QUICK, 10, accepted, LMOE__CHECK_CLOSED | LMOE__CHECK_REFUSED},
    {0},
};
