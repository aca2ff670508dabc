/* SPDX-License-Identifier: Apache-2.0
 * tests/op/carry_scenes.h: random calls of the carry ops, and their derivatives' calls.
 */
#ifndef LMOE_TESTS_OP_CARRY_SCENES_H
#define LMOE_TESTS_OP_CARRY_SCENES_H

#include "tests/op/call.h"

enum { SCAN, CONV, ATTENTION, DELTA, ELEM, LEARN, FAMILIES };
enum { RESETS = 1, SKIPS = 2, CARRY = 4, FLAGS = 8, VARIANTS = 4, RING = 40 };
enum { FIRST = 4 }; /* attention: position of the first token; cached keys lie before it */

static const lmoe_scan_diag_attrs scan_attrs = {0.7};
static const lmoe_scan_delta_attrs delta_attrs = {0.7};
static const lmoe_conv_attrs conv_attrs[2] = {{0}, {1}};
static const lmoe_attention_attrs attention_attrs[VARIANTS] = {
    {0.6, 0, 0}, {0.4, 0, 0}, {0.9, 3, 0}, {1, 7, 0}};

static const char *const op_names[FAMILIES] = {"scan_diag/1",  "short_conv/1", "attention/1",
                                               "scan_delta/1", "scan_elem/1",  "scan_learn/1"};
static const char *const grad_names[FAMILIES] = {"scan_diag_grad/1", "short_conv_grad/1",
                                                 "attention_grad/1", "scan_delta_grad/1",
                                                 "scan_elem_grad/1", "scan_learn_grad/1"};

/* ---- scenes: calls with random operands; a variant is a form of decay, a kernel, a window ---- */

static inline void flag_operands(call *c, int reset, int skip, const int64_t *dim, int flags,
                                 uint64_t seed)
{
    if (flags & RESETS) operand(c, reset, LMOE_U8, "batch seq", dim, LMOE_FILL_FLAG, 0.2, 0, seed);
    if (flags & SKIPS) operand(c, skip, LMOE_U8, "batch seq", dim, LMOE_FILL_FLAG, 0.25, 0, seed);
}

static inline void scan_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                              uint64_t seed)
{
    static const char *const forms[VARIANTS] = {NULL, "heads", "batch seq heads",
                                                "batch seq heads head_k"};
    const int64_t k[] = {batch, seq, 2, 3}, v[] = {batch, seq, 2, 2}, m[] = {batch, 2, 3, 2};
    c->attrs = &scan_attrs;
    for (int i = 0; i < 3; i++)
        operand(c, i, LMOE_F64, i < 2 ? "batch seq heads head_k" : "batch seq heads head_v",
                i < 2 ? k : v, LMOE_FILL_NORMAL, 0, 1, seed);
    if (forms[variant])
        operand(c, 3, LMOE_F64, forms[variant], variant == 1 ? k + 2 : k, LMOE_FILL_DECAY, 0, 0,
                seed);
    flag_operands(c, 4, 5, k, flags, seed);
    if (flags & CARRY)
        operand(c, 6, LMOE_F64, "batch heads head_k head_v", m, LMOE_FILL_NORMAL, 0, 1, seed);
}

