/* SPDX-License-Identifier: Apache-2.0
 * core/check/form.c: finds small sizes and options that a class takes.
 *
 * Nothing is known of a class but its option table. Large whole numbers are cut down, the model is
 * widened, until the class records a forward and a backward pass; what the author set in check.ini
 * is left as it is.
 */
#include "core/check/lab.h"

#include <stdlib.h>

enum { SMALL = 8, EXPERTS = 12, HIDDEN = 12 };

static bool is_router(const lmoe__exam *x)
{
    return strcmp(x->class->kind, LMOE_KIND_ROUTER) == 0;
}

/* Ops of lmoe and of all plugins that are open, in the exam's memory. */
static lmoe__op_set all_ops(lmoe__exam *x)
{
    lmoe__op_set s, out;
    const lmoe__plugin *p;
    lmoe__op_set_init(&s);
    for (int i = 0; (p = lmoe__registry_plugin(x->registry, i)); i++) {
        for (int k = 0; k < p->n_classes; k++) {
            const lmoe_class *c = p->classes[k];
            if (strcmp(c->kind, LMOE_KIND_OP) == 0 && !lmoe__op_find(&s, c->name))
                LMOE_PUSH(s.ops, s.count, s.capacity, (const lmoe_op *)c);
        }
    }
    out = s;
    out.ops = LMOE_NEW_N(x->arena, const lmoe_op *, s.count + 1);
    memcpy(out.ops, s.ops, sizeof *s.ops * (size_t)s.count);
    lmoe__op_set_free(&s);
    return out;
}

static bool is_default(lmoe__exam *x, const lmoe_option *o, const void *options)
{
    void *initial = lmoe__arena_alloc(x->arena, x->class->options_size + 1);
    lmoe__options_default(x->class->options, initial, x->arena);
    return strcmp(lmoe__option_to_text(o, options, x->arena),
                  lmoe__option_to_text(o, initial, x->arena)) == 0;
}

/* Whether the class records its passes with these options. */
static bool takes(lmoe__exam *x, const lmoe__form *f, lmoe_ctx *why)
{
    static const int layers[LMOE__LAB_LAYERS] = {0, 1};
    lmoe_trace t;
    const lmoe__layer_shape s = {.shape = {.batch = 2, .seq = 5, .loss = true, .training = true},
                                 .layers = layers,
                                 .count = is_router(x) ? 1 : LMOE__LAB_LAYERS};
    lmoe__ctx_init(why);
    lmoe__trace_init(&t, why, &f->model.ops, LMOE_F64);
    lmoe_status status = lmoe__layer_trace(&t, &f->model, &s);
    lmoe__trace_free(&t);
    return status == LMOE_OK;
}

static void set_options(lmoe__form *f, void *options, bool router)
{
    if (router) {
        f->model.router_options = options;
    } else {
        f->model.mixers[0].options = options;
    }
}

static void empty_model(lmoe__exam *x, lmoe__form *f)
{
    lmoe__model *m = &f->model;
    memset(f, 0, sizeof *f);
    m->arena = x->arena;
    m->ops = all_ops(x);
    m->o = (lmoe__model_options){.vocab_size = 64,
                                 .embed = 16,
                                 .layers = LMOE__LAB_LAYERS,
                                 .pattern = "L",
                                 .tie_embeddings = 1,
                                 .norm_eps = 1e-6,
                                 .init_std = 0.3};
    if (is_router(x)) {
        m->ffn = (lmoe__ffn_options){
            .kind = LMOE__FFN_MOE, .hidden = HIDDEN, .experts = EXPERTS, .top_k = 2};
        m->ffn.router = x->class->name;
        m->router = (const lmoe_router *)(const void *)x->class;
    } else {
        m->ffn.kind = LMOE__FFN_NONE;
        m->n_mixers = 1;
        m->mixers[0] = (lmoe__mixer){'L', (const lmoe_layer *)(const void *)x->class, NULL};
    }
}

