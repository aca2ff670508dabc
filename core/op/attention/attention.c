/* SPDX-License-Identifier: Apache-2.0
 * core/op/attention/attention.c: causal softmax attention, its derivative, and what sequence
 * parallelism needs of both.
 *
 *   a_sj = scale q_s . k_j    p_sj = exp(a_sj - lse_s) over the keys j that s sees, else 0
 *   y_s = sum over j of p_sj v_j
 *   ds_sj = p_sj (dy_s . v_j - dy_s . y_s)
 *   dq_s = scale sum of ds_sj k_j    dk_j = scale sum of ds_sj q_s    dv_j = sum of p_sj dy_s
 *
 * Letters: b batch, s seq, h heads, g kv_heads, k head_k, v head_v, c context, r rank; (o) may be
 * absent. The cached keys (keys, values, key_positions) are given together or not at all.
 *   attention/1              q (b s h k), k (b s g k), v (b s g v), positions (b s), document (b
 * s), skip (b s) (o), keys (b c g k) (o), values (b c g v) (o), key_positions (b c) (o) -> y (b s h
 * v), lse (b s h), keys, values, key_positions attention_grad/1         q, k, v, positions,
 * document, skip: the forward op's, y, lse, dy, keys, values, key_positions: the forward op's,
 * dk_more (b s g k) (o), dv_more (b s g v) (o): what later segments add to dk and dv -> dq, dk, dv,
 *                            dkeys (b c g k), dvalues (b c g v)
 *   attention_summary/1      k, v, positions, skip -> keys (b s g k), values (b s g v),
 *                            key_positions (b s)
 *   attention_combine/1      keys (r b s g k), values (r b s g v), key_positions (r b s)
 *                            -> keys (b c g k), values, key_positions; c = r s
 *   attention_merge/1        y (b s h v), lse (b s h), y_more, lse_more: of the same queries over
 *                            other keys -> y, lse over both
 *   attention_grad_summary/1 q, positions, document, skip, y, lse, dy, keys, values, key_positions
 *                            -> dkeys (b c g k), dvalues (b c g v)
 *   attention_grad_combine/1 dkeys (r b c g k), dvalues (r b c g v) -> dk_more (b s g k), dv_more
 *
 * Query head i reads kv head i g / h. Token s at position p of a document that starts at d sees
 * cached keys, and own ones j <= s, at positions max(d, p - window + 1) ... p (window 0: d ... p).
 * skip at s: its key is never seen, y_s is 0. A query that sees nothing has y 0, lse -infinity and
 * no gradient. key_positions -1: an empty slot, whose key and value are not read. The carry is a
 * ring: the key at position p goes to slot p mod c. Without a carry in, c = seq; a run's ring has
 * the run's context, or window - 1 slots if these are fewer. past: only cached keys are seen; the
 * carry stays as it is, and dk and dv are dk_more and dv_more. Combined segments lie one behind the
 * other; those from `rank` on are empty. No gradient flows through lse or the carry out; what
 * later segments want of this one's keys comes by dk_more and dv_more.
 */
#include "core/op/attention/attention.h"

const lmoe_option lmoe__attention_options[] = {
    {"scale", LMOE_OPTION_FLOAT, offsetof(lmoe_attention_attrs, scale), "1", 0, 0, NULL, NULL,
     "Factor of q . k."},
    {"window", LMOE_OPTION_INT, offsetof(lmoe_attention_attrs, window), "0", 0, 1e15, NULL,
     "tokens", "How many positions a token sees, its own included; 0: all of its document."},
    {"past", LMOE_OPTION_INT, offsetof(lmoe_attention_attrs, past), "0", 0, 1, NULL, NULL,
     "1: only cached keys are seen, and none is added to them."},
    LMOE_OPTION_END};

/* ---- ports ---- */

enum { KV = LMOE__CARRY_IN, KV_INT = LMOE__CARRY_IN | LMOE_PORT_NO_GRAD, OUT = LMOE_PORT_CARRY };

static const lmoe_port op_in[] = {{.name = "q"},
                                  {.name = "k"},
                                  {.name = "v"},
                                  {LMOE__POSITIONS},
                                  {LMOE__DOCUMENT},
                                  {LMOE__SKIP},
                                  {.name = "keys", .flags = KV},
                                  {.name = "values", .flags = KV},
                                  {.name = "key_positions", .flags = KV_INT},
                                  {.name = NULL}};
