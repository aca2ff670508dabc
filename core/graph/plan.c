/* SPDX-License-Identifier: Apache-2.0
 * core/graph/plan.c: from a graph to a list of launches with every buffer laid out.
 *
 *  1. Nodes that no result and no change of state depends on are dropped; outputs that nobody
 *     reads are absent.
 *  2. Values share storage where an op is a view, or may write over an operand that dies there.
 *  3. What has a name lives in the store. The rest shares one block: the largest first, each at
 *     the lowest offset where no value alive at the same time lies.
 *  4. Each node gets the kernel with the highest score, or its reference.
 */
#include "core/graph/graph.h"

#include "core/op/op.h"

#include <stdlib.h>

typedef struct storage { /* of the values that share it; indexed by root value */
    int first, last;     /* steps at which it is alive */
    int last_read;       /* last, but for exchanges that are still under way */
    int64_t bytes, offset;
    void *fixed; /* in the store */
    bool named;
} storage;

typedef struct planner {
    lmoe_ctx *ctx;
    lmoe__graph *g;
    lmoe__store *store;
    bool *live;    /* node is needed */
    int *wait;     /* of exchanges: node before which it is waited for */
    int *uses;     /* live readers of a value, results included */
    int32_t *root; /* value -> value whose storage it shares */
    storage *at;   /* by root */
} planner;

/* The node's outputs are not all that it is for. */
static bool has_effect(const lmoe__node *n)
{
    if (n->n_out == 0) return true;
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] && (n->op->inputs[i].flags & LMOE_PORT_MUTATES)) return true;
    }
    return false;
}

static bool reads(const lmoe__node *n, int k)
{
    return n->in[k] && !(n->op->inputs[k].flags & LMOE_PORT_SHAPE);
}

static void find_live(planner *p)
{
    lmoe__graph *g = p->g;
    for (int i = 0; i < g->n_results; i++) p->uses[g->results[i].value]++;
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        lmoe__node *n = &g->nodes[i];
        bool live = has_effect(n);
        for (int k = 0; k < n->n_out; k++) live |= n->out[k] && p->uses[n->out[k]] > 0;
        p->live[i] = live;
        for (int k = 0; live && k < n->n_in; k++) {
            if (reads(n, k)) p->uses[n->in[k]]++;
        }
    }
}

static int32_t root_of(const planner *p, int32_t v)
{
    while (p->root[v] != v) v = p->root[v];
    return v;
}

static int kind_of_name(const lmoe__value *v, const char *name)
{
    if (v->kind == LMOE_VALUE_PARAM) return LMOE__MEM_WEIGHT;
    if (v->kind == LMOE_VALUE_INPUT) return LMOE__MEM_INPUT;
    if (strncmp(name, "grad:", 5) == 0) return LMOE__MEM_GRADIENT;
    if (strncmp(name, "adam_", 5) == 0) return LMOE__MEM_OPTIMISER;
    if (strncmp(name, "master:", 7) == 0) return LMOE__MEM_OPTIMISER;
    if (strncmp(name, "carry/", 6) == 0) return LMOE__MEM_CARRY;
    if (strncmp(name, "save/", 5) == 0) return LMOE__MEM_ACTIVATION; /* of a pipeline's stage */
    return LMOE__MEM_INPUT;
}

static lmoe_status fix(planner *p, int32_t v, const char *name)
{
    char with_shape[256];
    if (p->g->values[v].kind == LMOE_VALUE_INPUT)
        name = lmoe__store_input(with_shape, sizeof with_shape, name, &p->g->values[v].desc);
    int b = lmoe__store_add(p->store, name, &p->g->values[v].desc,
                            kind_of_name(&p->g->values[v], name));
    if (b < 0) return p->ctx->status;
    storage *s = &p->at[root_of(p, v)];
    s->fixed = p->store->buffers[b].data;
    s->named = true;
    return LMOE_OK;
}

