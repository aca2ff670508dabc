/* SPDX-License-Identifier: Apache-2.0
 * core/graph/graph.h: the recorded graph, from trace to plan.
 *
 *   trace (trace.c)      layers record ops over values          values have global shapes
 *   vjp (vjp.c)          the backward pass is recorded behind    same graph
 *   split (split.c)      each strategy makes a new graph         shapes of one rank
 *   plan (plan.c)        dead nodes out, memory laid out, kernels chosen
 *   replay (replay.c)    launches the kernels, each step
 *
 * Values and nodes are numbered in recording order; value 0 is "absent". What enters a graph
 * (weights, inputs, carries) and what leaves it has a name; a plan finds the buffers of these names
 * in a store (store.c).
 */
#ifndef LMOE_CORE_GRAPH_H
#define LMOE_CORE_GRAPH_H

#include <lmoe/device.h>
#include <lmoe/comm.h>
#include <lmoe/graph.h>
#include <lmoe/ops.h>

#include "core/base/base.h"

typedef struct lmoe__value {
    lmoe_desc desc;
    int32_t node;         /* that makes it; -1: it enters the graph */
    int32_t port;         /* which output of the node */
    lmoe_value_kind kind; /* COMPUTED unless it enters the graph */
    const char *name;     /* of what enters; else NULL */
    bool one;             /* known to be the constant 1 (seed of the backward pass) */
} lmoe__value;

typedef struct lmoe__node {
    const lmoe_op *op;
    int32_t n_in, n_out;
    int32_t *in, *out; /* value ids; 0 absent */
    void *attrs;       /* at least op->base.options_size bytes */
    int32_t layer;     /* -1 outside layers */
    int32_t forward;   /* backward nodes: the node they were derived from, else -1 */
    const char *file;  /* of the layer that recorded it (or caused it) */
    int line;
    bool recompute; /* its outputs are not kept for the backward pass, which runs it again */
} lmoe__node;

/* A value that leaves the graph: into the store's buffer of this name. */
typedef struct lmoe__result {
    int32_t value;
    const char *name;
} lmoe__result;

typedef struct lmoe__graph {
    lmoe__arena *arena;
    lmoe__value *values; /* values[0] is absent */
    int n_values, cap_values;
    lmoe__node *nodes;
    int n_nodes, cap_nodes;
    lmoe__result *results;
    int n_results, cap_results;
    const char **axes; /* axis names, each once */
    int n_axes, cap_axes;
} lmoe__graph;

lmoe__graph *lmoe__graph_new(void);
void lmoe__graph_free(lmoe__graph *g);
int32_t lmoe__graph_enter(lmoe__graph *g, lmoe_value_kind kind, const char *name,
                          const lmoe_desc *desc);
void lmoe__graph_result(lmoe__graph *g, int32_t value, const char *name);
/* Value that enters under this name; 0 if none does. */
int32_t lmoe__graph_find(const lmoe__graph *g, const char *name);
/* The graph's own copy of an axis name of n letters. */
const char *lmoe__graph_axis(lmoe__graph *g, const char *word, size_t n);
/* Attributes of `size` bytes, as a plugin of an older API gives them: what it does not know gets its
 * default. False: they are longer than this host's. */
bool lmoe__attrs_grown(lmoe__graph *g, const lmoe_op *op, size_t size, const void **attrs);
/* Appends a node with outputs as described; attrs are copied. Returns its index. */
int lmoe__graph_append(lmoe__graph *g, const lmoe__node *like, const lmoe_desc *out_desc);
/* "gla.c:57, layer 3": for messages; from `arena`-less static pieces into buf. */
const char *lmoe__node_where(const lmoe__node *n, char *buf, size_t size);
int lmoe__ports(const lmoe_port *ports);

/* ---- ops by name ---- */

/* The ops a run knows: lmoe's own and those of loaded plugins. */
typedef struct lmoe__op_set {
    const lmoe_op **ops;
    int count, capacity;
} lmoe__op_set;
void lmoe__op_set_init(lmoe__op_set *s); /* with lmoe's own ops */
void lmoe__op_set_free(lmoe__op_set *s);
const lmoe_op *lmoe__op_find(const lmoe__op_set *s, const char *name);

/* ---- trace ---- */

/* A weight as declared: for initialisation, checkpoints, counting. */
typedef struct lmoe__weight {
    const char *name; /* full: "layers.3.mixer.q_proj.weight" */
    int32_t value;
    lmoe_desc desc;
    lmoe_init_kind init;
    double c; /* LMOE_INIT_POWER's exponent */
    double a, b;
    uint32_t flags;
    int32_t layer;
} lmoe__weight;

/* A carry op's state in this graph. */
typedef struct lmoe__carry_slot {
    const char *name; /* enters under this name; leaves under it + "'" */
    lmoe_desc desc;
    double initial;
    int32_t layer;
} lmoe__carry_slot;

typedef struct lmoe__named {
    const char *name;
    const char *scope; /* class that published it, or "" */
    int32_t value;
} lmoe__named;

typedef struct lmoe__size_entry {
    const char *name;
    int64_t value;
} lmoe__size_entry;

