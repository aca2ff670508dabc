/* SPDX-License-Identifier: Apache-2.0
 * tests/plugins/comm_exchange.h: what every communicator must do alike.
 */
#ifndef TEST_COMM_EXCHANGE_H
#define TEST_COMM_EXCHANGE_H

#include <lmoe/comm.h>

#include <stdbool.h>

/* Called by every rank of comm: each kind of exchange, with odd counts, all dtypes, in place, many
 * in flight, in parts of the world. any_order: messages of different tags may overtake each other.
 * Returns the number of wrong results and of failed calls. */
int comm_exchange_check(const lmoe_comm *c, void *comm, bool any_order);

#endif
