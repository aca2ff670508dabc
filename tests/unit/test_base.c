/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/test_base.c: contexts, arenas, text, files, random numbers, digests, threads.
 */
#include <lmoe/random.h>

#include "core/base/base.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- contexts ---- */

START_TEST(first_message_is_kept)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ck_assert_int_eq(lmoe_error(&ctx, LMOE_E_IO, "disk %d", 7), LMOE_E_IO);
    ck_assert_int_eq(lmoe_error(&ctx, LMOE_E_CONFIG, "later"), LMOE_E_CONFIG);
    ck_assert_int_eq(ctx.status, LMOE_E_IO);
    ck_assert_str_eq(ctx.message, "disk 7");
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(ctx.status, LMOE_OK);
    ck_assert_str_eq(ctx.message, "");
    ck_assert_int_eq(lmoe_error(&ctx, LMOE_OK, "no success"), LMOE_E_USAGE);
    ck_assert_int_eq(lmoe_error(NULL, LMOE_E_IO, "nobody listens"), LMOE_E_IO);
}
END_TEST

START_TEST(long_message_is_marked)
{
    lmoe_ctx ctx;
    char fits[sizeof ctx.message], text[3000];
    memset(fits, 'x', sizeof fits - 1);
    fits[sizeof fits - 1] = '\0';
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lmoe__ctx_init(&ctx);
    lmoe_error(&ctx, LMOE_E_IO, "%s", fits);
    ck_assert_str_eq(ctx.message, fits);
    lmoe__ctx_clear(&ctx);
    lmoe_error(&ctx, LMOE_E_IO, "%s", text);
    ck_assert_uint_eq(strlen(ctx.message), sizeof ctx.message - 1);
    ck_assert_str_eq(ctx.message + sizeof ctx.message - 5, "x...");
}
END_TEST

/* What the log writes, with stderr sent to a file meanwhile. */
static char *logged(lmoe_ctx *ctx, int level, const char *text)
{
    FILE *f = tmpfile();
    fflush(stderr);
    int keep = dup(STDERR_FILENO);
    dup2(fileno(f), STDERR_FILENO);
    lmoe__log(ctx, level, "%s", text);
    dup2(keep, STDERR_FILENO);
    close(keep);
    long n = lseek(fileno(f), 0, SEEK_END);
    char *out = calloc(1, (size_t)n + 1);
    ck_assert_int_eq(pread(fileno(f), out, (size_t)n, 0), n);
    fclose(f);
    return out;
}

START_TEST(log_lines)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    char *line = logged(&ctx, LMOE_LOG_WARN, "50% full");
    ck_assert_str_eq(line, "lmoe: warning: 50% full\n");
    free(line);
    line = logged(&ctx, LMOE_LOG_DEBUG, "too much");
    ck_assert_str_eq(line, "");
    free(line);
    ctx.rank = 3;
    ctx.ranks = 4;
    line = logged(&ctx, LMOE_LOG_INFO, "step");
    ck_assert_str_eq(line, "lmoe[3]: step\n");
    free(line);
    char text[6000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    line = logged(&ctx, LMOE_LOG_ERROR, text);
    ck_assert_uint_lt(strlen(line), 4097);
    ck_assert_str_eq(line + strlen(line) - 5, "y...\n");
    free(line);
}
END_TEST

/* ---- arena ---- */

/* An assertion costs a system call, so loops over elements count instead. */
static size_t count_other(const unsigned char *p, size_t n, unsigned char value)
{
    size_t other = 0;
    for (size_t i = 0; i < n; i++) other += p[i] != value;
    return other;
}

