/* SPDX-License-Identifier: Apache-2.0
 * core/op/carry.c: operands described by letters, and other things that the carry ops share.
 */
#include "core/op/carry.h"
#include "core/op/shape.h"

#include <ctype.h>
#include <stdlib.h>

/* ---- letters ---- */

void lmoe__letters_set(lmoe__letters *l, char letter, const char *axis, int64_t dim)
{
    l->dim[(int)letter] = dim;
    l->axis[(int)letter] = axis;
    l->port[(int)letter] = "";
}

static int count_letters(const char *text, bool *dots)
{
    int n = 0;
    *dots = strstr(text, "...") != NULL;
    for (const char *p = text; *p && *p != ':'; p++) n += isalpha((unsigned char)*p) != 0;
    return n;
}

/* One letter for each axis, "..." written out; returns how many. */
static int expand(const lmoe__letters *l, const char *text, char letters[LMOE_MAX_DIMS])
{
    int n = 0;
    for (const char *p = text; *p && *p != ':' && n < LMOE_MAX_DIMS; p++) {
        if (isalpha((unsigned char)*p)) letters[n++] = *p;
        if (strncmp(p, "...", 3) != 0) continue;
        p += 2;
        for (int i = 0; i < l->dots && n < LMOE_MAX_DIMS; i++) letters[n++] = (char)(1 + i);
    }
    return n;
}

/* The dtype after the colon, or LMOE_NONE: a float. */
static lmoe_dtype form_dtype(const char *form)
{
    const char *colon = strchr(form, ':');
    if (!colon) return LMOE_NONE;
    return strcmp(colon, ": u8") == 0 ? LMOE_U8 : LMOE_I32;
}

static lmoe_status check_dtype(lmoe_trace *t, const lmoe_port *port, const char *form,
                               lmoe_dtype dtype)
{
    lmoe_dtype want = form_dtype(form);
    if (want != LMOE_NONE) {
        if (dtype == want) return LMOE_OK;
        return lmoe_shape_error(t, "'%s' is %s and must be %s", port->name, lmoe__dtype_name(dtype),
                                lmoe__dtype_name(want));
    }
    if (port->flags & LMOE_PORT_STATE) {
        if (dtype == LMOE_F32 || dtype == LMOE_F64) return LMOE_OK;
        return lmoe_shape_error(t, "'%s' is %s and must be f32: lift it with lmoe_f32", port->name,
                                lmoe__dtype_name(dtype));
    }
    if (lmoe_dtype_is_float(dtype)) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' is %s and must be of a float dtype", port->name,
                            lmoe__dtype_name(dtype));
}

static lmoe_status bind_one(lmoe_trace *t, lmoe__letters *l, const lmoe_port *port,
                            const char *form, const lmoe_desc *d)
{
    char letters[LMOE_MAX_DIMS];
    bool dots;
    LMOE_TRY(check_dtype(t, port, form, d->dtype));
    int rank = count_letters(form, &dots);
    if (dots && !l->dots_known && d->rank > rank) {
        l->dots = d->rank - rank;
        l->dots_known = true;
    }
    rank += dots ? l->dots : 0;
    if (d->rank != rank || (dots && !l->dots_known))
        return lmoe_shape_error(t, "'%s' has %d axes; its form is (%.*s)", port->name, d->rank,
                                (int)strcspn(form, ":"), form);
    expand(l, form, letters);
    for (int i = 0; i < d->rank; i++) {
        int c = letters[i];
        if (!l->port[c]) {
            l->dim[c] = d->dim[i];
            l->axis[c] = d->axis[i];
            l->port[c] = port->name;
        } else if (l->dim[c] != d->dim[i]) {
            return lmoe_shape_error(t, "'%s' has size %lld along '%s' where '%s' has %lld",
                                    port->name, (long long)d->dim[i], d->axis[i], l->port[c],
                                    (long long)l->dim[c]);
        }
    }
    return LMOE_OK;
}

lmoe_status lmoe__letters_bind(lmoe_trace *t, lmoe__letters *l, const lmoe_port *ports,
                               const char *const *forms, const lmoe_desc *in, int n_in)
{
    for (int i = 0; ports[i].name; i++) {
        const lmoe_desc *d = lmoe__desc_at(in, n_in, i);
        if (d->dtype != LMOE_NONE)
            LMOE_TRY(bind_one(t, l, &ports[i], forms[i], d));
        else if (!(ports[i].flags & LMOE_PORT_OPTIONAL))
            return lmoe_shape_error(t, "'%s' is missing", ports[i].name);
    }
    return LMOE_OK;
}

