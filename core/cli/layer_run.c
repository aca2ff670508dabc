/* SPDX-License-Identifier: Apache-2.0
 * core/cli/layer_run.c: layers alone, from tensors in a file to tensors in a file.
 *
 *   whole   all tokens at once, nothing carried: y, and with dy the gradients
 *   pieces  runs of tokens that hand a carry on: the final carry, and y if pieces were asked for
 */
#include "core/cli/layer_run.h"

#include "core/ckpt/ckpt.h"
#include "core/train/setup.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct runner {
    lmoe_ctx *ctx;
    const lmoe__layer_job *job;
    lmoe__arena *arena; /* of all that is read and written */
    lmoe__st st;
    lmoe__setup setup;
    lmoe__engine e;
    void *dev;
    lmoe_dtype dtype;
    int64_t batch, seq, embed;
    int layers[LMOE__MAX_NUMBERS];
    bool gradients;
    lmoe_buf x, dy, y; /* (batch seq embed) */
    int32_t *tokens;   /* (batch seq) */
    lmoe__program *whole, **pieces;
    int64_t *sizes; /* of the pieces */
    int n_pieces;
    lmoe__ckpt_tensor *tensors; /* results, as the file's writer wants them */
    lmoe_buf *data;
    int *which;
    int n_results, cap_tensors, cap_data, cap_which, n_data, n_which;
} runner;

/* ---- reading ---- */

static const char *dims_text(lmoe__arena *a, int rank, const int64_t *dim)
{
    const char *s = "(";
    for (int i = 0; i < rank; i++)
        s = lmoe__arena_printf(a, "%s%s%lld", s, i ? " " : "", (long long)dim[i]);
    return lmoe__arena_printf(a, "%s)", s);
}

/* A tensor of the file in another dtype; desc: what it must be. */
static lmoe_status take(runner *r, const lmoe__st_tensor *x, const lmoe_desc *desc, void **out)
{
    bool same = x->rank == desc->rank;
    for (int i = 0; same && i < desc->rank; i++) same = x->dim[i] == desc->dim[i];
    if (!same)
        return lmoe_error(r->ctx, LMOE_E_CONFIG, "%s: tensor \"%s\" is %s; expected %s", r->job->in,
                          x->name, dims_text(r->arena, x->rank, x->dim),
                          dims_text(r->arena, desc->rank, desc->dim));
    bool ids = !lmoe_dtype_is_float(desc->dtype);
    bool known = ids ? x->dtype == LMOE_I32 || x->dtype == LMOE_I64
                     : x->dtype == LMOE_F32 || x->dtype == LMOE_F64 || x->dtype == LMOE_BF16;
    if (!known)
        return lmoe_error(r->ctx, LMOE_E_CONFIG, "%s: tensor \"%s\" is %s; expected %s", r->job->in,
                          x->name, x->dtype_name, ids ? "I32 or I64" : "F32, F64 or BF16");
    lmoe_buf from = {.data = lmoe__arena_alloc(r->arena, x->bytes + 1), .dtype = x->dtype};
    lmoe_buf to = {.dtype = desc->dtype};
    int64_t n = lmoe_desc_count(desc);
    to.data = lmoe__arena_alloc(r->arena, (size_t)lmoe_desc_bytes(desc) + 1);
    memcpy(from.data, x->data, x->bytes); /* not aligned in the file */
    for (int64_t i = 0; i < n; i++) lmoe_put(&to, i, lmoe_get(&from, i));
    *out = to.data;
    return LMOE_OK;
}

