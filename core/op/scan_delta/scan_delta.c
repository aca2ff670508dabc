/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_delta/scan_delta.c: linear recurrence whose transition is diagonal plus rank one
 * (the delta rule and relatives), its derivative, and what sequence parallelism needs of both.
 *
 *   M_s = diag(exp(decay_s)) M_{s-1} + k_s v_s^T - b_s (a_s^T M_{s-1})     y_s = scale M_s^T q_s
 *
 * without b, b = k:  M_s = diag(exp(decay_s)) M_{s-1} + k_s (v_s - M_{s-1}^T a_s)^T. A token may
 * make n such steps, one after the other: the decay acts in the first, y is read after the last.
 *   G_{s-1} = diag(exp(decay_s)) G_s - a_s (b_s^T G_s) + scale q_{s-1} dy_{s-1}^T  G = dloss / dM
 *   dq_s = scale M_s dy_s   dk_s = G_s v_s   dv_s = G_s^T k_s
 *   da_s = -M_{s-1} (G_s^T b_s)   db_s = -G_s (M_{s-1}^T a_s)     (without b, db goes to dk)
 *   ddecay_s = exp(decay_s) rowsum(G_s * M_{s-1}), summed to decay's shape
 *
 * Letters: b batch, s seq, n step, h heads, k and i head_k, v head_v, r rank; (o) may be absent.
 *   scan_delta/1              q (b s h k), k (b s n h k), v (b s n h v), a (b s n h k),
 *                             b (b s n h k) (o), decay (o), reset (b s) (o), skip (b s) (o),
 *                             carry (b h k v) (o) -> y (b s h v), carry
 *   scan_delta_grad/1         q, k, v, a, b, decay, reset, skip, dy, carry: the forward op's,
 *                             dcarry: d(carry out)
 *                             -> dq, dk, dv, da, db, ddecay, dcarry: d(carry in)
 *   scan_delta_summary/1      k, v, a, b, decay, reset, skip -> p (b h k i), m (b h k v)
 *   scan_delta_grad_summary/1 q, k, a, b, decay, reset, skip, dy -> p (b h k i), m (b h k v)
 *   scan_delta_combine/1      p (r b h k i), m (r b h k v) -> carry (b h k v), both directions
 * k, v, a, b lack the axis n when n is 1. decay (logs <= 0, f32 or f64): absent, none | (h) |
 * (b s h) | (b s h k).
 *
 * reset at s: M is zeroed before token s, also if s is skipped. skip at s: M stays as it is, y_s
 * and the gradients of token s are 0. A log of -infinity forgets all. A segment turns M into
 * p M + m.
 */
#include "core/op/carry.h"

#include <math.h>

static const lmoe_option options[] = {{"scale", LMOE_OPTION_FLOAT,
                                       offsetof(lmoe_scan_delta_attrs, scale), "1", 0, 0, NULL,
                                       NULL, "Factor of the result."},
                                      LMOE_OPTION_END};

/* ---- ports; forms "K", "V" and "D" depend on the operands ---- */

enum { DECAY = LMOE_PORT_OPTIONAL | LMOE_PORT_STATE, STATE = LMOE_PORT_STATE };