START_TEST(arena_is_zeroed_aligned_and_apart)
{
    lmoe__arena *a = lmoe__arena_new();
    unsigned char *seen[400];
    size_t size[400];
    for (int i = 0; i < 400; i++) {
        size[i] = i % 50 == 49 ? 3000000 : (size_t)(i * 37 % 5000);
        seen[i] = lmoe__arena_alloc(a, size[i]);
        ck_assert_uint_eq((uintptr_t)seen[i] % 64, 0);
        ck_assert_uint_eq(count_other(seen[i], size[i], 0), 0);
        memset(seen[i], i & 255, size[i]);
    }
    for (int i = 0; i < 400; i++) {
        ck_assert_uint_eq(count_other(seen[i], size[i], i & 255), 0);
    }
    ck_assert_str_eq(lmoe__arena_strdup(a, "gla"), "gla");
    ck_assert_str_eq(lmoe__arena_printf(a, "%s/%03d", "lsm", 7), "lsm/007");
    lmoe__arena_free(a);
    lmoe__arena_free(NULL);
}
END_TEST

START_TEST(impossible_sizes_abort)
{
    lmoe__arena *a = lmoe__arena_new();
    lmoe__arena_alloc(a, SIZE_MAX - 10);
}
END_TEST

START_TEST(push_grows)
{
    int *items = NULL, count = 0, capacity = 0;
    for (int i = 0; i < 1000; i++) LMOE_PUSH(items, count, capacity, i * i);
    ck_assert_int_eq(count, 1000);
    for (int i = 0; i < 1000; i++) ck_assert_int_eq(items[i], i * i);
    free(items);
}
END_TEST

/* ---- text ---- */

START_TEST(text_grows)
{
    lmoe__text s = {0};
    for (int i = 0; i < 1000; i++) lmoe__text_add(&s, "%d,", i % 10);
    lmoe__text_add_bytes(&s, "a\0b", 3);
    ck_assert_uint_eq(s.length, 2003);
    ck_assert_mem_eq(s.data + 1996, "8,9,a\0b", 8);
    lmoe__text_free(&s);
    ck_assert_ptr_null(s.data);
    lmoe__text_add_bytes(&s, "", 0);
    ck_assert_str_eq(s.data, "");
    lmoe__text_free(&s);
}
END_TEST

START_TEST(json_strings)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"", "\"\""},
        {"a\"b\\c\n\t\x01\x7f", "\"a\\\"b\\\\c\\n\\t\\u0001\\u007f\""},
        {"gr\xc3\xbc\xc3\x9f\xe2\x82\xac\xf0\x9f\x90\xa4",
         "\"gr\xc3\xbc\xc3\x9f\xe2\x82\xac\xf0\x9f\x90\xa4\""},
        {"\xff|\xc3", "\"\\ufffd|\\ufffd\""},                    /* no start; cut */
        {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                      /* overlong */
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},           /* surrogate */
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""} /* past the last */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lmoe__text s = {0};
        lmoe__text_add_json(&s, cases[i].in);
        ck_assert_str_eq(s.data, cases[i].out);
        lmoe__text_free(&s);
    }
}
END_TEST

