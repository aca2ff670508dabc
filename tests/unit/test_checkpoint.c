/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_checkpoint.c: checkpoints are saved, loaded, passed over and dropped.
 */
#include <sys/wait.h>

#include "checkpoint.h"

static char *load_file(const char *path, size_t *n)
{
    char *data;
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &data, n), LMOE_OK);
    return data;
}

/* ---- saving and loading ---- */

START_TEST(what_is_saved_is_loaded)
{
    expect_saved(0);
    expect_newest(0);
    expect_saved(7);
    expect_newest(7);
    expect_names("c", "step-0 step-7 ");
    expect_names("c/step-7", files_of_step);
    lmoe__ckpt *c;
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-0", &c), LMOE_OK);
    expect_content(c, 0);
    ck_assert_str_eq(lmoe__ckpt_path(c), "c/step-0");
    ck_assert_ptr_nonnull(lmoe__ckpt_find(c, "norm"));
    ck_assert_ptr_null(lmoe__ckpt_find(c, "norma"));
    lmoe__ckpt_close(c);
}
END_TEST

START_TEST(files_are_cut_at_the_limit)
{
    static const struct {
        int64_t limit;
        const char *names;
    } cases[] = {
        {1, "manifest.json model-00001-of-00004.safetensors model-00002-of-00004.safetensors "
            "model-00003-of-00004.safetensors model-00004-of-00004.safetensors "
            "optimizer-00001-of-00002.safetensors optimizer-00002-of-00002.safetensors "},
        {68, "manifest.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
             "optimizer-00001-of-00002.safetensors optimizer-00002-of-00002.safetensors "},
        {100, "manifest.json model-00001-of-00001.safetensors "
              "optimizer-00001-of-00001.safetensors "}};
    for (int i = 0; i < 3; i++) {
        run r = {.step = 1, .fails_at = -1};
        ck_assert_int_eq(save_run(&r, 0, 0, cases[i].limit), LMOE_OK);
        ck_assert_int_eq(r.calls, TENSORS);
        expect_names("c/step-1", cases[i].names);
        expect_newest(1);
    }
}
END_TEST

START_TEST(a_model_without_its_optimizer)
{
    lmoe__ckpt *c;
    lmoe__ckpt_tensor some[] = {tensors[0], tensors[2], tensors[3], tensors[5]};
    run r = {.step = 3, .fails_at = -1};
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    /* take() looks at tensors[0 ... 3]: the first is the same in both lists */
    ck_assert_int_eq(lmoe__ckpt_load(&ctx, c, some, 1, take, &r), LMOE_E_CONFIG);
    ck_assert_int_eq(r.calls, 0);
    expect_message(ctx.status, LMOE_E_CONFIG,
                   "has a tensor \"layers.0.q\", which the model has not");
    r.fails_at = 1;
    expect_message(lmoe__ckpt_load(&ctx, c, some, 4, take, &r), LMOE_E_DEVICE, "no answer");
    ck_assert_uint_eq(r.seen, 1);
    lmoe__ckpt_close(c);
}
END_TEST

