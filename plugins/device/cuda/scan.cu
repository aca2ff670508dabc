/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan.cu: scan_diag/1:
 *
 *   M_s = diag(exp(decay_s)) M_{s-1} + k_s v_s^T      y_s = scale M_s^T q_s
 */
#include "scan.cuh"

enum { Q, K, V, DECAY, RESET, SKIP, CARRY };

template <int R> static void run(const lmoe_args *a, const Scan &c)
{
    float scale = (float)((const lmoe_scan_diag_attrs *)a->attrs)->scale;
    scan<R, false, false>
        <<<scan_grid(c, a->in[K].dim[0], c.nv), dim3(OWN, LANES), 0, stream_of(a)>>>(
            c, floats(a, K), floats(a, V), 1.0f, floats(a, Q), scale, input<float>(a, CARRY),
            results(a, 0), output<float>(a, 1));
}

static int can(const lmoe_args *a)
{
    int values = a->n_in > CARRY + 1 && lmoe_buf_present(&a->in[CARRY + 1]); /* that decay */
    return can_scan(a, DECAY, CARRY) && elements_of(a->in[K].dim[3]) > 0 && !values;
}

static lmoe_status launch(const lmoe_args *a)
{
    Scan c = describe_scan(a, DECAY);
    switch (elements_of(c.nk)) {
    case 2: run<2>(a, c); break;
    case 8: run<8>(a, c); break;
    case 16: run<16>(a, c); break;
    case 32: run<32>(a, c); break;
    default: run<64>(a, c); break;
    }
    return cuda_launched(a);
}

CUDA_KERNEL(scan_diag, 1, can, NULL, launch)