static const char *const op_forms[] = {"b s h k", "b s g k", "b s g v", "b s: i32", "b s: i32",
                                       "b s: u8", "b c g k", "b c g v", "b c: i32"};
static const lmoe_port op_out[] = {{.name = "y"},
                                   {.name = "lse", .flags = LMOE_PORT_NO_GRAD},
                                   {.name = "keys", .flags = OUT},
                                   {.name = "values", .flags = OUT},
                                   {.name = "key_positions", .flags = OUT},
                                   {.name = NULL}};

static const lmoe_port grad_in[] = {{.name = "q"},
                                    {.name = "k"},
                                    {.name = "v"},
                                    {LMOE__POSITIONS},
                                    {LMOE__DOCUMENT},
                                    {LMOE__SKIP},
                                    {.name = "y"},
                                    {.name = "lse", .flags = LMOE_PORT_STATE},
                                    {.name = "dy"},
                                    {.name = "keys", .flags = LMOE__FORWARD_CARRY},
                                    {.name = "values", .flags = LMOE__FORWARD_CARRY},
                                    {.name = "key_positions", .flags = LMOE__FORWARD_CARRY},
                                    {.name = "dk_more", .flags = LMOE__CARRY_IN},
                                    {.name = "dv_more", .flags = LMOE__CARRY_IN},
                                    {.name = NULL}};
static const char *const grad_forms[] = {"b s h k", "b s g k",  "b s g v", "b s: i32", "b s: i32",
                                         "b s: u8", "b s h v",  "b s h",   "b s h v",  "b c g k",
                                         "b c g v", "b c: i32", "b s g k", "b s g v"};
static const lmoe_port grad_out[] = {{.name = "dq"},
                                     {.name = "dk"},
                                     {.name = "dv"},
                                     {.name = "dkeys", .flags = OUT},
                                     {.name = "dvalues", .flags = OUT},
                                     {.name = NULL}};

/* ---- shapes ---- */

lmoe_status lmoe__attention_bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                                 const char *const *forms, int keys, const lmoe_desc *in, int n_in)
{
    int given = 0;
    memset(l, 0, sizeof *l);
    LMOE_TRY(lmoe__letters_bind(t, l, ports, forms, in, n_in));
    for (int i = keys; i < keys + 3; i++) given += lmoe__desc_at(in, n_in, i)->dtype != LMOE_NONE;
    if (given != 0 && given != 3)
        return lmoe_shape_error(t, "'keys', 'values' and 'key_positions' are given together or not "
                                   "at all");
    if (given == 0) lmoe__letters_set(l, 'c', "context", l->dim['s']);
    if (l->dim['g'] < 1 || l->dim['h'] % l->dim['g'] != 0)
        return lmoe_shape_error(t, "%lld heads are not a multiple of %lld kv_heads",
                                (long long)l->dim['h'], (long long)l->dim['g']);
    return LMOE_OK;
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    const lmoe_attention_attrs *o = attrs;
    lmoe__letters l;
    LMOE_TRY(lmoe__attention_bind(t, &l, op_in, op_forms, 6, in, n_in));
    if (o->window < 0)
        return lmoe_shape_error(t, "window is %lld and must not be negative; 0 is no limit",
                                (long long)o->window);
    lmoe__letters_desc(&l, "b s h v", in[2].dtype, &out[0]);
    lmoe__letters_desc(&l, "b s h", lmoe__state_dtype_of(in, n_in), &out[1]);
    lmoe__letters_desc(&l, "b c g k", in[1].dtype, &out[2]);
    lmoe__letters_desc(&l, "b c g v", in[2].dtype, &out[3]);
    lmoe__letters_desc(&l, "b c", LMOE_I32, &out[4]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(lmoe__attention_bind(t, &l, grad_in, grad_forms, 9, in, n_in));
    for (int i = 0; i < 3; i++) out[i] = in[i];
    if (lmoe__desc_at(in, n_in, 9)->dtype == LMOE_NONE) { /* nothing cached, no gradient of it */
        memset(out + 3, 0, 2 * sizeof *out);
        return LMOE_OK;
    }
    lmoe__letters_desc(&l, "b c g k", in[9].dtype, &out[3]);
    lmoe__letters_desc(&l, "b c g v", in[10].dtype, &out[4]);
    return LMOE_OK;
}

/* A ring for `context` past tokens; a window never looks back further than window - 1. */
static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    const lmoe_attention_attrs *o = attrs;
    lmoe_desc out[5];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < 6 ? n_in : 6, out));
    if (o->window > 0 && context > o->window - 1) context = o->window > 1 ? o->window - 1 : 1;
    for (int i = 0; i < 3; i++) {
        carry[i] = out[2 + i];
        carry[i].dim[1] = context;
    }
    return LMOE_OK;
}

