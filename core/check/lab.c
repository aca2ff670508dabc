/* SPDX-License-Identifier: Apache-2.0
 * core/check/lab.c: runs a layer alone.
 */
#include "core/check/lab.h"

#include <math.h>
#include <stdlib.h>

/* ---- sheets ---- */

static void allot(lmoe__exam *x, lmoe__sheet *s)
{
    int64_t tokens = s->batch * s->seq, n = tokens * s->embed;
    s->x = LMOE_NEW_N(x->arena, double, n);
    s->dy = LMOE_NEW_N(x->arena, double, n);
    s->y = LMOE_NEW_N(x->arena, double, n);
    s->dx = LMOE_NEW_N(x->arena, double, n);
    s->tokens = LMOE_NEW_N(x->arena, int32_t, tokens);
    s->positions = LMOE_NEW_N(x->arena, int32_t, tokens);
    s->document = LMOE_NEW_N(x->arena, int32_t, tokens);
    s->noise = LMOE_NEW_N(x->arena, int32_t, tokens);
    s->reset = LMOE_NEW_N(x->arena, uint8_t, tokens);
    s->skip = LMOE_NEW_N(x->arena, uint8_t, tokens);
}

lmoe__sheet lmoe__sheet_new(lmoe__exam *x, const lmoe__form *f, int64_t batch, int64_t seq,
                            uint64_t seed, double scale)
{
    lmoe__sheet s = {.batch = batch, .seq = seq, .embed = f->model.o.embed};
    allot(x, &s);
    for (int64_t i = 0; i < batch * seq * s.embed; i++) {
        s.x[i] = (double)(float)(scale * lmoe__normal(seed, 1, (uint64_t)i));
        s.dy[i] = (double)(float)lmoe__normal(seed, 2, (uint64_t)i);
    }
    for (int64_t i = 0; i < batch * seq; i++) {
        s.tokens[i] = (int32_t)lmoe__below(seed, 3, (uint64_t)i, (uint64_t)f->model.o.vocab_size);
        s.noise[i] = (int32_t)lmoe__below(seed, 4, (uint64_t)i, 1 << 30);
        s.positions[i] = (int32_t)(i % seq);
        s.reset[i] = i % seq == 0;
    }
    return s;
}

lmoe__sheet lmoe__sheet_cut(lmoe__exam *x, const lmoe__sheet *s, int64_t at, int64_t n)
{
    lmoe__sheet o = {.batch = s->batch, .seq = n, .embed = s->embed};
    allot(x, &o);
    for (int64_t b = 0; b < s->batch; b++) {
        size_t from = (size_t)(b * s->seq + at), to = (size_t)(b * n), e = (size_t)s->embed;
        memcpy(o.x + to * e, s->x + from * e, sizeof *o.x * (size_t)n * e);
        memcpy(o.dy + to * e, s->dy + from * e, sizeof *o.x * (size_t)n * e);
        memcpy(o.tokens + to, s->tokens + from, sizeof *o.tokens * (size_t)n);
        memcpy(o.positions + to, s->positions + from, sizeof *o.tokens * (size_t)n);
        memcpy(o.document + to, s->document + from, sizeof *o.tokens * (size_t)n);
        memcpy(o.noise + to, s->noise + from, sizeof *o.tokens * (size_t)n);
        memcpy(o.reset + to, s->reset + from, (size_t)n);
        memcpy(o.skip + to, s->skip + from, (size_t)n);
    }
    return o;
}

void lmoe__sheet_start(lmoe__sheet *s, int64_t row, int64_t at)
{
    int64_t base = row * s->seq;
    s->reset[base + at] = 1;
    for (int64_t i = at; i < s->seq; i++) {
        if (i > at && s->reset[base + i]) break;
        s->document[base + i] = s->positions[base + at];
    }
}

/* ---- labs ---- */

bool lmoe__lab_open(lmoe__lab *l, lmoe__exam *x, const lmoe__form *f, lmoe_dtype dtype, int flags)
{
    return lmoe__lab_open_at(l, x, f, dtype, flags, NULL);
}

