/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_conf.c: run files, --set, filling from them, what is shown.
 */
#include "tests/unit/sample.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

/* Every file that must be refused: what the message must say. */
static void refused(const char *text, size_t size, const char *message)
{
    lmoe__ctx_clear(&ctx);
    lmoe__conf *conf = lmoe__conf_read_text(&ctx, "a.ini", text, size);
    if (conf) ck_abort_msg("accepted, though: %s", message);
    ck_assert_int_eq(ctx.status, LMOE_E_CONFIG);
    if (!strstr(ctx.message, message)) ck_abort_msg("'%s' lacks '%s'", ctx.message, message);
}

/* ---- reading ---- */

START_TEST(values_as_written)
{
    lmoe__conf *conf = read_text("\xef\xbb\xbf; a comment\r\n"
                                 "[model]  ; another\r\n"
                                 "vocab_size = 151936\r\n"
                                 "name=\"quoted \" # kept\t ; not kept\r\n"
                                 "semi = a;b\n"
                                 "equals = a = b == c\n"
                                 "colon = dp:2 sp:4\n"
                                 "empty =\n"
                                 "   # indented comment\n"
                                 "\n"
                                 "[ layer \t L ]\n"
                                 "class\t=\tlsm/gla  \n"
                                 "[ffn]\n"
                                 "[data]\n"
                                 "train = a.bin:0.5   ; first\n"
                                 "    b.bin:0.3 ; second\n"
                                 "; between\n"
                                 "\n"
                                 "\tc.bin;x:0.2\n"
                                 "late =\n"
                                 "  value\n"
                                 "last = no line end");
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "vocab_size"), "151936");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "name"), "\"quoted \" # kept");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "semi"), "a;b");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "equals"), "a = b == c");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "colon"), "dp:2 sp:4");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "empty"), "");
    ck_assert_ptr_null(lmoe__conf_text(conf, "model", "absent"));
    ck_assert_str_eq(lmoe__conf_text(conf, "layer L", "class"), "lsm/gla");
    ck_assert_str_eq(lmoe__conf_text(conf, "data", "train"), "a.bin:0.5 b.bin:0.3 c.bin;x:0.2");
    ck_assert_str_eq(lmoe__conf_text(conf, "data", "late"), "value");
    ck_assert_str_eq(lmoe__conf_text(conf, "data", "last"), "no line end");

    static const char *const sections[] = {"model", "layer L", "ffn", "data"};
    for (int i = 0; i < 4; i++) ck_assert_str_eq(lmoe__conf_section(conf, i), sections[i]);
    ck_assert_ptr_null(lmoe__conf_section(conf, 4));
    ck_assert(lmoe__conf_has(conf, "ffn"));
    ck_assert(!lmoe__conf_has(conf, "train"));
    ck_assert_str_eq(lmoe__conf_key(conf, "data", 1), "late");
    ck_assert_ptr_null(lmoe__conf_key(conf, "data", 3));
    ck_assert_ptr_null(lmoe__conf_key(conf, "train", 0));

    ck_assert_str_eq(lmoe__conf_where(conf, "model", "vocab_size"), "a.ini:3");
    ck_assert_str_eq(lmoe__conf_where(conf, "layer L", NULL), "a.ini:11");
    ck_assert_str_eq(lmoe__conf_where(conf, "data", "train"), "a.ini:15");
    ck_assert_str_eq(lmoe__conf_where(conf, "data", "last"), "a.ini:22");
    ck_assert_str_eq(lmoe__conf_where(conf, "model", "absent"), "default");
    lmoe__conf_free(conf);
    lmoe__conf_free(NULL);
}
END_TEST

START_TEST(nothing_is_fine)
{
    static const char *const texts[] = {"", "\n", "# only this", "\xef\xbb\xbf", "\r\n\r\n"};
    for (int i = 0; i < 5; i++) {
        lmoe__conf *conf = read_text(texts[i]);
        ck_assert_msg(conf != NULL, "%s", ctx.message);
        ck_assert_ptr_null(lmoe__conf_section(conf, 0));
        ck_assert_int_eq(lmoe__conf_check_unused(&ctx, conf), LMOE_OK);
        lmoe__conf_free(conf);
    }
}
END_TEST

