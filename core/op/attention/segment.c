/* SPDX-License-Identifier: Apache-2.0
 * core/op/attention/segment.c: what sequence parallelism needs of attention: summaries of segments,
 * and what a segment gets of all of them. Ports and meaning stand in attention.c.
 */
#include "core/op/attention/attention.h"

static const lmoe_port summary_in[] = {
    {.name = "k"}, {.name = "v"}, {LMOE__POSITIONS}, {LMOE__SKIP}, {.name = NULL}};
static const char *const summary_forms[] = {"b s g k", "b s g v", "b s: i32", "b s: u8"};
static const lmoe_port cache[] = {
    {.name = "keys"}, {.name = "values"}, {.name = "key_positions"}, {.name = NULL}};
static const char *const combine_forms[] = {"r b s g k", "r b s g v", "r b s: i32"};

static const lmoe_port grad_summary_in[] = {
    {.name = "q"},      {LMOE__POSITIONS},
    {LMOE__DOCUMENT},   {LMOE__SKIP},
    {.name = "y"},      {.name = "lse", .flags = LMOE_PORT_STATE},
    {.name = "dy"},     {.name = "keys"},
    {.name = "values"}, {.name = "key_positions"},
    {.name = NULL}};
static const char *const grad_summary_forms[] = {"b s h k", "b s: i32", "b s: i32", "b s: u8",
                                                 "b s h v", "b s h",    "b s h v",  "b c g k",
                                                 "b c g v", "b c: i32"};
static const lmoe_port dcache[] = {{.name = "dkeys"}, {.name = "dvalues"}, {.name = NULL}};
static const char *const grad_combine_forms[] = {"r b c g k", "r b c g v"};
static const lmoe_port grad_combine_out[] = {
    {.name = "dk_more"}, {.name = "dv_more"}, {.name = NULL}};

/* ---- shapes ---- */

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, summary_in, summary_forms, in, n_in));
    out[0] = in[0];
    out[1] = in[1];
    out[2] = in[2];
    return LMOE_OK;
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, cache, combine_forms, in, n_in));
    lmoe__letters_set(&l, 'c', "context", l.dim['r'] * l.dim['s']);
    lmoe__letters_desc(&l, "b c g k", in[0].dtype, &out[0]);
    lmoe__letters_desc(&l, "b c g v", in[1].dtype, &out[1]);
    lmoe__letters_desc(&l, "b c", LMOE_I32, &out[2]);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

static lmoe_status grad_summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(lmoe__attention_bind(t, &l, grad_summary_in, grad_summary_forms, 7, in, n_in));
    out[0] = in[7];
    out[1] = in[8];
    return LMOE_OK;
}

static lmoe_status grad_combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, dcache, grad_combine_forms, in, n_in));
    LMOE_TRY(lmoe__combine_check(t, attrs, l.dim['r']));
    if (l.dim['c'] % l.dim['r'] != 0)
        return lmoe_shape_error(t, "a context of %lld does not consist of %lld equal segments",
                                (long long)l.dim['c'], (long long)l.dim['r']);
    lmoe__letters_set(&l, 's', "seq", l.dim['c'] / l.dim['r']);
    lmoe__letters_desc(&l, "b s g k", in[0].dtype, &out[0]);
    lmoe__letters_desc(&l, "b s g v", in[1].dtype, &out[1]);
    return LMOE_OK;
}

/* ---- axis rule, cost ---- */

static lmoe_status grad_summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                     size_t n)
{
    const char *h = in[0].dim[2] != in[7].dim[2] ? "(h i)" : "h";
    snprintf(text, n,
             "b s %s k, b s, b s, b s, b s %s v, b s %s, b s %s v, b c h k, b c h v, b c "
             "-> b c h k, b c h v | whole s, whole c, whole k",
             h, h, h, h);
    return LMOE_OK;
}