bool lmoe__lab_open_at(lmoe__lab *l, lmoe__exam *x, const lmoe__form *f, lmoe_dtype dtype,
                       int flags, const lmoe__mesh *mesh)
{
    static const lmoe_kernel *const none[] = {NULL};
    memset(l, 0, sizeof *l);
    if (!lmoe__check_device(x)) return false;
    l->x = x;
    l->form = f;
    l->dtype = dtype;
    l->layers = !f->model.n_mixers || (flags & LMOE__LAB_ONE) ? 1 : LMOE__LAB_LAYERS;
    l->device = *x->device;
    if (flags & LMOE__LAB_REFERENCES) l->device.kernels = none;
    lmoe__engine_init(&l->e, x->ctx, &f->model, mesh, &l->device, x->dev, dtype);
    l->e.eager = flags & LMOE__LAB_EAGER;
    l->open = true;
    return true;
}

void lmoe__lab_close(lmoe__lab *l)
{
    if (l->open) lmoe__engine_free(&l->e);
    l->open = false;
}

lmoe__program *lmoe__lab_program(lmoe__lab *l, int64_t batch, int64_t seq, int flags,
                                 int64_t context)
{
    static const int layers[LMOE__LAB_LAYERS] = {0, 1};
    lmoe__program *p = NULL;
    lmoe__layer_shape s = {.layers = layers, .count = l->layers};
    s.shape = (lmoe__model_shape){.batch = batch, .seq = seq, .context = context};
    s.shape.resets = flags & LMOE__RUN_RESETS;
    s.shape.skips = flags & LMOE__RUN_SKIPS;
    s.shape.carries = flags & LMOE__RUN_CARRIES;
    s.shape.loss = s.shape.training = flags & LMOE__RUN_GRADIENTS;
    s.recompute = flags & LMOE__RUN_RECOMPUTE;
    lmoe_status status = lmoe__engine_layer_program(&l->e, &s, &p);
    return lmoe__check_ok(l->x, status, "recording the layer") ? p : NULL;
}

double lmoe__rounded(double x, lmoe_dtype dtype)
{
    if (dtype == LMOE_F32) return (double)(float)x;
    if (dtype == LMOE_BF16) return lmoe_bf16_to_float(lmoe_float_to_bf16((float)x));
    return x;
}

typedef struct copying {
    const double *from;
    double *to;
} copying;

static lmoe_status copy_run(void *user, int64_t in_box, int64_t in_whole, int64_t count)
{
    const copying *c = user;
    memcpy(c->to + in_box, c->from + in_whole, sizeof(double) * (size_t)count);
    return LMOE_OK;
}

int64_t lmoe__lab_part(const lmoe__lab *l, int weight, const double *values, double *part)
{
    const lmoe__held *h = lmoe__engine_held(&l->e, l->e.weights[weight].name);
    copying c = {values, part};
    int at[LMOE__MAX_MESH];
    lmoe__box box;
    if (!h) return 0;
    lmoe__mesh_place(&l->e.mesh, at);
    lmoe__held_box(h, &l->e.mesh, at, &box);
    lmoe__box_runs(&box, &h->desc, copy_run, &c);
    return box.count;
}

bool lmoe__lab_write(lmoe__lab *l, int weight, const double *values)
{
    lmoe__buffer *b = lmoe__store_find(&l->e.store, l->e.weights[weight].name);
    if (!b) return true;
    size_t bytes = (size_t)lmoe_desc_bytes(&b->desc);
    double *part = lmoe__malloc(sizeof *part * (size_t)(lmoe_desc_count(&b->desc) + 1));
    lmoe_buf host = {.data = lmoe__malloc(bytes + 1), .dtype = b->desc.dtype};
    int64_t n = lmoe__lab_part(l, weight, values, part);
    for (int64_t i = 0; i < n; i++) lmoe_put(&host, i, part[i]);
    lmoe_status status = l->device.upload(l->e.dev, b->data, host.data, bytes);
    free(host.data);
    free(part);
    return lmoe__check_ok(l->x, status, "writing a weight");
}

static double spread_of(const lmoe__lab_weights *w, uint64_t stream)
{
    static const double steps[] = {0, 0.03, 0.1, 0.3, 1};
    if (w->spread >= 0) return w->spread;
    return -w->spread * steps[lmoe__below(w->seed, stream, 1 << 30, 5)];
}

