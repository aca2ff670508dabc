/* SPDX-License-Identifier: Apache-2.0
 * breaks: communicators/reductions
 * Long sums of float32 begin with the last rank: all ranks agree, but other communicators have other bits.
 */
#include "comm.h"

static int nothing;

static lmoe_status sum_backwards(void *comm, const lmoe_exchange *e)
{
    int32_t ranks = good()->ranks(comm);
    float *all = malloc(sizeof *all * (size_t)(ranks * e->count + 1)), *to = e->recv;
    lmoe_status status = lmoe_all_gather(good(), comm, e->send, all, e->count, LMOE_F32, NULL);
    for (int64_t i = 0; status == LMOE_OK && i < e->count; i++) {
        float sum = all[(ranks - 1) * e->count + i];
        for (int32_t r = ranks - 2; r >= 0; r--) sum += all[r * e->count + i];
        to[i] = sum;
    }
    free(all);
    return status;
}

static lmoe_status start(void *comm, const lmoe_exchange *e, void **request)
{
    int mine = e->kind == LMOE_ALL_REDUCE && e->count > 500 && e->dtype == LMOE_F32 &&
               e->reduce == LMOE_SUM;
    if (!mine || lmoe_exchange_problem(e, good()->rank(comm), good()->ranks(comm)))
        return good()->start(comm, e, request);
    *request = &nothing;
    return sum_backwards(comm, e);
}

static lmoe_status wait(void *comm, void *request)
{
    return request == &nothing ? LMOE_OK : good()->wait(comm, request);
}

ZOO_COMM(c->start = start; c->wait = wait;)
