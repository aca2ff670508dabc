/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/texts
 * Its summary has two lines.
 */
#include "layer.h"

ZOO_LAYER(.base.summary = "Linear attention.\nSee the paper.")
