/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_diag/scan_diag.c: linear recurrence with diagonal decay, its derivative, and what
 * sequence parallelism needs of both.
 *
 *   F_s(M) = diag(exp(decay_s)) M diag(exp(decay_v_s))     M_s = F_s(M_{s-1}) + k_s v_s^T
 *   y_s = scale M_s^T q_s                                  G = dloss / dM
 *   G_s = F_{s+1}(G_{s+1}) + scale q_s dy_s^T
 *   dq_s = scale M_s dy_s   dk_s = G_s v_s   dv_s = G_s^T k_s
 *   ddecay_s = rowsum(G_s * F_s(M_{s-1})), summed to decay's shape     ddecay_v_s = columnsum
 *
 * Letters: b batch, s seq, h heads, k head_k, v head_v, r rank; (o) may be absent.
 *   scan_diag/1              q (b s h k), k (b s h k), v (b s h v), decay (o), reset (b s) (o),
 *                            skip (b s) (o), carry (b h k v) (o), decay_v (b s h v) (o)
 *                            -> y (b s h v), carry
 *   scan_diag_grad/1         q, k, v, decay, reset, skip, dy, carry: the forward op's, dcarry:
 *                            d(carry out), decay_v
 *                            -> dq, dk, dv, ddecay, dcarry: d(carry in), ddecay_v
 *   scan_diag_summary/1      k, v, decay, reset, skip, decay_v
 *                            -> log_a (b h k), m (b h k v), log_c (b h v) if there is a decay_v
 *   scan_diag_grad_summary/1 q, decay, reset, skip, dy, decay_v -> the same
 *   scan_diag_combine/1      log_a (r b h k), m (r b h k v), log_c (r b h v) (o)
 *                            -> carry (b h k v), both directions
 * decay (logs <= 0, f32 or f64): absent, none | (h) | (b s h) | (b s h k).
 *
 * reset at s: M is zeroed before token s, also if s is skipped. skip at s: M stays as it is, y_s
 * and the gradients of token s are 0. A log below -40 counts as -infinity: that row (column) of M is
 * forgotten. log_a (log_c) is the sum of a segment's decays (of the values' channels), -infinity if
 * it holds a reset; of a sum, exp is taken.
 */
#include "core/op/carry.h"

static const lmoe_option options[] = {{"scale", LMOE_OPTION_FLOAT,
                                       offsetof(lmoe_scan_diag_attrs, scale), "1", 0, 0, NULL, NULL,
                                       "Factor of the result."},
                                      LMOE_OPTION_END};

/* ---- ports ---- */

enum { DECAY = LMOE_PORT_OPTIONAL | LMOE_PORT_STATE, STATE = LMOE_PORT_STATE };

static const lmoe_port op_in[] = {{.name = "q"},
                                  {.name = "k"},
                                  {.name = "v"},
                                  {.name = "decay", .flags = DECAY},
                                  {LMOE__RESET},
                                  {LMOE__SKIP},
                                  {.name = "carry", .flags = LMOE__CARRY_IN | STATE},
                                  {.name = "decay_v", .flags = DECAY},
                                  {.name = NULL}};
static const char *const op_forms[] = {"b s h k", "b s h k", "b s h v", "",
                                       "b s: u8", "b s: u8", "b h k v", "b s h v"};
static const lmoe_port op_out[] = {
    {.name = "y"}, {.name = "carry", .flags = LMOE_PORT_CARRY}, {.name = NULL}};

static const lmoe_port grad_in[] = {{.name = "q"},
                                    {.name = "k"},
                                    {.name = "v"},
                                    {.name = "decay", .flags = DECAY},
                                    {LMOE__RESET},
                                    {LMOE__SKIP},
                                    {.name = "dy"},
                                    {.name = "carry", .flags = LMOE__FORWARD_CARRY | STATE},
                                    {.name = "dcarry", .flags = LMOE__CARRY_IN | STATE},
                                    {.name = "decay_v", .flags = DECAY},
                                    {.name = NULL}};
static const char *const grad_forms[] = {"b s h k", "b s h k", "b s h v", "",        "b s: u8",
                                         "b s: u8", "b s h v", "b h k v", "b h k v", "b s h v"};
