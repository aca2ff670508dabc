/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/load.c: finds the newest checkpoint that is whole, and gives out its tensors.
 */
#include "core/ckpt/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

typedef struct entry {
    const lmoe__st_tensor *tensor;
    lmoe__ckpt_kind kind;
} entry;

struct lmoe__ckpt {
    char *path;
    lmoe__manifest manifest;
    lmoe__st *files;
    int opened;
    entry *entries; /* by name */
    int count;
};

/* ---- one checkpoint ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->tensor->name, ((const entry *)b)->tensor->name);
}

static lmoe_status bad(lmoe_ctx *ctx, const char *path, const char *what, const char *name)
{
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: %s%.300s; the checkpoint is damaged: use an older one", path, what,
                      name);
}

static lmoe_status open_file(lmoe_ctx *ctx, lmoe__ckpt *c, const lmoe__manifest_file *f)
{
    char digest[33];
    lmoe__text path = {0};
    lmoe__text_add(&path, "%s/%s", c->path, f->name);
    lmoe_status status = lmoe__digest_file(ctx, path.data, digest);
    if (status == LMOE_OK && strcmp(digest, f->digest) != 0)
        status = bad(ctx, path.data, "its digest differs from that in the manifest", "");
    if (status == LMOE_OK) status = lmoe__st_open(ctx, path.data, &c->files[c->opened]);
    if (status == LMOE_OK) c->opened++;
    lmoe__text_free(&path);
    return status;
}

static lmoe_status list_tensors(lmoe_ctx *ctx, lmoe__ckpt *c)
{
    int64_t total = 0;
    for (int i = 0; i < c->opened; i++) total += c->files[i].count;
    if (total != c->manifest.tensors)
        return bad(ctx, c->path, "its files do not hold as many tensors as the manifest says", "");
    c->entries = lmoe__malloc(sizeof *c->entries * (size_t)(total + 1));
    for (int i = 0; i < c->opened; i++) {
        bool model = strncmp(c->manifest.files[i].name, "model-", 6) == 0;
        if (!model && strncmp(c->manifest.files[i].name, "optimizer-", 10) != 0)
            return bad(ctx, c->path, "there should be no file ", c->manifest.files[i].name);
        for (int k = 0; k < c->files[i].count; k++)
            c->entries[c->count++] =
                (entry){&c->files[i].tensors[k], model ? LMOE__CKPT_MODEL : LMOE__CKPT_OPTIMIZER};
    }
    qsort(c->entries, (size_t)c->count, sizeof *c->entries, by_name);
    for (int i = 1; i < c->count; i++) {
        if (by_name(&c->entries[i - 1], &c->entries[i]) == 0)
            return bad(ctx, c->path, "two files hold the tensor ", c->entries[i].tensor->name);
    }
    return LMOE_OK;
}

static lmoe_status open_all(lmoe_ctx *ctx, lmoe__ckpt *c)
{
    LMOE_TRY(lmoe__manifest_read(ctx, c->path, &c->manifest));
    c->files = lmoe__malloc(sizeof *c->files * (size_t)(c->manifest.count + 1));
    for (int i = 0; i < c->manifest.count; i++) LMOE_TRY(open_file(ctx, c, &c->manifest.files[i]));
    return list_tensors(ctx, c);
}

lmoe_status lmoe__ckpt_open(lmoe_ctx *ctx, const char *path, lmoe__ckpt **out)
{
    lmoe__ckpt *c = lmoe__malloc(sizeof *c);
    *c = (lmoe__ckpt){.path = strcpy(lmoe__malloc(strlen(path) + 1), path)};
    *out = NULL;
    lmoe_status status = open_all(ctx, c);
    if (status == LMOE_OK) {
        *out = c;
    } else {
        lmoe__ckpt_close(c);
    }
    return status;
}

void lmoe__ckpt_close(lmoe__ckpt *c)
{
    if (!c) return;
    for (int i = 0; i < c->opened; i++) lmoe__st_close(&c->files[i]);
    lmoe__manifest_free(&c->manifest);
    free(c->files);
    free(c->entries);
    free(c->path);
    free(c);
}

const char *lmoe__ckpt_path(const lmoe__ckpt *c)
{
    return c->path;
}

int64_t lmoe__ckpt_step(const lmoe__ckpt *c)
{
    return c->manifest.step;
}

const json_t *lmoe__ckpt_state(const lmoe__ckpt *c)
{
    return c->manifest.state;
}

const char *lmoe__ckpt_config(const lmoe__ckpt *c)
{
    return c->manifest.config;
}

static const entry *find(const lmoe__ckpt *c, const char *name)
{
    lmoe__st_tensor tensor = {.name = name};
    entry key = {.tensor = &tensor};
    return bsearch(&key, c->entries, (size_t)c->count, sizeof key, by_name);
}

const lmoe__st_tensor *lmoe__ckpt_find(const lmoe__ckpt *c, const char *name)
{
    const entry *e = find(c, name);
    return e ? e->tensor : NULL;
}

/* ---- the newest ---- */

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

