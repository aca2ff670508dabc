/* SPDX-License-Identifier: Apache-2.0
 * tests/run/matrix.c: every layer class at every layout against one rank, as whole runs of 20 steps
 * over documents that lie across the borders between ranks.
 *
 *   float64  losses within 1e-11, each weight within 1e-9 (norm of the difference / norm)
 *   float32  first loss within 1e-6, each gradient of step 1 within 3e-5, losses within 1e-3
 *            (the gradients by the optimiser's means after one step, which are multiples of them)
 *
 *   usage: matrix [--part I/N] [LAYER [LAYOUT]]   texts that the names must contain
 *          matrix --class CLASS                   one class, which need not be of this tree
 *
 * The optimiser's eps is well above the rounding of gradients: below it, AdamW makes whole steps of
 * noise, and how far runs part is then a matter of the layer, not of the layout.
 *
 * Refused layouts are listed with their sentence; more than 5 % of them is a failure.
 */
#include "core/ckpt/ckpt.h"
#include "core/data/data.h"
#include "core/train/train.h"

#include <dirent.h>
#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct layout {
    const char *name, *mesh, *lines; /* lines: of [parallel] */
} layout;

static const layout layouts[] = {
    {"dp 2", "dp:2", ""},
    {"zero1 2", "dp:2", "dp = parallel/zero1\n"},
    {"fsdp 2", "fsdp:2", ""},
    {"tp 2", "tp:2", ""},
    {"ep 4", "ep:4", ""},
    {"pp 2", "pp:2", ""},
    {"lasp2 2", "sp:2", ""},
    {"lasp2 4", "sp:4", ""},
    {"ring 2", "sp:2", "sp = parallel/ring\n"},
    {"ring 4", "sp:4", "sp = parallel/ring\n"},
    {"scan 4", "sp:4", "sp = parallel/scan\n"},
    {"ulysses 2", "sp:2", "sp = parallel/ulysses\n"},
    /* mixed, 8 ranks, softmax attention between two of the layers */
    {"dp lasp2", "dp:2 sp:4", ""},
    {"dp tp lasp2", "dp:2 tp:2 sp:2", ""},
    {"ep lasp2", "ep:4 sp:2", ""},
    {"pp dp lasp2", "pp:2 dp:2 sp:2", ""},
    {"pp tp zero1", "pp:2 tp:2 dp:2", "dp = parallel/zero1\n"},
    {"fsdp ring", "fsdp:2 sp:4", "sp = parallel/ring\n"},
    {"fsdp tp ep", "fsdp:2 tp:2 ep:2", ""},
    {"dp ep scan", "dp:2 ep:2 sp:2", "sp = parallel/scan\n"},
    {"tp ulysses ep", "tp:2 sp:2 ep:2", "sp = parallel/ulysses\n"},
    {"pp fsdp ep", "pp:2 fsdp:2 ep:2", ""},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts, FIRST_MIXED = 12, STEPS = 20 };

#include "tests/run/layers.h"

/* ---- a run and what it leaves ---- */

typedef struct tensor {
    char *name;
    double *values;
    int64_t count;
} tensor;

typedef struct outcome {
    double loss[STEPS];
    tensor *tensors; /* weights in float64, the optimiser's first means after step 1 in float32 */
    int n_tensors;
} outcome;

static void forget(outcome *o)
{
    for (int i = 0; i < o->n_tensors; i++) {
        free(o->tensors[i].name);
        free(o->tensors[i].values);
    }
    free(o->tensors);
    *o = (outcome){0};
}

static void read_losses(outcome *o)
{
    char line[8192];
    FILE *f = fopen("run/metrics.jsonl", "r");
    while (f && fgets(line, sizeof line, f)) {
        json_t *x = json_loads(line, 0, NULL);
        json_int_t step = json_integer_value(json_object_get(x, "step"));
        if (step >= 1 && step <= STEPS)
            o->loss[step - 1] = json_number_value(json_object_get(x, "train_loss"));
        json_decref(x);
    }
    if (f) fclose(f);
}

static void read_tensors(outcome *o, bool means)
{
    lmoe_ctx ctx;
    glob_t files;
    lmoe__ctx_init(&ctx);
    if (glob("run/checkpoints/step-*/*.safetensors", 0, NULL, &files) != 0) return;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        lmoe__st st;
        if (lmoe__st_open(&ctx, files.gl_pathv[i], &st) != LMOE_OK) continue;
        for (int k = 0; k < st.count; k++) {
            const lmoe__st_tensor *x = &st.tensors[k];
            bool mean = strncmp(x->name, "adam_m:", 7) == 0;
            if (means ? !mean : strchr(x->name, ':') != NULL) continue;
            size_t item = lmoe_dtype_bytes(x->dtype);
            void *copy = malloc(x->bytes + 1);
            memcpy(copy, x->data, x->bytes);
            const lmoe_buf b = {.data = copy, .dtype = x->dtype};
            tensor t = {strdup(x->name), NULL, (int64_t)(x->bytes / item)};
            t.values = malloc(sizeof(double) * (size_t)(t.count + 1));
            for (int64_t e = 0; e < t.count; e++) t.values[e] = lmoe_get(&b, e);
            o->tensors = realloc(o->tensors, sizeof *o->tensors * (size_t)(o->n_tensors + 1));
            o->tensors[o->n_tensors++] = t;
            free(copy);
        }
        lmoe__st_close(&st);
    }
    globfree(&files);
}

