/* SPDX-License-Identifier: Apache-2.0
 * core/cli/step.h: what `lmoe bench step` and `lmoe bench decode` print.
 */
#ifndef LMOE_CORE_STEP_H
#define LMOE_CORE_STEP_H

#include "core/train/setup.h"

/* Where the time of profiled replays went, by op. */
void lmoe__step_print_table(lmoe__engine *e);
/* What was planned, and what the device says of all its users. */
void lmoe__step_print_memory(const lmoe__engine *e);

#endif
