/* SPDX-License-Identifier: Apache-2.0
 * core/train/report.c: what a run tells: metrics.jsonl (one object a step), run.json (what ran),
 * resolved.ini, the status line.
 */
#include "core/train/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---- */

static lmoe_status make_dirs(lmoe_ctx *ctx, const char *path)
{
    char buf[4096];
    snprintf(buf, sizeof buf, "%s", path);
    for (char *p = buf + 1;; p++) {
        if (*p != '/' && *p) continue;
        char was = *p;
        *p = 0;
        if (mkdir(buf, 0777) != 0 && errno != EEXIST)
            return lmoe_error(ctx, LMOE_E_CONFIG,
                              "[run] dir: the directory '%s' cannot be made: %s", buf,
                              strerror(errno));
        *p = was;
        if (!was) return LMOE_OK;
    }
}

/* Metrics of steps after the one that the run goes on from are cut off: they will be written again.
 */
static lmoe_status open_metrics(lmoe__rank *r, const char *path)
{
    FILE *f = fopen(path, "r+");
    if (!f) f = fopen(path, "w+");
    if (!f)
        return lmoe_error(&r->ctx, LMOE_E_CONFIG, "'%s' cannot be written: %s", path,
                          strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    long keep = 0;
    long long step;
    while (getline(&line, &cap, f) > 0) {
        bool whole = line[strlen(line) - 1] == '\n';
        if (!whole || sscanf(line, "{\"step\":%lld", &step) != 1) break;
        if (step > r->done - r->owes_eval) break;
        keep = ftell(f);
    }
    free(line);
    if (fseek(f, keep, SEEK_SET) != 0 || ftruncate(fileno(f), keep) != 0) {
        fclose(f);
        return lmoe_error(&r->ctx, LMOE_E_IO, "'%s' cannot be cut to its last step: %s", path,
                          strerror(errno));
    }
    r->report.metrics = f;
    return LMOE_OK;
}

static lmoe_status write_conf(lmoe__rank *r, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    lmoe__conf_show(r->setup->conf, f);
    fclose(f);
    lmoe_status status = lmoe__write_file(&r->ctx, path, text, size);
    free(text);
    return status;
}

int64_t lmoe__process_bytes(const char *key)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kilobytes = 0;
    size_t n = strlen(key);
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) == 0 && line[n] == ':') sscanf(line + n + 1, "%lld", &kilobytes);
    }
    if (f) fclose(f);
    return kilobytes * 1024;
}

static int64_t planned(const lmoe__rank *r)
{
    int64_t all = 0;
    for (int i = 0; i < LMOE__MEM_KINDS; i++) all += r->engine.store.bytes[i];
    return all;
}

/* What the model has made the process grow by, at most so far; 0 if it lives elsewhere. */
static int64_t grown(const lmoe__rank *r)
{
    bool here = strcmp(r->setup->device->device, "cpu") == 0;
    int64_t most = lmoe__process_bytes("VmHWM");
    return here && most > r->report.resident ? most - r->report.resident : 0;
}

/* grown: 0 before the end */
static lmoe_status write_card(lmoe__rank *r, int64_t grown)
{
    const lmoe__setup *s = r->setup;
    lmoe_device_info info = {.size = sizeof info};
    const lmoe__plugin *p;
    lmoe__text t = {0};
    lmoe__text_add(&t, "{\n  \"lmoe\": \"%s\",\n  \"abi\": \"%d.%d\",\n  \"seed\": %lld,\n",
                   LMOE_VERSION, LMOE_ABI_MAJOR, LMOE_API_MINOR, (long long)s->run.seed);
    lmoe__text_add(&t, "  \"ranks\": %d,\n  \"threads\": %d,\n  \"device\": ", s->world,
                   lmoe_threads(&r->ctx));
    s->device->info(r->dev, &info);
    lmoe__text_add_json(&t, info.name);
    lmoe__text_add(&t, ",\n  \"parameters\": %lld,\n  \"active_parameters\": %lld,\n",
                   (long long)r->engine.count.total, (long long)r->engine.count.active);
    lmoe__text_add(&t, "  \"planned_bytes\": %lld,\n", (long long)r->report.planned);
    if (grown > 0) lmoe__text_add(&t, "  \"grown_bytes\": %lld,\n", (long long)grown);
    lmoe__text_add(&t, "  \"plugins\": [");
    for (int i = 0; (p = lmoe__registry_plugin(s->registry, i)); i++) {
        lmoe__text_add(&t, "%s\n    {\"id\": ", i ? "," : "");
        lmoe__text_add_json(&t, p->info.id);
        lmoe__text_add(&t, ", \"version\": ");
        lmoe__text_add_json(&t, p->info.version ? p->info.version : "");
        lmoe__text_add(&t, ", \"xxh3\": \"%s\"}", p->digest);
    }
    lmoe__text_add(&t, "\n  ]\n}\n");
    char path[4200];
    snprintf(path, sizeof path, "%s/run.json", s->run.dir);
    lmoe_status status = lmoe__write_file(&r->ctx, path, t.data, t.length);
    lmoe__text_free(&t);
    return status;
}

