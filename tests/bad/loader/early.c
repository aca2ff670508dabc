/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/early.c: things that happen before the entry is called, in a constructor:
 *   -DEARLY=crash    ends by SIGSEGV      -DEARLY=leave    ends the process, as if all were well
 *   -DEARLY=hang     never returns        -DEARLY=shut     closes every open file
 */
#include "good.h"

#include <signal.h>
#include <unistd.h>

static inline void crash(void)
{
    raise(SIGSEGV);
}

static inline void leave(void)
{
    _exit(0);
}

static inline void hang(void)
{
    for (;;) pause();
}

static inline void shut(void)
{
    for (int i = 0; i < 256; i++) close(i);
}

__attribute__((constructor)) static void early(void)
{
    EARLY();
}

static const lmoe_layer layer = {.base = {GOOD_CLASS}, GOOD_SLOTS};
ONE_LAYER
LMOE_PLUGIN(GOOD_PLUGIN, .classes = classes)
