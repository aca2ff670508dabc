/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/layout.c: the binary layout of the public headers, one fact a line: sizes, offsets,
 * constants, and the numbers of the table's slots.
 *
 *   layout            prints it
 *   layout FILE       compares: a line of the file that is no longer true is a broken ABI
 *
 * A struct that begins with its own size (or with lmoe_class, which does), or whose size is given
 * with it (attributes of an op), may grow at its end, so its size is no fact; every other one is
 * frozen as it is.
 *
 *   layout --promise FILE MINOR    compares with the record of an API that was given to the world
 *
 * There a new field or slot is no fault, but belongs to a newer API: LMOE_API_MINOR must have been
 * raised since, and with LMOE_TARGET_API set to MINOR it must not be there. New structs, such as
 * attributes of new ops, are nothing that a host must have.
 */
#include <lmoe/comm.h>
#include <lmoe/device.h>
#include <lmoe/graph.h>
#include <lmoe/lmoe.h>
#if __has_include(<lmoe/inner.h>) /* since API 1.1 */
#include <lmoe/inner.h>
#endif

#include <stdio.h>
#include <stdlib.h>

#ifndef LIST
#define LIST "list.h"
#endif

/* Named only so that LMOE_PLUGIN's declarations have a table; nothing is called. */
const lmoe_api *lmoe_api_table;

typedef struct lines {
    char *line[4096];
    int count;
} lines;

static void add(lines *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(lines *l, const char *format, ...)
{
    va_list args;
    char text[1024];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (l->count == (int)(sizeof l->line / sizeof *l->line)) abort();
    l->line[l->count++] = strdup(text);
}

static int may_grow(const char *type, const char *first, const char *declaration)
{
    /* lmoe_class stands inside of others: it cannot. */
    if (strcmp(type, "lmoe_class") == 0) return 0;
    /* Attributes of ops come with their size, and get the defaults of what they lack. */
    size_t n = strlen(type);
    if (n > 6 && strcmp(type + n - 6, "_attrs") == 0) return 1;
    return strcmp(first, "size") == 0 || strncmp(declaration, "lmoe_class ", 11) == 0;
}

static void layout(lines *l)
{
#define STRUCT(type) add(l, "%s alignment %zu", #type, (size_t) __alignof__(type));
#define FIELD(type, name, declaration)                                          \
    if (offsetof(type, name) == 0 && !may_grow(#type, #name, declaration))      \
        add(l, "%s size %zu", #type, sizeof(type));                             \
    add(l, "%s.%s offset %zu size %zu: %s", #type, #name, offsetof(type, name), \
        sizeof(((type *)NULL)->name), declaration);
#define WORD(name) add(l, "%s = %lld", #name, (long long)(name));
#define TEXT(name) add(l, "%s = \"%s\"", #name, name);
#include LIST

    int slot = 0;
#define LMOE_API(since, ret, name, params, args) \
    add(l, "slot %d (since %d): %s %s%s", slot++, since, #ret, #name, #params);
#include <lmoe/api.def>
#undef LMOE_API
}

static int has(const lines *l, const char *line)
{
    for (int i = 0; i < l->count; i++) {
        if (strcmp(l->line[i], line) == 0) return 1;
    }
    return 0;
}

static int read_lines(lines *l, const char *path)
{
    FILE *f = fopen(path, "r");
    char text[1024];
    if (!f) return -1;
    while (fgets(text, sizeof text, f)) {
        text[strcspn(text, "\n")] = 0;
        add(l, "%s", text);
    }
    fclose(f);
    return 0;
}

/* "lmoe_layer.forward offset ..." is of a struct that the record has; "slot 3 ..." and "WORD = 1"
 * are of the table and of all. Attributes are an op's own: a host without them says so itself. */
static int is_of_the_api(const lines *recorded, const char *line)
{
    char type[128];
    size_t n = strcspn(line, ". "), attrs = strlen("_attrs");
    if (strncmp(line, "lmoe_", 5) != 0) return 1;
    if (line[n] != '.' || (n > attrs && strncmp(line + n - attrs, "_attrs", attrs) == 0)) return 0;
    snprintf(type, sizeof type, "%.*s alignment ", (int)n, line);
    for (int i = 0; i < recorded->count; i++) {
        if (strncmp(recorded->line[i], type, strlen(type)) == 0) return 1;
    }
    return 0;
}

static int keeps_promise(const lines *now, const lines *recorded, int minor)
{
    int gone = 0, fresh = 0;
    for (int i = 0; i < recorded->count; i++) {
        if (has(now, recorded->line[i])) continue;
        printf("no longer true: %s\n", recorded->line[i]);
        gone++;
    }
    for (int i = 0; i < now->count && LMOE_TARGET_API <= minor; i++) {
        if (has(recorded, now->line[i]) || !is_of_the_api(recorded, now->line[i])) continue;
        printf("newer:          %s\n", now->line[i]);
        fresh++;
    }
    if (gone > 0)
        printf("\nAPI %d.%d was given to the world: plugins that were built for it read it as it "
               "was. Append instead.\n",
               LMOE_ABI_MAJOR, minor);
    if (fresh > 0)
        printf(
            "\nWhat is new is not in API %d.%d: LMOE_API_MINOR, now %d, must be above %d, and what "
            "is new must stand between #if LMOE_TARGET_API >= its minor and #endif.\n",
            LMOE_ABI_MAJOR, minor, LMOE_API_MINOR, minor);
    printf("%d facts, %d changed, %d of a newer API\n", recorded->count, gone, fresh);
    return gone + fresh == 0;
}

int main(int argc, char **argv)
{
    static lines now, recorded;
    if (sizeof(void *) != 8) return 77; /* the record is of 64-bit machines; 77: skipped */
    if (argc == 4 && strcmp(argv[1], "--promise") == 0) {
        layout(&now);
        if (read_lines(&recorded, argv[2]) != 0) return perror(argv[2]), 1;
        return !keeps_promise(&now, &recorded, atoi(argv[3]));
    }
    layout(&now);
    for (int i = 0; argc < 2 && i < now.count; i++) puts(now.line[i]);
    if (argc < 2) return 0;

    if (read_lines(&recorded, argv[1]) != 0) {
        perror(argv[1]);
        return 1;
    }
    int gone = 0, fresh = 0;
    for (int i = 0; i < recorded.count; i++) {
        if (has(&now, recorded.line[i])) continue;
        printf("no longer true: %s\n", recorded.line[i]);
        gone++;
    }
    for (int i = 0; i < now.count; i++) {
        if (has(&recorded, now.line[i])) continue;
        printf("not recorded:   %s\n", now.line[i]);
        fresh++;
    }
    if (gone > 0)
        printf(
            "\n%d recorded facts of the ABI changed. Plugins that are built already read them as "
            "before: append instead, or raise LMOE_ABI_MAJOR (before lmoe 1.0: LMOE_API_MINOR).\n",
            gone);
    if (gone + fresh > 0) printf("\nRecord the layout with: meson compile -C BUILD abi-layout\n");
    printf("%d facts, %d changed, %d new\n", now.count, gone, fresh);
    return gone + fresh > 0;
}
