/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/collective_ref.c: references of the collectives (for one rank, where all
 * of them copy: with more, the replay calls the communicator instead) and of shard/1.
 */
#include "core/op/op.h"

lmoe_status lmoe__all_reduce_reference(const lmoe_args *args);
lmoe_status lmoe__all_gather_reference(const lmoe_args *args);
lmoe_status lmoe__reduce_scatter_reference(const lmoe_args *args);
lmoe_status lmoe__all_to_all_reference(const lmoe_args *args);
lmoe_status lmoe__send_reference(const lmoe_args *args);
lmoe_status lmoe__recv_reference(const lmoe_args *args);
lmoe_status lmoe__shard_reference(const lmoe_args *args);

static lmoe_status copy_alone(const lmoe_args *args, const char *op)
{
    const lmoe_collective_attrs *o = args->attrs;
    const lmoe_buf *x = &args->in[0], *y = &args->out[0];
    if (o->ranks != 1)
        return lmoe_error(args->ctx, LMOE_E_USAGE,
                          "%s over %lld ranks needs a communicator; without one it serves a single "
                          "rank",
                          op, (long long)o->ranks);
    memmove(y->data, x->data, (size_t)lmoe_buf_count(x) * lmoe_dtype_bytes(x->dtype));
    return LMOE_OK;
}

lmoe_status lmoe__all_reduce_reference(const lmoe_args *args)
{
    return copy_alone(args, "all_reduce/1");
}

lmoe_status lmoe__all_gather_reference(const lmoe_args *args)
{
    return copy_alone(args, "all_gather/1");
}

lmoe_status lmoe__reduce_scatter_reference(const lmoe_args *args)
{
    return copy_alone(args, "reduce_scatter/1");
}

lmoe_status lmoe__all_to_all_reference(const lmoe_args *args)
{
    return copy_alone(args, "all_to_all/1");
}

/* One rank has nobody to send to. */
static lmoe_status need_peer(const lmoe_args *args, const char *op)
{
    const lmoe_collective_attrs *o = args->attrs;
    if (o->ranks == 1) return LMOE_OK;
    return lmoe_error(args->ctx, LMOE_E_USAGE,
                      "%s to or from rank %lld of %lld needs a communicator", op,
                      (long long)o->peer, (long long)o->ranks);
}

lmoe_status lmoe__send_reference(const lmoe_args *args)
{
    return need_peer(args, "send/1");
}

lmoe_status lmoe__recv_reference(const lmoe_args *args)
{
    const lmoe_buf *y = &args->out[0];
    LMOE_TRY(need_peer(args, "recv/1"));
    memset(y->data, 0, (size_t)lmoe_buf_count(y) * lmoe_dtype_bytes(y->dtype));
    return LMOE_OK;
}

/* x seen as (outer, n, inner) with n the dimension that is cut: each outer's piece is one run. */
lmoe_status lmoe__shard_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    const lmoe_buf *x = &args->in[0], *y = &args->out[0];
    size_t outer = 1, run = lmoe_dtype_bytes(x->dtype);
    for (int i = 0; i < o->dim; i++) outer *= (size_t)x->dim[i];
    for (int i = (int)o->dim; i < y->rank; i++) run *= (size_t)y->dim[i];
    for (size_t i = 0; i < outer; i++) {
        const char *from = (const char *)x->data + (i * (size_t)o->ranks + (size_t)o->rank) * run;
        memcpy((char *)y->data + i * run, from, run);
    }
    return LMOE_OK;
}
