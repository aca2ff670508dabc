/* SPDX-License-Identifier: Apache-2.0
 * core/check/build.c: group build: what a layer or router declares and records when a model is
 * traced. A trace is made often (for each shape and program, on each rank), and all must agree.
 */
#include "core/check/lab.h"

#include <ctype.h>
#include <math.h>

#define KINDS LMOE_KIND_LAYER " " LMOE_KIND_ROUTER

static bool is_router(const lmoe__exam *x)
{
    return strcmp(x->class->kind, LMOE_KIND_ROUTER) == 0;
}

/* ---- traces ---- */

/* Records the class alone, with gradients if `shape` has a loss. */
static lmoe_status record(lmoe__exam *x, const lmoe__form *f, const lmoe__model_shape *shape,
                          lmoe_trace *t)
{
    static const int layers[LMOE__LAB_LAYERS] = {0, 1};
    const lmoe__layer_shape s = {
        .shape = *shape, .layers = layers, .count = is_router(x) ? 1 : LMOE__LAB_LAYERS};
    lmoe__trace_init(t, x->ctx, &f->model.ops, LMOE_F32);
    return lmoe__layer_trace(t, &f->model, &s);
}

static const lmoe__model_shape training = {.batch = 2, .seq = 6, .loss = true, .training = true};

static bool same_desc(const lmoe_desc *a, const lmoe_desc *b)
{
    if (a->dtype != b->dtype || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++) {
        if (a->dim[i] != b->dim[i] || strcmp(a->axis[i], b->axis[i]) != 0) return false;
    }
    return true;
}

static bool same_weight(const lmoe__weight *a, const lmoe__weight *b)
{
    return strcmp(a->name, b->name) == 0 && same_desc(&a->desc, &b->desc) && a->init == b->init &&
           a->a == b->a && a->b == b->b && a->c == b->c && a->flags == b->flags;
}

/* Attributes by their table: the padding of a struct may hold anything. */
static bool same_attrs(lmoe__arena *a, const lmoe_op *op, const void *x, const void *y)
{
    for (const lmoe_option *o = op->base.options; o && o->name; o++) {
        if (strcmp(lmoe__option_to_text(o, x, a), lmoe__option_to_text(o, y, a)) != 0) return false;
    }
    return true;
}

static bool same_node(lmoe__arena *arena, const lmoe__node *a, const lmoe__node *b)
{
    if (a->op != b->op || a->n_in != b->n_in || a->n_out != b->n_out) return false;
    if (memcmp(a->in, b->in, sizeof *a->in * (size_t)a->n_in) != 0) return false;
    return same_attrs(arena, a->op, a->attrs, b->attrs);
}

/* Weights that do not depend on the shape or the mode must be the same in every trace. */
static void compare_weights(lmoe__exam *x, const lmoe_trace *a, const lmoe_trace *b,
                            const char *what)
{
    if (a->n_weights != b->n_weights)
        lmoe__check_fail(x, "%s it declares %d parameters, and %d before", what, b->n_weights,
                         a->n_weights);
    for (int i = 0; i < a->n_weights && i < b->n_weights; i++) {
        if (!same_weight(&a->weights[i], &b->weights[i]))
            lmoe__check_fail(x, "%s parameter %d is another one: '%s', and '%s' before", what, i,
                             b->weights[i].name, a->weights[i].name);
    }
}

static void repeat(lmoe__exam *x)
{
    lmoe__form f;
    lmoe_trace a, b;
    char where[200];
    if (!lmoe__form_make(x, 0, &f)) return;
    bool first = lmoe__check_ok(x, record(x, &f, &training, &a), "recording it");
    bool second = lmoe__check_ok(x, record(x, &f, &training, &b), "recording it again");
    if (first && second) {
        compare_weights(x, &a, &b, "a second time");
        const lmoe__graph *g = a.graph, *h = b.graph;
        for (int i = 0; i < g->n_nodes && i < h->n_nodes && !lmoe__check_failed(x); i++) {
            if (same_node(x->arena, &g->nodes[i], &h->nodes[i])) continue;
            lmoe__check_fail(x, "a second time op %d is another one: %s, and %s before (%s)", i,
                             h->nodes[i].op->base.name, g->nodes[i].op->base.name,
                             lmoe__node_where(&g->nodes[i], where, sizeof where));
        }
        if (g->n_nodes != h->n_nodes)
            lmoe__check_fail(x, "a second time it records %d ops, and %d before", h->n_nodes,
                             g->n_nodes);
        lmoe__check_note(x, "%d parameters, %d ops", a.n_weights, g->n_nodes);
    }
    lmoe__trace_free(&a);
    lmoe__trace_free(&b);
}

