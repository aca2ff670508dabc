/* SPDX-License-Identifier: Apache-2.0
 * core/op/scan_elem/scan_elem.c: linear recurrence in which every element of the state has a decay
 * of its own, real or complex; its derivative, and what sequence parallelism needs of both.
 *
 *   h_s[c,n] = a_s[c,n] h_{s-1}[c,n] + x_s[c] b_s[n]        y_s[c] = Re sum_n h_s[c,n] c_s[n]
 *   a_s[c,n] = exp(step_s[c] rate[c,n]) (cos + i sin)
 *   G_s = dy_s conj(c_s) + conj(a_{s+1}) G_{s+1}            G = dloss / dh
 *   dx_s = Re sum_n G_s b_s    db_s = Re sum_c G_s x_s      dc_s = sum_c dy_s conj(h_s)
 *   da_s = G_s conj(h_{s-1}), from which step, rate, cos and sin get theirs
 *
 * Letters: b batch, s seq, h heads, c channel, n state, p part (1: real; 2: real, imaginary);
 * (o) may be absent. Axis h may be missing everywhere.
 *   scan_elem/1              x (b s h c), step (b s h c) (o), rate (h c n) (o), cos and sin (h c n)
 *                            or (b s h c) (o), b (b s h n) (o), c and c_im (b s h n) or (h c n) (o),
 *                            reset (b s) (o), skip (b s) (o), carry (b h c n p) (o)
 *                            -> y (b s h c), carry
 *   scan_elem_grad/1         the same up to skip, dy, carry: the forward op's, dcarry: d(carry out)
 *                            -> dx, dstep, drate, dcos, dsin, db, dc, dc_im, dcarry: d(carry in)
 *   scan_elem_summary/1      x, step, rate, cos, sin, b, reset, skip -> a, m, both (b h c n p)
 *   scan_elem_grad_summary/1 step, rate, cos, sin, c, c_im, reset, skip, dy -> a, m
 *   scan_elem_combine/1      a, m (r b h c n p) -> carry (b h c n p): h <- a h + m, both directions
 *
 * The decay is an outer product and never stored: step (each token and channel) times rate (each
 * element). Where one of them is absent it counts as 1, and the other is a log decay, -infinity
 * included; with both, both must be finite. Their product must not be positive. Without cos and
 * sin all is real; n is 1 if neither rate, cos nor b has it.
 *
 * reset at s: h is zeroed before token s, also if s is skipped. skip at s: h stays as it is, y_s
 * and the gradients of token s are 0. A segment's `a` is the product of its decays, 0 if it holds a
 * reset; from the derivative's side it is the conjugate.
 */
#include "core/op/carry.h"

/* ---- ports ---- */

enum { OPTIONAL_STATE = LMOE_PORT_OPTIONAL | LMOE_PORT_STATE, STATE = LMOE_PORT_STATE };

#define DECAY_PORTS                                                                       \
    {.name = "step", .flags = OPTIONAL_STATE}, {.name = "rate", .flags = OPTIONAL_STATE}, \
        {.name = "cos", .flags = OPTIONAL_STATE},                                         \
    {                                                                                     \
        .name = "sin", .flags = OPTIONAL_STATE                                            \
    }
#define READ_PORTS                                  \
    {.name = "c", .flags = LMOE_PORT_OPTIONAL},     \
    {                                               \
        .name = "c_im", .flags = LMOE_PORT_OPTIONAL \
    }