static lmoe_status grad_carry_shape(const void *attrs, const lmoe_desc *in, int n_in,
                                    int64_t context, lmoe_desc *carry)
{
    carry[0] = in[1];
    carry[1] = in[2];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {.size = sizeof(lmoe_carry),
                                    .count = 3,
                                    .in = 6,
                                    .out = 2,
                                    .shape = carry_shape,
                                    .summary = "attention_summary/1",
                                    .n_summary_in = 4,
                                    .summary_in = {1, 2, 3, 5},
                                    .n_summary = 3,
                                    .combine = "attention_combine/1",
                                    .initial = -1,
                                    .initial_of = 2};
static const lmoe_carry grad_carry = {.size = sizeof(lmoe_carry),
                                      .count = 2,
                                      .in = 12,
                                      .out = 3,
                                      .reverse = 1,
                                      .shape = grad_carry_shape,
                                      .summary = "attention_grad_summary/1",
                                      .n_summary_in = 10,
                                      .summary_in = {0, 3, 4, 5, 6, 7, 8, 9, 10, 11},
                                      .n_summary = 2,
                                      .combine = "attention_grad_combine/1"};

/* ---- axis rules: of heads in groups, the groups may be split ---- */

static lmoe_status op_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const char *h = in[0].dim[2] != in[1].dim[2] ? "(h i)" : "h";
    snprintf(text, n,
             "b s %s k, b s h k, b s h v, b s, b s, b s -> b s %s v, b s %s "
             "| order s, whole k, same 1",
             h, h, h);
    return LMOE_OK;
}

static lmoe_status grad_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const char *h = in[0].dim[2] != in[1].dim[2] ? "(h i)" : "h";
    snprintf(text, n,
             "b s %s k, b s h k, b s h v, b s, b s, b s, b s %s v, b s %s, b s %s v "
             "-> b s %s k, b s h k, b s h v | order s, whole k",
             h, h, h, h, h);
    return LMOE_OK;
}

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    for (int i = 1; i < 4; i++) {
        if (lmoe_is_absent(v->dout[i])) continue;
        lmoe_fail(t, "no gradient flows through '%s' of attention/1, but something depends on it",
                  op_out[i].name);
        return LMOE_E_UNSUPPORTED;
    }
    lmoe_tensor in[12], d[5];
    memcpy(in, v->in, 6 * sizeof *in);
    in[6] = v->out[0];
    in[7] = v->out[1];
    in[8] = v->dout[0];
    memcpy(in + 9, v->in + 6, 3 * sizeof *in);
    lmoe_apply_at(t, LMOE_HERE, "attention_grad/1", in, 12, v->attrs, sizeof(lmoe_attention_attrs),
                  d, 5);
    for (int i = 0; i < 3; i++) v->din[i] = d[i];
    v->din[6] = d[3];
    v->din[7] = d[4];
    return LMOE_OK;
}

/* ---- cost: products and sums over pairs of query and key ---- */

double lmoe__attention_pairs(const lmoe_attention_attrs *o, const lmoe_desc *q,
                             const lmoe_desc *keys, bool own)
{
    double seq = (double)q->dim[1], context = keys->dtype == LMOE_NONE ? 0 : (double)keys->dim[1];
    double all = own ? seq * (seq + 1) / 2 + seq * context : seq * context;
    double most = seq * (double)o->window;
    return (double)(q->dim[0] * q->dim[2]) * (o->window > 0 && most < all ? most : all);
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    return lmoe__attention_pairs(attrs, &in[0], lmoe__desc_at(in, n_in, 6), true) *
           (2.0 * (double)in[0].dim[3] + 2.0 * (double)in[2].dim[3]);
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return lmoe__attention_pairs(attrs, &in[0], lmoe__desc_at(in, n_in, 9),
                                 true) * /* a, dq, dk; dp, dv */
           (6.0 * (double)in[0].dim[3] + 4.0 * (double)in[2].dim[3]);
}

/* ---- test cases ---- */

enum { SHAPED = 2 * LMOE__CASE_SEQS, SMOOTH = 6, BENCH = 2 };
_Static_assert(LMOE__ATTENTION_BENCH == SHAPED + SMOOTH, "the first case worth timing");

