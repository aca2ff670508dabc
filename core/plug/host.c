/* SPDX-License-Identifier: Apache-2.0
 * core/plug/host.c: what the core hands to a plugin: the table of calls.
 */
#include "core/plug/plug.h"

static const lmoe_api api = {
    .size = sizeof(lmoe_api),
#define LMOE_API(since, ret, name, params, args) .name = name,
#include <lmoe/api.def>
#undef LMOE_API
};

/* There are none yet: strategies are handed lmoe.graph/0 with each call. */
static const void *ext(const char *id)
{
    return NULL;
}

static const lmoe_host host = {
    .size = sizeof(lmoe_host),
    .abi_major = LMOE_ABI_MAJOR,
    .api_minor = LMOE_API_MINOR,
    .version = LMOE_VERSION,
    .api = &api,
    .ext = ext,
};

const lmoe_host *lmoe__host(void)
{
    return &host;
}