START_TEST(refused_lines)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"heads = 8\n", "a.ini:1: key 'heads' stands before any [section]"},
        {"[model\n", "a.ini:1: the section's ']' is missing: [model"},
        {"[]\n", "a.ini:1: a section needs a name"},
        {"[ ]\n", "a.ini:1: a section needs a name"},
        {"[a:b]\n", "a section's name is made of letters"},
        {"[a] b = 1\n", "a.ini:1: only a comment may follow [a]: b = 1"},
        {"[a] # b\n", "a.ini:1: only a comment may follow [a]: # b"},
        {"[a]\n[b]\n\n[a]\n", "a.ini:4: section [a] is already in line 1"},
        {"[a]\nx = 1\ny = 2\nx = 3\n", "a.ini:4: key 'x' of [a] is already in line 2"},
        {"[a]\nheads\n", "a.ini:2: neither [section] nor key = value: heads"},
        {"[a]\nheads: 8\n", "a.ini:2: neither [section] nor key = value: heads: 8"},
        {"[a]\nmesh: a = 8\n", "a.ini:2: a key is one word: mesh: a = 8"},
        {"[a]\n= 8\n", "a.ini:2: there is no key before '='"},
        {"[a]\nx =;\n", "a.ini:2: a value cannot begin with ';': x =;"},
        {"[a]\nx ;y = 8\n", "a.ini:2: a key is one word"},
        {"[a]\n  x = 8\n", "a.ini:2: an indented line continues a value, but there is none above"},
        {"[a]\nx = 1\n[b]\n  2\n", "a.ini:4: an indented line continues a value"},
        {"[a]\nx = 1\n  y = 2\n",
         "a.ini:3: an indented line continues the value of 'x'; a key starts its line: y = 2"},
        {"[a]\nx = 1\x07\n", "a.ini:2: the line has a control character (0x07)"},
        {"[a]\rx = 1\r", "a.ini:1: the line has a control character (0x0d)"},
        {"\xef\xbb\xbf\xef\xbb\xbf[a]\n", "a.ini:1: neither [section]"},
        {"\n\xef\xbb\xbf[a]\n", "a.ini:2: neither [section]"},
        {"[run]\ninclude =\n", "a.ini:2: include names no file"},
        {"[run]\ninclude = none/b.ini\n",
         "a.ini:2: cannot include none/b.ini: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused(cases[i].text, strlen(cases[i].text), cases[i].message);
    }
    refused("[a]\nx = 1\0 2\n", 12, "a.ini:2: the line has a NUL byte");
    refused("\0", 1, "a.ini:1: the line has a NUL byte");
}
END_TEST

static char *filled(size_t n, char c)
{
    char *text = lmoe__arena_alloc(arena, n + 1);
    memset(text, c, n);
    return text;
}

