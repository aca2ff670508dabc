/* SPDX-License-Identifier: Apache-2.0
 * core/model/model.c: records a model's forward pass, its loss and its gradients.
 */
#include "core/model/model.h"

#include <lmoe/nn.h>

#include "core/op/op.h"

#include <stdlib.h>

/* ---- blocks ---- */

static lmoe_tensor mix(lmoe_trace *t, const lmoe__mixer *x, lmoe_tensor h)
{
    void *params = lmoe__arena_alloc(t->graph->arena, x->layer->params_size + 1);
    t->class_name = x->layer->base.name;
    if (x->layer->params(t, x->options, params) != LMOE_OK)
        return lmoe_fail(t, "params() reported a failure without a message");
    lmoe_tensor y = x->layer->forward(t, x->options, params, h);
    lmoe_desc dh, dy;
    if (lmoe_describe(t, h, &dh) == LMOE_OK && lmoe_describe(t, y, &dy) == LMOE_OK) {
        bool same = dy.rank == dh.rank;
        for (int i = 0; same && i < dh.rank; i++)
            same = dh.dim[i] == dy.dim[i] && strcmp(dh.axis[i], dy.axis[i]) == 0;
        if (!same)
            y = lmoe_fail(t, "forward() must return (batch seq embed), the shape of its input");
    }
    t->class_name = "";
    return y;
}

static lmoe_tensor block(lmoe_trace *t, const lmoe__model *m, int64_t i, lmoe_tensor h)
{
    lmoe__arena *a = t->graph->arena;
    const lmoe__mixer *x = NULL;
    char letter = m->o.pattern[i % (int64_t)strlen(m->o.pattern)];
    for (int k = 0; k < m->n_mixers; k++) {
        if (m->mixers[k].letter == letter) x = &m->mixers[k];
    }
    t->layer = (int32_t)i;
    t->carry_count = 0;
    t->scope = lmoe__arena_printf(a, "model.layers.%d.", (int)i);
    lmoe_tensor norm = lmoe_vector(t, "attn_norm.weight", "embed", m->o.embed, 1.0);
    lmoe_tensor normed = lmoe_rmsnorm(t, h, norm, m->o.norm_eps);
    t->scope = lmoe__arena_printf(a, "model.layers.%d.attn.", (int)i);
    h = lmoe_add(t, h, mix(t, x, normed));
    if (m->ffn.kind == LMOE__FFN_NONE) return h;
    t->scope = lmoe__arena_printf(a, "model.layers.%d.", (int)i);
    norm = lmoe_vector(t, "mlp_norm.weight", "embed", m->o.embed, 1.0);
    normed = lmoe_rmsnorm(t, h, norm, m->o.norm_eps);
    t->scope = lmoe__arena_printf(a, "model.layers.%d.mlp.", (int)i);
    return lmoe_add(t, h, lmoe__feed_forward(t, m, normed));
}

/* ---- the whole ---- */

static void enter_inputs(lmoe_trace *t, const lmoe__model_shape *s)
{
    const int64_t dim[2] = {s->batch, s->seq};
    const lmoe_value_kind in = LMOE_VALUE_INPUT;
    t->ambient[LMOE_AMBIENT_TOKENS] =
        lmoe__trace_enter(t, in, "in:tokens", LMOE_I32, "batch seq", dim).id;
    t->ambient[LMOE_AMBIENT_POSITIONS] =
        lmoe__trace_enter(t, in, "in:positions", LMOE_I32, "batch seq", dim).id;
    t->ambient[LMOE_AMBIENT_DOCUMENT] =
        lmoe__trace_enter(t, in, "in:document", LMOE_I32, "batch seq", dim).id;
    t->ambient[LMOE_AMBIENT_NOISE] =
        lmoe__trace_enter(t, in, "in:noise", LMOE_I32, "batch seq", dim).id;
    if (s->resets)
        t->ambient[LMOE_AMBIENT_RESET] =
            lmoe__trace_enter(t, in, "in:reset", LMOE_U8, "batch seq", dim).id;
    if (s->skips)
        t->ambient[LMOE_AMBIENT_SKIP] =
            lmoe__trace_enter(t, in, "in:skip", LMOE_U8, "batch seq", dim).id;
    t->carries = s->carries;
    t->context = s->context;
}