static const lmoe_port op_in[] = {{.name = "x"},
                                  DECAY_PORTS,
                                  {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                  READ_PORTS,
                                  {LMOE__RESET},
                                  {LMOE__SKIP},
                                  {.name = "carry", .flags = LMOE__CARRY_IN | STATE},
                                  {.name = NULL}};
static const lmoe_port op_out[] = {
    {.name = "y"}, {.name = "carry", .flags = LMOE_PORT_CARRY}, {.name = NULL}};
static const lmoe_port grad_in[] = {{.name = "x"},
                                    DECAY_PORTS,
                                    {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                    READ_PORTS,
                                    {LMOE__RESET},
                                    {LMOE__SKIP},
                                    {.name = "dy"},
                                    {.name = "carry", .flags = LMOE__FORWARD_CARRY | STATE},
                                    {.name = "dcarry", .flags = LMOE__CARRY_IN | STATE},
                                    {.name = NULL}};
static const lmoe_port grad_out[] = {
    {.name = "dx"},   {.name = "dstep"}, {.name = "drate"},
    {.name = "dcos"}, {.name = "dsin"},  {.name = "db"},
    {.name = "dc"},   {.name = "dc_im"}, {.name = "dcarry", .flags = LMOE_PORT_CARRY},
    {.name = NULL}};
static const lmoe_port summary_in[] = {
    {.name = "x"}, DECAY_PORTS,  {.name = "b", .flags = LMOE_PORT_OPTIONAL},
    {LMOE__RESET}, {LMOE__SKIP}, {.name = NULL}};
static const lmoe_port grad_summary_in[] = {DECAY_PORTS,  READ_PORTS,     {LMOE__RESET},
                                            {LMOE__SKIP}, {.name = "dy"}, {.name = NULL}};
static const lmoe_port summary_out[] = {
    {.name = "a", .flags = STATE}, {.name = "m", .flags = STATE}, {.name = NULL}};
static const lmoe_port combine_out[] = {{.name = "carry"}, {.name = NULL}};

enum { X, STEP, RATE, COS, SIN, B, C, C_IM, RESET, SKIP, CARRY };
enum { DY = CARRY, FORWARD_CARRY, DCARRY, N_GIVEN = CARRY };

/* ---- forms: what each port looks like, by a letter of its role ----
 * x: a row (b s h c); r: a table (h c n); t: either of them; b: (b s h n); c: that or a table;
 * f: flags; m: states. `row` is a port that is always a row: its axes tell whether there are heads. */

typedef struct side {
    const lmoe_port *ports;
    const char *roles;
    int row;
} side;

static const side op_side = {op_in, "xxrttbccffm", X};
static const side grad_side = {grad_in, "xxrttbccffxmm", X};
static const side summary_side = {summary_in, "xxrttbff", X};
static const side grad_summary_side = {grad_summary_in, "xrttccffx", 8};

static const char *form_of(char role, const lmoe_desc *d, int rank)
{
    static const char *const row[] = {"b s c", "b s h c"}, *const table[] = {"c n", "h c n"};
    static const char *const read[] = {"b s n", "b s h n"}, *const state[] = {"b c n p",
                                                                              "b h c n p"};
    int heads = rank == 4;
    switch (role) {
    case 'x': return row[heads];
    case 'r': return table[heads];
    case 't': return d->rank == rank ? row[heads] : table[heads];
    case 'b': return read[heads];
    case 'c': return d->rank == rank ? read[heads] : table[heads];
    case 'm': return state[heads];
    default: return "b s: u8";
    }
}

/* Operand of that name; an absent one if the op has none. */
static const lmoe_desc *named(const side *s, const char *name, const lmoe_desc *in, int n_in)
{
    int i = 0;
    while (s->ports[i].name && strcmp(s->ports[i].name, name) != 0) i++;
    return lmoe__desc_at(in, s->ports[i].name ? n_in : 0, i);
}

static bool has(const side *s, const char *name, const lmoe_desc *in, int n_in)
{
    return named(s, name, in, n_in)->dtype != LMOE_NONE;
}

/* Some operand that shapes the state has axis n; the forward op's own c does not count, as what is
 * summed up must not depend on how it is read. */
static bool has_n(const side *s, const lmoe_desc *in, int n_in)
{
    int rank = in[s->row].rank;
    for (int i = 0; s->ports[i].name; i++) {
        const lmoe_desc *d = lmoe__desc_at(in, n_in, i);
        char role = s->roles[i];
        if (d->dtype == LMOE_NONE || role == 'f' || role == 'm') continue;
        if (role == 'c' && s != &grad_summary_side) continue;
        if (strchr(form_of(role, d, rank), 'n')) return true;
    }
    return false;
}

static lmoe_status check_pairs(lmoe_trace *t, const side *s, const lmoe_desc *in, int n_in)
{
    const lmoe_desc *turn[] = {named(s, "cos", in, n_in), named(s, "sin", in, n_in)};
    const lmoe_desc *c = named(s, "c", in, n_in), *c_im = named(s, "c_im", in, n_in);
    if (turn[0]->rank != turn[1]->rank || turn[0]->dtype != turn[1]->dtype)
        return lmoe_shape_error(t, "'cos' and 'sin' go together: both absent, or of one shape");
    if (c_im->dtype != LMOE_NONE && (turn[0]->dtype == LMOE_NONE || c->rank != c_im->rank))
        return lmoe_shape_error(t, "'c_im' needs 'cos', 'sin' and a 'c' of its own shape");
    if ((s == &op_side || s == &grad_side) && has(s, "b", in, n_in) && c->dtype == LMOE_NONE)
        return lmoe_shape_error(t, "'b' needs a 'c' that reads what it writes");
    return LMOE_OK;
}

static lmoe_status bind(lmoe_trace *t, lmoe__letters *l, const side *s, const lmoe_desc *in,
                        int n_in)
{
    const char *forms[LMOE_MAX_IO];
    const lmoe_desc *row = lmoe__desc_at(in, n_in, s->row);
    memset(l, 0, sizeof *l);
    if (row->rank != 3 && row->rank != 4)
        return lmoe_shape_error(t,
                                "'%s' has %d axes; it is (batch seq channel) or (batch seq heads "
                                "channel)",
                                s->ports[s->row].name, row->rank);
    for (int i = 0; s->ports[i].name; i++)
        forms[i] = form_of(s->roles[i], lmoe__desc_at(in, n_in, i), row->rank);
    LMOE_TRY(check_pairs(t, s, in, n_in));
    lmoe__letters_set(l, 'p', "part", has(s, "cos", in, n_in) ? 2 : 1);
    if (!has_n(s, in, n_in)) lmoe__letters_set(l, 'n', "state", 1);
    return lmoe__letters_bind(t, l, s->ports, forms, in, n_in);
}

/* ---- shapes ---- */

static void state_desc(const lmoe__letters *l, const lmoe_desc *in, int n_in, int rank,
                       lmoe_desc *out)
{
    lmoe__letters_desc(l, form_of('m', NULL, rank), lmoe__state_dtype_of(in, n_in), out);
}

static lmoe_status op_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                            lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, &op_side, in, n_in));
    out[0] = in[X];
    state_desc(&l, in, n_in, in[X].rank, &out[1]);
    return LMOE_OK;
}

