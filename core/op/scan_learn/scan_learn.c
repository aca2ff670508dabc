/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_learn/scan_learn.c: a linear memory that learns while it reads: gradient steps in
 * mini-batches on a loss of its own, with momentum and decay (TTT, Titans); and its derivative.
 *
 *   u_s = d loss(k_s^T W, target_s) / d(k_s^T W)        W: the memory at the mini-batch's start
 *   S_s = exp(momentum_s) S_{s-1} - lr_s k_s u_s^T
 *   with position: y_s = (W + position_{phase} S_s)^T q_s ; at the next mini-batch's start
 *                  W <- W + position_last S, S <- 0
 *   without:       M_s = exp(decay_s) M_{s-1} + S_s , y_s = M_s^T q_s ; at its start W <- M
 *   loss(z, target) = |norm(z) - target|^2 / 2 , norm(z) = gamma (z - mean) / sqrt(var + eps) + beta,
 *   or norm(z) = z without gamma and beta
 *
 * Letters: b batch, s seq, h heads, k head_k, v head_v, m place in a mini-batch, p slot;
 * (o) may be absent.
 *   scan_learn/1       q, k (b s h k), target (b s h v), lr (b s h), phase (b s) i32: a token's
 *                      place in its mini-batch, 0 at its start; momentum, decay (b s h) (o), logs
 *                      <= 0 (no momentum: S_s = S_{s-1} - ... with position, S_s = - ... without);
 *                      position (m) (o); gamma, beta (h v) (o); initial (h k v): W where
 *                      nothing was learned yet; reset, skip (b s) (o); carry (b p h k v) (o)
 *                      -> y (b s h v), carry
 *   scan_learn_grad/1  the same up to skip, dy, carry: the forward op's, dcarry: d(carry out)
 *                      -> dq, dk, dtarget, dlr, dmomentum, ddecay, dposition, dgamma, dbeta,
 *                      dinitial, dcarry: d(carry in)
 *
 * The carry holds W - initial, S and, without position, M - initial: so nothing before is zeros.
 * What a mini-batch writes depends on the memory at its start, so a segment has no summary that
 * could be combined: the carry is handed over in order.
 *
 * reset at s: all is forgotten before token s, also if s is skipped; the data must begin a
 * mini-batch there (phase 0). skip at s: nothing changes, y_s and the gradients of token s are 0.
 */
#include "core/op/carry.h"

static const lmoe_option options[] = {{"eps", LMOE_OPTION_FLOAT,
                                       offsetof(lmoe_scan_learn_attrs, eps), "1e-6", 0, 1, NULL,
                                       NULL, "Added to the variance in the loss's norm."},
                                      LMOE_OPTION_END};

enum { OPT = LMOE_PORT_OPTIONAL, STATE = LMOE_PORT_STATE };

#define GIVEN_PORTS                                                                                \
    {.name = "q"}, {.name = "k"}, {.name = "target"}, {.name = "lr", .flags = STATE},              \
        {.name = "phase", .flags = LMOE_PORT_NO_GRAD}, {.name = "momentum", .flags = OPT | STATE}, \
        {.name = "decay", .flags = OPT | STATE}, {.name = "position", .flags = OPT | STATE},       \
        {.name = "gamma", .flags = OPT | STATE}, {.name = "beta", .flags = OPT | STATE},           \
        {.name = "initial", .flags = STATE}, {LMOE__RESET},                                        \
    {                                                                                              \
        LMOE__SKIP                                                                                 \
    }

#define GIVEN_FORMS                                                                            \
    "b s h k", "b s h k", "b s h v", "b s h", "b s: i32", "b s h", "b s h", "m", "h v", "h v", \
        "h k v", "b s: u8", "b s: u8"

enum {
    Q,
    K,
    TARGET,
    LR,
    PHASE,
    MOMENTUM,
    DECAY,
    POSITION,
    GAMMA,
    BETA,
    INITIAL,
    RESET,
    SKIP,
    CARRY
};
enum { DY = CARRY, FORWARD_CARRY, DCARRY, N_GIVEN = CARRY };
enum { DQ, DK, DTARGET, DLR, DMOMENTUM, DDECAY, DPOSITION, DGAMMA, DBETA, DINITIAL, DCARRY_OUT };

static const lmoe_port op_in[] = {
    GIVEN_PORTS, {.name = "carry", .flags = LMOE__CARRY_IN | STATE}, {.name = NULL}};
static const char *const op_forms[] = {GIVEN_FORMS, "b p h k v"};
static const lmoe_port op_out[] = {
    {.name = "y"}, {.name = "carry", .flags = LMOE_PORT_CARRY}, {.name = NULL}};
