/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The carry op of which others are made.
 */
#include "carry.h"

ZOO_CARRY(good_reference, good_summary, good_combine)
