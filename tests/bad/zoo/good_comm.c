/* SPDX-License-Identifier: Apache-2.0
 * breaks: nothing
 * The communicator of which the others are made.
 */
#include "comm.h"

ZOO_COMM()
