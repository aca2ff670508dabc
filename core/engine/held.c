/* SPDX-License-Identifier: Apache-2.0
 * core/engine/held.c: boxes of tensors, and their runs.
 */
#include "core/engine/held.h"

void lmoe__held_box(const lmoe__held *h, const lmoe__mesh *mesh, const int *at, lmoe__box *box)
{
    *box = (lmoe__box){.count = 1};
    for (int d = 0; d < h->desc.rank; d++) box->size[d] = h->desc.dim[d];
    for (int i = 0; i < mesh->count; i++) { /* what an axis leaves is cut by the next */
        int d = h->split[i];
        if (d < 0) continue;
        box->size[d] /= mesh->axis[i].ranks;
        box->start[d] += at[i] * box->size[d];
    }
    for (int d = 0; d < h->desc.rank; d++) box->count *= box->size[d];
}

void lmoe__mesh_place(const lmoe__mesh *mesh, int *at)
{
    for (int i = 0; i < mesh->count; i++) at[i] = mesh->axis[i].rank;
}

void lmoe__mesh_place_of(const lmoe__mesh *mesh, int rank, int *at)
{
    for (int i = mesh->count - 1; i >= 0; i--) {
        at[i] = rank % mesh->axis[i].ranks;
        rank /= mesh->axis[i].ranks;
    }
}

bool lmoe__held_owner(const lmoe__held *h, const lmoe__mesh *mesh, const int *at)
{
    for (int i = 0; i < mesh->count; i++) {
        if (h->split[i] < 0 && at[i] != h->owner[i]) return false;
    }
    return true;
}

lmoe_status lmoe__box_runs(const lmoe__box *box, const lmoe_desc *whole, lmoe__run_fn fn,
                           void *user)
{
    int inner = whole->rank; /* dimensions from here on are dense */
    int64_t run = 1, at[LMOE_MAX_DIMS] = {0}, stride[LMOE_MAX_DIMS], rows, size = 1;
    for (int d = whole->rank - 1; d >= 0; d--) {
        stride[d] = size;
        size *= whole->dim[d];
    }
    while (inner > 0 && (inner == whole->rank || box->size[inner] == whole->dim[inner]))
        run *= box->size[--inner];
    rows = run > 0 ? box->count / run : 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t in_whole = 0;
        for (int d = 0; d < whole->rank; d++) in_whole += (box->start[d] + at[d]) * stride[d];
        LMOE_TRY(fn(user, i * run, in_whole, run));
        for (int d = inner - 1; d >= 0 && ++at[d] == box->size[d]; d--) at[d] = 0;
    }
    return LMOE_OK;
}
