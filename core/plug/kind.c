/* SPDX-License-Identifier: Apache-2.0
 * core/plug/kind.c: the kinds of class that this host knows, and what each must have.
 *
 * Structs grow at their end. What a plugin gives is read up to the shorter of its size and ours;
 * it must reach at least as far as the first revision of its kind did.
 */
#include "core/plug/plug.h"

#include <ctype.h>
#include <stdlib.h>

#define SLOT(type, field)             \
    {                                 \
        offsetof(type, field), #field \
    }
#define END_OF(type, field) (offsetof(type, field) + sizeof(((type *)NULL)->field))
#define SLOTS(name, ...)    static const lmoe__slot name[] = {__VA_ARGS__, {0, NULL}}

SLOTS(layer_slots, SLOT(lmoe_layer, params), SLOT(lmoe_layer, forward));
SLOTS(router_slots, SLOT(lmoe_router, params), SLOT(lmoe_router, forward));
SLOTS(op_slots, SLOT(lmoe_op, inputs), SLOT(lmoe_op, outputs), SLOT(lmoe_op, shape),
      SLOT(lmoe_op, reference));
SLOTS(kernel_slots, SLOT(lmoe_kernel, op), SLOT(lmoe_kernel, device), SLOT(lmoe_kernel, score),
      SLOT(lmoe_kernel, launch));
SLOTS(device_slots, SLOT(lmoe_device, device), SLOT(lmoe_device, open), SLOT(lmoe_device, close),
      SLOT(lmoe_device, info), SLOT(lmoe_device, alloc), SLOT(lmoe_device, free),
      SLOT(lmoe_device, upload), SLOT(lmoe_device, download), SLOT(lmoe_device, zero),
      SLOT(lmoe_device, synchronize));
SLOTS(comm_slots, SLOT(lmoe_comm, open), SLOT(lmoe_comm, close), SLOT(lmoe_comm, abort),
      SLOT(lmoe_comm, split), SLOT(lmoe_comm, rank), SLOT(lmoe_comm, ranks), SLOT(lmoe_comm, start),
      SLOT(lmoe_comm, wait), SLOT(lmoe_comm, test), SLOT(lmoe_comm, message));
SLOTS(strategy_slots, SLOT(lmoe_strategy, place));

static const lmoe__kind kinds[] = {
    {LMOE_KIND_LAYER, "layer", "lsm", END_OF(lmoe_layer, forward), sizeof(lmoe_layer), layer_slots},
    {LMOE_KIND_ROUTER, "router", "moe", END_OF(lmoe_router, forward), sizeof(lmoe_router),
     router_slots},
    {LMOE_KIND_STRATEGY, "strategy", "parallel", END_OF(lmoe_strategy, carry),
     sizeof(lmoe_strategy), strategy_slots},
    {LMOE_KIND_COMM, "communicator", "comm", END_OF(lmoe_comm, message), sizeof(lmoe_comm),
     comm_slots},
    {LMOE_KIND_DEVICE, "device", "device", END_OF(lmoe_device, threads), sizeof(lmoe_device),
     device_slots},
    {LMOE_KIND_OP, "op", NULL, END_OF(lmoe_op, tolerance), sizeof(lmoe_op), op_slots},
    {LMOE_KIND_KERNEL, "kernel", NULL, END_OF(lmoe_kernel, release), sizeof(lmoe_kernel),
     kernel_slots},
};

const lmoe__kind *lmoe__kind_at(int i)
{
    return i >= 0 && i < (int)(sizeof kinds / sizeof *kinds) ? &kinds[i] : NULL;
}

const lmoe__kind *lmoe__kind_find(const char *id)
{
    for (int i = 0; lmoe__kind_at(i); i++) {
        if (strcmp(kinds[i].id, id) == 0) return &kinds[i];
    }
    return NULL;
}

static lmoe_status too_short(lmoe_ctx *ctx, const char *path, const char *what, const char *name,
                             size_t size, size_t need)
{
    return lmoe_error(ctx, LMOE_E_USAGE,
                      "%s: %s '%s' says that it has %zu bytes, but ABI %d has at least %zu there; "
                      "set its .size to sizeof the struct",
                      path, what, name, size, LMOE_ABI_MAJOR, need);
}

