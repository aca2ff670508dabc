/* SPDX-License-Identifier: Apache-2.0
 * core/engine/pipeline.c: makes one rank's part of a pipeline: which layers are in which stage, the
 * cut, the order of work, slots, programs.
 */
#include "core/engine/pipeline.h"

#include <stdlib.h>

/* ---- who has which weight ---- */

int lmoe__engine_stage_rank(const lmoe__engine *e)
{
    return e->pipe_axis < 0 ? 0 : e->mesh.axis[e->pipe_axis].rank;
}

int lmoe__engine_stage_ranks(const lmoe__engine *e)
{
    return e->pipe_axis < 0 ? 1 : e->mesh.axis[e->pipe_axis].ranks;
}

bool lmoe__engine_holds(const lmoe__engine *e, int weight, int rank)
{
    return !e->on_rank || e->on_rank[weight * lmoe__engine_stage_ranks(e) + rank];
}

int lmoe__engine_owner(const lmoe__engine *e, int weight)
{
    int n = lmoe__engine_stage_ranks(e);
    for (int r = 0; e->on_rank && r < n; r++) {
        if (lmoe__engine_holds(e, weight, r)) return r;
    }
    return lmoe__engine_stage_rank(e);
}

const char *lmoe__engine_grad_of(char *buf, size_t n, const lmoe__engine *e, int weight, int from)
{
    const char *name = e->weights[weight].name;
    if (from == lmoe__engine_stage_rank(e))
        snprintf(buf, n, "grad:%s", name);
    else
        snprintf(buf, n, "grad:%s@%d", name, from);
    return buf;
}

bool lmoe__engine_has_layer(const lmoe__engine *e, int layer)
{
    return !e->layer_rank || e->layer_rank[layer] == lmoe__engine_stage_rank(e);
}

static void note_holders(lmoe__pipeline *p)
{
    lmoe__engine *e = p->engine;
    int ranks = p->axis->ranks;
    bool *used = LMOE_NEW_N(e->arena, bool, p->stages.count);
    bool *on_rank = LMOE_NEW_N(e->arena, bool, e->n_weights *ranks + 1);
    for (int i = 0; i < e->n_weights; i++) {
        lmoe__cut_readers(p->cut, e->weights[i].name, used);
        for (int s = 0; s < p->stages.count; s++) on_rank[i * ranks + s % ranks] |= used[s];
    }
    e->on_rank = on_rank;
    int *layer_rank = LMOE_NEW_N(e->arena, int, p->stages.layers);
    for (int i = 0; i < p->stages.layers; i++) layer_rank[i] = p->stages.of_layer[i] % ranks;
    e->layer_rank = layer_rank;
}

/* ---- which layers are in which stage ---- */

static double node_flops(const lmoe__graph *g, const lmoe__node *n)
{
    lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO];
    for (int k = 0; k < n->n_in; k++) in[k] = g->values[n->in[k]].desc;
    for (int k = 0; k < n->n_out; k++) out[k] = g->values[n->out[k]].desc;
    return n->op->flops ? n->op->flops(n->attrs, in, n->n_in, out, n->n_out) : 0;
}

static void add_costs(const lmoe__graph *g, double *cost, lmoe_stages *ask)
{
    bool after = false;
    for (int i = 0; i < g->n_nodes; i++) {
        const lmoe__node *n = &g->nodes[i];
        after |= n->layer >= 0;
        *(n->layer >= 0 ? &cost[n->layer]
          : after       ? &ask->cost_after
                        : &ask->cost_before) += node_flops(g, n);
    }
}

/* Also checks what the strategy says. */
static lmoe_status take_stages(lmoe__pipeline *p, lmoe_stages *ask)
{
    lmoe__engine *e = p->engine;
    int n = ask->ranks * ask->chunks, layer = 0;
    int32_t *of_layer = LMOE_NEW_N(e->arena, int32_t, ask->layers + 1);
    if (ask->chunks < 1 || ask->chunks > ask->layers / ask->ranks) layer = -1;
    for (int s = 0; layer >= 0 && s < n; s++) {
        if (ask->count[s] < 1 || ask->count[s] > ask->layers - layer) {
            layer = -1;
            break;
        }
        for (int k = 0; k < ask->count[s]; k++) of_layer[layer++] = s;
    }
    if (layer != ask->layers)
        return lmoe_error(e->ctx, LMOE_E_USAGE,
                          "mesh axis '%s': %s gives no cut of %d layers into %d chunks for each of "
                          "%d ranks, at least a layer in each",
                          p->axis->name, p->axis->strategy->base.name, ask->layers, ask->chunks,
                          ask->ranks);
    p->chunks = ask->chunks;
    p->stages = (lmoe__stages){n, ask->layers, of_layer};
    return LMOE_OK;
}

