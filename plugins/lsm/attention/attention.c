/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/attention/attention.c: causal softmax attention with rotary positions and grouped
 * queries; the N of hybrid patterns.
 *
 *   y = softmax(q k^T / sqrt(head_k)) v W_o       query head i reads kv head i * kv_heads / heads
 */
#include <lmoe/lmoe.h>

typedef struct attention_options {
    int64_t heads, kv_heads, head_dim, window;
    double rope_base, norm_eps;
    int32_t qk_norm, qkv_bias;
} attention_options;

typedef struct attention_params {
    lmoe_tensor q, k, v, q_bias, k_bias, v_bias, out, q_norm, k_norm;
} attention_params;

static const lmoe_option options[] = {
    {"heads", LMOE_OPTION_INT, offsetof(attention_options, heads), "8", 1, 65536, NULL, NULL,
     "Query heads."},
    {"kv_heads", LMOE_OPTION_INT, offsetof(attention_options, kv_heads), "0", 0, 65536, NULL, NULL,
     "Key and value heads; 0: as many as query heads."},
    {"head_dim", LMOE_OPTION_INT, offsetof(attention_options, head_dim), "0", 0, 65536, NULL, NULL,
     "Width of a head; 0: embed / heads."},
    {"window", LMOE_OPTION_INT, offsetof(attention_options, window), "0", 0, 1e15, NULL, "tokens",
     "A token sees itself and this many - 1 before it; 0: all."},
    {"rope_base", LMOE_OPTION_FLOAT, offsetof(attention_options, rope_base), "10000", 1, 1e9, NULL,
     NULL, "Base of the rotary positions."},
    {"qk_norm", LMOE_OPTION_BOOL, offsetof(attention_options, qk_norm), "no", 0, 0, NULL, NULL,
     "RMS norm of each head's q and k before the rotation."},
    {"qkv_bias", LMOE_OPTION_BOOL, offsetof(attention_options, qkv_bias), "no", 0, 0, NULL, NULL,
     "Biases of the projections to q, k and v."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(attention_options, norm_eps), "1e-5", 0, 1, NULL, NULL,
     "Added to the mean square in the norms of q and k."},
    LMOE_OPTION_END};

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const attention_options *o = opt;
    attention_params *w = params;
    int64_t e = lmoe_size(t, "embed"), h = o->heads, g = o->kv_heads ? o->kv_heads : h;
    int64_t k = o->head_dim ? o->head_dim : e / h;
    if (h % g != 0) {
        lmoe_fail(t, "heads = %lld is not a multiple of kv_heads = %lld", (long long)h,
                  (long long)g);
        return LMOE_E_CONFIG;
    }
    if ((!o->head_dim && e % h != 0) || k % 2 != 0) {
        lmoe_fail(t, "embed %lld over heads = %lld gives no even head width; set head_dim",
                  (long long)e, (long long)h);
        return LMOE_E_CONFIG;
    }
    w->q = lmoe_cube(t, "q_proj.weight", "embed heads head_k", e, h, k, 0);
    w->k = lmoe_cube(t, "k_proj.weight", "embed kv_heads head_k", e, g, k, 0);
    w->v = lmoe_cube(t, "v_proj.weight", "embed kv_heads head_v", e, g, k, 0);
    w->out = lmoe_output_cube(t, "o_proj.weight", h, k, e);
    if (o->qkv_bias) {
        w->q_bias = lmoe_head_vector(t, "q_proj.bias", "heads head_k", h, k, 0.0);
        w->k_bias = lmoe_head_vector(t, "k_proj.bias", "kv_heads head_k", g, k, 0.0);
        w->v_bias = lmoe_head_vector(t, "v_proj.bias", "kv_heads head_v", g, k, 0.0);
    }
    if (o->qk_norm) {
        w->q_norm = lmoe_vector(t, "q_norm.weight", "head_k", k, 1.0);
        w->k_norm = lmoe_vector(t, "k_norm.weight", "head_k", k, 1.0);
    }
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const attention_options *o = opt;
    const attention_params *w = params;
    lmoe_tensor q = lmoe_einsum(t, "b s e, e h k -> b s h k", x, w->q);
    lmoe_tensor k = lmoe_einsum(t, "b s e, e g k -> b s g k", x, w->k);
    lmoe_tensor v = lmoe_einsum(t, "b s e, e g v -> b s g v", x, w->v);
    if (o->qkv_bias) {
        q = lmoe_add(t, q, w->q_bias);
        k = lmoe_add(t, k, w->k_bias);
        v = lmoe_add(t, v, w->v_bias);
    }
    if (o->qk_norm) {
        q = lmoe_rmsnorm(t, q, w->q_norm, o->norm_eps);
        k = lmoe_rmsnorm(t, k, w->k_norm, o->norm_eps);
    }
    q = lmoe_rope(t, q, o->rope_base);
    k = lmoe_rope(t, k, o->rope_base);
    double scale = 1.0 / sqrt((double)lmoe_axis_size(t, q, "head_k"));
    lmoe_tensor y = lmoe_attention(t, q, k, v, scale, o->window);
    return lmoe_einsum(t, "b s h v, h v e -> b s e", y, w->out);
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/attention",
             "Causal softmax attention with rotary positions.", options, sizeof(attention_options),
             0},
    .params_size = sizeof(attention_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/attention", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