static const lmoe_port op_in[] = {{.name = "q"},
                                  {.name = "k"},
                                  {.name = "v"},
                                  {.name = "a"},
                                  {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                  {.name = "decay", .flags = DECAY},
                                  {LMOE__RESET},
                                  {LMOE__SKIP},
                                  {.name = "carry", .flags = LMOE__CARRY_IN | STATE},
                                  {.name = NULL}};
static const char *const op_forms[] = {"b s h k", "K",       "V",       "K",      "K",
                                       "D",       "b s: u8", "b s: u8", "b h k v"};
static const lmoe_port op_out[] = {
    {.name = "y"}, {.name = "carry", .flags = LMOE_PORT_CARRY}, {.name = NULL}};

static const lmoe_port grad_in[] = {{.name = "q"},
                                    {.name = "k"},
                                    {.name = "v"},
                                    {.name = "a"},
                                    {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                    {.name = "decay", .flags = DECAY},
                                    {LMOE__RESET},
                                    {LMOE__SKIP},
                                    {.name = "dy"},
                                    {.name = "carry", .flags = LMOE__FORWARD_CARRY | STATE},
                                    {.name = "dcarry", .flags = LMOE__CARRY_IN | STATE},
                                    {.name = NULL}};
static const char *const grad_forms[] = {"b s h k", "K",       "V",       "K",       "K",      "D",
                                         "b s: u8", "b s: u8", "b s h v", "b h k v", "b h k v"};
static const lmoe_port grad_out[] = {{.name = "dq"},
                                     {.name = "dk"},
                                     {.name = "dv"},
                                     {.name = "da"},
                                     {.name = "db"},
                                     {.name = "ddecay"},
                                     {.name = "dcarry", .flags = LMOE_PORT_CARRY},
                                     {.name = NULL}};

static const lmoe_port summary_in[] = {{.name = "k"},
                                       {.name = "v"},
                                       {.name = "a"},
                                       {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                       {.name = "decay", .flags = DECAY},
                                       {LMOE__RESET},
                                       {LMOE__SKIP},
                                       {.name = NULL}};
static const char *const summary_forms[] = {"K", "V", "K", "K", "D", "b s: u8", "b s: u8"};
static const lmoe_port grad_summary_in[] = {{.name = "q"},
                                            {.name = "k"},
                                            {.name = "a"},
                                            {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                            {.name = "decay", .flags = DECAY},
                                            {LMOE__RESET},
                                            {LMOE__SKIP},
                                            {.name = "dy"},
                                            {.name = NULL}};
static const char *const grad_summary_forms[] = {"b s h k", "K",       "K",       "K",
                                                 "D",       "b s: u8", "b s: u8", "b s h v"};
static const lmoe_port summary_out[] = {
    {.name = "p", .flags = STATE}, {.name = "m", .flags = STATE}, {.name = NULL}};
static const char *const combine_forms[] = {"r b h k i", "r b h k v"};
static const lmoe_port combine_out[] = {{.name = "carry"}, {.name = NULL}};

/* ---- shapes ---- */

static const char *decay_form(const lmoe_desc *decay)
{
    return decay->rank == 1 ? "h" : decay->rank == 3 ? "b s h" : "b s h k";
}

/* A port's form, for `steps` (1: with the axis n) and this decay. */
static const char *form_of(const char *form, int steps, const lmoe_desc *decay)
{
    switch (*form) {
    case 'K': return steps ? "b s n h k" : "b s h k";
    case 'V': return steps ? "b s n h v" : "b s h v";
    case 'D': return decay_form(decay);
    default: return form;
    }
}

static int index_of(const lmoe_port *ports, const char *name)
{
    int i = 0;
    while (strcmp(ports[i].name, name) != 0) i++;
    return i;
}

/* Binds the operands; k's axes say whether tokens make several steps. */
static lmoe_status bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                        const char *const *forms, const lmoe_desc *in, int n_in)
{
    const char *f[LMOE_MAX_IO];
    const lmoe_desc *d = lmoe__desc_at(in, n_in, index_of(ports, "decay"));
    int steps = lmoe__desc_at(in, n_in, index_of(ports, "k"))->rank == 5;
    memset(l, 0, sizeof *l);
    for (int i = 0; ports[i].name; i++) f[i] = form_of(forms[i], steps, d);
    if (d->dtype != LMOE_NONE && d->rank != 1 && d->rank != 3 && d->rank != 4)
        return lmoe_shape_error(t,
                                "'decay' has %d axes; it is absent, (heads), (batch seq heads) or "
                                "(batch seq heads head_k)",
                                d->rank);
    LMOE_TRY(lmoe__letters_bind(t, l, ports, f, in, n_in));
    if (steps && l->dim['n'] < 1) return lmoe_shape_error(t, "a token makes at least one step");
    return LMOE_OK;
}

/* q and v may name their last axis alike; the state needs two names, and p one more. */
static void state_desc(lmoe__letters l, lmoe_dtype dtype, const char *form, lmoe_desc *out)
{
    if (strcmp(l.axis['k'], l.axis['v']) == 0) {
        l.axis['k'] = "head_k";
        l.axis['v'] = "head_v";
    }
    lmoe__letters_set(&l, 'i', "head_i", l.dim['k']);
    lmoe__letters_desc(&l, form, dtype, out);
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, op_in, op_forms, in, n_in));
    lmoe__letters_desc(&l, "b s h v", in[2].dtype, &out[0]);
    state_desc(l, lmoe__state_dtype_of(in, n_in), "b h k v", &out[1]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_in, grad_forms, in, n_in));
    for (int i = 0; i < 6; i++) out[i] = in[i];
    state_desc(l, lmoe__state_dtype_of(in, n_in), "b h k v", &out[6]);
    return LMOE_OK;
}