/* Last step at which each root is read, over the values that share it so far. */
static void extend_life(planner *p, int32_t v, int step)
{
    storage *s = &p->at[root_of(p, v)];
    if (step > s->last) s->last = s->last_read = step;
}

/* Output k may take over the storage of an operand that is not read after this node. */
static void share(planner *p, int step, int k)
{
    lmoe__node *n = &p->g->nodes[step];
    int32_t out = n->out[k];
    if (!out) return;
    if (n->op->view && k == 0) {
        p->root[out] = root_of(p, n->in[0]);
        return;
    }
    int from = n->op->inplace ? n->op->inplace[k] - 1 : -1;
    if (from < 0 || from >= n->n_in || !n->in[from]) return;
    int32_t r = root_of(p, n->in[from]);
    bool own = lmoe__exchange_kind(n->op) && p->at[r].last == p->wait[step];
    bool dies = p->at[r].last_read == step && (own || p->at[r].last == step) && !p->at[r].named;
    bool same = lmoe_desc_bytes(&p->g->values[out].desc) == lmoe_desc_bytes(&p->g->values[r].desc);
    for (int i = 0; i < n->n_in;
         i++) { /* another operand in the same storage would be overwritten too */
        if (i != from && n->in[i] && root_of(p, n->in[i]) == r) dies = false;
    }
    for (int i = 0; i < k; i++) {
        if (n->out[i] && root_of(p, n->out[i]) == r) dies = false;
    }
    if (dies && same) p->root[out] = r;
}

/* Node before which the exchange at node `step` must be complete: the first that reads what it
 * gives. What is only sent is given some steps to get away. Its operands live until then. */
static int wait_of(const planner *p, int step)
{
    enum { SENDING = 16 };
    const lmoe__graph *g = p->g;
    const lmoe__node *n = &g->nodes[step];
    int end = n->n_out == 0 && step + SENDING < g->n_nodes ? step + SENDING : g->n_nodes;
    for (int i = step + 1; i < end; i++) {
        const lmoe__node *reader = &g->nodes[i];
        for (int k = 0; p->live[i] && !reader->op->view && k < reader->n_in; k++) {
            for (int o = 0; o < n->n_out; o++) {
                if (reads(reader, k) && n->out[o] && root_of(p, reader->in[k]) == n->out[o])
                    return i;
            }
        }
    }
    return end;
}

/* A pass over the steps finds storages and their lives. Reads of a value must be known before
 * sharing is decided, so lives of single values come first; a view extends its root's life by its
 * own readers. */
static lmoe_status find_storage(planner *p)
{
    lmoe__graph *g = p->g;
    for (int v = 0; v < g->n_values; v++) {
        p->root[v] = v;
        p->at[v] = (storage){
            .first = -1, .last = -1, .last_read = -1, .bytes = lmoe_desc_bytes(&g->values[v].desc)};
    }
    for (int v = 1; v < g->n_values; v++) {
        if (g->values[v].name && p->uses[v] > 0) LMOE_TRY(fix(p, v, g->values[v].name));
    }
    for (int i = 0; i < g->n_nodes; i++) { /* views first: they only rename */
        lmoe__node *n = &g->nodes[i];
        if (p->live[i] && n->op->view && n->out[0]) p->root[n->out[0]] = root_of(p, n->in[0]);
    }
    for (int i = 0; i < g->n_nodes; i++) {
        lmoe__node *n = &g->nodes[i];
        for (int k = 0; p->live[i] && k < n->n_in; k++) {
            if (reads(n, k)) extend_life(p, n->in[k], i);
        }
    }
    for (int i = 0; i < g->n_results; i++) extend_life(p, g->results[i].value, g->n_nodes);
    for (int i = 0; i < g->n_nodes; i++) {
        lmoe__node *n = &g->nodes[i];
        if (!p->live[i] || !lmoe__exchange_kind(n->op)) continue;
        p->wait[i] = wait_of(p, i);
        for (int k = 0; k < n->n_in; k++) {
            storage *s = &p->at[root_of(p, n->in[k])];
            if (reads(n, k) && p->wait[i] > s->last) s->last = p->wait[i];
        }
    }
    for (int i = 0; i < g->n_nodes; i++) {
        lmoe__node *n = &g->nodes[i];
        for (int k = 0; p->live[i] && k < n->n_out; k++) {
            if (!n->out[k] || p->uses[n->out[k]] == 0) continue;
            if (n->op->view && k == 0) continue;
            storage own = p->at[n->out[k]];
            share(p, i, k);
            storage *s = &p->at[root_of(p, n->out[k])];
            if (s->first < 0) s->first = i;
            if (own.last > s->last) s->last = own.last;
        }
    }
    return LMOE_OK;
}