static const lmoe_port grad_in[] = {GIVEN_PORTS,
                                    {.name = "dy"},
                                    {.name = "carry", .flags = LMOE__FORWARD_CARRY | STATE},
                                    {.name = "dcarry", .flags = LMOE__CARRY_IN | STATE},
                                    {.name = NULL}};
static const char *const grad_forms[] = {GIVEN_FORMS, "b s h v", "b p h k v", "b p h k v"};
static const lmoe_port grad_out[] = {{.name = "dq"},
                                     {.name = "dk"},
                                     {.name = "dtarget"},
                                     {.name = "dlr"},
                                     {.name = "dmomentum"},
                                     {.name = "ddecay"},
                                     {.name = "dposition"},
                                     {.name = "dgamma"},
                                     {.name = "dbeta"},
                                     {.name = "dinitial"},
                                     {.name = "dcarry", .flags = LMOE_PORT_CARRY},
                                     {.name = NULL}};

/* ---- shapes ---- */

static lmoe_status bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                        const char *const *forms, const lmoe_desc *in, int n_in)
{
    bool position = lmoe__desc_at(in, n_in, POSITION)->dtype != LMOE_NONE;
    memset(l, 0, sizeof *l);
    if (position && lmoe__desc_at(in, n_in, DECAY)->dtype != LMOE_NONE)
        return lmoe_shape_error(t, "'position' and 'decay' exclude each other");
    if (lmoe__desc_at(in, n_in, GAMMA)->dtype != lmoe__desc_at(in, n_in, BETA)->dtype)
        return lmoe_shape_error(t, "'gamma' and 'beta' go together: both absent, or of one dtype");
    lmoe__letters_set(l, 'p', "slot", position ? 2 : 3);
    return lmoe__letters_bind(t, l, ports, forms, in, n_in);
}

static void state_desc(lmoe__letters l, const lmoe_desc *in, int n_in, lmoe_desc *out)
{
    if (strcmp(l.axis['k'], l.axis['v']) == 0) {
        l.axis['k'] = "head_k";
        l.axis['v'] = "head_v";
    }
    lmoe__letters_desc(&l, "b p h k v", lmoe__state_dtype_of(in, n_in), out);
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, op_in, op_forms, in, n_in));
    out[0] = in[TARGET];
    state_desc(l, in, n_in, &out[1]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, grad_in, grad_forms, in, n_in));
    for (int i = Q, o = DQ; i <= INITIAL; i++) {
        if (i != PHASE) out[o++] = in[i];
    }
    state_desc(l, in, n_in, &out[DCARRY_OUT]);
    return LMOE_OK;
}

static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    lmoe_desc out[2];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < N_GIVEN ? n_in : N_GIVEN, out));
    *carry = out[1];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {
    .size = sizeof(lmoe_carry), .count = 1, .in = CARRY, .out = 1, .shape = carry_shape};
static const lmoe_carry grad_carry = {.size = sizeof(lmoe_carry),
                                      .count = 1,
                                      .in = DCARRY,
                                      .out = DCARRY_OUT,
                                      .reverse = 1,
                                      .shape = carry_shape};

/* ---- axis rules ---- */

#define OPERANDS "b s h k, b s h k, b s h v, b s h, b s, b s h, b s h, m, h v, h v, h k v, b s, b s"

static const char op_rule[] = OPERANDS " -> b s h v | order s, whole k, whole v, whole m";
static const char grad_rule[] =
    OPERANDS ", b s h v -> b s h k, b s h k, b s h v, b s h, b s h, b s h, m, h v, h v, h k v "
             "| order s, whole k, whole v, whole m";

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[DCARRY + 1], d[DCARRY_OUT + 1];
    memcpy(in, v->in, N_GIVEN * sizeof *in);
    in[DY] = lmoe_is_absent(v->dout[0]) ? lmoe_fill_like(t, v->out[0], 0) : v->dout[0];
    in[FORWARD_CARRY] = v->in[CARRY];
    in[DCARRY] = v->dout[1];
    lmoe_apply_at(t, LMOE_HERE, "scan_learn_grad/1", in, DCARRY + 1, v->attrs,
                  sizeof(lmoe_scan_learn_attrs), d, DCARRY_OUT + 1);
    for (int i = Q, o = DQ; i <= INITIAL; i++) {
        if (i != PHASE) v->din[i] = d[o++];
    }
    v->din[CARRY] = d[DCARRY_OUT];
    return LMOE_OK;
}

/* ---- cost: passes over a matrix (head_k head_v) for each token and head, 2 FLOPs an element ---- */

static double passes(const lmoe_desc *in, double n)
{
    return n * 2 * (double)lmoe_desc_count(&in[K]) * (double)in[TARGET].dim[3];
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    return passes(in, 3); /* k W, the step, the read */
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return passes(in, 11);
}