/* p, and m with the last axis of x, a tensor (... v). */
static void summary_descs(lmoe__letters *l, const lmoe_desc *in, int n_in, lmoe_desc *out)
{
    state_desc(*l, lmoe__state_dtype_of(in, n_in), "b h k i", &out[0]);
    state_desc(*l, lmoe__state_dtype_of(in, n_in), "b h k v", &out[1]);
}

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, summary_in, summary_forms, in, n_in));
    summary_descs(&l, in, n_in, out);
    return LMOE_OK;
}

static lmoe_status grad_summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_summary_in, grad_summary_forms, in, n_in));
    summary_descs(&l, in, n_in, out);
    return LMOE_OK;
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    LMOE_TRY(lmoe__letters_bind(t, &l, summary_out, combine_forms, in, n_in));
    if (l.dim['i'] != l.dim['k'])
        return lmoe_shape_error(t, "'p' has %lld rows and %lld columns; it must be square",
                                (long long)l.dim['k'], (long long)l.dim['i']);
    lmoe__letters_desc(&l, "b h k v", in[1].dtype, out);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

/* Shapes of the carry of the op and of its derivative: M and dM. */
static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    lmoe_desc out[2];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < 6 ? n_in : 6, out));
    *carry = out[1];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {.size = sizeof(lmoe_carry),
                                    .count = 1,
                                    .in = 8,
                                    .out = 1,
                                    .shape = carry_shape,
                                    .summary = "scan_delta_summary/1",
                                    .n_summary_in = 7,
                                    .summary_in = {1, 2, 3, 4, 5, 6, 7},
                                    .n_summary = 2,
                                    .combine = "scan_delta_combine/1",
                                    .summary_state = {2}};
static const lmoe_carry grad_carry = {.size = sizeof(lmoe_carry),
                                      .count = 1,
                                      .in = 10,
                                      .out = 6,
                                      .reverse = 1,
                                      .shape = carry_shape,
                                      .summary = "scan_delta_grad_summary/1",
                                      .n_summary_in = 8,
                                      .summary_in = {0, 1, 3, 4, 5, 6, 7, 8},
                                      .n_summary = 2,
                                      .combine = "scan_delta_combine/1",
                                      .summary_state = {2}};

/* ---- axis rules: batch, heads and head_v may be split ---- */

/* Terms of n ports, comma-separated; "." for absent ones. */
static void terms(const lmoe_port *ports, const char *const *forms, const lmoe_desc *in, int n_in,
                  int n, char *text, size_t size)
{
    const lmoe_desc *decay = lmoe__desc_at(in, n_in, index_of(ports, "decay"));
    int steps = in[index_of(ports, "k")].rank == 5;
    for (int i = 0; i < n; i++) {
        bool absent = lmoe__desc_at(in, n_in, i)->dtype == LMOE_NONE;
        const char *form = absent ? "." : form_of(forms[i], steps, decay);
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%.*s", i ? ", " : "", (int)strcspn(form, ":"), form);
    }
}