int64_t *lmoe__ckpt_steps(const char *folder, int *count)
{
    int64_t *steps = NULL;
    int capacity = 0;
    DIR *dir = opendir(folder);
    *count = dir ? 0 : -1;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char name[32];
        if (strncmp(e->d_name, "step-", 5) != 0) continue;
        int64_t step = strtoll(e->d_name + 5, NULL, 10);
        snprintf(name, sizeof name, "step-%lld", (long long)step);
        if (step >= 0 && strcmp(name, e->d_name) == 0) LMOE_PUSH(steps, *count, capacity, step);
    }
    if (dir) closedir(dir);
    if (*count > 1) qsort(steps, (size_t)*count, sizeof *steps, newest_first);
    return steps;
}

/* Opens it, or says why not. */
static lmoe__ckpt *try_step(lmoe_ctx *ctx, const char *folder, int64_t step)
{
    lmoe_ctx quiet;
    lmoe__ckpt *c;
    lmoe__text path = {0};
    lmoe__ctx_init(&quiet);
    lmoe__text_add(&path, "%s/step-%lld", folder, (long long)step);
    lmoe_status status = lmoe__ckpt_open(&quiet, path.data, &c);
    if (status == LMOE_OK && c->manifest.step != step) {
        bad(&quiet, path.data, "it is of another step than its name says", "");
        lmoe__ckpt_close(c);
        c = NULL;
    }
    if (!c)
        lmoe__log(ctx, LMOE_LOG_WARN, "passing over step %lld: %s", (long long)step, quiet.message);
    lmoe__text_free(&path);
    return c;
}

lmoe_status lmoe__ckpt_newest(lmoe_ctx *ctx, const char *folder, lmoe__ckpt **out)
{
    int count;
    *out = NULL;
    int64_t *steps = lmoe__ckpt_steps(folder, &count);
    if (count < 0 && errno != ENOENT)
        return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", folder, strerror(errno));
    for (int i = 0; i < count && !*out; i++) *out = try_step(ctx, folder, steps[i]);
    free(steps);
    if (*out || count <= 0) return LMOE_OK;
    return lmoe_error(
        ctx, LMOE_E_CONFIG,
        "none of the %d checkpoints in %s is whole: bring one back, or move them away "
        "to begin anew",
        count, folder);
}

/* ---- tensors ---- */

static void add_shape(lmoe__text *s, const char *dtype, int rank, const int64_t *dim)
{
    lmoe__text_add(s, "%s (", dtype);
    for (int i = 0; i < rank; i++) lmoe__text_add(s, "%s%lld", i ? " " : "", (long long)dim[i]);
    lmoe__text_add(s, ")");
}