/* The length limits are inclusive, and what they let through arrives whole. */
START_TEST(long_lines)
{
    const char *word = filled(LMOE__CONF_LINE - 4, 'v'), *name = filled(LMOE__CONF_NAME, 'n');
    const char *text =
        lmoe__arena_printf(arena, "[%s]\nk = %s\n%s = 1\nm =\n %svvv\n", name, word, name, word);
    lmoe__conf *conf = read_text(text);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_str_eq(lmoe__conf_text(conf, name, "k"), word);
    ck_assert_str_eq(lmoe__conf_text(conf, name, name), "1");
    ck_assert_uint_eq(strlen(lmoe__conf_text(conf, name, "m")), LMOE__CONF_LINE - 1);
    lmoe__conf_free(conf);

    text = lmoe__arena_printf(arena, "[a]\nk = %sv\n", word);
    refused(text, strlen(text), "a.ini:2: the line has 191 bytes, at most 190 are read");
    text = lmoe__arena_printf(arena, "[n%s]\n", name);
    refused(text, strlen(text), "a.ini:1: a section's name has at most 49 characters");
    text = lmoe__arena_printf(arena, "[a]\nn%s = 1\n", name);
    refused(text, strlen(text), "a.ini:2: a key has at most 49 characters");
    text = lmoe__arena_printf(arena, "[a]\n%s\n", filled(1000000, 'x'));
    refused(text, strlen(text), "a.ini:2: the line has 1000000 bytes");

    text = lmoe__arena_printf(arena, "# %s\n[a]\n   ;%s\nk = 1\n", filled(5000, 'x'),
                              filled(5000, '='));
    conf = read_text(text);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_str_eq(lmoe__conf_text(conf, "a", "k"), "1");
    ck_assert_str_eq(lmoe__conf_where(conf, "a", "k"), "a.ini:4");
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(huge_files)
{
    lmoe__text text = {0};
    for (int i = 0; i < 1000; i++) lmoe__text_add(&text, "[s%d]\n", i);
    lmoe__conf *conf = read_text(text.data);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    lmoe__conf_free(conf);
    lmoe__text_add(&text, "[one more]\n");
    refused(text.data, text.length, "a.ini:1001: the file has more than 1000 sections");

    text.length = 0;
    lmoe__text_add(&text, "[a]\n");
    for (int i = 0; i < 1001; i++) lmoe__text_add(&text, "k%d = 1\n", i);
    refused(text.data, text.length, "a.ini:1002: section [a] has more than 1000 keys");

    text.length = 0;
    lmoe__text_add(&text, "[a]\nk = 1\n");
    while (text.length < 2000000) lmoe__text_add(&text, " 2\n");
    refused(text.data, text.length, "the file has more than 1048576 bytes");
    text.data[1000000] = '\0'; /* within the limit: a value of 333,330 lines */
    text.data[999999] = '\n';
    conf = read_text(text.data);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_uint_gt(strlen(lmoe__conf_text(conf, "a", "k")), 666000);
    lmoe__conf_free(conf);
    lmoe__text_free(&text);
}
END_TEST

/* ---- files ---- */

static void write_file(const char *name, const char *text)
{
    const char *path = lmoe__arena_printf(arena, "%s/%s", folder, name);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, text, strlen(text)), LMOE_OK);
}

static const char *in_folder(const char *name)
{
    return lmoe__arena_printf(arena, "%s/%s", folder, name);
}