static const char *whole_step(const lmoe_port *ports, const lmoe_desc *in)
{
    return in[index_of(ports, "k")].rank == 5 ? ", whole n" : "";
}

static lmoe_status op_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    char operands[256] = "";
    terms(op_in, op_forms, in, n_in, 8, operands, sizeof operands);
    snprintf(text, n, "%s -> b s h v | order s, whole k%s", operands, whole_step(op_in, in));
    return LMOE_OK;
}

static lmoe_status grad_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    char operands[256] = "", results[256] = "";
    terms(grad_in, grad_forms, in, n_in, 9, operands, sizeof operands);
    terms(grad_in, grad_forms, in, n_in, 6, results, sizeof results);
    snprintf(text, n, "%s -> %s | order s, whole k%s", operands, results, whole_step(grad_in, in));
    return LMOE_OK;
}

static lmoe_status summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                size_t n)
{
    char operands[256] = "";
    terms(summary_in, summary_forms, in, n_in, 7, operands, sizeof operands);
    snprintf(text, n, "%s -> b h k i, b h k v | whole s, whole k, whole i, same 0%s", operands,
             whole_step(summary_in, in));
    return LMOE_OK;
}

static lmoe_status grad_summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                     size_t n)
{
    char operands[256] = "";
    terms(grad_summary_in, grad_summary_forms, in, n_in, 8, operands, sizeof operands);
    snprintf(text, n, "%s -> b h k i, b h k v | whole s, whole k, whole i, same 0%s", operands,
             whole_step(grad_summary_in, in));
    return LMOE_OK;
}

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[11], d[7];
    memcpy(in, v->in, 8 * sizeof *in);
    in[8] = lmoe_is_absent(v->dout[0]) ? lmoe_fill_like(t, v->out[0], 0) : v->dout[0];
    in[9] = v->in[8];
    in[10] = v->dout[1];
    lmoe_apply_at(t, LMOE_HERE, "scan_delta_grad/1", in, 11, v->attrs,
                  sizeof(lmoe_scan_delta_attrs), d, 7);
    for (int i = 0; i < 6; i++) v->din[i] = d[i];
    v->din[8] = d[6];
    return LMOE_OK;
}

/* ---- cost: the recurrence's multiplications and additions ---- */

/* `passes` over the state for each step of each token and `reads` for each token; a pass is 2 FLOPs
 * an element. k: (... k), v: (... v), q: (b s h k). */
static double state_passes(const lmoe_desc *k, const lmoe_desc *v, double passes,
                           const lmoe_desc *q, double reads)
{
    double rows = passes * (double)lmoe_desc_count(k);
    if (q) rows += reads * (double)lmoe_desc_count(q);
    return 2 * rows * (double)v->dim[v->rank - 1];
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    bool b = lmoe__desc_at(in, n_in, 4)->dtype != LMOE_NONE;
    return state_passes(&in[1], &in[2], b ? 3 : 2, &in[0], 1); /* erase, write; read */
}

/* Again, and: dk, dv, da, db, G's two updates; dq, G. */
static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    bool b = lmoe__desc_at(in, n_in, 4)->dtype != LMOE_NONE;
    return state_passes(&in[1], &in[2], b ? 9 : 6, &in[0], 2);
}

static double summary_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                            int n_out)
{
    bool b = lmoe__desc_at(in, n_in, 3)->dtype != LMOE_NONE;
    return state_passes(&in[0], &in[1], b ? 3 : 2, NULL, 0) +
           state_passes(&in[0], &in[0], 2, NULL, 0);
}

static double grad_summary_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                 const lmoe_desc *out, int n_out)
{
    return state_passes(&in[1], lmoe__desc_at(in, n_in, 7), 2, &in[0], 1) +
           state_passes(&in[1], &in[1], 2, NULL, 0);
}

