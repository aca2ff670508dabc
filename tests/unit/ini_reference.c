/* SPDX-License-Identifier: Apache-2.0
 * tests/unit/ini_reference.c: the options that the core itself reads from run files, as the tables
 * of docs/ini.md.
 *
 *   ini_reference         prints them
 *   ini_reference FILE    compares: FILE must end with them, behind the line that says so
 */
#include "core/train/setup.h"

#include <stdlib.h>

static const char marker[] = "<!-- From here on generated: ninja ini-reference -->\n";

static const struct {
    const char *section, *about;
} words[] = {
    {"run", "Where the run lives and how long it goes on."},
    {"model", "The residual stream and the pattern of layers."},
    {"layer X", "One section for each letter X of the pattern. The options of the class stand in "
                "the same section."},
    {"ffn", "The feed-forward part of every block."},
    {"data", "What the run reads. Only `lmoe train` needs this section."},
    {"train", "Batches, steps, the learning rate, AdamW, evaluation."},
    {"alarm", "When a layer's experts are worth a warning."},
    {"device", "Where the run computes."},
    {"parallel", "How the run is spread over ranks. The options of the communicator stand in "
                 "`[comm]`."},
    {"plan", "The machines that `lmoe plan` predicts the time of a step for."},
    {"comm",
     "How ranks exchange. The options of the communicator's class stand in the same section."},
};

static const char *about(const char *section)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].section, section) == 0) return words[i].about;
    }
    fprintf(stderr, "ini_reference.c has no words about the section [%s]; add some\n", section);
    exit(1);
}

static void add_default(lmoe__text *page, const lmoe_option *o)
{
    if (!o->initial)
        lmoe__text_add(page, "must be given");
    else if (!*o->initial)
        lmoe__text_add(page, "empty");
    else
        lmoe__text_add(page, "`%s`", o->initial);
}

static void add_option(lmoe__text *page, const lmoe_option *o)
{
    bool paths = o->unit && strcmp(o->unit, "paths") == 0;
    bool path = paths || (o->unit && strcmp(o->unit, "path") == 0);
    lmoe__text_add(page, "| `%s` | ", o->name);
    if (paths)
        lmoe__text_add(page,
                       "paths, separated by blanks, from the folder of the file that says them");
    else if (path)
        lmoe__text_add(page, "a path, from the folder of the file that says it");
    else
        lmoe__option_describe(o, page);
    if (!path && o->unit && *o->unit) lmoe__text_add(page, " (%s)", o->unit);
    lmoe__text_add(page, " | ");
    add_default(page, o);
    lmoe__text_add(page, " | %s |\n", o->doc);
}

static void add_sections(lmoe__text *page, const lmoe__section_table *s)
{
    for (; s->section; s++) {
        lmoe__text_add(page,
                       "\n## [%s]\n\n%s\n\n| key | value | default | meaning |\n"
                       "| --- | --- | --- | --- |\n",
                       s->section, about(s->section));
        for (const lmoe_option *o = s->table; o->name; o++) add_option(page, o);
    }
}

static int compare(const char *path, const char *page)
{
    lmoe_ctx ctx;
    char *text;
    size_t size;
    lmoe__ctx_init(&ctx);
    if (lmoe__read_file(&ctx, path, &text, &size) != LMOE_OK) {
        fprintf(stderr, "%s\n", ctx.message);
        return 1;
    }
    const char *have = strstr(text, marker);
    int wrong = !have || strcmp(have + strlen(marker), page) != 0;
    if (wrong)
        fprintf(stderr, "%s does not say what the option tables say; run: ninja ini-reference\n",
                path);
    free(text);
    return wrong;
}

int main(int argc, char **argv)
{
    lmoe__text page = {0};
    add_sections(&page, lmoe__model_tables());
    add_sections(&page, lmoe__setup_tables());
    int code = 0;
    if (argc > 1)
        code = compare(argv[1], page.data);
    else
        fputs(page.data, stdout);
    lmoe__text_free(&page);
    return code;
}