static lmoe_status grad_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, &grad_side, in, n_in));
    for (int i = X; i <= C_IM; i++) out[i] = in[i];
    state_desc(&l, in, n_in, in[X].rank, &out[C_IM + 1]);
    return LMOE_OK;
}

static lmoe_status two_states(lmoe_trace *t, const side *s, const lmoe_desc *in, int n_in,
                              lmoe_desc *out)
{
    lmoe__letters l;
    LMOE_TRY(bind(t, &l, s, in, n_in));
    state_desc(&l, in, n_in, in[s->row].rank, &out[0]);
    out[1] = out[0];
    return LMOE_OK;
}

static lmoe_status summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    return two_states(t, &summary_side, in, n_in, out);
}

static lmoe_status grad_summary_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in,
                                      int n_in, lmoe_desc *out)
{
    return two_states(t, &grad_summary_side, in, n_in, out);
}

static lmoe_status combine_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    lmoe__letters l = {0};
    static const char *const forms[][2] = {{"r b c n p", "r b c n p"},
                                           {"r b h c n p", "r b h c n p"}};
    int heads = n_in > 0 && in[0].rank == 6;
    LMOE_TRY(lmoe__letters_bind(t, &l, summary_out, forms[heads], in, n_in));
    lmoe__letters_desc(&l, forms[heads][0] + 2, in[1].dtype, out);
    return lmoe__combine_check(t, attrs, l.dim['r']);
}

