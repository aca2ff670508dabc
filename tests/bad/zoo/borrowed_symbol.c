/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/libraries
 * Uses a function of a library that the program has, but is not linked to it.
 */
#include "layer.h"

void *json_object(void); /* of jansson */

static lmoe_status load(const lmoe_host *host)
{
    return host->abi_major == 99 && json_object() ? LMOE_E_USAGE : LMOE_OK;
}

ZOO_LAYER_CLASS()
ZOO_PLUGIN(.load = load)