static void set_sizes(lmoe_trace *t, const lmoe__model *m, const lmoe__model_shape *s)
{
    lmoe__trace_set_size(t, "embed", m->o.embed);
    lmoe__trace_set_size(t, "layers", m->o.layers);
    lmoe__trace_set_size(t, "vocab", m->o.vocab_size);
    lmoe__trace_set_size(t, "experts", m->ffn.experts);
    lmoe__trace_set_size(t, "top_k", m->ffn.top_k);
    lmoe__trace_set_size(t, "batch", s->batch);
    lmoe__trace_set_size(t, "seq", s->seq);
    lmoe__trace_set_size(t, "context", s->context);
    lmoe__trace_set_size(t, "training", s->training);
    lmoe__trace_set_size(t, "generating", s->generating);
}

/* A result, or with `add` what is added to it. */
static void report(lmoe_trace *t, lmoe_tensor x, const char *name, bool add)
{
    lmoe_desc d;
    if (!add) {
        lmoe__trace_result(t, x, name);
    } else if (lmoe_describe(t, x, &d) == LMOE_OK) {
        lmoe_tensor sum = {lmoe__graph_enter(t->graph, LMOE_VALUE_STATE, name, &d)};
        lmoe_accumulate_at(t, NULL, 0, sum, x);
    }
}

static lmoe_tensor loss_of(lmoe_trace *t, const lmoe__model_shape *s, lmoe_tensor h,
                           lmoe_tensor head)
{
    const int64_t dim[2] = {s->batch, s->seq};
    lmoe_dtype state = lmoe_state_dtype(t);
    lmoe_tensor labels =
        lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:labels", LMOE_I32, "batch seq", dim);
    lmoe_tensor factor = lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:factor", state, "", dim);
    lmoe_tensor loss = lmoe_linear_cross_entropy(t, h, head, labels, factor);
    lmoe_tensor total = loss;
    lmoe__trace_result(t, loss, "out:loss");
    if (t->n_losses == 0) return total;
    lmoe_tensor scale = lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:aux_scale", state, "", dim);
    for (int i = 0; i < t->n_losses; i++) {
        lmoe_tensor aux = lmoe_mul(t, ((lmoe_tensor){t->losses[i].value}), scale);
        char name[96];
        snprintf(name, sizeof name, "aux:%s", t->losses[i].name);
        report(t, aux, name, s->add);
        total = lmoe_add(t, total, aux);
    }
    return total;
}

static void stat_results(lmoe_trace *t, bool add)
{
    for (int i = 0; i < t->n_stats; i++) {
        char name[96];
        snprintf(name, sizeof name, "stat:%s", t->stats[i].name);
        report(t, (lmoe_tensor){t->stats[i].value}, name, add);
    }
}

lmoe_status lmoe__model_trace(lmoe_trace *t, const lmoe__model *m, const lmoe__model_shape *s,
                              lmoe_tensor *total)
{
    *total = lmoe_absent();
    set_sizes(t, m, s);
    enter_inputs(t, s);
    t->recompute_cheap = m->recompute && s->training;
    t->scope = "model.";
    lmoe_tensor table =
        lmoe_matrix(t, "embeddings.weight", "vocab embed", m->o.vocab_size, m->o.embed, 0);
    lmoe_tensor h = lmoe_embedding(t, table, lmoe_ambient_value(t, LMOE_AMBIENT_TOKENS));
    for (int64_t i = 0; i < m->o.layers; i++) h = block(t, m, i, h);
    t->layer = -1;
    t->scope = "model.";
    lmoe_tensor norm = lmoe_vector(t, "norm.weight", "embed", m->o.embed, 1.0);
    t->scope = "";
    lmoe_tensor head = table;
    if (!m->o.tie_embeddings)
        head = lmoe_matrix(t, "lm_head.weight", "vocab embed", m->o.vocab_size, m->o.embed, 0);
    if (s->loss) {
        *total = loss_of(t, s, lmoe_rmsnorm(t, h, norm, m->o.norm_eps), head);
    } else { /* only the last token predicts something that is not known yet */
        lmoe_tensor last = lmoe_slice(t, h, 1, s->seq - 1, 1);
        last = lmoe_rmsnorm(t, last, norm, m->o.norm_eps);
        lmoe__trace_result(t, lmoe_einsum(t, "b s e, v e -> b v", last, head), "out:logits");
    }
    stat_results(t, s->add);
    return lmoe__trace_status(t);
}

