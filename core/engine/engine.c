/* SPDX-License-Identifier: Apache-2.0
 * core/engine/engine.c: makes programs and runs them.
 */
#include "core/engine/engine.h"

#include "core/op/op.h"

#include <stdlib.h>

enum { INIT_PIECE = 1 << 20 };

lmoe_status lmoe__engine_init(lmoe__engine *e, lmoe_ctx *ctx, const lmoe__model *model,
                              const lmoe__mesh *mesh, const lmoe_device *device, void *dev,
                              lmoe_dtype dtype)
{
    memset(e, 0, sizeof *e);
    e->ctx = ctx;
    e->model = model;
    if (mesh) e->mesh = *mesh;
    e->pipe_axis = -1;
    for (int i = 0; i < e->mesh.count; i++) {
        if (e->mesh.axis[i].strategy->stages && e->mesh.axis[i].ranks > 1) e->pipe_axis = i;
    }
    e->device = device;
    e->dev = dev;
    e->dtype = dtype;
    e->arena = lmoe__arena_new();
    lmoe__store_init(&e->store, ctx, device, dev);
    e->store.sizes_only = dev == NULL;
    return LMOE_OK;
}

void lmoe__engine_free(lmoe__engine *e)
{
    while (e->n_programs) lmoe__engine_drop(e, e->programs[e->n_programs - 1]);
    free(e->programs);
    free(e->held);
    if (!e->store.sizes_only) {
        e->device->free(e->dev, e->activations);
        e->device->free(e->dev, e->workspace);
    }
    lmoe__store_free(&e->store);
    free(e->scratch);
    lmoe__arena_free(e->arena);
    memset(e, 0, sizeof *e);
}

/* ---- making programs ---- */

void lmoe__engine_remember_weights(lmoe__engine *e, const lmoe_trace *t)
{
    if (e->weights) return;
    e->n_weights = t->n_weights;
    e->weights = LMOE_NEW_N(e->arena, lmoe__weight, t->n_weights + 1);
    for (int i = 0; i < t->n_weights; i++) {
        lmoe__weight *w = &e->weights[i];
        *w = t->weights[i];
        w->name = lmoe__arena_strdup(e->arena, w->name);
        for (int d = 0; d < w->desc.rank; d++)
            w->desc.axis[d] = lmoe__arena_strdup(e->arena, w->desc.axis[d]);
    }
    lmoe__model_count_weights(e->model, t, &e->count);
}

static lmoe__held whole_of(lmoe__arena *a, const lmoe__value *v)
{
    lmoe__held h = {.name = lmoe__arena_strdup(a, v->name), .desc = v->desc};
    for (int d = 0; d < h.desc.rank; d++) h.desc.axis[d] = lmoe__arena_strdup(a, h.desc.axis[d]);
    memset(h.split, -1, sizeof h.split);
    return h;
}

const lmoe__held *lmoe__engine_held(const lmoe__engine *e, const char *name)
{
    for (int i = 0; i < e->n_held; i++) {
        if (strcmp(e->held[i].name, name) == 0) return &e->held[i];
    }
    return NULL;
}

/* What enters, with its global shape, before strategies cut it. */
static void list_held(lmoe__engine *e, lmoe__program *p)
{
    const lmoe__graph *g = p->graph;
    p->inputs = LMOE_NEW_N(e->arena, lmoe__held, g->n_values);
    for (int v = 1; v < g->n_values; v++) {
        if (!g->values[v].name) continue;
        if (g->values[v].kind == LMOE_VALUE_INPUT)
            p->inputs[p->n_inputs++] = whole_of(e->arena, &g->values[v]);
        else if (!lmoe__engine_held(e, g->values[v].name))
            LMOE_PUSH(e->held, e->n_held, e->cap_held, whole_of(e->arena, &g->values[v]));
    }
}

static void note_layouts(lmoe__held *held, int n_held, int axis, const lmoe__layout *layouts, int n)
{
    for (int i = 0; i < n_held; i++) {
        for (int k = 0; k < n; k++) {
            if (layouts[k].place.kind == LMOE_SPLIT && strcmp(layouts[k].name, held[i].name) == 0)
                held[i].split[axis] = (signed char)layouts[k].place.dim;
        }
    }
}

