/* SPDX-License-Identifier: Apache-2.0
 * core/graph/trace.c: recording. These are the functions that layers, routers and vjps call.
 *
 * A failed call records one sentence and returns poison; every later call passes the poison on, so
 * that layers need no error checks. Ambient operands (positions, resets ...) are filled in here,
 * and in a graph with carries each carry op gets its carry as a value that enters and leaves the
 * graph.
 */
#include "core/graph/graph.h"

#include <stdlib.h>

static const lmoe_tensor poison = {-1};

void lmoe__trace_init(lmoe_trace *t, lmoe_ctx *ctx, const lmoe__op_set *ops, lmoe_dtype dtype)
{
    memset(t, 0, sizeof *t);
    t->ctx = ctx;
    t->graph = lmoe__graph_new();
    t->ops = ops;
    t->dtype = dtype;
    t->layer = -1;
    t->forward = -1;
    t->scope = "";
    t->class_name = "";
}

lmoe__graph *lmoe__trace_take_graph(lmoe_trace *t)
{
    lmoe__graph *g = t->graph;
    t->graph = NULL;
    return g;
}

void lmoe__trace_free(lmoe_trace *t)
{
    lmoe__graph_free(t->graph);
    free(t->weights);
    free(t->carry_slots);
    free(t->published);
    free(t->losses);
    free(t->stats);
    free(t->sizes);
    memset(t, 0, sizeof *t);
}

lmoe_status lmoe__trace_status(const lmoe_trace *t)
{
    if (!t->failed) return LMOE_OK;
    return t->ctx->status != LMOE_OK ? t->ctx->status : LMOE_E_INTERNAL;
}

/* ---- failures ---- */

static lmoe_tensor fail(lmoe_trace *t, lmoe_status status, const char *file, int line,
                        const char *message)
{
    char where[160] = "";
    lmoe__node at = {.file = file, .line = line, .layer = t->layer};
    if (file) lmoe__node_where(&at, where, sizeof where);
    if (!t->failed) {
        lmoe_error(t->ctx, status, "%s%s%s%s%s", t->class_name, *t->class_name ? ", " : "", where,
                   *where ? ": " : "", message);
    }
    t->failed = true;
    return poison;
}

lmoe_tensor lmoe_vfail(lmoe_trace *t, const char *file, int line, const char *format, va_list args)
{
    char message[512];
    vsnprintf(message, sizeof message, format, args);
    return fail(t, LMOE_E_CONFIG, file, line, message);
}

/* Shape functions run inside lmoe_apply, which knows the place: keep only the sentence. t is NULL
 * in test tools. */
lmoe_status lmoe_vshape_error(lmoe_trace *t, const char *format, va_list args)
{
    if (t && t->ctx->status == LMOE_OK) {
        vsnprintf(t->ctx->message, sizeof t->ctx->message, format, args);
    }
    return LMOE_E_USAGE;
}

/* ---- sizes, descriptions, ambient values ---- */

void lmoe__trace_set_size(lmoe_trace *t, const char *name, int64_t value)
{
    for (int i = 0; i < t->n_sizes; i++) {
        if (strcmp(t->sizes[i].name, name) == 0) {
            t->sizes[i].value = value;
            return;
        }
    }
    lmoe__size_entry e = {lmoe__arena_strdup(t->graph->arena, name), value};
    LMOE_PUSH(t->sizes, t->n_sizes, t->cap_sizes, e);
}

int64_t lmoe_size(lmoe_trace *t, const char *name)
{
    for (int i = 0; i < t->n_sizes; i++) {
        if (strcmp(t->sizes[i].name, name) == 0) return t->sizes[i].value;
    }
    return strcmp(name, "layer") == 0 ? t->layer : -1;
}

lmoe_dtype lmoe_state_dtype(lmoe_trace *t)
{
    return t->dtype == LMOE_F64 ? LMOE_F64 : LMOE_F32;
}

