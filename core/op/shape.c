/* SPDX-License-Identifier: Apache-2.0
 * core/op/shape.c: checks of operands and dtypes of results, shared by shape functions.
 */
#include "core/op/shape.h"

lmoe_dtype lmoe__widest(lmoe_dtype a, lmoe_dtype b)
{
    if (a == b) return a;
    return a == LMOE_F64 || b == LMOE_F64 ? LMOE_F64 : LMOE_F32;
}

lmoe_dtype lmoe__state_of(lmoe_dtype x)
{
    return x == LMOE_F64 ? LMOE_F64 : LMOE_F32;
}

const char *lmoe__dtype_name(lmoe_dtype d)
{
    static const char *const names[] = {"none", "f32", "f64", "bf16", "f16",
                                        "i32",  "i64", "u8",  "u16"};
    return (unsigned)d < sizeof names / sizeof *names ? names[d] : "unknown";
}

const char *lmoe__desc_text(char *buf, size_t n, const lmoe_desc *d)
{
    size_t used = 0;
    snprintf(buf, n, "%s", d->rank ? "(" : "a scalar");
    for (int i = 0; i < d->rank; i++) {
        used = strlen(buf);
        snprintf(buf + used, n - used, "%s %lld%s", d->axis[i], (long long)d->dim[i],
                 i + 1 < d->rank ? ", " : ")");
    }
    return buf;
}

lmoe_status lmoe__need_float(lmoe_trace *t, const lmoe_desc *d, const char *name)
{
    if (lmoe_dtype_is_float(d->dtype)) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' must have a float dtype, not %s", name,
                            lmoe__dtype_name(d->dtype));
}

lmoe_status lmoe__need_dtype(lmoe_trace *t, const lmoe_desc *d, const char *name, lmoe_dtype want)
{
    if (d->dtype == want) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' must have dtype %s, not %s", name, lmoe__dtype_name(want),
                            lmoe__dtype_name(d->dtype));
}

lmoe_status lmoe__need_rank(lmoe_trace *t, const lmoe_desc *d, const char *name, int rank,
                            const char *axes)
{
    char text[256];
    if (d->rank == rank) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' must have the axes (%s), but is %s", name, axes,
                            lmoe__desc_text(text, sizeof text, d));
}

lmoe_status lmoe__need_axis(lmoe_trace *t, const lmoe_desc *a, const char *a_name, int i,
                            const lmoe_desc *b, const char *b_name, int j)
{
    if (strcmp(a->axis[i], b->axis[j]) != 0) {
        return lmoe_shape_error(t, "axis '%s' of '%s' should be axis '%s' of '%s'", b->axis[j],
                                b_name, a->axis[i], a_name);
    }
    if (a->dim[i] == b->dim[j]) return LMOE_OK;
    return lmoe_shape_error(t, "axis '%s' has %lld elements in '%s' but %lld in '%s'", a->axis[i],
                            (long long)a->dim[i], a_name, (long long)b->dim[j], b_name);
}

lmoe_status lmoe__need_axes(lmoe_trace *t, const lmoe_desc *a, const char *a_name,
                            const lmoe_desc *b, const char *b_name)
{
    char a_text[256], b_text[256];
    bool same = a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->dim[i] == b->dim[i] && strcmp(a->axis[i], b->axis[i]) == 0;
    if (same) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' is %s; it must have the axes of '%s', %s", b_name,
                            lmoe__desc_text(b_text, sizeof b_text, b), a_name,
                            lmoe__desc_text(a_text, sizeof a_text, a));
}

lmoe_status lmoe__need_like(lmoe_trace *t, const lmoe_desc *a, const char *a_name,
                            const lmoe_desc *b, const char *b_name)
{
    LMOE_TRY(lmoe__need_axes(t, a, a_name, b, b_name));
    if (a->dtype == b->dtype) return LMOE_OK;
    return lmoe_shape_error(t, "'%s' is %s but '%s' is %s; cast one of them", a_name,
                            lmoe__dtype_name(a->dtype), b_name, lmoe__dtype_name(b->dtype));
}

lmoe_status lmoe__need_unique_axes(lmoe_trace *t, const lmoe_desc *d)
{
    for (int i = 0; i < d->rank; i++) {
        for (int j = 0; j < i; j++) {
            if (strcmp(d->axis[i], d->axis[j]) != 0) continue;
            return lmoe_shape_error(t,
                                    "the result would have two axes named '%s'; give the axes of "
                                    "the operands different names",
                                    d->axis[i]);
        }
    }
    return LMOE_OK;
}

lmoe_tensor lmoe__cast_like(lmoe_trace *t, lmoe_tensor gradient, lmoe_tensor operand)
{
    lmoe_desc d;
    if (lmoe_describe(t, operand, &d) != LMOE_OK) return operand;
    return lmoe_cast(t, gradient, d.dtype);
}
