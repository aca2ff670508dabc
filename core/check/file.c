/* SPDX-License-Identifier: Apache-2.0
 * core/check/file.c: group file: what a plugin's file is, and what happens when it is opened.
 */
#include "core/check/check.h"

static void opens(lmoe__exam *x)
{
    lmoe_entry entry;
    lmoe__check_ok(x, lmoe__plugin_open(x->ctx, x->path, &entry), "opening it");
}

const lmoe__check lmoe__checks_file[] = {
    {"file", "opens",
     "the file may be trusted, is built for this machine, opens with RTLD_NOW and has the entry",
     NULL, LMOE__QUICK, 10, opens, LMOE__CHECK_CLOSED | LMOE__CHECK_REFUSED},
    {0},
};