lmoe_status lmoe_describe(lmoe_trace *t, lmoe_tensor x, lmoe_desc *out)
{
    memset(out, 0, sizeof *out);
    if (x.id < 0 || t->failed) return LMOE_E_USAGE;
    if (x.id >= t->graph->n_values) {
        fail(t, LMOE_E_USAGE, NULL, 0, "a tensor handle of another trace was used");
        return LMOE_E_USAGE;
    }
    *out = t->graph->values[x.id].desc;
    return LMOE_OK;
}

lmoe_tensor lmoe_ambient_value(lmoe_trace *t, lmoe_ambient which)
{
    lmoe_tensor x = {0};
    if ((unsigned)which < sizeof t->ambient / sizeof *t->ambient) x.id = t->ambient[which];
    return x;
}

static lmoe_status parse_axes(lmoe_trace *t, const char *axes, const int64_t *dim, lmoe_desc *d)
{
    for (const char *p = axes; *p;) {
        size_t n = strcspn(p, " ");
        if (d->rank == LMOE_MAX_DIMS || n > 15 || dim[d->rank] < 1) return LMOE_E_USAGE;
        d->axis[d->rank] = lmoe__graph_axis(t->graph, p, n);
        for (int i = 0; i < d->rank; i++) {
            if (strcmp(d->axis[i], d->axis[d->rank]) == 0) return LMOE_E_USAGE;
        }
        d->dim[d->rank] = dim[d->rank];
        d->rank++;
        p += n;
        while (*p == ' ') p++;
    }
    return LMOE_OK;
}

lmoe_tensor lmoe__trace_enter(lmoe_trace *t, lmoe_value_kind kind, const char *name,
                              lmoe_dtype dtype, const char *axes, const int64_t *dim)
{
    lmoe_desc d = {.dtype = dtype};
    lmoe_tensor x;
    if (t->failed) return poison;
    if (parse_axes(t, axes, dim, &d) != LMOE_OK) {
        return fail(t, LMOE_E_USAGE, NULL, 0,
                    "an input was given bad axes or a size below 1; axes are different names of at "
                    "most 15 letters");
    }
    x.id = lmoe__graph_enter(t->graph, kind, name, &d);
    return x;
}

void lmoe__trace_result(lmoe_trace *t, lmoe_tensor x, const char *name)
{
    if (!t->failed && x.id > 0) lmoe__graph_result(t->graph, x.id, name);
}

/* ---- weights, published values, losses, statistics ---- */

lmoe_tensor lmoe_param(lmoe_trace *t, const lmoe_param_def *def)
{
    char full[256];
    if (t->failed) return poison;
    bool model = def->flags & LMOE_PARAM_MODEL, state = def->flags & LMOE_PARAM_STATE;
    if (t->states_only && !state) return lmoe_absent();
    if (model)
        snprintf(full, sizeof full, "model.%s.%s", t->class_name, def->name);
    else
        snprintf(full, sizeof full, "%s%s", t->scope, def->name);
    for (int i = 0; i < t->n_weights; i++) {
        if (strcmp(t->weights[i].name, full) != 0) continue;
        if (model) return (lmoe_tensor){t->weights[i].value};
        char message[300];
        snprintf(message, sizeof message, "the parameter '%s' is declared twice", full);
        return fail(t, LMOE_E_USAGE, NULL, 0, message);
    }
    lmoe_desc d = {.dtype = state ? lmoe_state_dtype(t) : t->dtype};
    if (parse_axes(t, def->axes, def->dim, &d) != LMOE_OK) {
        char message[400];
        snprintf(message, sizeof message,
                 "the parameter '%s' has bad axes '%s' or a size below 1; axes are different names "
                 "of at "
                 "most 15 letters",
                 full, def->axes);
        return fail(t, LMOE_E_USAGE, NULL, 0, message);
    }
    lmoe__weight w = {.desc = d, .init = def->init, .a = def->a, .b = def->b, .flags = def->flags};
    if (def->size >= offsetof(lmoe_param_def, c) + sizeof def->c) w.c = def->c;
    w.value = lmoe__graph_enter(t->graph, LMOE_VALUE_PARAM, full, &d);
    w.name = t->graph->values[w.value].name;
    w.layer = model ? -1 : t->layer;
    LMOE_PUSH(t->weights, t->n_weights, t->cap_weights, w);
    return (lmoe_tensor){w.value};
}