static lmoe_status read_inputs(runner *r)
{
    const char *in = r->job->in;
    LMOE_TRY(lmoe__st_open(r->ctx, in, &r->st));
    const lmoe__st_tensor *x = lmoe__st_find(&r->st, "x"), *dy = lmoe__st_find(&r->st, "dy"),
                          *tokens = lmoe__st_find(&r->st, "tokens");
    if (!x || x->rank != 3)
        return lmoe_error(r->ctx, LMOE_E_CONFIG,
                          "%s: expected a tensor \"x\" (batch seq embed), the layer's input; %s",
                          in,
                          x ? "that of the file has not three dimensions" : "the file has none");
    for (int i = 0; i < 3; i++) {
        if (x->dim[i] < 1 || x->dim[i] > INT32_MAX)
            return lmoe_error(r->ctx, LMOE_E_CONFIG, "%s: tensor \"x\" has a size of %lld", in,
                              (long long)x->dim[i]);
    }
    lmoe_desc d = {.dtype = r->dtype, .rank = 3, .dim = {x->dim[0], x->dim[1], x->dim[2]}};
    r->batch = d.dim[0];
    r->seq = d.dim[1];
    r->embed = d.dim[2];
    r->x.dtype = r->dy.dtype = r->y.dtype = r->dtype;
    r->gradients = dy != NULL;
    LMOE_TRY(take(r, x, &d, &r->x.data));
    if (dy) LMOE_TRY(take(r, dy, &d, &r->dy.data));
    r->y.data = lmoe__arena_alloc(r->arena, (size_t)lmoe_desc_bytes(&d));
    d.rank = 2;
    d.dtype = LMOE_I32;
    r->tokens = lmoe__arena_alloc(r->arena, (size_t)lmoe_desc_bytes(&d));
    return tokens ? take(r, tokens, &d, (void **)&r->tokens) : LMOE_OK;
}

/* ---- setting up ---- */

/* Whether the class is a router; neither a router nor a layer is refused. */
static lmoe_status is_router(runner *r, bool *router)
{
    const lmoe_class *c;
    lmoe__registry *registry = lmoe__registry_new(r->job->plugin_path);
    lmoe_status status = lmoe__registry_find(registry, r->ctx, NULL, r->job->class_name, &c);
    *router = status == LMOE_OK && strcmp(c->kind, LMOE_KIND_ROUTER) == 0;
    if (status == LMOE_OK && !*router) /* for its sentence */
        status = lmoe__registry_find(registry, r->ctx, LMOE_KIND_LAYER, r->job->class_name, &c);
    lmoe__registry_free(registry);
    return status;
}

static lmoe_status read_setup(runner *r)
{
    const lmoe__layer_job *j = r->job;
    lmoe__text text = {0};
    bool router;
    LMOE_TRY(is_router(r, &router));
    int last = r->layers[j->layers.count - 1];
    lmoe__text_add(&text, "[model]\nembed = %lld\nlayers = %d\n[ffn]\n", (long long)r->embed,
                   last + 1);
    if (router) {
        lmoe__text_add(&text, "router = %.*s\n", 100, j->class_name);
    } else {
        lmoe__text_add(&text, "kind = none\n[layer L]\nclass = %.*s\n", 100, j->class_name);
    }
    lmoe__text_add(&text, "[train]\ndtype = %s\n", j->f64 ? "f64" : "f32");
    r->setup.conf = lmoe__conf_read_text(r->ctx, "lmoe layer run", text.data, text.length);
    lmoe__text_free(&text);
    if (!r->setup.conf) return r->ctx->status;
    for (int i = 0; i < j->n_sets; i++) {
        const char *equal = strchr(j->sets[i], '='), *dot = strchr(j->sets[i], '.');
        bool own = !dot || (equal && dot > equal);
        const char *set = lmoe__arena_printf(
            r->arena, "%s%s", own ? (router ? "router." : "layer L.") : "", j->sets[i]);
        LMOE_TRY(lmoe__conf_set(r->ctx, r->setup.conf, set));
    }
    LMOE_TRY(
        lmoe__setup_read(r->ctx, &r->setup, j->plugin_path, router ? LMOE__SETUP_NO_MIXERS : 0));
    if (r->setup.model.o.embed != r->embed || (router && !r->setup.model.router))
        return lmoe_error(r->ctx, LMOE_E_CONFIG,
                          "--set: embed is that of \"x\", and the class is that of the command");
    if (last >= r->setup.model.o.layers)
        return lmoe_error(r->ctx, LMOE_E_CONFIG, "--layers %d: the model has %lld, counted from 0",
                          last, (long long)r->setup.model.o.layers);
    return LMOE_OK;
}

static lmoe_status add_program(runner *r, int64_t seq, bool carries, lmoe__program **out)
{
    lmoe__layer_shape s = {.layers = r->layers, .count = r->job->layers.count};
    s.shape.batch = r->batch;
    s.shape.seq = seq;
    s.shape.resets = r->job->resets.count > 0;
    s.shape.loss = r->gradients && !carries;
    s.shape.carries = carries;
    s.shape.context = r->seq;
    return lmoe__engine_layer_program(&r->e, &s, out);
}

