/* SPDX-License-Identifier: Apache-2.0
 * core/op/part/part.c: which tokens take part in one of several states. No derivatives.
 *
 *   unchosen/1  index (batch seq choice), skip (batch seq) or absent -> skipped (batch seq) u8:
 *               1 for tokens that did not choose `which`, and for skipped ones
 *   fenwick/1   positions (batch seq), document (batch seq) -> write (batch seq), reset (batch seq) u8
 *               of one level of a Fenwick tree: blocks of 2^(level - 1) tokens, counted from the
 *               document's start, come in pairs; tokens of the first are written (1), those of the
 *               second read what was written; each pair begins with a reset.
 */
#include "core/op/shape.h"

lmoe_status lmoe__unchosen_reference(const lmoe_args *args);
lmoe_status lmoe__fenwick_reference(const lmoe_args *args);

static lmoe_status need_tokens(lmoe_trace *t, const lmoe_desc *like, const lmoe_desc *d,
                               const char *name, lmoe_dtype dtype)
{
    LMOE_TRY(lmoe__need_dtype(t, d, name, dtype));
    LMOE_TRY(lmoe__need_rank(t, d, name, 2, "batch seq"));
    for (int i = 0; i < 2; i++) LMOE_TRY(lmoe__need_axis(t, like, "the other", i, d, name, i));
    return LMOE_OK;
}

/* ---- unchosen ---- */

static lmoe_status unchosen_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                  lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "index", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, &in[0], "index", 3, "batch seq choice"));
    if (n_in > 1 && in[1].dtype != LMOE_NONE)
        LMOE_TRY(need_tokens(t, &in[0], &in[1], "skip", LMOE_U8));
    out[0] = in[0];
    out[0].dtype = LMOE_U8;
    out[0].rank = 2;
    return LMOE_OK;
}

static int unchosen_sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[3], which;
        double choices;
        int skip;
        uint32_t flags;
    } cases[] = {
        {{1, 1, 1}, 0, 1, 0, 0},
        {{2, 63, 2}, 3, 5, 1, 0},
        {{1, 65, 8}, 1, 64, 1, 0},
        {{3, 7, 2}, 2, 3, 0, 0},
        {{2, 9, 3}, 9, 4, 1, 0}, /* never chosen */
        {{8, 256, 2}, 1, 4, 1, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_unchosen_attrs o = {cases[index].which};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq choice", cases[index].dim, LMOE_FILL_INT, 0,
                     cases[index].choices);
    if (cases[index].skip)
        lmoe__case_input(c, 1, LMOE_U8, "batch seq", cases[index].dim, LMOE_FILL_FLAG, 0.2, 0);
    return 1;
}

static const lmoe_option unchosen_options[] = {
    {"which", LMOE_OPTION_INT, offsetof(lmoe_unchosen_attrs, which), NULL, 0, INT32_MAX, NULL, NULL,
     "The choice that is asked for."},
    LMOE_OPTION_END};

static const lmoe_port unchosen_in[] = {
    {.name = "index", .flags = LMOE_PORT_NO_GRAD},
    {.name = "skip", .flags = LMOE_PORT_OPTIONAL | LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_SKIP},
    {.name = NULL}};
static const lmoe_port unchosen_out[] = {{.name = "skipped", .flags = LMOE_PORT_NO_GRAD},
                                         {.name = NULL}};

const lmoe_op lmoe__op_unchosen = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "unchosen/1", "tokens that did not choose one thing",
             unchosen_options, sizeof(lmoe_unchosen_attrs), 0},
    .inputs = unchosen_in,
    .outputs = unchosen_out,
    .shape = unchosen_shape,
    .rule = "b s c, b s -> b s | whole c",
    .reference = lmoe__unchosen_reference,
    .sample = unchosen_sample,
};

/* ---- fenwick ---- */

static lmoe_status fenwick_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                 lmoe_desc *out)
{
    const lmoe_fenwick_attrs *o = attrs;
    LMOE_TRY(lmoe__need_dtype(t, &in[0], "positions", LMOE_I32));
    LMOE_TRY(lmoe__need_rank(t, &in[0], "positions", 2, "batch seq"));
    LMOE_TRY(need_tokens(t, &in[0], &in[1], "document", LMOE_I32));
    if (o->level < 1 || o->level > 30)
        return lmoe_shape_error(t, "level is %lld and must be 1 ... 30", (long long)o->level);
    if (!lmoe_dtype_is_float((lmoe_dtype)o->dtype))
        return lmoe_shape_error(t, "'write' must be of a float dtype, not %s",
                                lmoe__dtype_name((lmoe_dtype)o->dtype));
    out[0] = out[1] = in[0];
    out[0].dtype = (lmoe_dtype)o->dtype;
    out[1].dtype = LMOE_U8;
    return LMOE_OK;
}

static int fenwick_sample(int index, lmoe_case *c)
{
    static const struct {
        int64_t dim[2], level;
        double position, document;
        uint32_t flags;
    } cases[] = {
        {{1, 1}, 1, 0, 0, 0},       {{2, 63}, 1, 0, 0, 0},    {{2, 65}, 3, 5, 2, 0},
        {{1, 129}, 8, 1000, 37, 0}, {{1, 17}, 30, 1e6, 0, 0}, {{8, 256}, 4, 0, 0, LMOE_CASE_BENCH},
    };
    if (index >= (int)(sizeof cases / sizeof *cases)) return 0;
    lmoe_fenwick_attrs o = {cases[index].level, LMOE_F32};
    memcpy(c->attrs.bytes, &o, sizeof o);
    c->flags = cases[index].flags;
    lmoe__case_input(c, 0, LMOE_I32, "batch seq", cases[index].dim, LMOE_FILL_RAMP,
                     cases[index].position, 0);
    lmoe__case_input(c, 1, LMOE_I32, "batch seq", cases[index].dim, LMOE_FILL_CONST,
                     cases[index].document, 0);
    return 1;
}

static const lmoe_option fenwick_options[] = {
    {"level", LMOE_OPTION_INT, offsetof(lmoe_fenwick_attrs, level), NULL, 1, 30, NULL, NULL,
     "The level: blocks of 2^(level - 1) tokens."},
    {"dtype", LMOE_OPTION_ENUM, offsetof(lmoe_fenwick_attrs, dtype), "f32", 0, 0,
     "none f32 f64 bf16 f16 i32 i64 u8", NULL, "Dtype of write."},
    LMOE_OPTION_END};

static const lmoe_port fenwick_in[] = {
    {.name = "positions", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_POSITIONS},
    {.name = "document", .flags = LMOE_PORT_NO_GRAD, .ambient = LMOE_AMBIENT_DOCUMENT},
    {.name = NULL}};
static const lmoe_port fenwick_out[] = {{.name = "write", .flags = LMOE_PORT_NO_GRAD},
                                        {.name = "reset", .flags = LMOE_PORT_NO_GRAD},
                                        {.name = NULL}};

const lmoe_op lmoe__op_fenwick = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "fenwick/1",
             "which tokens one level of a Fenwick tree writes, and where it starts anew",
             fenwick_options, sizeof(lmoe_fenwick_attrs), 0},
    .inputs = fenwick_in,
    .outputs = fenwick_out,
    .shape = fenwick_shape,
    .rule = "b s, b s -> b s, b s",
    .reference = lmoe__fenwick_reference,
    .sample = fenwick_sample,
};
