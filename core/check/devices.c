/* SPDX-License-Identifier: Apache-2.0
 * core/check/devices.c: group devices: memory, copies, order of work, and all kernels of a device.
 */
#include "core/check/call.h"
#include "core/check/kernels.h"
#include "core/check/spy.h"

#include <stdlib.h>

static const lmoe_device *device_of(const lmoe__exam *x)
{
    return (const lmoe_device *)(const void *)x->class;
}

/* Opens the device of the exam. False: there is none here (skipped). */
static bool open_device(lmoe__exam *x)
{
    static const char none[1];
    x->device = device_of(x);
    if (x->device->open(x->ctx, x->options ? x->options : none, &x->dev) == LMOE_OK) {
        if (!x->dev) lmoe__check_fail(x, "its open() gives NULL as the opened device");
        return x->dev != NULL;
    }
    x->dev = NULL;
    if (!x->ctx->message[0])
        lmoe__check_fail(x, "its open() fails without a message: use lmoe_error");
    lmoe__check_skip(x, "it cannot be opened here: %s", x->ctx->message);
    lmoe__ctx_clear(x->ctx);
    return false;
}

static void info(lmoe__exam *x)
{
    lmoe_device_info i = {.size = sizeof i};
    if (!open_device(x)) return;
    if (!lmoe__check_ok(x, x->device->info(x->dev, &i), "info")) return;
    if (!memchr(i.name, 0, sizeof i.name) || !i.name[0])
        lmoe__check_fail(x, "its info() gives no name");
    if (i.peak_flops < 0 || i.memory < 0 || i.memory_used < 0)
        lmoe__check_fail(x, "its info() gives numbers below 0; 0 says that it does not know");
    if (i.memory > 0 && i.memory_used > i.memory)
        lmoe__check_fail(x, "its info() says that more memory is used than there is");
    lmoe__check_note(x, "%.100s", i.name);
}

/* ---- memory ---- */

enum { BLOCKS = 6 };

/* Blocks of several sizes hold what was uploaded, all at once. */
static void check_blocks(lmoe__exam *x, void **block, unsigned char *host, const size_t *bytes)
{
    const lmoe_device *d = x->device;
    for (int i = 0; i < BLOCKS; i++) {
        lmoe__check_case(x, "%zu bytes", bytes[i]);
        if (!lmoe__check_ok(x, d->alloc(x->dev, bytes[i], &block[i]), "alloc")) return;
        if ((uintptr_t)block[i] % 64 != 0)
            lmoe__check_fail(x, "alloc gives memory that is not 64-byte aligned");
        memset(host, i + 1, bytes[i]);
        if (!lmoe__check_ok(x, d->upload(x->dev, block[i], host, bytes[i]), "upload")) return;
        memset(host, 0, bytes[i]); /* the source may be reused after */
    }
    for (int i = 0; i < BLOCKS; i++) {
        lmoe__check_case(x, "%zu bytes", bytes[i]);
        if (!lmoe__check_ok(x, d->download(x->dev, host, block[i], bytes[i]), "download")) return;
        for (size_t k = 0; k < bytes[i]; k++) {
            if (host[k] == i + 1) continue;
            lmoe__check_fail(x, "byte %zu comes back as %d where %d was uploaded", k, host[k],
                             i + 1);
            return;
        }
    }
}

static void check_zero(lmoe__exam *x, void *block, unsigned char *host, size_t bytes)
{
    const lmoe_device *d = x->device;
    memset(host, 7, bytes);
    if (!lmoe__check_ok(x, d->upload(x->dev, block, host, bytes), "upload") ||
        !lmoe__check_ok(x, d->zero(x->dev, block, bytes), "zero") ||
        !lmoe__check_ok(x, d->synchronize(x->dev), "synchronize") ||
        !lmoe__check_ok(x, d->download(x->dev, host, block, bytes), "download"))
        return;
    for (size_t k = 0; k < bytes; k++) {
        if (host[k] == 0) continue;
        lmoe__check_fail(x, "zero leaves byte %zu of %zu as it was", k, bytes);
        return;
    }
}

static void memory(lmoe__exam *x)
{
    static const size_t bytes[BLOCKS] = {1, 63, 64, 4097, 1000003, 8 << 20};
    void *block[BLOCKS] = {NULL};
    if (!open_device(x)) return;
    unsigned char *host = lmoe__malloc(bytes[BLOCKS - 1]);
    check_blocks(x, block, host, bytes);
    for (int i = 0; i < BLOCKS && !lmoe__check_failed(x); i++)
        check_zero(x, block[i], host, bytes[i]);
    for (int i = 0; i < BLOCKS; i++) {
        if (block[i]) x->device->free(x->dev, block[i]);
    }
    free(host);
}

