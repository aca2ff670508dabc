/* SPDX-License-Identifier: Apache-2.0
 * core/check/file.c: group file: what a plugin's file is, and what happens to the process that loads
 * it. Whoever runs a model shares the process with the plugin: signals, rounding, standard output
 * and threads belong to the run.
 */
#include "core/check/check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* Loads the plugin as a run does. */
static bool load(lmoe__exam *x)
{
    return lmoe__check_ok(x, lmoe__registry_open(x->registry, x->ctx, x->path), "loading it");
}

static void opens(lmoe__exam *x)
{
    lmoe_entry entry;
    lmoe__check_ok(x, lmoe__plugin_open(x->ctx, x->path, &entry), "opening it");
}

/* ---- symbols ---- */

static void exports(lmoe__exam *x)
{
    lmoe__dynamic d;
    lmoe__text others = {0};
    int n = 0;
    if (!lmoe__check_ok(x, lmoe__elf_dynamic(x->ctx, x->arena, x->path, &d), "its symbols")) return;
    for (int i = 0; i < d.n_symbols; i++) {
        if (!d.symbols[i].defined || strcmp(d.symbols[i].name, LMOE_ENTRY_SYMBOL) == 0) continue;
        if (n++ < 8) lmoe__text_add(&others, "%s%s", n > 1 ? ", " : "", d.symbols[i].name);
    }
    if (n > 0)
        lmoe__check_fail(
            x,
            "it exports %d symbols besides %s: %s%s; another plugin's may be taken for "
            "them: build with -fvisibility=hidden and link with a version script",
            n, LMOE_ENTRY_SYMBOL, others.data, n > 8 ? ", ..." : "");
    lmoe__text_free(&others);
}

/* What sanitizers put into every object; the program that they run in defines it. */
static bool is_instrument(const char *name)
{
    static const char *const starts[] = {"__asan_", "__ubsan_", "__tsan_",      "__lsan_",
                                         "__msan_", "__gcov",   "__sanitizer_", "__llvm_profile"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        if (starts_with(name, starts[i])) return true;
    }
    return false;
}

static void libraries(lmoe__exam *x)
{
    lmoe__dynamic d;
    if (!lmoe__check_ok(x, lmoe__elf_dynamic(x->ctx, x->arena, x->path, &d), "its symbols")) return;
    for (int i = 0; i < d.n_needed; i++) {
        if (starts_with(d.needed[i], "liblmoe"))
            lmoe__check_fail(x, "it is linked to %s; a plugin is linked to nothing of lmoe",
                             d.needed[i]);
        if (starts_with(d.needed[i], "libcuda.so"))
            lmoe__check_fail(
                x,
                "it is linked to %s, the driver, so it does not open where there is no "
                "GPU: open it with dlopen when a device is opened",
                d.needed[i]);
    }
    void *handle = dlopen(x->path, RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; handle && i < d.n_symbols; i++) {
        const lmoe__symbol *s = &d.symbols[i];
        if (s->defined || is_instrument(s->name)) continue;
        if (starts_with(s->name, "lmoe_"))
            lmoe__check_fail(x, "it uses the symbol %s; calls to lmoe go by the table of the entry",
                             s->name);
        if (!s->weak && !dlsym(handle, s->name))
            lmoe__check_fail(x,
                             "it uses %s, which no library defines that it is linked to; here the "
                             "program happens to: link that library",
                             s->name);
    }
}

/* ---- time ---- */

enum { ENTRY_TRIES = 5 };

/* Seconds of the entry and load() in a process that has just opened the file; < 0: refused. */
static double time_entry(lmoe__exam *x)
{
    lmoe_entry entry;
    if (lmoe__plugin_open(x->ctx, x->path, &entry) != LMOE_OK) return -1;
    double start = lmoe__now();
    const lmoe_plugin *p = entry(lmoe__host());
    if (p && p->load) p->load(lmoe__host());
    return lmoe__now() - start;
}