START_TEST(nearest_word)
{
    static const char *const words[] = {"heads", "hidden", "head_dim", "top_k", "lr", "experts"};
    const int n = sizeof words / sizeof *words;
    ck_assert_str_eq(lmoe__nearest("hads", words, n), "heads");
    ck_assert_str_eq(lmoe__nearest("haeds", words, n), "heads");
    ck_assert_str_eq(lmoe__nearest("head-dim", words, n), "head_dim");
    ck_assert_str_eq(lmoe__nearest("TOP_K", words, n), "top_k");
    ck_assert_str_eq(lmoe__nearest("topk", words, n), "top_k");
    ck_assert_str_eq(lmoe__nearest("expert", words, n), "experts");
    ck_assert_ptr_null(lmoe__nearest("momentum", words, n));
    ck_assert_ptr_null(lmoe__nearest("xy", words, n));
    ck_assert_ptr_null(lmoe__nearest("", words, n));
    ck_assert_ptr_null(lmoe__nearest("heads", words, 0));
    char longer[500];
    memset(longer, 'h', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ck_assert_ptr_null(lmoe__nearest(longer, words, n));
}
END_TEST

START_TEST(numbers_for_people)
{
    static const struct {
        double x;
        const char *count, *bytes;
    } cases[] = {{0, "0", "0 B"},
                 {999, "999", "999 B"},
                 {1234567, "1.23 M", "1.2 MiB"},
                 {999999, "1.00 M", "977 KiB"},
                 {20e9, "20.0 G", "18.6 GiB"},
                 {45e9, "45.0 G", "41.9 GiB"},
                 {-1500, "-1.50 k", "-1.5 KiB"},
                 {2.5, "2.50", "2.5 B"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_str_eq(lmoe__count_text(buf, sizeof buf, cases[i].x), cases[i].count);
        ck_assert_str_eq(lmoe__bytes_text(buf, sizeof buf, cases[i].x), cases[i].bytes);
    }
}
END_TEST

/* ---- files ---- */

static char folder[64];

static void make_folder(void)
{
    strcpy(folder, "/tmp/lmoe-base-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    ck_assert_int_eq(rmdir(folder), 0); /* nothing may be left beside */
}

START_TEST(files_round_trip)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    make_folder();
    char path[128], *data;
    size_t size;
    snprintf(path, sizeof path, "%s/f", folder);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, "old", 3), LMOE_OK);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, "a\0b\n", 4), LMOE_OK);
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &data, &size), LMOE_OK);
    ck_assert_uint_eq(size, 4);
    ck_assert_mem_eq(data, "a\0b\n", 5);
    free(data);

    char hex[33], same[33];
    ck_assert_int_eq(lmoe__digest_file(&ctx, path, hex), LMOE_OK);
    lmoe__digest_bytes("a\0b\n", 4, same);
    ck_assert_str_eq(hex, same);
    ck_assert_int_eq(unlink(path), 0);
    remove_folder();
}
END_TEST

START_TEST(files_that_fail)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    make_folder();
    char path[128], hex[33], *data;
    ck_assert_int_eq(lmoe__read_file(&ctx, folder, &data, NULL), LMOE_E_CONFIG);
    ck_assert_ptr_nonnull(strstr(ctx.message, folder));
    ck_assert_ptr_nonnull(strstr(ctx.message, "directory"));
    lmoe__ctx_clear(&ctx);
    snprintf(path, sizeof path, "%s/none/f", folder);
    ck_assert_int_eq(lmoe__read_file(&ctx, path, &data, NULL), LMOE_E_CONFIG);
    ck_assert_int_eq(lmoe__digest_file(&ctx, path, hex), LMOE_E_CONFIG);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, "x", 1), LMOE_E_IO);

    /* what cannot be put into place leaves nothing beside */
    snprintf(path, sizeof path, "%s/d", folder);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(lmoe__write_file(&ctx, path, "x", 1), LMOE_E_IO);
    ck_assert_int_eq(rmdir(path), 0);
    remove_folder();
}
END_TEST

START_TEST(known_digests)
{
    char hex[33];
    lmoe__digest_bytes("", 0, hex); /* from the reference tool, xxh128sum */
    ck_assert_str_eq(hex, "99aa06d3014798d86001c324468d497f");
    ck_assert_uint_eq(lmoe__hash_text(""), 0xcbf29ce484222325u);
    ck_assert_uint_eq(lmoe__hash_text("a"), 0xaf63dc4c8601ec8cu);
    ck_assert_uint_eq(lmoe__hash_text("foobar"), 0x85944171f73967e8u);
}
END_TEST

/* ---- random numbers ---- */

