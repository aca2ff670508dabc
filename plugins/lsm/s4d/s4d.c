/* SPDX-License-Identifier: Apache-2.0
 * plugins/lsm/s4d/s4d.c: S4D, a diagonal state space that is the same at all times (Gu, Gupta, Goel,
 * Re 2022, arXiv 2206.11893).
 *
 *   A = -exp(log_A_real) + i A_imag        dt = exp(log_dt)      for each channel c and mode n
 *   h_t[c,n] = exp(dt[c] A[c,n]) h_{t-1}[c,n] + x_t[c]
 *   y_t[c]   = 2 Re sum_n C[c,n] (exp(dt[c] A[c,n]) - 1) / A[c,n] h_t[c,n] + D[c] x_t[c]
 *   out      = u sigmoid(v),  u, v = W gelu(y) + bias
 */
#include <lmoe/lmoe.h>

typedef struct s4d_options {
    int64_t state;
    double dt_min, dt_max;
} s4d_options;

typedef struct s4d_params {
    lmoe_tensor log_dt, c, log_a, a_imag, d, out, bias;
} s4d_params;

static const lmoe_option options[] = {
    {"state", LMOE_OPTION_INT, offsetof(s4d_options, state), "64", 2, 65536, NULL, NULL,
     "Real numbers in a channel's state: two for each mode."},
    {"dt_min", LMOE_OPTION_FLOAT, offsetof(s4d_options, dt_min), "0.001", 1e-9, 1e3, NULL, NULL,
     "Steps start log-uniform from here ..."},
    {"dt_max", LMOE_OPTION_FLOAT, offsetof(s4d_options, dt_max), "0.1", 1e-9, 1e3, NULL, NULL,
     "... to here."},
    LMOE_OPTION_END};

static lmoe_tensor kernel_weight(lmoe_trace *t, const char *name, const char *axes, int64_t e,
                                 int64_t n, int64_t parts, lmoe_init_kind init, double a, double b)
{
    lmoe_param_def d = {.size = sizeof d,
                        .name = name,
                        .axes = axes,
                        .dim = {e, n, parts},
                        .init = init,
                        .a = a,
                        .b = b,
                        .flags = LMOE_PARAM_NO_DECAY};
    return lmoe_param(t, &d);
}

static lmoe_status declare(lmoe_trace *t, const void *opt, void *params)
{
    const s4d_options *o = opt;
    s4d_params *w = params;
    int64_t e = lmoe_size(t, "embed"), n = o->state / 2;
    if (o->state % 2 != 0 || o->dt_min > o->dt_max) {
        lmoe_fail(t, "state = %lld must be even, and dt_min = %g not above dt_max = %g",
                  (long long)o->state, o->dt_min, o->dt_max);
        return LMOE_E_CONFIG;
    }
    const char *table = "embed state";
    w->log_dt = kernel_weight(t, "kernel.log_dt", "embed", e, 0, 0, LMOE_INIT_UNIFORM,
                              log(o->dt_min), log(o->dt_max));
    w->c =
        kernel_weight(t, "kernel.C", "embed state part", e, n, 2, LMOE_INIT_NORMAL, 0, sqrt(0.5));
    w->log_a = kernel_weight(t, "kernel.log_A_real", table, e, n, 0, LMOE_INIT_CONST, log(0.5), 0);
    w->a_imag = kernel_weight(t, "kernel.A_imag", table, e, n, 0, LMOE_INIT_RAMP, 0, acos(-1.0));
    w->d = kernel_weight(t, "D", "embed", e, 0, 0, LMOE_INIT_NORMAL, 0, 1);
    w->out = lmoe_output_weight(t, "output_linear.0.weight", "embed hidden", e, 2 * e, 0);
    w->bias = lmoe_vector(t, "output_linear.0.bias", "hidden", 2 * e, 0.0);
    return LMOE_OK;
}

typedef struct complex_pair {
    lmoe_tensor re, im;
} complex_pair;

static lmoe_tensor minus(lmoe_trace *t, lmoe_tensor a, lmoe_tensor b)
{
    return lmoe_add(t, a, lmoe_mul_scalar(t, b, -1));
}

