/* SPDX-License-Identifier: Apache-2.0
 * core/check/spy.h: counts the calls by which a plugin's own code asks for memory, threads or a wait
 * for the GPU, while it is watched.
 */
#ifndef LMOE_CORE_CHECK_SPY_H
#define LMOE_CORE_CHECK_SPY_H

#include "core/base/base.h"

/* Watches the opened file of this path. False: it cannot be watched (another machine's relocations).
 * For a process that ends soon: its table of functions stays changed. */
bool lmoe__spy_on(const char *path);
/* The function called last, NULL if none was since the last question; *count: how many calls. */
const char *lmoe__spy_ask(int64_t *count);

#endif
