/* SPDX-License-Identifier: Apache-2.0
 * core/train/world.c: one rank among others: signals, agreement, its communicators, its life.
 */
#include "core/train/world.h"

#include <signal.h>
#include <time.h>

/* ---- signals: held back and asked for, so that no handler interrupts anything and no state is
 * global ---- */

static void stop_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
}

void lmoe__signals_hold(void)
{
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

bool lmoe__signal_pending(void)
{
    sigset_t set;
    const struct timespec now = {0, 0};
    stop_signals(&set);
    return sigtimedwait(&set, NULL, &now) > 0;
}

/* ---- one rank ---- */

lmoe_status lmoe__rank_reduce(lmoe__rank *r, void *x, int64_t count, lmoe_dtype dtype,
                              lmoe_reduce reduce)
{
    const lmoe_comm *c = r->setup->comm;
    const lmoe_device *d = r->setup->device;
    size_t bytes = (size_t)count * lmoe_dtype_bytes(dtype);
    if (!r->world) return LMOE_OK;
    if (r->word) LMOE_TRY(d->upload(r->dev, r->word, x, bytes));
    void *stream = r->word ? d->stream(r->dev) : NULL;
    lmoe_status status =
        lmoe_all_reduce(c, r->world, r->word ? r->word : x, count, dtype, reduce, stream);
    if (status != LMOE_OK)
        return lmoe_error(&r->ctx, status, "%s: %s", c->base.name, c->message(r->world));
    return r->word ? d->download(r->dev, x, r->word, bytes) : LMOE_OK;
}

lmoe_status lmoe__rank_any(lmoe__rank *r, bool *flag)
{
    float f = *flag ? 1 : 0;
    LMOE_TRY(lmoe__rank_reduce(r, &f, 1, LMOE_F32, LMOE_MAX));
    *flag = f > 0;
    return LMOE_OK;
}

/* Ranks that differ only in their place on axis i share its communicator. */
static lmoe_status split_axes(lmoe__rank *r, lmoe__mesh *mesh)
{
    const lmoe_comm *c = r->setup->comm;
    for (int i = 0; i < mesh->count; i++) {
        int inner = 1, color;
        for (int k = i + 1; k < mesh->count; k++) inner *= mesh->axis[k].ranks;
        color = r->rank / (inner * mesh->axis[i].ranks) * inner + r->rank % inner;
        mesh->comm[i].comm = c;
        lmoe_status status = c->split(r->world, color, mesh->axis[i].rank, &mesh->comm[i].handle);
        if (status != LMOE_OK)
            return lmoe_error(&r->ctx, status, "%s: %s", c->base.name, c->message(r->world));
    }
    return LMOE_OK;
}

/* ---- one rank's life ---- */

lmoe_status lmoe__rank_join(lmoe__rank *r, const lmoe__place *place, void *group)
{
    const lmoe__setup *s = r->setup;
    const lmoe_comm_env env = {.size = sizeof env,
                               .rank = r->rank,
                               .ranks = s->world,
                               .group = group,
                               .timeout = s->comm_timeout,
                               .local_rank = place->local_rank,
                               .local_ranks = place->local_ranks};
    void *world = NULL;
    lmoe_status status = s->comm->open(s->comm_options, &env, &world);
    if (status != LMOE_OK) {
        lmoe_error(&r->ctx, status, "%s cannot be opened: %s", s->comm->base.name,
                   s->comm->message(world));
        if (world) s->comm->close(world);
        return status;
    }
    r->world = world;
    return LMOE_OK;
}

static lmoe_status check_builds(lmoe__rank *r)
{
    lmoe__builds b;
    LMOE_TRY(lmoe__builds_read(&r->ctx, r->setup->registry, &b));
    lmoe_status status = lmoe__builds_agree(r, &b);
    lmoe__builds_free(&b);
    return status;
}

static lmoe_status work(lmoe__rank *r, lmoe__mesh *mesh)
{
    const lmoe__setup *s = r->setup;
    if (r->world && (s->comm->base.flags & LMOE_COMM_DEVICE))
        LMOE_TRY(s->device->alloc(r->dev, LMOE__WORD, &r->word));
    if (r->world) {
        LMOE_TRY(check_builds(r));
        LMOE_TRY(split_axes(r, mesh));
    }
    return lmoe__rank_train(r, mesh);
}

static void watch_over(lmoe__rank_thread *t, void *world)
{
    pthread_mutex_lock(&t->team->mutex);
    t->watched = world;
    t->began = 0;
    pthread_mutex_unlock(&t->team->mutex);
}

void lmoe__rank_live(lmoe__rank_thread *t)
{
    lmoe__rank *r = &t->rank;
    const lmoe__setup *s = r->setup;
    lmoe__mesh mesh;
    lmoe__setup_place(s, r->rank, &mesh);
    lmoe_status status = s->device->open(&r->ctx, s->device_options, &r->dev);
    lmoe_status joined = s->world > 1 ? lmoe__rank_join(r, t->place, t->group) : LMOE_OK;
    if (status == LMOE_OK) status = joined;
    watch_over(t, r->world);
    if (status == LMOE_OK) status = work(r, &mesh);
    if (status != LMOE_OK && r->world) {
        /* to abort may end the process, so a process speaks first */
        if (!t->group) lmoe__log(&r->ctx, LMOE_LOG_ERROR, "%s", r->ctx.message);
        s->comm->abort(r->world);
    }
    watch_over(t, NULL);
    for (int i = 0; i < mesh.count; i++) {
        if (mesh.comm[i].handle) s->comm->close(mesh.comm[i].handle);
    }
    if (r->world) s->comm->close(r->world);
    if (r->word) s->device->free(r->dev, r->word);
    r->status = status;
}