static lmoe_status choose_stages(lmoe__pipeline *p, const lmoe__graph *forward)
{
    lmoe__engine *e = p->engine;
    int layers = (int)e->model->o.layers;
    double *cost = LMOE_NEW_N(e->arena, double, layers + 1);
    lmoe_stages ask = {.size = sizeof ask,
                       .ranks = p->axis->ranks,
                       .layers = layers,
                       .cost = cost,
                       .count = LMOE_NEW_N(e->arena, int32_t, layers + 1)};
    add_costs(forward, cost, &ask);
    lmoe_status status = p->axis->strategy->stages(p->axis->options, &ask);
    ask.message[sizeof ask.message - 1] = 0;
    if (status != LMOE_OK)
        return lmoe_error(e->ctx, status, "mesh axis '%s' (%s): %s", p->axis->name,
                          p->axis->strategy->base.name,
                          *ask.message ? ask.message : "it gives no stages and does not say why");
    return take_stages(p, &ask);
}

/* The graph of all stages, of this rank on all other axes. */
static lmoe_status trace_whole(lmoe__pipeline *p, const lmoe__model_shape *shape)
{
    lmoe__engine *e = p->engine;
    lmoe_trace t;
    lmoe_tensor total;
    lmoe__model_shape s = *shape;
    s.training = s.add = p->train; /* to what is cleared before a step */
    lmoe__trace_init(&t, e->ctx, &e->model->ops, e->dtype);
    lmoe_status status = lmoe__model_trace(&t, e->model, &s, &total);
    if (status == LMOE_OK) {
        lmoe__engine_remember_weights(e, &t);
        status = choose_stages(p, t.graph);
    }
    if (status == LMOE_OK && p->train) {
        status = lmoe__stages_own_weights(&t, &p->stages);
        if (status == LMOE_OK) status = lmoe__model_backward(&t, total, true);
    }
    if (status == LMOE_OK) status = lmoe__engine_localise(e, &t, &p->whole);
    lmoe__trace_free(&t);
    return status;
}

/* ---- the order of work ---- */

static int stage_of(const lmoe__pipeline *p, int chunk)
{
    return chunk * p->axis->ranks + p->axis->rank;
}

static double *unit_costs(lmoe__pipeline *p)
{
    const lmoe__cut *c = p->cut;
    double *cost = LMOE_NEW_N(c->arena, double, 2 * c->stages);
    for (int i = 0; i < c->graph->n_nodes; i++) {
        double flops = c->live[i] ? node_flops(c->graph, &c->graph->nodes[i]) : 0;
        p->flops += flops;
        if (c->unit[i] >= 0) cost[c->unit[i]] += flops;
    }
    return cost;
}

/* Without backward passes nothing is kept, so each chunk takes all micro-batches in turn. */
static void forward_order(lmoe__pipeline *p)
{
    p->n_actions = p->chunks * p->micro_batches;
    p->actions = LMOE_NEW_N(p->cut->arena, lmoe_stage_action, p->n_actions);
    for (int i = 0; i < p->n_actions; i++)
        p->actions[i] = (lmoe_stage_action){0, i / p->micro_batches, i % p->micro_batches};
}

static lmoe_status choose_order(lmoe__pipeline *p)
{
    int ranks = p->axis->ranks;
    const lmoe_pipeline shape = {sizeof shape, ranks, p->chunks, p->micro_batches};
    const double *cost = unit_costs(p);
    if (!p->train) {
        forward_order(p);
        return LMOE_OK;
    }
    lmoe_stage_action **all = LMOE_NEW_N(p->cut->arena, lmoe_stage_action *, ranks);
    LMOE_TRY(lmoe__schedule(p->engine->ctx, p->cut->arena, p->axis, &shape, cost, all, &p->bubble));
    p->actions = all[p->axis->rank];
    p->n_actions = 2 * p->chunks * p->micro_batches;
    return LMOE_OK;
}

/* ---- slots ---- */

/* The last action of this rank that reads what the chunk holds of a micro-batch: its own backward
 * pass, or a later chunk of the same rank that is given something of it. */
