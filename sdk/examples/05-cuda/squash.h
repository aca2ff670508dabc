/* SPDX-License-Identifier: Apache-2.0
 * sdk/examples/05-cuda/squash.h: what the C compiler's file sees of nvcc's.
 */
#include <lmoe/lmoe.h>

#ifdef __cplusplus
extern "C" {
#endif

lmoe_status squash_launch(const lmoe_args *a);      /* x -> y */
lmoe_status squash_grad_launch(const lmoe_args *a); /* x, dy -> dx */

#ifdef __cplusplus
}
#endif