/* A result's storage is its buffer in the store. A carry is written over the one that entered. */
static lmoe_status bind_results(planner *p)
{
    lmoe__graph *g = p->g;
    for (int i = 0; i < g->n_results; i++) {
        int32_t v = g->results[i].value;
        const char *name = g->results[i].name;
        size_t n = strlen(name);
        if (p->at[root_of(p, v)].named) {
            return lmoe_error(p->ctx, LMOE_E_INTERNAL, "the result '%s' is another named value",
                              name);
        }
        if (n > 1 && name[n - 1] == '\'') { /* carry out */
            char *in = lmoe__arena_printf(g->arena, "%.*s", (int)(n - 1), name);
            LMOE_TRY(fix(p, v, in));
        } else {
            LMOE_TRY(fix(p, v, name));
        }
    }
    return LMOE_OK;
}

typedef struct placed {
    int32_t root;
    int64_t bytes;
} placed;

static int larger_first(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->root - y->root;
}

/* Greedy by size: near the optimum for such lifetimes, and simple. */
static int64_t lay_out(planner *p)
{
    placed *list = NULL, *done = NULL;
    int n = 0, cap = 0, n_done = 0, cap_done = 0;
    int64_t top = 0;
    for (int32_t v = 1; v < p->g->n_values; v++) {
        storage *s = &p->at[v];
        if (root_of(p, v) != v || s->fixed || s->first < 0) continue;
        placed x = {v, (s->bytes + 63) / 64 * 64};
        LMOE_PUSH(list, n, cap, x);
    }
    if (n) qsort(list, (size_t)n, sizeof *list, larger_first);
    for (int i = 0; i < n; i++) { /* `done` is kept sorted by offset */
        storage *s = &p->at[list[i].root];
        int64_t offset = 0;
        for (int k = 0; k < n_done; k++) {
            storage *o = &p->at[done[k].root];
            if (o->last < s->first || s->last < o->first) continue;
            if (offset + list[i].bytes <= o->offset) break;
            if (o->offset + done[k].bytes > offset) offset = o->offset + done[k].bytes;
        }
        s->offset = offset;
        LMOE_PUSH(done, n_done, cap_done, list[i]);
        for (int k = n_done - 1; k > 0 && p->at[done[k - 1].root].offset > offset; k--) {
            placed swap = done[k - 1];
            done[k - 1] = done[k];
            done[k] = swap;
        }
        if (offset + list[i].bytes > top) top = offset + list[i].bytes;
    }
    free(list);
    free(done);
    return top;
}

const lmoe_kernel *lmoe__kernel_of(const lmoe_device *device, const lmoe_op *op,
                                   const lmoe_args *args)
{
    const lmoe_kernel *best = NULL;
    int most = 0;
    for (int i = 0; device->kernels && device->kernels[i]; i++) {
        const lmoe_kernel *k = device->kernels[i];
        if (strcmp(k->op, op->base.name) != 0) continue;
        int score = k->score(args);
        if (score > most) {
            most = score;
            best = k;
        }
    }
    return best;
}