static bool reads_chunk(const lmoe__pipeline *p, const lmoe_stage_action *a, int chunk)
{
    int n = p->stages.count, unit = lmoe__unit_of(n, stage_of(p, a->chunk), a->backward);
    if (a->chunk == chunk) return true;
    for (int i = 0; i < p->cut->n_transfers; i++) {
        const lmoe__transfer *t = &p->cut->transfers[i];
        if (t->to == unit && lmoe__unit_stage(n, t->from) == stage_of(p, chunk)) return true;
    }
    return false;
}

/* How many micro-batches a chunk holds at most at a time. They begin and end in their order, so
 * those that are held are consecutive. */
static int count_slots(const lmoe__pipeline *p, int chunk)
{
    int m = p->micro_batches, most = 1;
    int *first = calloc((size_t)m, sizeof *first), *last = calloc((size_t)m, sizeof *last);
    for (int i = 0; i < p->n_actions; i++) {
        const lmoe_stage_action *a = &p->actions[i];
        if (a->chunk == chunk && !a->backward) first[a->micro_batch] = i;
        if (reads_chunk(p, a, chunk)) last[a->micro_batch] = i;
    }
    for (int i = 0; i < m; i++) {
        int held = 0;
        for (int k = 0; k <= i; k++) held += last[k] >= first[i];
        if (held > most) most = held;
    }
    free(first);
    free(last);
    if (!p->train && most < 2 && m > 1) most = 2; /* one is sent while the other is made */
    return most;
}

/* ---- programs ---- */

static lmoe_status make_program(lmoe__pipeline *p, int unit, int slot, lmoe__program **out)
{
    lmoe__program *x = calloc(1, sizeof *x);
    lmoe_status status = lmoe__cut_graph(p->cut, unit, slot, &x->graph);
    x->inputs = p->whole.inputs;
    x->n_inputs = p->whole.n_inputs;
    if (status != LMOE_OK) {
        free(x);
        return status;
    }
    LMOE_TRY(lmoe__engine_lay_out(p->engine, x));
    *out = x;
    return LMOE_OK;
}

static lmoe_status make_unit(lmoe__pipeline *p, lmoe__pipe_chunk *c, bool backward)
{
    lmoe__pipe_unit *u = &c->pass[backward];
    lmoe__arena *a = p->cut->arena;
    int unit = lmoe__unit_of(p->stages.count, c->stage, backward);
    u->programs = LMOE_NEW_N(a, lmoe__program *, c->slots);
    u->in = LMOE_NEW_N(a, int, p->cut->n_transfers + 1);
    u->out = LMOE_NEW_N(a, int, p->cut->n_transfers + 1);
    for (int i = 0; i < p->cut->n_transfers; i++) {
        if (p->cut->transfers[i].to == unit) u->in[u->n_in++] = i;
        if (p->cut->transfers[i].from == unit) u->out[u->n_out++] = i;
    }
    for (int slot = 0; slot < c->slots; slot++)
        LMOE_TRY(make_program(p, unit, slot, &u->programs[slot]));
    u->flops = u->programs[0]->plan->flops;
    return LMOE_OK;
}

static lmoe_status make_chunk(lmoe__pipeline *p, int chunk)
{
    lmoe__pipe_chunk *c = &p->chunk[chunk];
    c->stage = stage_of(p, chunk);
    c->slots = count_slots(p, chunk);
    LMOE_TRY(make_unit(p, c, false));
    if (p->train) LMOE_TRY(make_unit(p, c, true));
    c->n_sends = c->pass[0].n_out + c->pass[1].n_out;
    c->sends = LMOE_NEW_N(p->cut->arena, void *, c->slots * c->n_sends + 1);
    c->n_open = LMOE_NEW_N(p->cut->arena, int, c->slots);
    return LMOE_OK;
}

/* ---- results, shared gradients ---- */

static bool is_report(const lmoe__value *v)
{
    if (!v->name || v->kind != LMOE_VALUE_STATE) return false;
    return strncmp(v->name, "aux:", 4) == 0 || strncmp(v->name, "stat:", 5) == 0;
}

/* Rank 0 of the axis reports: it has buffers for what others add up. */
static lmoe_status list_results(lmoe__pipeline *p)
{
    const lmoe__graph *g = p->whole.graph;
    p->results = LMOE_NEW_N(p->cut->arena, lmoe__pipe_result, g->n_values);
    for (int i = 0; p->train && i < g->n_nodes; i++) {
        const lmoe__node *n = &g->nodes[i];
        const lmoe__value *v = &g->values[n->n_in ? n->in[0] : 0];
        if (!is_report(v)) continue;
        int stage = lmoe__unit_stage(p->stages.count, p->cut->unit[i]);
        p->results[p->n_results++] = (lmoe__pipe_result){v->name, stage % p->axis->ranks};
        if (p->axis->rank == 0 &&
            lmoe__store_add(&p->engine->store, v->name, &v->desc, LMOE__MEM_INPUT) < 0)
            return p->engine->ctx->status;
    }
    const lmoe_desc scalar = {.dtype = LMOE_F64};
    bool made = lmoe__store_add(&p->engine->store, "pipe/loss", &scalar, LMOE__MEM_INPUT) >= 0;
    return made ? LMOE_OK : p->engine->ctx->status;
}

