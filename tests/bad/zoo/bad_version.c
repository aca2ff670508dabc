/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/identity
 * Its version is a word.
 */
#include "layer.h"

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.version = "latest")