bool lmoe__model_balances(const lmoe__model *m)
{
    const size_t end = offsetof(lmoe_router, update) + sizeof m->router->update;
    return m->ffn.kind == LMOE__FFN_MOE && m->router->base.size >= end && m->router->update;
}

lmoe_status lmoe__model_balance(lmoe_trace *t, const lmoe__model *m, const bool *layers)
{
    void *params = lmoe__arena_alloc(t->graph->arena, m->router->params_size + 1);
    set_sizes(t, m, &(lmoe__model_shape){.training = true});
    t->states_only = true;
    for (int64_t i = 0; i < m->o.layers; i++) {
        char name[64];
        if (!layers[i]) continue;
        snprintf(name, sizeof name, "stat:moe/load/%d", (int)i);
        t->layer = (int32_t)i;
        t->scope = lmoe__arena_printf(t->graph->arena, "model.layers.%d.mlp.", (int)i);
        t->class_name = m->router->base.name;
        lmoe_tensor load = lmoe__trace_enter(t, LMOE_VALUE_STATE, name, lmoe_state_dtype(t),
                                             "expert", &m->ffn.experts);
        if (m->router->params(t, m->router_options, params) != LMOE_OK ||
            m->router->update(t, m->router_options, params, load) != LMOE_OK)
            lmoe_fail(t, "update() reported a failure without a message");
    }
    return lmoe__trace_status(t);
}

lmoe_status lmoe__model_backward(lmoe_trace *t, lmoe_tensor total, bool add)
{
    int n = t->n_weights;
    lmoe_tensor *w = LMOE_NEW_N(t->graph->arena, lmoe_tensor, n + 1);
    lmoe_tensor *d = LMOE_NEW_N(t->graph->arena, lmoe_tensor, n + 1);
    for (int i = 0; i < n; i++) w[i].id = t->weights[i].value;
    LMOE_TRY(lmoe__vjp(t, total, w, n, d));
    for (int i = 0; i < n; i++) {
        char name[300];
        if (t->weights[i].flags & LMOE_PARAM_STATE) continue;
        snprintf(name, sizeof name, "grad:%s", t->weights[i].name);
        if (d[i].id <= 0)
            return lmoe_error(
                t->ctx, LMOE_E_CONFIG,
                "the parameter '%s' does not influence the loss; leave it out or use it",
                t->weights[i].name);
        if (!add) {
            lmoe__trace_result(t, d[i], name);
            continue;
        }
        lmoe_tensor in[2] = {
            {lmoe__graph_enter(t->graph, LMOE_VALUE_STATE, name, &t->weights[i].desc)}, d[i]};
        lmoe_apply_at(t, NULL, 0, "accumulate/1", in, 2, NULL, 0, NULL, 0);
    }
    return lmoe__trace_status(t);
}

/* ---- layers alone ---- */

static lmoe_status layer_backward(lmoe_trace *t, lmoe_tensor total, lmoe_tensor x)
{
    int n = t->n_weights;
    lmoe_tensor *w = LMOE_NEW_N(t->graph->arena, lmoe_tensor, n + 1);
    lmoe_tensor *d = LMOE_NEW_N(t->graph->arena, lmoe_tensor, n + 1);
    for (int i = 0; i < n; i++) w[i].id = t->weights[i].value;
    w[n] = x;
    LMOE_TRY(lmoe__vjp(t, total, w, n + 1, d));
    for (int i = 0; i <= n; i++) {
        char name[300] = "out:dx";
        if (i < n) snprintf(name, sizeof name, "grad:%s", t->weights[i].name);
        lmoe__trace_result(t, d[i].id ? d[i] : lmoe_fill_like(t, w[i], 0.0), name);
    }
    return lmoe__trace_status(t);
}

