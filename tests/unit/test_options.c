/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_options.c: option tables: single values, defaults, checks, the printed page.
 */
#include "tests/unit/sample.h"

#include <locale.h>
#include <math.h>

/* ---- one value ---- */

/* Parses `text` into one option; its value as text again, or NULL if it was refused. */
static const char *parsed(const char *key, const char *text, sample *s)
{
    lmoe__ctx_clear(&ctx);
    const char *line = lmoe__arena_printf(arena, "%s=%s", key, text);
    if (lmoe__options_parse_one(&ctx, "test", table, line, s, arena) != LMOE_OK) return NULL;
    const lmoe_option *o = table;
    while (strcmp(o->name, key) != 0) o++;
    return lmoe__option_to_text(o, s, arena);
}

START_TEST(good_values)
{
    static const struct {
        const char *key, *text, *value;
    } cases[] = {{"on", "yes", "yes"},
                 {"on", "TRUE", "yes"},
                 {"on", "1", "yes"},
                 {"on", "on", "yes"},
                 {"on", "off", "no"},
                 {"on", "False", "no"},
                 {"on", "0", "no"},
                 {"mode", "none", "none"},
                 {"mode", "full", "full"},
                 {"heads", "1", "1"},
                 {"heads", "64", "64"},
                 {"heads", "+7", "7"},
                 {"steps", "2K", "2000"},
                 {"steps", "2Ki", "2048"},
                 {"steps", "-3M", "-3000000"},
                 {"steps", "1Mi", "1048576"},
                 {"steps", "5G", "5000000000"},
                 {"steps", "5Gi", "5368709120"},
                 {"steps", "007", "7"},
                 {"steps", "9223372036854775807", "9223372036854775807"},
                 {"steps", "-9223372036854775808", "-9223372036854775808"},
                 {"lr", "0.001", "0.001"},
                 {"lr", "1e-4", "0.0001"},
                 {"lr", "1.", "1"},
                 {"lr", ".5", "0.5"},
                 {"lr", "1", "1"},
                 {"beta", "-2.5E+3", "-2500"},
                 {"beta", "0.1", "0.1"},
                 {"beta", "1e308", "1e+308"},
                 {"beta", "5e-324", "4.94065645841247e-324"},
                 {"beta", "0.30000000000000004", "0.30000000000000004"},
                 {"name", "two  words = x", "two  words = x"},
                 {"norm", "layer", "layer"},
                 {"code", "12345678", "12345678"},
                 {"code", "", ""}};
    sample s;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *value = parsed(cases[i].key, cases[i].text, &s);
        ck_assert_msg(value != NULL, "%s", ctx.message);
        ck_assert_str_eq(value, cases[i].value);
        sample again = s;
        ck_assert_str_eq(parsed(cases[i].key, value, &again), value);
    }
    ck_assert_str_eq(parsed("mode", "full", &s), "full");
    ck_assert_int_eq(s.mode, MODE_FULL);
}
END_TEST