static double grad_summary_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                 const lmoe_desc *out, int n_out)
{
    return lmoe__attention_pairs(attrs, &in[0], &in[7], false) *
           (4.0 * (double)in[7].dim[3] + 4.0 * (double)in[8].dim[3]);
}

/* ---- test cases ---- */

static int summary_sample(int index, lmoe_case *c)
{
    return lmoe__attention_sample(index, c, summary_in, summary_forms);
}

static int grad_summary_sample(int index, lmoe_case *c)
{
    return lmoe__attention_sample(index, c, grad_summary_in, grad_summary_forms);
}

/* Ranks and sizes, then one case worth timing. */
static int sample_combine(int index, lmoe_case *c, const lmoe_port *ports, const char *const *forms,
                          int reverse)
{
    bool bench = index == 2 * LMOE__COMBINE_CASES;
    if (index > 2 * LMOE__COMBINE_CASES) return 0;
    lmoe_combine_attrs o = lmoe__combine_case(index % LMOE__COMBINE_CASES, reverse);
    if (bench) o = (lmoe_combine_attrs){1, 4, reverse};
    lmoe__letters l = lmoe__attention_letters(bench ? LMOE__ATTENTION_BENCH : index);
    lmoe__letters_set(&l, 'r', "rank", o.ranks);
    lmoe__letters_set(&l, 'c', "context", o.ranks * l.dim['s']);
    for (int i = 0; ports[i].name; i++)
        lmoe__attention_draw(c, i, ports[i].name, forms[i], &l, index);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

static int combine_sample(int index, lmoe_case *c)
{
    return sample_combine(index, c, cache, combine_forms, 0);
}

static int grad_combine_sample(int index, lmoe_case *c)
{
    return sample_combine(index, c, dcache, grad_combine_forms, 1);
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                        \
    {                                                                               \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, lmoe__attention_options, \
            sizeof(lmoe_attention_attrs), 0                                         \
    }
#define COMBINE(name, summary)                                                    \
    {                                                                             \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, lmoe__combine_options, \
            sizeof(lmoe_combine_attrs), 0                                         \
    }

const lmoe_op lmoe__op_attention_summary = {
    .base = CLASS("attention_summary", "The keys and values of a segment of attention."),
    .inputs = summary_in,
    .outputs = cache,
    .shape = summary_shape,
    .rule = "b s g k, b s g v, b s, b s -> b s g k, b s g v, b s | same 0, same 1, same 2",
    .reference = lmoe__attention_summary_ref,
    .sample = summary_sample,
};

const lmoe_op lmoe__op_attention_combine = {
    .base = COMBINE("attention_combine", "The keys and values before a segment of attention."),
    .inputs = cache,
    .outputs = cache,
    .shape = combine_shape,
    .rule = "r b s g k, r b s g v, r b s -> b c g k, b c g v, b c "
            "| whole r, whole s, same 0, same 1, same 2",
    .reference = lmoe__attention_combine_ref,
    .sample = combine_sample,
};

const lmoe_op lmoe__op_attention_grad_summary = {
    .base = CLASS("attention_grad_summary",
                  "What a segment of attention adds to the gradients of the keys before it."),
    .inputs = grad_summary_in,
    .outputs = dcache,
    .shape = grad_summary_shape,
    .rule_of = grad_summary_rule,
    .reference = lmoe__attention_grad_summary_ref,
    .sample = grad_summary_sample,
    .flops = grad_summary_flops,
    .tolerance = 16,
};

const lmoe_op lmoe__op_attention_grad_combine = {
    .base = COMBINE("attention_grad_combine",
                    "What later segments of attention add to the gradients of this one's keys."),
    .inputs = dcache,
    .outputs = grad_combine_out,
    .shape = grad_combine_shape,
    .rule = "r b c g k, r b c g v -> b s g k, b s g v | whole r, whole c, same 0, same 1",
    .reference = lmoe__attention_grad_combine_ref,
    .sample = grad_combine_sample,
};