/* Sizes of the pieces, and a program for each that differs. */
static lmoe_status add_pieces(runner *r)
{
    const lmoe__layer_job *j = r->job;
    int64_t at = 0, first_alone = r->seq - j->decode;
    if (first_alone < 0)
        return lmoe_error(r->ctx, LMOE_E_CONFIG, "--decode %lld: \"x\" has %lld tokens",
                          (long long)j->decode, (long long)r->seq);
    r->sizes = LMOE_NEW_N(r->arena, int64_t, r->seq);
    r->pieces = LMOE_NEW_N(r->arena, lmoe__program *, r->seq);
    while (at < r->seq) {
        int64_t n = at >= first_alone ? 1 : first_alone - at;
        if (at < first_alone && j->chunks.count) {
            int64_t chunk = j->chunks.at[r->n_pieces % j->chunks.count];
            if (chunk < n) n = chunk;
        }
        int k = 0;
        while (k < r->n_pieces && r->sizes[k] != n) k++;
        if (k < r->n_pieces) {
            r->pieces[r->n_pieces] = r->pieces[k];
        } else {
            LMOE_TRY(add_program(r, n, true, &r->pieces[r->n_pieces]));
        }
        r->sizes[r->n_pieces++] = n;
        at += n;
    }
    return LMOE_OK;
}

/* ---- weights ---- */

/* "2.q_proj.weight" as it is; a weight of the whole model without "model.CLASS." */
static const char *file_name(const runner *r, const lmoe__weight *w)
{
    size_t n = strlen(r->job->class_name);
    bool shared = strncmp(w->name, "model.", 6) == 0 &&
                  strncmp(w->name + 6, r->job->class_name, n) == 0 && w->name[6 + n] == '.';
    return shared ? w->name + 7 + n : w->name;
}

static const lmoe__st_tensor *find_weight(const runner *r, const lmoe__weight *w)
{
    return lmoe__st_find(&r->st, lmoe__arena_printf(r->arena, "w:%s", file_name(r, w)));
}

static lmoe_status missing_weight(runner *r, const char *name)
{
    const char *list = "";
    for (int i = 0; i < r->e.n_weights; i++) {
        const lmoe_desc *d = &r->e.weights[i].desc;
        list = lmoe__arena_printf(r->arena, "%s%s w:%s %s", list, i ? "," : "",
                                  file_name(r, &r->e.weights[i]),
                                  dims_text(r->arena, d->rank, d->dim));
    }
    return lmoe_error(r->ctx, LMOE_E_CONFIG,
                      "%s has no tensor \"w:%s\"; --init SEED makes what is missing; the "
                      "parameters are:%s",
                      r->job->in, name, list);
}

/* A weight that the layer has not is a mistake: it would be ignored in silence. */
static lmoe_status check_names(runner *r)
{
    for (int i = 0; i < r->st.count; i++) {
        const char *name = r->st.tensors[i].name;
        bool found = strncmp(name, "w:", 2) != 0;
        for (int k = 0; k < r->e.n_weights && !found; k++)
            found = strcmp(name + 2, file_name(r, &r->e.weights[k])) == 0;
        if (!found)
            return lmoe_error(r->ctx, LMOE_E_CONFIG,
                              "%s: %s has no parameter \"%s\" with these options; take it out of "
                              "the file, or set the option that it belongs to",
                              r->job->in, r->job->class_name, name + 2);
    }
    return LMOE_OK;
}

static lmoe_status load_weights(runner *r)
{
    LMOE_TRY(check_names(r));
    if (r->job->init) LMOE_TRY(lmoe__engine_init_weights(&r->e, (uint64_t)r->job->seed));
    for (int i = 0; i < r->e.n_weights; i++) {
        const lmoe__weight *w = &r->e.weights[i];
        const lmoe__st_tensor *x = find_weight(r, w);
        void *data;
        if (!x && !r->job->init) return missing_weight(r, file_name(r, w));
        if (!x) continue;
        LMOE_TRY(take(r, x, &w->desc, &data));
        lmoe__buffer *b = lmoe__store_find(&r->e.store, w->name);
        if (b)
            LMOE_TRY(r->e.device->upload(r->dev, b->data, data, (size_t)lmoe_desc_bytes(&w->desc)));
    }
    return LMOE_OK;
}

/* ---- running ---- */

