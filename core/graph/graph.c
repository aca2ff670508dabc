/* SPDX-License-Identifier: Apache-2.0
 * core/graph/graph.c: the recorded graph as a container.
 */
#include "core/graph/graph.h"

#include "core/conf/conf.h"
#include "core/op/op.h"

#include <stdlib.h>

lmoe__graph *lmoe__graph_new(void)
{
    lmoe__arena *arena = lmoe__arena_new();
    lmoe__graph *g = LMOE_NEW(arena, lmoe__graph);
    lmoe__value absent = {.node = -1};
    g->arena = arena;
    LMOE_PUSH(g->values, g->n_values, g->cap_values, absent);
    return g;
}

void lmoe__graph_free(lmoe__graph *g)
{
    if (!g) return;
    free(g->values);
    free(g->nodes);
    free(g->results);
    free(g->axes);
    lmoe__arena_free(g->arena);
}

const char *lmoe__graph_axis(lmoe__graph *g, const char *word, size_t n)
{
    for (int i = 0; i < g->n_axes; i++) {
        if (strlen(g->axes[i]) == n && memcmp(g->axes[i], word, n) == 0) return g->axes[i];
    }
    const char *name = lmoe__arena_printf(g->arena, "%.*s", (int)n, word);
    LMOE_PUSH(g->axes, g->n_axes, g->cap_axes, name);
    return name;
}

/* Axis texts of a description may belong to attributes or to another graph. */
static void adopt_axes(lmoe__graph *g, lmoe_desc *d)
{
    for (int i = 0; i < d->rank; i++)
        d->axis[i] = lmoe__graph_axis(g, d->axis[i], strlen(d->axis[i]));
}

int32_t lmoe__graph_enter(lmoe__graph *g, lmoe_value_kind kind, const char *name,
                          const lmoe_desc *desc)
{
    lmoe__value v = {.desc = *desc, .node = -1, .kind = kind};
    v.name = lmoe__arena_strdup(g->arena, name);
    adopt_axes(g, &v.desc);
    LMOE_PUSH(g->values, g->n_values, g->cap_values, v);
    return g->n_values - 1;
}

void lmoe__graph_result(lmoe__graph *g, int32_t value, const char *name)
{
    lmoe__result r = {value, lmoe__arena_strdup(g->arena, name)};
    LMOE_PUSH(g->results, g->n_results, g->cap_results, r);
}

int32_t lmoe__graph_find(const lmoe__graph *g, const char *name)
{
    for (int i = 1; i < g->n_values; i++) {
        if (g->values[i].name && strcmp(g->values[i].name, name) == 0) return i;
    }
    return 0;
}

int lmoe__ports(const lmoe_port *ports)
{
    int n = 0;
    while (ports && ports[n].name) n++;
    return n;
}

bool lmoe__attrs_grown(lmoe__graph *g, const lmoe_op *op, size_t size, const void **attrs)
{
    const size_t ours = op->base.options_size;
    if (size >= ours) return size == ours;
    char *grown = lmoe__arena_alloc(g->arena, ours);
    lmoe__options_default(op->base.options, grown, g->arena);
    if (size) memcpy(grown, *attrs, size);
    *attrs = grown;
    return true;
}

int lmoe__graph_append(lmoe__graph *g, const lmoe__node *like, const lmoe_desc *out_desc)
{
    lmoe__node n = *like;
    size_t attr_bytes = like->op->base.options_size;
    n.in = LMOE_NEW_N(g->arena, int32_t, n.n_in + 1);
    n.out = LMOE_NEW_N(g->arena, int32_t, n.n_out + 1);
    n.attrs = lmoe__arena_alloc(g->arena, attr_bytes ? attr_bytes : 1);
    memcpy(n.in, like->in, sizeof(int32_t) * (size_t)n.n_in);
    if (attr_bytes) memcpy(n.attrs, like->attrs, attr_bytes);
    for (int i = 0; i < n.n_out; i++) {
        lmoe__value v = {.desc = out_desc[i], .node = g->n_nodes, .port = i};
        if (out_desc[i].dtype == LMOE_NONE) continue;
        adopt_axes(g, &v.desc);
        LMOE_PUSH(g->values, g->n_values, g->cap_values, v);
        n.out[i] = g->n_values - 1;
    }
    LMOE_PUSH(g->nodes, g->n_nodes, g->cap_nodes, n);
    return g->n_nodes - 1;
}

const char *lmoe__node_where(const lmoe__node *n, char *buf, size_t size)
{
    const char *slash = n->file ? strrchr(n->file, '/') : NULL;
    const char *file = slash ? slash + 1 : n->file ? n->file : "?";
    int used = n->line > 0 ? snprintf(buf, size, "%s:%d", file, n->line)
                           : snprintf(buf, size, "%s", file); /* no line of a layer's: a name */
    if (n->layer >= 0 && used > 0 && (size_t)used < size)
        snprintf(buf + used, size - (size_t)used, ", layer %d", n->layer);
    return buf;
}

void lmoe__op_set_init(lmoe__op_set *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; lmoe__ops[i]; i++) LMOE_PUSH(s->ops, s->count, s->capacity, lmoe__ops[i]);
}

void lmoe__op_set_free(lmoe__op_set *s)
{
    free(s->ops);
    memset(s, 0, sizeof *s);
}

const lmoe_op *lmoe__op_find(const lmoe__op_set *s, const char *name)
{
    for (int i = 0; i < s->count; i++) {
        if (strcmp(s->ops[i]->base.name, name) == 0) return s->ops[i];
    }
    return NULL;
}