static void set_up_folder(void)
{
    set_up();
    strcpy(folder, "/tmp/lmoe-conf-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(mkdir(in_folder("sub"), 0700), 0);
}

static void tear_down_folder(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    ck_assert_int_eq(system(command), 0);
    tear_down();
}

START_TEST(including_file_wins)
{
    write_file("sub/model.ini", "[run]\nseed = 1\nnote = base\n"
                                "[model]\nembed = 64\nlayers = 2\n[data]\ntrain = t.bin\n");
    write_file("run.ini", "[train]\nlr = 1\n[run]\ninclude = sub/model.ini\nseed = 2\n"
                          "[model]\nlayers = 3\n[data]\nvalid = v.bin\n");
    lmoe__conf *conf = lmoe__conf_read(&ctx, in_folder("run.ini"));
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_str_eq(lmoe__conf_text(conf, "run", "seed"), "2");
    ck_assert_str_eq(lmoe__conf_text(conf, "run", "note"), "base");
    ck_assert_ptr_null(lmoe__conf_text(conf, "run", "include"));
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "embed"), "64");
    ck_assert_str_eq(lmoe__conf_text(conf, "model", "layers"), "3");
    ck_assert_str_eq(lmoe__conf_where(conf, "model", "embed"), in_folder("sub/model.ini:5"));
    ck_assert_str_eq(lmoe__conf_where(conf, "model", "layers"), in_folder("run.ini:7"));

    /* a path belongs to the file that says it */
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "data.test=x.bin"), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "data.abs=/x.bin"), LMOE_OK);
    ck_assert_str_eq(lmoe__conf_path(conf, "data", "train", arena), in_folder("sub/t.bin"));
    ck_assert_str_eq(lmoe__conf_path(conf, "data", "valid", arena), in_folder("v.bin"));
    ck_assert_str_eq(lmoe__conf_path(conf, "data", "test", arena), "x.bin");
    ck_assert_str_eq(lmoe__conf_path(conf, "data", "abs", arena), "/x.bin");
    ck_assert_ptr_null(lmoe__conf_path(conf, "data", "none", arena));
    ck_assert_str_eq(lmoe__conf_resolve(conf, "data", "train", "u.bin", arena),
                     in_folder("sub/u.bin"));
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(include_alone_is_used)
{
    write_file("a.ini", "[model]\nembed = 64\n");
    write_file("b.ini", "[run]\ninclude = a.ini\n");
    lmoe__conf *conf = lmoe__conf_read(&ctx, in_folder("b.ini"));
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    lmoe__conf_text(conf, "model", "embed");
    ck_assert_int_eq(lmoe__conf_check_unused(&ctx, conf), LMOE_OK);
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(bad_includes)
{
    write_file("a.ini", "[run]\ninclude = b.ini\n");
    write_file("b.ini", "[run]\ninclude = sub/../a.ini\n");
    ck_assert_ptr_null(lmoe__conf_read(&ctx, in_folder("a.ini")));
    ck_assert_str_eq(
        ctx.message,
        lmoe__arena_printf(arena, "%s/b.ini:2: %s/sub/../a.ini includes itself", folder, folder));
    lmoe__ctx_clear(&ctx);

    for (int i = 0; i < 12; i++) {
        write_file(lmoe__arena_printf(arena, "%d.ini", i),
                   lmoe__arena_printf(arena, "[run]\ninclude = %d.ini\n", i + 1));
    }
    write_file("12.ini", "[model]\nx = 1\n");
    ck_assert_ptr_null(lmoe__conf_read(&ctx, in_folder("0.ini")));
    ck_assert_ptr_nonnull(
        strstr(ctx.message, "8.ini:2: files include each other more than 8 deep"));
    lmoe__ctx_clear(&ctx);
    lmoe__conf *conf = lmoe__conf_read(&ctx, in_folder("4.ini"));
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    lmoe__conf_free(conf);

    write_file("c.ini", "[run]\ninclude = d.ini\n");
    write_file("d.ini", "[run]\n\nbad line\n");
    ck_assert_ptr_null(lmoe__conf_read(&ctx, in_folder("c.ini")));
    ck_assert_ptr_nonnull(strstr(ctx.message, "d.ini:3: neither [section]"));
    lmoe__ctx_clear(&ctx);
    ck_assert_ptr_null(lmoe__conf_read(&ctx, folder));
    ck_assert_ptr_nonnull(strstr(ctx.message, "Is a directory"));
    lmoe__ctx_clear(&ctx);
    ck_assert_ptr_null(lmoe__conf_read(&ctx, in_folder("none.ini")));
    ck_assert_ptr_nonnull(strstr(ctx.message, "none.ini: No such file"));
    lmoe__ctx_clear(&ctx);
    ck_assert_ptr_null(lmoe__conf_read(&ctx, "/dev/zero"));
    ck_assert_ptr_nonnull(strstr(ctx.message, "NUL byte"));
}
END_TEST

/* ---- --set ---- */

START_TEST(set_overrides)
{
    lmoe__conf *conf = read_text("[layer L]\nheads = 8\n");
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "layer L.heads=16"), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "layer  L.heads = 32 "), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "device.name=a.b=c"), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "vendor.x.y=1"), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "run.note="), LMOE_OK);
    ck_assert_str_eq(lmoe__conf_text(conf, "layer L", "heads"), "32");
    ck_assert_str_eq(lmoe__conf_where(conf, "layer L", "heads"), "--set");
    ck_assert_str_eq(lmoe__conf_where(conf, "layer L", NULL), "a.ini:1");
    ck_assert_str_eq(lmoe__conf_text(conf, "device", "name"), "a.b=c");
    ck_assert_str_eq(lmoe__conf_text(conf, "vendor.x", "y"), "1");
    ck_assert_str_eq(lmoe__conf_text(conf, "run", "note"), "");

    static const char *const bad[] = {
        "",         "x",      "a.b",     "=1",      "a=1",
        ".b=1",     "a.=1",   "a.b c=1", "a]b.c=1", "run.include=x.ini",
        "a.b=x ;y", "a.b=;y", "a.b=x\ny"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lmoe__ctx_clear(&ctx);
        ck_assert_int_eq(lmoe__conf_set(&ctx, conf, bad[i]), LMOE_E_CONFIG);
        ck_assert_ptr_eq(strstr(ctx.message, "--set "), ctx.message);
    }
    lmoe__ctx_clear(&ctx);
    const char *word = lmoe__arena_printf(arena, "a.b=%s", filled(300, 'x'));
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, word), LMOE_E_CONFIG);
    lmoe__conf_free(conf);
}
END_TEST

