/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/test_loader.c: each broken plugin is refused with its one sentence, in this
 * process and by the scan; and what the scan survives. LMOE_ZOO: the folder of the built plugins.
 */
#include "core/plug/plug.h"

#include <check.h>
#include <elf.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    lmoe_status status;
    const char *sentence; /* what must be said, after the path */
} refused[] = {
    {"undefined", LMOE_E_USAGE, "uses 'lmoe_secret_function', which no library defines"},
    {"needs_missing", LMOE_E_CONFIG, "needs the library libnowhere.so.1, which the dynamic linker"},
    {"needs_core", LMOE_E_USAGE, "is linked to liblmoe; a plugin is linked to nothing of lmoe"},
    {"no_symbol", LMOE_E_USAGE, "does not export lmoe_plugin_v1, so it is no lmoe plugin"},
    {"abi_symbol", LMOE_E_UNSUPPORTED, "is built for ABI 2; this host speaks 1"},
    {"no_descriptor", LMOE_E_USAGE, "its entry returns NULL"},
    {"abi_major", LMOE_E_UNSUPPORTED, "says that it is built for ABI 2; this host speaks 1"},
    {"api_min", LMOE_E_UNSUPPORTED, "needs API 1.99; this host (lmoe 0.1.0) offers 1."},
    {"plugin_size", LMOE_E_USAGE, "its lmoe_plugin says that it has 64 bytes, but ABI 1 has at"},
    {"class_size", LMOE_E_USAGE,
     "layer 'vendor.t/class_size' says that it has 56 bytes, but ABI 1 has at least 80 there"},
    {"class_header", LMOE_E_USAGE, "class '(name unknown)' says that it has 0 bytes, but ABI 1"},
    {"fact_dims", LMOE_E_UNSUPPORTED, "is built with LMOE_MAX_DIMS = 6; this host with 8"},
    {"fact_extra", LMOE_E_UNSUPPORTED, "is built for the variant 'acme' of lmoe; this host is ''"},
    {"no_class", LMOE_E_USAGE, "offers no class"},
    {"plugin_id", LMOE_E_USAGE, "the plugin's id is 'vendor.t/my layer'; it must be"},
    {"no_licence", LMOE_E_USAGE, "the plugin gives no licence"},
    {"kind_unknown", LMOE_E_UNSUPPORTED,
     "class 'vendor.t/kind_unknown' is of kind 'lmoe.layer/7'; this host knows lmoe.layer/1,"},
    {"class_name", LMOE_E_USAGE, "class name 'vendor.t/../class_name' of a layer must be"},
    {"class_folder", LMOE_E_USAGE, "class name 'moe/class_folder' of a layer must be \"lsm/NAME\""},
    {"class_twice", LMOE_E_USAGE, "offers the class 'vendor.t/class_twice' twice"},
    {"no_summary", LMOE_E_USAGE, "layer 'vendor.t/no_summary' has no summary"},
    {"no_slot", LMOE_E_USAGE, "layer 'vendor.t/no_slot' leaves 'forward' out"},
    {"option_offset", LMOE_E_USAGE,
     "vendor.t/option_offset: option 'heads': the field lies outside"},
    {"op_ours", LMOE_E_USAGE, "offers the op 'add/1', which lmoe has itself"},
    {"load_fails", LMOE_E_UNSUPPORTED, "its load() refused with LMOE_E_DEVICE (-5)"},
};
enum { N_REFUSED = sizeof refused / sizeof *refused };

static lmoe_ctx ctx;
static lmoe__arena *arena;
static lmoe__registry *registry;
static char folder[64];

static void setup(void)
{
    lmoe__ctx_init(&ctx);
    arena = lmoe__arena_new();
    registry = lmoe__registry_new(getenv("LMOE_ZOO"));
    strcpy(folder, "/tmp/lmoe-loader-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void teardown(void)
{
    lmoe__registry_free(registry);
    lmoe__arena_free(arena);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
}

static const char *zoo(const char *name)
{
    return lmoe__arena_printf(arena, "%s/vendor.t-%s.so", getenv("LMOE_ZOO"), name);
}

/* A copy of the good plugin in a folder of the test's own. */
static const char *good_copy(const char *name)
{
    char *data;
    size_t size;
    ck_assert_int_eq(lmoe__read_file(&ctx, zoo("good"), &data, &size), LMOE_OK);
    const char *path = lmoe__arena_printf(arena, "%s/%s", folder, name);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, data, size), LMOE_OK);
    free(data);
    return path;
}

static void patch(const char *path, long at, int byte)
{
    FILE *f = fopen(path, "r+b");
    fseek(f, at, SEEK_SET);
    fputc(byte, f);
    fclose(f);
}

static void assert_said(const char *message, const char *path, const char *sentence)
{
    char expected[1024];
    int n = snprintf(expected, sizeof expected, "%s: %s", path, sentence);
    ck_assert_msg(strncmp(message, expected, (size_t)n) == 0, "expected '%s', got '%s'", expected,
                  message);
}

static void assert_open_fails(const char *path, lmoe_status status, const char *sentence)
{
    ck_assert_int_eq(lmoe__registry_open(registry, &ctx, path), status);
    assert_said(ctx.message, path, sentence);
    ck_assert_ptr_null(lmoe__registry_plugin(registry, 0));
}