START_TEST(another_model_is_refused)
{
    static const struct {
        lmoe__ckpt_tensor tensor;
        const char *said;
    } cases[] = {
        {{"embed.weigth", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_MODEL},
         "c/step-3 has no tensor \"embed.weigth\" (the nearest is \"embed.weight\")"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {4, 3}}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is F32 (4 3)"},
        {{"embed.weight", {.dtype = LMOE_BF16, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is BF16 (3 4)"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 0}, LMOE__CKPT_MODEL},
         "tensor \"embed.weight\" is F32 (3 4); the model's is F32 ()"},
        {{"embed.weight", {.dtype = LMOE_F32, .rank = 2, .dim = {3, 4}}, LMOE__CKPT_OPTIMIZER},
         "has no tensor \"embed.weight\""},
        {{"norm", {.dtype = LMOE_F32, .rank = 1, .dim = {3}}, LMOE__CKPT_MODEL}, "two tensors"}};
    lmoe__ckpt *c;
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__ckpt_tensor list[TENSORS];
        run r = {.step = 3, .fails_at = -1};
        memcpy(list, tensors, sizeof list);
        list[0] = cases[i].tensor;
        lmoe_status status = lmoe__ckpt_load(&ctx, c, list, TENSORS, take, &r);
        ck_assert_int_eq(r.calls, 0);
        expect_message(status, i == 5 ? LMOE_E_USAGE : LMOE_E_CONFIG, cases[i].said);
    }
    lmoe__ckpt_close(c);
}
END_TEST

START_TEST(a_file_that_shrinks_after_opening)
{
    lmoe__ckpt *c;
    run r = {.step = 3, .fails_at = -1};
    expect_saved(3);
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-3", &c), LMOE_OK);
    ck_assert_int_eq(truncate("c/step-3/model-00001-of-00001.safetensors", 8), 0);
    expect_message(lmoe__ckpt_load(&ctx, c, tensors, TENSORS, take, &r), LMOE_E_IO,
                   "has changed while it was in use");
    lmoe__ckpt_close(c);
}
END_TEST

/* ---- the newest ---- */

START_TEST(newest_is_by_number)
{
    expect_newest(-1); /* no folder */
    ck_assert_int_eq(mkdir("c", 0777), 0);
    expect_newest(-1);
    expect_saved(9);
    expect_saved(10);
    static const char *const others[] = {"c/step-",   "c/step-011", "c/step-11x",
                                         "c/step--1", "c/steps-99", "c/step-99999999999999999999"};
    for (int i = 0; i < 6; i++) ck_assert_int_eq(mkdir(others[i], 0777), 0);
    expect_newest(10);
    ck_assert_int_eq(rename("c/step-9", "c/step-11"), 0);
    expect_passed_over(11, 10, "it is of another step than its name says");
    remove_all("c/step-10");
    expect_passed_over(11, -1, "another step");
    save_file("c/step-11/manifest.json", "", 0);
    lmoe__ckpt *c;
    ctx.log_level = LMOE_LOG_ERROR;
    expect_message(lmoe__ckpt_newest(&ctx, "c", &c), LMOE_E_CONFIG,
                   "none of the 1 checkpoints in c is whole: bring one back");
    save_file("file", "", 0);
    expect_message(lmoe__ckpt_newest(&ctx, "file", &c), LMOE_E_CONFIG, "cannot read file: Not a");
}
END_TEST

START_TEST(every_changed_byte_is_seen)
{
    static const char *const names[] = {"manifest.json", "model-00001-of-00001.safetensors",
                                        "optimizer-00001-of-00001.safetensors"};
    expect_saved(1);
    expect_saved(2);
    for (int f = 0; f < 3; f++) {
        char path[64];
        size_t n;
        snprintf(path, sizeof path, "c/step-2/%s", names[f]);
        char *data = load_file(path, &n);
        for (size_t i = 0; i < n; i++) {
            lmoe__ckpt *c;
            data[i] ^= (char)(1 << i % 8);
            save_file(path, data, n);
            data[i] ^= (char)(1 << i % 8);
            ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_E_CONFIG);
            ck_assert_ptr_nonnull(strstr(ctx.message, path));
            lmoe__ctx_clear(&ctx);
            if (i == n / 2) expect_passed_over(2, 1, "digest");
        }
        for (size_t i = 0; i < n; i++) {
            lmoe__ckpt *c;
            save_file(path, data, i);
            ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_E_CONFIG);
            lmoe__ctx_clear(&ctx);
            if (i == n / 2) expect_passed_over(2, 1, f ? "the manifest says" : "digest");
        }
        unlink(path);
        expect_passed_over(2, 1, "No such file");
        if (f > 0) { /* what a link leads to is not a part of the checkpoint */
            save_file("elsewhere", data, n);
            ck_assert_int_eq(symlink("../../elsewhere", path), 0);
            expect_passed_over(2, 1, "not a regular file");
            unlink(path);
        }
        save_file(path, data, n);
        free(data);
        save_file("c/step-2/notes.txt", "x", 1); /* other files do not matter */
        expect_newest(2);
    }
}
END_TEST