/* ---- filling ---- */

START_TEST(several_tables_fill_from_one_section)
{
    lmoe__conf *conf = read_text("[layer L]\nclass = lsm/gla\nheads = 16\nlr = 0.5\n");
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "layer L.lr=0.25"), LMOE_OK);
    const char *class;
    sample s;
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", class_table, &class, arena),
                     LMOE_OK);
    ck_assert_int_eq(lmoe__conf_check_unused(&ctx, conf), LMOE_E_CONFIG);
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", table, &s, arena), LMOE_OK);
    ck_assert_str_eq(class, "lsm/gla");
    ck_assert_int_eq(s.heads, 16);
    ck_assert_double_eq(s.lr, 0.25);
    ck_assert_int_eq(lmoe__conf_check_unused(&ctx, conf), LMOE_OK);
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(shared_keys_must_agree)
{
    static const lmoe_option other[] = {
        {"heads", LMOE_OPTION_INT, 0, "8", 1, 64, NULL, NULL, "Heads."}, LMOE_OPTION_END};
    int64_t heads;
    sample s;
    lmoe__conf *conf = read_text("[ffn]\n");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", table, &s, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", table, &s, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", other, &heads, arena), LMOE_E_CONFIG);
    message_is("a.ini:1: [ffn] 'heads' is used by two classes whose defaults differ (4 and 8); "
               "write it in the file");
    lmoe__conf_free(conf);
    conf = read_text("[ffn]\nheads = 2\n");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", table, &s, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", other, &heads, arena), LMOE_OK);
    ck_assert(s.heads == 2 && heads == 2);
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(fill_errors)
{
    sample s;
    const char *class;
    lmoe__conf *conf = read_text("[model]\n\nheads = 80\n[layer L]\nmode = hlaf\n");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "model", table, &s, arena), LMOE_E_CONFIG);
    message_is("a.ini:3: [model] heads = 80: expected a whole number from 1 to 64");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", table, &s, arena), LMOE_E_CONFIG);
    message_is("a.ini:5: [layer L] mode = hlaf: expected one of none, half, full; "
               "did you mean 'half'?");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", class_table, &class, arena),
                     LMOE_E_CONFIG);
    message_is("a.ini:4: [layer L] needs 'class' (text): Class of the layer.");
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer N", class_table, &class, arena),
                     LMOE_E_CONFIG);
    message_is("a.ini: there is no section [layer N]; it is needed for 'class' (text): "
               "Class of the layer.");
    ck_assert_int_eq(lmoe__conf_set(&ctx, conf, "model.heads=x"), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "model", table, &s, arena), LMOE_E_CONFIG);
    message_is("--set: [model] heads = x: expected a whole number from 1 to 64");
    lmoe__conf_free(conf);
}
END_TEST