/* ---- test cases ---- */

enum { FORMS = 4, SHAPED = 4 * LMOE__CASE_SEQS, SMOOTH = 2 * FORMS, BENCH = 2 * FORMS };
static const char *const decay_forms[FORMS] = {NULL, "h", "b s h", "b s h k"};

/* One operand. Keys are so small that the state does not grow by what is erased. */
static void draw(lmoe_case *c, int i, const char *port, const char *form, const lmoe__letters *l,
                 bool smooth)
{
    double key = 0.7 / sqrt((double)l->dim['k']);
    bool keys = strlen(port) == 1 && strchr("kab", *port), decay = strcmp(port, "decay") == 0;
    if (decay && smooth)
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, -1.5, -0.1);
    else if (decay)
        lmoe__case_port(c, i, form, l, LMOE_FILL_DECAY, 0, 0);
    else if (strstr(form, "u8"))
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, smooth ? 0.2 : 0.1, 0);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, keys ? key : 1);
}

/* What a case is about. */
typedef struct scene {
    int64_t batch, seq, heads, k, v, steps; /* steps 0: without the axis */
    int form;                               /* of the decay */
    bool smooth, bench, b, carry, reset, skip;
} scene;

/* Lengths, decay forms and sizes against each other; then smooth cases; then some worth timing. */
static bool scene_of(int index, scene *s)
{
    static const int64_t heads[][3] = {{2, 4, 8},   {1, 8, 4}, {3, 16, 32},
                                       {1, 64, 64}, {2, 3, 5}, {1, 32, 16}};
    static const int64_t steps[] = {0, 0, 2, 0, 3, 0, 1, 0};
    if (index >= SHAPED + SMOOTH + BENCH) return false;
    s->smooth = index >= SHAPED && index < SHAPED + SMOOTH;
    s->bench = index >= SHAPED + SMOOTH;
    int i = index - (s->bench ? SHAPED + SMOOTH : s->smooth ? SHAPED : 0);
    const int64_t *h = heads[i % 6];
    s->form = (i + i / LMOE__CASE_SEQS) % FORMS;
    s->b = s->bench ? i % FORMS == 3 && i >= FORMS : s->smooth ? i >= FORMS : i % 3 == 1;
    s->steps = s->bench ? 0 : s->smooth ? i % 3 : steps[i % 8];
    s->seq = s->bench ? 4096 : s->smooth ? 5 : lmoe__case_seq[i % LMOE__CASE_SEQS];
    s->batch = s->bench ? 1 : 1 + i % 2;
    s->heads = s->bench ? 8 : s->smooth ? 2 : h[0];
    s->k = s->bench ? 64 : s->smooth ? 3 : h[1];
    s->v = s->bench ? 64 : s->smooth ? 2 : h[2];
    if (s->bench && i >= BENCH / 2) s->heads = 4, s->k = s->v = 128;
    s->carry = !s->bench && (s->smooth || i % 3 == 0);
    s->reset = !s->bench && (s->smooth ? i & 1 : i % 5 < 2);
    s->skip = s->reset && i % 2 == 1;
    return true;
}