/* ---- test cases ---- */

enum { VARIANTS = 4, MINI = 4, SHAPED = 2 * LMOE__CASE_SEQS, SMOOTH = VARIANTS, BENCH = 2 };

/* TTT; Titans; without norm; without momentum and decay */
static bool present(int variant, int port)
{
    switch (port) {
    case MOMENTUM: return variant == 1 || variant == 2;
    case DECAY: return variant == 1;
    case POSITION: return variant == 0 || variant == 2;
    case GAMMA:
    case BETA: return variant != 2;
    default: return true;
    }
}

/* long_one: all tokens are one mini-batch. */
static void draw(lmoe_case *c, int i, const char *name, const char *form, const lmoe__letters *l,
                 bool smooth, bool long_one)
{
    if (i == PHASE)
        lmoe__case_port(c, i, form, l, long_one ? LMOE_FILL_RAMP : LMOE_FILL_INT, 0,
                        smooth ? 2 : MINI);
    else if (i == LR || i == POSITION)
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, 0.01, 0.1);
    else if (i == MOMENTUM || i == DECAY)
        lmoe__case_port(c, i, form, l, smooth ? LMOE_FILL_UNIFORM : LMOE_FILL_DECAY, -1.5, -0.1);
    else if (i == GAMMA)
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, 0.5, 1.5);
    else if (i == INITIAL || strstr(name, "carry"))
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, 0.5);
    else if (i == RESET || i == SKIP)
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, smooth ? 0.2 : 0.1, 0);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, i == K ? 0.5 : 1);
}

static int sample(int index, lmoe_case *c, const lmoe_port *ports, const char *const *forms)
{
    static const int64_t heads[][3] = {{2, 4, 8}, {1, 8, 4}, {3, 16, 17}, {1, 33, 16}, {2, 3, 5}};
    const int64_t *h = heads[index % 5], smooth_h[] = {2, 3, 4}, bench_h[] = {4, 64, 64};
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH, bench = index >= SHAPED + SMOOTH;
    if (index >= SHAPED + SMOOTH + BENCH) return 0;
    if (smooth) h = smooth_h;
    if (bench) h = bench_h;
    int variant = bench ? index - SHAPED - SMOOTH : index % VARIANTS;
    bool carry = !bench && (smooth || index % 3 == 0);
    bool reset = !bench && (smooth ? index & 1 : index % 5 < 2), skip = reset && index % 2 == 1;
    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'b', "batch", bench ? 4 : 1 + index % 2);
    lmoe__letters_set(&l, 's', "seq",
                      bench    ? 256
                      : smooth ? 5
                               : lmoe__case_seq[index % LMOE__CASE_SEQS]);
    lmoe__letters_set(&l, 'h', "heads", h[0]);
    lmoe__letters_set(&l, 'k', "head_k", h[1]);
    lmoe__letters_set(&l, 'v', "head_v", h[2]);
    lmoe__letters_set(&l, 'm', "kernel", MINI);
    lmoe__letters_set(&l, 'p', "slot", present(variant, POSITION) ? 2 : 3);
    for (int i = 0; ports[i].name; i++) {
        if (!present(variant, i) || (i == RESET && !reset) || (i == SKIP && !skip) ||
            (strstr(ports[i].name, "carry") && !carry))
            continue;
        draw(c, i, ports[i].name, forms[i], &l, smooth, bench || (!smooth && index % 4 == 3));
    }
    lmoe_scan_learn_attrs o = {smooth ? 1 : 1e-2};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    if (smooth && ports == op_in) c->flags |= LMOE_CASE_GRADCHECK;
    return 1;
}

static int op_sample(int index, lmoe_case *c)
{
    return sample(index, c, op_in, op_forms);
}

static int grad_sample(int index, lmoe_case *c)
{
    return sample(index, c, grad_in, grad_forms);
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                                                       \
    {                                                                                              \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, options, sizeof(lmoe_scan_learn_attrs), \
            0                                                                                      \
    }

const lmoe_op lmoe__op_scan_learn = {
    .base = CLASS("scan_learn", "A linear memory that learns by gradient steps in mini-batches."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule = op_rule,
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__scan_learn_ref,
    .sample = op_sample,
    .flops = op_flops,
    .tolerance = 64,
};

const lmoe_op lmoe__op_scan_learn_grad = {
    .base = CLASS("scan_learn_grad", "Derivative of scan_learn, from the end of seq."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule = grad_rule,
    .carry = &grad_carry,
    .reference = lmoe__scan_learn_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 256, /* a derivative of a derivative */
};
