/* SPDX-License-Identifier: Apache-2.0
 * core/model/model.h: a language model assembled from a configuration.
 *
 *   h = embedding(tokens)
 *   for each layer:  h += mixer(norm(h)) ;  h += feed_forward(norm(h))
 *   loss = factor * sum of cross-entropies(norm(h) head^T) ;  total = loss + aux_scale * sum of
 * auxiliary losses
 *
 * `pattern` is a word of letters repeated over the layers; [layer X] says which class letter X is.
 */
#ifndef LMOE_CORE_MODEL_H
#define LMOE_CORE_MODEL_H

#include "core/conf/conf.h"
#include "core/graph/graph.h"
#include "core/plug/plug.h"

typedef struct lmoe__model_options {
    int64_t vocab_size, embed, layers;
    const char *pattern;
    int32_t tie_embeddings, init_rescale;
    double norm_eps, init_std;
} lmoe__model_options;

enum { LMOE__FFN_MOE = 0, LMOE__FFN_DENSE = 1, LMOE__FFN_NONE = 2 };

enum { LMOE__FFN_SWIGLU = 0, LMOE__FFN_GEGLU = 1, LMOE__FFN_GELU = 2, LMOE__FFN_RELU2 = 3 };
enum { LMOE__DROP_PROBABILITY = 0, LMOE__DROP_POSITION = 1 };

typedef struct lmoe__ffn_options {
    int32_t kind, activation;
    int64_t hidden, experts, top_k, shared_hidden;
    int32_t shared_gate, drop;
    double capacity, capacity_eval; /* times the fair share; 0: nothing is dropped */
    const char *router;
} lmoe__ffn_options;

/* What a letter of the pattern stands for. */
typedef struct lmoe__mixer {
    char letter;
    const lmoe_layer *layer;
    void *options;
} lmoe__mixer;

typedef struct lmoe__model {
    lmoe__arena *arena;
    lmoe__model_options o;
    lmoe__ffn_options ffn;
    lmoe__mixer mixers[26];
    int n_mixers;
    const lmoe_router *router; /* kind = moe */
    void *router_options;
    lmoe__op_set ops; /* lmoe's and those of the plugins that the model uses */
    bool recompute;   /* in training: the experts' first products, and what costs little */
} lmoe__model;

/* Reads [model], [layer X], [ffn], [router] and finds their classes. mixers false: no [layer X], for
 * who traces the feed-forward part alone. */
lmoe_status lmoe__model_load(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__registry *registry, bool mixers,
                             lmoe__model *m);
void lmoe__model_free(lmoe__model *m);
/* The ops of plugins that are open by now become known to the model; done by lmoe__model_load for
 * those that it opens. */
void lmoe__model_adopt_ops(lmoe__model *m, lmoe__registry *registry);
/* The class that [section] key names; a message begins with that place. */
lmoe_status lmoe__class_find(lmoe_ctx *ctx, const lmoe__conf *conf, lmoe__registry *registry,
                             const char *kind, const char *section, const char *key,
                             const char *name, const lmoe_class **c);
/* The options of the sections that model_load reads, apart from those of classes. */
const lmoe__section_table *lmoe__model_tables(void);

typedef struct lmoe__model_shape {
    int64_t batch, seq;
    bool resets;               /* packed documents: the input in:reset */
    bool skips;                /* padding: the input in:skip */
    bool loss;                 /* labels in, loss out; else the logits of the last token */
    bool training, generating; /* set by the kind of program; neither: evaluation */
    bool add;                  /* losses and statistics are added to what is there */
    bool carries;              /* carried state enters and leaves */
    int64_t context;           /* past tokens that attention keeps, with carries */
} lmoe__model_shape;

/* Results are named: "out:loss" and "out:total" (with loss), "out:logits" (batch vocab) without,
 * "stat:..." for statistics and "aux:..." for auxiliary losses. Inputs: in:tokens in:labels
 * in:positions in:document in:noise in:reset in:skip in:factor in:aux_scale. Returns the total loss (absent
 * without loss). */
lmoe_status lmoe__model_trace(lmoe_trace *t, const lmoe__model *m, const lmoe__model_shape *shape,
                              lmoe_tensor *total);

/* The feed-forward of a block whose kind is not `none`: x (batch seq embed) -> the same. */
lmoe_tensor lmoe__feed_forward(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x);

/* Its experts alone, as a router chose them. */
lmoe_tensor lmoe__experts(lmoe_trace *t, const lmoe__model *m, lmoe_tensor x,
                          const lmoe_routing *r);
/* What follows a training step: the router's update() of each layer, from the loads stat:moe/load/N.
 * Only if m->router->update; layers: those for which it is recorded. */
lmoe_status lmoe__model_balance(lmoe_trace *t, const lmoe__model *m, const bool *layers);
bool lmoe__model_balances(const lmoe__model *m);

/* Adds "grad:NAME" results for every weight of the trace; with `add`, adds to the buffers of these
 * names instead. */
lmoe_status lmoe__model_backward(lmoe_trace *t, lmoe_tensor total, bool add);

/* One layer alone, or several of one class in a row (no norms, no residual stream): what
 * `lmoe layer run` computes. */
typedef struct lmoe__layer_shape {
    lmoe__model_shape shape; /* loss: with the gradients of an output gradient */
    const int *layers;       /* numbers of the layers, in order; x enters the first */
    int count;
    bool recompute; /* nothing is kept for the backward pass but what enters */
} lmoe__layer_shape;

/* y = mixer(x), or the mixture of experts of a model without mixers. Inputs: in:x, with `loss` in:dy
 * (batch seq embed), and those of a model. Results: out:y/SEQ, as programs of several lengths may share a
 * store; with `loss` out:dx and grad:NAME, the gradients of sum(y dy) + the sum of auxiliary
 * losses; aux:..., stat:... . Weights are called as
 * their layer calls them, behind "NUMBER." when there are several layers. */
lmoe_status lmoe__layer_trace(lmoe_trace *t, const lmoe__model *m, const lmoe__layer_shape *s);

/* What a weight begins with: the attributes of initial/1 for the whole of it. */
lmoe_initial_attrs lmoe__weight_initial(const lmoe__model *m, const lmoe__weight *w, uint64_t seed);
/* Its elements first ... first + n - 1 into host memory. */
void lmoe__initial_draw(lmoe_ctx *ctx, const lmoe_initial_attrs *o, lmoe_dtype dtype, int64_t first,
                        int64_t n, void *host);
/* Both, in the weight's dtype. */
void lmoe__weight_init(lmoe_ctx *ctx, const lmoe__model *m, const lmoe__weight *w, uint64_t seed,
                       int64_t first, int64_t n, void *host);

/* Numbers of parameters from a trace: all, those that a token uses, and matrix ones that a token
 * uses (for FLOPs). */
typedef struct lmoe__model_count {
    int64_t total, active, active_matrix, embedding;
} lmoe__model_count;
void lmoe__model_count_weights(const lmoe__model *m, const lmoe_trace *t, lmoe__model_count *c);

#endif