static int remove_run(void)
{
    return system("rm -rf run");
}

static lmoe_status train(lmoe_ctx *ctx, const char *layer, bool mixed, const layout *at, bool f64,
                         int steps)
{
    char text[4096];
    lmoe__setup s = {0};
    int n = snprintf(
        text, sizeof text,
        "[run]\ndir = run\n[model]\nembed = 16\nlayers = %d\ninit_std = 0.2\npattern = %s\n"
        "[layer L]\n%s\n%s[ffn]\nhidden = 12\nexperts = 4\ntop_k = 2\n[router]\naux_loss = 0.02\n"
        "z_loss = 0.01\n[data]\ntrain = tales.bin\npacked = yes\n[train]\nbatch = 8\n"
        "accumulate = 2\nseq = 16\nsteps = %d\nlr = 2e-4\neps = 1e-6\nwarmup = 0\n"
        "schedule = constant\n"
        "dtype = %s\n%s%s%s%s",
        mixed ? 3 : 2, mixed ? "LNL" : "L", layer,
        mixed ? "[layer N]\nclass = lsm/attention\nheads = 2\n" : "", steps, f64 ? "f64" : "f32",
        at ? "[parallel]\ncomm = comm/loop\nmesh = " : "", at ? at->mesh : "", at ? "\n" : "",
        at ? at->lines : "");
    lmoe__ctx_init(ctx);
    ctx->log_level = LMOE_LOG_ERROR;
    s.conf = lmoe__conf_read_text(ctx, "matrix.ini", text, (size_t)n);
    lmoe_status status = s.conf ? LMOE_OK : LMOE_E_CONFIG;
    if (status == LMOE_OK) status = lmoe__setup_read(ctx, &s, NULL, LMOE__SETUP_DATA);
    if (status == LMOE_OK && lmoe__train(ctx, &s) != 0)
        status = ctx->status != LMOE_OK ? ctx->status : LMOE_E_INTERNAL;
    lmoe__setup_free(&s);
    return status;
}

/* In float32 the run stops after one step, and goes on from its checkpoint. */
static lmoe_status run(lmoe_ctx *ctx, const char *layer, bool mixed, const layout *at, bool f64,
                       outcome *o)
{
    *o = (outcome){0};
    if (remove_run() != 0) return LMOE_E_IO;
    if (!f64) {
        LMOE_TRY(train(ctx, layer, mixed, at, f64, 1));
        read_tensors(o, true);
    }
    LMOE_TRY(train(ctx, layer, mixed, at, f64, STEPS));
    if (f64) read_tensors(o, false);
    read_losses(o);
    return LMOE_OK;
}

/* ---- comparing ---- */