START_TEST(control)
{
    const lmoe_class *c;
    ck_assert_int_eq(lmoe__registry_find(registry, &ctx, LMOE_KIND_LAYER, "vendor.t/good", &c),
                     LMOE_OK);
    ck_assert_str_eq(c->summary, "Gives its input back.");
    const lmoe__plugin *p = lmoe__registry_owner(registry, c);
    ck_assert_str_eq(p->path, zoo("good"));
    char digest[33];
    ck_assert_int_eq(lmoe__digest_file(&ctx, p->path, digest), LMOE_OK);
    ck_assert_str_eq(p->digest, digest);

    /* Longer than we know: read as far as we know. */
    ck_assert_int_eq(lmoe__registry_find(registry, &ctx, LMOE_KIND_LAYER, "vendor.t/longer", &c),
                     LMOE_OK);
    ck_assert_ptr_nonnull(((const lmoe_layer *)c)->forward);
    ck_assert_ptr_nonnull(lmoe__registry_plugin(registry, 1));
    ck_assert_ptr_null(lmoe__registry_plugin(registry, 2));

    lmoe__scan s;
    ck_assert_int_eq(lmoe__scan_file(&ctx, arena, zoo("good"), 5, &s), LMOE_OK);
    ck_assert_ptr_null(s.error);
    ck_assert_ptr_null(s.printed);
    ck_assert_int_eq(s.n_classes, 1);
    ck_assert_str_eq(s.classes[0].name, "vendor.t/good");
    ck_assert_str_eq(s.licence, "Apache-2.0");
    lmoe__scan_free(&s);
}
END_TEST

START_TEST(refuses)
{
    const lmoe_class *c;
    const char *name = refused[_i].name;
    char id[64];
    snprintf(id, sizeof id, "vendor.t/%s", name);
    ck_assert_int_eq(lmoe__registry_find(registry, &ctx, NULL, id, &c), refused[_i].status);
    assert_said(ctx.message, zoo(name), refused[_i].sentence);
    ck_assert_ptr_null(c);
    ck_assert_ptr_null(lmoe__registry_plugin(registry, 0));

    lmoe__scan s;
    ck_assert_int_eq(lmoe__scan_file(&ctx, arena, zoo(name), 5, &s), LMOE_OK);
    ck_assert_ptr_nonnull(s.error);
    ck_assert_str_eq(s.error, ctx.message);
    ck_assert_int_eq(s.n_classes, 0);
    lmoe__scan_free(&s);
}
END_TEST

START_TEST(other_files)
{
    const char *text = lmoe__arena_printf(arena, "%s/text.so", folder);
    ck_assert_int_eq(lmoe__write_file(&ctx, text, "#!/bin/sh\n", 10), LMOE_OK);
    assert_open_fails(text, LMOE_E_CONFIG, "is not a shared library (it has no ELF header)");

    lmoe__ctx_clear(&ctx);
    const char *other = good_copy("other.so");
    patch(other, offsetof(Elf64_Ehdr, e_machine), EM_PPC64);
    assert_open_fails(other, LMOE_E_UNSUPPORTED, "is built for 64-bit POWER; this program runs on");

    static const off_t cuts[] = {100, 200, 3000, 5000}; /* past the program headers, too */
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        lmoe__ctx_clear(&ctx);
        const char *cut = good_copy("cut.so");
        ck_assert_int_eq(truncate(cut, cuts[i]), 0);
        assert_open_fails(cut, LMOE_E_CONFIG, "is cut off: it has ");
    }

    lmoe__ctx_clear(&ctx);
    const char *absent = lmoe__arena_printf(arena, "%s/absent.so", folder);
    assert_open_fails(absent, LMOE_E_CONFIG, "cannot be opened: No such file");
}
END_TEST

START_TEST(distrusted_files)
{
    const char *path = good_copy("vendor.t-good.so");
    ck_assert_int_eq(chmod(path, 0646), 0);
    assert_open_fails(path, LMOE_E_CONFIG, "the file can be written by every user");

    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(chmod(folder, 0707), 0);
    assert_open_fails(path, LMOE_E_CONFIG, "its folder can be written by every user");

    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(chmod(folder, 0700), 0);
    ck_assert_int_eq(lmoe__registry_open(registry, &ctx, path), LMOE_OK);
    const char *pipe = lmoe__arena_printf(arena, "%s/pipe.so", folder);
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    ck_assert_int_eq(lmoe__registry_open(registry, &ctx, pipe), LMOE_E_CONFIG);
    assert_said(ctx.message, pipe, "is not a regular file");

    if (geteuid() != 0) return; /* only root can give a file away */
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(chown(path, 12345, 0), 0);
    lmoe__registry *fresh = lmoe__registry_new(NULL);
    ck_assert_int_eq(lmoe__registry_open(fresh, &ctx, path), LMOE_E_CONFIG);
    assert_said(ctx.message, path, "the file belongs to user 12345; it must be yours (user 0)");
    lmoe__registry_free(fresh);
}
END_TEST

static void assert_scan(const char *name, double seconds, const char *error, const char *printed)
{
    lmoe__scan s;
    ck_assert_int_eq(lmoe__scan_file(&ctx, arena, zoo(name), seconds, &s), LMOE_OK);
    ck_assert_int_eq(!error, !s.error);
    if (error) assert_said(s.error, zoo(name), error);
    ck_assert_int_eq(!printed, !s.printed);
    if (printed) ck_assert_str_eq(printed, s.printed);
    lmoe__scan_free(&s);
}

START_TEST(scan_survives)
{
    assert_scan("crash", 5, "crashes while it is loaded: Aborted", NULL);
    assert_scan("leave", 5, "ends the process while it is loaded, with exit code 7", NULL);
    assert_scan("hang", 0.3, "hangs: it was not loaded after 0.3 s", NULL);
    assert_scan("print", 5, NULL, "hello from a plugin");
    assert_scan("good", 5, NULL, NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loader");
    TCase *c = tcase_create("loader");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, control);
    tcase_add_loop_test(c, refuses, 0, N_REFUSED);
    tcase_add_test(c, other_files);
    tcase_add_test(c, distrusted_files);
    tcase_add_test(c, scan_survives);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