lmoe_status lmoe__kind_check_sizes(lmoe_ctx *ctx, const char *path, const lmoe_class *c)
{
    /* Nothing but the size itself may be read before it is known. */
    if (c->size < sizeof(lmoe_class))
        return too_short(ctx, path, "class", "(name unknown)", c->size, sizeof(lmoe_class));
    const lmoe__kind *k = c->kind ? lmoe__kind_find(c->kind) : NULL;
    if (!k) return LMOE_OK; /* said when kinds are checked */
    const char *name = c->name ? c->name : "(no name)";
    if (c->size < k->need) return too_short(ctx, path, k->word, name, c->size, k->need);

    if (strcmp(k->id, LMOE_KIND_OP) == 0) {
        const lmoe_carry *carry = ((const lmoe_op *)c)->carry;
        if (carry && carry->size < END_OF(lmoe_carry, initial_of))
            return too_short(ctx, path, "the carry of op", name, carry->size,
                             END_OF(lmoe_carry, initial_of));
    }
    if (strcmp(k->id, LMOE_KIND_DEVICE) == 0) {
        const lmoe_kernel *const *kernel = ((const lmoe_device *)c)->kernels;
        for (; kernel && *kernel; kernel++) {
            size_t size = (*kernel)->base.size, need = END_OF(lmoe_kernel, release);
            if (size < need) return too_short(ctx, path, "a kernel of device", name, size, need);
        }
    }
    return LMOE_OK;
}

/* Copies the part that both sides know into zeroed memory of our size. */
static void *grown(lmoe__arena *a, const void *from, size_t theirs, size_t ours)
{
    return memcpy(lmoe__arena_alloc(a, ours), from, theirs < ours ? theirs : ours);
}

const lmoe_class *lmoe__kind_copy(lmoe__arena *a, const lmoe_class *c)
{
    const lmoe__kind *k = lmoe__kind_find(c->kind);
    void *copy = grown(a, c, c->size, k->size);
    if (strcmp(k->id, LMOE_KIND_OP) == 0) {
        lmoe_op *op = copy;
        if (op->carry) op->carry = grown(a, op->carry, op->carry->size, sizeof(lmoe_carry));
    }
    if (strcmp(k->id, LMOE_KIND_DEVICE) == 0) {
        lmoe_device *device = copy;
        int n = 0;
        while (device->kernels && device->kernels[n]) n++;
        const lmoe_kernel **kernels = LMOE_NEW_N(a, const lmoe_kernel *, n + 1);
        for (int i = 0; i < n; i++) {
            kernels[i] =
                grown(a, device->kernels[i], device->kernels[i]->base.size, sizeof(lmoe_kernel));
        }
        device->kernels = kernels;
    }
    return copy;
}

static bool is_vendor(const char *name)
{
    return memchr(name, '.', strcspn(name, "/")) != NULL;
}

/* "scan_diag/1" or "vendor.x/scan_diag/1": the last part is the revision. */
static bool op_name_ok(const char *name)
{
    const char *revision = strrchr(name, '/');
    if (!revision || revision == name || revision - name > 100) return false;
    char *end;
    if (!isdigit((unsigned char)revision[1]) || strtol(revision + 1, &end, 10) < 1 || *end)
        return false;
    char stem[128];
    bool vendor = is_vendor(name);
    snprintf(stem, sizeof stem, "%s%.*s", vendor ? "" : "op/", (int)(revision - name), name);
    return lmoe__class_name_ok(stem);
}

static bool printable(const char *text)
{
    if (!*text) return false;
    for (; *text; text++) {
        if (!isprint((unsigned char)*text)) return false;
    }
    return true;
}

static lmoe_status check_name(lmoe_ctx *ctx, const char *path, const lmoe__kind *k,
                              const char *name)
{
    if (!name)
        return lmoe_error(ctx, LMOE_E_USAGE, "%s: a class of kind %s has no name", path, k->id);
    if (strcmp(k->id, LMOE_KIND_KERNEL) == 0) {
        if (printable(name)) return LMOE_OK;
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: kernel name '%s' must be printable text, like \"cpu/scan_diag\"",
                          path, name);
    }
    if (strcmp(k->id, LMOE_KIND_OP) == 0) {
        if (op_name_ok(name)) return LMOE_OK;
        return lmoe_error(
            ctx, LMOE_E_USAGE,
            "%s: op name '%s' must be \"vendor.x/NAME/REVISION\", in lower case, like "
            "\"vendor.x/scan/1\"",
            path, name);
    }
    size_t n = strlen(k->folder);
    bool ours = strncmp(name, k->folder, n) == 0 && name[n] == '/';
    if (lmoe__class_name_ok(name) && (ours || is_vendor(name))) return LMOE_OK;
    return lmoe_error(
        ctx, LMOE_E_USAGE,
        "%s: class name '%s' of a %s must be \"%s/NAME\" or \"vendor.x/NAME\", of lower "
        "case letters, digits, '_', '.' and '-'",
        path, name, k->word, k->folder);
}

static lmoe_status check_slots(lmoe_ctx *ctx, const char *path, const lmoe__kind *k,
                               const lmoe_class *c)
{
    for (const lmoe__slot *s = k->required; s->name; s++) {
        void *p;
        memcpy(&p, (const char *)c + s->offset, sizeof p);
        if (!p)
            return lmoe_error(ctx, LMOE_E_USAGE,
                              "%s: %s '%s' leaves '%s' out, which every %s must have", path,
                              k->word, c->name, s->name, k->word);
    }
    return LMOE_OK;
}

