/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_delta.cu: scan_delta/1, step by step (delta.cuh):
 *
 *   M_s = diag(exp(decay_s)) M_{s-1} + k_s v_s^T - b_s (a_s^T M_{s-1})      y_s = scale M_s^T q_s
 */
#include "delta.cuh"

enum { CARRY = 8 };

static int can(const lmoe_args *a)
{
    const lmoe_buf *k = &a->in[1];
    return can_delta(a, CARRY) && elements_of(k->dim[k->rank - 1]) > 0;
}

static lmoe_status launch(const lmoe_args *a)
{
    Columns w = {input<float>(a, CARRY), output<float>(a, 1), results(a, 0)};
    run_columns<false>(a, describe_delta(a), w);
    return cuda_launched(a);
}

CUDA_KERNEL(scan_delta, 1, can, NULL, launch)