lmoe_status lmoe_publish(lmoe_trace *t, const char *name, lmoe_tensor x)
{
    if (t->failed || x.id < 0) return LMOE_E_USAGE;
    lmoe__named n = {lmoe__arena_strdup(t->graph->arena, name),
                     lmoe__arena_strdup(t->graph->arena, t->class_name), x.id};
    LMOE_PUSH(t->published, t->n_published, t->cap_published, n);
    return LMOE_OK;
}

lmoe_tensor lmoe_recall(lmoe_trace *t, const char *name)
{
    for (int i = 0; i < t->n_published; i++) { /* the first one: published by the earliest layer */
        const lmoe__named *n = &t->published[i];
        if (strcmp(n->name, name) == 0 && strcmp(n->scope, t->class_name) == 0)
            return (lmoe_tensor){n->value};
    }
    return lmoe_absent();
}

static lmoe__named scoped(lmoe_trace *t, const char *name, lmoe_tensor x)
{
    lmoe__named n = {0};
    if (t->layer >= 0)
        n.name = lmoe__arena_printf(t->graph->arena, "%s/%d", name, t->layer);
    else
        n.name = lmoe__arena_strdup(t->graph->arena, name);
    n.scope = "";
    n.value = x.id;
    return n;
}

lmoe_status lmoe_add_loss(lmoe_trace *t, const char *name, lmoe_tensor x)
{
    lmoe_desc d;
    LMOE_TRY(lmoe_describe(t, x, &d));
    if (d.rank != 0 || !lmoe_dtype_is_float(d.dtype)) {
        fail(t, LMOE_E_USAGE, NULL, 0, "lmoe_add_loss takes a scalar of a float dtype");
        return LMOE_E_USAGE;
    }
    lmoe__named n = scoped(t, name, x);
    LMOE_PUSH(t->losses, t->n_losses, t->cap_losses, n);
    return LMOE_OK;
}

lmoe_status lmoe_add_stat(lmoe_trace *t, const char *name, lmoe_tensor x)
{
    lmoe_desc d;
    LMOE_TRY(lmoe_describe(t, x, &d));
    if (lmoe_desc_count(&d) > 65536) { /* as many as there may be experts */
        fail(t, LMOE_E_USAGE, NULL, 0, "lmoe_add_stat takes a tensor of at most 65536 elements");
        return LMOE_E_USAGE;
    }
    lmoe__named n = scoped(t, name, x);
    LMOE_PUSH(t->stats, t->n_stats, t->cap_stats, n);
    return LMOE_OK;
}

/* ---- applying an op ---- */

/* The carry of one op in a graph with carries: values that enter, and the same names that leave. */
static lmoe_status attach_carry_in(lmoe_trace *t, const lmoe_op *op, const void *attrs,
                                   const lmoe_desc *desc, int n_in, int32_t *in)
{
    const lmoe_carry *c = op->carry;
    lmoe_desc shape[LMOE_MAX_IO];
    memset(shape, 0, sizeof shape);
    LMOE_TRY(c->shape(attrs, desc, n_in, t->context, shape));
    for (int i = 0; i < c->count; i++) {
        lmoe__carry_slot s = {.desc = shape[i], .layer = t->layer};
        s.name = lmoe__arena_printf(t->graph->arena, "carry/%d/%d/%s", t->layer, t->carry_count,
                                    op->inputs[c->in + i].name);
        s.initial = i == c->initial_of ? c->initial : 0;
        in[c->in + i] = lmoe__graph_enter(t->graph, LMOE_VALUE_STATE, s.name, &shape[i]);
        LMOE_PUSH(t->carry_slots, t->n_carry_slots, t->cap_carry_slots, s);
    }
    t->carry_count++;
    return LMOE_OK;
}

