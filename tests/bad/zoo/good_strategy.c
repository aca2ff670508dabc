/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The strategy of which the others are made.
 */
#include "strategy.h"

ZOO_STRATEGY()
