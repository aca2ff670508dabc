/* SPDX-License-Identifier: Apache-2.0
 * core/check/exam.c: what a check says, and the device that it may ask for.
 */
#include "core/check/check.h"

static void say(char *out, size_t n, const char *format, va_list args)
{
    int length = vsnprintf(out, n, format, args);
    if (length >= (int)n) memcpy(out + n - 4, "...", 4);
}

#define SAY(field)                                                      \
    do {                                                                \
        va_list args;                                                   \
        va_start(args, format);                                         \
        say(x->verdict->field, sizeof x->verdict->field, format, args); \
        va_end(args);                                                   \
    } while (0)

void lmoe__check_fail(lmoe__exam *x, const char *format, ...)
{
    if (x->verdict->outcome == LMOE__FAIL) return;
    x->verdict->outcome = LMOE__FAIL;
    SAY(message);
}

void lmoe__check_skip(lmoe__exam *x, const char *format, ...)
{
    if (x->verdict->outcome != LMOE__PASS) return;
    x->verdict->outcome = LMOE__SKIP;
    SAY(message);
}

void lmoe__check_warn(lmoe__exam *x, const char *format, ...)
{
    if (x->verdict->outcome != LMOE__PASS) return;
    x->verdict->outcome = LMOE__WARN;
    SAY(message);
}

void lmoe__check_note(lmoe__exam *x, const char *format, ...)
{
    SAY(note);
}

void lmoe__check_case(lmoe__exam *x, const char *format, ...)
{
    if (lmoe__check_failed(x)) return; /* the failure's case stays */
    x->verdict->cases++;
    SAY(at);
}

bool lmoe__check_ok(lmoe__exam *x, lmoe_status status, const char *what)
{
    if (status == LMOE_OK) return true;
    lmoe__check_fail(x, "%s: %s", what,
                     x->ctx->message[0] ? x->ctx->message : "failed without a message");
    lmoe__ctx_clear(x->ctx);
    return false;
}

bool lmoe__check_failed(const lmoe__exam *x)
{
    return x->verdict->outcome == LMOE__FAIL;
}

bool lmoe__check_device(lmoe__exam *x)
{
    const lmoe_class *c;
    if (x->dev) return true;
    lmoe_status status =
        lmoe__registry_find(x->registry, x->ctx, LMOE_KIND_DEVICE, "device/cpu", &c);
    if (!lmoe__check_ok(x, status, "the device of the checks")) return false;
    void *options = lmoe__arena_alloc(x->arena, c->options_size + 1);
    lmoe__options_default(c->options, options, x->arena);
    x->device = (const lmoe_device *)(const void *)c;
    return lmoe__check_ok(x, x->device->open(x->ctx, options, &x->dev), "opening device/cpu");
}