/* Options that must be given get the least that they may be; with `cut`, large numbers become small
 * ones. */
static void *small_options(lmoe__exam *x, bool cut)
{
    const lmoe_class *c = x->class;
    void *options = lmoe__arena_alloc(x->arena, c->options_size + 1);
    if (c->options_size) memcpy(options, x->options, c->options_size);
    for (const lmoe_option *o = c->options; o && o->name; o++) {
        int64_t *n = (int64_t *)((char *)options + o->offset);
        bool limited = o->min != 0 || o->max != 0;
        if (o->type != LMOE_OPTION_INT) continue;
        if (!o->initial && *n == 0) *n = limited && o->min > 2 ? (int64_t)o->min : 2;
        if (!cut || *n <= SMALL || (o->initial && !is_default(x, o, options))) continue;
        *n = limited && o->min > SMALL ? (int64_t)o->min : SMALL;
    }
    return options;
}

/* Flags and choices by chance; strengths that are 0 (of a loss, of noise) may become 0.1. */
static void draw_options(lmoe__exam *x, int number, void *options)
{
    uint64_t at = 0;
    for (const lmoe_option *o = x->class->options; o && o->name; o++) {
        int32_t *value = (int32_t *)((char *)options + o->offset);
        uint64_t words = 1;
        double *strength = (double *)((char *)options + o->offset);
        if (o->type == LMOE_OPTION_FLOAT && *strength == 0 && o->min <= 0.1 && o->max >= 0.1 &&
            lmoe__below(x->seed, (uint64_t)number, at++, 2))
            *strength = 0.1;
        if (o->type != LMOE_OPTION_BOOL && o->type != LMOE_OPTION_ENUM) continue;
        for (const char *s = o->choices; s && *s; s++) words += *s == ' ' && s[1] != ' ' && s[1];
        if (o->type == LMOE_OPTION_BOOL) words = 2;
        /* half of them stay as they are */
        if (lmoe__below(x->seed, (uint64_t)number, at++, 2) == 0) continue;
        *value = (int32_t)lmoe__below(x->seed, (uint64_t)number, at++, words);
    }
}

static const char *describe(lmoe__exam *x, const lmoe__form *f, const void *options)
{
    const char *s = lmoe__arena_printf(x->arena, "embed %d", (int)f->model.o.embed);
    if (is_router(x))
        s = lmoe__arena_printf(x->arena, "%s, %d experts, top_k %d", s, EXPERTS,
                               (int)f->model.ffn.top_k);
    for (const lmoe_option *o = x->class->options; o && o->name; o++) {
        if (o->initial && is_default(x, o, options)) continue;
        s = lmoe__arena_printf(x->arena, "%s, %s = %s", s, o->name,
                               lmoe__option_to_text(o, options, x->arena));
    }
    return s;
}

bool lmoe__form_make(lmoe__exam *x, int number, lmoe__form *f)
{
    static const int64_t widths[] = {16, 32, 64, 128, 256, 512, 1024};
    enum { WIDTHS = sizeof widths / sizeof *widths };
    lmoe_ctx why, first;
    bool router = is_router(x);
    lmoe__ctx_init(&first);
    empty_model(x, f);
    for (int i = 0; i < 4 * WIDTHS; i++) {
        void *options = small_options(x, i < 2 * WIDTHS);
        if (number > 0) draw_options(x, number, options);
        set_options(f, options, router);
        f->model.o.embed = widths[i / 2 % WIDTHS];
        f->model.ffn.top_k = i % 2 ? 1 : 2; /* some routers choose one */
        if (i % 2 && !router) continue;
        if (takes(x, f, &why)) {
            f->text = describe(x, f, options);
            return true;
        }
        if (first.status == LMOE_OK) first = why;
    }
    if (number == 0)
        lmoe__check_fail(x,
                         "no sizes were found that the class takes; with its defaults it says: %s; "
                         "name some in a check.ini beside the plugin",
                         first.message);
    return false;
}
