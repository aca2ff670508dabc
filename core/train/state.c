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
    lmoe__arena *arena; /* of what follows */
    const char *folder; /* of the run's checkpoints */
    lmoe__ckpt_tensor *list;
    int count;
} tensors;

static void add(tensors *t, const char *prefix, const lmoe__weight *w, lmoe__ckpt_kind kind)
{
    lmoe__ckpt_tensor *x = &t->list[t->count];
    x->name = lmoe__arena_printf(t->arena, "%s%s", prefix, w->name);
    lmoe__buffer *b = lmoe__store_find(&t->engine->store, x->name);
    if (!b) return;
    x->desc = b->desc;
    x->kind = kind;
    t->count++;
}

/* Free t->arena afterwards. */
static void list_tensors(lmoe__engine *e, const char *dir, bool optimiser, tensors *t)
{
    *t = (tensors){.engine = e, .arena = lmoe__arena_new()};
    t->folder = lmoe__arena_printf(t->arena, "%s/checkpoints", dir);
    t->list = LMOE_NEW_N(t->arena, lmoe__ckpt_tensor, 4 * e->n_weights + 1);
    for (int i = 0; i < e->n_weights; i++) add(t, "", &e->weights[i], LMOE__CKPT_MODEL);
    for (int i = 0; optimiser && i < e->n_weights; i++) {
        add(t, "adam_m:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
        add(t, "adam_v:", &e->weights[i], LMOE__CKPT_OPTIMIZER);
        add(t, "master:", &e->weights[i], LMOE__CKPT_OPTIMIZER); /* if there is one */
    }
}

static char *place(tensors *t, int index, size_t at)
{
    return (char *)lmoe__store_find(&t->engine->store, t->list[index].name)->data + at;
}

static lmoe_status read_tensor(void *user, int index, size_t at, void *host, size_t n)
{
    const lmoe__engine *e = ((tensors *)user)->engine;
    return e->device->download(e->dev, host, place(user, index, at), n);
}

static lmoe_status write_tensor(void *user, int index, size_t at, void *host, size_t n)
{
    const lmoe__engine *e = ((tensors *)user)->engine;
    return e->device->upload(e->dev, place(user, index, at), host, n);
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
    list_tensors(&r->engine, run->dir, true, &t);
    json_t *state = json_pack("{s:I, s:f, s:I}", "step", (json_int_t)r->done, "tokens", r->tokens,
                              "seed", (json_int_t)run->seed);
    if (isfinite(r->best_val)) json_object_set_new(state, "best_val_loss", json_real(r->best_val));
    if (r->owes_eval) json_object_set_new(state, "owes_eval", json_string(r->report.line.data));
    const lmoe__ckpt_options o = {.folder = t.folder,
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
    lmoe__arena_free(t.arena);
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
    lmoe__arena_free(t.arena);
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
    lmoe__arena_free(t.arena);
    return status;
}
