/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/test_search.c: from names to files, and what `lmoe plugin` says.
 * LMOE_ZOO: the folder of the built plugins.
 */
#include "core/cli/cli.h"
#include "core/plug/plug.h"

#include <check.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static lmoe_ctx ctx;
static lmoe__arena *arena;
static char root[64];

static const char *folder(const char *name)
{
    const char *path = lmoe__arena_printf(arena, "%s/%s", root, name);
    mkdir(path, 0700);
    return path;
}

/* A link, so that the folder holds the file under this name; returns its path. */
static const char *put(const char *to, const char *plugin, const char *as)
{
    const char *from = lmoe__arena_printf(arena, "%s/vendor.t-%s.so", getenv("LMOE_ZOO"), plugin);
    const char *path = lmoe__arena_printf(arena, "%s/%s", to, as);
    ck_assert_int_eq(symlink(from, path), 0);
    return path;
}

static void setup(void)
{
    lmoe__ctx_init(&ctx);
    arena = lmoe__arena_new();
    strcpy(root, "/tmp/lmoe-search-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    /* Nothing of the machine that the test runs on takes part. */
    setenv("HOME", folder("home"), 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("LMOE_PLUGIN_PATH");
}

static void teardown(void)
{
    lmoe__arena_free(arena);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
}

static lmoe_status find(const char *plugin_path, const char *kind, const char *name)
{
    const lmoe_class *c;
    lmoe__ctx_clear(&ctx);
    lmoe__registry *r = lmoe__registry_new(plugin_path);
    lmoe_status status = lmoe__registry_find(r, &ctx, kind, name, &c);
    ck_assert_int_eq(status == LMOE_OK, c != NULL);
    lmoe__registry_free(r);
    return status;
}

static void assert_contains(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "'%s' is not in '%s'", part, text);
}

START_TEST(names)
{
    static const char *const good[] = {"lsm/gla", "vendor.x/gla", "lsm/gla-2_a.b", "a.b.c/0"};
    static const char *const bad[] = {"",       "lsm",     "lsm/",    "/gla",      "lsm//gla",
                                      "../gla", "lsm/..",  "a..b/c",  "lsm/a/b",   "lsm/Gla",
                                      "a-b/c",  "lsm/a b", "lsm/-a",  "lsm/.a",    "lsm/a..b",
                                      "./gla",  "lsm/a:b", "lsm/a\n", "\303\244/a"};
    char text[256];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(lmoe__class_name_ok(good[i]), "%s", good[i]);
        char file[256];
        lmoe__class_file(good[i], file, sizeof file);
        lmoe__file_class(file, text, sizeof text);
        ck_assert_str_eq(text, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(!lmoe__class_name_ok(bad[i]), "%s", bad[i]);
        ck_assert_int_eq(find(getenv("LMOE_ZOO"), NULL, bad[i]), LMOE_E_CONFIG);
        assert_contains(ctx.message, "is no name of a class");
    }
    lmoe__class_file("vendor.x/gla", text, sizeof text);
    ck_assert_str_eq(text, "vendor.x-gla.so");
    lmoe__file_class("libgla.so", text, sizeof text);
    ck_assert_str_eq(text, "");
    lmoe__file_class("lsm-gla.so.1", text, sizeof text);
    ck_assert_str_eq(text, "");
}
END_TEST

START_TEST(order)
{
    const char *option = folder("option"), *environment = folder("environment");
    const char *user = lmoe__arena_printf(arena, "%s/data/lmoe/plugins/1", root);
    ck_assert_int_eq(system(lmoe__arena_printf(arena, "mkdir -m 700 -p %s", user)), 0);
    setenv("XDG_DATA_HOME", folder("data"), 1);
    setenv("LMOE_PLUGIN_PATH", environment, 1);

    /* Each folder's file goes before those that were there already. */
    const char *in[] = {user, environment, option};
    for (int i = 0; i < 3; i++) {
        const char *path, *put_at = put(in[i], "good", "vendor.t-good.so");
        lmoe__search s;
        lmoe__search_init(&s, arena, option);
        ck_assert_int_eq(lmoe__search_find(&s, &ctx, arena, "vendor.t/good", &path), LMOE_OK);
        ck_assert_str_eq(path, put_at);
        lmoe__search_free(&s);
    }
}
END_TEST

START_TEST(explicit_path)
{
    /* Named by its path, it offers its class though no folder holds it. */
    const char *path = put(folder("apart"), "good", "anything.so");
    const lmoe_class *c;
    lmoe__registry *r = lmoe__registry_new(NULL);
    ck_assert_int_eq(lmoe__registry_open(r, &ctx, path), LMOE_OK);
    ck_assert_int_eq(lmoe__registry_open(r, &ctx, path), LMOE_OK); /* once more is once */
    ck_assert_int_eq(lmoe__registry_find(r, &ctx, LMOE_KIND_LAYER, "vendor.t/good", &c), LMOE_OK);
    ck_assert_ptr_eq(lmoe__registry_owner(r, c), lmoe__registry_plugin(r, 0));
    ck_assert_ptr_null(lmoe__registry_plugin(r, 1));

    /* A real copy is another file with the same class. */
    const char *copy = lmoe__arena_printf(arena, "%s/copy.so", root);
    ck_assert_int_eq(system(lmoe__arena_printf(arena, "cp %s %s", path, copy)), 0);
    ck_assert_int_eq(lmoe__registry_open(r, &ctx, copy), LMOE_E_CONFIG);
    assert_contains(ctx.message, "class 'vendor.t/good' is offered by two files of this run");
    assert_contains(ctx.message, copy);
    lmoe__registry_free(r);
}
END_TEST

START_TEST(same_rank)
{
    const char *a = folder("a"), *b = folder("b");
    put(a, "good", "vendor.t-good.so");
    put(b, "good", "vendor.t-good.so");
    const char *both = lmoe__arena_printf(arena, "%s:%s", a, b);
    ck_assert_int_eq(find(both, LMOE_KIND_LAYER, "vendor.t/good"), LMOE_E_CONFIG);
    assert_contains(ctx.message, "class 'vendor.t/good' is offered twice by --plugin-path");
    assert_contains(ctx.message, lmoe__arena_printf(arena, "%s/vendor.t-good.so and %s/", a, b));

    /* The same folder twice is one folder. */
    ck_assert_int_eq(find(lmoe__arena_printf(arena, "%s:%s/../a", a, a), NULL, "vendor.t/good"),
                     LMOE_OK);
}
END_TEST

START_TEST(not_found)
{
    const char *a = folder("a");
    put(a, "good", "vendor.t-good.so");
    const char *path = lmoe__arena_printf(arena, "%s:%s/nowhere", a, root);
    ck_assert_int_eq(find(path, NULL, "vendor.t/goood"), LMOE_E_CONFIG);
    assert_contains(ctx.message, "there is no class 'vendor.t/goood'; did you mean "
                                 "'vendor.t/good'?: no vendor.t-goood.so in ");
    assert_contains(ctx.message, lmoe__arena_printf(arena, "%s (--plugin-path), ", a));
    assert_contains(ctx.message, "/nowhere (--plugin-path; there is no such folder)");
    ck_assert_int_eq(find(path, NULL, "lsm/quite-different"), LMOE_E_CONFIG);
    ck_assert_ptr_null(strstr(ctx.message, "did you mean"));

    ck_assert_int_eq(find(a, LMOE_KIND_ROUTER, "vendor.t/good"), LMOE_E_CONFIG);
    assert_contains(ctx.message, "class 'vendor.t/good' is a layer; a router is needed here");

    put(a, "good", "lsm-other.so");
    ck_assert_int_eq(find(a, NULL, "lsm/other"), LMOE_E_CONFIG);
    assert_contains(ctx.message, "by its name it offers the class 'lsm/other', but it offers "
                                 "'vendor.t/good'");
}
END_TEST

/* ---- the command ---- */

/* Runs `lmoe plugin WORDS` in this (forked) test; what it prints goes to *said. */
static int command(const char *words, char **said)
{
    char *argv[16] = {"plugin"}, *save = NULL, *copy = lmoe__arena_strdup(arena, words);
    int argc = 1;
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    const char *file = lmoe__arena_printf(arena, "%s/said", root);
    fflush(NULL);
    int out = dup(1), err = dup(2);
    ck_assert_ptr_nonnull(freopen(file, "w", stdout));
    dup2(1, 2);
    int code = lmoe__cli_plugin(&ctx, argc, argv);
    fflush(NULL);
    dup2(out, 1);
    dup2(err, 2);
    size_t size;
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(lmoe__read_file(&ctx, file, said, &size), LMOE_OK);
    return code;
}

START_TEST(command_list)
{
    char *said;
    const char *a = folder("a"), *b = folder("b");
    put(a, "good", "vendor.t-good.so");
    ck_assert_int_eq(command(lmoe__arena_printf(arena, "list --plugin-path %s", a), &said), 0);
    assert_contains(said, lmoe__arena_printf(arena, "%s (--plugin-path)\n", a));
    assert_contains(said, "  vendor.t/good          layer         vendor.t-good.so         Gives");
    free(said);

    put(a, "crash", "vendor.t-crash.so");
    put(a, "leave", "vendor.t-leave.so");
    put(a, "print", "vendor.t-print.so");
    put(a, "abi_symbol", "vendor.t-abi_symbol.so");
    put(b, "good", "vendor.t-good.so");
    setenv("LMOE_PLUGIN_PATH", b, 1);
    ck_assert_int_eq(command(lmoe__arena_printf(arena, "list --plugin-path %s", a), &said), 1);
    assert_contains(said, "  vendor.t-crash.so      refused: crashes while it is loaded: Abort");
    assert_contains(said, "with exit code 7; a plugin must never exit");
    assert_contains(said, "is built for ABI 2; this host speaks 1");
    assert_contains(said, "  vendor.t/print         layer ");
    assert_contains(said, "warning: prints while it is loaded, which a plugin must not: \"hello");
    assert_contains(said, "  vendor.t/good          layer ");
    assert_contains(said, lmoe__arena_printf(arena,
                                             "%s (LMOE_PLUGIN_PATH)\n  vendor.t-good.so   "
                                             "    shadowed by %s/vendor.t-good.so\n",
                                             b, a));
    free(said);

    ck_assert_int_eq(
        command(lmoe__arena_printf(arena, "list %s/vendor.t-good.so %s/vendor.t-good.so", a, b),
                &said),
        0);
    free(said);
}
END_TEST

START_TEST(command_info)
{
    char *said;
    const char *a = folder("a");
    put(a, "good", "vendor.t-good.so");
    setenv("LMOE_PLUGIN_PATH", a, 1);
    ck_assert_int_eq(command("info vendor.t/good", &said), 0);
    assert_contains(said, "vendor.t/good: Gives its input back.\n");
    assert_contains(said, "lmoe.layer/1 (layer)");
    assert_contains(said, "vendor.t/good 0.1, Apache-2.0");
    assert_contains(said,
                    "heads                Heads.\n      a whole number from 1 to 64; must be");
    assert_contains(said, "default 0.5");
    free(said);

    /* What --ini prints is a section that can be read, and that says the defaults. */
    ck_assert_int_eq(command("info --ini vendor.t/good", &said), 0);
    lmoe__conf *conf = lmoe__conf_read_text(&ctx, "pasted", said, strlen(said));
    ck_assert_msg(conf != NULL, "%s", ctx.message);
    ck_assert_str_eq(lmoe__conf_text(conf, "layer L", "class"), "vendor.t/good");
    lmoe__conf_free(conf);
    assert_contains(said, "heads");
    free(said);

    ck_assert_int_eq(command("info vendor.t/goof", &said), 2);
    assert_contains(said, "did you mean 'vendor.t/good'?");
    free(said);
    ck_assert_int_eq(command("info", &said), 2);
    assert_contains(said, "info takes the name of one class");
    free(said);
    ck_assert_int_eq(command("info --plugin-pat x", &said), 2);
    assert_contains(said, "did you mean '--plugin-path'?");
    free(said);
    ck_assert_int_eq(command("--help", &said), 0);
    assert_contains(said, "usage: lmoe plugin list");
    free(said);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("search");
    TCase *c = tcase_create("search");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, names);
    tcase_add_test(c, order);
    tcase_add_test(c, explicit_path);
    tcase_add_test(c, same_rank);
    tcase_add_test(c, not_found);
    tcase_add_test(c, command_list);
    tcase_add_test(c, command_info);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