/* Shape of the carry of the op and of its derivative: h and dh. */
static lmoe_status carry_shape(const void *attrs, const lmoe_desc *in, int n_in, int64_t context,
                               lmoe_desc *carry)
{
    lmoe_desc out[2];
    LMOE_TRY(op_shape(NULL, attrs, in, n_in < N_GIVEN ? n_in : N_GIVEN, out));
    *carry = out[1];
    return LMOE_OK;
}

static const lmoe_carry op_carry = {.size = sizeof(lmoe_carry),
                                    .count = 1,
                                    .in = CARRY,
                                    .out = 1,
                                    .shape = carry_shape,
                                    .summary = "scan_elem_summary/1",
                                    .n_summary_in = 8,
                                    .summary_in = {X, STEP, RATE, COS, SIN, B, RESET, SKIP},
                                    .n_summary = 2,
                                    .combine = "scan_elem_combine/1",
                                    .summary_state = {2}};
static const lmoe_carry grad_carry = {
    .size = sizeof(lmoe_carry),
    .count = 1,
    .in = DCARRY,
    .out = C_IM + 1,
    .reverse = 1,
    .shape = carry_shape,
    .summary = "scan_elem_grad_summary/1",
    .n_summary_in = 9,
    .summary_in = {STEP, RATE, COS, SIN, C, C_IM, RESET, SKIP, DY},
    .n_summary = 2,
    .combine = "scan_elem_combine/1",
    .summary_state = {2}};

/* ---- axis rules ---- */

static size_t append(char *text, size_t n, size_t used, const char *more)
{
    return used + (size_t)snprintf(text + used, used < n ? n - used : 0, "%s", more);
}

/* The terms of ports first ... last-1. */
static size_t terms(const side *s, const lmoe_desc *in, int n_in, int last, char *text, size_t n,
                    size_t used)
{
    for (int i = 0; i < last && s->ports[i].name; i++) {
        const lmoe_desc *d = lmoe__desc_at(in, n_in, i);
        char role = s->roles[i];
        const char *form = form_of(role, d, in[s->row].rank);
        if (d->dtype == LMOE_NONE || role == 'm') form = ".";
        used = append(text, n, used, i ? ", " : "");
        used = append(text, n, used, role == 'f' && d->dtype != LMOE_NONE ? "b s" : form);
    }
    return used;
}

static lmoe_status op_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    size_t used = terms(&op_side, in, n_in, CARRY, text, n, 0);
    used = append(text, n, used, " -> ");
    used = append(text, n, used, form_of('x', NULL, in[X].rank));
    append(text, n, used, " | order s");
    return LMOE_OK;
}

static lmoe_status grad_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    size_t used = terms(&grad_side, in, n_in, FORWARD_CARRY, text, n, 0);
    used = append(text, n, used, " -> ");
    used = terms(&grad_side, in, n_in, C_IM + 1, text, n, used);
    append(text, n, used, " | order s");
    return LMOE_OK;
}

static void two_states_rule(const side *s, const lmoe_desc *in, int n_in, char *text, size_t n)
{
    const char *state = form_of('m', NULL, in[s->row].rank);
    size_t used = terms(s, in, n_in, LMOE_MAX_IO, text, n, 0);
    used = append(text, n, used, " -> ");
    used = append(text, n, used, state);
    used = append(text, n, used, ", ");
    used = append(text, n, used, state);
    append(text, n, used, " | whole s, same 0");
}

static lmoe_status summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                size_t n)
{
    two_states_rule(&summary_side, in, n_in, text, n);
    return LMOE_OK;
}