/* Every mode in which a model is traced: the same parameters. */
static void modes(lmoe__exam *x)
{
    static const struct {
        const char *what;
        lmoe__model_shape shape;
    } list[] = {
        {"in evaluation", {.batch = 3, .seq = 5}},
        {"with one token", {.batch = 1, .seq = 1, .loss = true, .training = true}},
        {"with packed documents",
         {.batch = 2, .seq = 9, .loss = true, .training = true, .resets = true}},
        {"in a prefill",
         {.batch = 2, .seq = 7, .generating = true, .carries = true, .skips = true, .context = 32}},
        {"in decoding", {.batch = 2, .seq = 1, .generating = true, .carries = true, .context = 32}},
    };
    lmoe__form f;
    lmoe_trace a, b;
    if (!lmoe__form_make(x, 0, &f)) return;
    if (lmoe__check_ok(x, record(x, &f, &training, &a), "in training")) {
        for (size_t i = 0; i < sizeof list / sizeof *list && !lmoe__check_failed(x); i++) {
            lmoe__check_case(x, "%s", list[i].what);
            if (lmoe__check_ok(x, record(x, &f, &list[i].shape, &b), list[i].what))
                compare_weights(x, &a, &b, list[i].what);
            lmoe__trace_free(&b);
        }
    }
    lmoe__trace_free(&a);
}

/* ---- what is declared ---- */

static bool is_word(const char *text)
{
    if (!islower((unsigned char)*text)) return false;
    for (; *text; text++) {
        if (!islower((unsigned char)*text) && !isdigit((unsigned char)*text) && *text != '_')
            return false;
    }
    return true;
}

/* "q_proj.weight": printable, no blanks, no leading point; what a checkpoint calls it. */
static bool is_parameter_name(const char *text)
{
    for (const char *p = text; *p; p++) {
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p)) return false;
    }
    return *text && *text != '.';
}

static void declared(lmoe__exam *x)
{
    lmoe__form f;
    lmoe_trace t;
    if (!lmoe__form_make(x, 0, &f)) return;
    if (lmoe__check_ok(x, record(x, &f, &training, &t), "recording it")) {
        for (int i = 0; i < t.n_weights; i++) {
            const lmoe__weight *w = &t.weights[i];
            for (int k = 0; k < w->desc.rank; k++) {
                if (!is_word(w->desc.axis[k]))
                    lmoe__check_fail(x,
                                     "axis %d of the parameter '%s' is called '%s'; names are "
                                     "lower case words, such as embed or head_k",
                                     k, w->name, w->desc.axis[k]);
            }
            const char *own = strncmp(w->name, "model.", 6) == 0 ? strrchr(w->name, '/') : NULL;
            if (!is_parameter_name(own ? own + 1 : w->name))
                lmoe__check_fail(x,
                                 "the parameter '%s' has a name with other signs than letters, "
                                 "digits, '_', '-' and '.'",
                                 w->name);
            bool state = (w->flags & LMOE_PARAM_STATE) != 0;
            if (state && !is_router(x))
                lmoe__check_fail(x, "the parameter '%s' is a state; only routers have them",
                                 w->name);
        }
    }
    lmoe__trace_free(&t);
}

/* ---- initial values ---- */

/* Mean and deviation of a uniform or normal start must be those that were declared: the host draws
 * them, so what can be wrong is the declaration. */
static void check_initial(lmoe__exam *x, const lmoe__form *f, const lmoe__weight *w)
{
    lmoe__weight wide = *w;
    wide.desc.dtype = LMOE_F64;
    int64_t n = lmoe_desc_count(&w->desc);
    double *value = LMOE_NEW_N(x->arena, double, n), largest = 0;
    lmoe__check_case(x, "parameter '%s'", w->name);
    lmoe__weight_init(x->ctx, &f->model, &wide, x->seed, 0, n, value);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(value[i])) {
            lmoe__check_fail(x, "the initial value of '%s' is %g at element %lld", w->name,
                             value[i], (long long)i);
            return;
        }
        largest = fmax(largest, fabs(value[i]));
    }
    if (largest > 1e4) lmoe__check_fail(x, "the initial values of '%s' reach %g", w->name, largest);
    if (w->init == LMOE_INIT_UNIFORM && w->b < w->a)
        lmoe__check_fail(x, "the initial values of '%s' are uniform from %g to %g", w->name, w->a,
                         w->b);
    if (w->init == LMOE_INIT_NORMAL && w->b < 0)
        lmoe__check_fail(x, "the initial deviation of '%s' is %g", w->name, w->b);
}

