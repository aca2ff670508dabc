/* SPDX-License-Identifier: Apache-2.0
 * core/train/state.c: a run's state in checkpoints: weights, optimiser states, step, best loss.
 *
 * What a step draws on is a function of (seed, step), so nothing else is needed to go on bit for
 * bit. A checkpoint holds whole tensors, however they lie over the ranks: rank 0 writes and gathers
 * parts tensor by tensor, and every rank reads all and keeps its parts. So it can be loaded at any
 * other layout.
 */
#include "core/train/train.h"

#include "core/ckpt/ckpt.h"

#include <math.h>
#include <stdlib.h>

typedef struct tensors {
    lmoe__engine *engine;
    const lmoe__setup *setup; /* and the communicator of all ranks; NULL: there is one */
    void *world;
    lmoe__arena *arena; /* of what follows */
    const char *folder; /* of the run's checkpoints */
    lmoe__ckpt_tensor *list;
    const lmoe__held **held; /* of each in the list */
    int count;
    int gathered; /* the tensor in `whole`, -1 if none */
    char *whole;
} tensors;

static void add(tensors *t, const char *prefix, const lmoe__weight *w, lmoe__ckpt_kind kind)
{
    lmoe__ckpt_tensor *x = &t->list[t->count];
    x->name = lmoe__arena_printf(t->arena, "%s%s", prefix, w->name);
    const lmoe__held *h = lmoe__engine_held(t->engine, x->name);
    if (!h) return;
    x->desc = h->desc;
    x->kind = kind;
    t->held[t->count++] = h;
}