struct lmoe_trace {
    lmoe_ctx *ctx;
    lmoe__graph *graph;
    const lmoe__op_set *ops;
    lmoe_dtype dtype; /* of weights and activations */
    bool failed;      /* poison from here on; the first message is in ctx */
    bool carries;     /* carry ops read and write carries (decode, chunked prefill) */
    int64_t context;  /* largest number of past tokens that attention keeps */
    int32_t ambient[8];

    /* where we are: set by the model's assembly */
    int32_t layer;
    const char *scope;      /* prefix of parameter names, "layers.3.mixer." */
    const char *class_name; /* for messages and published values */
    int32_t forward;        /* node whose vjp is being recorded, -1 */
    bool recompute;         /* nodes recorded now are run again rather than kept */
    bool recompute_cheap;   /* all nodes that cost little are */
    bool states_only;       /* parameters that are no states are absent: a router's update() */
    int32_t carry_count;    /* carries made in this layer so far, for their names */

    lmoe__weight *weights;
    int n_weights, cap_weights;
    lmoe__carry_slot *carry_slots;
    int n_carry_slots, cap_carry_slots;
    lmoe__named *published, *losses, *stats;
    int n_published, cap_published, n_losses, cap_losses, n_stats, cap_stats;
    lmoe__size_entry *sizes;
    int n_sizes, cap_sizes;
};

/* The trace owns a new graph until lmoe__trace_take_graph. */
void lmoe__trace_init(lmoe_trace *t, lmoe_ctx *ctx, const lmoe__op_set *ops, lmoe_dtype dtype);
lmoe__graph *lmoe__trace_take_graph(lmoe_trace *t);
void lmoe__trace_free(lmoe_trace *t);
void lmoe__trace_set_size(lmoe_trace *t, const char *name, int64_t value);
/* A value that enters; axes are blank-separated names. */
lmoe_tensor lmoe__trace_enter(lmoe_trace *t, lmoe_value_kind kind, const char *name,
                              lmoe_dtype dtype, const char *axes, const int64_t *dim);
void lmoe__trace_result(lmoe_trace *t, lmoe_tensor x, const char *name);
lmoe_status lmoe__trace_status(const lmoe_trace *t);

/* Records the derivative of the scalar `loss` with respect to n values; d[i] is absent where it is
 * zero. */
lmoe_status lmoe__vjp(lmoe_trace *t, lmoe_tensor loss, const lmoe_tensor *wrt, int n,
                      lmoe_tensor *d);

/* ---- rules (rule.c) ---- */

enum { LMOE__MAX_LETTERS = 32 };

typedef struct lmoe__term {
    bool none;                      /* "." : takes no part */
    int rank;                       /* dimensions */
    signed char dim[LMOE_MAX_DIMS]; /* letter of each dimension (outer letter of a product) */
} lmoe__term;

typedef struct lmoe__rule {
    int n_in, n_out;
    lmoe__term in[LMOE_MAX_IO], out[LMOE_MAX_IO];
    char letters[LMOE__MAX_LETTERS];
    int n_letters;
    uint32_t whole, order, ragged, offset, merge, expert; /* bit i: letter i */
    uint32_t linear;                                      /* bit i: operand i may be partial */
    uint32_t shape_only; /* bit i: of operand i only the shape is read */
    uint32_t same;       /* bit i: result i is no sum: whole when it lacks the split letter */
    bool linear_all;     /* all operands partial together (add) */
} lmoe__rule;

/* The rule of an op for these operands. LMOE_E_UNSUPPORTED without one; LMOE_E_INTERNAL if the text
 * is wrong (message recorded in ctx). */
lmoe_status lmoe__rule_of(lmoe_ctx *ctx, const lmoe_op *op, const void *attrs, const lmoe_desc *in,
                          int n_in, lmoe__rule *rule);

/* ---- strategies (split.c) ---- */

typedef struct lmoe__mesh_axis {
    const char *name; /* "dp" */
    int index;        /* in the mesh */
    int rank, ranks;  /* this rank's place on it */
    const lmoe_strategy *strategy;
    const void *options; /* the strategy's */
} lmoe__mesh_axis;

/* How a value that enters or leaves lies over one mesh axis; the data loop and checkpoints need it.
 */
typedef struct lmoe__layout {
    const char *name;
    lmoe_placement place;
} lmoe__layout;

/* Applies one strategy: a new graph with this rank's shapes. `g` stays valid. layouts (arena of the
 * new graph) gets an entry for each value that enters. */
lmoe_status lmoe__split(lmoe_ctx *ctx, const lmoe__op_set *ops, const lmoe__graph *g,
                        const lmoe__mesh_axis *axis, lmoe__graph **out, lmoe__layout **layouts,
                        int *n_layouts);

/* ---- store: the buffers of a run, by name ---- */

typedef struct lmoe__buffer {
    const char *name;
    lmoe_desc desc;
    void *data; /* device memory */
    int kind;   /* LMOE__MEM_... */
} lmoe__buffer;

