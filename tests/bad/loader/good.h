/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/good.h: a layer that gives its input back, with nothing wrong. Each plugin of
 * this folder is this one with a single thing broken; NAME is its class, set by meson.build.
 */
#include <lmoe/lmoe.h>

static lmoe_status params(lmoe_trace *t, const void *options, void *p)
{
    return LMOE_OK;
}

static lmoe_tensor forward(lmoe_trace *t, const void *options, const void *p, lmoe_tensor x)
{
    return x;
}

typedef struct good_options {
    int64_t heads;
    double scale;
    const char *note;
} good_options;

static const lmoe_option good_table[] = {
    {"heads", LMOE_OPTION_INT, offsetof(good_options, heads), NULL, 1, 64, NULL, NULL, "Heads."},
    {"scale", LMOE_OPTION_FLOAT, offsetof(good_options, scale), "0.5", 0, 1, NULL, "1/token",
     "Strength."},
    {"note", LMOE_OPTION_TEXT, offsetof(good_options, note), "", 0, 0, NULL, NULL, "Any text."},
    LMOE_OPTION_END};

#define GOOD_CLASS                                                     \
    .size = sizeof(lmoe_layer), .kind = LMOE_KIND_LAYER, .name = NAME, \
    .summary = "Gives its input back.", .options = good_table,         \
    .options_size = sizeof(good_options)
#define GOOD_SLOTS  .params = params, .forward = forward
#define GOOD_PLUGIN .id = NAME, .version = "0.1", .licence = "Apache-2.0"

/* The rest of a plugin with one layer. */
#define ONE_LAYER static const lmoe_class *const classes[] = {&layer.base, NULL};
