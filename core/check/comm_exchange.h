/* SPDX-License-Identifier: Apache-2.0
 * core/check/comm_exchange.h: what every communicator must do alike.
 */
#ifndef LMOE_CORE_CHECK_COMM_EXCHANGE_H
#define LMOE_CORE_CHECK_COMM_EXCHANGE_H

#include <lmoe/comm.h>

#include <stdbool.h>

enum {
    LMOE__EXCHANGE_REDUCTIONS = 1, /* all_reduce and reduce_scatter, in rank order */
    LMOE__EXCHANGE_GATHERS = 2,
    LMOE__EXCHANGE_BROADCASTS = 4,
    LMOE__EXCHANGE_BLOCKS = 8, /* all_to_all, equal and uneven */
    LMOE__EXCHANGE_MESSAGES = 16,
    LMOE__EXCHANGE_FLIGHT = 32, /* several at once, waited for in any order */
    LMOE__EXCHANGE_PARTS = 64,  /* split */
    LMOE__EXCHANGE_ALL = 127
};

/* Called by every rank of comm, with odd counts, all dtypes, in place and not. any_order: messages of
 * different tags may overtake each other. Returns the number of wrong results and of failed calls;
 * first: NULL, or room for 160 characters, which tell of the first one. */
int lmoe__exchange_check(const lmoe_comm *c, void *comm, bool any_order, uint32_t what,
                         char *first);

#endif