static void attach_carry_out(lmoe_trace *t, const lmoe_op *op, const lmoe__node *n)
{
    const lmoe_carry *c = op->carry;
    for (int i = 0; i < c->count; i++) {
        const lmoe__carry_slot *s = &t->carry_slots[t->n_carry_slots - c->count + i];
        lmoe__graph_result(t->graph, n->out[c->out + i],
                           lmoe__arena_printf(t->graph->arena, "%s'", s->name));
    }
}

/* What need not be recorded: x * 1, 1 * x, scale 1, a cast to the same dtype. 0: record it. */
static int32_t shortcut(lmoe_trace *t, const lmoe_op *op, const void *attrs, const int32_t *in)
{
    const lmoe__value *v = t->graph->values;
    const char *name = op->base.name;
    if (strcmp(name, "multiply/1") == 0) {
        if (v[in[1]].one && v[in[1]].desc.rank == 0) return in[0];
        if (v[in[0]].one && v[in[0]].desc.rank == 0 && v[in[1]].desc.rank == 0) return in[1];
    }
    if (strcmp(name, "affine/1") == 0) {
        const lmoe_affine_attrs *a = attrs;
        if (a->scale == 1 && a->shift == 0) return in[0];
    }
    if (strcmp(name, "cast/1") == 0) {
        const lmoe_cast_attrs *a = attrs;
        if ((lmoe_dtype)a->dtype == v[in[0]].desc.dtype) return in[0];
    }
    return 0;
}

static lmoe_status bind_operands(lmoe_trace *t, const lmoe_op *op, const lmoe_call *call,
                                 int32_t *in, int ports, char *why, size_t size)
{
    if (call->n_in > ports) {
        snprintf(why, size, "%s takes at most %d operands, not %d", call->op, ports, call->n_in);
        return LMOE_E_USAGE;
    }
    for (int i = 0; i < ports; i++) {
        const lmoe_port *p = &op->inputs[i];
        in[i] = i < call->n_in ? call->in[i].id : 0;
        if (in[i] >= t->graph->n_values) {
            snprintf(why, size, "%s: operand '%s' is a handle of another trace", call->op, p->name);
            return LMOE_E_USAGE;
        }
        if (in[i] == 0 && p->ambient) in[i] = t->ambient[p->ambient];
        if (in[i] == 0 && !(p->flags & (LMOE_PORT_OPTIONAL | LMOE_PORT_CARRY))) {
            snprintf(why, size, "%s: operand '%s' is missing", call->op, p->name);
            return LMOE_E_USAGE;
        }
    }
    return LMOE_OK;
}

/* A node that costs little for what it would keep, and reads nothing larger. Not the sums of the
 * residual stream: each would be made of all before it. */
static bool is_cheap(const lmoe__graph *g, const lmoe_op *op, const void *attrs, const int32_t *in,
                     const lmoe_desc *desc, int n_in, const lmoe_desc *out, int n_out)
{
    enum { FLOPS_A_BYTE = 32 };
    double bytes = 0, flops = 0;
    if (!op->vjp) return false;
    if (strcmp(op->base.name, "add/1") == 0 &&
        lmoe_desc_count(&desc[0]) == lmoe_desc_count(&desc[1]))
        return false;
    for (int i = 0; i < n_out; i++) {
        if (out[i].dtype == LMOE_NONE) continue;
        if (!lmoe_dtype_is_float(out[i].dtype)) return false;
        bytes += (double)lmoe_desc_bytes(&out[i]);
    }
    for (int i = 0; i < n_in; i++) {
        if (in[i] && g->values[in[i]].node >= 0 && (double)lmoe_desc_bytes(&desc[i]) > bytes)
            return false;
    }
    if (op->flops) flops = op->flops(attrs, desc, n_in, out, n_out);
    return flops <= FLOPS_A_BYTE * bytes;
}