static void initial(lmoe__exam *x)
{
    lmoe__form f;
    lmoe_trace t;
    if (!lmoe__form_make(x, 0, &f)) return;
    if (lmoe__check_ok(x, record(x, &f, &training, &t), "recording it")) {
        for (int i = 0; i < t.n_weights && !lmoe__check_failed(x); i++)
            check_initial(x, &f, &t.weights[i]);
    }
    lmoe__trace_free(&t);
}

/* ---- what goes wrong ---- */

/* One trace with sizes or options that need not fit: a success, or one sentence that says whose. */
static void survive(lmoe__exam *x, const lmoe__form *f, int *refused)
{
    lmoe_trace t;
    lmoe_status status = record(x, f, &training, &t);
    if (status != LMOE_OK) {
        ++*refused;
        if (!x->ctx->message[0])
            lmoe__check_fail(x, "it fails without a message; use lmoe_fail");
        else if (strstr(x->ctx->message, "without a message"))
            lmoe__check_fail(x, "params() fails without a message; use lmoe_fail");
        else if (!strstr(x->ctx->message, x->class->name))
            lmoe__check_fail(x, "its failure does not say whose it is: %s", x->ctx->message);
    }
    lmoe__ctx_clear(x->ctx);
    lmoe__trace_free(&t);
}

static void errors(lmoe__exam *x)
{
    static const int64_t widths[] = {1, 2, 3, 7, 10, 24, 97};
    static const int64_t experts[] = {1, 2, 3, 7};
    lmoe__form f;
    int refused = 0;
    if (!lmoe__form_make(x, 0, &f)) return;
    for (size_t i = 0; i < sizeof widths / sizeof *widths && !lmoe__check_failed(x); i++) {
        f.model.o.embed = widths[i];
        lmoe__check_case(x, "embed = %d", (int)widths[i]);
        survive(x, &f, &refused);
    }
    for (size_t i = 0; is_router(x) && i < sizeof experts / sizeof *experts; i++) {
        for (int64_t k = 1; k <= experts[i] && !lmoe__check_failed(x); k++) {
            f.model.o.embed = 16;
            f.model.ffn.experts = experts[i];
            f.model.ffn.top_k = k;
            lmoe__check_case(x, "%d experts, top_k = %d", (int)experts[i], (int)k);
            survive(x, &f, &refused);
        }
    }
    lmoe__check_note(x, "%lld cases, %d refused", (long long)x->verdict->cases, refused);
}

/* Each option alone at the ends of its range and at each of its choices. */
static void options(lmoe__exam *x)
{
    lmoe__form f;
    int refused = 0;
    if (!lmoe__form_make(x, 0, &f)) return;
    void *chosen = is_router(x) ? f.model.router_options : f.model.mixers[0].options;
    void *copy = lmoe__arena_alloc(x->arena, x->class->options_size + 1);
    for (const lmoe_option *o = x->class->options; o && o->name; o++) {
        const char *words = o->type == LMOE_OPTION_BOOL ? "yes no" : o->choices ? o->choices : "";
        char word[256], assignment[400];
        for (int n, i = 0; i < 16; i++) {
            if (o->type == LMOE_OPTION_INT || o->type == LMOE_OPTION_FLOAT) {
                static const double ends[] = {0, 1, 2, 3};
                bool limited = o->min != 0 || o->max != 0;
                if (i == 4) break;
                snprintf(word, sizeof word, "%.0f", ends[i] + (limited ? ceil(o->min) : 0));
            } else if (sscanf(words, " %255s%n", word, &n) != 1) {
                break;
            } else {
                words += n;
            }
            snprintf(assignment, sizeof assignment, "%s=%s", o->name, word);
            memcpy(copy, chosen, x->class->options_size);
            if (lmoe__options_parse_one(x->ctx, x->class->name, x->class->options, assignment, copy,
                                        x->arena) != LMOE_OK) {
                lmoe__ctx_clear(x->ctx);
                continue;
            }
            lmoe__check_case(x, "%s", assignment);
            if (is_router(x))
                f.model.router_options = copy;
            else
                f.model.mixers[0].options = copy;
            survive(x, &f, &refused);
            if (lmoe__check_failed(x)) return;
        }
    }
    lmoe__check_note(x, "%lld values, %d refused", (long long)x->verdict->cases, refused);
}