START_TEST(bad_values)
{
    static const struct {
        const char *key, *text, *message;
    } cases[] = {
        {"on", "maybe", "test: on = maybe: expected yes or no"},
        {"on", "", "test: on = : expected yes or no"},
        {"mode", "ful", "test: mode = ful: expected one of none, half, full; did you mean 'full'?"},
        {"mode", "none half", "expected one of"},
        {"mode", "", "expected one of"},
        {"heads", "0", "test: heads = 0: expected a whole number from 1 to 64"},
        {"heads", "65", "from 1 to 64"},
        {"heads", "1K", "from 1 to 64"},
        {"heads", "8.0", "whole number"},
        {"heads", "8 # eight", "a comment behind a value starts with ' ;'"},
        {"steps", "", "test: steps = : expected a whole number (steps)"},
        {"steps", "0x10", "whole number"},
        {"steps", "1e3", "whole number"},
        {"steps", "inf", "whole number"},
        {"steps", "nan", "whole number"},
        {"steps", "5k", "whole number"},
        {"steps", "5KiB", "whole number"},
        {"steps", "5 K", "whole number"},
        {"steps", "1_000", "whole number"},
        {"steps", "--1", "whole number"},
        {"steps", "9223372036854775808", "whole number"},
        {"steps", "9223372036854775807K", "whole number"},
        {"steps", "-9223372036854775809", "whole number"},
        {"lr", "-0.1", "test: lr = -0.1: expected a number from 0 to 1"},
        {"lr", "1.0000001", "from 0 to 1"},
        {"beta", "nan", "expected a number"},
        {"beta", "inf", "expected a number"},
        {"beta", "-infinity", "expected a number"},
        {"beta", "1e400", "expected a number"},
        {"beta", "1e-400", "expected a number"},
        {"beta", "0x1p3", "expected a number"},
        {"beta", "1,5", "expected a number"},
        {"beta", "1e", "expected a number"},
        {"beta", "1e+", "expected a number"},
        {"beta", ".", "expected a number"},
        {"beta", "1K", "expected a number"},
        {"beta", "", "expected a number"},
        {"norm", "batch", "expected one of rms, layer"},
        {"code", "123456789", "expected text of at most 8 bytes"},
        {"hads", "1", "test: unknown option 'hads'; did you mean 'heads'?"},
        {"momentum", "1", "test: unknown option 'momentum'; there are on, mode, heads"}};
    sample s, before;
    memset(&s, 0x5a, sizeof s);
    before = s;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_ptr_null(parsed(cases[i].key, cases[i].text, &s));
        if (!strstr(ctx.message, cases[i].message))
            ck_abort_msg("'%s' lacks '%s'", ctx.message, cases[i].message);
        ck_assert_mem_eq(&s, &before, sizeof s); /* a refused value changes nothing */
    }
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(lmoe__options_parse_one(&ctx, "op x/1", table, "heads", &s, arena),
                     LMOE_E_CONFIG);
    message_is("op x/1: heads: there is no '='; write key=value");
}
END_TEST

/* Every double comes back as it was. */
START_TEST(floats_round_trip)
{
    int wrong = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t bits[4];
        double x;
        sample s, again;
        lmoe__philox(1, 2, i, bits);
        memcpy(&x, bits, sizeof x);
        if (!isfinite(x)) continue;
        s.beta = x;
        const char *text = lmoe__option_to_text(&table[5], &s, arena);
        const char *line = lmoe__arena_printf(arena, "beta=%s", text);
        wrong += lmoe__options_parse_one(&ctx, "test", table, line, &again, arena) != LMOE_OK;
        wrong += memcmp(&again.beta, &x, sizeof x) != 0;
    }
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* A process that speaks with a decimal comma reads and prints the same. */
START_TEST(locale_does_not_matter)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    int i = 0;
    while (i < 4 && !setlocale(LC_ALL, names[i])) i++;
    sample s;
    ck_assert_str_eq(parsed("beta", "2.5", &s), "2.5");
    ck_assert_double_eq(s.beta, 2.5);
    if (i < 4) {
        char comma[8];
        snprintf(comma, sizeof comma, "%.1f", 2.5);
        ck_assert_str_eq(comma, "2,5"); /* the locale is as it was */
    }
}
END_TEST

/* ---- tables ---- */

START_TEST(defaults)
{
    sample s, d;
    memset(&s, 0x5a, sizeof s);
    lmoe__options_default(table, &s, arena);
    ck_assert_int_eq(s.on, 0);
    ck_assert_int_eq(s.mode, MODE_HALF);
    ck_assert_int_eq(s.heads, 4);
    ck_assert_int_eq(s.steps, 1000);
    ck_assert_double_eq(s.lr, 3e-4);
    ck_assert_str_eq(s.name, "");
    ck_assert_str_eq(s.norm, "rms");
    ck_assert_str_eq(s.code, "abc");

    lmoe__conf *conf = read_text("");
    memset(&d, 0x5a, sizeof d);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "model", table, &d, arena), LMOE_OK);
    ck_assert(same_sample(&s, &d));
    const char *class = "x";
    lmoe__options_default(class_table, &class, arena);
    ck_assert_str_eq(class, "");
    lmoe__conf_free(conf);
}
END_TEST

static void table_is(const lmoe_option *t, size_t size, const char *message)
{
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(lmoe__options_check_table(&ctx, "lsm/x", t, size), LMOE_E_USAGE);
    if (!strstr(ctx.message, message)) ck_abort_msg("'%s' lacks '%s'", ctx.message, message);
}

