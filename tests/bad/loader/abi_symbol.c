/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/abi_symbol.c: exports the entry of ABI 2 only.
 */
#include <stddef.h>

const void *lmoe_plugin_v2(const void *host);
const void *lmoe_plugin_v2(const void *host)
{
    return NULL;
}