/* Strategies, outermost first; the graph is replaced by this rank's. A pipeline splits no values. */
static lmoe_status apply_mesh(lmoe__engine *e, lmoe__program *p)
{
    for (int i = 0; i < e->mesh.count; i++) {
        lmoe__graph *split = NULL;
        lmoe__layout *layouts = NULL;
        int n = 0;
        if (e->mesh.axis[i].ranks == 1 || i == e->pipe_axis) continue;
        LMOE_TRY(
            lmoe__split(e->ctx, &e->model->ops, p->graph, &e->mesh.axis[i], &split, &layouts, &n));
        note_layouts(p->inputs, p->n_inputs, i, layouts, n);
        note_layouts(e->held, e->n_held, i, layouts, n);
        free(layouts);
        lmoe__graph_free(p->graph);
        p->graph = split;
    }
    return LMOE_OK;
}

lmoe_status lmoe__engine_localise(lmoe__engine *e, lmoe_trace *t, lmoe__program *p)
{
    p->graph = lmoe__trace_take_graph(t);
    list_held(e, p);
    p->n_carries = t->n_carry_slots;
    p->carries = LMOE_NEW_N(e->arena, lmoe__carry_slot, t->n_carry_slots + 1);
    for (int i = 0; i < t->n_carry_slots; i++) {
        p->carries[i] = t->carry_slots[i];
        p->carries[i].name = lmoe__arena_strdup(e->arena, t->carry_slots[i].name);
    }
    return apply_mesh(e, p);
}

static void discard(lmoe__program *p)
{
    lmoe__plan_free(p->plan);
    lmoe__graph_free(p->graph);
    free(p);
}

lmoe_status lmoe__engine_lay_out(lmoe__engine *e, lmoe__program *p)
{
    lmoe_status status = lmoe__plan_new(e->ctx, p->graph, &e->store, e->mesh.comm, &p->plan);
    if (status != LMOE_OK) {
        discard(p);
        return status;
    }
    if (p->plan->arena_bytes > e->activation_bytes) e->activation_bytes = p->plan->arena_bytes;
    if (p->plan->workspace_bytes > e->workspace_bytes)
        e->workspace_bytes = p->plan->workspace_bytes;
    p->plan->eager = e->eager;
    p->plan->profile = e->profile;
    LMOE_PUSH(e->programs, e->n_programs, e->cap_programs, p);
    return LMOE_OK;
}

static lmoe_status finish(lmoe__engine *e, lmoe_trace *t, lmoe__program **out)
{
    lmoe__program *p = calloc(1, sizeof *p);
    lmoe_status status = lmoe__engine_localise(e, t, p);
    if (status != LMOE_OK) {
        discard(p);
        return status;
    }
    LMOE_TRY(lmoe__engine_lay_out(e, p));
    *out = p;
    return LMOE_OK;
}

lmoe_status lmoe__engine_program(lmoe__engine *e, lmoe__program_kind kind,
                                 const lmoe__model_shape *shape, lmoe__program **out)
{
    lmoe_trace t;
    lmoe_tensor total;
    lmoe__model_shape s = *shape;
    s.training = kind == LMOE__TRAIN_FIRST || kind == LMOE__TRAIN_NEXT;
    s.generating = kind == LMOE__GENERATE;
    s.add = kind == LMOE__TRAIN_NEXT;
    lmoe__trace_init(&t, e->ctx, &e->model->ops, e->dtype);
    lmoe_status status = lmoe__model_trace(&t, e->model, &s, &total);
    if (status == LMOE_OK) lmoe__engine_remember_weights(e, &t);
    if (status == LMOE_OK && s.training)
        status = lmoe__model_backward(&t, total, kind == LMOE__TRAIN_NEXT);
    if (status == LMOE_OK) status = finish(e, &t, out);
    lmoe__trace_free(&t);
    return status;
}

lmoe_status lmoe__engine_layer_program(lmoe__engine *e, const lmoe__layer_shape *shape,
                                       lmoe__program **out)
{
    lmoe_trace t;
    lmoe__trace_init(&t, e->ctx, &e->model->ops, e->dtype);
    lmoe_status status = lmoe__layer_trace(&t, e->model, shape);
    if (status == LMOE_OK) lmoe__engine_remember_weights(e, &t);
    if (status == LMOE_OK) status = finish(e, &t, out);
    lmoe__trace_free(&t);
    return status;
}