lmoe_status lmoe__report_open(lmoe__rank *r)
{
    lmoe__report *p = &r->report;
    lmoe_device_info info = {.size = sizeof info};
    char path[4200], total[32], active[32], bytes[32];
    p->started = p->last_line = lmoe__now();
    p->planned = (double)planned(r);
    /* ranks of a pipeline plan differently */
    LMOE_TRY(lmoe__rank_reduce(r, &p->planned, 1, LMOE_F64, LMOE_SUM));
    if (r->rank != 0) return LMOE_OK;
    r->setup->device->info(r->dev, &info);
    p->peak_flops = info.peak_flops * r->setup->world;
    p->flops_per_token = r->flops * r->setup->world /
                         ((double)r->setup->train.batch / (double)r->setup->train.accumulate *
                          (double)r->setup->train.seq);
    p->terminal = isatty(STDOUT_FILENO);
    p->load = LMOE_NEW_N(r->engine.arena, double, r->setup->model.ffn.experts);
    p->balance = LMOE_NEW_N(r->engine.arena, lmoe__balance, r->setup->model.o.layers);
    LMOE_TRY(make_dirs(&r->ctx, r->setup->run.dir));
    snprintf(path, sizeof path, "%s/resolved.ini", r->setup->run.dir);
    LMOE_TRY(write_conf(r, path));
    LMOE_TRY(write_card(r, 0));
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->setup->run.dir);
    LMOE_TRY(open_metrics(r, path));
    printf("%s parameters (%s active), %s planned on %s%s\n",
           lmoe__count_text(total, sizeof total, (double)r->engine.count.total),
           lmoe__count_text(active, sizeof active, (double)r->engine.count.active),
           lmoe__bytes_text(bytes, sizeof bytes, (double)planned(r)), info.name,
           r->setup->world > 1 ? " per rank" : "");
    if (r->done > 0) printf("going on after step %lld\n", (long long)r->done);
    fflush(stdout);
    return LMOE_OK;
}

/* ---- metrics ---- */

static void put_number(lmoe__text *t, const char *key, double x)
{
    if (isfinite(x)) lmoe__text_add(t, ",\"%s\":%.9g", key, x);
}

/* With all digits that it has. */
static void put_exact(const lmoe__rank *r, lmoe__text *t, const char *key, double x)
{
    int digits = r->engine.dtype == LMOE_F64 ? 17 : 9;
    if (isfinite(x)) lmoe__text_add(t, ",\"%s\":%.*g", key, digits, x);
}

/* Losses that routers add, summed over layers by name: "aux:aux_loss/3" -> "moe/aux_loss". */
static void put_aux(lmoe__rank *r, lmoe__text *t)
{
    const lmoe__store *s = &r->engine.store;
    const char *seen[16];
    double sum[16];
    int n = 0;
    for (int i = 0; i < s->count; i++) {
        const char *name = s->buffers[i].name;
        if (strncmp(name, "aux:", 4) != 0) continue;
        size_t len = strcspn(name + 4, "/");
        double x = 0;
        int k = 0;
        lmoe__engine_read(&r->engine, name, &x, 1);
        while (k < n && strncmp(seen[k], name + 4, len) != 0) k++;
        if (k == 16) continue;
        if (k == n) {
            seen[n] = name + 4;
            sum[n++] = 0;
        }
        sum[k] += x;
    }
    for (int k = 0; k < n; k++) {
        char key[128];
        snprintf(key, sizeof key, "moe/%.*s", (int)strcspn(seen[k], "/"), seen[k]);
        put_number(t, key, sum[k]);
    }
}

/* What rank 0 received in each kind of exchange since the last report, and how long it waited. */
static void put_exchanges(lmoe__rank *r, lmoe__text *t)
{
    for (int k = LMOE_ALL_REDUCE; k <= LMOE_RECV; k++) {
        double bytes = 0, seconds = 0;
        const char *name = NULL;
        char key[64];
        for (int i = 0; i < r->engine.n_programs; i++) {
            lmoe__plan *p = r->engine.programs[i]->plan;
            for (int n = 0; p->has_exchange && n < p->n_steps; n++) {
                lmoe__step *s = &p->steps[n];
                if (s->exchange != k) continue;
                name = s->node->op->base.name;
                bytes += (double)s->received;
                seconds += s->exposed;
                s->received = 0;
                s->exposed = 0;
            }
        }
        if (!name || k == LMOE_SEND) continue;
        snprintf(key, sizeof key, "comm/%.*s/bytes", (int)strcspn(name, "/"), name);
        put_number(t, key, bytes);
        snprintf(key, sizeof key, "comm/%.*s/exposed_s", (int)strcspn(name, "/"), name);
        put_number(t, key, seconds);
    }
    if (!r->pipe) return;
    put_number(t, "comm/stages/bytes", (double)r->pipe->received);
    put_number(t, "comm/stages/exposed_s", r->pipe->exposed);
    r->pipe->received = 0;
    r->pipe->exposed = 0;
}

