/* SPDX-License-Identifier: Apache-2.0
 * core/model/load.c: from a configuration to a model's options and classes.
 */
#include "core/model/model.h"

#include <ctype.h>

static const lmoe_option model_table[] = {
    {"vocab_size", LMOE_OPTION_INT, offsetof(lmoe__model_options, vocab_size), "256", 1, 1 << 30,
     NULL, "tokens", "Size of the vocabulary; 256 for byte tokens."},
    {"embed", LMOE_OPTION_INT, offsetof(lmoe__model_options, embed), NULL, 1, 1 << 24, NULL, NULL,
     "Width of the residual stream."},
    {"layers", LMOE_OPTION_INT, offsetof(lmoe__model_options, layers), NULL, 1, 100000, NULL, NULL,
     "Number of blocks."},
    {"pattern", LMOE_OPTION_TEXT, offsetof(lmoe__model_options, pattern), "L", 0, 0, NULL, NULL,
     "Letters, repeated over the layers; [layer X] says what X is."},
    {"tie_embeddings", LMOE_OPTION_BOOL, offsetof(lmoe__model_options, tie_embeddings), "yes", 0, 0,
     NULL, NULL, "Use the embedding table as the head."},
    {"norm_eps", LMOE_OPTION_FLOAT, offsetof(lmoe__model_options, norm_eps), "1e-6", 0, 1, NULL,
     NULL, "Added to the mean square in the blocks' norms."},
    {"init_std", LMOE_OPTION_FLOAT, offsetof(lmoe__model_options, init_std), "0.02", 0, 10, NULL,
     NULL, "Standard deviation of initial weights."},
    {"init_rescale", LMOE_OPTION_BOOL, offsetof(lmoe__model_options, init_rescale), "yes", 0, 0,
     NULL, NULL, "Divide the deviation of projections to the residual stream by sqrt(2 layers)."},
    LMOE_OPTION_END};

static const lmoe_option ffn_table[] = {
    {"kind", LMOE_OPTION_ENUM, offsetof(lmoe__ffn_options, kind), "moe", 0, 0, "moe dense none",
     NULL, "Mixture of experts, one SwiGLU, or nothing."},
    {"hidden", LMOE_OPTION_INT, offsetof(lmoe__ffn_options, hidden), "0", 0, 1 << 24, NULL, NULL,
     "Inner width (of one expert); must be given unless kind = none."},
    {"experts", LMOE_OPTION_INT, offsetof(lmoe__ffn_options, experts), "8", 1, 65536, NULL, NULL,
     "Number of experts."},
    {"top_k", LMOE_OPTION_INT, offsetof(lmoe__ffn_options, top_k), "2", 1, 1024, NULL, NULL,
     "Experts that a token goes to."},
    {"shared_hidden", LMOE_OPTION_INT, offsetof(lmoe__ffn_options, shared_hidden), "0", 0, 1 << 24,
     NULL, NULL, "Inner width of an expert that every token goes to; 0: none."},
    {"shared_gate", LMOE_OPTION_BOOL, offsetof(lmoe__ffn_options, shared_gate), "no", 0, 0, NULL,
     NULL, "Multiply the shared expert's output by a sigmoid of a projection of the token."},
    {"activation", LMOE_OPTION_ENUM, offsetof(lmoe__ffn_options, activation), "swiglu", 0, 0,
     "swiglu geglu gelu relu2", NULL,
     "Of experts, the shared one and the dense feed-forward; gelu and relu2 have no gate_proj."},
    {"capacity", LMOE_OPTION_FLOAT, offsetof(lmoe__ffn_options, capacity), "0", 0, 65536, NULL,
     NULL,
     "Most tokens of a sequence that an expert takes in training, in multiples of its fair share; "
     "0: any number."},
    {"capacity_eval", LMOE_OPTION_FLOAT, offsetof(lmoe__ffn_options, capacity_eval), "0", 0, 65536,
     NULL, NULL, "The same when the loss on held-out text is computed; generation drops nothing."},
    {"drop", LMOE_OPTION_ENUM, offsetof(lmoe__ffn_options, drop), "probability", 0, 0,
     "probability position", NULL,
     "What an expert that has too many tokens drops: those of least weight, or the last."},
    {"router", LMOE_OPTION_TEXT, offsetof(lmoe__ffn_options, router), "moe/qwen2", 0, 0, NULL, NULL,
     "Class of the router; its options stand in [router]."},
    LMOE_OPTION_END};

typedef struct layer_options {
    const char *class_name;
} layer_options;

static const lmoe_option layer_table[] = {
    {"class", LMOE_OPTION_TEXT, offsetof(layer_options, class_name), NULL, 0, 0, NULL, NULL,
     "Class of the layer, e.g. lsm/gla; its options stand in the same section."},
    LMOE_OPTION_END};

const lmoe__section_table *lmoe__model_tables(void)
{
    static const lmoe__section_table tables[] = {
        {"model", model_table}, {"layer X", layer_table}, {"ffn", ffn_table}, {NULL, NULL}};
    return tables;
}

