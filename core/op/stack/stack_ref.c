/* SPDX-License-Identifier: Apache-2.0
 * core/op/stack/stack_ref.c: references of stack/1, assign/1, pieces/1 and join/1.
 */
#include "core/op/op.h"

lmoe_status lmoe__stack_reference(const lmoe_args *args);
lmoe_status lmoe__assign_reference(const lmoe_args *args);
lmoe_status lmoe__pieces_reference(const lmoe_args *args);
lmoe_status lmoe__join_reference(const lmoe_args *args);

lmoe_status lmoe__stack_reference(const lmoe_args *args)
{
    const lmoe_buf *y = &args->out[0];
    size_t bytes = (size_t)lmoe_buf_count(&args->in[0]) * lmoe_dtype_bytes(y->dtype);
    for (int64_t i = 0; i < y->dim[0]; i++)
        memcpy((char *)y->data + (size_t)i * bytes, args->in[i].data, bytes);
    return LMOE_OK;
}

lmoe_status lmoe__assign_reference(const lmoe_args *args)
{
    const lmoe_buf *target = &args->in[0], *x = &args->in[1];
    memmove(target->data, x->data, (size_t)lmoe_buf_count(x) * lmoe_dtype_bytes(x->dtype));
    return LMOE_OK;
}

/* The whole is (outer, n, run) with n pieces; the stacked pieces are (n, outer, run). */
static void transpose(void *dst, const void *src, const lmoe_buf *pieces, int64_t dim, bool join)
{
    size_t n = (size_t)pieces->dim[0], outer = 1, run = lmoe_dtype_bytes(pieces->dtype);
    for (int i = 1; i <= dim; i++) outer *= (size_t)pieces->dim[i];
    for (int i = (int)dim + 1; i < pieces->rank; i++) run *= (size_t)pieces->dim[i];
    for (size_t j = 0; j < n; j++) {
        for (size_t i = 0; i < outer; i++) {
            size_t whole = (i * n + j) * run, piece = (j * outer + i) * run;
            memcpy((char *)dst + (join ? whole : piece), (const char *)src + (join ? piece : whole),
                   run);
        }
    }
}

lmoe_status lmoe__pieces_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    transpose(args->out[0].data, args->in[0].data, &args->out[0], o->dim, false);
    return LMOE_OK;
}

lmoe_status lmoe__join_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    transpose(args->out[0].data, args->in[0].data, &args->in[0], o->dim, true);
    return LMOE_OK;
}