/* Variants: decay none, by head, by token, by channel; odd ones have b, the last two several steps. */
static inline void delta_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                               uint64_t seed)
{
    static const char *const forms[VARIANTS] = {NULL, "heads", "batch seq heads",
                                                "batch seq heads head_k"};
    static const char *const axes[2][2] = {
        {"batch seq heads head_k", "batch seq heads head_v"},
        {"batch seq step heads head_k", "batch seq step heads head_v"}};
    const int64_t q[] = {batch, seq, 2, 3}, m[] = {batch, 2, 3, 2};
    int64_t dim[5] = {batch, seq, 2, 3};
    int many = variant >= 2;
    if (many) memcpy(dim + 2, (int64_t[]){variant, 2, 3}, 3 * sizeof *dim);
    c->attrs = &delta_attrs;
    operand(c, 0, LMOE_F64, "batch seq heads head_k", q, LMOE_FILL_NORMAL, 0, 1, seed);
    for (int i = 1; i < 5; i++) {
        dim[3 + many] = i == 2 ? 2 : 3;
        if (i == 4 && variant % 2 == 0) continue;
        operand(c, i, LMOE_F64, axes[many][i == 2], dim, LMOE_FILL_NORMAL, 0, i == 2 ? 1 : 0.4,
                seed);
    }
    if (forms[variant])
        operand(c, 5, LMOE_F64, forms[variant], variant == 1 ? q + 2 : q, LMOE_FILL_DECAY, 0, 0,
                seed);
    flag_operands(c, 6, 7, q, flags, seed);
    if (flags & CARRY)
        operand(c, 8, LMOE_F64, "batch heads head_k head_v", m, LMOE_FILL_NORMAL, 0, 1, seed);
}

static inline void conv_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                              uint64_t seed)
{
    const int64_t kernel = 2 + variant % 3;
    const int64_t x[] = {batch, seq, 2, 3}, weight[] = {2, 3, kernel},
                  tail[] = {batch, kernel - 1, 2, 3};
    c->attrs = &conv_attrs[variant & 1];
    operand(c, 0, LMOE_F64, "batch seq heads head_k", x, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 1, LMOE_F64, "heads head_k kernel", weight, LMOE_FILL_NORMAL, 0, 1, seed);
    flag_operands(c, 2, 3, x, flags, seed);
    if (!(flags & CARRY)) return;
    operand(c, 4, LMOE_F64, "batch kernel heads head_k", tail, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 5, LMOE_I32, "batch", x, LMOE_FILL_INT, 0, (double)kernel, seed);
}

/* As Mamba, HGRN, S4D and GateLoop (with heads) use it. */
static inline void elem_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                              uint64_t seed)
{
    int heads = variant == 3, complex_too = variant >= 2;
    const char *row = heads ? "batch seq heads channel" : "batch seq channel";
    const char *read = heads ? "batch seq heads state" : "batch seq state";
    const int64_t n = variant == 1 ? 1 : 2, x[] = {batch, seq, heads ? 2 : 3, 3},
                  r[] = {batch, seq, heads ? 2 : n, n}, table[] = {3, n};
    const int64_t h[] = {batch, 3, n, complex_too ? 2 : 1}, with_heads[] = {batch, 2, 3, n, 2};
    enum { STEP = 1, RATE, COS, SIN, B, C, C_IM };
    operand(c, 0, LMOE_F64, row, x, LMOE_FILL_NORMAL, 0, 1, seed);
    if (variant == 0) {
        operand(c, STEP, LMOE_F64, row, x, LMOE_FILL_UNIFORM, 0, 2, seed);
        operand(c, RATE, LMOE_F64, "channel state", table, LMOE_FILL_UNIFORM, -1, 0, seed);
    } else if (variant == 2) {
        operand(c, RATE, LMOE_F64, "channel state", table, LMOE_FILL_DECAY, 0, 0, seed);
    } else {
        operand(c, STEP, LMOE_F64, row, x, LMOE_FILL_DECAY, 0, 0, seed);
    }
    for (int i = COS; i <= SIN && complex_too; i++)
        operand(c, i, LMOE_F64, heads ? row : "channel state", heads ? x : table, LMOE_FILL_UNIFORM,
                -0.7, 0.7, seed);
    if (variant == 0 || heads) {
        operand(c, B, LMOE_F64, read, r, LMOE_FILL_NORMAL, 0, 1, seed);
        operand(c, C, LMOE_F64, read, r, LMOE_FILL_NORMAL, 0, 1, seed);
    }
    for (int i = C; i <= C_IM && variant == 2; i++)
        operand(c, i, LMOE_F64, "channel state", table, LMOE_FILL_NORMAL, 0, 1, seed);
    flag_operands(c, 8, 9, x, flags, seed);
    if (flags & CARRY)
        operand(c, 10, LMOE_F64,
                heads ? "batch heads channel state part" : "batch channel state part",
                heads ? with_heads : h, LMOE_FILL_NORMAL, 0, 1, seed);
}