void lmoe__model_adopt_ops(lmoe__model *m, lmoe__registry *registry)
{
    const lmoe__plugin *p;
    for (int i = 0; (p = lmoe__registry_plugin(registry, i)); i++) {
        for (int k = 0; k < p->n_classes; k++) {
            const lmoe_class *c = p->classes[k];
            if (strcmp(c->kind, LMOE_KIND_OP) == 0 && !lmoe__op_find(&m->ops, c->name))
                LMOE_PUSH(m->ops.ops, m->ops.count, m->ops.capacity, (const lmoe_op *)c);
        }
    }
}

lmoe_status lmoe__class_find(lmoe_ctx *ctx, const lmoe__conf *conf, lmoe__registry *registry,
                             const char *kind, const char *section, const char *key,
                             const char *name, const lmoe_class **c)
{
    lmoe_ctx quiet;
    lmoe__ctx_init(&quiet);
    lmoe_status status = lmoe__registry_find(registry, &quiet, kind, name, c);
    if (status == LMOE_OK) return LMOE_OK;
    return lmoe_error(ctx, status, "%s: [%s] %s: %s", lmoe__conf_where(conf, section, key), section,
                      key, quiet.message);
}

static lmoe_status load_mixer(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__registry *registry,
                              lmoe__model *m, char letter)
{
    char section[] = "layer X";
    layer_options lo;
    const lmoe_class *c;
    section[6] = letter;
    LMOE_TRY(lmoe__options_fill(ctx, conf, section, layer_table, &lo, m->arena));
    LMOE_TRY(lmoe__class_find(ctx, conf, registry, LMOE_KIND_LAYER, section, "class", lo.class_name,
                              &c));
    lmoe__mixer *x = &m->mixers[m->n_mixers++];
    x->letter = letter;
    x->layer = (const lmoe_layer *)c;
    x->options = lmoe__arena_alloc(m->arena, c->options_size ? c->options_size : 1);
    if (!c->options) return LMOE_OK;
    return lmoe__options_fill(ctx, conf, section, c->options, x->options, m->arena);
}

static lmoe_status load_mixers(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__registry *registry,
                               lmoe__model *m)
{
    if (!m->o.pattern[0])
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "[model] pattern is empty; write letters such as LLLN");
    for (const char *p = m->o.pattern; *p; p++) {
        bool known = false;
        if (!isupper((unsigned char)*p))
            return lmoe_error(ctx, LMOE_E_CONFIG, "[model] pattern = %s: '%c' is no letter A to Z",
                              m->o.pattern, *p);
        for (int i = 0; i < m->n_mixers; i++) known |= m->mixers[i].letter == *p;
        if (!known) LMOE_TRY(load_mixer(ctx, conf, registry, m, *p));
    }
    return LMOE_OK;
}

static lmoe_status load_ffn(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__registry *registry,
                            lmoe__model *m)
{
    const lmoe_class *c;
    LMOE_TRY(lmoe__options_fill(ctx, conf, "ffn", ffn_table, &m->ffn, m->arena));
    if (m->ffn.kind != LMOE__FFN_NONE && m->ffn.hidden < 1)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: [ffn] hidden must be given: the inner width of the feed-forward",
                          lmoe__conf_where(conf, "ffn", NULL));
    if (m->ffn.kind != LMOE__FFN_MOE) return LMOE_OK;
    if (m->ffn.top_k > m->ffn.experts)
        return lmoe_error(ctx, LMOE_E_CONFIG, "[ffn] top_k = %lld is more than experts = %lld",
                          (long long)m->ffn.top_k, (long long)m->ffn.experts);
    LMOE_TRY(lmoe__class_find(ctx, conf, registry, LMOE_KIND_ROUTER, "ffn", "router", m->ffn.router,
                              &c));
    m->router = (const lmoe_router *)c;
    m->router_options = lmoe__arena_alloc(m->arena, c->options_size ? c->options_size : 1);
    if (!c->options) return LMOE_OK;
    return lmoe__options_fill(ctx, conf, "router", c->options, m->router_options, m->arena);
}

lmoe_status lmoe__model_load(lmoe_ctx *ctx, lmoe__conf *conf, lmoe__registry *registry, bool mixers,
                             lmoe__model *m)
{
    memset(m, 0, sizeof *m);
    m->arena = lmoe__arena_new();
    lmoe__op_set_init(&m->ops);
    LMOE_TRY(lmoe__options_fill(ctx, conf, "model", model_table, &m->o, m->arena));
    if (mixers) LMOE_TRY(load_mixers(ctx, conf, registry, m));
    LMOE_TRY(load_ffn(ctx, conf, registry, m));
    lmoe__model_adopt_ops(m, registry);
    return LMOE_OK;
}

void lmoe__model_free(lmoe__model *m)
{
    lmoe__op_set_free(&m->ops);
    lmoe__arena_free(m->arena);
    memset(m, 0, sizeof *m);
}
