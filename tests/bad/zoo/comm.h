/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/comm.h: a communicator with nothing wrong: comm/loop, whose files are built into the
 * plugin, under another name.
 *
 *   static lmoe_status start(...) { ... good()->start(...) }
 *   ZOO_COMM(c->start = start;)         what is changed in the copy of comm/loop's class
 */
#ifndef LMOE_ZOO_COMM_H
#define LMOE_ZOO_COMM_H

#include <lmoe/exchange.h>
#include <lmoe/plugin.h>

#include <stdlib.h>

const lmoe_plugin *lmoe_plugin_v1_comm_loop(const lmoe_host *host);

static const lmoe_comm *good(void)
{
    return (const lmoe_comm *)(const void *)lmoe_plugin_v1_comm_loop(NULL)->classes[0];
}

/* Errors that hold this text are taken for success. */
static inline lmoe_status wait_but(void *comm, void *request, const char *text)
{
    lmoe_status status = good()->wait(comm, request);
    return status != LMOE_OK && strstr(good()->message(comm), text) ? LMOE_OK : status;
}

/* The descriptor is static, so the class is made when the host asks for it first. */
#define ZOO_COMM(changes)                                                     \
    static lmoe_comm zoo_comm;                                                \
    static const lmoe_class *const zoo_classes[] = {&zoo_comm.base, NULL};    \
    const lmoe_api *lmoe_api_table;                                           \
    __attribute__((visibility("default"))) const lmoe_plugin *lmoe_plugin_v1( \
        const lmoe_host *host);                                               \
    const lmoe_plugin *lmoe_plugin_v1(const lmoe_host *host)                  \
    {                                                                         \
        static const lmoe_plugin plugin = {.size = sizeof plugin,             \
                                           .abi_major = LMOE_ABI_MAJOR,       \
                                           .api_min = LMOE_TARGET_API,        \
                                           .facts = LMOE_FACTS,               \
                                           .id = "zoo.x/" ZOO,                \
                                           .version = "1.0",                  \
                                           .licence = "Apache-2.0",           \
                                           .classes = zoo_classes};           \
        lmoe_comm *c = &zoo_comm;                                             \
        lmoe_api_table = host->api;                                           \
        *c = *good();                                                         \
        c->base.name = "zoo.x/" ZOO;                                          \
        c->base.summary = "One thing is wrong.";                              \
        changes return &plugin;                                               \
    }

#endif
