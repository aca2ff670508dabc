/* SPDX-License-Identifier: Apache-2.0
 * core/op/embedding/embedding_ref.c: y[t] = table[ids[t]];  dtable[v] = sum of dy[t] with ids[t] =
 * v.
 */
#include "core/op/op.h"

#include <stdlib.h>

lmoe_status lmoe__embedding_reference(const lmoe_args *args);
lmoe_status lmoe__embedding_grad_reference(const lmoe_args *args);

lmoe_status lmoe__embedding_reference(const lmoe_args *args)
{
    const lmoe_buf *table = &args->in[0], *ids = &args->in[1];
    int64_t rows = table->dim[0], width = table->dim[1];
    for (int64_t t = 0; t < lmoe_buf_count(ids); t++) {
        int64_t id = ((const int32_t *)ids->data)[t];
        bool inside = id >= 0 && id < rows;
        for (int64_t e = 0; e < width; e++)
            lmoe_put(&args->out[0], t * width + e, inside ? lmoe_get(table, id * width + e) : 0);
    }
    return LMOE_OK;
}

lmoe_status lmoe__embedding_grad_reference(const lmoe_args *args)
{
    const lmoe_buf *ids = &args->in[0], *dy = &args->in[1], *dtable = &args->out[0];
    int64_t rows = dtable->dim[0], width = dtable->dim[1], tokens = lmoe_buf_count(ids);
    double *row = malloc((size_t)width * sizeof *row);
    if (!row) return lmoe_error(args->ctx, LMOE_E_MEMORY, "embedding_grad: out of memory");
    for (int64_t v = 0; v < rows; v++) {
        memset(row, 0, (size_t)width * sizeof *row);
        for (int64_t t = 0; t < tokens; t++) {
            if (((const int32_t *)ids->data)[t] != v) continue;
            for (int64_t e = 0; e < width; e++) row[e] += lmoe_get(dy, t * width + e);
        }
        for (int64_t e = 0; e < width; e++) lmoe_put(dtable, v * width + e, row[e]);
    }
    free(row);
    return LMOE_OK;
}
