/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/constant
 * Makes another descriptor at each call of its entry.
 */
#include "layer.h"

ZOO_LAYER_CLASS()

const lmoe_api *lmoe_api_table;
__attribute__((visibility("default"))) const lmoe_plugin *lmoe_plugin_v1(const lmoe_host *host);

const lmoe_plugin *lmoe_plugin_v1(const lmoe_host *host)
{
    static lmoe_plugin plugin[4];
    static int n;
    lmoe_plugin *p = &plugin[n++ % 4];
    *p = (lmoe_plugin){.size = sizeof *p,
                       .abi_major = LMOE_ABI_MAJOR,
                       .api_min = LMOE_TARGET_API,
                       .facts = LMOE_FACTS,
                       .id = "zoo.x/" ZOO,
                       .version = "1.0",
                       .licence = "Apache-2.0",
                       .classes = zoo_classes};
    lmoe_api_table = host->api;
    return p;
}
