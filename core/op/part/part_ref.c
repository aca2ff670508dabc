/* SPDX-License-Identifier: Apache-2.0
 * core/op/part/part_ref.c: references of unchosen/1 and fenwick/1.
 */
#include "core/op/op.h"

lmoe_status lmoe__unchosen_reference(const lmoe_args *args);
lmoe_status lmoe__fenwick_reference(const lmoe_args *args);

lmoe_status lmoe__unchosen_reference(const lmoe_args *args)
{
    const lmoe_unchosen_attrs *o = args->attrs;
    const lmoe_buf *index = &args->in[0], *skip = &args->in[1];
    int64_t choices = index->dim[2], tokens = index->dim[0] * index->dim[1];
    for (int64_t i = 0; i < tokens; i++) {
        int chosen = 0;
        for (int64_t c = 0; c < choices; c++)
            chosen |= (int64_t)lmoe_get(index, i * choices + c) == o->which;
        lmoe_put(&args->out[0], i, !chosen || lmoe_get(skip, i) != 0); /* absent: 0 */
    }
    return LMOE_OK;
}

lmoe_status lmoe__fenwick_reference(const lmoe_args *args)
{
    const lmoe_fenwick_attrs *o = args->attrs;
    const lmoe_buf *positions = &args->in[0], *document = &args->in[1];
    int64_t block = (int64_t)1 << (o->level - 1);
    for (int64_t i = 0, n = lmoe_buf_count(positions); i < n; i++) {
        int64_t at = (int64_t)(lmoe_get(positions, i) - lmoe_get(document, i));
        lmoe_put(&args->out[0], i, at / block % 2 == 0);
        lmoe_put(&args->out[1], i, at % (2 * block) == 0);
    }
    return LMOE_OK;
}