/* Copies tokens at ... at+n-1 of each row between the whole and a piece. */
static void copy_rows(const runner *r, void *piece, void *whole, size_t item, int64_t at, int64_t n,
                      bool back)
{
    size_t bytes = item * (size_t)n, row = item * (size_t)r->seq;
    for (int64_t b = 0; b < r->batch; b++) {
        char *p = (char *)piece + (size_t)b * bytes,
             *w = (char *)whole + (size_t)b * row + item * (size_t)at;
        if (back) {
            memcpy(w, p, bytes);
        } else {
            memcpy(p, w, bytes);
        }
    }
}

/* Positions and documents of tokens at ... at+n-1. */
static lmoe_status set_places(runner *r, lmoe__program *p, int64_t at, int64_t n)
{
    const lmoe__numbers *resets = &r->job->resets;
    int32_t *positions = LMOE_NEW_N(r->arena, int32_t, r->batch * n);
    int32_t *document = LMOE_NEW_N(r->arena, int32_t, r->batch * n);
    uint8_t *reset = LMOE_NEW_N(r->arena, uint8_t, r->batch * n);
    for (int64_t i = 0; i < r->batch * n; i++) {
        int64_t t = at + i % n;
        positions[i] = (int32_t)t;
        reset[i] = t == 0;
        for (int k = 0; k < resets->count && resets->at[k] <= t; k++) {
            document[i] = (int32_t)resets->at[k];
            reset[i] |= resets->at[k] == t;
        }
    }
    LMOE_TRY(lmoe__program_set(&r->e, p, "in:positions", positions));
    LMOE_TRY(lmoe__program_set(&r->e, p, "in:document", document));
    return lmoe__program_set(&r->e, p, "in:reset", reset);
}

/* y of these tokens goes to its place in the whole, if it is wanted. */
static lmoe_status run_piece(runner *r, lmoe__program *p, int64_t at, int64_t n, bool want_y)
{
    size_t item = lmoe_dtype_bytes(r->dtype) * (size_t)r->embed;
    int64_t count = r->batch * n * r->embed;
    char name[64];
    void *piece = lmoe__arena_alloc(r->arena, item * (size_t)(r->batch * n));
    int32_t *tokens = LMOE_NEW_N(r->arena, int32_t, r->batch * n);
    copy_rows(r, tokens, r->tokens, sizeof *tokens, at, n, false);
    LMOE_TRY(lmoe__program_set(&r->e, p, "in:tokens", tokens));
    copy_rows(r, piece, r->x.data, item, at, n, false);
    LMOE_TRY(lmoe__program_set(&r->e, p, "in:x", piece));
    if (p == r->whole && r->gradients) LMOE_TRY(lmoe__program_set(&r->e, p, "in:dy", r->dy.data));
    LMOE_TRY(set_places(r, p, at, n));
    LMOE_TRY(lmoe__program_run(&r->e, p));
    if (!want_y) return LMOE_OK;
    double *y = LMOE_NEW_N(r->arena, double, count);
    lmoe_buf out = {.data = piece, .dtype = r->dtype};
    snprintf(name, sizeof name, "out:y/%lld", (long long)n);
    if (lmoe__engine_read(&r->e, name, y, count) != count) return r->ctx->status;
    for (int64_t i = 0; i < count; i++) lmoe_put(&out, i, y[i]);
    copy_rows(r, piece, r->y.data, item, at, n, true);
    return LMOE_OK;
}

static lmoe_status run_all(runner *r)
{
    bool cut = r->job->chunks.count || r->job->decode;
    LMOE_TRY(run_piece(r, r->whole, 0, r->seq, !cut));
    for (int64_t i = 0, at = 0; i < r->n_pieces; at += r->sizes[i++])
        LMOE_TRY(run_piece(r, r->pieces[i], at, r->sizes[i], cut));
    return LMOE_OK;
}

/* ---- writing ---- */

static void add_result(runner *r, const char *name, const lmoe_desc *desc, void *data)
{
    lmoe__ckpt_tensor t = {.name = name, .desc = *desc};
    lmoe_buf b = {.data = data, .dtype = desc->dtype};
    LMOE_PUSH(r->which, r->n_which, r->cap_which, r->n_results);
    LMOE_PUSH(r->data, r->n_data, r->cap_data, b);
    LMOE_PUSH(r->tensors, r->n_results, r->cap_tensors, t);
}