static lmoe_tensor enter_like(lmoe_trace *t, const char *prefix, const lmoe__weight *w,
                              lmoe_value_kind kind, lmoe_dtype dtype)
{
    char name[320];
    lmoe_desc d = w->desc;
    d.dtype = dtype;
    snprintf(name, sizeof name, "%s%s", prefix, w->name);
    return (lmoe_tensor){lmoe__graph_enter(t->graph, kind, name, &d)};
}

/* A weight's gradient; the sum over the ranks of the pipeline that have one, in rank order. */
static lmoe_tensor enter_gradient(lmoe__engine *e, lmoe_trace *t, int weight)
{
    lmoe_tensor sum = lmoe_absent();
    for (int r = 0; r < lmoe__engine_stage_ranks(e); r++) {
        char name[320];
        lmoe_desc d = e->weights[weight].desc;
        d.dtype = e->dtype;
        if (!lmoe__engine_holds(e, weight, r)) continue;
        lmoe__engine_grad_of(name, sizeof name, e, weight, r);
        lmoe_tensor part = {lmoe__graph_enter(t->graph, LMOE_VALUE_STATE, name, &d)};
        sum = sum.id ? lmoe_add(t, sum, part) : part;
    }
    return sum;
}

static lmoe_tensor sum_over_stages(lmoe__engine *e, lmoe_trace *t, lmoe_tensor x)
{
    const lmoe__mesh_axis *a = &e->mesh.axis[e->pipe_axis];
    lmoe_collective_attrs c = {.mesh = a->index, .rank = a->rank, .ranks = a->ranks};
    return lmoe_apply_at(t, NULL, 0, "all_reduce/1", &x, 1, &c, sizeof c, NULL, 0);
}

/* Which rank of the pipeline answers for a weight and its states. */
static void note_owners(lmoe__engine *e)
{
    static const char *const prefixes[] = {"", "adam_m:", "adam_v:", "master:"};
    for (int i = 0; i < 4 * e->n_weights; i++) {
        char name[320];
        snprintf(name, sizeof name, "%s%s", prefixes[i % 4], e->weights[i / 4].name);
        for (int k = 0; k < e->n_held; k++) {
            if (strcmp(e->held[k].name, name) == 0)
                e->held[k].owner[e->pipe_axis] = (signed char)lmoe__engine_owner(e, i / 4);
        }
    }
}

lmoe_status lmoe__engine_update_program(lmoe__engine *e, const lmoe__optimiser *o,
                                        lmoe__program **out)
{
    lmoe_trace t;
    const int64_t none = 1;
    lmoe__trace_init(&t, e->ctx, &e->model->ops, e->dtype);
    lmoe_dtype state = lmoe_state_dtype(&t);
    lmoe_tensor lr = lmoe__trace_enter(&t, LMOE_VALUE_INPUT, "in:lr", state, "", &none);
    lmoe_tensor step = lmoe__trace_enter(&t, LMOE_VALUE_INPUT, "in:step", state, "", &none);
    lmoe_tensor *grad = LMOE_NEW_N(t.graph->arena, lmoe_tensor, e->n_weights + 1);
    lmoe_tensor squares = lmoe_absent();
    for (int i = 0; i < e->n_weights; i++) {
        if (!lmoe__engine_holds(e, i, lmoe__engine_stage_rank(e))) continue;
        if (e->weights[i].flags & LMOE_PARAM_STATE) continue;
        grad[i] = enter_gradient(e, &t, i);
        if (lmoe__engine_owner(e, i) != lmoe__engine_stage_rank(e)) continue;
        lmoe_tensor s =
            lmoe_apply_at(&t, "gradient norm", 0, "sum_squares/1", &grad[i], 1, NULL, 0, NULL, 0);
        squares = squares.id ? lmoe_add(&t, squares, s) : s;
    }
    if (e->pipe_axis >= 0) squares = sum_over_stages(e, &t, squares);
    lmoe_tensor norm = lmoe_map(&t, squares, LMOE_MAP_SQRT);
    lmoe__trace_result(&t, norm, "out:grad_norm");
    /* who does not look at every step sees in the sum whether any was not finite */
    lmoe_desc scalar = {.dtype = state};
    lmoe_tensor sum = {lmoe__graph_enter(t.graph, LMOE_VALUE_STATE, "sum:grad_norm", &scalar)};
    lmoe_accumulate_at(&t, NULL, 0, sum, norm);
    lmoe_dtype mean = o->state != LMOE_NONE ? o->state : state;
    bool halves = e->dtype == LMOE_BF16; /* the upper ones of numbers in f32 */
    for (int i = 0; i < e->n_weights; i++) {
        const lmoe__weight *w = &e->weights[i];
        if (w->flags & LMOE_PARAM_STATE) continue;
        lmoe_adamw_attrs a = {o->beta1, o->beta2, o->eps, o->weight_decay, o->clip};
        if (w->desc.rank < 2 || (w->flags & LMOE_PARAM_NO_DECAY)) a.weight_decay = 0;
        lmoe_tensor in[8] = {enter_like(&t, "", w, LMOE_VALUE_PARAM, e->dtype),
                             grad[i],
                             enter_like(&t, "adam_m:", w, LMOE_VALUE_STATE, mean),
                             enter_like(&t, "adam_v:", w, LMOE_VALUE_STATE, mean),
                             norm,
                             lr,
                             step,
                             lmoe_absent()};
        if (halves) in[7] = enter_like(&t, "master:", w, LMOE_VALUE_STATE, LMOE_U16);
        /* where other ranks of the pipeline have it, its states are known but take no memory */
        if (grad[i].id) lmoe_apply_at(&t, w->name, 0, "adamw/1", in, 8, &a, sizeof a, NULL, 0);
    }
    lmoe_status status = lmoe__trace_status(&t);
    if (status == LMOE_OK) status = finish(e, &t, out);
    if (status == LMOE_OK && e->pipe_axis >= 0) note_owners(e);
    lmoe__trace_free(&t);
    return status;
}

