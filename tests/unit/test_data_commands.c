/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_data_commands.c: lmoe data prepare, verify and sample.
 */
#include "core/data/data.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "pair.h"

/* ---- renames that fail on demand: the library's calls come here ---- */

static int renames_left = -1; /* so many succeed, then one fails; -1: all succeed */

int rename(const char *from, const char *to)
{
    if (renames_left >= 0 && renames_left-- == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static lmoe__text output; /* of the last command, both streams */

static int command(const char *words)
{
    char text[1024], *argv[64];
    int argc = 0;
    snprintf(text, sizeof text, "%s", words);
    for (char *save_at, *w = strtok_r(text, " ", &save_at); w; w = strtok_r(NULL, " ", &save_at))
        argv[argc++] = w;
    fflush(stdout);
    FILE *f = tmpfile();
    int keep[2] = {dup(1), dup(2)};
    dup2(fileno(f), 1);
    dup2(fileno(f), 2);
    lmoe__ctx_clear(&ctx);
    int code = lmoe__cli_data(&ctx, argc, argv);
    fflush(stdout);
    dup2(keep[0], 1);
    dup2(keep[1], 2);
    close(keep[0]);
    close(keep[1]);
    long n = ftell(f);
    lmoe__text_free(&output);
    rewind(f);
    n = lseek(fileno(f), 0, SEEK_END);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    ck_assert_uint_eq(fread(data, 1, (size_t)n, f), (size_t)n);
    lmoe__text_add_bytes(&output, data, (size_t)n);
    free(data);
    fclose(f);
    lmoe__ctx_clear(&ctx);
    return code;
}

static void expect_command(const char *words, int code, const char *said)
{
    int got = command(words);
    ck_assert_msg(got == code, "%s: %d, said: %s", words, got, output.data);
    ck_assert_msg(strstr(output.data, said) != NULL, "%s: \"%s\" is not in: %s", words, said,
                  output.data);
}

START_TEST(prepare_makes_documents)
{
    save_text("a.txt", "first\n");
    save_text("e.txt", "");
    save_text("b.jsonl", "{\"text\": \"se\\u0000c\", \"id\": 123456789012345678901234567890}\r\n"
                         "\n"
                         "{\"n\": 1, \"text\": \"\"}\n"
                         "{\"text\": \"d\\u00e9\\n\"}");
    expect_command("prepare --in a.txt e.txt b.jsonl --out t --end 256", 0,
                   "t.bin, t.idx: 3 documents, 17 tokens; 2 documents without text left out\n");
    lmoe__tokens t;
    int32_t ids[17];
    static const int32_t expected[] = {'f', 'i', 'r', 's', 't',  '\n', 256,  's', 'e',
                                       0,   'c', 256, 'd', 0xc3, 0xa9, '\n', 256};
    ck_assert_int_eq(lmoe__tokens_open(&ctx, "t", &t), LMOE_OK);
    ck_assert_int_eq(t.count, 17);
    ck_assert_int_eq(lmoe__document_start(&t, 1), 7);
    ck_assert_int_eq(lmoe__document_start(&t, 2), 12);
    lmoe__tokens_read(&t, 0, 17, ids);
    ck_assert_mem_eq(ids, expected, sizeof ids);
    lmoe__tokens_close(&t);

    expect_command("peek t", 0, "t.bin: 3 documents, 17 tokens (u16)\n");
    ck_assert_ptr_nonnull(strstr(output.data, "document 0: 7 tokens\n  text \"first\\n<256>\"\n"
                                              "  ids  102 105 114 115 116 10 256\n"));
    ck_assert_ptr_nonnull(strstr(output.data, "  text \"se\\x00c<256>\"\n"));
    expect_command("peek --n 1 t.bin", 0, "first");
    ck_assert_ptr_null(strstr(output.data, "document 1"));
    expect_command("peek a.txt", 0, "a.txt: 1 documents, 6 tokens (u8)\n");
    expect_command("verify t --vocab 257", 0, "t.bin: sound; 3 documents, 3 sequences, 17 tokens");
    expect_command("verify t", 0, "the largest is 256\n");
    expect_command("verify t --vocab 256", 2, "token 6 (in document 0) is 256; expected 0 to 255");
    expect_command("verify none", 2, "there is no token file none");
    expect_command("prepare --in a.txt --out t --format jsonl", 2, "a.txt:1: this is not JSON");
    expect_command("prepare --in b.jsonl --out u --format text", 0, "1 documents");
}
END_TEST

START_TEST(lines_that_cannot_be_used)
{
    static const struct {
        const char *lines, *said;
    } cases[] = {
        {"{\"text\": \"a\"}\n{\"text\": \n", "x.jsonl:2: this is not JSON"},
        {"{\"text\": \"a\"}\n\n{\"body\": \"a\"}\n", "x.jsonl:3: the object has no such field"},
        {"{\"text\": 5}", "x.jsonl:1: the field is not a string"},
        {"[\"text\"]", "x.jsonl:1: this is JSON, but not an object"},
        {"{\"text\": \"a\"} x", "x.jsonl:1: this is not JSON"},
        {"{\"text\": \"a\", \"text\": \"b\"}", "x.jsonl:1: this is not JSON (duplicate"},
        {"{\"text\": \"\\ud800\"}", "x.jsonl:1: this is not JSON"},
        {"{\"text\": \"\xc0\xaf\"}", "x.jsonl:1: this is not JSON"},
        {"\n \n", "there is no text in x.jsonl: nothing was written"},
        {"{\"text\": \"\"}", "there is no text in x.jsonl"}};
    save_text("t.bin", "old");
    save_text("t.idx", "index");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        save_text("x.jsonl", cases[i].lines);
        expect_command("prepare --in x.jsonl --out t", 2, cases[i].said);
        expect_file("t.bin", "old", 3);
        expect_file("t.idx", "index", 5);
        ck_assert_int_eq(files_here(), 3);
    }
    save_text("x.jsonl", "{\"body\": \"a\"}\n");
    expect_command("prepare --in x.jsonl --out t --field body", 0, "1 documents, 1 tokens");
    expect_command("prepare --in none --out t", 2, "cannot read none: No such file");
    expect_command("prepare --in none.jsonl --out t", 2, "cannot read none.jsonl");
    expect_command("prepare --in x.jsonl --out none/t", 1, "cannot create none/t.bin.");
    ck_assert_int_eq(files_here(), 3);
}
END_TEST

START_TEST(command_lines_that_cannot_be_used)
{
    expect_command("", 2, "say what to do");
    expect_command("--help", 0, "usage: lmoe data prepare");
    expect_command("prepair", 2, "there is no command prepair");
    expect_command("prepare --out t", 2, "needs --in");
    expect_command("prepare --in a", 2, "needs --out");
    expect_command("prepare --in --out t", 2, "nothing after --in");
    expect_command("prepare --in a --out", 2, "nothing after --out");
    expect_command("prepare --in a --in b --out t", 2, "one --in");
    expect_command("prepare --im a --out t", 2, "did you mean --in?");
    expect_command("peek a --vocab 3", 2, "there is no option --vocab");
    expect_command("prepare --in a --out t --vocab 3", 2, "belongs to --task mqar: --vocab");
    expect_command("prepare --task mqra --out t", 2, "--task is mqar, not mqra");
    expect_command("prepare --task mqar --in a --out t", 2, "reads no file");
    expect_command("prepare --task mqar --out t --pairs 0", 2, "not 0");
    expect_command("prepare --task mqar --out t --pairs 17", 2, "even length of 68");
    expect_command("prepare --in a --out t --format json", 2, "not json");
    expect_command("prepare --in a --out t --end -2", 2, "not -2");
    expect_command("prepare --in a --out t --tokenizer byte", 2, "did you mean \"bytes\"?");
    expect_command("prepare a --out t", 2, "belong to: a");
    expect_command("peek", 2, "needs a PREFIX");
    expect_command("peek a b", 2, "not also b");
    expect_command("peek a --n 0", 2, "not 0");
    expect_command("verify t --vocab 99999999999999999999", 2, "--vocab is a number");
    ck_assert_int_eq(files_here(), 0);
}
END_TEST

/* A limit on the size of files stands in for a full disk, at every size that is too small. */
START_TEST(a_full_disk_loses_nothing)
{
    enum { TOKENS = 9000 };
    char text[TOKENS];
    memset(text, 'x', TOKENS);
    save_file("in.txt", text, TOKENS);
    save_text("t.bin", "old");
    save_text("t.idx", "index");
    fflush(stdout);
    for (rlim_t limit = 0; limit < 2 * TOKENS; limit += 999) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){limit, limit});
            lmoe__prepare_result r;
            char *in[] = {"in.txt"};
            lmoe__prepare_options o = {
                .in = in, .count = 1, .out = "t", .end = -1, .tokenizer = &lmoe__tokenizer_bytes};
            lmoe_status status = lmoe__prepare(&ctx, &o, &r);
            bool said = strstr(ctx.message, "cannot write t.bin: File too large; nothing was");
            _exit(status == LMOE_E_IO && said ? 0 : 1);
        }
        int code;
        ck_assert_int_eq(waitpid(child, &code, 0), child);
        ck_assert_int_eq(code, 0);
        expect_file("t.bin", "old", 3);
        expect_file("t.idx", "index", 5);
        ck_assert_int_eq(files_here(), 3);
    }
    expect_command("prepare --in in.txt --out t", 0, "9000 tokens");
    expect_command("verify t", 0, "sound");
}
END_TEST

START_TEST(renames_that_fail_are_undone)
{
    save_text("in.txt", "new text");
    for (int old = 0; old < 2; old++) {
        if (old) {
            save_text("t.bin", "old");
            save_text("t.idx", "index");
        }
        for (int k = 0; k < 4; k++) {
            renames_left = k;
            expect_command("prepare --in in.txt --out t", 1,
                           "cannot write t.bin: Input/output error; nothing was changed");
            ck_assert_int_eq(renames_left, -1);
            ck_assert_int_eq(files_here(), 1 + 2 * old);
            if (!old) continue;
            expect_file("t.bin", "old", 3);
            expect_file("t.idx", "index", 5);
        }
    }
    expect_command("prepare --in in.txt --out t", 0, "8 tokens");
    ck_assert_int_eq(files_here(), 3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("data_commands");
    TCase *c = group(s, "commands");
    tcase_add_test(c, prepare_makes_documents);
    tcase_add_test(c, lines_that_cannot_be_used);
    tcase_add_test(c, command_lines_that_cannot_be_used);
    tcase_add_test(c, a_full_disk_loses_nothing);
    tcase_add_test(c, renames_that_fail_are_undone);
    return run_suite(s);
}
