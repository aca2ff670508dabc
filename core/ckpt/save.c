/* SPDX-License-Identifier: Apache-2.0
 * core/ckpt/save.c: writes a checkpoint so that at no moment a crash or a full disk costs an older
 * one: aside, synced, manifest last, renamed, read again; only then old ones are removed.
 */
#include "core/ckpt/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const int64_t default_shard = (int64_t)2 << 30;

/* ---- folders ---- */

static char *text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text_of(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) abort();
    va_end(args);
    return text;
}

static char *aside_of(const char *folder, int64_t step)
{
    return text_of("%s/.step-%lld.tmp-%d", folder, (long long)step, (int)getpid());
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    remove(path); /* what stays is tried again at the next save */
    return 0;
}

static void remove_folder(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ".step-N.tmp-PID" of a process that is no more, or of this one. */
static bool is_stale(const char *name)
{
    long long step;
    int pid, n = 0;
    if (sscanf(name, ".step-%lld.tmp-%d%n", &step, &pid, &n) != 2 || name[n]) return false;
    return pid == (int)getpid() || (kill(pid, 0) != 0 && errno == ESRCH);
}

static void remove_stale(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!is_stale(e->d_name)) continue;
        char *path = text_of("%s/%s", folder, e->d_name);
        remove_folder(path);
        free(path);
    }
    if (dir) closedir(dir);
}

static lmoe_status failed(lmoe_ctx *ctx, const char *doing, const char *path)
{
    return lmoe_error(ctx, LMOE_E_IO, "cannot %s %s: %s; the checkpoints before are as they were",
                      doing, path, strerror(errno));
}

/* ---- files of tensors ---- */

typedef struct shard {
    lmoe__ckpt_kind kind;
    int *which;
    int n, capacity;
    int64_t bytes;
    int number, of; /* among those of the kind, from 1 */
} shard;

typedef struct shards {
    shard *items;
    int count, capacity;
} shards;

/* In the list's order; a new file when the next tensor would make the open one too large. */
static void cut(const lmoe__ckpt_options *o, lmoe__ckpt_kind kind, shards *s)
{
    int64_t limit = o->shard_bytes > 0 ? o->shard_bytes : default_shard;
    int first = s->count;
    for (int i = 0; i < o->count; i++) {
        if (o->tensors[i].kind != kind) continue;
        int64_t bytes = lmoe_desc_bytes(&o->tensors[i].desc);
        shard *last = s->count > first ? &s->items[s->count - 1] : NULL;
        if (!last || last->bytes > limit - bytes || last->n == LMOE__ST_MAX_TENSORS) {
            shard next = {.kind = kind, .number = s->count - first + 1};
            LMOE_PUSH(s->items, s->count, s->capacity, next);
            last = &s->items[s->count - 1];
        }
        LMOE_PUSH(last->which, last->n, last->capacity, i);
        last->bytes += bytes;
    }
    for (int i = first; i < s->count; i++) s->items[i].of = s->count - first;
}

static void free_shards(shards *s)
{
    for (int i = 0; i < s->count; i++) free(s->items[i].which);
    free(s->items);
}

static lmoe_status write_shard(lmoe_ctx *ctx, const lmoe__ckpt_options *o, const char *aside,
                               const shard *s, lmoe__manifest *m)
{
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)o->step);
    const char *const metadata[] = {"lmoe_version", LMOE_VERSION, "step", step, NULL};
    char *name = text_of("%s-%05d-of-%05d.safetensors",
                         s->kind == LMOE__CKPT_MODEL ? "model" : "optimizer", s->number, s->of);
    char *path = text_of("%s/%s", aside, name);
    lmoe__st_file f = {path, o->tensors, s->which, s->n, metadata, o->read, o->user, 0, {0}};
    lmoe_status status = lmoe__st_write(ctx, &f);
    free(path);
    lmoe__manifest_file *file = &m->files[m->count++];
    *file = (lmoe__manifest_file){.name = name, .size = f.size};
    memcpy(file->digest, f.digest, sizeof file->digest);
    return status;
}

static lmoe_status write_files(lmoe_ctx *ctx, const lmoe__ckpt_options *o, const char *aside)
{
    shards s = {0};
    cut(o, LMOE__CKPT_MODEL, &s);
    cut(o, LMOE__CKPT_OPTIMIZER, &s);
    lmoe__manifest m = {
        .step = o->step, .tensors = o->count, .state = o->state, .config = o->config};
    m.files = lmoe__malloc(sizeof *m.files * (size_t)(s.count + 1));
    lmoe_status status = LMOE_OK;
    for (int i = 0; i < s.count && status == LMOE_OK; i++)
        status = write_shard(ctx, o, aside, &s.items[i], &m);
    if (status == LMOE_OK) status = lmoe__manifest_write(ctx, aside, &m);
    for (int i = 0; i < m.count; i++) free((char *)m.files[i].name);
    free(m.files);
    free_shards(&s);
    return status;
}

/* ---- into place ---- */