static int count_ports(const lmoe_port *ports)
{
    int n = 0;
    while (n <= LMOE_MAX_IO && ports[n].name) n++;
    return n;
}

static bool changes_an_input(const lmoe_op *op, int n_in)
{
    bool changes = false;
    for (int i = 0; i < n_in; i++) changes |= (op->inputs[i].flags & LMOE_PORT_MUTATES) != 0;
    return changes;
}

static lmoe_status check_op(lmoe_ctx *ctx, const char *path, const lmoe_op *op)
{
    const char *name = op->base.name;
    int n_in = count_ports(op->inputs), n_out = count_ports(op->outputs);
    if (n_in > LMOE_MAX_IO || n_out > LMOE_MAX_IO)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: op '%s' must have at most %d inputs and %d outputs; its lists of "
                          "ports end with a NULL name",
                          path, name, LMOE_MAX_IO, LMOE_MAX_IO);
    if (n_out == 0 && !changes_an_input(op, n_in))
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: op '%s' has no outputs, and no input with the flag "
                          "LMOE_PORT_MUTATES: it has no effect",
                          path, name);
    if (op->base.options_size > LMOE_MAX_ATTRS)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: op '%s' has %zu bytes of attributes; at most %d are possible", path,
                          name, op->base.options_size, LMOE_MAX_ATTRS);
    const lmoe_carry *c = op->carry;
    if (!c) return LMOE_OK;
    if (c->count < 1 || c->in < 0 || c->in + c->count > n_in || c->out < 0 ||
        c->out + c->count > n_out || !c->shape)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: op '%s' declares a carry of %d tensors from input %d and output %d, "
                          "but has %d inputs and %d outputs, or gives no shape for it",
                          path, name, c->count, c->in, c->out, n_in, n_out);
    if (!c->summary != !c->combine || c->n_summary_in < 0 || c->n_summary_in > LMOE_MAX_IO ||
        c->n_summary < 0 || c->n_summary > LMOE_MAX_IO)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: the carry of op '%s' must name both a summary and a combine op, or "
                          "neither, with at most %d tensors",
                          path, name, LMOE_MAX_IO);
    return LMOE_OK;
}

static lmoe_status check_device(lmoe_ctx *ctx, const char *path, const lmoe_device *d)
{
    int capture = (d->capture_begin != NULL) + (d->capture_end != NULL) + (d->replay != NULL);
    if (capture != 0 && capture != 3)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: device '%s' must have all of capture_begin, capture_end and replay, "
                          "or none",
                          path, d->base.name);
    for (const lmoe_kernel *const *k = d->kernels; *k; k++) {
        if (!(*k)->base.kind || strcmp((*k)->base.kind, LMOE_KIND_KERNEL) != 0)
            return lmoe_error(ctx, LMOE_E_USAGE,
                              "%s: kernel %d of device '%s' is of kind %s; it must be %s", path,
                              (int)(k - d->kernels), d->base.name,
                              (*k)->base.kind ? (*k)->base.kind : "(none)", LMOE_KIND_KERNEL);
        LMOE_TRY(lmoe__kind_check(ctx, path, &(*k)->base));
    }
    return LMOE_OK;
}

static lmoe_status check_comm(lmoe_ctx *ctx, const char *path, const lmoe_comm *c)
{
    if (!(c->base.flags & LMOE_COMM_THREADS) || (c->group_create && c->group_destroy))
        return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_USAGE,
                      "%s: communicator '%s' has the flag LMOE_COMM_THREADS, so it must have "
                      "group_create and group_destroy",
                      path, c->base.name);
}

lmoe_status lmoe__kind_check(lmoe_ctx *ctx, const char *path, const lmoe_class *c)
{
    const lmoe__kind *k = lmoe__kind_find(c->kind);
    LMOE_TRY(check_name(ctx, path, k, c->name));
    if (!c->summary || !*c->summary)
        return lmoe_error(ctx, LMOE_E_USAGE,
                          "%s: %s '%s' has no summary; say in one line what it is", path, k->word,
                          c->name);
    LMOE_TRY(check_slots(ctx, path, k, c));
    if (strcmp(k->id, LMOE_KIND_OP) == 0) return check_op(ctx, path, (const lmoe_op *)c);
    if (strcmp(k->id, LMOE_KIND_DEVICE) == 0)
        return check_device(ctx, path, (const lmoe_device *)c);
    if (strcmp(k->id, LMOE_KIND_COMM) == 0) return check_comm(ctx, path, (const lmoe_comm *)c);
    return LMOE_OK;
}
