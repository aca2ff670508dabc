/* SPDX-License-Identifier: Apache-2.0
 * core/plug/inner.c: communicators around other communicators (lmoe/inner.h).
 */
#include "core/plug/plug.h"

#include <lmoe/inner.h>

enum { MOST_AROUND = 4 }; /* more is a circle */

typedef struct filling {
    lmoe_ctx *ctx;
    lmoe__registry *registry;
    lmoe__conf *conf;
    lmoe__arena *arena;
    int depth;
} filling;

static lmoe_status fill(const filling *f, const lmoe_class *outer, void *options);

static lmoe_status fill_one(const filling *f, const lmoe_class *outer, lmoe_inner *inner)
{
    const lmoe_class *c;
    LMOE_TRY(lmoe__registry_find(f->registry, f->ctx, LMOE_KIND_COMM, inner->name, &c));
    if (c->flags != outer->flags)
        return lmoe_error(f->ctx, LMOE_E_CONFIG,
                          "%s cannot stand around %s, which has its ranks or its buffers "
                          "elsewhere: their flags are %u and %u",
                          outer->name, c->name, outer->flags, c->flags);
    void *options = lmoe__arena_alloc(f->arena, c->options_size ? c->options_size : 1);
    if (c->options && f->conf)
        LMOE_TRY(lmoe__options_fill(f->ctx, f->conf, "comm", c->options, options, f->arena));
    else if (c->options)
        lmoe__options_default(c->options, options, f->arena);
    inner->comm = (const lmoe_comm *)(const void *)c;
    inner->options = options;
    return fill(f, c, options);
}

static lmoe_status fill(const filling *f, const lmoe_class *outer, void *options)
{
    const filling in = {f->ctx, f->registry, f->conf, f->arena, f->depth + 1};
    for (const lmoe_option *o = outer->options; o && o->name; o++) {
        if (!lmoe__option_is_inner(o)) continue;
        if (in.depth > MOST_AROUND)
            return lmoe_error(f->ctx, LMOE_E_CONFIG,
                              "more than %d communicators stand around each other; %s is among "
                              "them",
                              MOST_AROUND, outer->name);
        LMOE_TRY(fill_one(&in, outer, (lmoe_inner *)(void *)((char *)options + o->offset)));
    }
    return LMOE_OK;
}

lmoe_status lmoe__comm_inner(lmoe_ctx *ctx, lmoe__registry *r, lmoe__conf *conf, const lmoe_comm *c,
                             void *options, lmoe__arena *arena)
{
    const filling f = {ctx, r, conf, arena, 0};
    return fill(&f, &c->base, options);
}