static lmoe_status grad_summary_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                                     size_t n)
{
    two_states_rule(&grad_summary_side, in, n_in, text, n);
    return LMOE_OK;
}

/* ---- derivative ---- */

static lmoe_status vjp(lmoe_trace *t, const lmoe_vjp *v)
{
    lmoe_tensor in[DCARRY + 1], d[C_IM + 2];
    memcpy(in, v->in, N_GIVEN * sizeof *in);
    in[DY] = lmoe_is_absent(v->dout[0]) ? lmoe_fill_like(t, v->out[0], 0) : v->dout[0];
    in[FORWARD_CARRY] = v->in[CARRY];
    in[DCARRY] = v->dout[1];
    lmoe_apply_at(t, LMOE_HERE, "scan_elem_grad/1", in, DCARRY + 1, NULL, 0, d, C_IM + 2);
    for (int i = X; i <= C_IM; i++) v->din[i] = d[i];
    v->din[CARRY] = d[C_IM + 1];
    return LMOE_OK;
}

/* ---- cost ---- */

/* Of all tokens, a pass over the whole state is counted as 2 FLOPs an element, 4 times that if it is
 * complex; exponentials are not counted. */
static double state_passes(const side *s, const lmoe_desc *in, int n_in, double passes)
{
    lmoe__letters l;
    if (bind(NULL, &l, s, in, n_in) != LMOE_OK) return 0;
    double complex_too = l.dim['p'] == 2 ? 4 : 1;
    return passes * 2 * complex_too * (double)lmoe_desc_count(&in[s->row]) * (double)l.dim['n'];
}

static double op_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                       int n_out)
{
    return state_passes(&op_side, in, n_in, 2); /* write, read */
}

static double grad_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                         int n_out)
{
    return state_passes(&grad_side, in, n_in, 6); /* h, G, dx, db, dc, da */
}

static double summary_flops(const void *attrs, const lmoe_desc *in, int n_in, const lmoe_desc *out,
                            int n_out)
{
    return state_passes(&summary_side, in, n_in, 1);
}

static double grad_summary_flops(const void *attrs, const lmoe_desc *in, int n_in,
                                 const lmoe_desc *out, int n_out)
{
    return state_passes(&grad_summary_side, in, n_in, 1);
}

/* ---- test cases ---- */

/* Which operands a case has and in which form: the roles that are present, in the order of step,
 * rate, cos and sin, b, c, c_im; capitals stand for the form with axis seq. */
typedef struct variant {
    bool heads;
    int64_t n;
    char step, rate, turn, b, c, c_im;
} variant;

static const variant variants[] = {
    {false, 16, 'S', 'r', 0, 'B', 'C', 0},   /* Mamba */
    {false, 1, 'S', 0, 0, 0, 0, 0},          /* HGRN */
    {false, 8, 0, 'r', 't', 0, 'c', 'i'},    /* S4D */
    {true, 4, 'S', 0, 'T', 'B', 'C', 0},     /* GateLoop */
    {true, 3, 'S', 'r', 't', 'B', 'C', 'I'}, /* everything */
    {false, 5, 0, 'r', 0, 'B', 'c', 0},
    {false, 2, 0, 0, 't', 'B', 'C', 0}, /* nothing fades, all turns */
};
enum { VARIANTS = sizeof variants / sizeof *variants };
enum { SHAPED = 2 * LMOE__CASE_SEQS, SMOOTH = VARIANTS, BENCH = 4 };