lmoe__letters lmoe__attention_letters(int index)
{
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH, bench = index >= SHAPED + SMOOTH;
    static const int64_t all[][5] = {/* h g k v c */
                                     {2, 2, 8, 4, 4},    {4, 2, 16, 16, 16}, {3, 1, 5, 3, 33},
                                     {1, 1, 64, 64, 64}, {6, 2, 32, 64, 1},  {2, 2, 3, 5, 20},
                                     {4, 4, 128, 128, 8}};
    static const int64_t smooth_z[][5] = {{2, 2, 3, 2, 3}, {4, 2, 2, 3, 2}};
    static const int64_t bench_z[][5] = {{4, 4, 64, 64, 512}, {4, 2, 64, 64, 512}};
    const int64_t *z = smooth ? smooth_z[index % 2] : bench ? bench_z[index % 2] : all[index % 7];
    int64_t seq = smooth ? 4 : bench ? 256 : lmoe__case_seq[index % LMOE__CASE_SEQS];
    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'b', "batch", bench ? 16 : 1 + index % 2);
    lmoe__letters_set(&l, 's', "seq", seq);
    lmoe__letters_set(&l, 'h', "heads", z[0]);
    lmoe__letters_set(&l, 'g', "kv_heads", z[1]);
    lmoe__letters_set(&l, 'k', "head_k", z[2]);
    lmoe__letters_set(&l, 'v', "head_v", z[3]);
    lmoe__letters_set(&l, 'c', "context", z[4]);
    return l;
}

/* Cached keys lie at positions -1 (the first slot is empty) ... c-2, own ones from c-1 on; the
 * document starts at 0, in the middle of the cached ones, or with the segment. */
void lmoe__attention_draw(lmoe_case *c, int i, const char *port, const char *form,
                          const lmoe__letters *l, int index)
{
    double first = (double)l->dim['c'] - 1, start[] = {0, (double)(l->dim['c'] / 2), first};
    if (strcmp(port, "positions") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_RAMP, first, 0);
    else if (strcmp(port, "key_positions") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_RAMP, -1, 0);
    else if (strcmp(port, "document") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_CONST, start[index / 2 % 3], 0);
    else if (strcmp(port, "skip") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, 0.15, 0);
    else if (strcmp(port, "lse") == 0)
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, 2, 4);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, 1);
}

int lmoe__attention_sample(int index, lmoe_case *c, const lmoe_port *ports,
                           const char *const *forms)
{
    static const int64_t windows[] = {0, 0, 3, 0, 16};
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH, bench = index >= SHAPED + SMOOTH;
    bool carry = !bench && index % 3 != 1, skip = !bench && index % 4 == 2;
    if (index >= SHAPED + SMOOTH + BENCH) return 0;
    lmoe__letters l = lmoe__attention_letters(index);
    for (int i = 0; ports[i].name; i++) {
        bool optional = ports[i].flags & LMOE_PORT_OPTIONAL;
        if (optional && (strcmp(ports[i].name, "skip") == 0 ? !skip : !carry)) continue;
        lmoe__attention_draw(c, i, ports[i].name, forms[i], &l, index);
    }
    lmoe_attention_attrs o = {2.0 / (1 + (double)l.dim['k'] / 4), bench ? 0 : windows[index % 5],
                              !bench && index % 4 == 1};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    if (smooth && ports == op_in) c->flags |= LMOE_CASE_GRADCHECK;
    return 1;
}

static int op_sample(int index, lmoe_case *c)
{
    return lmoe__attention_sample(index, c, op_in, op_forms);
}

static int grad_sample(int index, lmoe_case *c)
{
    return lmoe__attention_sample(index, c, grad_in, grad_forms);
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                        \
    {                                                                               \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, lmoe__attention_options, \
            sizeof(lmoe_attention_attrs), 0                                         \
    }

const lmoe_op lmoe__op_attention = {
    .base = CLASS("attention", "Causal softmax attention."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule_of = op_rule,
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__attention_ref,
    .sample = op_sample,
    .flops = op_flops,
};

const lmoe_op lmoe__op_attention_grad = {
    .base = CLASS("attention_grad", "Derivative of attention."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule_of = grad_rule,
    .carry = &grad_carry,
    .reference = lmoe__attention_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 32, /* p is the exp of a score, with the score's absolute error */
};
