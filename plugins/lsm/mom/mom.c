/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/mom/mom.c: mixture of memories (Du et al. 2025, arXiv 2502.13685), over Gated DeltaNet
 * or over gated linear attention.
 *
 *   p = softmax(W_r x), the top_k largest are chosen, w: these divided by their sum
 *   memory m: the layer's recurrence over the tokens that chose m; the others leave it as it is
 *   o_t = sum over chosen memories m of w_m o_m + o_shared, whose memory takes every token
 *   y   = (rmsnorm(o) * silu(W_g x)) W_o                   the norm is over head_v
 *
 * A memory is a state that skips the tokens which chose others.
 */
#include <lmoe/lmoe.h>
#include <lmoe/route.h>

enum { MEMORY_GDN, MEMORY_GLA };
enum { MAX_MEMORIES = 64 };

typedef struct mom_options {
    int64_t heads, head_dim, memories, top_k, conv_kernel, low_rank;
    double expand_v, aux_loss, gate_normalizer, norm_eps;
    int32_t memory, shared, single_kv, short_conv, use_gate;
} mom_options;

typedef struct mom_memory {
    lmoe_tensor k, v, a, beta;  /* a: gated_deltanet's decay */
    lmoe_low_rank_params decay; /* gla's */
} mom_memory;

typedef struct mom_params {
    lmoe_tensor route, q, a_log, dt_bias, q_conv, k_conv, v_conv, gate, norm, out;
    mom_memory of[MAX_MEMORIES + 1]; /* the last one: shared */
} mom_params;