/* As TTT and Titans use it; with a momentum but without norm; without momentum and decay. */
static inline void learn_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                               uint64_t seed)
{
    static const lmoe_scan_learn_attrs attrs = {1};
    enum { LR = 3, PHASE, MOMENTUM, DECAY, POSITION, GAMMA, BETA, INITIAL, PLACES = 4 };
    int placed = variant == 0 || variant == 2;
    const int64_t k[] = {batch, seq, 2, 3}, v[] = {batch, seq, 2, 4}, w[] = {2, 3, 4},
                  places[] = {PLACES}, m[] = {batch, placed ? 2 : 3, 2, 3, 4};
    c->attrs = &attrs;
    for (int i = 0; i < 2; i++)
        operand(c, i, LMOE_F64, "batch seq heads head_k", k, LMOE_FILL_NORMAL, 0, 0.5, seed);
    operand(c, 2, LMOE_F64, "batch seq heads head_v", v, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, LR, LMOE_F64, "batch seq heads", k, LMOE_FILL_UNIFORM, 0.01, 0.05, seed);
    tensor *phase = operand(c, PHASE, LMOE_I32, "batch seq", k, LMOE_FILL_CONST, 0, 0, seed);
    for (int64_t i = 0; i < batch * seq; i++)
        lmoe_put(&phase->b, i, (double)((i % seq + 1) % PLACES));
    if (variant == 1 || variant == 2)
        operand(c, MOMENTUM, LMOE_F64, "batch seq heads", k, LMOE_FILL_DECAY, 0, 0, seed);
    if (variant == 1)
        operand(c, DECAY, LMOE_F64, "batch seq heads", k, LMOE_FILL_DECAY, 0, 0, seed);
    if (placed) operand(c, POSITION, LMOE_F64, "a", places, LMOE_FILL_UNIFORM, 0.2, 1, seed);
    for (int i = GAMMA; i <= BETA && variant != 2; i++) {
        const int64_t row[] = {2, 4};
        operand(c, i, LMOE_F64, "heads head_v", row, LMOE_FILL_NORMAL, 0.6, 0.2, seed);
    }
    operand(c, INITIAL, LMOE_F64, "heads head_k head_v", w, LMOE_FILL_NORMAL, 0, 0.5, seed);
    flag_operands(c, 11, 12, k, flags, seed);
    if (flags & CARRY)
        operand(c, 13, LMOE_F64, "batch slot heads head_k head_v", m, LMOE_FILL_NORMAL, 0, 0.3,
                seed);
}

/* Documents start where RESETS draws a flag. The ring always is there: without CARRY it is empty.
 */