static void unused_is(const char *text, const char *set, const char *message)
{
    sample s;
    lmoe__conf *conf = read_text(text);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    if (set) ck_assert_int_eq(lmoe__conf_set(&ctx, conf, set), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", table, &s, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "ffn", NULL, NULL, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__conf_check_unused(&ctx, conf), message ? LMOE_E_CONFIG : LMOE_OK);
    ck_assert_str_eq(ctx.message, message ? message : "");
    lmoe__conf_free(conf);
}

START_TEST(unused)
{
    unused_is("[layer L]\nheads = 4\n[ffn]\n", NULL, NULL);
    unused_is("[layer L]\n\nhads = 4\n", NULL,
              "a.ini:3: unknown key 'hads' in [layer L]; did you mean 'heads'?");
    unused_is("[ffn]\nheads = 4\n", NULL,
              "a.ini:2: unknown key 'heads' in [ffn]; it belongs in [layer L]");
    unused_is("[ffn]\nmomentum = 4\n", NULL,
              "a.ini:2: unknown key 'momentum' in [ffn]; this section knows no keys");
    unused_is("[layer L]\nmomentum = 4\n", NULL,
              "a.ini:2: unknown key 'momentum' in [layer L]; this section knows on, mode, heads, "
              "steps, lr, beta, name, norm, code");
    unused_is("", "layer L.hads=4",
              "--set: unknown key 'hads' in [layer L]; did you mean 'heads'?");
    unused_is("[fnn]\n", NULL,
              "a.ini:1: nothing in this run uses section [fnn]; did you mean [ffn]?");
    unused_is("\n[optimizer]\nx = 1\n", NULL,
              "a.ini:2: nothing in this run uses section [optimizer]; it uses [layer L], [ffn]");
    unused_is("", "nope.x=1",
              "--set: nothing in this run uses section [nope]; it uses [layer L], [ffn]");
}
END_TEST

/* ---- show ---- */

static char *shown(lmoe__conf *conf)
{
    char *text;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    lmoe__conf_show(conf, f);
    fclose(f);
    return text;
}

static bool same_values(lmoe__conf *a, lmoe__conf *b)
{
    const char *section, *key;
    for (int i = 0; (section = lmoe__conf_section(a, i)); i++) {
        if (!lmoe__conf_has(b, section)) return false;
        for (int k = 0; (key = lmoe__conf_key(a, section, k)); k++) {
            const char *value = lmoe__conf_text(b, section, key);
            if (!value || strcmp(value, lmoe__conf_text(a, section, key)) != 0) return false;
        }
    }
    return true;
}

static void fill_all(lmoe__conf *conf, sample s[2], const char **class)
{
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", class_table, class, arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "layer L", table, &s[0], arena), LMOE_OK);
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "train", table, &s[1], arena), LMOE_OK);
}

START_TEST(show_reads_back)
{
    /* texts at every length around the limits of a line, with blanks that must be kept */
    for (int n = 0; n < 420; n++) {
        lmoe__text value = {0};
        static const char *const words[] = {"a", "#b",  "c=d",  "e",       "=",
                                            "f", "g;h", "x  y", "\xc3\xbc"};
        for (int i = 0; (int)value.length < n; i++) {
            lmoe__text_add(&value, "%s%s", i ? " " : "", words[(i * 7 + n) % 9]);
        }
        lmoe__conf *conf = read_text("[layer L]\nclass = lsm/gla\nsteps = 2Ki\n");
        const char *set =
            lmoe__arena_printf(arena, "train.name=%s", value.length ? value.data : "");
        ck_assert_int_eq(lmoe__conf_set(&ctx, conf, set), LMOE_OK);
        sample s[2], again[2];
        const char *class, *class_again;
        fill_all(conf, s, &class);
        ck_assert_str_eq(s[1].name, value.length ? value.data : "");
        char *text = shown(conf);
        lmoe__conf *back = read_text(text);
        ck_assert_msg(back != NULL, "%s in\n%s", ctx.message, text);
        fill_all(back, again, &class_again);
        ck_assert_int_eq(lmoe__conf_check_unused(&ctx, back), LMOE_OK);
        ck_assert_msg(same_sample(&s[1], &again[1]), "%s", text);
        ck_assert(same_sample(&s[0], &again[0]));
        ck_assert_str_eq(class, class_again);
        free(text);
        lmoe__conf_free(back);
        lmoe__conf_free(conf);
        lmoe__text_free(&value);
    }
}
END_TEST

