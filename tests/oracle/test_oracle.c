/* SPDX-License-Identifier: Apache-2.0
 * tests/oracle/test_oracle.c: each layer against what other people's code makes of the same inputs
 * and weights: the files of data/, which oracle.py wrote.
 *
 *   test_oracle FOLDER           the tests, with the worst error of each case
 *   test_oracle FOLDER --table   every tensor: layer, shape, tensor, error
 *   test_oracle FOLDER --docs    the table of docs/lsm.md
 *
 * An error is the norm of the difference / the norm of the oracle's. In f32 it must be below 1e-5,
 * in f64 below 1e-10 where the oracle is in f64. The whole sequence at once, and pieces that hand
 * their carry on, are compared with the same outputs.
 */
#include "core/ckpt/ckpt.h"
#include "core/cli/cli.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const char *folder;
static char *names[512];
static int n_names;

typedef struct outcome {
    double worst;    /* of all tensors */
    double y, other; /* of the output; of carries and gradients */
    char tensor[64]; /* the worst one */
    int tensors;
    int64_t dim[3]; /* of x */
} outcome;

static void must(lmoe_ctx *ctx, lmoe_status status)
{
    ck_assert_msg(status == LMOE_OK, "%s", ctx->message);
}

/* "/dev/shm/lmoe-oracle.PID.safetensors" or the like */
static const char *aside(void)
{
    static char path[512];
    const char *place = getenv("TMPDIR");
    if (!place) place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/lmoe-oracle.%d.safetensors", place, (int)getpid());
    return path;
}

/* ---- running a case ---- */

/* Splits a text of lines into "--set" LINE ... */
static int add_sets(char **argv, int n, char *lines)
{
    char *save = NULL;
    for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        ck_assert_int_lt(n, 100);
        argv[n++] = "--set";
        argv[n++] = line;
    }
    return n;
}

static const char *told(const lmoe__st *st, const char *key)
{
    const char *text = lmoe__st_metadata(st, key);
    return text ? text : "";
}

static void run_case(const char *path, const lmoe__st *st, const char *dtype, const char *chunks)
{
    lmoe_ctx ctx;
    char *argv[128] = {"layer", "run", (char *)told(st, "class"), "--in", (char *)path, "--out"};
    int n = 6;
    char *lines = strdup(told(st, "set"));
    argv[n++] = (char *)aside();
    argv[n++] = "--dtype";
    argv[n++] = (char *)dtype;
    n = add_sets(argv, n, lines);
    const char *const flags[] = {"reset", "layers"};
    for (int i = 0; i < 2; i++) {
        if (!*told(st, flags[i])) continue;
        argv[n++] = i == 0 ? "--reset" : "--layers";
        argv[n++] = (char *)told(st, flags[i]);
    }
    if (*chunks) {
        argv[n++] = "--chunks";
        argv[n++] = (char *)chunks;
        argv[n++] = "--decode";
        argv[n++] = "3";
    }
    lmoe__ctx_init(&ctx);
    int code = lmoe__cli_layer(&ctx, n, argv);
    ck_assert_msg(code == 0, "%s: lmoe layer run ended with %d: %s", path, code, ctx.message);
    free(lines);
}

/* ---- comparing ---- */

static double value(const lmoe__st_tensor *x, int64_t i)
{
    float f;
    double d;
    if (x->dtype == LMOE_F32) {
        memcpy(&f, x->data + 4 * i, sizeof f);
        return f;
    }
    memcpy(&d, x->data + 8 * i, sizeof d);
    return d;
}

static double error_of(const lmoe__st_tensor *got, const lmoe__st_tensor *expected)
{
    double difference = 0, norm = 0;
    int64_t n = 1;
    for (int i = 0; i < expected->rank; i++) n *= expected->dim[i];
    for (int64_t i = 0; i < n; i++) {
        double a = value(got, i), b = value(expected, i);
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    if (norm == 0) return sqrt(difference); /* where the oracle says zero */
    return isfinite(difference) ? sqrt(difference / norm) : INFINITY;
}

/* Auxiliary losses are means over all tokens: pieces have others. */
static bool is_result(const char *name, bool pieces)
{
    if (strncmp(name, "aux:", 4) == 0) return !pieces;
    return strcmp(name, "y") == 0 || strcmp(name, "dx") == 0 || strncmp(name, "dw:", 3) == 0 ||
           strncmp(name, "carry/", 6) == 0;
}

/* Every result that the oracle has must be there, in its shape. */
static void compare(const char *path, const lmoe__st *oracle, bool pieces, bool print, outcome *o)
{
    lmoe_ctx ctx;
    lmoe__st got;
    lmoe__ctx_init(&ctx);
    must(&ctx, lmoe__st_open(&ctx, aside(), &got));
    for (int i = 0; i < oracle->count; i++) {
        const lmoe__st_tensor *b = &oracle->tensors[i];
        if (!is_result(b->name, pieces)) continue;
        const lmoe__st_tensor *a = lmoe__st_find(&got, b->name);
        ck_assert_msg(a != NULL, "%s: there is no result '%s'", path, b->name);
        bool same = a->rank == b->rank;
        for (int d = 0; same && d < a->rank; d++) same = a->dim[d] == b->dim[d];
        ck_assert_msg(same, "%s: '%s' has another shape than the oracle's", path, b->name);
        double e = error_of(a, b);
        double *kind = strcmp(b->name, "y") == 0 ? &o->y : &o->other;
        if (e > *kind) *kind = e;
        if (e >= o->worst) snprintf(o->tensor, sizeof o->tensor, "%.60s", b->name);
        if (e > o->worst) o->worst = e;
        o->tensors++;
        if (print)
            printf("%-18s %4lld x %-4lld x %-4lld %-36s %8.1e\n", told(oracle, "class"),
                   (long long)o->dim[0], (long long)o->dim[1], (long long)o->dim[2], b->name, e);
    }
    lmoe__st_close(&got);
    unlink(aside());
}

static void open_case(int which, lmoe__st *st)
{
    lmoe_ctx ctx;
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, names[which]);
    lmoe__ctx_init(&ctx);
    must(&ctx, lmoe__st_open(&ctx, path, st));
}