/* Free t->arena afterwards. */
static void list_tensors(lmoe__engine *e, const char *dir, bool optimiser, tensors *t)
{
    *t = (tensors){.engine = e, .arena = lmoe__arena_new(), .gathered = -1};
    t->folder = lmoe__arena_printf(t->arena, "%s/checkpoints", dir);
    t->list = LMOE_NEW_N(t->arena, lmoe__ckpt_tensor, 4 * e->n_weights + 1);
    t->held = LMOE_NEW_N(t->arena, const lmoe__held *, 4 * e->n_weights + 1);
    for (int i = 0; i < e->n_weights; i++) add(t, "", &e->weights[i], LMOE__CKPT_MODEL);
    for (int i = 0; optimiser && i < e->n_weights; i++) {
        add(t, "adam_m:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
        add(t, "adam_v:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
        add(t, "master:", &e->weights[i], LMOE__CKPT_OPTIMIZER); /* if there is one */
    }
}

static void free_tensors(tensors *t)
{
    free(t->whole);
    lmoe__arena_free(t->arena);
}

/* This rank's part of tensor `index`; NULL if it has none. */
static char *part_of(const tensors *t, int index, lmoe__box *box)
{
    const lmoe__held *h = t->held[index];
    int at[LMOE__MAX_MESH];
    lmoe__buffer *b = lmoe__store_find(&t->engine->store, h->name);
    lmoe__mesh_place(&t->engine->mesh, at);
    lmoe__held_box(h, &t->engine->mesh, at, box);
    return b ? b->data : NULL;
}

/* ---- parts to rank 0 ---- */

typedef struct copying {
    char *whole;
    const char *part;
    size_t item;
} copying;

static lmoe_status copy_run(void *user, int64_t in_box, int64_t in_whole, int64_t count)
{
    copying *c = user;
    memcpy(c->whole + (size_t)in_whole * c->item, c->part + (size_t)in_box * c->item,
           (size_t)count * c->item);
    return LMOE_OK;
}

static lmoe_status message(tensors *t, lmoe_exchange_kind kind, int peer, void *data, int64_t bytes)
{
    const lmoe_comm *c = t->setup->comm;
    const lmoe_exchange e = {.size = sizeof e,
                             .kind = kind,
                             .dtype = LMOE_U8,
                             .peer = peer,
                             .send = data,
                             .recv = data,
                             .count = bytes};
    lmoe_status status = lmoe_exchange_run(c, t->world, &e);
    if (status == LMOE_OK) return status;
    return lmoe_error(t->engine->ctx, status, "%s: %s", c->base.name, c->message(t->world));
}

/* The part of rank `from`, in t->whole on rank 0; buffer: room for it. */
static lmoe_status take_part(tensors *t, int index, int from, char *buffer)
{
    const lmoe__engine *e = t->engine;
    const lmoe__held *h = t->held[index];
    int at[LMOE__MAX_MESH], me = e->ctx->rank;
    lmoe__box box, own;
    lmoe__mesh_place_of(&e->mesh, from, at);
    if (!lmoe__held_owner(h, &e->mesh, at) || (me != 0 && me != from)) return LMOE_OK;
    lmoe__held_box(h, &e->mesh, at, &box);
    size_t item = lmoe_dtype_bytes(h->desc.dtype), bytes = (size_t)box.count * item;
    if (me == from) LMOE_TRY(e->device->download(e->dev, buffer, part_of(t, index, &own), bytes));
    if (from != 0)
        LMOE_TRY(message(t, me == 0 ? LMOE_RECV : LMOE_SEND, me == 0 ? from : 0, buffer,
                         (int64_t)bytes));
    copying c = {t->whole, buffer, item};
    return me == 0 ? lmoe__box_runs(&box, &h->desc, copy_run, &c) : LMOE_OK;
}

static lmoe_status gather(tensors *t, int index)
{
    size_t bytes = (size_t)lmoe_desc_bytes(&t->held[index]->desc);
    char *buffer = lmoe__malloc(bytes + 1);
    lmoe_status status = LMOE_OK;
    if (t->engine->ctx->rank == 0) t->whole = lmoe__realloc(t->whole, bytes + 1);
    for (int i = 0; status == LMOE_OK && i < t->setup->world; i++)
        status = take_part(t, index, i, buffer);
    free(buffer);
    t->gathered = index;
    return status;
}

/* Rank 0 says which tensor it needs next (-1: no more); the others hear it. */
static lmoe_status agree(tensors *t, int *index)
{
    const lmoe_comm *c = t->setup->comm;
    double next = *index;
    lmoe_status status = lmoe_all_reduce(c, t->world, &next, 1, LMOE_F64, LMOE_MAX, NULL);
    *index = (int)next;
    if (status == LMOE_OK) return status;
    return lmoe_error(t->engine->ctx, status, "%s: %s", c->base.name, c->message(t->world));
}

static lmoe_status serve_parts(tensors *t)
{
    for (;;) {
        int index = -1;
        LMOE_TRY(agree(t, &index));
        if (index < 0) return LMOE_OK;
        LMOE_TRY(gather(t, index));
    }
}

static bool in_parts(const tensors *t, int index)
{
    const lmoe__held *h = t->held[index];
    for (int i = 0; i < t->engine->mesh.count; i++) {
        if (h->split[i] >= 0 || h->owner[i] != 0) return true;
    }
    return false;
}

/* ---- between the store and files, in pieces ---- */

static lmoe_status read_tensor(void *user, int index, size_t at, void *host, size_t n)
{
    tensors *t = user;
    const lmoe__engine *e = t->engine;
    lmoe__box box;
    if (!in_parts(t, index))
        return e->device->download(e->dev, host, part_of(t, index, &box) + at, n);
    if (t->gathered != index) {
        int which = index;
        LMOE_TRY(agree(t, &which));
        LMOE_TRY(gather(t, index));
    }
    memcpy(host, t->whole + at, n);
    return LMOE_OK;
}

typedef struct keeping { /* bytes first ... end of a tensor are at hand */
    const lmoe__engine *e;
    char *part;
    const char *host;
    size_t first, end, item;
} keeping;

static lmoe_status keep_run(void *user, int64_t in_box, int64_t in_whole, int64_t count)
{
    keeping *k = user;
    size_t from = (size_t)in_whole * k->item, to = from + (size_t)count * k->item;
    size_t first = from > k->first ? from : k->first, end = to < k->end ? to : k->end;
    if (first >= end) return LMOE_OK;
    return k->e->device->upload(k->e->dev, k->part + (size_t)in_box * k->item + (first - from),
                                k->host + (first - k->first), end - first);
}

static lmoe_status write_tensor(void *user, int index, size_t at, void *host, size_t n)
{
    tensors *t = user;
    lmoe__box box;
    keeping k = {t->engine, part_of(t, index, &box), host, at, at + n, 0};
    k.item = lmoe_dtype_bytes(t->held[index]->desc.dtype);
    return k.part ? lmoe__box_runs(&box, &t->held[index]->desc, keep_run, &k) : LMOE_OK;
}

/* ---- a run's checkpoints ---- */

static lmoe_status write_checkpoint(lmoe__rank *r, tensors *t)
{
    const lmoe__run_options *run = &r->setup->run;
    char *config = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&config, &size);
    lmoe__conf_show(r->setup->conf, f);
    fclose(f);
    json_t *state = json_pack("{s:I, s:f, s:I}", "step", (json_int_t)r->done, "tokens", r->tokens,
                              "seed", (json_int_t)run->seed);
    if (isfinite(r->best_val)) json_object_set_new(state, "best_val_loss", json_real(r->best_val));
    if (r->owes_eval) json_object_set_new(state, "owes_eval", json_string(r->report.line.data));
    const lmoe__ckpt_options o = {.folder = t->folder,
                                  .step = r->done,
                                  .tensors = t->list,
                                  .count = t->count,
                                  .read = read_tensor,
                                  .user = t,
                                  .state = state,
                                  .config = config,
                                  .keep_last = (int)run->keep_last,
                                  .keep_every = run->keep_every};
    lmoe_status status = lmoe__ckpt_save(&r->ctx, &o);
    json_decref(state);
    free(config);
    return status;
}

lmoe_status lmoe__state_save(lmoe__rank *r)
{
    tensors t;
    int none = -1;
    list_tensors(&r->engine, r->setup->run.dir, true, &t);
    t.setup = r->setup;
    t.world = r->world;
    lmoe_status status = LMOE_OK;
    if (r->rank == 0) status = write_checkpoint(r, &t);
    if (status == LMOE_OK && r->world) status = r->rank == 0 ? agree(&t, &none) : serve_parts(&t);
    free_tensors(&t);
    r->saved = status == LMOE_OK;
    return status;
}

static double number(const json_t *state, const char *key, double missing)
{
    const json_t *x = json_object_get(state, key);
    return json_is_number(x) ? json_number_value(x) : missing;
}

static lmoe_status check_seed(lmoe__rank *r, const lmoe__ckpt *c)
{
    double seed = number(lmoe__ckpt_state(c), "seed", -1);
    if (seed == (double)r->setup->run.seed) return LMOE_OK;
    return lmoe_error(&r->ctx, LMOE_E_CONFIG,
                      "%s was made with [run] seed = %.0f, this run says %lld; set the seed back, "
                      "take another dir, or say resume = no",
                      lmoe__ckpt_path(c), seed, (long long)r->setup->run.seed);
}

static void take_state(lmoe__rank *r, const lmoe__ckpt *c)
{
    const json_t *state = lmoe__ckpt_state(c);
    const char *line = json_string_value(json_object_get(state, "owes_eval"));
    r->done = lmoe__ckpt_step(c);
    r->tokens = number(state, "tokens", 0);
    r->best_val = number(state, "best_val_loss", NAN);
    r->owes_eval = line != NULL;
    if (line) lmoe__text_add(&r->report.line, "%s", line);
    r->saved = true;
}

lmoe_status lmoe__state_resume(lmoe__rank *r)
{
    lmoe__ckpt *c = NULL;
    tensors t;
    list_tensors(&r->engine, r->setup->run.dir, true, &t);
    lmoe_status status = lmoe__ckpt_newest(&r->ctx, t.folder, &c);
    if (c) {
        status = check_seed(r, c);
        if (status == LMOE_OK)
            status = lmoe__ckpt_load(&r->ctx, c, t.list, t.count, write_tensor, &t);
        if (status == LMOE_OK) take_state(r, c);
    }
    lmoe__ckpt_close(c);
    free_tensors(&t);
    return status;
}

lmoe_status lmoe__state_load_weights(lmoe__engine *e, const char *dir, int64_t *step)
{
    lmoe__ckpt *c = NULL;
    tensors t;
    list_tensors(e, dir, false, &t);
    lmoe_status status = lmoe__ckpt_newest(e->ctx, t.folder, &c);
    if (status == LMOE_OK && !c)
        status = lmoe_error(
            e->ctx, LMOE_E_CONFIG,
            "there is no checkpoint in '%s'; train first (lmoe train), or set run.dir", t.folder);
    if (status == LMOE_OK) status = lmoe__ckpt_load(e->ctx, c, t.list, t.count, write_tensor, &t);
    if (status == LMOE_OK) *step = lmoe__ckpt_step(c);
    lmoe__ckpt_close(c);
    free_tensors(&t);
    return status;
}