/* Two that are open at once, as ranks of one process have them. */
static void twice(lmoe__exam *x)
{
    static const char none[1];
    void *second = NULL, *a = NULL, *b = NULL;
    double in = 42, out = 0, other = 17;
    if (!open_device(x)) return;
    const lmoe_device *d = x->device;
    const void *options = x->options ? x->options : none;
    if (!lmoe__check_ok(x, d->open(x->ctx, options, &second), "opening it again")) return;
    if (lmoe__check_ok(x, d->alloc(x->dev, sizeof in, &a), "alloc") &&
        lmoe__check_ok(x, d->alloc(second, sizeof in, &b), "alloc of the second") &&
        lmoe__check_ok(x, d->upload(x->dev, a, &in, sizeof in), "upload") &&
        lmoe__check_ok(x, d->upload(second, b, &other, sizeof in), "upload of the second")) {
        d->free(second, b);
        d->close(second);
        if (lmoe__check_ok(x, d->download(x->dev, &out, a, sizeof out),
                           "download after the other was closed") &&
            out != in)
            lmoe__check_fail(x,
                             "a device's memory holds %g where %g was written, after another was "
                             "closed",
                             out, in);
    }
    if (a) d->free(x->dev, a);
}

static void capture(lmoe__exam *x)
{
    double ones[64], back[64];
    void *block = NULL, *graph = NULL;
    if (!open_device(x)) return;
    const lmoe_device *d = x->device;
    if (!d->capture_begin) {
        lmoe__check_skip(x, "it cannot capture");
        return;
    }
    for (int i = 0; i < 64; i++) ones[i] = 1;
    bool good = lmoe__check_ok(x, d->alloc(x->dev, sizeof ones, &block), "alloc") &&
                lmoe__check_ok(x, d->upload(x->dev, block, ones, sizeof ones), "upload") &&
                lmoe__check_ok(x, d->synchronize(x->dev), "synchronize") &&
                lmoe__check_ok(x, d->capture_begin(x->dev), "capture_begin") &&
                lmoe__check_ok(x, d->zero(x->dev, block, sizeof ones), "zero") &&
                lmoe__check_ok(x, d->capture_end(x->dev, &graph), "capture_end");
    for (int i = 0; good && i < 3; i++) {
        good = lmoe__check_ok(x, d->upload(x->dev, block, ones, sizeof ones), "upload") &&
               lmoe__check_ok(x, d->replay(x->dev, graph), "replay") &&
               lmoe__check_ok(x, d->synchronize(x->dev), "synchronize") &&
               lmoe__check_ok(x, d->download(x->dev, back, block, sizeof back), "download");
        for (int k = 0; good && k < 64; k++) {
            if (back[k] != 0)
                lmoe__check_fail(x, "replay %d of captured work leaves %g where it writes 0", i,
                                 back[k]);
        }
    }
    if (graph && d->release) d->release(x->dev, graph);
    if (block) d->free(x->dev, block);
}

/* ---- kernels ---- */

static bool has_kernel(const lmoe_device *d, const char *op)
{
    for (int i = 0; d->kernels && d->kernels[i]; i++) {
        if (strcmp(d->kernels[i]->op, op) == 0) return true;
    }
    return false;
}

/* lmoe's ops for which the device has a kernel. */
static const lmoe_op *next_op(const lmoe__exam *x, int *i)
{
    while (lmoe__ops[*i]) {
        const lmoe_op *op = lmoe__ops[(*i)++];
        if (has_kernel(x->device, op->base.name)) return op;
    }
    return NULL;
}

static void reference(lmoe__exam *x)
{
    static const int vary[] = {0, 0, 100};
    const lmoe_op *op;
    int n = 0;
    if (!open_device(x)) return;
    for (int i = 0; (op = next_op(x, &i));) {
        if (!lmoe__kernels_agree(x, op, x->device->kernels, vary[x->level])) return;
        n++;
    }
    lmoe__check_note(x, "kernels of %d ops", n);
}

static void launch(lmoe__exam *x)
{
    const lmoe_op *op;
    if (!open_device(x)) return;
    if (!lmoe__spy_on(x->path)) {
        lmoe__check_skip(x, "its calls cannot be watched on this machine");
        return;
    }
    for (int i = 0; !lmoe__check_failed(x) && (op = next_op(x, &i));)
        lmoe__kernels_watch(x, op, x->device->kernels);
}

const lmoe__check lmoe__checks_devices[] = {
    {"devices", "info", "it opens, or says why it cannot, and knows its name", LMOE_KIND_DEVICE,
     LMOE__QUICK, 30, info, 0},
    {"devices", "memory",
     "memory is aligned and keeps what is uploaded; a source may be reused after its upload",
     LMOE_KIND_DEVICE, LMOE__QUICK, 30, memory, 0},
    {"devices", "twice", "two may be open at once, and closing one leaves the other",
     LMOE_KIND_DEVICE, LMOE__QUICK, 30, twice, 0},
    {"devices", "capture", "captured work is done at each replay", LMOE_KIND_DEVICE, LMOE__QUICK,
     30, capture, 0},
    {"devices", "kernels", "its kernels give what the references of their ops give",
     LMOE_KIND_DEVICE, LMOE__FULL, 600, reference, 0},
    {"devices", "launch",
     "launches of its kernels allocate nothing, start no thread and wait for nothing",
     LMOE_KIND_DEVICE, LMOE__FULL, 300, launch, 0},
    {0},
};
