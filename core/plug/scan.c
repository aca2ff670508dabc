/* SPDX-License-Identifier: Apache-2.0
 * core/plug/scan.c: opens a plugin file in a child process, so that whatever its code does while it
 * is loaded ends there and becomes a sentence here.
 *
 * The child reports over a pipe, one line an entry, fields separated by tabs:
 *   error MESSAGE | plugin ID VERSION LICENCE | class KIND NAME SUMMARY | done
 * A report without `done` is of a child that did not get that far. What it writes to stdout or
 * stderr goes to a second pipe.
 */
#include "core/plug/plug.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- child ---- */

static void report_field(FILE *f, const char *text)
{
    fputc('\t', f);
    for (; text && *text; text++) fputc((unsigned char)*text < ' ' ? ' ' : *text, f);
}

static void report_line(FILE *f, const char *word, const char *a, const char *b, const char *c)
{
    fputs(word, f);
    report_field(f, a);
    report_field(f, b);
    report_field(f, c);
    fputc('\n', f);
}

enum { FILES_CLOSED = 113 }; /* exit code of a child that cannot report */

/* Whether the plugin has started processes, which are ended. What they start becomes this process's
 * own when they end, so that none gets away. */
static bool end_processes(void)
{
    char path[64];
    bool any = waitpid(-1, NULL, WNOHANG) >= 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (int round = 0; any && round < 100; round++) {
        FILE *f = fopen(path, "r");
        int pid, n = 0;
        for (; f && fscanf(f, "%d", &pid) == 1; n++) kill(pid, SIGKILL);
        if (f) fclose(f);
        if (n == 0) break;
        waitpid(-1, NULL, 0);
    }
    return any;
}

static void child(const char *path, int report, int output)
{
    const pid_t self = getpid();
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); /* a crash here is expected: leave no file */
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);

    lmoe_ctx ctx;
    lmoe__ctx_init(&ctx);
    lmoe__registry *r = lmoe__registry_new(NULL);
    lmoe_status status = lmoe__registry_open(r, &ctx, path);
    if (getpid() != self) _exit(0); /* a process that the plugin has started, and let go on here */
    fflush(NULL);
    if (fcntl(STDOUT_FILENO, F_GETFD) < 0 || fcntl(report, F_GETFD) < 0) _exit(FILES_CLOSED);
    if (end_processes())
        status =
            lmoe_error(&ctx, LMOE_E_USAGE,
                       "%s: starts a process while it is loaded, which a plugin must not", path);

    FILE *f = fdopen(report, "w");
    const lmoe__plugin *p = lmoe__registry_plugin(r, 0);
    if (status != LMOE_OK) {
        report_line(f, "error", ctx.message, "", "");
    } else {
        report_line(f, "plugin", p->info.id, p->info.version, p->info.licence);
        for (int i = 0; i < p->n_classes; i++) {
            const lmoe_class *c = p->classes[i];
            report_line(f, "class", c->kind, c->name, c->summary);
        }
    }
    report_line(f, "done", "", "", "");
    fflush(f);
    _exit(0); /* not exit: neither the plugin's nor the parent's handlers are to run here */
}

/* ---- parent ---- */

/* Reads both pipes until the child has closed them or the time is up; false: time is up. */
static bool collect(int report, int output, double end, lmoe__text *said, lmoe__text *printed)
{
    struct pollfd pipes[2] = {{report, POLLIN, 0}, {output, POLLIN, 0}};
    lmoe__text *texts[2] = {said, printed};
    while (pipes[0].fd >= 0 || pipes[1].fd >= 0) {
        double left = end - lmoe__now();
        if (left <= 0) return false;
        if (poll(pipes, 2, (int)(left * 1000) + 1) < 0 && errno != EINTR) return false;
        for (int i = 0; i < 2; i++) {
            if (pipes[i].fd < 0 || !pipes[i].revents) continue;
            char buf[4096];
            ssize_t n = read(pipes[i].fd, buf, sizeof buf);
            if (n <= 0) {
                pipes[i].fd = -1; /* poll skips it */
            } else if (texts[i]->length < 1 << 20) {
                lmoe__text_add_bytes(texts[i], buf, (size_t)n);
            }
        }
    }
    return true;
}