static const lmoe_port grad_out[] = {{.name = "dq"},
                                     {.name = "dk"},
                                     {.name = "dv"},
                                     {.name = "ddecay"},
                                     {.name = "dcarry", .flags = LMOE_PORT_CARRY},
                                     {.name = "ddecay_v"},
                                     {.name = NULL}};

static const lmoe_port summary_in[] = {
    {.name = "k"}, {.name = "v"}, {.name = "decay", .flags = DECAY},
    {LMOE__RESET}, {LMOE__SKIP},  {.name = "decay_v", .flags = DECAY},
    {.name = NULL}};
static const char *const summary_forms[] = {"b s h k", "b s h v", "",
                                            "b s: u8", "b s: u8", "b s h v"};
static const lmoe_port grad_summary_in[] = {
    {.name = "q"},  {.name = "decay", .flags = DECAY},   {LMOE__RESET}, {LMOE__SKIP},
    {.name = "dy"}, {.name = "decay_v", .flags = DECAY}, {.name = NULL}};
static const char *const grad_summary_forms[] = {"b s h k", "",        "b s: u8",
                                                 "b s: u8", "b s h v", "b s h v"};
static const lmoe_port summary_out[] = {{.name = "log_a", .flags = STATE},
                                        {.name = "m", .flags = STATE},
                                        {.name = "log_c", .flags = DECAY},
                                        {.name = NULL}};
static const char *const combine_forms[] = {"r b h k", "r b h k v", "r b h v"};
static const lmoe_port combine_out[] = {{.name = "carry"}, {.name = NULL}};

/* ---- shapes ---- */

static const char *decay_form(const lmoe_desc *decay)
{
    return decay->rank == 1 ? "h" : decay->rank == 3 ? "b s h" : "b s h k";
}

/* Binds the operands; `decay` is the index of that port. */
static lmoe_status bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                        const char *const *forms, int decay, const lmoe_desc *in, int n_in)
{
    const char *f[LMOE_MAX_IO];
    const lmoe_desc *d = lmoe__desc_at(in, n_in, decay);
    memset(l, 0, sizeof *l);
    for (int i = 0; ports[i].name; i++) f[i] = forms[i];
    f[decay] = decay_form(d);
    if (d->dtype != LMOE_NONE && d->rank != 1 && d->rank != 3 && d->rank != 4)
        return lmoe_shape_error(t,
                                "'decay' has %d axes; it is absent, (heads), (batch seq heads) or "
                                "(batch seq heads head_k)",
                                d->rank);
    return lmoe__letters_bind(t, l, ports, f, in, n_in);
}

/* q and v may name their last axis alike; the state needs two names. */
static void state_desc(lmoe__letters l, lmoe_dtype dtype, const char *form, lmoe_desc *out)
{
    if (strcmp(l.axis['k'], l.axis['v']) == 0) {
        l.axis['k'] = "head_k";
        l.axis['v'] = "head_v";
    }
    lmoe__letters_desc(&l, form, dtype, out);
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, op_in, op_forms, 3, in, n_in));
    lmoe__letters_desc(&l, "b s h v", in[2].dtype, &out[0]);
    state_desc(l, lmoe__state_dtype_of(in, n_in), "b h k v", &out[1]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_in, grad_forms, 3, in, n_in));
    for (int i = 0; i < 4; i++) out[i] = in[i];
    state_desc(l, lmoe__state_dtype_of(in, n_in), "b h k v", &out[4]);
    out[5] = *lmoe__desc_at(in, n_in, 9);
    return LMOE_OK;
}

/* log_a, m and, if the values decay, log_c */
static void summary_descs(const lmoe__letters *l, const lmoe_desc *in, int n_in, lmoe_desc *out)
{
    lmoe_dtype dtype = lmoe__state_dtype_of(in, n_in);
    bool values = lmoe__desc_at(in, n_in, 5)->dtype != LMOE_NONE;
    state_desc(*l, dtype, "b h k", &out[0]);
    state_desc(*l, dtype, "b h k v", &out[1]);
    memset(&out[2], 0, sizeof out[2]);
    if (values) state_desc(*l, dtype, "b h v", &out[2]);
}

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, summary_in, summary_forms, 2, in, n_in));
    summary_descs(&l, in, n_in, out);
    return LMOE_OK;
}