/* Manifests whose digest is right, by someone who means ill. */
START_TEST(manifests_that_lie)
{
#define ABOUT  "\"format\": \"lmoe checkpoint\", \"version\": 1, \"step\": 2, "
#define REST   ", \"state\": {}, \"config\": \"\","
#define DIGITS "0123456789abcdef0123456789abcdef"
#define NAMED(name)                                                                \
    "{" ABOUT "\"tensors\": 0, \"files\": [{\"name\": \"" name "\", \"size\": 0, " \
    "\"xxh3_128\": \"" DIGITS "\"}]" REST
    static const struct {
        const char *json, *said;
    } cases[] = {
        {"{" ABOUT "\"tensors\": 1, \"files\": []" REST, "as many tensors as the manifest says"},
        {"{\"step\": 2,", "not of a checkpoint"},
        {"{\"format\": \"lmoe checkpoint\", \"version\": 2,", "version 2; this lmoe reads 1"},
        {"{" ABOUT "\"files\": []" REST, "step, tensors, state or config is missing"},
        {"{" ABOUT "\"tensors\": -1, \"files\": []" REST, "step, tensors, state or config"},
        {"{" ABOUT "\"tensors\": 0.5, \"files\": []" REST, "step, tensors, state or config"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [], \"state\": [], \"config\": \"\",", "state"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [], \"state\": {}, \"config\": 1,", "config"},
        {"{" ABOUT "\"tensors\": 0" REST, "files is not a list"},
        {"{" ABOUT "\"tensors\": 0, \"files\": {}" REST, "files is not a list"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [1]" REST, "an entry without name"},
        {"{" ABOUT "\"tensors\": 0, \"files\": [{\"name\": \"a.safetensors\"}]" REST,
         "an entry without name"},
        {"{" ABOUT "\"step\": 2, \"tensors\": 0, \"files\": []" REST, "not JSON"},
        {"{" ABOUT "\"tensors\": 0, \"files\": []" REST "}", "not JSON"},
        {"\xff", "not JSON"},
        {NAMED("../../x.safetensors"), "not a plain one"},
        {NAMED("/x.safetensors"), "not a plain one"},
        {NAMED("a/x.safetensors"), "not a plain one"},
        {NAMED("..safetensors"), "not a plain one"},
        {NAMED(".safetensors"), "not a plain one"},
        {NAMED("lsm-gla.so"), "not a plain one"},
        {NAMED("x.safetensors\\n"), "not a plain one"},
        {NAMED("none.safetensors"), "none.safetensors: No such file"},
        {NAMED("folder.safetensors"), "not a regular file"},
        {NAMED("other.safetensors"), "its digest differs"}};
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2/folder.safetensors", 0777), 0);
    save_file("c/step-2/other.safetensors", "", 0);
    save_file("x.safetensors", "", 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char digest[33];
        lmoe__text s = {0};
        lmoe__text_add(&s, "%s\n", cases[i].json);
        lmoe__digest_bytes(s.data, s.length, digest);
        lmoe__text_add(&s, " \"xxh3_128\": \"%s\"\n}\n", digest);
        save_file("c/step-2/manifest.json", s.data, s.length);
        lmoe__text_free(&s);
        expect_passed_over(2, -1, cases[i].said);
    }
}
END_TEST

/* Files with right digests that do not belong together. */
START_TEST(files_that_do_not_belong_together)
{
    static const char *const names[] = {"model-1.safetensors", "model-2.safetensors",
                                        "other-1.safetensors"};
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir("c/step-2", 0777), 0);
    lmoe__manifest_file files[3];
    for (int i = 0; i < 3; i++) {
        char path[64];
        run r = {.step = 2, .fails_at = -1};
        snprintf(path, sizeof path, "c/step-2/%s", names[i]);
        lmoe__st_file f = {path, tensors, (int[]){i == 2 ? 1 : 0}, 1, NULL, give, &r, 0, {0}};
        ck_assert_int_eq(lmoe__st_write(&ctx, &f), LMOE_OK);
        files[i] = (lmoe__manifest_file){.name = names[i], .size = f.size};
        memcpy(files[i].digest, f.digest, 33);
    }
    lmoe__manifest m = {
        .step = 2, .files = files, .count = 2, .state = json_object(), .config = ""};
    m.tensors = 2;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "two files hold the tensor embed.weight");
    m.files = files + 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "there should be no file other-1.safetensors");
    m.count = 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    expect_passed_over(2, -1, "do not hold as many tensors");
    m.tensors = 1;
    ck_assert_int_eq(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_OK);
    lmoe__ckpt *c;
    ck_assert_int_eq(lmoe__ckpt_open(&ctx, "c/step-2", &c), LMOE_OK);
    lmoe__ckpt_close(c);
    json_t *list = json_array();
    json_decref(m.state);
    m.state = list;
    expect_message(lmoe__manifest_write(&ctx, "c/step-2", &m), LMOE_E_USAGE, "not a JSON object");
    json_decref(list);
}
END_TEST

