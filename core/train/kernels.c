/* SPDX-License-Identifier: Apache-2.0
 * core/train/kernels.c: what a run's plugins bring beside the classes that it names: files named in
 * [run] plugins, and kernels.
 *
 * The device of a run is its class with a longer list: its own kernels, and behind them those for
 * devices of its kind that any plugin of the run brings. A plan takes the highest score of the list,
 * the first of equals. [device] kernels leaves one kernel of its op in the list, or none.
 */
#include "core/train/setup.h"

#include <stdlib.h>

static lmoe_status open_file(lmoe_ctx *ctx, lmoe__setup *s, const char *path)
{
    lmoe_ctx quiet;
    lmoe__ctx_init(&quiet);
    lmoe_status status = lmoe__registry_open(s->registry, &quiet, path);
    if (status == LMOE_OK) return LMOE_OK;
    return lmoe_error(ctx, status, "%s: [run] plugins: %s",
                      lmoe__conf_where(s->conf, "run", "plugins"), quiet.message);
}

lmoe_status lmoe__setup_open_files(lmoe_ctx *ctx, lmoe__setup *s)
{
    char *words = lmoe__arena_strdup(s->arena, s->run.plugins), *save = NULL;
    for (char *w = strtok_r(words, " \t", &save); w; w = strtok_r(NULL, " \t", &save))
        LMOE_TRY(open_file(ctx, s, w));
    return LMOE_OK;
}

/* ---- kernels ---- */

typedef struct kernels {
    const lmoe_kernel **list; /* entries that are left out are NULL */
    int count, capacity;
    const lmoe_device *device;
    const lmoe__model *model;
} kernels;

static void add(kernels *l, const lmoe_kernel *k)
{
    LMOE_PUSH(l->list, l->count, l->capacity, k);
}

static void add_of_plugins(kernels *l, lmoe__registry *registry)
{
    const lmoe__plugin *p;
    for (int i = 0; (p = lmoe__registry_plugin(registry, i)); i++) {
        for (int k = 0; k < p->n_classes; k++) {
            if (strcmp(p->classes[k]->kind, LMOE_KIND_KERNEL) != 0) continue;
            const lmoe_kernel *kernel = (const lmoe_kernel *)p->classes[k];
            if (strcmp(kernel->device, l->device->device) == 0) add(l, kernel);
        }
    }
}

static lmoe_status not_there(lmoe_ctx *ctx, const lmoe__setup *s, const kernels *l,
                             const char *name)
{
    const char **names = LMOE_NEW_N(s->arena, const char *, l->count + 1);
    int n = 0;
    for (int i = 0; i < l->count; i++) {
        if (l->list[i]) names[n++] = l->list[i]->base.name;
    }
    const char *near = lmoe__nearest(name, names, n);
    return lmoe_error(ctx, LMOE_E_CONFIG,
                      "%s: [device] kernels: neither %s nor a plugin of this run has a kernel "
                      "'%s'%s%s%s, and no op is called so; lmoe bench lists a device's, [run] "
                      "plugins names files that bring more",
                      lmoe__conf_where(s->conf, "device", "kernels"), l->device->base.name, name,
                      near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* Of the op that the name is of (a kernel's: its op; an op's own: that), other kernels leave. */
static lmoe_status force(lmoe_ctx *ctx, const lmoe__setup *s, kernels *l, const char *name)
{
    const lmoe_op *named = lmoe__op_find(&s->model.ops, name);
    const char *op = named ? named->base.name : NULL;
    for (int i = 0; i < l->count && !op; i++) {
        if (l->list[i] && strcmp(l->list[i]->base.name, name) == 0) op = l->list[i]->op;
    }
    if (!op) return not_there(ctx, s, l, name);
    for (int i = 0; i < l->count; i++) {
        const lmoe_kernel *k = l->list[i];
        if (k && strcmp(k->op, op) == 0 && strcmp(k->base.name, name) != 0) l->list[i] = NULL;
    }
    return LMOE_OK;
}

lmoe_status lmoe__setup_kernels(lmoe_ctx *ctx, lmoe__setup *s, const char *forced)
{
    kernels l = {.device = s->device};
    lmoe_status status = LMOE_OK;
    for (int i = 0; s->device->kernels && s->device->kernels[i]; i++)
        add(&l, s->device->kernels[i]);
    add_of_plugins(&l, s->registry);
    char *words = lmoe__arena_strdup(s->arena, forced), *save = NULL;
    for (char *w = strtok_r(words, ",", &save); w && status == LMOE_OK;
         w = strtok_r(NULL, ",", &save)) {
        w += strspn(w, " ");
        for (size_t n = strlen(w); n > 0 && w[n - 1] == ' '; n--) w[n - 1] = 0;
        if (*w) status = force(ctx, s, &l, w);
    }
    lmoe_device *device = LMOE_NEW(s->arena, lmoe_device);
    const lmoe_kernel **list = LMOE_NEW_N(s->arena, const lmoe_kernel *, l.count + 1);
    int n = 0;
    for (int i = 0; i < l.count; i++) {
        if (l.list[i]) list[n++] = l.list[i];
    }
    *device = *s->device;
    device->kernels = list;
    s->device = device;
    free(l.list);
    return status;
}