static void add_line(lmoe__text *out, uint64_t round, uint64_t line)
{
    static const char *const starts[] = {"[sD]", "kD=", "kD =", "kD = ", " ", "\t", "; ", "", "x"};
    static const char *const words[] = {
        "a",   "#", "#b", ";",  "c;",   "x=", "c=d",  "=",       "]",
        "[e]", " ", "  ", "\t", "\xff", "\r", " ; c", "\xc3\xbc"};
    const char *start = starts[lmoe__below(round, 2 * line, 0, 100) * 9 / 103];
    if (line == 0) start = "[sD]";
    char first[16];
    snprintf(first, sizeof first, "%s", start);
    char *number = strchr(first, 'D');
    if (number) *number = (char)('0' + line);
    lmoe__text_add(out, "%s", first);
    uint64_t n = *start == '[' ? 0 : lmoe__below(round, 2 * line, 1, 4);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t k = lmoe__below(round, 2 * line + 1, i, 40);
        if (i && k % 3) lmoe__text_add(out, " ");
        lmoe__text_add(out, "%s", k < 17 ? words[k] : k < 30 ? "word" : filled(k * 2, 'w'));
    }
    lmoe__text_add(out, line % 5 ? "\n" : "\r\n");
}

/* Files of all kinds of lines: each is refused with its place, or means the same after it was
 * shown. */
START_TEST(any_text_is_refused_or_reads_back)
{
    int accepted = 0;
    for (uint64_t round = 0; round < 4000; round++) {
        lmoe__text text = {0};
        for (uint64_t line = 0; line < 6; line++) add_line(&text, round, line);
        lmoe__conf *conf = read_text(text.data);
        if (!conf) ck_assert_ptr_eq(strstr(ctx.message, "a.ini:"), ctx.message);
        if (conf) {
            char *again = shown(conf);
            lmoe__conf *back = read_text(again);
            if (!back || !same_values(conf, back) || !same_values(back, conf))
                ck_abort_msg("%s\n--- shown as\n%s--- %s", text.data, again, ctx.message);
            lmoe__conf_free(back);
            free(again);
            accepted++;
        }
        lmoe__conf_free(conf);
        lmoe__text_free(&text);
    }
    ck_assert_int_gt(accepted, 400);
    ck_assert_int_lt(accepted, 3600);
}
END_TEST

/* Lines as full as they may be, in a file that leaves out every blank. */
START_TEST(full_lines_read_back)
{
    const char *word = filled(LMOE__CONF_LINE - 1, 'v');
    const char *text = lmoe__arena_printf(arena, "[a]\nk=#%s\n %s\nm=n=%s\n %s x\n", word + 2, word,
                                          word + 3, word + 2);
    lmoe__conf *conf = read_text(text);
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    char *again = shown(conf);
    lmoe__conf *back = read_text(again);
    ck_assert_msg(back != NULL, "%s", ctx.message);
    ck_assert(same_values(conf, back));
    ck_assert_uint_eq(strlen(lmoe__conf_text(back, "a", "k")), 2 * LMOE__CONF_LINE - 2);
    free(again);
    lmoe__conf_free(back);
    lmoe__conf_free(conf);
}
END_TEST

