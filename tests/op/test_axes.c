/* SPDX-License-Identifier: Apache-2.0
 * tests/op/test_axes.c: einsum, reshapes, slices and padding: values found by plain loops, and what
 * is refused.
 */
#include "tests/op/simple_call.h"

#include <lmoe/einsum.h>

/* ---- einsum ---- */

START_TEST(einsum_texts_are_read)
{
    lmoe_einsum_form f;
    ck_assert_ptr_null(lmoe_einsum_parse("b s e, e h k -> b s h k", &f));
    ck_assert_int_eq(f.operands, 2);
    ck_assert_str_eq(f.a, "bse");
    ck_assert_str_eq(f.b, "ehk");
    ck_assert_str_eq(f.out, "bshk");
    ck_assert_int_eq(f.letters, 5);
    ck_assert_int_eq(f.letter[2].name, 'e');
    ck_assert_int_eq(f.letter[2].a, 2);
    ck_assert_int_eq(f.letter[2].b, 0);
    ck_assert_int_eq(f.letter[2].out, -1);
    ck_assert_int_eq(f.letter[4].a, -1);
    ck_assert_int_eq(f.letter[4].out, 3);
    ck_assert_ptr_null(lmoe_einsum_parse("x,x->", &f));
    ck_assert_str_eq(f.out, "");
    ck_assert_ptr_null(lmoe_einsum_parse(" B s->  s B ", &f));
    ck_assert_int_eq(f.operands, 1);
    ck_assert_ptr_null(lmoe_einsum_parse(", s -> s", &f));
    ck_assert_str_eq(f.a, "");

    static const char *const bad[][2] = {
        {"b s", "'->' is missing"},
        {"b s e, e h", "'->' is missing"},
        {"b b -> b", "twice"},
        {"a -> b", "no operand"},
        {"a, b, c -> a", "more than two"},
        {"bs e -> e", "blank between"},
        {"b 1 -> b", "single letters"},
        {"b - > b", "single letters"},
        {"a -> a, b", "follows the result"},
        {"a b c d e f g h i -> a", "too many"},
        {"", "'->' is missing"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *wrong = lmoe_einsum_parse(bad[i][0], &f);
        ck_assert_msg(wrong && strstr(wrong, bad[i][1]), "'%s': '%s' does not say '%s'", bad[i][0],
                      wrong ? wrong : "(accepted)", bad[i][1]);
    }
}
END_TEST

static call einsum(const char *text, const char *a, const int64_t *a_dim, const char *b,
                   const int64_t *b_dim)
{
    lmoe_einsum_attrs o = {""};
    strcpy(o.text, text);
    call k = new_call(&lmoe__op_einsum, &o);
    operand(&k, 0, LMOE_F64, a, a_dim);
    if (b) operand(&k, 1, LMOE_F64, b, b_dim);
    return k;
}

START_TEST(einsum_projects_to_heads)
{
    enum { B = 2, S = 3, E = 5, H = 2, K = 7 };
    call k = einsum("b s e, e h k -> b s h k", "batch seq embed", DIMS(B, S, E),
                    "embed heads head_k", DIMS(E, H, K));
    run(&k);
    axes_are(&k.out[0], "(batch 2, seq 3, heads 2, head_k 7)");
    for (int row = 0; row < B * S; row++) {
        for (int column = 0; column < H * K; column++) { /* a plain matrix product */
            double want = 0;
            for (int e = 0; e < E; e++) want += k.x[0][row * E + e] * k.x[1][e * H * K + column];
            near(k.y[0][row * H * K + column], want);
        }
    }
    release(&k);
}
END_TEST

START_TEST(einsum_keeps_letters_of_both_and_sums_letters_of_one)
{
    enum { X = 3, R = 4, E = 5, F = 2 };
    call k = einsum("x r e, x e f -> f x r", "expert row embed", DIMS(X, R, E),
                    "expert embed hidden", DIMS(X, E, F));
    run(&k);
    axes_are(&k.out[0], "(hidden 2, expert 3, row 4)");
    double got[X][R][F];
    for (int i = 0; i < X * R * F; i++) got[i / R % X][i % R][i / (X * R)] = k.y[0][i];
    for (int x = 0; x < X; x++) {
        for (int r = 0; r < R; r++) {
            for (int f = 0; f < F; f++) {
                for (int e = 0; e < E; e++)
                    got[x][r][f] -= k.x[0][(x * R + r) * E + e] * k.x[1][(x * E + e) * F + f];
                near(got[x][r][f], 0);
            }
        }
    }
    release(&k);

    /* sum over b, s and c of a b = (sum of a) (sum of b): */
    k = einsum("s a, b c -> b", "seq a", DIMS(3, 4), "b c", DIMS(2, 3));
    run(&k);
    double all = 0;
    for (int i = 0; i < 12; i++) all += k.x[0][i];
    for (int i = 0; i < 2; i++)
        near(k.y[0][i], all * (k.x[1][3 * i] + k.x[1][3 * i + 1] + k.x[1][3 * i + 2]));
    release(&k);
}
END_TEST

START_TEST(einsum_of_one_operand)
{
    call k = einsum("b s e -> e b", "batch seq embed", DIMS(2, 3, 4), NULL, NULL);
    run(&k);
    axes_are(&k.out[0], "(embed 4, batch 2)");
    for (int e = 0; e < 4; e++) {
        for (int b = 0; b < 2; b++) {
            const double *x = k.x[0] + b * 12 + e;
            near(k.y[0][e * 2 + b], x[0] + x[4] + x[8]);
        }
    }
    release(&k);
    k = einsum("s e ->", "seq embed", DIMS(2, 2), NULL, NULL);
    run(&k);
    axes_are(&k.out[0], "a scalar");
    near(k.y[0][0], k.x[0][0] + k.x[0][1] + k.x[0][2] + k.x[0][3]);
    release(&k);
}
END_TEST

START_TEST(einsum_refuses)
{
    call k = einsum("s e, e h -> s h", "seq embed", DIMS(2, 3), NULL, NULL);
    refused(&k, "names 2 operands, but 1 are given");
    k = einsum("s e -> s", "seq embed", DIMS(2, 3), "embed hidden", DIMS(3, 4));
    refused(&k, "names 1 operands, but 2 are given");
    k = einsum("s e, e h -> s h", "seq embed", DIMS(2, 3), "embed heads head_k", DIMS(3, 4, 5));
    refused(&k, "'b', which is (embed 3, heads 4, head_k 5)");
    k = einsum("s e, e h -> s h", "seq embed", DIMS(2, 3), "embed hidden", DIMS(5, 4));
    refused(&k, "axis 'embed' has 3 elements in 'a' but 5 in 'b'");
    k = einsum("s e, e h -> s h", "seq embed", DIMS(2, 3), "head_k hidden", DIMS(3, 4));
    refused(&k, "axis 'head_k' of 'b' should be axis 'embed' of 'a'");
    k = einsum("s e, t e -> s t", "seq embed", DIMS(2, 3), "seq embed", DIMS(2, 3));
    refused(&k, "two axes named 'seq'");
    k = einsum("s e, e h", "seq embed", DIMS(2, 3), "embed hidden", DIMS(3, 4));
    refused(&k, "'->' is missing");
    k = einsum("s e -> e", "seq embed", DIMS(2, 3), NULL, NULL);
    k.c.in[0].dtype = LMOE_I32;
    refused(&k, "float dtype, not i32");
}
END_TEST

START_TEST(mixed_dtypes_widen)
{
    static const lmoe_dtype dtypes[][3] = {{LMOE_BF16, LMOE_F32, LMOE_F32},
                                           {LMOE_F64, LMOE_BF16, LMOE_F64},
                                           {LMOE_BF16, LMOE_BF16, LMOE_BF16},
                                           {LMOE_F16, LMOE_BF16, LMOE_F32}};
    for (int i = 0; i < 4; i++) {
        call k = einsum("s e, e h -> s h", "seq embed", DIMS(2, 3), "embed hidden", DIMS(3, 4));
        k.c.in[0].dtype = dtypes[i][0];
        k.c.in[1].dtype = dtypes[i][1];
        ck_assert_int_eq(k.op->shape(NULL, k.c.attrs.bytes, k.c.in, 2, k.out), LMOE_OK);
        ck_assert_int_eq(k.out[0].dtype, dtypes[i][2]);
        lmoe_binary_attrs o = {0};
        ck_assert_int_eq(
            lmoe__op_add.shape(NULL, &o, (const lmoe_desc[]){k.c.in[0], k.c.in[0]}, 2, k.out),
            LMOE_OK);
        ck_assert_int_eq(k.out[0].dtype, dtypes[i][0]);
        release(&k);
    }
}
END_TEST

/* ---- axes ---- */

START_TEST(reshapes)
{
    lmoe_reshape_attrs o = {2, 3, "heads", "head_k"};
    call k = new_call(&lmoe__op_split_axis, &o);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 2, 6));
    run(&k);
    axes_are(&k.out[0], "(batch 2, seq 2, heads 2, head_k 3)");
    for (int i = 0; i < 24; i++) ck_assert_double_eq(k.y[0][i], k.x[0][i]);
    release(&k);
    o = (lmoe_reshape_attrs){0, 0, "row", ""};
    k = new_call(&lmoe__op_merge_axes, &o);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 3, 4));
    run(&k);
    axes_are(&k.out[0], "(row 6, embed 4)");
    for (int i = 0; i < 24; i++) ck_assert_double_eq(k.y[0][i], k.x[0][i]);
    release(&k);

    static const struct {
        lmoe_reshape_attrs o;
        bool merge;
        const char *words;
    } bad[] = {
        {{2, 5, "heads", "head_k"}, false, "axis 'embed' of 4 elements cannot be split"},
        {{2, 0, "heads", "head_k"}, false, "cannot be split"},
        {{3, 2, "heads", "head_k"}, false, "no axis number 3"},
        {{2, 2, "heads", "seq"}, false, "two axes named 'seq'"},
        {{2, 2, "heads", ""}, false, "need names"},
        {{2, 0, "embed", ""}, true, "'embed' is the last one"},
        {{0, 0, "embed", ""}, true, "two axes named 'embed'"},
        {{-1, 0, "row", ""}, true, "no axis number"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        k = new_call(bad[i].merge ? &lmoe__op_merge_axes : &lmoe__op_split_axis, &bad[i].o);
        operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 3, 4));
        refused(&k, bad[i].words);
    }
}
END_TEST