lmoe_status lmoe__engine_balance_program(lmoe__engine *e, lmoe__program **out)
{
    lmoe_trace t;
    *out = NULL;
    if (!lmoe__model_balances(e->model)) return LMOE_OK;
    for (int i = 0; i < e->n_weights; i++) {
        int ranks = 0;
        for (int r = 0; r < lmoe__engine_stage_ranks(e); r++)
            ranks += e->pipe_axis >= 0 && lmoe__engine_holds(e, i, r);
        if (ranks > 1 && (e->weights[i].flags & LMOE_PARAM_STATE))
            return lmoe_error(e->ctx, LMOE_E_UNSUPPORTED,
                              "the state '%s' of %s follows layers on several ranks of the "
                              "pipeline, which do not bring it together; take a router whose "
                              "layers have states of their own, or a mesh without pp",
                              e->weights[i].name, e->model->router->base.name);
    }
    bool *layers = LMOE_NEW_N(e->arena, bool, e->model->o.layers);
    for (int i = 0; i < e->model->o.layers; i++) layers[i] = lmoe__engine_has_layer(e, i);
    lmoe__trace_init(&t, e->ctx, &e->model->ops, e->dtype);
    lmoe_status status = lmoe__model_balance(&t, e->model, layers);
    lmoe__mesh mesh = e->mesh;
    e->mesh.count = 0; /* loads are of all ranks, and every rank holds the states whole */
    if (status == LMOE_OK) status = finish(e, &t, out);
    e->mesh = mesh;
    lmoe__trace_free(&t);
    return status;
}

void lmoe__engine_drop(lmoe__engine *e, lmoe__program *p)
{
    for (int i = 0; i < e->n_programs; i++) {
        if (e->programs[i] == p) e->programs[i] = e->programs[--e->n_programs];
    }
    discard(p);
}

lmoe_status lmoe__engine_bind(lmoe__engine *e)
{
    e->activations =
        lmoe__store_block(&e->store, (size_t)e->activation_bytes, LMOE__MEM_ACTIVATION);
    e->workspace = lmoe__store_block(&e->store, (size_t)e->workspace_bytes, LMOE__MEM_WORKSPACE);
    if (!e->activations || !e->workspace) return e->ctx->status;
    if (e->store.sizes_only) return LMOE_OK;
    for (int i = 0; i < e->n_programs; i++) {
        lmoe__program *p = e->programs[i];
        LMOE_TRY(lmoe__plan_bind(p->plan, e->activations, e->workspace));
        if (p->n_carries) LMOE_TRY(lmoe__program_clear_carries(e, p));
        for (int k = 0; k < p->n_inputs; k++) {
            size_t bytes = (size_t)lmoe_desc_bytes(&p->inputs[k].desc);
            if (bytes > e->scratch_bytes) e->scratch_bytes = bytes;
        }
    }
    free(e->scratch);
    e->scratch = lmoe__malloc(e->scratch_bytes + 1);
    return LMOE_OK;
}