START_TEST(show_says_where)
{
    lmoe__conf *conf = read_text("[layer L]\nclass = lsm/gla\nsteps = 2Ki\n[extra]\nfree = text\n");
    sample s[2];
    const char *class;
    lmoe__conf_set(&ctx, conf, "train.on=1");
    fill_all(conf, s, &class);
    lmoe__conf_text(conf, "extra", "free");
    char *text = shown(conf);
    ck_assert_ptr_eq(strstr(text, "[layer L]\n"
                                  "class = lsm/gla                          ; a.ini:2\n"
                                  "steps = 2048                             ; a.ini:3\n"
                                  "on = no                                  ; default\n"),
                     text);
    ck_assert_ptr_nonnull(strstr(text, "\n[extra]\nfree = text "));
    ck_assert_ptr_nonnull(
        strstr(text, "\n[train]\non = yes                                 ; --set\n"));
    free(text);
    lmoe__conf_free(conf);
}
END_TEST

/* A path is shown absolute, so that it means the same in another file. */
START_TEST(show_resolves_paths)
{
    typedef struct paths {
        const char *train, *dir, *none, *files;
    } paths;
    static const lmoe_option options[] = {
        {"train", LMOE_OPTION_TEXT, offsetof(paths, train), NULL, 0, 0, NULL, "path", "File."},
        {"dir", LMOE_OPTION_TEXT, offsetof(paths, dir), "runs/new", 0, 0, NULL, "path", "Folder."},
        {"none", LMOE_OPTION_TEXT, offsetof(paths, none), "", 0, 0, NULL, "path", "Nothing."},
        {"files", LMOE_OPTION_TEXT, offsetof(paths, files), "", 0, 0, NULL, "paths", "Files."},
        LMOE_OPTION_END};
    write_file("sub/a.ini", "[data]\ntrain = ../t.bin\nfiles = a.so  /b.so\n ../t.bin\n");
    write_file("t.bin", "");
    ck_assert_int_eq(chdir(folder), 0);
    lmoe__conf *conf = lmoe__conf_read(&ctx, "sub/a.ini");
    paths p, again;
    ck_assert_int_eq(lmoe__options_fill(&ctx, conf, "data", options, &p, arena), LMOE_OK);
    ck_assert_str_eq(p.train, "sub/../t.bin");
    ck_assert_str_eq(p.dir, "runs/new");
    ck_assert_str_eq(p.none, "");
    ck_assert_str_eq(p.files, "sub/a.so /b.so sub/../t.bin");
    char *text = shown(conf);
    lmoe__conf *back = lmoe__conf_read_text(&ctx, "else/where/b.ini", text, strlen(text));
    ck_assert_int_eq(lmoe__options_fill(&ctx, back, "data", options, &again, arena), LMOE_OK);
    char *real = realpath(folder, NULL);
    ck_assert_str_eq(again.train, lmoe__arena_printf(arena, "%s/t.bin", real));
    ck_assert_str_eq(again.dir, lmoe__arena_printf(arena, "%s/runs/new", real));
    ck_assert_str_eq(again.none, "");
    ck_assert_str_eq(again.files,
                     lmoe__arena_printf(arena, "%s/sub/a.so /b.so %s/t.bin", real, real));
    free(real);
    free(text);
    lmoe__conf_free(back);
    lmoe__conf_free(conf);
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conf");
    TCase *c = group(s, "text", set_up, tear_down);
    tcase_add_test(c, values_as_written);
    tcase_add_test(c, nothing_is_fine);
    tcase_add_test(c, refused_lines);
    tcase_add_test(c, long_lines);
    tcase_add_test(c, huge_files);
    tcase_add_test(c, set_overrides);
    c = group(s, "files", set_up_folder, tear_down_folder);
    tcase_add_test(c, including_file_wins);
    tcase_add_test(c, include_alone_is_used);
    tcase_add_test(c, bad_includes);
    tcase_add_test(c, show_resolves_paths);
    c = group(s, "tables", set_up, tear_down);
    tcase_add_test(c, several_tables_fill_from_one_section);
    tcase_add_test(c, shared_keys_must_agree);
    tcase_add_test(c, fill_errors);
    tcase_add_test(c, unused);
    c = group(s, "show", set_up, tear_down);
    tcase_add_test(c, show_reads_back);
    tcase_add_test(c, any_text_is_refused_or_reads_back);
    tcase_add_test(c, full_lines_read_back);
    tcase_add_test(c, show_says_where);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
