/* SPDX-License-Identifier: Apache-2.0
 * core/base/ctx.c: contexts, the first failure, and messages on stderr.
 */
#include "core/base/base.h"

void lmoe__ctx_init(lmoe_ctx *ctx)
{
    memset(ctx, 0, sizeof *ctx);
    ctx->ranks = 1;
    ctx->log_level = LMOE_LOG_INFO;
}

void lmoe__ctx_clear(lmoe_ctx *ctx)
{
    ctx->status = LMOE_OK;
    ctx->message[0] = '\0';
}

/* Marks a text that did not fit, so that nobody takes its end for the end of the sentence. */
static void mark_cut(char *buf, size_t size, int needed)
{
    if (needed >= 0 && (size_t)needed < size) return;
    memcpy(buf + size - 4, "...", 4);
}

/* Pieces of one lmoe_parallel may fail at the same time: who sets the status writes the message. */
lmoe_status lmoe_verror(lmoe_ctx *ctx, lmoe_status status, const char *format, va_list args)
{
    if (status == LMOE_OK) status = LMOE_E_USAGE; /* a failure is never a success */
    if (!ctx) return status;
    lmoe_status none = LMOE_OK;
    if (__atomic_compare_exchange_n(&ctx->status, &none, status, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        int n = vsnprintf(ctx->message, sizeof ctx->message, format, args);
        mark_cut(ctx->message, sizeof ctx->message, n);
    }
    return status;
}

void lmoe__log(lmoe_ctx *ctx, int level, const char *format, ...)
{
    static const char *const words[] = {"error: ", "warning: ", "", "debug: "};
    if (ctx && level > ctx->log_level) return;
    level = level < LMOE_LOG_ERROR   ? LMOE_LOG_ERROR
            : level > LMOE_LOG_DEBUG ? LMOE_LOG_DEBUG
                                     : level;

    /* one write a message: ranks share the terminal */
    char line[4096];
    const size_t room = sizeof line - 1; /* of text and its NUL; the line feed replaces the NUL */
    int used = ctx && ctx->ranks > 1 ? snprintf(line, room, "lmoe[%d]: %s", ctx->rank, words[level])
                                     : snprintf(line, room, "lmoe: %s", words[level]);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, room - (size_t)used, format, args);
    va_end(args);
    mark_cut(line + used, room - (size_t)used, n);
    size_t length = strlen(line);
    line[length] = '\n';
    fwrite(line, 1, length + 1, stderr);
}