static double apart(const tensor *a, const tensor *b)
{
    double difference = 0, norm = 0;
    if (a->count != b->count || strcmp(a->name, b->name) != 0) return INFINITY;
    for (int64_t i = 0; i < a->count; i++) {
        difference += (a->values[i] - b->values[i]) * (a->values[i] - b->values[i]);
        norm += a->values[i] * a->values[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

typedef struct errors {
    double first, losses, tensors;
    const char *worst;
} errors;

static errors compare(const outcome *one, const outcome *o)
{
    errors e = {0, 0, 0, ""};
    e.first = fabs(one->loss[0] - o->loss[0]) / fabs(one->loss[0]);
    for (int i = 0; i < STEPS; i++)
        e.losses = fmax(e.losses, fabs(one->loss[i] - o->loss[i]) / fabs(one->loss[i]));
    if (one->n_tensors != o->n_tensors || one->n_tensors == 0) e.tensors = INFINITY;
    for (int i = 0; i < one->n_tensors && isfinite(e.tensors); i++) {
        double x = apart(&one->tensors[i], &o->tensors[i]);
        if (!(x <= e.tensors)) {
            e.tensors = x;
            e.worst = one->tensors[i].name;
        }
    }
    return e;
}

typedef struct tally {
    int passed, failed, refused;
    FILE *out;
} tally;

static void check(tally *t, const char *name, const layout *at, bool f64, const outcome *one,
                  const char *layer, bool mixed)
{
    lmoe_ctx ctx;
    outcome o;
    double start = lmoe__now();
    lmoe_status status = run(&ctx, layer, mixed, at, f64, &o);
    double seconds = lmoe__now() - start;
    if (status != LMOE_OK) {
        bool refused = status == LMOE_E_CONFIG || status == LMOE_E_UNSUPPORTED;
        t->refused += refused;
        t->failed += !refused;
        fprintf(t->out, "%-7s %-20s %-14s %s  %s\n", refused ? "refused" : "FAILED", name, at->name,
                f64 ? "f64" : "f32", ctx.message);
    } else {
        errors e = compare(one, &o);
        bool good = f64 ? e.losses <= 1e-11 && e.tensors <= 1e-9
                        : e.first <= 1e-6 && e.tensors <= 3e-5 && e.losses <= 1e-3;
        t->passed += good;
        t->failed += !good;
        fprintf(t->out, "%-7s %-20s %-14s %s  first loss %.1e  losses %.1e  %s %.1e  %.2f s %s\n",
                good ? "ok" : "FAILED", name, at->name, f64 ? "f64" : "f32", e.first, e.losses,
                f64 ? "weights" : "gradients", e.tensors, seconds, good ? "" : e.worst);
    }
    fflush(t->out);
    forget(&o);
}

/* ---- what is tested ---- */

static bool make_documents(void)
{
    lmoe_ctx ctx;
    FILE *f = fopen("tales.jsonl", "w");
    for (int i = 0; f && i < 300; i++) {
        fprintf(f, "{\"text\": \"tale %d:", i);
        for (int k = 0; k < 3 + i * 7 % 23; k++) fprintf(f, " %d", (i * k + k * k) % 15);
        fprintf(f, ".\"}\n");
    }
    if (!f || fclose(f) != 0) return false;
    char *arguments[] = {"prepare", "--in", "tales.jsonl", "--out", "tales", NULL};
    lmoe__ctx_init(&ctx);
    return lmoe__cli_data(&ctx, 5, arguments) == 0;
}

/* Every lsm plugin of the tree is in the list. */
static bool all_listed(FILE *out)
{
    const char *folder = getenv("LMOE_PLUGIN_PATH");
    DIR *dir = folder ? opendir(folder) : NULL;
    bool all = dir != NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char name[300] = "";
        bool found = false;
        size_t n = strlen(e->d_name);
        if (strncmp(e->d_name, "lsm-", 4) != 0 || n < 8 || strcmp(e->d_name + n - 3, ".so") != 0)
            continue;
        snprintf(name, sizeof name, "class = lsm/%.*s\n", (int)(n - 7), e->d_name + 4);
        for (size_t i = 0; i < N_LAYERS; i++) found |= strncmp(layers[i], name, strlen(name)) == 0;
        if (!found) fprintf(out, "FAILED  %s is not in tests/run/layers.h\n", e->d_name);
        all &= found;
    }
    if (dir) closedir(dir);
    return all;
}

static void name_of(const char *layer, char *name, size_t n)
{
    const char *at = strchr(layer, '/') + 1;
    snprintf(name, n, "%.*s", (int)strcspn(at, "\n"), at);
}

/* One class at all layouts, by the first of its texts. */
static void check_layer(tally *t, const char *layer, const char *only)
{
    char name[64];
    name_of(layer, name, sizeof name);
    for (int form = 0; form < 4; form++) {
        bool f64 = form / 2 == 0, mixed = form % 2;
        outcome one;
        lmoe_ctx ctx;
        if (run(&ctx, layer, mixed, NULL, f64, &one) != LMOE_OK) {
            fprintf(t->out, "FAILED  %s on one rank: %s\n", name, ctx.message);
            t->failed++;
            return;
        }
        for (int i = 0; i < N_LAYOUTS; i++) {
            if ((i >= FIRST_MIXED) != mixed || !strstr(layouts[i].name, only)) continue;
            check(t, name, &layouts[i], f64, &one, layer, mixed);
        }
        forget(&one);
    }
}

int main(int argc, char **argv)
{
    tally t = {.out = fdopen(dup(1), "w")};
    char folder[] = "/tmp/lmoe-matrix-XXXXXX", command[64];
    int part = 0, parts = 1, at = 1, number = 0;
    if (argc > 2 && strcmp(argv[1], "--part") == 0) {
        if (sscanf(argv[2], "%d/%d", &part, &parts) != 2) return 2;
        at = 3;
    }
    const char *only_layer = at < argc ? argv[at] : "", *only = at + 1 < argc ? argv[at + 1] : "";
    bool whole = !*only_layer && !*only;
    char other[128] = "";
    if (argc > 2 && strcmp(argv[1], "--class") == 0) {
        snprintf(other, sizeof other, "class = %s\nheads = 4", argv[2]);
        only_layer = only = "";
    }
    if (!freopen("/dev/null", "w", stdout) || !mkdtemp(folder) || chdir(folder) != 0) return 2;
    if (!make_documents()) return 2;
    if (*other) check_layer(&t, other, "");
    if (whole && !*other && !all_listed(t.out)) t.failed++;
    for (size_t i = 0; i < N_LAYERS && !*other; i++) {
        char name[64], before[64] = "";
        name_of(layers[i], name, sizeof name);
        if (i > 0) name_of(layers[i - 1], before, sizeof before);
        if (strcmp(name, before) == 0 || !strstr(name, only_layer)) continue;
        if (number++ % parts == part) check_layer(&t, layers[i], only);
    }
    fprintf(t.out, "%d passed, %d failed, %d refused\n", t.passed, t.failed, t.refused);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (chdir("/") != 0 || system(command) != 0) return 2;
    bool too_many = t.refused * 20 > t.passed + t.refused;
    fclose(t.out);
    return t.failed > 0 || too_many || t.passed == 0;
}