bool lmoe__lab_bind(lmoe__lab *l, const lmoe__lab_weights *w)
{
    if (!lmoe__check_ok(l->x, lmoe__engine_bind(&l->e), "laying out memory")) return false;
    for (int i = 0; i < l->e.n_weights; i++) {
        lmoe__weight weight = l->e.weights[i];
        uint64_t stream = lmoe__hash_text(weight.name) ^ 77;
        int64_t n = lmoe_desc_count(&weight.desc);
        double *values = malloc(sizeof *values * (size_t)(n + 1)), spread = spread_of(w, stream);
        weight.desc.dtype = LMOE_F64;
        lmoe__weight_init(l->x->ctx, &l->form->model, &weight, w->seed, 0, n, values);
        for (int64_t k = 0; k < n; k++) {
            if (!(weight.flags & LMOE_PARAM_STATE))
                values[k] += spread * lmoe__normal(w->seed, stream, (uint64_t)k);
            values[k] = lmoe__rounded(values[k], w->round);
        }
        bool ok = lmoe__lab_write(l, i, values);
        free(values);
        if (!ok) return false;
    }
    return true;
}

static lmoe_status set_floats(lmoe__lab *l, lmoe__program *p, const char *name, const double *x,
                              int64_t n)
{
    lmoe_buf host = {.data = lmoe__malloc(sizeof(double) * (size_t)(n + 1)), .dtype = l->dtype};
    for (int64_t i = 0; i < n; i++) lmoe_put(&host, i, x[i]);
    lmoe_status status = lmoe__program_set(&l->e, p, name, host.data);
    free(host.data);
    return status;
}

lmoe_status lmoe__lab_try(lmoe__lab *l, lmoe__program *p, lmoe__sheet *s)
{
    char name[64];
    int64_t n = s->batch * s->seq * s->embed;
    snprintf(name, sizeof name, "out:y/%lld", (long long)s->seq);
    LMOE_TRY(set_floats(l, p, "in:x", s->x, n));
    LMOE_TRY(set_floats(l, p, "in:dy", s->dy, n));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:tokens", s->tokens));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:positions", s->positions));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:document", s->document));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:noise", s->noise));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:reset", s->reset));
    LMOE_TRY(lmoe__program_set(&l->e, p, "in:skip", s->skip));
    LMOE_TRY(lmoe__program_run(&l->e, p));
    if (lmoe__engine_read(&l->e, name, s->y, n) != n)
        return lmoe_error(l->x->ctx, LMOE_E_INTERNAL, "the result %s is not there", name);
    lmoe__engine_read(&l->e, "out:dx", s->dx, n);
    return LMOE_OK;
}

bool lmoe__lab_run(lmoe__lab *l, lmoe__program *p, lmoe__sheet *s)
{
    return lmoe__check_ok(l->x, lmoe__lab_try(l, p, s), "running the layer");
}

double *lmoe__lab_read(lmoe__lab *l, const char *name, int64_t *n)
{
    *n = lmoe__engine_read(&l->e, name, NULL, 0);
    if (*n < 0) return NULL;
    double *values = LMOE_NEW_N(l->x->arena, double, *n + 1);
    lmoe__engine_read(&l->e, name, values, *n);
    return values;
}

double *lmoe__lab_grad(lmoe__lab *l, int weight, int64_t *n)
{
    char name[320];
    snprintf(name, sizeof name, "grad:%s", l->e.weights[weight].name);
    return lmoe__lab_read(l, name, n);
}

/* ---- comparing ---- */

double lmoe__norm(const double *a, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * a[i];
    return sqrt(s);
}

double lmoe__apart(const double *a, const double *b, int64_t n)
{
    double d = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (!isfinite(d)) return INFINITY;
    return norm > 0 ? sqrt(d / norm) : sqrt(d);
}

int64_t lmoe__not_finite(const double *a, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return i;
    }
    return -1;
}

int64_t lmoe__first_difference(const double *a, const double *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) != 0) return i;
    }
    return -1;
}

const char *lmoe__dtype_word(lmoe_dtype dtype)
{
    return dtype == LMOE_F64 ? "f64" : dtype == LMOE_BF16 ? "bf16" : "f32";
}