void lmoe__letters_desc(const lmoe__letters *l, const char *text, lmoe_dtype dtype, lmoe_desc *out)
{
    char letters[LMOE_MAX_DIMS];
    memset(out, 0, sizeof *out);
    out->dtype = dtype;
    out->rank = expand(l, text, letters);
    for (int i = 0; i < out->rank; i++) {
        out->dim[i] = l->dim[(int)letters[i]];
        out->axis[i] = l->axis[(int)letters[i]];
    }
}

/* ---- operands ---- */

const lmoe_desc *lmoe__desc_at(const lmoe_desc *in, int n_in, int i)
{
    static const lmoe_desc absent;
    return i < n_in ? &in[i] : &absent;
}

lmoe_dtype lmoe__state_dtype_of(const lmoe_desc *in, int n_in)
{
    for (int i = 0; i < n_in; i++) {
        if (in[i].dtype == LMOE_F64) return LMOE_F64;
    }
    return LMOE_F32;
}

const lmoe_buf *lmoe__buf_at(const lmoe_buf *bufs, int n, int i)
{
    static const lmoe_buf absent;
    return i >= 0 && i < n ? &bufs[i] : &absent;
}

void lmoe__buf_fill(const lmoe_buf *b, double x)
{
    if (!lmoe_buf_present(b)) return;
    for (int64_t i = 0, n = lmoe_buf_count(b); i < n; i++) lmoe_put(b, i, x);
}

double *lmoe__ref_doubles(const lmoe_args *a, int64_t n)
{
    double *p = calloc((size_t)(n > 0 ? n : 1), sizeof *p);
    if (!p)
        lmoe_error(a->ctx, LMOE_E_MEMORY,
                   "a reference kernel could not get %lld bytes of memory; use shorter sequences, "
                   "or a device with a kernel of its own for this op",
                   (long long)n * (long long)sizeof *p);
    return p;
}

/* ---- test cases ---- */

const int64_t lmoe__case_seq[LMOE__CASE_SEQS] = {1, 2, 3, 5, 16, 17, 31, 63, 64, 65, 127, 128, 129};

void lmoe__case_port(lmoe_case *c, int i, const char *form, const lmoe__letters *l,
                     lmoe_fill_kind kind, double a, double b)
{
    lmoe_dtype dtype = form_dtype(form);
    lmoe__letters_desc(l, form, dtype == LMOE_NONE ? LMOE_F32 : dtype, &c->in[i]);
    c->fill[i] = (lmoe_fill){kind, a, b};
    if (c->n_in < i + 1) c->n_in = i + 1;
}

/* ---- combine ops ---- */

const lmoe_option lmoe__combine_options[] = {
    {"rank", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, rank), NULL, 0, 1 << 20, NULL, NULL,
     "The segment whose carry is wanted."},
    {"ranks", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, ranks), NULL, 1, 1 << 20, NULL, NULL,
     "Number of segments."},
    {"reverse", LMOE_OPTION_INT, offsetof(lmoe_combine_attrs, reverse), "0", 0, 1, NULL, NULL,
     "1: segments after the rank matter, from the last one; 0: those before it."},
    LMOE_OPTION_END};

lmoe_status lmoe__combine_check(lmoe_trace *t, const lmoe_combine_attrs *o, int64_t stacked)
{
    if (o->ranks != stacked || o->rank < 0 || o->rank >= o->ranks)
        return lmoe_shape_error(t,
                                "rank %lld of %lld ranks does not fit summaries of %lld segments",
                                (long long)o->rank, (long long)o->ranks, (long long)stacked);
    return LMOE_OK;
}

lmoe_combine_attrs lmoe__combine_case(int index, int reverse)
{
    lmoe_combine_attrs o = {.reverse = reverse};
    o.ranks = index < 1 ? 1 : index < 3 ? 2 : 4;
    o.rank = index < 1 ? 0 : index < 3 ? index - 1 : index - 3;
    return o;
}