/* Drawing a weight: by the device's kernel of initial/1, or else by its reference on the host. */
typedef struct drawing {
    lmoe__engine *e;
    const lmoe__buffer *buffer;
    lmoe_initial_attrs attrs;
    const lmoe_kernel *kernel; /* NULL: on the host */
    void *host;                /* room for a piece */
} drawing;

typedef struct drawn {
    lmoe_initial_attrs attrs;
    lmoe_buf buf;
} drawn;

static lmoe_args args_of(lmoe__engine *e, const drawn *p)
{
    lmoe_args a = {.size = sizeof a, .attrs = &p->attrs, .n_in = 1, .n_out = 1};
    a.in = a.out = &p->buf; /* of the input only the shape is read */
    a.ctx = e->ctx;
    a.dev = e->dev;
    a.stream = e->device->stream ? e->device->stream(e->dev) : NULL;
    return a;
}

static drawn drawn_of(const drawing *d, void *data, int64_t first, int64_t n)
{
    drawn p = {d->attrs, {.data = data, .dtype = d->buffer->desc.dtype, .rank = 1, .dim = {n}}};
    p.attrs.first = first;
    return p;
}

/* On the host in pieces: memory for a whole weight would be more than was planned. */
static lmoe_status draw_run(void *user, int64_t in_box, int64_t in_whole, int64_t count)
{
    drawing *d = user;
    lmoe__engine *e = d->e;
    size_t item = lmoe_dtype_bytes(d->buffer->desc.dtype);
    char *to = (char *)d->buffer->data + (size_t)in_box * item;
    if (d->kernel) {
        drawn p = drawn_of(d, to, in_whole, count);
        lmoe_args a = args_of(e, &p);
        return d->kernel->launch(&a);
    }
    for (int64_t i = 0; i < count; i += INIT_PIECE) {
        int64_t n = count - i < INIT_PIECE ? count - i : INIT_PIECE;
        lmoe__initial_draw(e->ctx, &d->attrs, d->buffer->desc.dtype, in_whole + i, n, d->host);
        LMOE_TRY(e->device->upload(e->dev, to + (size_t)i * item, d->host, (size_t)n * item));
    }
    return LMOE_OK;
}

static lmoe_status draw(lmoe__engine *e, const char *name, const lmoe_initial_attrs *attrs,
                        void *host)
{
    drawing d = {e, lmoe__store_find(&e->store, name), *attrs, NULL, host};
    const lmoe__held *h = lmoe__engine_held(e, name);
    int at[LMOE__MAX_MESH];
    lmoe__box box;
    if (!d.buffer || !h) return LMOE_OK;
    drawn whole = drawn_of(&d, NULL, 0, lmoe_desc_count(&d.buffer->desc));
    lmoe_args a = args_of(e, &whole);
    d.kernel = lmoe__kernel_of(e->device, &lmoe__op_initial, &a);
    lmoe__mesh_place(&e->mesh, at);
    lmoe__held_box(h, &e->mesh, at, &box);
    return lmoe__box_runs(&box, &h->desc, draw_run, &d);
}

lmoe_status lmoe__engine_init_weights(lmoe__engine *e, uint64_t seed)
{
    void *host = lmoe__malloc(INIT_PIECE * sizeof(double));
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < e->n_weights && status == LMOE_OK; i++) {
        const lmoe__weight *w = &e->weights[i];
        lmoe_initial_attrs attrs = lmoe__weight_initial(e->model, w, seed);
        char master[320];
        snprintf(master, sizeof master, "master:%s", w->name);
        bool halves = lmoe__store_find(&e->store, master) != NULL;
        attrs.part = halves ? LMOE_INITIAL_UPPER : LMOE_INITIAL_WHOLE;
        status = draw(e, w->name, &attrs, host);
        attrs.part = LMOE_INITIAL_LOWER;
        if (status == LMOE_OK) status = draw(e, master, &attrs, host);
    }
    free(host);
    return status;
}

/* ---- running ---- */

/* src: rank `at` of `parts` along dimension d of a tensor; dims are of the whole. Packs the part
 * into dst. */