/* The new checkpoint is in `aside`, and goes to `path`. One of the same step that is there changes
 * places with it; where the file system cannot exchange, it moves into the new one meanwhile. */
typedef struct move {
    char *aside, *path, *held; /* held: in the new one's folder, as long as it is in aside */
    enum { FRESH, EXCHANGED, HELD } how;
} move;

static int exchange(const move *m)
{
    return renameat2(AT_FDCWD, m->aside, AT_FDCWD, m->path, RENAME_EXCHANGE);
}

static int put_in_place(move *m)
{
    m->how = FRESH;
    if (rename(m->aside, m->path) == 0) return 0;
    if (errno != ENOTEMPTY && errno != EEXIST) return -1;
    m->how = EXCHANGED;
    if (exchange(m) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    m->how = HELD;
    if (rename(m->path, m->held) != 0) return -1;
    if (rename(m->aside, m->path) == 0) return 0;
    int error = errno;
    rename(m->held, m->path);
    errno = error;
    return -1;
}

/* As it was before; the new checkpoint is aside again. */
static void take_back(const move *m)
{
    if (m->how == EXCHANGED) {
        exchange(m);
    } else if (rename(m->path, m->aside) == 0 && m->how == HELD) {
        rename(m->held, m->path);
    }
}

/* The digests are those of what was meant to be written. */
static lmoe_status read_again(lmoe_ctx *ctx, const char *path)
{
    lmoe_ctx quiet;
    lmoe__ckpt *c;
    lmoe__ctx_init(&quiet);
    if (lmoe__ckpt_open(&quiet, path, &c) != LMOE_OK)
        return lmoe_error(
            ctx, LMOE_E_IO,
            "the checkpoint that was just written reads back wrong, and is not kept: %s",
            quiet.message);
    lmoe__ckpt_close(c);
    return LMOE_OK;
}

static lmoe_status install(lmoe_ctx *ctx, move *m)
{
    if (put_in_place(m) != 0) return failed(ctx, "put in place", m->path);
    lmoe_status status = lmoe__sync_folder(m->path) == 0
                             ? read_again(ctx, m->path)
                             : failed(ctx, "sync the folder of", m->path);
    if (status != LMOE_OK) {
        take_back(m);
    } else if (m->how == HELD) {
        char *held = text_of("%s%s", m->path, m->held + strlen(m->aside));
        remove_folder(held);
        free(held);
    }
    return status;
}

/* ---- what need not be kept ---- */

static bool is_whole(const char *folder, int64_t step)
{
    lmoe_ctx quiet;
    lmoe__manifest m;
    lmoe__ctx_init(&quiet);
    char *path = text_of("%s/step-%lld", folder, (long long)step);
    bool whole = lmoe__manifest_read(&quiet, path, &m) == LMOE_OK;
    if (whole) lmoe__manifest_free(&m);
    free(path);
    return whole;
}

/* Renamed first: half of a checkpoint never stands under its name. */
static void drop(const char *folder, int64_t step)
{
    char *path = text_of("%s/step-%lld", folder, (long long)step);
    char *aside = aside_of(folder, step);
    if (rename(path, aside) == 0) remove_folder(aside);
    free(path);
    free(aside);
}

/* Counts whole ones from the new one back; newer steps, of another try, are not ours to judge, and
 * damaged ones stay for whoever wants to save something of them. */
static void drop_old(const lmoe__ckpt_options *o)
{
    int count, kept = 0;
    int64_t *steps = lmoe__ckpt_steps(o->folder, &count);
    for (int i = 0; i < count && o->keep_last > 0; i++) {
        if (steps[i] > o->step || !is_whole(o->folder, steps[i])) continue;
        if (kept < o->keep_last) {
            kept++;
        } else if (o->keep_every <= 0 || steps[i] % o->keep_every != 0) {
            drop(o->folder, steps[i]);
        }
    }
    free(steps);
}

static lmoe_status save(lmoe_ctx *ctx, const lmoe__ckpt_options *o, move *m)
{
    if (mkdir(m->aside, 0777) != 0) return failed(ctx, "create", m->aside);
    LMOE_TRY(write_files(ctx, o, m->aside));
    return install(ctx, m);
}

lmoe_status lmoe__ckpt_save(lmoe_ctx *ctx, const lmoe__ckpt_options *o)
{
    if (o->step < 0) return lmoe_error(ctx, LMOE_E_USAGE, "step %lld", (long long)o->step);
    LMOE_TRY(lmoe__ckpt_check(ctx, o->tensors, NULL, o->count));
    if (mkdir(o->folder, 0777) != 0 && errno != EEXIST) return failed(ctx, "create", o->folder);
    remove_stale(o->folder);
    move m = {.aside = aside_of(o->folder, o->step),
              .path = text_of("%s/step-%lld", o->folder, (long long)o->step)};
    m.held = text_of("%s/replaced", m.aside);
    lmoe_status status = save(ctx, o, &m);
    remove_folder(m.aside); /* what failed, or the step that was replaced */
    if (status == LMOE_OK) drop_old(o);
    free(m.aside);
    free(m.path);
    free(m.held);
    return status;
}