static const lmoe_option options[] = {
    {"memory", LMOE_OPTION_ENUM, offsetof(mom_options, memory), "gated_deltanet", 0, 0,
     "gated_deltanet gla", NULL, "Each memory's recurrence."},
    {"heads", LMOE_OPTION_INT, offsetof(mom_options, heads), "4", 1, 65536, NULL, NULL, "Heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(mom_options, head_dim), "256", 1, 65536, NULL, NULL,
     "Width of a head's queries and keys."},
    {"expand_v", LMOE_OPTION_FLOAT, offsetof(mom_options, expand_v), "1.0", 1e-3, 64, NULL, NULL,
     "Width of a head's values, in units of head_dim."},
    {"memories", LMOE_OPTION_INT, offsetof(mom_options, memories), "4", 1, MAX_MEMORIES, NULL, NULL,
     "Memories that tokens choose from."},
    {"top_k", LMOE_OPTION_INT, offsetof(mom_options, top_k), "2", 1, MAX_MEMORIES, NULL, NULL,
     "Memories that a token chooses."},
    {"shared", LMOE_OPTION_BOOL, offsetof(mom_options, shared), "yes", 0, 0, NULL, NULL,
     "One more memory that takes every token."},
    {"single_kv", LMOE_OPTION_BOOL, offsetof(mom_options, single_kv), "no", 0, 0, NULL, NULL,
     "All memories use the shared one's keys, values and gates."},
    {"aux_loss", LMOE_OPTION_FLOAT, offsetof(mom_options, aux_loss), "0.01", 0, 100, NULL, NULL,
     "Weight of the loss that balances the choices."},
    {"low_rank", LMOE_OPTION_INT, offsetof(mom_options, low_rank), "16", 1, 65536, NULL, NULL,
     "gla: inner size of the decay's two projections."},
    {"gate_normalizer", LMOE_OPTION_FLOAT, offsetof(mom_options, gate_normalizer), "16", 1e-3, 1e6,
     NULL, NULL, "gla: divides the log decay."},
    {"short_conv", LMOE_OPTION_BOOL, offsetof(mom_options, short_conv), "yes", 0, 0, NULL, NULL,
     "A short causal convolution with silu on q, k and v."},
    {"conv_kernel", LMOE_OPTION_INT, offsetof(mom_options, conv_kernel), "4", 2, 64, NULL, "tokens",
     "Length of the short convolution."},
    {"use_gate", LMOE_OPTION_BOOL, offsetof(mom_options, use_gate), "yes", 0, 0, NULL, NULL,
     "Multiply the normed output by silu of a projection of the input."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(mom_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the output norm."},
    LMOE_OPTION_END};

/* NAME.N for a memory, shared_S for the shared one (here called number `memories`) */
static const char *named(char *text, size_t n, const mom_options *o, int64_t m, const char *name,
                         const char *shared)
{
    if (m < o->memories)
        snprintf(text, n, "%s.%d.weight", name, (int)m);
    else
        snprintf(text, n, "%s.weight", shared);
    return text;
}

static void declare_memory(lmoe_trace *t, const mom_options *o, int64_t m, int64_t v, mom_memory *w)
{
    char name[40];
    size_t n = sizeof name;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim;
    w->k =
        lmoe_cube(t, named(name, n, o, m, "k_proj", "shared_k"), "embed heads head_k", e, h, k, 0);
    w->v =
        lmoe_cube(t, named(name, n, o, m, "v_proj", "shared_v"), "embed heads head_v", e, h, v, 0);
    if (o->memory == MEMORY_GLA) {
        snprintf(name, n, "shared_gk");
        if (m < o->memories) snprintf(name, n, "gk_proj.%d", (int)m);
        w->decay = lmoe_low_rank(t, name, "heads", "head_k", o->low_rank, h, k);
        return;
    }
    w->beta = lmoe_matrix(t, named(name, n, o, m, "b_proj", "shared_b"), "embed heads", e, h, 0);
    w->a = lmoe_matrix(t, named(name, n, o, m, "a_proj", "shared_a"), "embed heads", e, h, 0);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const mom_options *o = opt;
    mom_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, k = o->head_dim, n = o->conv_kernel;
    int64_t v = (int64_t)((double)k * o->expand_v);
    if (o->top_k > o->memories || v < 1) {
        lmoe_fail(t, "top_k = %lld must be at most memories = %lld, and expand_v leave values",
                  (long long)o->top_k, (long long)o->memories);
        return LMOE_E_CONFIG;
    }
    w->route = lmoe_matrix(t, "gate.weight", "embed expert", e, o->memories, 0);
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    for (int64_t m = 0; m < o->memories && !o->single_kv; m++)
        declare_memory(t, o, m, v, &w->of[m]);
    if (o->shared || o->single_kv) declare_memory(t, o, o->memories, v, &w->of[o->memories]);
    if (o->memory == MEMORY_GDN) {
        w->a_log = lmoe_decay_rate(t, "A_log", h, 0, 16);
        w->dt_bias = lmoe_decay_bias(t, "dt_bias", "heads", h, 0);
    }
    if (o->short_conv) {
        w->q_conv = lmoe_conv_cube(t, "q_conv1d.weight", "heads head_k kernel", h, k, n);
        w->k_conv = lmoe_conv_cube(t, "k_conv1d.weight", "heads head_k kernel", h, k, n);
        w->v_conv = lmoe_conv_cube(t, "v_conv1d.weight", "heads head_v kernel", h, v, n);
    }
    if (o->use_gate) w->gate = lmoe_cube(t, "g_proj.weight", "embed heads head_v", e, h, v, 0);
    w->norm = lmoe_vector(t, "o_norm.weight", "head_v", v, 1.0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, v, e);
    return LMOE_OK;
}

/* x through a convolution over the tokens that are not skipped, with silu; without one, silu alone,
 * and nothing for gla. */
static lmoe_tensor activate(lmoe_trace *t, const mom_options *o, lmoe_tensor x, lmoe_tensor conv,
                            lmoe_tensor skip)
{
    if (o->short_conv) return lmoe_short_conv_skip(t, x, conv, skip, 1);
    return o->memory == MEMORY_GLA ? x : lmoe_silu(t, x);
}

/* What one memory gives: (batch seq heads head_v), 0 for tokens that it skips. */
static lmoe_tensor remember(lmoe_trace *t, const mom_options *o, const mom_params *w,
                            const mom_memory *m, lmoe_tensor x, lmoe_tensor q, lmoe_tensor skip)
{
    double scale = 1.0 / sqrt((double)o->head_dim);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e h k -> b s h k", x, m->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e h v -> b s h v", x, m->v);
    q = activate(t, o, q, w->q_conv, skip);
    k = activate(t, o, k, w->k_conv, skip);
    v = activate(t, o, v, w->v_conv, skip);
    if (o->memory == MEMORY_GLA) {
        lmoe_scan_diag_in in = {.q = q, .k = k, .v = v, .skip = skip};
        in.decay = lmoe_low_rank_decay(t, &m->decay, x, o->gate_normalizer);
        return lmoe_scan_diag_with(t, &in, scale);
    }
    q = lmoe_l2norm(t, q, 1e-6);
    k = lmoe_l2norm(t, k, 1e-6);
    lmoe_tensor beta =
        lmoe_sigmoid(t, lmoe_f32(t, lmoe_einsum(t, "b s e, e h -> b s h", x, m->beta)));
    lmoe_tensor a = lmoe_einsum(t, "b s e, e h -> b s h", x, m->a);
    lmoe_tensor decay = lmoe_softplus_decay(t, a, w->a_log, w->dt_bias);
    lmoe_tensor erase = lmoe_mul(t, k, lmoe_exp(t, decay));
    return lmoe_scan_delta_skip(t, q, lmoe_mul(t, k, beta), v, erase, decay, skip, scale);
}

/* Chosen memories (batch seq choice) and the weight of every memory (batch seq expert). */
static lmoe_tensor route(lmoe_trace *t, const mom_options *o, const mom_params *w, lmoe_tensor x,
                         lmoe_tensor *index)
{
    lmoe_tensor probs = lmoe_softmax(t, lmoe_route_logits(t, x, w->route));
    lmoe_tensor best = lmoe_top_k(t, probs, o->top_k, index);
    if (o->aux_loss > 0) {
        double tokens =
            (double)lmoe_axis_size(t, probs, "batch") * (double)lmoe_axis_size(t, probs, "seq");
        lmoe_tensor f = lmoe_histogram(t, *index, o->memories);
        lmoe_tensor p = lmoe_sum(t, "b s x -> x", probs);
        lmoe_route_shares r = {f, p, tokens * tokens};
        lmoe_route_loss(t, "memory_loss", r, o->aux_loss * (double)o->memories);
    }
    return lmoe_route_marks(t, lmoe_route_normalise(t, best), *index, "expert", o->memories);
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const mom_options *o = opt;
    const mom_params *w = params;
    lmoe_desc d;
    lmoe_tensor index, y = lmoe_absent(), shared = lmoe_absent();
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    lmoe_tensor weights = lmoe_cast(t, route(t, o, w, x, &index), d.dtype);
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    for (int64_t m = 0; m < o->memories; m++) {
        const mom_memory *of = &w->of[o->single_kv ? o->memories : m];
        lmoe_tensor part = remember(t, o, w, of, x, q, lmoe_unchosen(t, index, m));
        part = lmoe_mul(t, part, lmoe_sum(t, "b s x -> b s", lmoe_slice(t, weights, 2, m, 1)));
        y = m == 0 ? part : lmoe_add(t, y, part);
    }
    if (o->shared) shared = remember(t, o, w, &w->of[o->memories], x, q, lmoe_absent());
    if (o->shared) y = lmoe_add(t, y, shared);
    if (o->use_gate) {
        lmoe_tensor gate = lmoe_einsum(t, "b s e, e h v -> b s h v", x, w->gate);
        y = lmoe_rmsnorm_gated(t, y, w->norm, gate, o->norm_eps);
    } else {
        y = lmoe_rmsnorm(t, y, w->norm, o->norm_eps);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/mom",
             "Mixture of memories: tokens choose the states that they write and read.", options,
             sizeof(mom_options), 0},
    .params_size = sizeof(mom_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/mom", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
