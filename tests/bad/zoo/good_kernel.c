/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The kernel of which others are made.
 */
#include "kernel.h"

ZOO_KERNEL()
