/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/again
 * Refuses to be loaded for a second time.
 */
#include "layer.h"

static lmoe_status load(const lmoe_host *host)
{
    static int loaded;
    return loaded++ == 0 ? LMOE_OK : LMOE_E_USAGE;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