START_TEST(tables)
{
    ck_assert_int_eq(lmoe__options_check_table(&ctx, "x", table, sizeof(sample)), LMOE_OK);
    ck_assert_int_eq(lmoe__options_check_table(&ctx, "x", NULL, 0), LMOE_OK);
    ck_assert_int_eq(lmoe__options_check_table(&ctx, "x", class_table, sizeof(char *)), LMOE_OK);
    const lmoe_option good = {"heads", LMOE_OPTION_INT, 8, "4", 1, 64, NULL, NULL, "Heads."};
    lmoe_option t[3] = {good, LMOE_OPTION_END, LMOE_OPTION_END};
    ck_assert_int_eq(lmoe__options_check_table(&ctx, "x", t, 16), LMOE_OK);
    table_is(t, 15, "lsm/x: option 'heads': the field lies outside the option struct");
    table_is(t, 7, "outside the option struct");
    static const char *const names[] = {
        "",    "Heads",     "9x",
        "_x",  "a-b",       "a b",
        "a.b", "h\xc3\xa4", "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        t[0].name = names[i];
        table_is(t, 16, "the name must be lower case");
    }
#define WITH(change, size, message) (t[0] = good, change, table_is(t, size, message))
    WITH(t[0].offset = SIZE_MAX - 3, 16, "outside the option struct");
    WITH(t[0].offset = 4, 16, "the field is not aligned");
    WITH(t[0].type = (lmoe_option_type)9, 16, "the type is unknown");
    WITH(t[0].type = (lmoe_option_type)0, 16, "the type is unknown");
    WITH(t[0].type = LMOE_OPTION_ENUM, 16, "an ENUM needs choices");
    WITH((t[0].type = LMOE_OPTION_ENUM, t[0].choices = "a b"), 16,
         "its default is '4': expected one");
    WITH(t[0].min = 65, 16, "min is above max");
    WITH(t[0].max = NAN, 16, "not a number");
    WITH(t[0].initial = "65", 16,
         "lsm/x: option 'heads': its default is '65': expected a whole number from 1 to 64");
    WITH(t[0].initial = "x", 16, "its default is 'x'");
    WITH((t[0].type = LMOE_OPTION_TEXT, t[0].initial = "a\nb"), 16, "nothing that a run file can");
    WITH((t[0].type = LMOE_OPTION_CHARS, t[0].max = 0, t[0].min = 0), 16, "the longest text");
    WITH((t[0].type = LMOE_OPTION_CHARS, t[0].max = 8), 16, "outside the option struct");
    WITH((t[0].type = LMOE_OPTION_CHARS, t[0].max = 1e300), 16, "the longest text");
    WITH(t[1] = good, 16, "the name is used twice");
    WITH((t[1] = good, t[1].name = "b", t[1].offset = 0, t[1].type = LMOE_OPTION_CHARS), 100,
         "the field overlaps");
#undef WITH
}
END_TEST

/* The printed page explains, and reads back as the defaults. */
START_TEST(table_as_ini)
{
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    fprintf(f, "[layer L]\n");
    lmoe__options_print_ini(f, class_table);
    lmoe__options_print_ini(f, table);
    fclose(f);
    ck_assert_ptr_nonnull(strstr(text, "; Class of the layer. Text; must be given.\n; class =\n"));
    ck_assert_ptr_nonnull(strstr(text, "; Heads. A whole number from 1 to 64.\nheads = 4\n"));
    ck_assert_ptr_nonnull(
        strstr(text, "; Length of the run. A whole number; unit: steps.\nsteps = 1K\n"));
    sample s, d;
    lmoe__options_default(table, &d, arena);
    lmoe__conf *conf = read_text(text);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", table, &s, arena), LMOE_OK);
    ck_assert(same_sample(&s, &d));
    ck_assert_str_eq(lmoe__conf_where(conf, "layer L", "code"), "a.ini:21");
    lmoe__conf_free(conf);
    free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *c = group(s, "values", set_up, tear_down);
    tcase_add_test(c, good_values);
    tcase_add_test(c, bad_values);
    tcase_add_test(c, floats_round_trip);
    tcase_add_test(c, locale_does_not_matter);
    c = group(s, "tables", set_up, tear_down);
    tcase_add_test(c, defaults);
    tcase_add_test(c, tables);
    tcase_add_test(c, table_as_ini);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
