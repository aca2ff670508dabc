/* SPDX-License-Identifier: Apache-2.0
 * lmoe/lmoe.h: everything that a layer or router needs.
 */
#ifndef LMOE_LMOE_H
#define LMOE_LMOE_H

#include <lmoe/nn.h>
#include <lmoe/plugin.h>

#endif