static void draw(const variant *v, bool smooth, lmoe_case *c, int i, const char *name, char role,
                 const lmoe__letters *l)
{
    bool both = v->step && v->rate, decay = !strcmp(name, "step") || !strcmp(name, "rate");
    char given = !strcmp(name, "step")   ? v->step
                 : !strcmp(name, "rate") ? v->rate
                 : role == 't'           ? v->turn
                 : role == 'b'           ? v->b
                 : !strcmp(name, "c")    ? v->c
                 : role == 'c'           ? v->c_im
                                         : 'x';
    if (!given) return;
    lmoe_desc like = {.rank = given >= 'A' && given <= 'Z' ? 3 + v->heads : 2 + v->heads};
    const char *form = form_of(role, &like, 3 + v->heads);
    if (role == 'f')
        lmoe__case_port(c, i, form, l, LMOE_FILL_FLAG, smooth ? 0.2 : 0.1, 0);
    else if (both && !strcmp(name, "step"))
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, 0, smooth ? 1 : 40);
    else if (decay && (smooth || both))
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, -1.5, smooth ? -0.1 : 0);
    else if (decay)
        lmoe__case_port(c, i, form, l, LMOE_FILL_DECAY, 0, 0);
    else if (role == 't') /* |cos + i sin| < 1, as tests draw one without the other */
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, -0.7, 0.7);
    else if (name[0] == 'a') /* factors of segments */
        lmoe__case_port(c, i, form, l, LMOE_FILL_UNIFORM, -0.7, 0.7);
    else
        lmoe__case_port(c, i, form, l, LMOE_FILL_NORMAL, 0, 1);
}

/* Cases of all ops but combine: lengths x variants, then smooth ones, then some worth timing. */
static int sample(int index, lmoe_case *c, const side *s)
{
    static const int64_t sizes[][2] = {{2, 5}, {1, 16}, {3, 17}, {1, 64}, {2, 33}, {1, 1}};
    bool smooth = index >= SHAPED && index < SHAPED + SMOOTH, bench = index >= SHAPED + SMOOTH;
    if (index >= SHAPED + SMOOTH + BENCH) return 0;
    const variant *v = &variants[bench ? index - SHAPED - SMOOTH : index % VARIANTS];
    int64_t seq = bench ? 1024 : smooth ? 5 : lmoe__case_seq[index % LMOE__CASE_SEQS];
    bool carry = !bench && (smooth || index % 3 == 0);
    bool reset = !bench && (smooth ? index & 1 : index % 5 < 2), skip = reset && index % 2 == 1;
    lmoe__letters l = {0};
    lmoe__letters_set(&l, 'b', "batch", bench ? 4 : 1 + index % 2);
    lmoe__letters_set(&l, 's', "seq", seq);
    lmoe__letters_set(&l, 'h', "heads", bench ? 4 : smooth ? 2 : sizes[index % 6][0]);
    lmoe__letters_set(&l, 'c', "channel",
                      bench    ? 512 / (v->heads ? 4 : 1)
                      : smooth ? 3
                               : sizes[index % 6][1]);
    lmoe__letters_set(&l, 'n', "state", smooth && v->n > 2 ? 2 : v->n);
    lmoe__letters_set(&l, 'p', "part", v->turn ? 2 : 1);
    for (int i = 0; s->ports[i].name; i++) {
        const char *name = s->ports[i].name;
        if ((!reset && !strcmp(name, "reset")) || (!skip && !strcmp(name, "skip")) ||
            (!carry && strstr(name, "carry")))
            continue;
        draw(v, smooth, c, i, name, s->roles[i], &l);
    }
    c->flags = bench ? LMOE_CASE_BENCH : smooth && s == &op_side ? LMOE_CASE_GRADCHECK : 0;
    return 1;
}

static int op_sample(int index, lmoe_case *c)
{
    return sample(index, c, &op_side);
}

static int grad_sample(int index, lmoe_case *c)
{
    return sample(index, c, &grad_side);
}

static int summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, &summary_side);
}

static int grad_summary_sample(int index, lmoe_case *c)
{
    return sample(index, c, &grad_summary_side);
}