/* ---- what is kept ---- */

START_TEST(old_ones_are_dropped)
{
    for (int64_t step = 0; step <= 70; step += 10)
        ck_assert_int_eq(save_step(step, 2, 30), LMOE_OK);
    expect_names("c", "step-0 step-30 step-60 step-70 ");
    for (int64_t step = 80; step <= 120; step += 10)
        ck_assert_int_eq(save_step(step, 3, 0), LMOE_OK);
    expect_names("c", "step-100 step-110 step-120 ");
    /* going on from an older one: what is newer is not touched, what is written is kept */
    ck_assert_int_eq(save_step(105, 1, 0), LMOE_OK);
    expect_names("c", "step-105 step-110 step-120 ");
    /* a damaged one neither counts nor goes */
    ck_assert_int_eq(truncate("c/step-110/model-00001-of-00001.safetensors", 9), 0);
    ck_assert_int_eq(save_step(130, 2, 0), LMOE_OK);
    expect_names("c", "step-110 step-120 step-130 ");
    ck_assert_int_eq(save_step(140, 2, 0), LMOE_OK);
    expect_names("c", "step-110 step-130 step-140 ");
    expect_newest(140);
}
END_TEST

START_TEST(leftovers_of_the_dead_are_removed)
{
    char live[64], dead[64], names[256];
    pid_t child = fork();
    if (child == 0) _exit(0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    snprintf(dead, sizeof dead, "c/.step-5.tmp-%d", (int)child);
    snprintf(live, sizeof live, "c/.step-5.tmp-%d", (int)getppid());
    ck_assert_int_eq(mkdir("c", 0777), 0);
    ck_assert_int_eq(mkdir(dead, 0777), 0);
    ck_assert_int_eq(mkdir(live, 0777), 0);
    ck_assert_int_eq(mkdir("c/.step-5.tmp-x", 0777), 0);
    ck_assert_int_eq(mkdir("c/.step-5.tmp-1x", 0777), 0);
    snprintf(names, sizeof names, "%s/model-00001-of-00001.safetensors", dead);
    save_file(names, "x", 1);
    expect_saved(6);
    snprintf(names, sizeof names, "%s .step-5.tmp-1x .step-5.tmp-x step-6 ", live + 2);
    if (strcmp(live + 2, ".step-5.tmp-1x") > 0)
        snprintf(names, sizeof names, ".step-5.tmp-1x %s .step-5.tmp-x step-6 ", live + 2);
    expect_names("c", names);
    expect_newest(6);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("checkpoint");
    TCase *c = group(s, "saving");
    tcase_add_test(c, what_is_saved_is_loaded);
    tcase_add_test(c, files_are_cut_at_the_limit);
    tcase_add_test(c, a_model_without_its_optimizer);
    tcase_add_test(c, another_model_is_refused);
    tcase_add_test(c, a_file_that_shrinks_after_opening);
    c = group(s, "newest");
    tcase_add_test(c, newest_is_by_number);
    tcase_add_test(c, every_changed_byte_is_seen);
    tcase_add_test(c, manifests_that_lie);
    tcase_add_test(c, files_that_do_not_belong_together);
    c = group(s, "kept");
    tcase_add_test(c, old_ones_are_dropped);
    tcase_add_test(c, leftovers_of_the_dead_are_removed);
    return run_suite(s);
}