START_TEST(slices_and_padding)
{
    lmoe_slice_attrs s = {1, 2, 3};
    call k = new_call(&lmoe__op_slice, &s);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 5, 2));
    run(&k);
    axes_are(&k.out[0], "(batch 2, seq 3, embed 2)");
    for (int i = 0; i < 6; i++) ck_assert_double_eq(k.y[0][i], k.x[0][4 + i]);
    for (int i = 0; i < 6; i++) ck_assert_double_eq(k.y[0][6 + i], k.x[0][14 + i]);
    release(&k);

    lmoe_pad_attrs p = {1, 1, 2, -7};
    k = new_call(&lmoe__op_pad, &p);
    operand(&k, 0, LMOE_F64, "batch seq", DIMS(2, 2));
    run(&k);
    axes_are(&k.out[0], "(batch 2, seq 5)");
    const double *x = k.x[0];
    const double want[] = {-7, x[0], x[1], -7, -7, -7, x[2], x[3], -7, -7};
    for (int i = 0; i < 10; i++) ck_assert_double_eq(k.y[0][i], want[i]);
    release(&k);

    s = (lmoe_slice_attrs){1, 2, 4};
    k = new_call(&lmoe__op_slice, &s);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 5, 2));
    refused(&k, "axis 'seq' has 5 elements; 4 from number 2 on are not there");
    s = (lmoe_slice_attrs){1, INT64_MAX, INT64_MAX};
    k = new_call(&lmoe__op_slice, &s);
    operand(&k, 0, LMOE_F64, "batch seq embed", DIMS(2, 5, 2));
    refused(&k, "axis 'seq'");
    p.before = -1;
    k = new_call(&lmoe__op_pad, &p);
    operand(&k, 0, LMOE_F64, "batch seq", DIMS(2, 2));
    refused(&k, "axis 'seq' cannot be padded by -1 before");
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {einsum_texts_are_read,
                                  einsum_projects_to_heads,
                                  einsum_keeps_letters_of_both_and_sums_letters_of_one,
                                  einsum_of_one_operand,
                                  einsum_refuses,
                                  mixed_dtypes_widen,
                                  reshapes,
                                  slices_and_padding};
    return run_tests("axes", tests, (int)(sizeof tests / sizeof *tests));
}