/* The buffer of this name under another name in the file. */
static lmoe_status add_buffer(runner *r, const char *buffer, const char *name)
{
    lmoe__buffer *b = lmoe__store_find(&r->e.store, buffer);
    if (!b) return LMOE_OK;
    size_t bytes = (size_t)lmoe_desc_bytes(&b->desc);
    void *data = lmoe__arena_alloc(r->arena, bytes + 1);
    LMOE_TRY(r->e.device->download(r->dev, data, b->data, bytes));
    add_result(r, name, &b->desc, data);
    return LMOE_OK;
}

static lmoe_status collect(runner *r)
{
    lmoe_desc d = {.dtype = r->dtype, .rank = 3, .dim = {r->batch, r->seq, r->embed}};
    const lmoe__program *last = r->pieces[r->n_pieces - 1];
    add_result(r, "y", &d, r->y.data);
    if (r->gradients) LMOE_TRY(add_buffer(r, "out:dx", "dx"));
    for (int i = 0; i < r->e.n_weights; i++) {
        const lmoe__weight *w = &r->e.weights[i];
        const char *name = file_name(r, w);
        if (r->gradients)
            LMOE_TRY(add_buffer(r, lmoe__arena_printf(r->arena, "grad:%s", w->name),
                                lmoe__arena_printf(r->arena, "dw:%s", name)));
        if (!find_weight(r, w))
            LMOE_TRY(add_buffer(r, w->name, lmoe__arena_printf(r->arena, "w:%s", name)));
    }
    for (int i = 0; i < last->n_carries; i++)
        LMOE_TRY(add_buffer(r, last->carries[i].name, last->carries[i].name));
    for (int i = 0; i < r->whole->graph->n_results; i++) {
        const char *name = r->whole->graph->results[i].name;
        if (strncmp(name, "aux:", 4) == 0 || strncmp(name, "stat:", 5) == 0)
            LMOE_TRY(add_buffer(r, name, name));
    }
    return LMOE_OK;
}

static lmoe_status give(void *user, int index, size_t at, void *host, size_t n)
{
    const runner *r = user;
    memcpy(host, (const char *)r->data[index].data + at, n);
    return LMOE_OK;
}

/* Aside, then in place: an older file of the name stays whole until this one is. */
static lmoe_status write_results(runner *r)
{
    const char *aside = lmoe__arena_printf(r->arena, "%s.%d.tmp", r->job->out, (int)getpid());
    lmoe__st_file f = {.path = aside, .tensors = r->tensors, .which = r->which, .n = r->n_results};
    f.read = give;
    f.user = r;
    LMOE_TRY(lmoe__st_write(r->ctx, &f));
    if (rename(aside, r->job->out) == 0) return LMOE_OK;
    int error = errno;
    unlink(aside);
    return lmoe_error(r->ctx, LMOE_E_IO, "cannot write %s: %s", r->job->out, strerror(error));
}

static lmoe_status run(runner *r)
{
    lmoe__setup *s = &r->setup;
    LMOE_TRY(read_inputs(r));
    LMOE_TRY(read_setup(r));
    r->ctx->team = lmoe__team_new(s->device->threads ? s->device->threads(s->device_options) : 1);
    LMOE_TRY(s->device->open(r->ctx, s->device_options, &r->dev));
    LMOE_TRY(lmoe__engine_init(&r->e, r->ctx, &s->model, NULL, s->device, r->dev, r->dtype));
    LMOE_TRY(add_program(r, r->seq, false, &r->whole));
    LMOE_TRY(add_pieces(r));
    LMOE_TRY(lmoe__engine_bind(&r->e));
    LMOE_TRY(load_weights(r));
    LMOE_TRY(run_all(r));
    LMOE_TRY(collect(r));
    return write_results(r);
}

lmoe_status lmoe__layer_run(lmoe_ctx *ctx, const lmoe__layer_job *j)
{
    runner r = {.ctx = ctx, .job = j, .arena = lmoe__arena_new(), .st = {.map.fd = -1}};
    r.dtype = j->f64 ? LMOE_F64 : LMOE_F32;
    for (int i = 0; i < j->layers.count; i++) r.layers[i] = (int)j->layers.at[i];
    lmoe_status status = run(&r);
    if (r.e.arena) lmoe__engine_free(&r.e);
    if (r.dev) r.setup.device->close(r.dev);
    lmoe__team_free(ctx->team);
    ctx->team = NULL;
    lmoe__setup_free(&r.setup);
    if (r.st.arena) lmoe__st_close(&r.st);
    free(r.tensors);
    free(r.data);
    free(r.which);
    lmoe__arena_free(r.arena);
    return status;
}
