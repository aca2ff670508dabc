/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cuda/scan_elem.cu: scan_elem/1 (scan_elem.cuh).
 */
#include "scan_elem.cuh"

enum { CARRY = 10 };

template <int E, int PARTS>
static __global__ void __launch_bounds__(THREADS)
    walk(Elem s, const float *starts, const float *first, Results y, float *last)
{
    Spot o = spot_of(s);
    Pair h[E];
    if (starts)
        load<E, PARTS>(s, o, starts, s.stretches, o.stretch, h);
    else
        load<E, PARTS>(s, o, first, 1, 0, h);
    for (int64_t t = o.begin; t < o.end; t++) {
        float sum = 0;
        if (resets(s, o, t)) forget(h);
        if (!skips(s, o, t)) {
            go_on<E, PARTS>(s, o, t, h);
#pragma unroll
            for (int e = 0; e < E; e++) {
                if (!has(s, o, e)) continue;
                Pair c = reader_of<PARTS>(s, o, t, e);
                sum += h[e].re * c.re - (PARTS == 2 ? h[e].im * c.im : 0.0f);
            }
        }
        sum = group_sum(s, sum);
        if (y && o.lane == 0 && o.channel < s.channels) y.put(row_of(s, o, t), sum);
    }
    if (o.end == s.seq) store<E, PARTS>(s, o, last, 0, h);
}

template <int E, int PARTS>
static lmoe_status run(const lmoe_args *a, const Elem &s, const Stretches &w)
{
    const float *first = input<float>(a, CARRY);
    find_starts<E, PARTS>(a, s, w, first);
    walk<E, PARTS><<<elem_grid(s), THREADS, 0, stream_of(a)>>>(
        s, s.stretches > 1 ? w.states : NULL, first, results(a, 0), output<float>(a, 1));
    return cuda_launched(a);
}

static int can(const lmoe_args *a)
{
    return can_elem(a, CARRY);
}

static size_t workspace(const lmoe_args *a)
{
    return 2 * cuda_words(stretch_words(describe_elem(a)));
}

static lmoe_status launch(const lmoe_args *a)
{
    Elem s = describe_elem(a);
    char *cursor = (char *)a->workspace;
    Stretches w = {};
    w.products = (float *)cuda_take(&cursor, stretch_words(s));
    w.states = (float *)cuda_take(&cursor, stretch_words(s));
    return RUN_ELEM(s, run, a, s, w);
}

CUDA_KERNEL(scan_elem, 1, can, workspace, launch)