/* Known answers of the authors' library (Random123, kat_vectors: philox4x32, 10 rounds). */
START_TEST(philox_known_answers)
{
    static const struct {
        uint64_t seed, stream, index;
        uint32_t out[4];
    } cases[] = {{0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                 {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
                 {0x299f31d0a4093822,
                  0x0370734413198a2e,
                  0x85a308d3243f6a88,
                  {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        lmoe__philox(cases[i].seed, cases[i].stream, cases[i].index, out);
        ck_assert_mem_eq(out, cases[i].out, sizeof out);
    }
}
END_TEST

START_TEST(distributions)
{
    enum { N = 200000 };
    double u = 0, u2 = 0, z = 0, z2 = 0, z3 = 0, z4 = 0;
    int tail = 0, outside = 0;
    for (uint64_t i = 0; i < N; i++) {
        double a = lmoe__uniform(7, 1, i), b = lmoe__normal(7, 2, i);
        outside += a < 0 || a >= 1;
        u += a;
        u2 += a * a;
        z += b;
        z2 += b * b;
        z3 += b * b * b;
        z4 += b * b * b * b;
        tail += fabs(b) > 1.959963985;
    }
    ck_assert_int_eq(outside, 0);
    /* five standard errors each */
    const double e = 5 / sqrt(N);
    ck_assert_double_eq_tol(u / N, 0.5, e * sqrt(1 / 12.0));
    ck_assert_double_eq_tol(u2 / N, 1 / 3.0, e * sqrt(4 / 45.0));
    ck_assert_double_eq_tol(z / N, 0, e);
    ck_assert_double_eq_tol(z2 / N, 1, e * sqrt(2));
    ck_assert_double_eq_tol(z3 / N, 0, e * sqrt(15));
    ck_assert_double_eq_tol(z4 / N, 3, e * sqrt(96));
    ck_assert_double_eq_tol(tail / (double)N, 0.05, e * sqrt(0.05 * 0.95));
    ck_assert(lmoe__uniform(7, 1, 0) != lmoe__uniform(8, 1, 0));
    ck_assert(lmoe__uniform(7, 1, 0) != lmoe__uniform(7, 2, 0));
}
END_TEST

START_TEST(own_functions_follow_the_library)
{
    for (uint64_t i = 0; i < 200000; i++) {
        uint32_t x[4];
        lmoe_philox(7, 3, i, x);
        /* near 1, near 0, and between */
        double v = lmoe_unit(x + 2), u = 1 - lmoe_unit(x) * (i % 3 ? 1 : 0x1p-30);
        if (i % 5 == 0) u = u * 0x1p-40 + 0x1p-53;
        ck_assert_double_eq_tol(lmoe_random_log(u), log(u), 8e-16 * fabs(log(u)));
        ck_assert_double_eq_tol(lmoe_random_cos(v), cos(6.283185307179586476925 * v), 2e-15);
    }
    ck_assert(lmoe_random_log(1) == 0 && lmoe_random_cos(0) == 1);
    ck_assert_double_eq_tol(lmoe_random_log(0x1p-53), log(0x1p-53), 1e-14);
}
END_TEST

START_TEST(below_is_even)
{
    enum { N = 60000 };
    int count[7] = {0};
    for (uint64_t i = 0; i < N; i++) {
        uint64_t x = lmoe__below(1, 2, i, 6);
        count[x < 6 ? x : 6]++;
    }
    ck_assert_int_eq(count[6], 0);
    double chi = 0;
    for (int i = 0; i < 6; i++) chi += pow(count[i] - N / 6.0, 2) / (N / 6.0);
    ck_assert_double_lt(chi, 25.7); /* 5 degrees, p = 1e-4 */
    ck_assert_uint_eq(lmoe__below(1, 2, 3, 1), 0);
    ck_assert_uint_eq(lmoe__below(1, 2, 3, 0), 0);
}
END_TEST

START_TEST(permutations_are_permutations)
{
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4097, 20000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint64_t n = sizes[s];
        unsigned char *hits = calloc(1, n + 1);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t x = lmoe__permute(5, 9, i, n);
            hits[x < n ? x : n]++;
        }
        ck_assert_uint_eq(count_other(hits, n, 1), 0);
        ck_assert_uint_eq(hits[n], 0);
        free(hits);
    }
    for (uint64_t n = UINT64_MAX; n > UINT64_MAX - 3; n--) {
        uint64_t x = lmoe__permute(5, 9, n - 1, n), y = lmoe__permute(5, 9, n - 2, n);
        ck_assert(x < n && y < n && x != y);
    }
    ck_assert_uint_eq(lmoe__permute(5, 9, 0, 0), 0);
}
END_TEST

/* Over many seeds each of the 24 orders of 4 things is about as frequent as the others, and any
 * place goes anywhere. */
START_TEST(permutations_are_even)
{
    enum { SEEDS = 24000 };
    int order[256] = {0}, place[10][10] = {{0}};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        int code = 0;
        for (uint64_t i = 0; i < 4; i++) code = code * 4 + (int)lmoe__permute(seed, 3, i, 4);
        order[code]++;
    }
    double chi = 0;
    int orders = 0;
    for (int i = 0; i < 256; i++) {
        if (!order[i]) continue;
        orders++;
        chi += pow(order[i] - SEEDS / 24.0, 2) / (SEEDS / 24.0);
    }
    ck_assert_int_eq(orders, 24);
    ck_assert_double_lt(chi, 58); /* 23 degrees, p = 1e-4 is 54 */
    for (uint64_t seed = 0; seed < 5000; seed++) {
        for (uint64_t i = 0; i < 10; i++) place[i][lmoe__permute(seed, 3, i, 10)]++;
    }
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 10; j++) ck_assert_double_eq_tol(place[i][j], 500, 5 * sqrt(450));
    }
}
END_TEST