/* ---- state of its own ---- */

/* Two models side by side: params() of both, then forward() of both. Whoever keeps handles or sizes
 * in static variables mixes them up. */
static void apart(lmoe__exam *x)
{
    const lmoe_layer *layer = (const lmoe_layer *)(const void *)x->class;
    lmoe_trace t[2];
    void *params[2];
    lmoe_tensor in[2];
    lmoe__form f;
    if (!lmoe__form_make(x, 0, &f)) return;
    const void *chosen = f.model.mixers[0].options;
    for (int i = 0; i < 2; i++) {
        /* the traces' handles differ: the second enters more values first */
        const int64_t dim[3] = {2, 5, f.model.o.embed};
        lmoe__trace_init(&t[i], x->ctx, &f.model.ops, LMOE_F32);
        const char *const sizes[] = {"embed", "layers", "vocab", "batch", "seq", "training"};
        const int64_t values[] = {f.model.o.embed, LMOE__LAB_LAYERS, 64, 2, 5, 1};
        for (int k = 0; k < 6; k++) lmoe__trace_set_size(&t[i], sizes[k], values[k]);
        for (int k = LMOE_AMBIENT_TOKENS; k <= LMOE_AMBIENT_DOCUMENT; k++) {
            char name[32];
            snprintf(name, sizeof name, "ambient%d", k);
            t[i].ambient[k] =
                lmoe__trace_enter(&t[i], LMOE_VALUE_INPUT, name, LMOE_I32, "batch seq", dim).id;
        }
        for (int k = 0; k < 3 * i; k++)
            lmoe__trace_enter(&t[i], LMOE_VALUE_INPUT, "more", LMOE_F32, "batch seq embed", dim);
        in[i] =
            lmoe__trace_enter(&t[i], LMOE_VALUE_INPUT, "in:x", LMOE_F32, "batch seq embed", dim);
        t[i].layer = 0;
        t[i].class_name = x->class->name;
        params[i] = lmoe__arena_alloc(x->arena, layer->params_size + 1);
        lmoe__check_ok(x, layer->params(&t[i], chosen, params[i]), "params()");
    }
    int nodes[2] = {0, 0};
    for (int i = 1; i >= 0 && !lmoe__check_failed(x); i--) {
        lmoe_tensor y = layer->forward(&t[i], chosen, params[i], in[i]);
        lmoe__check_ok(x, lmoe__trace_status(&t[i]), "forward()");
        nodes[i] = y.id > 0 ? t[i].graph->n_nodes : 0;
    }
    for (int k = 0; !lmoe__check_failed(x) && k < nodes[0] && k < nodes[1]; k++) {
        const lmoe__node *a = &t[0].graph->nodes[k], *b = &t[1].graph->nodes[k];
        bool same = a->op == b->op && a->n_in == b->n_in;
        for (int i = 0; same && i < a->n_in;
             i++) /* later handles are higher by the 3 more values */
            same = a->in[i] == b->in[i] || a->in[i] + 3 == b->in[i];
        if (!same)
            lmoe__check_fail(x,
                             "with two models side by side, op %d of the second (%s) reads other "
                             "operands than that of the first: keep nothing in static variables",
                             k, b->op->base.name);
    }
    lmoe__trace_free(&t[0]);
    lmoe__trace_free(&t[1]);
}

const lmoe__check lmoe__checks_build[] = {
    {"build", "repeat", "two traces declare the same parameters and record the same ops", KINDS,
     LMOE__QUICK, 30, repeat, 0},
    {"build", "modes",
     "training, evaluation, packing, prefill and decoding have the same parameters", KINDS,
     LMOE__QUICK, 30, modes, 0},
    {"build", "declared", "parameters and axes have names of the field's kind", KINDS, LMOE__QUICK,
     30, declared, 0},
    {"build", "initial", "initial values are finite and drawn from a range that exists", KINDS,
     LMOE__QUICK, 30, initial, 0},
    {"build", "errors", "sizes that do not fit are refused with a sentence that names the class",
     KINDS, LMOE__QUICK, 30, errors, 0},
    {"build", "options", "each value of each option works, or is refused with a sentence", KINDS,
     LMOE__QUICK, 60, options, 0},
    {"build", "apart", "two models may be traced side by side", LMOE_KIND_LAYER, LMOE__QUICK, 30,
     apart, 0},
    {0},
};