static lmoe_status choose_kernel(planner *p, lmoe__step *s)
{
    const lmoe_device *device = p->store->device;
    const lmoe__node *n = s->node;
    char where[160];
    s->exchange = lmoe__exchange_kind(n->op);
    if (s->exchange) return LMOE_OK;
    s->kernel = lmoe__kernel_of(device, n->op, &s->args);
    if (!s->kernel && strcmp(device->device, "cpu") != 0) {
        return lmoe_error(
            p->ctx, LMOE_E_UNSUPPORTED,
            "%s: %s has no kernel for the op %s with these shapes; use device/cpu or a plugin "
            "that brings the kernel",
            lmoe__node_where(n, where, sizeof where), device->base.name, n->op->base.name);
    }
    return LMOE_OK;
}

static void describe_buf(planner *p, int32_t v, lmoe_buf *b)
{
    const lmoe_desc *d = &p->g->values[v].desc;
    memset(b, 0, sizeof *b);
    if (!v) return;
    b->dtype = d->dtype;
    b->rank = d->rank;
    memcpy(b->dim, d->dim, sizeof b->dim);
}

static void add_wait(lmoe__plan *plan, int **list, int *n, int step)
{
    int *longer = LMOE_NEW_N(plan->arena, int, *n + 1);
    if (*n) memcpy(longer, *list, sizeof *longer * (size_t)*n);
    longer[(*n)++] = step;
    *list = longer;
}

/* Exchanges are waited for before the first step whose node is at, or behind, the one that needs
 * them. */
static void set_waits(planner *p, lmoe__plan *plan)
{
    const lmoe__node *nodes = p->g->nodes;
    for (int i = 0; i < plan->n_steps; i++) {
        lmoe__step *s = &plan->steps[i];
        if (!s->exchange) continue;
        const lmoe_collective_attrs *a = s->node->attrs;
        int64_t table = s->node->n_in > 1 ? lmoe_buf_count(&s->args.in[1]) : 0;
        if (s->exchange == LMOE_ALL_TO_ALL_V)
            s->counts = LMOE_NEW_N(plan->arena, int64_t, 2 * a->ranks + (table + 1) / 2);
        int at = i + 1;
        while (at < plan->n_steps && plan->steps[at].node - nodes < p->wait[s->node - nodes]) at++;
        if (at < plan->n_steps)
            add_wait(plan, &plan->steps[at].waits, &plan->steps[at].n_waits, i);
        else
            add_wait(plan, &plan->last_waits, &plan->n_last_waits, i);
    }
}

/* Weights that no node of the plan changes. */
static uint64_t constants_of(const planner *p, const lmoe__node *n, const bool *changed)
{
    uint64_t bits = 0;
    for (int k = 0; k < n->n_in; k++) {
        int32_t v = n->in[k];
        if (v && p->g->values[v].kind == LMOE_VALUE_PARAM && !changed[v]) bits |= (uint64_t)1 << k;
    }
    return bits;
}

static bool *find_changed(planner *p, lmoe__arena *arena)
{
    const lmoe__graph *g = p->g;
    bool *changed = LMOE_NEW_N(arena, bool, g->n_values);
    for (int i = 0; i < g->n_nodes; i++) {
        const lmoe__node *n = &g->nodes[i];
        for (int k = 0; k < n->n_in; k++)
            changed[n->in[k]] |= (n->op->inputs[k].flags & LMOE_PORT_MUTATES) != 0;
    }
    return changed;
}

