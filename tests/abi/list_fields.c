/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/list_fields.c: reads the public headers and lists what is in them, for layout.c:
 *
 *   STRUCT(lmoe_desc)  FIELD(lmoe_desc, dtype, "lmoe_dtype dtype")  WORD(LMOE_F32)
 * TEXT(LMOE_KIND_OP)
 *
 * so that nothing in a header can be left out of the layout. It knows as much C as the headers use.
 * Usage: list_fields HEADER ... > list.h
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_all(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    static const size_t most = 1 << 20;
    char *text = calloc(1, most);
    if (fread(text, 1, most - 1, f) == most - 1) exit(1);
    fclose(f);
    return text;
}

/* Comments become blanks. */
static void strip_comments(char *s)
{
    while ((s = strstr(s, "/*"))) {
        char *end = strstr(s, "*/");
        memset(s, ' ', (size_t)(end + 2 - s));
    }
}

/* Preprocessor lines become blanks; constants that a plugin is built with are listed. */
static void take_directives(char *s)
{
    for (char *line = s; *line;) {
        char *end = line;
        while (*end && (*end != '\n' || end[-1] == '\\')) end++;
        char name[64], first;
        if (*line == '#') {
            if (sscanf(line, "#define %63[A-Z0-9_] %c", name, &first) == 2 && !strchr(name, '(') &&
                (strncmp(name, "LMOE_KIND_", 10) == 0 || strncmp(name, "LMOE_MAX_", 9) == 0))
                printf("%s(%s)\n", first == '"' ? "TEXT" : "WORD", name);
            memset(line, ' ', (size_t)(end - line));
        }
        line = *end ? end + 1 : end;
    }
}

static char *skip_blanks(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    return s;
}

/* The '}' that closes the '{' at s. */
static char *closing(char *s)
{
    int depth = 0;
    for (;; s++) {
        depth += (*s == '{') - (*s == '}');
        if (depth == 0) return s;
    }
}

static size_t word_length(const char *s)
{
    size_t n = 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '_') n++;
    return n;
}

static void list_enum(char *s, char *end)
{
    *end = 0;
    for (char *save = NULL, *w = strtok_r(s, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        w = skip_blanks(w);
        size_t n = word_length(w);
        if (n > 0) printf("WORD(%.*s)\n", (int)n, w);
    }
}

/* Text with single blanks. */
static void print_text(const char *s, size_t n)
{
    int blank = 0;
    for (size_t i = 0; i < n; i++) {
        if (isspace((unsigned char)s[i])) {
            blank = 1;
            continue;
        }
        if (blank) putchar(' ');
        blank = 0;
        putchar(s[i]);
    }
}

/* The name that a declarator declares: of a function pointer the first word behind "(*", else the
 * last word before any '['. */
static char *declared_name(char *s, char *stop)
{
    char *pointer = memchr(s, '(', (size_t)(stop - s)), *name = s;
    if (pointer) return pointer + 2;
    for (char *p = s; p < stop && *p != '['; p++) {
        size_t n = word_length(p);
        if (n == 0) continue;
        name = p;
        p += n - 1;
    }
    return name;
}

/* One declaration, s[0..n): a function pointer, or one or several names behind one type. */
static void list_field(const char *type, char *s, size_t n)
{
    char *end = s + n;
    bool pointer = memchr(s, '(', n) != NULL;
    size_t prefix = 0; /* length of the type */
    for (char *part = s; part < end;) {
        char *stop = pointer ? end : memchr(part, ',', (size_t)(end - part));
        if (!stop) stop = end;
        char *name = declared_name(part, stop);
        printf("FIELD(%s, %.*s, \"", type, (int)word_length(name), name);
        if (part > s) {
            print_text(s, prefix);
            putchar(' ');
            part = skip_blanks(part);
        } else {
            prefix = (size_t)(name - s);
            while (prefix > 0 && strchr(" *\n", s[prefix - 1])) prefix--;
        }
        print_text(part, (size_t)(stop - part));
        printf("\")\n");
        part = stop + 1;
    }
}

static void list_struct(const char *type, char *s, char *end)
{
    printf("STRUCT(%s)\n", type);
    while ((s = skip_blanks(s)) < end) {
        char *stop = s;
        while (*stop != ';') stop = *stop == '{' ? closing(stop) : stop + 1;
        char *brace = memchr(s, '{', (size_t)(stop - s));
        char *from = brace ? skip_blanks(closing(brace) + 1) : s; /* of a union only its name */
        list_field(type, from, (size_t)(stop - from));
        s = stop + 1;
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *text = read_all(argv[i]);
        strip_comments(text);
        take_directives(text);
        for (char *s = text; *s; s++) {
            char type[64];
            int n = 0;
            if (s > text && !isspace((unsigned char)s[-1])) continue;
            if (sscanf(s, "typedef struct %63[a-z0-9_] {%n", type, &n) == 1 && n > 0) {
                char *end = closing(s + n - 1);
                list_struct(type, s + n, end);
                s = end;
            } else if ((sscanf(s, "typedef enum %63[a-z0-9_] {%n", type, &n) == 1 && n > 0) ||
                       (sscanf(s, "enum {%n", &n) == 0 && n > 0)) {
                char *end = closing(s + n - 1);
                list_enum(s + n, end);
                s = end;
            }
        }
        free(text);
    }
    return 0;
}