/* A child that has closed the pipes may be on its way still; it is left to be waited for. */
static bool has_ended(pid_t pid, double end)
{
    const struct timespec moment = {0, 2000000};
    for (;;) {
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid)
            return true;
        if (lmoe__now() > end) return false;
        nanosleep(&moment, NULL);
    }
}

static bool parse(lmoe__arena *a, char *text, lmoe__scan *out)
{
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *field[4] = {line, "", "", ""};
        for (int i = 1; i < 4; i++) {
            char *tab = strchr(field[i - 1], '\t');
            if (!tab) break;
            *tab = 0;
            field[i] = tab + 1;
        }
        for (int i = 1; i < 4; i++) field[i] = lmoe__arena_strdup(a, field[i]);
        if (strcmp(field[0], "done") == 0) return true;
        if (strcmp(field[0], "error") == 0) out->error = field[1];
        if (strcmp(field[0], "plugin") == 0) {
            out->id = field[1];
            out->version = field[2];
            out->licence = field[3];
        }
        if (strcmp(field[0], "class") == 0) {
            struct lmoe__scan_class c = {field[1], field[2], field[3]};
            LMOE_PUSH(out->classes, out->n_classes, out->cap_classes, c);
        }
    }
    return false;
}

/* Why a child did not report to the end. */
static const char *ending(lmoe__arena *a, const char *path, bool in_time, double seconds,
                          int status)
{
    if (!in_time)
        return lmoe__arena_printf(a, "%s: hangs: it was not loaded after %.3g s", path, seconds);
    if (WIFSIGNALED(status))
        return lmoe__arena_printf(a, "%s: crashes while it is loaded: %s", path,
                                  strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == FILES_CLOSED)
        return lmoe__arena_printf(
            a,
            "%s: closes the host's files while it is loaded; a plugin leaves what is not its own",
            path);
    return lmoe__arena_printf(a,
                              "%s: ends the process while it is loaded, with exit code %d; a "
                              "plugin must never exit",
                              path, WEXITSTATUS(status));
}

lmoe_status lmoe__scan_file(lmoe_ctx *ctx, lmoe__arena *a, const char *path, double seconds,
                            lmoe__scan *out)
{
    memset(out, 0, sizeof *out);
    int report[2], output[2];
    if (pipe(report) != 0) return lmoe_error(ctx, LMOE_E_IO, "pipe: %s", strerror(errno));
    if (pipe(output) != 0) {
        close(report[0]);
        close(report[1]);
        return lmoe_error(ctx, LMOE_E_IO, "pipe: %s", strerror(errno));
    }
    fflush(NULL); /* or the child would write it again */
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        close(report[0]);
        close(output[0]);
        child(path, report[1], output[1]);
    }
    close(report[1]);
    close(output[1]);
    if (pid < 0) {
        close(report[0]);
        close(output[0]);
        return lmoe_error(ctx, LMOE_E_IO, "fork: %s", strerror(errno));
    }
    setpgid(pid, pid); /* both sides do it: whoever is first */

    lmoe__text said = {0}, printed = {0};
    double end = lmoe__now() + seconds;
    bool in_time = collect(report[0], output[0], end, &said, &printed) && has_ended(pid, end);
    close(report[0]);
    close(output[0]);
    kill(-pid, SIGKILL); /* if it hangs, with or without its pipes; and what it may have started */
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;

    bool done = said.data && parse(a, said.data, out);
    if (!done) out->error = ending(a, path, in_time, seconds, status);
    if (printed.length > 0) {
        size_t line = strcspn(printed.data, "\n");
        out->printed = lmoe__arena_printf(a, "%.*s", line > 200 ? 200 : (int)line, printed.data);
    }
    lmoe__text_free(&said);
    lmoe__text_free(&printed);
    return LMOE_OK;
}

void lmoe__scan_free(lmoe__scan *s)
{
    free(s->classes);
    memset(s, 0, sizeof *s);
}
