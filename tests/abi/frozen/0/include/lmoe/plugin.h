/* SPDX-License-Identifier: Apache-2.0
 * lmoe/plugin.h: what a plugin file exports: one function that returns one static descriptor.
 *
 *   static const lmoe_class *const classes[] = {&my_layer.base, NULL};
 *   LMOE_PLUGIN(.id = "vendor.x/mylayer", .version = "0.1", .licence = "Apache-2.0", .classes =
 * classes)
 *
 * The entry stores the table and returns: no allocation, no thread, no print, no CUDA call. Class
 * "lsm/gla" lives in "lsm-gla.so", "vendor.x/gla" in "vendor.x-gla.so". The host never unloads a
 * plugin.
 */
#ifndef LMOE_PLUGIN_H
#define LMOE_PLUGIN_H

#include <lmoe/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Facts of a build that must agree between host and plugin. */
typedef struct lmoe_facts {
    uint32_t pointer_bits;
    uint32_t max_dims;
    uint32_t max_io;
    uint32_t max_attrs;
    char extra[16]; /* tag of an incompatible fork; "" here */
} lmoe_facts;

#ifndef LMOE_FACTS_EXTRA
#define LMOE_FACTS_EXTRA ""
#endif
#define LMOE_FACTS                                                                  \
    {                                                                               \
        (uint32_t)(sizeof(void *) * 8), LMOE_MAX_DIMS, LMOE_MAX_IO, LMOE_MAX_ATTRS, \
            LMOE_FACTS_EXTRA                                                        \
    }

typedef struct lmoe_host {
    size_t size;
    uint32_t abi_major, api_minor;
    const char *version; /* of the host, for messages */
    const lmoe_api *api;
    const void *(*ext)(const char *id); /* draft extensions by id; NULL if the host lacks it */
} lmoe_host;

typedef struct lmoe_plugin {
    size_t size;
    uint32_t abi_major, api_min;
    lmoe_facts facts;
    const char *id;                             /* "lsm/gla" */
    const char *version;                        /* of the plugin */
    const char *licence;                        /* SPDX */
    const char *url;                            /* or NULL */
    const lmoe_class *const *classes;           /* NULL-terminated */
    lmoe_status (*load)(const lmoe_host *host); /* optional, last step of loading */
} lmoe_plugin;

typedef const lmoe_plugin *(*lmoe_entry)(const lmoe_host *host);
#define LMOE_ENTRY_SYMBOL "lmoe_plugin_v1"

#ifdef LMOE_BUILTIN /* a unique name, e.g. -DLMOE_BUILTIN=lsm_gla; many plugins in one binary */
#define LMOE_PASTE2_(a, b)      a##b
#define LMOE_PASTE_(a, b)       LMOE_PASTE2_(a, b)
#define LMOE_ENTRY_NAME_        LMOE_PASTE_(lmoe_plugin_v1_, LMOE_BUILTIN)
#define LMOE_ENTRY_STORE_(host) (void)(host)
#define LMOE_ENTRY_TABLE_
#else
#define LMOE_ENTRY_NAME_        lmoe_plugin_v1
#define LMOE_ENTRY_STORE_(host) lmoe_api_table = (host)->api
#define LMOE_ENTRY_TABLE_       const lmoe_api *lmoe_api_table;
#endif

#define LMOE_PLUGIN(...)                                                        \
    LMOE_ENTRY_TABLE_                                                           \
    __attribute__((visibility("default"))) const lmoe_plugin *LMOE_ENTRY_NAME_( \
        const lmoe_host *host);                                                 \
    const lmoe_plugin *LMOE_ENTRY_NAME_(const lmoe_host *host)                  \
    {                                                                           \
        static const lmoe_plugin plugin = {.size = sizeof(lmoe_plugin),         \
                                           .abi_major = LMOE_ABI_MAJOR,         \
                                           .api_min = LMOE_TARGET_API,          \
                                           .facts = LMOE_FACTS,                 \
                                           __VA_ARGS__};                        \
        LMOE_ENTRY_STORE_(host);                                                \
        return &plugin;                                                         \
    }

#ifdef __cplusplus
}
#endif
#endif