static lmoe_status make_steps(planner *p, lmoe__plan *plan)
{
    lmoe__graph *g = p->g;
    const bool *changed = find_changed(p, plan->arena);
    plan->steps = LMOE_NEW_N(plan->arena, lmoe__step, g->n_nodes + 1);
    for (int i = 0; i < g->n_nodes; i++) {
        lmoe__node *n = &g->nodes[i];
        if (!p->live[i] || n->op->view) continue;
        lmoe__step *s = &plan->steps[plan->n_steps++];
        s->node = n;
        s->bufs = LMOE_NEW_N(plan->arena, lmoe_buf, n->n_in + n->n_out + 1);
        for (int k = 0; k < n->n_in; k++) describe_buf(p, n->in[k], &s->bufs[k]);
        for (int k = 0; k < n->n_out; k++) {
            if (n->out[k] && p->uses[n->out[k]] > 0)
                describe_buf(p, n->out[k], &s->bufs[n->n_in + k]);
        }
        s->args = (lmoe_args){
            .size = sizeof s->args, .attrs = n->attrs, .n_in = n->n_in, .n_out = n->n_out};
        s->args.in = s->bufs;
        s->args.out = s->bufs + n->n_in;
        s->args.ctx = p->ctx;
        s->args.constant = constants_of(p, n, changed);
        LMOE_TRY(choose_kernel(p, s));
        if (s->kernel && s->kernel->workspace)
            s->args.workspace_size = (s->kernel->workspace(&s->args) + 63) / 64 * 64;
        if ((int64_t)s->args.workspace_size > plan->workspace_bytes)
            plan->workspace_bytes = (int64_t)s->args.workspace_size;
        plan->has_exchange |= s->exchange != 0;
        if (n->op->flops) {
            lmoe_desc in[LMOE_MAX_IO], out[LMOE_MAX_IO];
            for (int k = 0; k < n->n_in; k++) in[k] = g->values[n->in[k]].desc;
            for (int k = 0; k < n->n_out; k++) out[k] = g->values[n->out[k]].desc;
            plan->flops += n->op->flops(n->attrs, in, n->n_in, out, n->n_out);
        }
    }
    set_waits(p, plan);
    return LMOE_OK;
}

/* Where each value lies: pointers of the store, or offsets (as pointers from NULL) into the
 * activations. */
static void place_bufs(planner *p, lmoe__plan *plan)
{
    for (int i = 0; i < plan->n_steps; i++) {
        lmoe__step *s = &plan->steps[i];
        for (int k = 0; k < s->node->n_in + s->node->n_out; k++) {
            int32_t v = k < s->node->n_in ? s->node->in[k] : s->node->out[k - s->node->n_in];
            if (s->bufs[k].dtype == LMOE_NONE) continue;
            storage *at = &p->at[root_of(p, v)];
            s->bufs[k].data = at->fixed ? at->fixed : (char *)plan->activations_base + at->offset;
        }
    }
}

static int32_t view_root(const lmoe__graph *g, int32_t v)
{
    while (g->values[v].node >= 0 && g->values[v].port == 0 && g->nodes[g->values[v].node].op->view)
        v = g->nodes[g->values[v].node].in[0];
    return v;
}

/* A result needs storage of its own: one that entered, or leaves under another name too, is copied.
 */
static void copy_shared_results(lmoe__graph *g)
{
    for (int i = 0; i < g->n_results; i++) {
        int32_t v = g->results[i].value, root = view_root(g, v);
        bool shared = g->values[root].name != NULL;
        for (int k = 0; k < i; k++) shared |= view_root(g, g->results[k].value) == root;
        if (!shared) continue;
        lmoe_affine_attrs attrs = {1, 0};
        lmoe__node copy = {
            .op = &lmoe__op_affine, .n_in = 1, .n_out = 1, .in = &v, .attrs = &attrs};
        copy.layer = copy.forward = -1;
        lmoe_desc d = g->values[v].desc;
        g->results[i].value = g->nodes[lmoe__graph_append(g, &copy, &d)].out[0];
    }
}