static lmoe_status grad_summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_summary_in, grad_summary_forms, 1, in, n_in));
    summary_descs(&l, in, n_in, out);
    return LMOE_OK;
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, summary_out, combine_forms, in, n_in));
    lmoe__letters_desc(&l, "b h k v", in[1].dtype, out);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

/* Shapes of the carry of the op and of its derivative: M and dM. */
static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    lmoe_desc out[2];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < 4 ? n_in : 4, out));
    *carry = out[1];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {.size = sizeof(lmoe_carry),
                                    .count = 1,
                                    .in = 6,
                                    .out = 1,
                                    .shape = carry_shape,
                                    .summary = "scan_diag_summary/1",
                                    .n_summary_in = 6,
                                    .summary_in = {1, 2, 3, 4, 5, 7},
                                    .n_summary = 3,
                                    .combine = "scan_diag_combine/1",
                                    .summary_state = {2}};
static const lmoe_carry grad_carry = {.size = sizeof(lmoe_carry),
                                      .count = 1,
                                      .in = 8,
                                      .out = 4,
                                      .reverse = 1,
                                      .shape = carry_shape,
                                      .summary = "scan_diag_grad_summary/1",
                                      .n_summary_in = 6,
                                      .summary_in = {0, 3, 4, 5, 6, 9},
                                      .n_summary = 3,
                                      .combine = "scan_diag_combine/1",
                                      .summary_state = {2}};

/* ---- axis rules ---- */

static const char *rule_term(const lmoe_desc *decay)
{
    return decay->dtype == LMOE_NONE ? "." : decay_form(decay);
}

static const char *rule_term_v(const lmoe_desc *in, int n_in, int i)
{
    return lmoe__desc_at(in, n_in, i)->dtype == LMOE_NONE ? "." : "b s h v";
}

static lmoe_status op_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    snprintf(text, n, "b s h k, b s h k, b s h v, %s, b s, b s, ., %s -> b s h v | order s",
             rule_term(lmoe__desc_at(in, n_in, 3)), rule_term_v(in, n_in, 7));
    return LMOE_OK;
}

static lmoe_status grad_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const char *d = rule_term(lmoe__desc_at(in, n_in, 3)), *v = rule_term_v(in, n_in, 9);
    snprintf(text, n,
             "b s h k, b s h k, b s h v, %s, b s, b s, b s h v, ., ., %s -> b s h k, b s h k, "
             "b s h v, %s, ., %s | order s",
             d, v, d, v);
    return LMOE_OK;
}

static const char *rule_summary(const lmoe_desc *in, int n_in)
{
    return lmoe__desc_at(in, n_in, 5)->dtype == LMOE_NONE
               ? ". -> b h k, b h k v, . | whole s, same 0"
               : "b s h v -> b h k, b h k v, b h v | whole s, same 0, same 2";
}

static lmoe_status summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                size_t n)
{
    snprintf(text, n, "b s h k, b s h v, %s, b s, b s, %s", rule_term(lmoe__desc_at(in, n_in, 2)),
             rule_summary(in, n_in));
    return LMOE_OK;
}

static lmoe_status grad_summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                     size_t n)
{
    snprintf(text, n, "b s h k, %s, b s, b s, b s h v, %s", rule_term(lmoe__desc_at(in, n_in, 1)),
             rule_summary(in, n_in));
    return LMOE_OK;
}

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[10], d[6];
    memcpy(in, v->in, 6 * sizeof *in);
    in[6] = lmoe_is_absent(v->dout[0]) ? lmoe_fill_like(t, v->out[0], 0) : v->dout[0];
    in[7] = v->in[6];
    in[8] = v->dout[1];
    in[9] = v->in[7];
    lmoe_apply_at(t, LMOE_HERE, "scan_diag_grad/1", in, 10, v->attrs, sizeof(lmoe_scan_diag_attrs),
                  d, 6);
    for (int i = 0; i < 4; i++) v->din[i] = d[i];
    v->din[6] = d[4];
    v->din[7] = d[5];
    return LMOE_OK;
}

/* ---- cost: the recurrence's multiplications and additions ---- */

/* Of all tokens, a pass over the whole state is counted as 2 FLOPs an element. */
static double state_passes(const lmoe_desc *k, const lmoe_desc *v, double passes)
{
    return passes * 2 * (double)lmoe_desc_count(k) * (double)v->dim[3];
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    return state_passes(&in[1], &in[2], 2); /* write, read */
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return state_passes(&in[1], &in[2], 5); /* M, G, dq, dk, dv */
}

