/* SPDX-License-Identifier: Apache-2.0
 * lmoe/layer.h: sequence layers (kind lsm) and routers (kind moe).
 *
 * Both are traced once: `params` declares weights with named axes, `forward` records the forward
 * pass. Nothing here runs in the training loop. Backward, decode, packing and every parallel layout
 * are derived from the recorded ops.
 */
#ifndef LMOE_LAYER_H
#define LMOE_LAYER_H

#include <lmoe/option.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lmoe_init_kind {
    LMOE_INIT_NORMAL = 0,   /* mean a, deviation b; b 0: the model's ([model] init_std) */
    LMOE_INIT_CONST = 1,    /* a */
    LMOE_INIT_UNIFORM = 2,  /* [a, b) */
    LMOE_INIT_EYE = 3,      /* identity over the last two axes */
    LMOE_INIT_LOG = 4,      /* log of a uniform number of [a, b) */
    LMOE_INIT_SOFTPLUS = 5, /* x with softplus(x) = exp of a uniform number of [log a, log b) */
    LMOE_INIT_POWER = 6,    /* a + b (i / n)^c for element i, row-major, of n */
    LMOE_INIT_RAMP = 7,     /* a + b i, i the index along the last axis */
    LMOE_INIT_LOG_RAMP = 8  /* log of that */
} lmoe_init_kind;

enum {
    LMOE_PARAM_NO_DECAY = 1, /* no weight decay (vectors never have it) */
    LMOE_PARAM_MODEL = 2,    /* one for the whole model, shared by all layers of this class */
    LMOE_PARAM_RESIDUAL =
        4, /* writes to the residual stream: [model] init_rescale makes it smaller */
    LMOE_PARAM_STATE =
        8 /* of a router: has no gradient and is not trained, in the state dtype; only
                            the router's update() changes it. Saved with the weights */
};

/* A weight. axes: blank-separated names, one for each size, e.g. "embed heads head_k". Initial
 * values come from a counter-based generator keyed by (seed, full name, index): they depend on
 * nothing else. */
typedef struct lmoe_param_def {
    size_t size;
    const char *name; /* within the layer: "q_proj.weight" */
    const char *axes;
    int64_t dim[LMOE_MAX_DIMS];
    lmoe_init_kind init;
    double a, b;
    uint32_t flags;
    double c; /* LMOE_INIT_POWER's exponent */
} lmoe_param_def;

#define LMOE_KIND_LAYER "lmoe.layer/1"

typedef struct lmoe_layer {
    lmoe_class base;
    size_t params_size; /* of the struct of handles that params() fills */
    lmoe_status (*params)(lmoe_trace *t, const void *options, void *params);
    /* x: (batch seq embed), normalised by the block -> (batch seq embed), which the block adds to
     * its input. */
    lmoe_tensor (*forward)(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x);
} lmoe_layer;

/* What a router decides: for each token the experts it goes to and their weights. */
typedef struct lmoe_routing {
    size_t size;
    lmoe_tensor index;  /* (batch seq choice) i32, below `experts`; below 0: this choice is none */
    lmoe_tensor weight; /* (batch seq choice) in the state dtype */
    int64_t capacity; /* no expert is chosen by more tokens of a sequence; 0: not known. Fewer rows
                           are then set aside */
} lmoe_routing;

#define LMOE_KIND_ROUTER "lmoe.router/1"

/* base.flags: what a router promises with the defaults of its options; lmoe plugin check holds it to
 * that. Without a word of the sum, weights are only finite. */
enum {
    LMOE_ROUTER_SUM_ONE = 1,     /* the weights of a token sum to 1 */
    LMOE_ROUTER_SUM_AT_MOST = 2, /* ... to no more than 1, and none is negative */
    LMOE_ROUTER_VARYING = 4      /* a token may get any number of experts; else it gets top_k */
};

/* lmoe_size(t, "experts") and lmoe_size(t, "top_k") are the [ffn] section's. */
typedef struct lmoe_router {
    lmoe_class base;
    size_t params_size;
    lmoe_status (*params)(lmoe_trace *t, const void *options, void *params);
    /* x: (batch seq embed). Auxiliary losses by lmoe_add_loss, statistics by lmoe_add_stat. */
    lmoe_status (*forward)(lmoe_trace *t, const void *options, const void *params, lmoe_tensor x,
                           lmoe_routing *out);
    /* Optional. Records what follows each training step: adds to parameters of LMOE_PARAM_STATE by
     * lmoe_accumulate; the others are absent here. load: (expert) in the state dtype, how often each
     * expert was chosen in the step, over all micro-batches and ranks. Steps that are left out
     * (nan = skip) are not followed by it. */
    lmoe_status (*update)(lmoe_trace *t, const void *options, const void *params, lmoe_tensor load);
} lmoe_router;

#ifdef __cplusplus
}
#endif
#endif
