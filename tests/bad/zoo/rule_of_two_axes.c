/* SPDX-License-Identifier: Apache-2.0
 * breaks: ops/rule
 * Its rule forgets an axis.
 */
#include "op.h"

ZOO_OP(.rule = "b e, e -> b e")