static double summary_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                            int n_out)
{
    return state_passes(&in[0], &in[1], 1);
}

static double grad_summary_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                 const lmoe_desc *out, int n_out)
{
    return state_passes(&in[0], lmoe__desc_at(in, n_in, 4), 1);
}

/* ---- test cases ---- */

enum {
    FORMS = 4,
    SHAPED = 2 * LMOE__CASE_SEQS,
    SMOOTH = FORMS,
    LONG = FORMS,
    BENCH = 3 * FORMS, /* many short sequences; one long one with heads of 64, and of 128 */
    CASES = SHAPED + SMOOTH + LONG + BENCH
};

/* What decays and flags are like. */
typedef enum weather { ROUGH, FIT_TO_DIFFER, MILD } weather;

static const char *const decay_forms[FORMS] = {NULL, "h", "b s h", "b s h k"};

static void draw(lmoe_case *c, int i, const char *port, const char *form, const lmoe__letters *l,
                 weather kind)
{
    bool decay = strncmp(port, "decay", 5) == 0 || strncmp(port, "log_", 4) == 0;
    if (decay && kind != ROUGH)
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, kind == MILD ? -0.2 : -1.5,
                        kind == MILD ? 0 : -0.1);
    else if (decay)
        lmoe__case_port(c, i, form, l, LMOE_FILL_DECAY, 0, 0);
    else if (strstr(form, "u8"))
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG,
                        kind == FIT_TO_DIFFER ? 0.2
                        : kind == MILD        ? 0.01
                                              : 0.1,
                        0);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, 1);
}

/* Cases of all ops but combine: lengths x decay forms, then smooth ones, then long ones as models have
 * them, then some worth timing; and all of them once more with values that decay. */
static int sample(int index, lmoe_case *c, const lmoe_port *ports, const char *const *forms)
{
    static const int64_t heads[][3] = {{2, 4, 8},   {1, 8, 4}, {3, 16, 32},
                                       {1, 64, 64}, {2, 3, 5}, {1, 32, 16}};
    static const int64_t timed[][5] = {
        {16, 256, 4, 64, 64}, {1, 4096, 8, 64, 64}, {1, 4096, 4, 128, 128}};
    const int64_t *h = heads[index % 6], smooth_h[] = {2, 3, 2}, *large = timed[0];
    const int64_t long_h[] = {1, index % 2 ? 16 : 128, index % 2 ? 8 : 64};
    bool values = index >= CASES;
    if (index >= 2 * CASES) return 0;
    index %= CASES;
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH;
    bool is_long = index >= SHAPED + SMOOTH && index < SHAPED + SMOOTH + LONG;
    bool bench = index >= SHAPED + SMOOTH + LONG;
    if (smooth) h = smooth_h;
    if (is_long) h = long_h;
    if (bench) large = timed[(index - SHAPED - SMOOTH - LONG) / FORMS];
    if (bench) h = large + 2;
    int form = index % FORMS;
    int64_t seq = bench     ? large[1]
                  : is_long ? (index % 2 ? 1100 : 150)
                  : smooth  ? 5
                            : lmoe__case_seq[index % LMOE__CASE_SEQS];
    bool carry = !bench && (smooth || index % 3 == 0);
    bool reset = !bench && (smooth || is_long ? index & 1 : index % 5 < 2),
         skip = reset && index % 2 == 1;

    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'b', "batch", bench ? large[0] : is_long ? 1 : 1 + index % 2);
    lmoe__letters_set(&l, 's', "seq", seq);
    lmoe__letters_set(&l, 'h', "heads", h[0]);
    lmoe__letters_set(&l, 'k', "head_k", h[1]);
    lmoe__letters_set(&l, 'v', "head_v", h[2]);
    for (int i = 0; ports[i].name; i++) {
        const char *f = *forms[i] ? forms[i] : decay_forms[form];
        if (!f || (strcmp(ports[i].name, "reset") == 0 && !reset) ||
            (strcmp(ports[i].name, "skip") == 0 && !skip) ||
            (strcmp(ports[i].name, "decay_v") == 0 && !values) ||
            (strstr(ports[i].name, "carry") && !carry))
            continue;
        draw(c, i, ports[i].name, f, &l, smooth ? FIT_TO_DIFFER : is_long ? MILD : ROUGH);
    }
    lmoe_scan_diag_attrs o = {smooth || bench ? 1.0 / 8 : 0.5};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