/* ---- threads ---- */

typedef struct job {
    int64_t n, grain;
    int threads;
    unsigned char *hits;
    int64_t begin[64], end[64];
} job;

static void mark(void *arg, int64_t begin, int64_t end, int thread)
{
    job *j = arg;
    j->begin[thread] = begin;
    j->end[thread] = end;
    for (int64_t i = begin; i < end; i++) j->hits[i]++;
}

static void check_split(lmoe_ctx *ctx, int64_t n, int64_t grain)
{
    job j = {.n = n, .hits = calloc(1, (size_t)n + 1)};
    ck_assert_int_eq(lmoe_parallel(ctx, n, grain, mark, &j), LMOE_OK);
    int64_t at = 0, smallest = n, largest = 0;
    for (int t = 0; t < 64 && j.end[t] > j.begin[t]; t++) {
        ck_assert_int_eq(j.begin[t], at);
        at = j.end[t];
        int64_t size = j.end[t] - j.begin[t];
        ck_assert(size >= grain || n < grain);
        smallest = size < smallest ? size : smallest;
        largest = size > largest ? size : largest;
        ck_assert_int_lt(t, lmoe_threads(ctx));
    }
    ck_assert_int_eq(at, n);
    ck_assert(n == 0 || largest - smallest <= 1);
    ck_assert_uint_eq(count_other(j.hits, (size_t)n, 1), 0);
    free(j.hits);
}

/* _i: size of the team, also beyond any number of cores; 0: no team at all */
START_TEST(parallel_covers_once)
{
    static const int sizes[] = {0, 1, 2, 3, 4, 13, 40};
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.team = sizes[_i] ? lmoe__team_new(sizes[_i]) : NULL;
    ck_assert_int_eq(lmoe_threads(&ctx), sizes[_i] ? sizes[_i] : 1);
    static const int64_t counts[] = {0, 1, 2, 3, 7, 39, 40, 41, 1000, 1001};
    for (int i = 0; i < 10; i++) {
        check_split(&ctx, counts[i], 1);
        check_split(&ctx, counts[i], 3);
        check_split(&ctx, counts[i], 100);
    }
    lmoe__team_free(ctx.team);
}
END_TEST

static void count_up(void *arg, int64_t begin, int64_t end, int thread)
{
    int64_t *sums = arg;
    for (int64_t i = begin; i < end; i++) sums[thread * 16] += i;
}

static int64_t many_calls(int threads, int calls, int pause_every)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.team = lmoe__team_new(threads);
    int64_t sums[16 * 8] = {0}, total = 0;
    for (int i = 0; i < calls; i++) {
        lmoe_parallel(&ctx, 100 + i % 7, 1 + i % 60, count_up, sums);
        if (pause_every && i % pause_every == 0) usleep(200); /* so that workers fall asleep */
    }
    lmoe__team_free(ctx.team);
    for (int t = 0; t < 8; t++) total += sums[t * 16];
    return total;
}

START_TEST(many_short_calls)
{
    int64_t want = 0;
    for (int i = 0; i < 3000; i++) {
        int64_t n = 100 + i % 7;
        want += n * (n - 1) / 2;
    }
    ck_assert_int_eq(many_calls(1, 3000, 0), want);
    ck_assert_int_eq(many_calls(2, 3000, 10), want);
    ck_assert_int_eq(many_calls(8, 3000, 50), want);
}
END_TEST

