/* SPDX-License-Identifier: Apache-2.0
 * core/check/kernels.h: what checks of kernels and of devices share.
 */
#ifndef LMOE_CORE_CHECK_KERNELS_H
#define LMOE_CORE_CHECK_KERNELS_H

#include "core/check/check.h"

/* Opens device/WORD into the exam. False: the check is skipped, or has failed. */
bool lmoe__kernels_device(lmoe__exam *x, const char *word);
/* Every case of the op and `vary` variations, with those of the kernels that take it, in f32, bf16
 * and f64. False: the check has failed. */
bool lmoe__kernels_agree(lmoe__exam *x, const lmoe_op *op, const lmoe_kernel *const *kernels,
                         int vary);
/* Launches them under the eyes of the spy, which is on. */
void lmoe__kernels_watch(lmoe__exam *x, const lmoe_op *op, const lmoe_kernel *const *kernels);

#endif