lmoe_status lmoe__plan_new(lmoe_ctx *ctx, lmoe__graph *g, lmoe__store *store,
                           const lmoe__mesh_comm *comms, lmoe__plan **out)
{
    copy_shared_results(g);
    lmoe__graph_order(g);
    size_t values = (size_t)g->n_values, nodes = (size_t)g->n_nodes + 1;
    lmoe__arena *arena = lmoe__arena_new();
    lmoe__plan *plan = LMOE_NEW(arena, lmoe__plan);
    planner *p = LMOE_NEW(arena, planner);
    plan->ctx = ctx;
    plan->graph = g;
    plan->store = store;
    plan->arena = arena;
    plan->comms = comms;
    plan->planner = p;
    *p = (planner){.ctx = ctx, .g = g, .store = store};
    p->live = LMOE_NEW_N(arena, bool, nodes);
    p->wait = LMOE_NEW_N(arena, int, nodes);
    p->uses = LMOE_NEW_N(arena, int, values);
    p->root = LMOE_NEW_N(arena, int32_t, values);
    p->at = LMOE_NEW_N(arena, storage, values);
    find_live(p);
    lmoe_status status = find_storage(p);
    if (status == LMOE_OK) status = bind_results(p);
    if (status == LMOE_OK) {
        plan->arena_bytes = lay_out(p);
        status = make_steps(p, plan);
    }
    if (status != LMOE_OK) {
        lmoe__arena_free(arena);
        return status;
    }
    *out = plan;
    return LMOE_OK;
}

/* Bytes of activations that are alive while step i runs. */
static int64_t alive_at(const planner *p, int node)
{
    int64_t bytes = 0;
    for (int32_t v = 1; v < p->g->n_values; v++) {
        const storage *s = &p->at[v];
        if (p->root[v] == v && !s->fixed && !s->named && s->first >= 0 && s->first <= node &&
            s->last >= node)
            bytes += s->bytes;
    }
    return bytes;
}

int lmoe__plan_peak(const lmoe__plan *plan, const lmoe__node **at, lmoe__alive *list, int max)
{
    const planner *p = plan->planner;
    const lmoe__graph *g = p->g;
    int64_t most = -1;
    int n = 0, peak = 0;
    for (int i = 0; i < plan->n_steps; i++) {
        int node = (int)(plan->steps[i].node - g->nodes);
        int64_t bytes = alive_at(p, node);
        if (bytes > most) {
            most = bytes;
            peak = node;
        }
    }
    *at = &g->nodes[peak];
    for (int32_t v = 1; v < g->n_values; v++) {
        const storage *s = &p->at[v];
        if (p->root[v] != v || s->fixed || s->named || s->first < 0 || s->first > peak ||
            s->last < peak)
            continue;
        const lmoe__node *maker = &g->nodes[s->first];
        int k = 0;
        while (k < n && (list[k].op != maker->op || list[k].backward != (maker->forward >= 0) ||
                         strcmp(list[k].file ? list[k].file : "", maker->file ? maker->file : "") ||
                         list[k].line != maker->line))
            k++;
        if (k == n && n == max) continue;
        if (k == n)
            list[n++] =
                (lmoe__alive){maker->op, maker->file, maker->line, maker->forward >= 0, 0, 0};
        list[k].bytes += s->bytes;
        list[k].count++;
    }
    return n;
}

lmoe_status lmoe__plan_bind(lmoe__plan *plan, void *activations, void *workspace)
{
    const lmoe_device *device = plan->store->device;
    void *stream =
        device->stream && !plan->store->sizes_only ? device->stream(plan->store->dev) : NULL;
    plan->activations_base = activations;
    place_bufs(plan->planner, plan);
    for (int i = 0; i < plan->n_steps; i++) {
        lmoe__step *s = &plan->steps[i];
        s->args.workspace = s->args.workspace_size ? workspace : NULL;
        s->args.stream = stream;
        s->args.dev = plan->store->dev;
        if (s->kernel && s->kernel->prepare)
            LMOE_TRY(s->kernel->prepare(&s->args, &s->args.prepared));
    }
    return LMOE_OK;
}

void lmoe__plan_free(lmoe__plan *plan)
{
    if (!plan) return;
    for (int i = 0; i < plan->n_steps; i++) {
        lmoe__step *s = &plan->steps[i];
        if (s->kernel && s->kernel->release && s->args.prepared)
            s->kernel->release(s->args.prepared);
    }
    if (plan->captured) plan->store->device->release(plan->store->dev, plan->captured);
    lmoe__arena_free(plan->arena);
}
