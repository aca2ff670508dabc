/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/throws.cc: the constructor of an object in it throws while it is loaded.
 */
#include <stdexcept>

struct thrower {
    thrower()
    {
        throw std::runtime_error("no");
    }
};
static thrower at_once;

extern "C" __attribute__((visibility("default"))) const void *lmoe_plugin_v1(const void *host)
{
    return host;
}
