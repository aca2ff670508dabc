/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The op of which others are made.
 */
#include "op.h"

ZOO_OP()
