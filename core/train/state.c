/* SPDX-License-Identifier: Apache-2.0
 * core/train/state.c: a run's state in checkpoints: weights, optimiser states, step, best loss.
 *
 * What a step draws on is a function of (seed, step), so nothing else is needed to go on bit for
 * bit. Every rank holds everything under the strategies so far; rank 0 writes, all read.
 */
#include "core/train/train.h"

#include "core/ckpt/ckpt.h"

#include <math.h>
#include <stdlib.h>

typedef struct tensors {
    lmoe__engine *engine;
    lmoe__ckpt_tensor *list;
    int count;
} tensors;

static void add(tensors *t, const char *prefix, const lmoe__weight *w, lmoe__ckpt_kind kind)
{
    lmoe__ckpt_tensor *x = &t->list[t->count];
    x->name = lmoe__arena_printf(t->engine->arena, "%s%s", prefix, w->name);
    lmoe__buffer *b = lmoe__store_find(&t->engine->store, x->name);
    if (!b) return;
    x->desc = b->desc;
    x->kind = kind;
    t->count++;
}

static void list_tensors(lmoe__engine *e, bool optimiser, tensors *t)
{
    *t = (tensors){.engine = e};
    t->list = LMOE_NEW_N(e->arena, lmoe__ckpt_tensor, 3 * e->n_weights + 1);
    for (int i = 0; i < e->n_weights; i++) add(t, "", &e->weights[i], LMOE__CKPT_MODEL);
    for (int i = 0; optimiser && i < e->n_weights; i++) {
        add(t, "adam_m:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
        add(t, "adam_v:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
    }
}

static lmoe_status read_tensor(void *user, int index, void *host)
{
    tensors *t = user;
    lmoe__buffer *b = lmoe__store_find(&t->engine->store, t->list[index].name);
    return t->engine->device->download(t->engine->dev, host, b->data,
                                       (size_t)lmoe_desc_bytes(&b->desc));
}

static lmoe_status write_tensor(void *user, int index, void *host)
{
    tensors *t = user;
    lmoe__buffer *b = lmoe__store_find(&t->engine->store, t->list[index].name);
    return t->engine->device->upload(t->engine->dev, b->data, host,
                                     (size_t)lmoe_desc_bytes(&b->desc));
}

static const char *folder_of(lmoe__engine *e, const char *dir)
{
    return lmoe__arena_printf(e->arena, "%s/checkpoints", dir);
}

static lmoe_status save(lmoe__rank *r)
{
    const lmoe__run_options *run = &r->setup->run;
    tensors t;
    char *config = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&config, &size);
    lmoe__conf_show(r->setup->conf, f);
    fclose(f);
    list_tensors(&r->engine, true, &t);
    json_t *state = json_pack("{s:I, s:f, s:I}", "step", (json_int_t)r->done, "tokens", r->tokens,
                              "seed", (json_int_t)run->seed);
    if (isfinite(r->best_val)) json_object_set_new(state, "best_val_loss", json_real(r->best_val));
    const lmoe__ckpt_options o = {.folder = folder_of(&r->engine, run->dir),
                                  .step = r->done,
                                  .tensors = t.list,
                                  .count = t.count,
                                  .read = read_tensor,
                                  .user = &t,
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
    if (r->rank == 0) LMOE_TRY(save(r));
    r->saved = true;
    return LMOE_OK;
}

static double number(const json_t *state, const char *key, double missing)
{
    const json_t *x = json_object_get(state, key);
    return json_is_number(x) ? json_number_value(x) : missing;
}

lmoe_status lmoe__state_resume(lmoe__rank *r)
{
    const lmoe__run_options *run = &r->setup->run;
    lmoe__ckpt *c = NULL;
    tensors t;
    LMOE_TRY(lmoe__ckpt_newest(&r->ctx, folder_of(&r->engine, run->dir), &c));
    if (!c) return LMOE_OK;
    const json_t *state = lmoe__ckpt_state(c);
    lmoe_status status = LMOE_OK;
    double seed = number(state, "seed", -1);
    if (seed != (double)run->seed)
        status = lmoe_error(&r->ctx, LMOE_E_CONFIG,
                            "%s was made with [run] seed = %.0f, this run says %lld; set the seed "
                            "back, take another "
                            "dir, or say resume = no",
                            lmoe__ckpt_path(c), seed, (long long)run->seed);
    list_tensors(&r->engine, true, &t);
    if (status == LMOE_OK) status = lmoe__ckpt_load(&r->ctx, c, t.list, t.count, write_tensor, &t);
    if (status == LMOE_OK) {
        r->done = lmoe__ckpt_step(c);
        r->tokens = number(state, "tokens", 0);
        r->best_val = number(state, "best_val_loss", NAN);
        r->saved = true;
    }
    lmoe__ckpt_close(c);
    return status;
}

lmoe_status lmoe__state_load_weights(lmoe__engine *e, const char *dir, int64_t *step)
{
    lmoe__ckpt *c = NULL;
    tensors t;
    LMOE_TRY(lmoe__ckpt_newest(e->ctx, folder_of(e, dir), &c));
    if (!c)
        return lmoe_error(
            e->ctx, LMOE_E_CONFIG,
            "there is no checkpoint in '%s/checkpoints'; train first (lmoe train), or set run.dir",
            dir);
    list_tensors(e, false, &t);
    lmoe_status status = lmoe__ckpt_load(e->ctx, c, t.list, t.count, write_tensor, &t);
    *step = lmoe__ckpt_step(c);
    lmoe__ckpt_close(c);
    return status;
}