lmoe_tensor lmoe_apply(lmoe_trace *t, const lmoe_call *call)
{
    lmoe_desc desc[LMOE_MAX_IO], out_desc[LMOE_MAX_IO];
    int32_t in[LMOE_MAX_IO] = {0};
    char why[1200];
    for (int i = 0; call->out && i < call->n_out; i++) call->out[i] = poison;
    if (t->failed) return poison;
    for (int i = 0; i < call->n_in; i++) {
        if (call->in[i].id < 0) return poison;
    }
    const lmoe_op *op = lmoe__op_find(t->ops, call->op);
    if (!op) {
        snprintf(why, sizeof why, "the op '%s' is not known to this lmoe", call->op);
        return fail(t, LMOE_E_UNSUPPORTED, call->file, call->line, why);
    }
    const void *attrs = call->attrs;
    if (!lmoe__attrs_grown(t->graph, op, call->attrs_size, &attrs)) {
        snprintf(why, sizeof why, "%s: its attributes have %zu bytes here, %zu in this lmoe",
                 call->op, call->attrs_size, op->base.options_size);
        return fail(t, LMOE_E_USAGE, call->file, call->line, why);
    }
    int ports = lmoe__ports(op->inputs), n_out = lmoe__ports(op->outputs);
    if (bind_operands(t, op, call, in, ports, why, sizeof why) != LMOE_OK)
        return fail(t, LMOE_E_USAGE, call->file, call->line, why);
    int32_t same = shortcut(t, op, attrs, in);
    if (same) {
        if (call->out && call->n_out > 0) call->out[0].id = same;
        return (lmoe_tensor){same};
    }

    for (int i = 0; i < ports; i++) desc[i] = t->graph->values[in[i]].desc;
    bool carry = t->carries && op->carry && !op->carry->reverse && in[op->carry->in] == 0;
    memset(out_desc, 0, sizeof out_desc);
    lmoe_status status = LMOE_OK;
    if (carry) {
        status = attach_carry_in(t, op, attrs, desc, ports, in);
        for (int i = 0; i < ports; i++) desc[i] = t->graph->values[in[i]].desc;
    }
    t->ctx->message[0] = 0;
    if (status == LMOE_OK) status = op->shape(t, attrs, desc, ports, out_desc);
    if (status != LMOE_OK) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s",
                 t->ctx->message[0] ? t->ctx->message : "bad operands");
        snprintf(why, sizeof why, "%s: %.1000s", call->op, reason);
        return fail(t, LMOE_E_CONFIG, call->file, call->line, why);
    }

    lmoe__node like = {.op = op, .n_in = ports, .n_out = n_out, .in = in, .layer = t->layer};
    like.attrs = (void *)(uintptr_t)attrs;
    like.forward = t->forward;
    if (t->forward < 0)
        like.recompute =
            t->recompute || (t->recompute_cheap &&
                             is_cheap(t->graph, op, call->attrs, in, desc, ports, out_desc, n_out));
    like.file = call->file;
    like.line = call->line;
    if (t->forward >= 0) { /* the line of the layer, not of the op's vjp */
        const lmoe__node *f = &t->graph->nodes[t->forward];
        like.file = f->file;
        like.line = f->line;
        like.layer = f->layer;
    }
    int index = lmoe__graph_append(t->graph, &like, out_desc);
    const lmoe__node *n = &t->graph->nodes[index];
    if (carry) attach_carry_out(t, op, n);
    if (strcmp(call->op, "fill/1") == 0)
        t->graph->values[n->out[0]].one = ((const lmoe_fill_attrs *)attrs)->value == 1;
    for (int i = 0; call->out && i < call->n_out; i++) call->out[i].id = i < n_out ? n->out[i] : 0;
    return (lmoe_tensor){n_out ? n->out[0] : 0};
}