void lmoe__report_note(lmoe__rank *r, const lmoe__step_result *s)
{
    lmoe__text *t = &r->report.line;
    if (r->rank != 0) return;
    t->length = 0;
    lmoe__text_add(t, "{\"step\":%lld", (long long)s->step);
    put_exact(r, t, "train_loss", s->loss);
    put_exact(r, t, "grad_norm", s->grad_norm);
    put_number(t, "lr", s->lr);
    put_number(t, "tokens_per_s", s->tokens / s->seconds);
    put_exchanges(r, t);
    lmoe__balance_note(r, t);
    put_aux(r, t);
}

static lmoe_status write_metrics(lmoe__rank *r, const lmoe__step_result *s)
{
    lmoe__text *t = &r->report.line;
    FILE *f = r->report.metrics;
    put_number(t, "val_loss", s->val_loss);
    put_number(t, "val_bits_per_byte", s->val_bits);
    fprintf(f, "%s}\n", t->data);
    t->length = 0;
    if (fflush(f) != 0)
        return lmoe_error(&r->ctx, LMOE_E_IO, "metrics.jsonl cannot be written: %s",
                          strerror(errno));
    return LMOE_OK;
}

/* ---- the status line ---- */

static double megabytes(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_maxrss / 1024;
}

static void print_rate(lmoe__rank *r, const lmoe__step_result *s, double now)
{
    lmoe__report *p = &r->report;
    const lmoe__train_options *t = &r->setup->train;
    double left = (double)(t->steps - s->step) * s->seconds;
    if (r->setup->run.minutes > 0)
        left = fmin(left, r->setup->run.minutes * 60 - (now - p->started));
    printf("  loss %.4f  grad %.3f  lr %.2e  %.0f tok/s", s->loss, s->grad_norm, s->lr, p->rate);
    if (p->peak_flops > 0)
        printf("  %.0f %% of peak", 100 * p->rate * p->flops_per_token / p->peak_flops);
    printf("  %.0f MB  %d:%02d left", megabytes(), (int)(fmax(left, 0) / 60),
           (int)fmax(left, 0) % 60);
}

static void status_line(lmoe__rank *r, const lmoe__step_result *s)
{
    lmoe__report *p = &r->report;
    double now = lmoe__now();
    bool evaluated = isfinite(s->val_loss), last = s->step >= r->setup->train.steps;
    if (!evaluated && !last && now - p->last_line < (p->terminal ? 0.25 : 10)) return;
    p->last_line = now;
    printf("%sstep %lld/%lld", p->terminal ? "\r\033[K" : "", (long long)s->step,
           (long long)r->setup->train.steps);
    if (s->seconds > 0) print_rate(r, s, now);
    if (evaluated) printf("  | held out %.4f nats, %.4f bits/byte", s->val_loss, s->val_bits);
    if (!p->terminal || evaluated || last) printf("\n");
    fflush(stdout);
}

lmoe_status lmoe__report_step(lmoe__rank *r, const lmoe__step_result *s)
{
    lmoe__report *p = &r->report;
    if (r->rank != 0) return LMOE_OK;
    if (s->seconds > 0) {
        double rate = s->tokens / s->seconds;
        p->rate = p->rate > 0 ? 0.9 * p->rate + 0.1 * rate : rate;
    }
    if (p->line.length > 0) LMOE_TRY(write_metrics(r, s));
    status_line(r, s);
    return LMOE_OK;
}

lmoe_status lmoe__report_end(lmoe__rank *r)
{
    char plan[32], growth[32];
    if (r->rank != 0) return LMOE_OK;
    double minutes = (lmoe__now() - r->report.started) / 60;
    int64_t bytes = grown(r);
    if (r->report.terminal) printf("\n");
    if (r->stop)
        printf("stopped by a signal after step %lld; the same command goes on\n",
               (long long)r->done);
    else
        printf("%lld steps in %.1f minutes\n", (long long)r->done, minutes);
    if (isfinite(r->best_val)) printf("best held-out loss %.4f nats per token\n", r->best_val);
    lmoe__balance_summary(r);
    if (bytes > 0)
        printf("memory: %s planned, the process grew by %s\n",
               lmoe__bytes_text(plan, sizeof plan, r->report.planned),
               lmoe__bytes_text(growth, sizeof growth, (double)bytes));
    fflush(stdout);
    return write_card(r, bytes);
}

void lmoe__report_close(lmoe__rank *r)
{
    if (r->report.metrics) fclose(r->report.metrics);
    lmoe__text_free(&r->report.line);
    r->report.metrics = NULL;
}
