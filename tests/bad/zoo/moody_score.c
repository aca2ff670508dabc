/* SPDX-License-Identifier: Apache-2.0
 * breaks: kernels/score
 * Its score changes from call to call.
 */
#include "kernel.h"

static int score(const lmoe_args *a)
{
    static int n;
    return good_score(a) ? 10 + n++ % 2 : 0;
}

ZOO_KERNEL(.score = score)