static void take_part(void *dst, const void *src, const lmoe_desc *d, int dim, int at, int parts)
{
    size_t item = lmoe_dtype_bytes(d->dtype), outer = 1, inner = item;
    for (int i = 0; i < dim; i++) outer *= (size_t)d->dim[i];
    for (int i = dim + 1; i < d->rank; i++) inner *= (size_t)d->dim[i];
    size_t piece = (size_t)d->dim[dim] / (size_t)parts * inner, whole = (size_t)d->dim[dim] * inner;
    for (size_t i = 0; i < outer; i++) /* dst may be src: pieces move towards the front */
        memmove((char *)dst + i * piece, (const char *)src + i * whole + (size_t)at * piece, piece);
}

lmoe_status lmoe__program_set(lmoe__engine *e, lmoe__program *p, const char *name, const void *data)
{
    for (int i = 0; i < p->n_inputs; i++) {
        lmoe__held *in = &p->inputs[i];
        char full[256];
        if (strcmp(in->name, name) != 0) continue;
        lmoe_desc d = in->desc;
        const void *src = data;
        for (int k = 0; k < e->mesh.count; k++) {
            if (in->split[k] < 0) continue;
            const lmoe__mesh_axis *a = &e->mesh.axis[k];
            take_part(e->scratch, src, &d, in->split[k], a->rank, a->ranks);
            d.dim[in->split[k]] /= a->ranks;
            src = e->scratch;
        }
        lmoe__buffer *b =
            lmoe__store_find(&e->store, lmoe__store_input(full, sizeof full, name, &d));
        return b ? e->device->upload(e->dev, b->data, src, (size_t)lmoe_desc_bytes(&d)) : LMOE_OK;
    }
    return LMOE_OK;
}

lmoe_status lmoe__program_set_scalar(lmoe__engine *e, lmoe__program *p, const char *name, double x)
{
    double f64 = x;
    float f32 = (float)x;
    bool wide = e->dtype == LMOE_F64;
    return lmoe__program_set(e, p, name, wide ? (const void *)&f64 : (const void *)&f32);
}

lmoe_status lmoe__program_run(lmoe__engine *e, lmoe__program *p)
{
    (void)e;
    return lmoe__plan_replay(p->plan);
}

int64_t lmoe__engine_read(lmoe__engine *e, const char *name, double *out, int64_t n)
{
    lmoe__buffer *b = lmoe__store_find(&e->store, name);
    if (!b) return -1;
    int64_t count = lmoe_desc_count(&b->desc);
    size_t bytes = (size_t)lmoe_desc_bytes(&b->desc);
    if (bytes > e->scratch_bytes) { /* once: results keep their shapes */
        e->scratch = lmoe__realloc(e->scratch, bytes);
        e->scratch_bytes = bytes;
    }
    lmoe_buf host = {.data = e->scratch, .dtype = b->desc.dtype};
    if (e->device->download(e->dev, host.data, b->data, bytes) != LMOE_OK) count = -1;
    if (count < n) n = count;
    if (b->desc.dtype == LMOE_F32) /* logits are many */
        for (int64_t i = 0; i < n; i++) out[i] = ((const float *)host.data)[i];
    else if (b->desc.dtype == LMOE_BF16)
        for (int64_t i = 0; i < n; i++)
            out[i] = lmoe_bf16_to_float(((const uint16_t *)host.data)[i]);
    else
        for (int64_t i = 0; i < n; i++) out[i] = lmoe_get(&host, i);
    return count;
}

lmoe_status lmoe__program_clear_carries(lmoe__engine *e, lmoe__program *p)
{
    for (int i = 0; i < p->n_carries; i++) {
        lmoe__buffer *b = lmoe__store_find(&e->store, p->carries[i].name);
        if (!b) continue;
        size_t bytes = (size_t)lmoe_desc_bytes(&b->desc);
        LMOE_TRY(e->device->zero(e->dev, b->data, bytes));
        if (p->carries[i].initial == 0) continue;
        lmoe_buf host = {.data = lmoe__malloc(bytes), .dtype = b->desc.dtype};
        int64_t n = lmoe_desc_count(&b->desc);
        for (int64_t k = 0; k < n; k++) lmoe_put(&host, k, p->carries[i].initial);
        lmoe_status status = e->device->upload(e->dev, b->data, host.data, bytes);
        free(host.data);
        LMOE_TRY(status);
    }
    return LMOE_OK;
}
