/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The router of which the others are made.
 */
#include "router.h"

ZOO_ROUTER(good_route)
