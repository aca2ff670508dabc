/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/rows_ref.c: references of row_exchange/1 (one rank), row_regroup/1 and
 * row_offsets/1; how the rows lie stands in rows.c.
 */
#include "core/op/collective/collective.h"

lmoe_status lmoe__row_exchange_reference(const lmoe_args *args);
lmoe_status lmoe__row_regroup_reference(const lmoe_args *args);
lmoe_status lmoe__row_offsets_reference(const lmoe_args *args);

lmoe_status lmoe__row_exchange_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    const lmoe_buf *rows = &args->in[0], *y = &args->out[0];
    if (o->ranks != 1)
        return lmoe_error(args->ctx, LMOE_E_USAGE,
                          "row_exchange/1 over %lld ranks needs a communicator",
                          (long long)o->ranks);
    memmove(y->data, rows->data, (size_t)lmoe_buf_count(rows) * lmoe_dtype_bytes(rows->dtype));
    return LMOE_OK;
}

/* Bytes of a row. */
static size_t row_bytes(const lmoe_buf *rows)
{
    size_t bytes = lmoe_dtype_bytes(rows->dtype);
    for (int i = 1; i < rows->rank; i++) bytes *= (size_t)rows->dim[i];
    return bytes;
}

/* Walks the groups (expert, sending rank) by expert; `begin` of each sender among what came. */
lmoe_status lmoe__row_regroup_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    const lmoe_buf *rows = &args->in[0], *table = &args->in[1], *y = &args->out[0];
    const int64_t bounds = table->dim[1], each = (bounds - 1) / o->ranks, first = o->rank * each;
    const size_t row = row_bytes(rows);
    int64_t sorted = 0;
    for (int64_t x = 0; x < each; x++) {
        int64_t begin = 0;
        for (int64_t i = 0; i < o->ranks; i++) {
            int64_t from = (int64_t)lmoe_get(table, i * bounds + first);
            int64_t at = (int64_t)lmoe_get(table, i * bounds + first + x);
            int64_t end = (int64_t)lmoe_get(table, i * bounds + first + x + 1);
            int64_t last = (int64_t)lmoe_get(table, i * bounds + first + each);
            int64_t came = begin + at - from, n = end - at;
            if (n < 0 || sorted + n > rows->dim[0])
                return lmoe_error(args->ctx, LMOE_E_USAGE,
                                  "row_regroup/1: the offsets of rank %lld do not rise, or count "
                                  "more than the %lld rows",
                                  (long long)i, (long long)rows->dim[0]);
            memcpy((char *)y->data + (size_t)(o->back ? came : sorted) * row,
                   (const char *)rows->data + (size_t)(o->back ? sorted : came) * row,
                   (size_t)n * row);
            sorted += n;
            begin += last - from;
        }
    }
    memset((char *)y->data + (size_t)sorted * row, 0, (size_t)(rows->dim[0] - sorted) * row);
    return LMOE_OK;
}

lmoe_status lmoe__row_offsets_reference(const lmoe_args *args)
{
    const lmoe_collective_attrs *o = args->attrs;
    const lmoe_buf *table = &args->in[0], *y = &args->out[0];
    const int64_t bounds = table->dim[1], each = (bounds - 1) / o->ranks;
    for (int64_t x = 0; x <= each; x++) {
        int64_t sum = 0;
        for (int64_t i = 0; i < o->ranks; i++)
            sum += (int64_t)lmoe_get(table, i * bounds + o->rank * each + x) -
                   (int64_t)lmoe_get(table, i * bounds + o->rank * each);
        lmoe_put(y, x, (double)sum);
    }
    return LMOE_OK;
}