static void *one_rank(void *arg)
{
    *(int64_t *)arg = many_calls(3, 500, 20);
    return NULL;
}

START_TEST(several_teams)
{
    pthread_t id[4];
    int64_t got[4];
    for (int i = 0; i < 4; i++) pthread_create(&id[i], NULL, one_rank, &got[i]);
    for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
    int64_t want = many_calls(1, 500, 0);
    for (int i = 0; i < 4; i++) ck_assert_int_eq(got[i], want);
}
END_TEST

typedef struct failing {
    lmoe_ctx *ctx;
    lmoe_status nested;
} failing;

static void fail_everywhere(void *arg, int64_t begin, int64_t end, int thread)
{
    failing *f = arg;
    lmoe_error(f->ctx, LMOE_E_NUMERIC, "piece %lld-%lld", (long long)begin, (long long)end);
}

static void nest(void *arg, int64_t begin, int64_t end, int thread)
{
    failing *f = arg;
    if (thread == 0) f->nested = lmoe_parallel(f->ctx, 10, 1, fail_everywhere, f);
}

START_TEST(failures_inside)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.team = lmoe__team_new(4);
    failing f = {.ctx = &ctx};
    for (int i = 0; i < 200; i++) {
        long long begin, end;
        lmoe__ctx_clear(&ctx);
        lmoe_parallel(&ctx, 8, 1, fail_everywhere, &f);
        ck_assert_int_eq(ctx.status, LMOE_E_NUMERIC);
        ck_assert_int_eq(sscanf(ctx.message, "piece %lld-%lld", &begin, &end), 2);
        ck_assert_int_eq(end, begin + 2); /* one whole message, not two mixed */
    }
    lmoe__ctx_clear(&ctx);
    ck_assert_int_eq(lmoe_parallel(&ctx, 8, 1, nest, &f), LMOE_OK);
    ck_assert_int_eq(f.nested, LMOE_E_USAGE);
    ck_assert_ptr_nonnull(strstr(ctx.message, "split the work once"));
    lmoe__team_free(ctx.team);
}
END_TEST

START_TEST(clock_goes_on)
{
    double a = lmoe__now();
    usleep(2000);
    double b = lmoe__now();
    ck_assert(b - a >= 0.002 && b - a < 10);
}
END_TEST

static TCase *group(Suite *s, const char *name)
{
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return c;
}

int main(void)
{
    Suite *s = suite_create("base");
    TCase *c = group(s, "context");
    tcase_add_test(c, first_message_is_kept);
    tcase_add_test(c, long_message_is_marked);
    tcase_add_test(c, log_lines);
    c = group(s, "memory");
    tcase_add_test(c, arena_is_zeroed_aligned_and_apart);
    tcase_add_test(c, push_grows);
    SRunner *runner = srunner_create(s);
    if (srunner_fork_status(runner) == CK_FORK)
        tcase_add_test_raise_signal(c, impossible_sizes_abort, SIGABRT);
    c = group(s, "text");
    tcase_add_test(c, text_grows);
    tcase_add_test(c, json_strings);
    tcase_add_test(c, nearest_word);
    tcase_add_test(c, numbers_for_people);
    c = group(s, "files");
    tcase_add_test(c, files_round_trip);
    tcase_add_test(c, files_that_fail);
    tcase_add_test(c, known_digests);
    c = group(s, "random");
    tcase_add_test(c, philox_known_answers);
    tcase_add_test(c, distributions);
    tcase_add_test(c, own_functions_follow_the_library);
    tcase_add_test(c, below_is_even);
    tcase_add_test(c, permutations_are_permutations);
    tcase_add_test(c, permutations_are_even);
    c = group(s, "threads");
    tcase_add_loop_test(c, parallel_covers_once, 0, 7);
    tcase_add_test(c, many_short_calls);
    tcase_add_test(c, several_teams);
    tcase_add_test(c, failures_inside);
    tcase_add_test(c, clock_goes_on);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