static bool is_smooth(int index)
{
    return index % CASES >= SHAPED && index % CASES < SHAPED + SMOOTH;
}

static int op_sample(int index, lmoe_case *c)
{
    int more = sample(index, c, op_in, op_forms);
    if (more && is_smooth(index)) c->flags |= LMOE_CASE_GRADCHECK;
    return more;
}

static int grad_sample(int index, lmoe_case *c)
{
    return sample(index, c, grad_in, grad_forms);
}

static int summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, summary_in, summary_forms);
}

static int grad_summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, grad_summary_in, grad_summary_forms);
}

static int combine_sample(int index, lmoe_case *c)
{
    enum { CASES_OF_COMBINE = 2 * LMOE__COMBINE_CASES + 1 };
    bool values = index >= CASES_OF_COMBINE;
    if (index >= 2 * CASES_OF_COMBINE) return 0;
    index %= CASES_OF_COMBINE;
    bool bench = index == 2 * LMOE__COMBINE_CASES;
    lmoe_combine_attrs o =
        lmoe__combine_case(index % LMOE__COMBINE_CASES, index >= LMOE__COMBINE_CASES);
    if (bench) o = (lmoe_combine_attrs){3, 4, 0};
    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'r', "rank", o.ranks);
    lmoe__letters_set(&l, 'b', "batch", bench ? 16 : 2);
    lmoe__letters_set(&l, 'h', "heads", bench ? 4 : 3);
    lmoe__letters_set(&l, 'k', "head_k", bench ? 64 : 5);
    lmoe__letters_set(&l, 'v', "head_v", bench ? 64 : 7);
    for (int i = 0; i < (values ? 3 : 2); i++)
        draw(c, i, summary_out[i].name, combine_forms[i], &l, ROUGH);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                                      \
    {                                                                                             \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, options, sizeof(lmoe_scan_diag_attrs), \
            0                                                                                     \
    }

const lmoe_op lmoe__op_scan_diag = {
    .base = CLASS("scan_diag", "Linear recurrence with diagonal decay."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule_of = op_rule,
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__scan_diag_ref,
    .sample = op_sample,
    .flops = op_flops,
    .tolerance = 16,
};

const lmoe_op lmoe__op_scan_diag_grad = {
    .base = CLASS("scan_diag_grad", "Derivative of scan_diag, from the end of seq."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule_of = grad_rule,
    .carry = &grad_carry,
    .reference = lmoe__scan_diag_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 64, /* ddecay of (heads) is one long sum of both signs */
};

const lmoe_op lmoe__op_scan_diag_summary = {
    .base = CLASS("scan_diag_summary", "What later segments need to know of one of scan_diag."),
    .inputs = summary_in,
    .outputs = summary_out,
    .shape = summary_shape,
    .rule_of = summary_rule,
    .reference = lmoe__scan_diag_summary_ref,
    .sample = summary_sample,
    .flops = summary_flops,
    .tolerance = 16,
};

const lmoe_op lmoe__op_scan_diag_grad_summary = {
    .base = CLASS("scan_diag_grad_summary",
                  "What earlier segments need to know of one of scan_diag_grad."),
    .inputs = grad_summary_in,
    .outputs = summary_out,
    .shape = grad_summary_shape,
    .rule_of = grad_summary_rule,
    .reference = lmoe__scan_diag_grad_summary_ref,
    .sample = grad_summary_sample,
    .flops = grad_summary_flops,
    .tolerance = 16,
};

const lmoe_op lmoe__op_scan_diag_combine = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "scan_diag_combine/1",
             "The state with which a segment of scan_diag, or of its derivative, starts.",
             lmoe__combine_options, sizeof(lmoe_combine_attrs), 0},
    .inputs = summary_out,
    .outputs = combine_out,
    .shape = combine_shape,
    .rule = "r b h k, r b h k v, r b h v -> b h k v | whole r",
    .reference = lmoe__scan_diag_combine_ref,
    .sample = combine_sample,
};