static inline void attention_scene(call *c, int variant, int64_t batch, int64_t seq, int flags,
                                   uint64_t seed)
{
    static const int64_t heads[VARIANTS][2] = {{2, 2}, {4, 2}, {2, 1}, {3, 3}};
    const int64_t h = heads[variant][0], g = heads[variant][1],
                  ring = seq + FIRST < RING ? seq + FIRST : RING;
    const int64_t q[] = {batch, seq, h, 3}, k[] = {batch, seq, g, 3}, v[] = {batch, seq, g, 2};
    const int64_t keys[] = {batch, ring, g, 3}, values[] = {batch, ring, g, 2};
    c->attrs = &attention_attrs[variant];
    operand(c, 0, LMOE_F64, "batch seq heads head_k", q, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 1, LMOE_F64, "batch seq kv_heads head_k", k, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 2, LMOE_F64, "batch seq kv_heads head_v", v, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 3, LMOE_I32, "batch seq", q, LMOE_FILL_RAMP, FIRST, 0, seed);
    tensor *document = operand(c, 4, LMOE_I32, "batch seq", q, LMOE_FILL_FLAG, 0.2, 0, seed);
    for (int64_t i = 0, start = 1; i < batch * seq; i++) {
        if (i % seq == 0) start = 1;
        if ((flags & RESETS) && lmoe_get(&document->b, i) != 0) start = FIRST + i % seq;
        lmoe_put(&document->b, i, (double)start);
    }
    flag_operands(c, LMOE_MAX_IO - 1, 5, q, flags & SKIPS, seed);
    operand(c, 6, LMOE_F64, "batch context kv_heads head_k", keys, LMOE_FILL_NORMAL, 0, 1, seed);
    operand(c, 7, LMOE_F64, "batch context kv_heads head_v", values, LMOE_FILL_NORMAL, 0, 1, seed);
    tensor *at = operand(c, 8, LMOE_I32, "batch context", keys, LMOE_FILL_RAMP, 0, 0, seed);
    for (int64_t i = 0; i < batch * ring; i++) {
        if (!(flags & CARRY) || i % ring >= FIRST) lmoe_put(&at->b, i, -1);
    }
}

static inline call scene(int family, int variant, int64_t batch, int64_t seq, int flags)
{
    call c = {.op = op_named(op_names[family])};
    uint64_t seed = (uint64_t)(((variant * 8 + flags) * 100 + seq) * 4 + batch);
    if (family == SCAN) scan_scene(&c, variant, batch, seq, flags, seed);
    if (family == CONV) conv_scene(&c, variant, batch, seq, flags, seed);
    if (family == DELTA) delta_scene(&c, variant, batch, seq, flags, seed);
    if (family == ELEM) elem_scene(&c, variant, batch, seq, flags, seed);
    if (family == LEARN) learn_scene(&c, variant, batch, seq, flags, seed);
    if (family == ATTENTION) attention_scene(&c, variant, batch, seq, flags, seed);
    return c;
}

static inline bool is_carry(const lmoe_port *port)
{
    return port->flags & LMOE_PORT_CARRY;
}

/* Tokens from ... from+n-1 of a call, with its carry. */
static inline call cut(const call *c, int64_t from, int64_t n)
{
    call p = {.op = c->op, .attrs = c->attrs};
    for (int i = 0; c->op->inputs[i].name; i++) {
        bool carry = c->op->inputs[i].flags & (LMOE_PORT_CARRY | LMOE_PORT_FORWARD_CARRY);
        p.in[i] = carry ? c->in[i] : part(&c->in[i], from, n);
    }
    return p;
}

/* Outputs as those of `like`, zeroed: to be put together from pieces. */
static inline void blank(call *c, const call *like)
{
    for (int i = 0; like->op->outputs[i].name; i++) {
        c->out[i] = new_tensor(&like->out[i].d);
        draw(&c->out[i], (lmoe_fill){LMOE_FILL_CONST, 0, 0}, 0, 0);
    }
}

/* The derivative's call for a forward call that was run; dout by output, more: attention's. */
static inline call backward(const call *f, const lmoe_op *grad, const tensor *dout,
                            const tensor *more)
{
    call g = {.op = grad, .attrs = f->attrs};
    for (int i = 0; grad->inputs[i].name; i++) {
        const char *name = grad->inputs[i].name;
        int in = port_of(f->op->inputs, name), out = port_of(f->op->outputs, name);
        if (in >= 0)
            g.in[i] = f->in[in];
        else if (out >= 0)
            g.in[i] = f->out[out];
        else if (strstr(name, "_more"))
            g.in[i] = more ? more[name[1] == 'v'] : (tensor){0};
        else
            g.in[i] = dout[port_of(f->op->outputs, name + 1)];
    }
    return g;
}

static inline tensor drawn_like(const tensor *x, uint64_t stream)
{
    tensor y = new_tensor(&x->d);
    draw(&y, (lmoe_fill){LMOE_FILL_NORMAL, 0, 1}, 5, stream);
    return y;
}

#endif
