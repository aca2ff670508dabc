/* SPDX-License-Identifier: Apache-2.0
 * core/op/collective/collective.h: what the collectives share, and how rows lie over ranks.
 */
#ifndef LMOE_CORE_OP_COLLECTIVE_H
#define LMOE_CORE_OP_COLLECTIVE_H

#include "core/op/shape.h"

/* A name for an axis of ranks that x has none of yet: what was gathered over one mesh axis may be
 * gathered over another. */
const char *lmoe__rank_axis(const lmoe_desc *x);

/* Rows of `from` that belong to experts of `to`: first and one past the last of from's own. */
static inline void lmoe__rows_between(const lmoe_buf *table, int64_t from, int64_t to,
                                      int64_t ranks, int64_t *first, int64_t *end)
{
    int64_t bounds = table->dim[1], each = (bounds - 1) / ranks;
    *first = (int64_t)lmoe_get(table, from * bounds + to * each);
    *end = (int64_t)lmoe_get(table, from * bounds + (to + 1) * each);
}

#endif