static lmoe_status check_tags(const lmoe__pipeline *p)
{
    int n = p->cut->n_transfers + p->n_results + p->engine->n_weights;
    if (n <= LMOE_MAX_TAG) return LMOE_OK;
    return lmoe_error(p->engine->ctx, LMOE_E_UNSUPPORTED,
                      "the stages of the pipeline exchange %d tensors, and %d can be told apart; "
                      "take fewer stages",
                      n, LMOE_MAX_TAG);
}

/* Communicators of device memory hand messages over in the order in which they are sent, whatever
 * their tags. Messages are expected in that order where each rank has one stage and all that a stage
 * gives to another one goes from one of its passes to one of the other's. */
static lmoe_status check_order(const lmoe__pipeline *p)
{
    const lmoe_comm *c = p->comm->comm;
    int n = p->stages.count;
    bool mixed = p->chunks > 1;
    if (!c || !(c->base.flags & LMOE_COMM_DEVICE)) return LMOE_OK;
    for (int i = 0; i < p->cut->n_transfers; i++) {
        const lmoe__transfer *a = &p->cut->transfers[i];
        for (int k = 0; k < i; k++) {
            const lmoe__transfer *b = &p->cut->transfers[k];
            bool same = lmoe__unit_stage(n, a->from) == lmoe__unit_stage(n, b->from) &&
                        lmoe__unit_stage(n, a->to) == lmoe__unit_stage(n, b->to);
            mixed |= same && (a->from != b->from || a->to != b->to);
        }
    }
    if (!mixed) return LMOE_OK;
    return lmoe_error(p->engine->ctx, LMOE_E_UNSUPPORTED,
                      "mesh axis '%s': these stages need messages in another order than %s hands "
                      "them over; %s",
                      p->axis->name, c->base.name,
                      p->chunks > 1 ? "set [pp] interleave = 1"
                                    : "take other [pp] layers, or another communicator");
}

static lmoe_status make(lmoe__pipeline *p, const lmoe__model_shape *shape)
{
    lmoe__engine *e = p->engine;
    LMOE_TRY(trace_whole(p, shape));
    LMOE_TRY(
        lmoe__cut_new(e->ctx, p->whole.graph, &p->stages, p->train ? "train" : "eval", &p->cut));
    if (p->train || !e->on_rank) note_holders(p);
    LMOE_TRY(check_order(p));
    LMOE_TRY(choose_order(p));
    p->chunk = LMOE_NEW_N(p->cut->arena, lmoe__pipe_chunk, p->chunks);
    for (int i = 0; i < p->chunks; i++) LMOE_TRY(make_chunk(p, i));
    LMOE_TRY(list_results(p));
    return check_tags(p);
}

lmoe_status lmoe__pipeline_new(lmoe__engine *e, const lmoe__model_shape *shape, int micro_batches,
                               bool train, lmoe__pipeline **out)
{
    lmoe__pipeline *p = calloc(1, sizeof *p);
    p->engine = e;
    p->axis = &e->mesh.axis[e->pipe_axis];
    p->comm = &e->mesh.comm[e->pipe_axis];
    p->train = train;
    p->micro_batches = micro_batches;
    lmoe_status status = make(p, shape);
    if (status != LMOE_OK) {
        lmoe__pipeline_free(p);
        return status;
    }
    *out = p;
    return LMOE_OK;
}

/* Requests that are still open end with the communicator. */
void lmoe__pipeline_free(lmoe__pipeline *p)
{
    if (!p) return;
    lmoe__cut_free(p->cut);
    lmoe__graph_free(p->whole.graph);
    free(p);
}

void lmoe__pipeline_eager(lmoe__pipeline *p, bool eager)
{
    for (int i = 0; i < p->chunks; i++) {
        for (int slot = 0; slot < p->chunk[i].slots; slot++) {
            for (int b = 0; b <= p->train; b++)
                p->chunk[i].pass[b].programs[slot]->plan->eager = eager;
        }
    }
}