static int combine_sample(int index, lmoe_case *c)
{
    bool bench = index == 4 * LMOE__COMBINE_CASES;
    if (index > 4 * LMOE__COMBINE_CASES) return 0;
    lmoe_combine_attrs o =
        lmoe__combine_case(index % LMOE__COMBINE_CASES, index / LMOE__COMBINE_CASES % 2);
    if (bench) o = (lmoe_combine_attrs){3, 4, 0};
    lmoe__letters l = {0};
    bool heads = index % 2;
    lmoe__letters_set(&l, 'r', "rank", o.ranks);
    lmoe__letters_set(&l, 'b', "batch", bench ? 16 : 2);
    lmoe__letters_set(&l, 'h', "heads", 3);
    lmoe__letters_set(&l, 'c', "channel", bench ? 512 : 5);
    lmoe__letters_set(&l, 'n', "state", bench ? 16 : 7);
    lmoe__letters_set(&l, 'p', "part", 1 + index / (2 * LMOE__COMBINE_CASES) % 2);
    for (int i = 0; i < 2; i++)
        lmoe__case_port(c, i, heads ? "r b h c n p" : "r b c n p", &l,
                        i ? LMOE_FILL_NORMAL : LMOE_FILL_UNIFORM, i ? 0 : -0.7, i ? 1 : 0.7);
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = bench ? LMOE_CASE_BENCH : 0;
    return 1;
}

/* ---- descriptors ---- */

#define CLASS(name, summary)                                          \
    {                                                                 \
        sizeof(lmoe_op), LMOE_KIND_OP, name "/1", summary, NULL, 0, 0 \
    }

const lmoe_op lmoe__op_scan_elem = {
    .base = CLASS("scan_elem", "Linear recurrence with a decay for each element of the state."),
    .inputs = op_in,
    .outputs = op_out,
    .shape = op_shape,
    .rule_of = op_rule,
    .carry = &op_carry,
    .vjp = vjp,
    .reference = lmoe__scan_elem_ref,
    .sample = op_sample,
    .flops = op_flops,
    .tolerance = 64, /* a factor's rounding counts once for each token that is remembered */
};

const lmoe_op lmoe__op_scan_elem_grad = {
    .base = CLASS("scan_elem_grad", "Derivative of scan_elem, from the end of seq."),
    .inputs = grad_in,
    .outputs = grad_out,
    .shape = grad_shape,
    .rule_of = grad_rule,
    .carry = &grad_carry,
    .reference = lmoe__scan_elem_grad_ref,
    .sample = grad_sample,
    .flops = grad_flops,
    .tolerance = 64, /* tables' derivatives are long sums of both signs */
};

const lmoe_op lmoe__op_scan_elem_summary = {
    .base = CLASS("scan_elem_summary", "What later segments need to know of one of scan_elem."),
    .inputs = summary_in,
    .outputs = summary_out,
    .shape = summary_shape,
    .rule_of = summary_rule,
    .reference = lmoe__scan_elem_summary_ref,
    .sample = summary_sample,
    .flops = summary_flops,
    .tolerance = 64, /* a factor's rounding counts once for each token that is remembered */
};

const lmoe_op lmoe__op_scan_elem_grad_summary = {
    .base = CLASS("scan_elem_grad_summary",
                  "What earlier segments need to know of one of scan_elem_grad."),
    .inputs = grad_summary_in,
    .outputs = summary_out,
    .shape = grad_summary_shape,
    .rule_of = grad_summary_rule,
    .reference = lmoe__scan_elem_grad_summary_ref,
    .sample = grad_summary_sample,
    .flops = grad_summary_flops,
    .tolerance = 64, /* a factor's rounding counts once for each token that is remembered */
};

const lmoe_op lmoe__op_scan_elem_combine = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "scan_elem_combine/1",
             "The state with which a segment of scan_elem, or of its derivative, starts.",
             lmoe__combine_options, sizeof(lmoe_combine_attrs), 0},
    .inputs = summary_out,
    .outputs = combine_out,
    .shape = combine_shape,
    .rule = "r ... p, r ... p -> ... p | whole r, whole p",
    .reference = lmoe__scan_elem_combine_ref,
    .sample = combine_sample,
};