lmoe_status lmoe__layer_trace(lmoe_trace *t, const lmoe__model *m, const lmoe__layer_shape *s)
{
    const int64_t dim[3] = {s->shape.batch, s->shape.seq, m->o.embed};
    const char *axes = "batch seq embed";
    set_sizes(t, m, &s->shape);
    enter_inputs(t, &s->shape);
    lmoe_tensor x = lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:x", t->dtype, axes, dim), y = x;
    t->recompute = s->recompute;
    for (int i = 0; i < s->count; i++) {
        t->layer = s->layers[i];
        t->carry_count = 0;
        t->scope = s->count == 1 ? "" : lmoe__arena_printf(t->graph->arena, "%d.", t->layer);
        y = m->n_mixers ? mix(t, &m->mixers[0], y) : lmoe__feed_forward(t, m, y);
    }
    t->layer = -1;
    t->recompute = false;
    lmoe__trace_result(t, y, lmoe__arena_printf(t->graph->arena, "out:y/%d", (int)dim[1]));
    stat_results(t, false);
    lmoe_tensor total = lmoe_absent();
    if (s->shape.loss) {
        lmoe_tensor dy = lmoe__trace_enter(t, LMOE_VALUE_INPUT, "in:dy", t->dtype, axes, dim);
        total = lmoe_einsum(t, "b s e, b s e ->", y, dy);
    }
    for (int i = 0; i < t->n_losses; i++) {
        lmoe_tensor aux = {t->losses[i].value};
        char name[96];
        snprintf(name, sizeof name, "aux:%s", t->losses[i].name);
        lmoe__trace_result(t, aux, name);
        if (s->shape.loss) total = lmoe_add(t, total, aux);
    }
    LMOE_TRY(lmoe__trace_status(t));
    return s->shape.loss ? layer_backward(t, total, x) : LMOE_OK;
}

/* ---- weights ---- */

lmoe_initial_attrs lmoe__weight_initial(const lmoe__model *m, const lmoe__weight *w, uint64_t seed)
{
    const lmoe_desc *d = &w->desc;
    lmoe_initial_attrs o = {.seed = (int64_t)seed,
                            .stream = (int64_t)lmoe__hash_text(w->name),
                            .count = lmoe_desc_count(d),
                            .rows = d->rank > 1 ? d->dim[d->rank - 2] : 1,
                            .columns = d->rank > 0 ? d->dim[d->rank - 1] : 1,
                            .a = w->a,
                            .b = w->b,
                            .c = w->c,
                            .kind = (int32_t)w->init};
    if (w->init != LMOE_INIT_NORMAL) return o;
    if (!(o.b > 0)) o.b = m->o.init_std;
    if ((w->flags & LMOE_PARAM_RESIDUAL) && m->o.init_rescale)
        o.b /= sqrt(2.0 * (double)m->o.layers);
    return o;
}

typedef struct drawing {
    lmoe_initial_attrs attrs;
    lmoe_buf buf;
} drawing;

static void draw_part(void *arg, int64_t begin, int64_t end, int thread)
{
    drawing d = *(const drawing *)arg;
    d.attrs.first += begin;
    d.buf.data = (char *)d.buf.data + (size_t)begin * lmoe_dtype_bytes(d.buf.dtype);
    d.buf.dim[0] = end - begin;
    lmoe_args a = {.attrs = &d.attrs, .n_out = 1, .out = &d.buf};
    lmoe__op_initial.reference(&a);
}

void lmoe__initial_draw(lmoe_ctx *ctx, const lmoe_initial_attrs *o, lmoe_dtype dtype, int64_t first,
                        int64_t n, void *host)
{
    drawing d = {*o, {.data = host, .dtype = dtype, .rank = 1, .dim = {n}}};
    d.attrs.first = first;
    lmoe_parallel(ctx, n, 1024, draw_part, &d);
}

void lmoe__weight_init(lmoe_ctx *ctx, const lmoe__model *m, const lmoe__weight *w, uint64_t seed,
                       int64_t first, int64_t n, void *host)
{
    lmoe_initial_attrs o = lmoe__weight_initial(m, w, seed);
    lmoe__initial_draw(ctx, &o, w->desc.dtype, first, n, host);
}

void lmoe__model_count_weights(const lmoe__model *m, const lmoe_trace *t, lmoe__model_count *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < t->n_weights; i++) {
        const lmoe_desc *d = &t->weights[i].desc;
        int64_t n = lmoe_desc_count(d), used = n;
        bool table = strstr(t->weights[i].name, "embeddings.weight") != NULL;
        if (strcmp(d->axis[0], "expert") == 0) used = n / m->ffn.experts * m->ffn.top_k;
        c->total += n;
        c->active += used;
        if (d->rank > 1 && (!table || m->o.tie_embeddings)) c->active_matrix += used;
        if (table) c->embedding = n;
    }
}