/* The least of several: a busy machine shall fail nobody. */
static void entry_time(lmoe__exam *x)
{
    double *seconds =
        mmap(NULL, sizeof *seconds, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double least = INFINITY;
    if (seconds == MAP_FAILED) {
        lmoe__check_skip(x, "no memory that processes may share");
        return;
    }
    for (int i = 0; i < ENTRY_TRIES; i++) {
        int status = 0;
        *seconds = -1;
        pid_t pid = fork();
        if (pid == 0) {
            *seconds = time_entry(x);
            _exit(0);
        }
        if (pid > 0) waitpid(pid, &status, 0);
        if (pid > 0 && *seconds >= 0) least = fmin(least, *seconds);
    }
    munmap(seconds, sizeof *seconds);
    lmoe__check_note(x, "%.3f ms", least * 1e3);
    if (!(least < 1e-3))
        lmoe__check_fail(x,
                         "its entry and load() take %.3f ms; allowed is 1 ms: do what takes longer "
                         "when a class is opened",
                         least * 1e3);
}

/* ---- what loading does to the process ---- */

static void silent(lmoe__exam *x)
{
    FILE *f = tmpfile();
    char text[201] = "";
    if (!f) {
        lmoe__check_skip(x, "no temporary file");
        return;
    }
    fflush(NULL);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    dup2(fileno(f), STDOUT_FILENO);
    dup2(fileno(f), STDERR_FILENO);
    bool loaded = load(x);
    fflush(NULL);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    if (loaded && n > 0) {
        text[strcspn(text, "\n")] = 0;
        lmoe__check_fail(x, "it prints while it is loaded: \"%s\"", text);
    }
}

static int count_files(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static void threads(lmoe__exam *x)
{
    int before = count_files("/proc/self/task");
    if (before == 0) {
        lmoe__check_skip(x, "/proc/self/task tells nothing here");
        return;
    }
    if (!load(x)) return;
    int more = count_files("/proc/self/task") - before;
    if (more > 0)
        lmoe__check_fail(x,
                         "it starts %d threads while it is loaded; cores are the run's: use "
                         "lmoe_parallel",
                         more);
}

/* What belongs to the run. */
typedef struct process {
    struct sigaction actions[32];
    char folder[4096], locale[1024];
    uint64_t environment;
    int rounding, files;
    bool denormals; /* they exist, and are not taken for 0 */
    mode_t mask;
} process;

static void observe(process *p)
{
    extern char **environ;
    volatile float tiny = 1e-40f, one = 1;
    memset(p, 0, sizeof *p);
    for (int i = 1; i < 32; i++) sigaction(i, NULL, &p->actions[i]);
    if (!getcwd(p->folder, sizeof p->folder)) p->folder[0] = 0;
    snprintf(p->locale, sizeof p->locale, "%s", setlocale(LC_ALL, NULL));
    for (char **e = environ; *e; e++) p->environment = p->environment * 31 + lmoe__hash_text(*e);
    p->rounding = fegetround();
    p->denormals = tiny * one != 0;
    p->files = count_files("/proc/self/fd");
    p->mask = umask(022);
    umask(p->mask);
}

static bool handlers_equal(const process *a, const process *b, int *signal)
{
    for (int i = 1; i < 32; i++) {
        *signal = i;
        if (a->actions[i].sa_handler != b->actions[i].sa_handler) return false;
    }
    return true;
}

static void leaves_process(lmoe__exam *x)
{
    process *before = LMOE_NEW(x->arena, process), *after = LMOE_NEW(x->arena, process);
    int signal;
    observe(before);
    if (!load(x)) return;
    observe(after);
    if (!handlers_equal(before, after, &signal))
        lmoe__check_fail(x, "loading it changes the handler of signal %d (%s)", signal,
                         strsignal(signal));
    if (strcmp(before->folder, after->folder) != 0)
        lmoe__check_fail(x, "loading it changes the working folder to %s", after->folder);
    if (strcmp(before->locale, after->locale) != 0)
        lmoe__check_fail(x, "loading it changes the locale from %s to %s", before->locale,
                         after->locale);
    if (before->environment != after->environment)
        lmoe__check_fail(x, "loading it changes the environment");
    if (before->rounding != after->rounding)
        lmoe__check_fail(x, "loading it changes the rounding of floating-point numbers");
    if (before->denormals != after->denormals)
        lmoe__check_fail(x,
                         "loading it makes denormal numbers 0 in the whole process; link without "
                         "-ffast-math, which does that");
    if (before->files < after->files)
        lmoe__check_fail(x, "loading it leaves %d files open", after->files - before->files);
    if (before->mask != after->mask) lmoe__check_fail(x, "loading it changes the umask");
}

/* True if a line of the file holds the word. */
static bool file_names(const char *path, const char *word)
{
    char line[4096];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) found = strstr(line, word) != NULL;
    if (f) fclose(f);
    return found;
}

static bool holds_gpu(void)
{
    DIR *d = opendir("/proc/self/fd");
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        char path[300], target[256];
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        found = starts_with(target, "/dev/nvidia");
    }
    if (d) closedir(d);
    return found;
}

