/* SPDX-License-Identifier: Apache-2.0
 * core/op/random/random.c: random/1: key (...) i32 -> y (... n): uniform numbers of [0, 1).
 *
 * y_i is a function of (key, salt, i) alone: whoever computes it, on whichever device and in
 * whichever layout, gets the same 24 bits. Generator: Philox 4x32-10 with the counter (i / 4, key)
 * and the key (salt, 0); number i is word i % 4.
 */
#include "core/op/shape.h"

lmoe_status lmoe__random_reference(const lmoe_args *args);

static lmoe_status shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                         lmoe_desc *out)
{
    const lmoe_random_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "key", LMOE_I32));
    if (o->n < 1 || o->n > INT32_MAX || !o->axis[0])
        return lmoe_shape_error(t, "n must be 1 ... 2^31 - 1 and have an axis name, not %lld",
                                (long long)o->n);
    if (o->dtype != LMOE_F32 && o->dtype != LMOE_F64)
        return lmoe_shape_error(t, "numbers must have dtype f32 or f64, not %s",
                                lmoe__dtype_name((lmoe_dtype)o->dtype));
    if (in[0].rank == LMOE_MAX_DIMS) return lmoe_shape_error(t, "'key' has too many axes");
    out[0] = in[0];
    out[0].dtype = (lmoe_dtype)o->dtype;
    out[0].dim[in[0].rank] = o->n;
    out[0].axis[in[0].rank] = o->axis;
    out[0].rank++;
    return lmoe__need_unique_axes(t, &out[0]);
}

static int sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[2], n, salt;
        double keys;
        uint32_t flags;
    } cases[] = {
        {{1, 1}, 1, 0, 1, 0},
        {{2, 63}, 5, 1, 7, 0},
        {{3, 65}, 64, 70000, 1e9, 0},
        {{1, 127}, 129, 3, 2e9, 0},
        {{8, 512}, 512, 0, 1e9, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_random_attrs o = {cases[index].n, cases[index].salt, LMOE_F32, "embed"};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq", cases[index].dim, LMOE_FILL_INT, 0,
                     cases[index].keys);
    return 1;
}

static const lmoe_option options[] = {
    {"n", LMOE_OPTION_INT, offsetof(lmoe_random_attrs, n), NULL, 1, INT32_MAX, NULL, NULL,
     "Numbers for each key."},
    {"salt", LMOE_OPTION_INT, offsetof(lmoe_random_attrs, salt), "0", 0, UINT32_MAX, NULL, NULL,
     "Draws of different salt have nothing to do with each other."},
    {"dtype", LMOE_OPTION_ENUM, offsetof(lmoe_random_attrs, dtype), "f32", 0, 0,
     "none f32 f64 bf16 f16 i32 i64 u8", NULL, "Dtype of the numbers: f32 or f64."},
    {"axis", LMOE_OPTION_CHARS, offsetof(lmoe_random_attrs, axis), NULL, 0, 15, NULL, NULL,
     "Name of the axis of size n."},
    LMOE_OPTION_END};

static const lmoe_port inputs[] = {{.name = "key", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};
static const lmoe_port outputs[] = {{.name = "y", .flags = LMOE_PORT_NO_GRAD}, {.name = NULL}};

const lmoe_op lmoe__op_random = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "random/1", "uniform numbers, a function of keys",
             options, sizeof(lmoe_random_attrs), 0},
    .inputs = inputs,
    .outputs = outputs,
    .shape = shape,
    .rule = "... -> ... n | whole n",
    .reference = lmoe__random_reference,
    .sample = sample,
};