static complex_pair product(lmoe_trace *t, complex_pair a, complex_pair b)
{
    complex_pair y;
    y.re = minus(t, lmoe_mul(t, a.re, b.re), lmoe_mul(t, a.im, b.im));
    y.im = lmoe_add(t, lmoe_mul(t, a.re, b.im), lmoe_mul(t, a.im, b.re));
    return y;
}

/* The recurrence and what its state is read with; all (embed state). */
typedef struct modes {
    lmoe_tensor log, cos, sin;
    complex_pair read;
} modes;

/* exp(z) - 1 for z = log + i angle is expm1(log) cos - 2 sin(angle / 2)^2 + i exp(log) sin: with
 * small steps nothing cancels. */
static modes modes_of(lmoe_trace *t, const s4d_params *w)
{
    modes m;
    lmoe_tensor dt = lmoe_exp(t, lmoe_f32(t, w->log_dt)), c = lmoe_f32(t, w->c);
    complex_pair a = {lmoe_mul_scalar(t, lmoe_exp(t, lmoe_f32(t, w->log_a)), -1),
                      lmoe_f32(t, w->a_imag)};
    m.log = lmoe_mul(t, a.re, dt);
    lmoe_tensor angle = lmoe_mul(t, a.im, dt);
    m.cos = lmoe_map(t, angle, LMOE_MAP_COS);
    m.sin = lmoe_map(t, angle, LMOE_MAP_SIN);
    lmoe_tensor half = lmoe_map(t, lmoe_mul_scalar(t, angle, 0.5), LMOE_MAP_SIN);
    half = lmoe_mul_scalar(t, lmoe_map(t, half, LMOE_MAP_SQUARE), -2);
    complex_pair grown = {minus(t, half, lmoe_mul(t, lmoe_map(t, m.log, LMOE_MAP_ONEMEXP), m.cos)),
                          lmoe_mul(t, lmoe_exp(t, m.log), m.sin)};
    lmoe_tensor norm =
        lmoe_add(t, lmoe_map(t, a.re, LMOE_MAP_SQUARE), lmoe_map(t, a.im, LMOE_MAP_SQUARE));
    complex_pair inverse = {lmoe_div(t, a.re, norm),
                            lmoe_div(t, lmoe_mul_scalar(t, a.im, -1), norm)};
    complex_pair twice = {lmoe_sum(t, "c n p -> c n", lmoe_slice(t, c, 2, 0, 1)),
                          lmoe_sum(t, "c n p -> c n", lmoe_slice(t, c, 2, 1, 1))};
    twice.re = lmoe_mul_scalar(t, twice.re, 2);
    twice.im = lmoe_mul_scalar(t, twice.im, 2);
    m.read = product(t, twice, product(t, grown, inverse));
    return m;
}

static lmoe_tensor forward(lmoe_trace *t, const void *opt, const void *params, lmoe_tensor x)
{
    const s4d_params *w = params;
    lmoe_desc d;
    if (lmoe_describe(t, x, &d) != LMOE_OK) return x;
    modes m = modes_of(t, w);
    lmoe_tensor y = lmoe_scan_elem(t, .x = x, .rate = m.log, .cos = m.cos, .sin = m.sin,
                                   .c = lmoe_cast(t, m.read.re, d.dtype),
                                   .c_im = lmoe_cast(t, m.read.im, d.dtype));
    y = lmoe_map(t, lmoe_add(t, y, lmoe_mul(t, x, w->d)), LMOE_MAP_GELU_ERF);
    y = lmoe_add(t, lmoe_einsum(t, "b s e, e f -> b s f", y, w->out), w->bias);
    lmoe_tensor gate = lmoe_sigmoid(t, lmoe_slice(t, y, 2, d.dim[2], d.dim[2]));
    y = lmoe_mul(t, lmoe_slice(t, y, 2, 0, d.dim[2]), gate);
    return lmoe_rename_axis(t, y, "hidden", "embed");
}

static const lmoe_layer layer = {
    .base = {sizeof(lmoe_layer), LMOE_KIND_LAYER, "lsm/s4d",
             "S4D: a diagonal complex state space, the same at all times.", options,
             sizeof(s4d_options), 0},
    .params_size = sizeof(s4d_params),
    .params = declare,
    .forward = forward,
};
static const lmoe_class *const classes[] = {&layer.base, NULL};

LMOE_PLUGIN(.id = "lsm/s4d", .version = "0.1.0", .licence = "Apache-2.0", .classes = classes)
