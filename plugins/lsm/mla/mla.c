/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/mla/mla.c: multi-head latent attention (DeepSeek-V2, 2024, arXiv 2405.04434).
 *
 *   c = rmsnorm(W_c x), shared by the heads;  k, v of a head = W_k c, W_v c
 *   scores: (q_nope . k_nope + q_rope . k_rope) / sqrt(nope + rope); k_rope = rotated W_r x, shared
 *   y = softmax(scores) v W_o
 *   absorb: the same function as attention of all heads over (c, k_rope) and c: q_nope W_k meets c,
 *   and W_v comes after the sum, so that the cache holds latents only.
 */
#include <lmoe/lmoe.h>

typedef struct mla_options {
    int64_t heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim, window;
    double rope_base, norm_eps;
    int32_t absorb;
} mla_options;

typedef struct mla_params {
    lmoe_tensor q, q_down, q_norm, k_rope, kv_down, kv_norm, kv_up, out;
} mla_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(mla_options, heads), "16", 1, 65536, NULL, NULL, "Heads."},
    {"q_rank", LMOE_OPTION_INT, offsetof(mla_options, q_rank), "0", 0, 65536, NULL, NULL,
     "Width of the queries' latent; 0: no latent."},
    {"kv_rank", LMOE_OPTION_INT, offsetof(mla_options, kv_rank), "512", 1, 65536, NULL, NULL,
     "Width of the latent of keys and values."},
    {"nope_dim", LMOE_OPTION_INT, offsetof(mla_options, nope_dim), "128", 1, 65536, NULL, NULL,
     "Width of a head's q and k without positions."},
    {"rope_dim", LMOE_OPTION_INT, offsetof(mla_options, rope_dim), "64", 2, 65536, NULL, NULL,
     "Width of a head's q and k that is rotated."},
    {"v_dim", LMOE_OPTION_INT, offsetof(mla_options, v_dim), "128", 1, 65536, NULL, NULL,
     "Width of a head's values."},
    {"window", LMOE_OPTION_INT, offsetof(mla_options, window), "0", 0, 1e15, NULL, "tokens",
     "A token sees itself and this many - 1 before it; 0: all."},
    {"absorb", LMOE_OPTION_BOOL, offsetof(mla_options, absorb), "no", 0, 0, NULL, NULL,
     "Keep latents in the cache instead of keys and values; for generation."},
    {"rope_base", LMOE_OPTION_FLOAT, offsetof(mla_options, rope_base), "10000", 1, 1e9, NULL, NULL,
     "Base of the rotary positions."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(mla_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the norms of the latents."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const mla_options *o = opt;
    mla_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, qk = o->nope_dim + o->rope_dim;
    if (o->rope_dim % 2 != 0) {
        lmoe_fail(t, "rope_dim = %lld must be even: rotation takes pairs", (long long)o->rope_dim);
        return LMOE_E_CONFIG;
    }
    if (o->q_rank) {
        w->q_down = lmoe_matrix(t, "q_proj.0.weight", "embed q_rank", e, o->q_rank, 0);
        w->q_norm = lmoe_vector(t, "q_proj.1.weight", "q_rank", o->q_rank, 1.0);
        w->q = lmoe_cube(t, "q_proj.2.weight", "q_rank heads head_k", o->q_rank, h, qk, 0);
    } else {
        w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, qk, 0);
    }
    w->k_rope = lmoe_matrix(t, "k_rope.weight", "embed head_k", e, o->rope_dim, 0);
    w->kv_down = lmoe_matrix(t, "kv_proj.0.weight", "embed kv_rank", e, o->kv_rank, 0);
    w->kv_norm = lmoe_vector(t, "kv_proj.1.weight", "kv_rank", o->kv_rank, 1.0);
    w->kv_up = lmoe_cube(t, "kv_proj.2.weight", "kv_rank heads width", o->kv_rank, h,
                         o->nope_dim + o->v_dim, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, o->v_dim, e);
    return LMOE_OK;
}

/* The keys' (head_k) or the values' (head_v) part of kv_up: (kv_rank heads ...) */
static lmoe_tensor up(lmoe_trace *t, const mla_options *o, const mla_params *w, int values)
{
    lmoe_tensor part = values ? lmoe_slice(t, w->kv_up, 2, o->nope_dim, o->v_dim)
                              : lmoe_slice(t, w->kv_up, 2, 0, o->nope_dim);
    return lmoe_rename_axis(t, part, "width", values ? "head_v" : "head_k");
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const mla_options *o = opt;
    const mla_params *w = params;
    double scale = 1.0 / sqrt((double)(o->nope_dim + o->rope_dim));
    lmoe_tensor low = x, y;
    if (o->q_rank) {
        low = lmoe_einsum(t, "b s e, e r -> b s r", x, w->q_down);
        low = lmoe_rmsnorm(t, low, w->q_norm, o->norm_eps);
    }
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", low, w->q);
    lmoe_tensor q_nope = lmoe_slice(t, q, 3, 0, o->nope_dim);
    lmoe_tensor q_rope = lmoe_rope(t, lmoe_slice(t, q, 3, o->nope_dim, o->rope_dim), o->rope_base);
    lmoe_tensor k_rope = lmoe_einsum(t, "b s e, e k -> b s k", x, w->k_rope);
    k_rope = lmoe_split_axis(t, k_rope, "head_k", "kv_heads", o->rope_dim, "head_k");
    k_rope = lmoe_rope(t, k_rope, o->rope_base); /* (batch seq 1 head_k) */
    lmoe_tensor c = lmoe_einsum(t, "b s e, e c -> b s c", x, w->kv_down);
    c = lmoe_rmsnorm(t, c, w->kv_norm, o->norm_eps);
    if (o->absorb) {
        lmoe_tensor latent = lmoe_split_axis(t, c, "kv_rank", "kv_heads", o->kv_rank, "head_k");
        q_nope = lmoe_einsum(t, "b s h k, c h k -> b s h c", q_nope, up(t, o, w, 0));
        q = lmoe_concat(t, lmoe_rename_axis(t, q_nope, "kv_rank", "head_k"), q_rope, "head_k");
        lmoe_tensor k = lmoe_concat(t, latent, k_rope, "head_k");
        y = lmoe_attention(t, q, k, lmoe_rename_axis(t, latent, "head_k", "head_v"), scale,
                           o->window);
        y = lmoe_rename_axis(t, y, "head_v", "kv_rank");
        y = lmoe_einsum(t, "b s h c, c h v -> b s h v", y, up(t, o, w, 1));
    } else {
        lmoe_tensor k = lmoe_einsum(t, "b s c, c h k -> b s h k", c, up(t, o, w, 0));
        lmoe_tensor v = lmoe_einsum(t, "b s c, c h v -> b s h v", c, up(t, o, w, 1));
        k = lmoe_concat(t, k, lmoe_repeat_heads(t, k_rope, o->heads), "head_k");
        q = lmoe_concat(t, q_nope, q_rope, "head_k");
        y = lmoe_attention(t, q, k, v, scale, o->window);
    }
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/mla",
             "Multi-head latent attention: keys and values from one narrow latent.", options,
             sizeof(mla_options), 0},
    .params_size = sizeof(mla_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/mla", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