static int sample(int index, lmoe_case *c, const lmoe_port *ports, const char *const *forms)
{
    scene s;
    lmoe__letters l = {0};
    if (!scene_of(index, &s)) return 0;
    lmoe__letters_set(&l, 'b', "batch", s.batch);
    lmoe__letters_set(&l, 's', "seq", s.seq);
    lmoe__letters_set(&l, 'n', "step", s.steps);
    lmoe__letters_set(&l, 'h', "heads", s.heads);
    lmoe__letters_set(&l, 'k', "head_k", s.k);
    lmoe__letters_set(&l, 'v', "head_v", s.v);
    for (int i = 0; ports[i].name; i++) {
        const char *name = ports[i].name;
        const char *f =
            *forms[i] == 'D' ? decay_forms[s.form] : form_of(forms[i], s.steps > 0, NULL);
        if (!f || (strcmp(name, "b") == 0 && !s.b) || (strcmp(name, "reset") == 0 && !s.reset) ||
            (strcmp(name, "skip") == 0 && !s.skip) || (strstr(name, "carry") && !s.carry))
            continue;
        draw(c, i, name, f, &l, s.smooth);
    }
    lmoe_scan_delta_attrs o = {s.smooth || s.bench ? 1.0 / 8 : 0.5};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = s.bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

static int op_sample(int index, lmoe_case *c)
{
    int more = sample(index, c, op_in, op_forms);
    if (index >= SHAPED && index < SHAPED + SMOOTH) c->flags |= LMOE_CASE_GRADCHECK;
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
    bool bench = index == 2 * LMOE__COMBINE_CASES;
    if (index > 2 * LMOE__COMBINE_CASES) return 0;
    lmoe_combine_attrs o =
        lmoe__combine_case(index % LMOE__COMBINE_CASES, index >= LMOE__COMBINE_CASES);
    if (bench) o = (lmoe_combine_attrs){3, 4, 0};
    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'r', "rank", o.ranks);
    lmoe__letters_set(&l, 'b', "batch", bench ? 16 : 2);
    lmoe__letters_set(&l, 'h', "heads", bench ? 4 : 3);
    lmoe__letters_set(&l, 'k', "head_k", bench ? 64 : 5);
    lmoe__letters_set(&l, 'i', "head_i", bench ? 64 : 5);
    lmoe__letters_set(&l, 'v', "head_v", bench ? 64 : 7);
    for (int i = 0; i < 2; i++) draw(c, i, summary_out[i].name, combine_forms[i], &l, false);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                                       \
    {                                                                                              \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, options, sizeof(lmoe_scan_delta_attrs), \
            0                                                                                      \
    }

const lmoe_op lmoe__op_scan_delta = {
    .base = CLASS("scan_delta", "Linear recurrence that erases before it writes."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule_of = op_rule,
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__scan_delta_ref,
    .sample = op_sample,
    .flops = op_flops,
    .tolerance = 32,
};

const lmoe_op lmoe__op_scan_delta_grad = {
    .base = CLASS("scan_delta_grad", "Derivative of scan_delta, from the end of seq."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule_of = grad_rule,
    .carry = &grad_carry,
    .reference = lmoe__scan_delta_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 64, /* ddecay of (heads) is one long sum of both signs */
};

const lmoe_op lmoe__op_scan_delta_summary = {
    .base = CLASS("scan_delta_summary", "What later segments need to know of one of scan_delta."),
    .inputs = summary_in,
    .outputs = summary_out,
    .shape = summary_shape,
    .rule_of = summary_rule,
    .reference = lmoe__scan_delta_summary_ref,
    .sample = summary_sample,
    .flops = summary_flops,
    .tolerance = 512, /* p may be smaller by 1e-18 than what it is made of */
};

const lmoe_op lmoe__op_scan_delta_grad_summary = {
    .base = CLASS("scan_delta_grad_summary", "What earlier segments need to know, backwards."),
    .inputs = grad_summary_in,
    .outputs = summary_out,
    .shape = grad_summary_shape,
    .rule_of = grad_summary_rule,
    .reference = lmoe__scan_delta_grad_summary_ref,
    .sample = grad_summary_sample,
    .flops = grad_summary_flops,
    .tolerance = 512, /* p may be smaller by 1e-18 than what it is made of */
};

const lmoe_op lmoe__op_scan_delta_combine = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "scan_delta_combine/1",
             "The carry of a segment, from all summaries.", lmoe__combine_options,
             sizeof(lmoe_combine_attrs), 0},
    .inputs = summary_out,
    .outputs = combine_out,
    .shape = combine_shape,
    .rule = "r b h k i, r b h k v -> b h k v | whole r, whole k, whole i",
    .reference = lmoe__scan_delta_combine_ref,
    .sample = combine_sample,
};