static void no_driver(lmoe__exam *x)
{
    static const char maps[] = "/proc/self/maps";
    bool before = file_names(maps, "/libcuda.so");
    if (!load(x)) return;
    if (holds_gpu())
        lmoe__check_fail(x, "loading it opens a GPU; that belongs into the device's open()");
    if (!before && file_names(maps, "/libcuda.so"))
        lmoe__check_fail(x,
                         "loading it opens libcuda.so, the driver; that belongs into the device's "
                         "open()");
}

/* ---- more than once ---- */

/* Loads a file with a registry of its own, as a second rank or run does. */
static bool load_apart(lmoe__exam *x, const char *path, const char *what, lmoe__registry **r)
{
    *r = lmoe__registry_new(NULL);
    return lmoe__check_ok(x, lmoe__registry_open(*r, x->ctx, path), what);
}

static void again(lmoe__exam *x)
{
    lmoe__registry *second;
    if (!load(x)) return;
    load_apart(x, x->path, "loading it again", &second);
    lmoe__registry_free(second);
}

static bool copy_file(const char *from, const char *to)
{
    char buf[65536];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    bool good = in && out;
    for (size_t n; good && (n = fread(buf, 1, sizeof buf, in)) > 0;)
        good = fwrite(buf, 1, n, out) == n;
    if (in) fclose(in);
    if (out) good = fclose(out) == 0 && good;
    return good;
}

/* A copy of the file is to the dynamic linker another plugin, of the same vendor and with the same
 * names inside. */
static void beside(lmoe__exam *x)
{
    const char *base = getenv("TMPDIR");
    const char *slash = strrchr(x->path, '/');
    char *folder = lmoe__arena_printf(x->arena, "%s/lmoe-check-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        lmoe__check_skip(x, "no temporary folder can be made as %s", folder);
        return;
    }
    const char *copy = lmoe__arena_printf(x->arena, "%s/%s", folder, slash ? slash + 1 : x->path);
    lmoe__registry *second = NULL;
    if (!copy_file(x->path, copy)) {
        lmoe__check_skip(x, "it cannot be copied to %s", folder);
    } else if (load(x) && load_apart(x, copy, "loading a copy beside it", &second)) {
        const lmoe__plugin *a = lmoe__registry_plugin(x->registry, 0),
                           *b = lmoe__registry_plugin(second, 0);
        if (a->info.classes == b->info.classes)
            lmoe__check_fail(x, "a copy of the file gives the first one's classes: the two share a "
                                "symbol; build with -fvisibility=hidden");
    }
    lmoe__registry_free(second);
    unlink(copy);
    rmdir(folder);
}

enum { EARLY = LMOE__CHECK_CLOSED | LMOE__CHECK_REFUSED };

const lmoe__check lmoe__checks_file[] = {
    {"file", "opens",
     "the file may be trusted, is built for this machine, opens with RTLD_NOW and has the entry",
     NULL, LMOE__QUICK, 10, opens, EARLY},
    {"file", "exports", "the entry is the only symbol that it exports", NULL, LMOE__QUICK, 10,
     exports, EARLY},
    {"file", "libraries",
     "what it uses comes from libraries that it is linked to; neither lmoe nor the driver is one",
     NULL, LMOE__QUICK, 10, libraries, EARLY},
    {"file", "entry_time", "entry and load() take less than 1 ms", NULL, LMOE__QUICK, 20,
     entry_time, LMOE__CHECK_CLOSED},
    {"file", "silent", "loading it prints nothing", NULL, LMOE__QUICK, 10, silent,
     LMOE__CHECK_CLOSED},
    {"file", "threads", "loading it starts no thread", NULL, LMOE__QUICK, 10, threads,
     LMOE__CHECK_CLOSED},
    {"file", "process",
     "loading it leaves signals, rounding, locale, environment, folder and open files as they are",
     NULL, LMOE__QUICK, 10, leaves_process, LMOE__CHECK_CLOSED},
    {"file", "driver", "loading it opens no GPU driver", NULL, LMOE__QUICK, 10, no_driver,
     LMOE__CHECK_CLOSED},
    {"file", "again", "it may be loaded for a second time", NULL, LMOE__QUICK, 10, again,
     LMOE__CHECK_CLOSED},
    {"file", "beside", "a copy of it may be loaded beside it", NULL, LMOE__QUICK, 10, beside,
     LMOE__CHECK_CLOSED},
    {0},
};