enum {
    LMOE__MEM_WEIGHT,
    LMOE__MEM_GRADIENT,
    LMOE__MEM_OPTIMISER,
    LMOE__MEM_ACTIVATION,
    LMOE__MEM_WORKSPACE,
    LMOE__MEM_INPUT,
    LMOE__MEM_CARRY,
    LMOE__MEM_KINDS
};

typedef struct lmoe__store {
    lmoe_ctx *ctx;
    const lmoe_device *device;
    bool sizes_only; /* nothing is allocated (lmoe plan) */
    void *dev;
    lmoe__arena *arena;
    lmoe__buffer *buffers;
    int count, capacity;
    int32_t *table; /* hash table over names */
    int table_size;
    int64_t bytes[LMOE__MEM_KINDS];
} lmoe__store;

void lmoe__store_init(lmoe__store *s, lmoe_ctx *ctx, const lmoe_device *device, void *dev);
void lmoe__store_free(lmoe__store *s);
/* Index of the buffer of this name, made (zeroed) if there is none; -1 with a message when memory
 * is exhausted. The same name with another shape is LMOE_E_INTERNAL (-1 too). */
int lmoe__store_add(lmoe__store *s, const char *name, const lmoe_desc *desc, int kind);
/* Programs of different shapes have their own inputs: the buffer's name is the input's with its
 * shape. */
const char *lmoe__store_input(char *buf, size_t n, const char *name, const lmoe_desc *local);
lmoe__buffer *lmoe__store_find(lmoe__store *s, const char *name);
/* A block without a name, counted as `kind`. NULL with a message when memory is exhausted (sizes
 * only: non-NULL). */
void *lmoe__store_block(lmoe__store *s, size_t bytes, int kind);

/* ---- plan and replay ---- */

typedef struct lmoe__step {
    const lmoe__node *node;
    const lmoe_kernel *kernel; /* NULL: the reference, or a collective */
    lmoe_args args;
    lmoe_buf *bufs; /* args.in, then args.out */
    int exchange;   /* lmoe_exchange_kind, 0: none */
    void *request;
    int64_t *counts; /* of rows to and from each rank */
    int *waits;      /* exchanges that are waited for before this step */
    int n_waits;
    double exposed;   /* seconds waited, and */
    int64_t received; /* bytes received since both were last read */
    double seconds;   /* measured when profiling */
    int64_t launches;
} lmoe__step;

/* Communicators of the mesh axes, by index. */
typedef struct lmoe__mesh_comm {
    const lmoe_comm *comm;
    void *handle;
} lmoe__mesh_comm;

typedef struct lmoe__plan {
    lmoe_ctx *ctx;
    lmoe__graph *graph;
    lmoe__store *store;
    lmoe__arena *arena;
    lmoe__step *steps;
    int n_steps;
    int64_t arena_bytes, workspace_bytes; /* activations and scratch */
    double flops;                         /* of one replay, as the ops count them */
    const lmoe__mesh_comm *comms;
    bool eager;     /* check each node's outputs for NaN; name its source */
    double largest; /* with eager: magnitude of the largest number so far, element-wise ops apart */
    bool profile;   /* time each step */
    bool has_exchange;
    void *captured; /* device graph */
    int replays;
    int *last_waits; /* exchanges that are waited for at the end */
    int n_last_waits;
    void *activations_base;
    struct planner *planner; /* plan.c: where values lie */
} lmoe__plan;

/* The device's kernel of the highest score for these arguments; NULL: it has none. */
const lmoe_kernel *lmoe__kernel_of(const lmoe_device *device, const lmoe_op *op,
                                   const lmoe_args *args);

/* Lays out memory and chooses kernels. `activations`: a block shared by plans that never run at the
 * same time, grown by the caller to the largest need before the first replay (see lmoe__plan_bind).
 */
lmoe_status lmoe__plan_new(lmoe_ctx *ctx, lmoe__graph *g, lmoe__store *store,
                           const lmoe__mesh_comm *comms, lmoe__plan **out);
/* Activations alive at the step where most are: by op and source line, n of them (at most max). */
typedef struct lmoe__alive {
    const lmoe_op *op;
    const char *file;
    int line;
    bool backward;
    int64_t bytes;
    int count;
} lmoe__alive;
int lmoe__plan_peak(const lmoe__plan *p, const lmoe__node **at, lmoe__alive *list, int max);

/* Gives the plan its memory and prepares its kernels. */
lmoe_status lmoe__plan_bind(lmoe__plan *p, void *activations, void *workspace);
void lmoe__plan_free(lmoe__plan *p);
lmoe_status lmoe__plan_replay(lmoe__plan *p);

/* ---- exchanges between ranks (exchange.c) ---- */

int lmoe__exchange_kind(const lmoe_op *op); /* 0: none */
/* Puts nodes that need no exchange between one and its readers (order.c). */
void lmoe__graph_order(lmoe__graph *g);
/* Bytes that a rank receives, by the algorithms that send least (all rows, where that depends on
 * the router). */
int64_t lmoe__exchange_bytes(const lmoe__step *s);
lmoe_status lmoe__exchange_start(lmoe__plan *p, lmoe__step *s);
lmoe_status lmoe__exchange_wait(lmoe__plan *p, lmoe__step *s);

#endif
