/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/undefined.c: uses a function that no library has.
 */
void lmoe_secret_function(void);

const void *lmoe_plugin_v1(const void *host);
const void *lmoe_plugin_v1(const void *host)
{
    lmoe_secret_function();
    return host;
}