static lmoe_status missing(lmoe_ctx *ctx, const lmoe__ckpt *c, const char *name)
{
    const char **names = lmoe__malloc(sizeof *names * (size_t)(c->count + 1));
    for (int i = 0; i < c->count; i++) names[i] = c->entries[i].tensor->name;
    const char *near = lmoe__nearest(name, names, c->count);
    free(names);
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s has no tensor \"%.200s\"%s%.200s%s; it is of another model: compare the "
                      "configurations",
                      c->path, name, near ? " (the nearest is \"" : "", near ? near : "",
                      near ? "\")" : "");
}

static lmoe_status check_tensor(lmoe_ctx *ctx, const lmoe__ckpt *c, const lmoe__ckpt_tensor *x)
{
    const entry *e = find(c, x->name);
    if (!e || e->kind != x->kind) return missing(ctx, c, x->name);
    const lmoe__st_tensor *t = e->tensor;
    const lmoe_desc *d = &x->desc;
    size_t dims = sizeof *d->dim * (size_t)d->rank;
    if (t->dtype == d->dtype && t->rank == d->rank && memcmp(t->dim, d->dim, dims) == 0)
        return LMOE_OK;
    const char *dtype = "";
    lmoe__text have = {0}, want = {0};
    lmoe__st_dtype(d->dtype, &dtype);
    add_shape(&have, t->dtype_name, t->rank, t->dim);
    add_shape(&want, dtype, d->rank, d->dim);
    lmoe_status status =
        lmoe_error(ctx, LMOE_E_CONFIG,
                   "%s: tensor \"%.200s\" is %s; the model's is %s: compare the configurations",
                   c->path, x->name, have.data, want.data);
    lmoe__text_free(&have);
    lmoe__text_free(&want);
    return status;
}

/* Every listed tensor is there, and of the kinds that are listed nothing else. */
static lmoe_status check_all(lmoe_ctx *ctx, const lmoe__ckpt *c, const lmoe__ckpt_tensor *tensors,
                             int count)
{
    bool kinds[2] = {false, false};
    for (int i = 0; i < count; i++) {
        LMOE_TRY(check_tensor(ctx, c, &tensors[i]));
        kinds[tensors[i].kind] = true;
    }
    bool *wanted = lmoe__malloc((size_t)c->count + 1);
    memset(wanted, 0, (size_t)c->count + 1);
    for (int i = 0; i < count; i++) wanted[find(c, tensors[i].name) - c->entries] = true;
    int other = 0;
    while (other < c->count && (wanted[other] || !kinds[c->entries[other].kind])) other++;
    free(wanted);
    if (other == c->count) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s has a tensor \"%.200s\", which the model has not: compare the "
                      "configurations",
                      c->path, c->entries[other].tensor->name);
}

lmoe_status lmoe__ckpt_load(lmoe_ctx *ctx, const lmoe__ckpt *c, const lmoe__ckpt_tensor *tensors,
                            int count, lmoe__ckpt_io write, void *user)
{
    LMOE_TRY(lmoe__ckpt_check(ctx, tensors, NULL, count));
    LMOE_TRY(check_all(ctx, c, tensors, count));
    for (int i = 0; i < c->opened; i++)
        LMOE_TRY(lmoe__map_check(ctx, c->files[i].path, &c->files[i].map));
    void *host = lmoe__ckpt_room(tensors, NULL, count);
    if (!host) return lmoe_error(ctx, LMOE_E_MEMORY, "no memory to read %s", c->path);
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < count && status == LMOE_OK; i++) {
        const lmoe__st_tensor *t = lmoe__ckpt_find(c, tensors[i].name);
        size_t at = 0;
        do {
            size_t piece = t->bytes - at < LMOE__CKPT_PIECE ? t->bytes - at : LMOE__CKPT_PIECE;
            if (piece) memcpy(host, t->data + at, piece);
            status = write(user, i, at, host, piece);
            at += piece;
        } while (at < t->bytes && status == LMOE_OK);
    }
    free(host);
    return status;
}
