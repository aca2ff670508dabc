/* SPDX-License-Identifier: Apache-2.0
 * core/check/child.c: one check on one class, in a process of its own.
 *
 * The verdict lies in memory that both processes share, so what the check has said so far is known
 * however it ends. What the child writes to stdout or stderr goes to a file.
 */
#include "core/check/check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- what runs in the child ---- */

static const lmoe_class *class_named(const lmoe__plugin *p, const char *name)
{
    for (int i = 0; i < p->n_classes; i++) {
        if (strcmp(p->classes[i]->name, name) == 0) return p->classes[i];
    }
    return NULL;
}

/* Defaults of the class, and what [CLASS] of check.ini says; what a communicator stands around. */
static lmoe_status fill_options(lmoe__exam *x, lmoe__conf *notes)
{
    const lmoe_class *c = x->class;
    if (!c || !c->options) return LMOE_OK;
    x->options = lmoe__arena_alloc(x->arena, c->options_size + 1);
    lmoe__options_default(c->options, x->options, x->arena);
    if (notes && lmoe__conf_has(notes, c->name))
        LMOE_TRY(lmoe__options_fill(x->ctx, notes, c->name, c->options, x->options, x->arena));
    if (strcmp(c->kind, LMOE_KIND_COMM) != 0) return LMOE_OK;
    const lmoe_comm *comm = (const lmoe_comm *)(const void *)c;
    return lmoe__comm_inner(x->ctx, x->registry, NULL, comm, x->options, x->arena);
}

/* Opens the plugin, unless the check does that itself, and runs the check. */
static void examine(const char *path, const lmoe__check *c, const char *class, lmoe__conf *notes,
                    const lmoe__check_options *o, lmoe__verdict *verdict)
{
    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    ctx.log_level = LMOE_LOG_WARN;
    lmoe__exam x = {.ctx = &ctx,
                    .arena = lmoe__arena_new(),
                    .registry = lmoe__registry_new(o->plugin_path),
                    .path = path,
                    .level = o->level,
                    .verdict = verdict};
    char stream[512];
    snprintf(stream, sizeof stream, "%s/%s %s", c->group, c->name, class ? class : "");
    x.seed = o->seed * 0x9e3779b97f4a7c15u ^ lmoe__hash_text(stream);
    bool ready = true;
    if (!(c->flags & LMOE__CHECK_CLOSED)) {
        ready = lmoe__check_ok(&x, lmoe__registry_open(x.registry, &ctx, path), "opening it");
        x.plugin = lmoe__registry_plugin(x.registry, 0);
        if (ready && class) x.class = class_named(x.plugin, class);
        if (ready) ready = lmoe__check_ok(&x, fill_options(&x, notes), "options");
    }
    if (ready) c->run(&x);
    if (x.dev) x.device->close(x.dev);
    lmoe__registry_free(x.registry);
    lmoe__arena_free(x.arena);
    fflush(NULL);
    verdict->done = true;
}

/* ---- the parent's side ---- */

static void in_child(int output, const char *path, const lmoe__check *c, const char *class,
                     lmoe__conf *notes, const lmoe__check_options *o, lmoe__verdict *verdict)
{
    struct rlimit none = {0, 0}, room = {1 << 28, 1 << 28};
    setrlimit(RLIMIT_CORE, &none);  /* a crash here is expected: leave no file */
    setrlimit(RLIMIT_FSIZE, &room); /* who prints without end shall not fill the disk */
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    close(null);
    close(output);
    examine(path, c, class, notes, o, verdict);
    _exit(0); /* not exit: neither the plugin's nor the parent's handlers are to run here */
}

/* Waits for the child; false: time is up. */
static bool wait_for(pid_t pid, double seconds, int *status)
{
    double end = lmoe__now() + seconds;
    long pause = 100000; /* ns */
    for (;;) {
        pid_t got = waitpid(pid, status, WNOHANG);
        if (got == pid) return true;
        if (got < 0 && errno != EINTR) return true;
        if (lmoe__now() > end) return false;
        struct timespec t = {0, pause};
        nanosleep(&t, NULL);
        if (pause < 10000000) pause *= 2;
    }
}

static const char *first_line(lmoe__arena *a, FILE *f)
{
    char text[201] = "";
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    if (n == 0) return NULL;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    return lmoe__arena_strdup(a, text[0] ? text : "(an empty line)");
}

static void put_message(lmoe__verdict *v, lmoe__outcome outcome, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put_message(lmoe__verdict *v, lmoe__outcome outcome, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(v->message, sizeof v->message, format, args);
    va_end(args);
    v->outcome = outcome;
}

/* How a child ended that did not report. A failure that it had recorded before says more. */
static void judge_ending(lmoe__verdict *v, bool in_time, double seconds, int status)
{
    if (v->outcome == LMOE__FAIL) return;
    if (!in_time)
        put_message(v, LMOE__TIMEOUT, "it did not end within %.3g s", seconds);
    else if (WIFSIGNALED(status))
        put_message(v, LMOE__CRASH, "crashes: %s", strsignal(WTERMSIG(status)));
    else
        put_message(v, LMOE__CRASH, "ends the process with exit code %d; a plugin must never exit",
                    WEXITSTATUS(status));
}

void lmoe__check_isolated(lmoe__arena *a, const char *path, const lmoe__check *c, const char *class,
                          lmoe__conf *notes, const lmoe__check_options *o, lmoe__verdict *verdict,
                          const char **printed)
{
    double start = lmoe__now();
    memset(verdict, 0, sizeof *verdict);
    *printed = NULL;
    if (o->in_process) {
        examine(path, c, class, notes, o, verdict);
        verdict->seconds = lmoe__now() - start;
        return;
    }
    lmoe__verdict *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FILE *output = tmpfile();
    if (shared == MAP_FAILED || !output) {
        put_message(verdict, LMOE__FAIL, "the kit has no memory or temporary file: %s",
                    strerror(errno));
        if (shared != MAP_FAILED) munmap(shared, sizeof *shared);
        if (output) fclose(output);
        return;
    }
    memset(shared, 0, sizeof *shared);
    fflush(NULL); /* or the child would write it again */
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        in_child(fileno(output), path, c, class, notes, o, shared);
    }
    bool in_time = true;
    if (pid > 0) {
        setpgid(pid, pid); /* both sides do it: whoever is first */
        in_time = wait_for(pid, c->seconds, &status);
        kill(-pid, SIGKILL); /* if it hangs; and what it may have started */
        if (!in_time) waitpid(pid, &status, 0);
    }
    if (!shared->done && pid > 0) judge_ending(shared, in_time, c->seconds, status);
    if (pid < 0) put_message(shared, LMOE__FAIL, "fork: %s", strerror(errno));
    *verdict = *shared;
    verdict->seconds = lmoe__now() - start;
    *printed = first_line(a, output);
    fclose(output);
    munmap(shared, sizeof *shared);
}