static void one(int which, const char *dtype, const char *chunks, bool print, outcome *o)
{
    lmoe__st st;
    memset(o, 0, sizeof *o);
    open_case(which, &st);
    const lmoe__st_tensor *x = lmoe__st_find(&st, "x");
    ck_assert_msg(x != NULL && x->rank == 3, "%s has no x", st.path);
    memcpy(o->dim, x->dim, sizeof o->dim);
    run_case(st.path, &st, dtype, chunks);
    compare(st.path, &st, *chunks, print, o);
    lmoe__st_close(&st);
}

static bool wide_oracle(int which)
{
    lmoe__st st;
    open_case(which, &st);
    bool wide = strcmp(told(&st, "precision"), "f64") == 0;
    lmoe__st_close(&st);
    return wide;
}

/* ---- tests ---- */

START_TEST(follows)
{
    static const struct {
        const char *dtype, *chunks;
    } ways[] = {{"f32", ""}, {"f64", ""}, {"f32", "17,1,30"}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        outcome o;
        double bar = strcmp(ways[w].dtype, "f32") == 0 ? 1e-5 : wide_oracle(_i) ? 1e-10 : 1e-5;
        one(_i, ways[w].dtype, ways[w].chunks, false, &o);
        ck_assert_msg(o.tensors > 2, "%s: too little to compare", names[_i]);
        ck_assert_msg(o.worst <= bar, "%s, %s%s%s: %s is off by %.2e; the bar is %.0e", names[_i],
                      ways[w].dtype, *ways[w].chunks ? ", pieces of " : "", ways[w].chunks,
                      o.tensor, o.worst, bar);
        printf("%-44s %s%s %8.1e (%s)\n", names[_i], ways[w].dtype,
               *ways[w].chunks ? " pieces" : "       ", o.worst, o.tensor);
    }
}
END_TEST

/* ---- tables ---- */

/* Checks of others are used, so these are tests, too. */
START_TEST(table)
{
    outcome o;
    printf("%-18s %-18s %-36s %s\n", "layer", "batch seq embed", "tensor", "error (f32)");
    for (int i = 0; i < n_names; i++) one(i, "f32", "", true, &o);
}
END_TEST

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* One row for the cases of a class that follow each other and have the same oracle. */
START_TEST(docs)
{
    char row[2][400] = {"", ""}, shapes[400] = "";
    double y = 0, other = 0, wide = 0;
    printf("| layer | oracle | x (batch seq embed) | output, f32 | worst gradient or carry, f32 | "
           "worst of all, f64 |\n| --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i <= n_names; i++) {
        outcome f32 = {0}, f64 = {0};
        row[1][0] = 0;
        if (i < n_names) {
            lmoe__st st;
            open_case(i, &st);
            snprintf(row[1], sizeof row[1], "| %s | %s", told(&st, "class"), told(&st, "oracle"));
            lmoe__st_close(&st);
            one(i, "f32", "", false, &f32);
            one(i, "f64", "", false, &f64);
        }
        if (i > 0 && strcmp(row[0], row[1]) != 0) {
            printf("%s | %s | %.0e | %.0e | %.0e |\n", row[0], shapes, y, other, wide);
            y = other = wide = shapes[0] = 0;
        }
        char shape[64];
        size_t n = strlen(shapes);
        snprintf(shape, sizeof shape, "%d %d %d", (int)f32.dim[0], (int)f32.dim[1],
                 (int)f32.dim[2]);
        if (!strstr(shapes, shape))
            snprintf(shapes + n, sizeof shapes - n, "%s%s", n ? ", " : "", shape);
        y = larger(y, f32.y);
        other = larger(other, f32.other);
        wide = larger(wide, f64.worst);
        memcpy(row[0], row[1], sizeof row[0]);
    }
}
END_TEST

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list_folder(void)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && strcmp(dot, ".safetensors") == 0 && n_names < 512)
            names[n_names++] = strdup(e->d_name);
    }
    if (d) closedir(d);
    qsort(names, (size_t)n_names, sizeof *names, by_text);
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : ".";
    list_folder();
    if (n_names == 0) {
        fprintf(stderr, "there are no cases in '%s'\n", folder);
        return 1;
    }
    Suite *s = suite_create("oracles");
    TCase *t = tcase_create("cases");
    const char *what = argc > 2 ? argv[2] : "";
    tcase_set_timeout(t, *what ? 600 : 60);
    if (strcmp(what, "--table") == 0)
        tcase_add_test(t, table);
    else if (strcmp(what, "--docs") == 0)
        tcase_add_test(t, docs);
    else
        tcase_add_loop_test(t, follows, 0, n_names);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
