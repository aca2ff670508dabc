/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_descriptor.c: its entry returns NULL.
 */
#include <lmoe/plugin.h>

const lmoe_plugin *lmoe_plugin_v1(const lmoe_host *host);
const lmoe_plugin *lmoe_plugin_v1(const lmoe_host *host)
{
    return NULL;
}
