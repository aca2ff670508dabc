/* SPDX-License-Identifier: Apache-2.0
 * lmoe/api.h: the calls a plugin makes. In a plugin each is an inline function that goes through
 * the table handed over at load; inside liblmoe (LMOE_CORE) and in plugins built into it
 * (LMOE_BUILTIN) it is the function itself.
 *
 * Layers, routers and vjps [build thread]:
 *   lmoe_apply          records an op; returns its first output. Wrappers: lmoe/ops.h
 *   lmoe_describe       dtype and shape of a tensor
 *   lmoe_param          declares a weight; only inside params()
 *   lmoe_size           a size of the model: "embed", "layers", "layer" (this one's index), "vocab",
 *                       "experts", "top_k", "seq", "batch", "context"; "training" and "generating"
 *                       are 1 or 0 (both 0: evaluation); -1 if it is not known
 *   lmoe_state_dtype    dtype of states, decays, norms and losses: f32 (f64 in gradient checks)
 *   lmoe_ambient_value  tokens, positions, document starts, resets; absent if the run has none
 *   lmoe_publish        names a value that later layers of the same class read ...
 *   lmoe_recall         ... with this; absent if there is none
 *   lmoe_add_loss       adds a scalar to the training loss; reported by its name
 *   lmoe_add_stat       reports a tensor of at most 65536 elements with the step's metrics
 *   lmoe_fail           records what is wrong; returns poison. A trace keeps its first message
 * Shape functions:
 *   lmoe_shape_error    says what is wrong with the operands
 * Kernels and devices [launch]:
 *   lmoe_error          records what failed
 *   lmoe_parallel       runs fn on [0, n) in pieces of at least `grain`, on the run's threads, and
 *                       waits; fn must not call it
 *   lmoe_threads        how many threads lmoe_parallel uses
 */
#ifndef LMOE_API_H
#define LMOE_API_H

#include <lmoe/layer.h>
#include <lmoe/op.h>
#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One recorded op: name with revision, operands in port order, attributes, room for the outputs,
 * place in the source. */
typedef struct lmoe_call {
    size_t size;
    const char *op;
    const lmoe_tensor *in;
    int32_t n_in;
    const void *attrs;
    size_t attrs_size;
    lmoe_tensor *out; /* n_out handles are written (n_out may be less than the op has); NULL: only
                         the first, returned */
    int32_t n_out;
    const char *file;
    int line;
} lmoe_call;

/* Work on items begin ... end-1; thread is in [0, lmoe_threads()). */
typedef void (*lmoe_range_fn)(void *arg, int64_t begin, int64_t end, int thread);

typedef struct lmoe_api {
    size_t size;
#define LMOE_API(since, ret, name, params, args) ret(*name) params;
#include <lmoe/api.def>
#undef LMOE_API
} lmoe_api;

#if defined(LMOE_CORE) || defined(LMOE_BUILTIN)
#define LMOE_API(since, ret, name, params, args) ret name params;
#include <lmoe/api.def>
#undef LMOE_API
#else
extern __attribute__((visibility("hidden")))
const lmoe_api *lmoe_api_table; /* defined by LMOE_PLUGIN */
#define LMOE_API(since, ret, name, params, args) \
    static inline ret name params                \
    {                                            \
        return lmoe_api_table->name args;        \
    }
#include <lmoe/api.def>
#undef LMOE_API
#endif

static inline __attribute__((format(printf, 4, 5))) lmoe_tensor lmoe_fail_at(
    lmoe_trace *t, const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    lmoe_tensor x = lmoe_vfail(t, file, line, format, args);
    va_end(args);
    return x;
}
#define lmoe_fail(t, ...) lmoe_fail_at((t), __FILE__, __LINE__, __VA_ARGS__)

/* For shape functions: says what is wrong with the operands; returns LMOE_E_USAGE. */
static inline __attribute__((format(printf, 2, 3))) lmoe_status lmoe_shape_error(lmoe_trace *t,
                                                                                 const char *format,
                                                                                 ...)
{
    va_list args;
    va_start(args, format);
    lmoe_status s = lmoe_vshape_error(t, format, args);
    va_end(args);
    return s;
}

/* For kernels and devices: records the message, returns the status. */
static inline __attribute__((format(printf, 3, 4))) lmoe_status lmoe_error(lmoe_ctx *ctx,
                                                                           lmoe_status status,
                                                                           const char *format, ...)
{
    va_list args;
    va_start(args, format);
    lmoe_status s = lmoe_verror(ctx, status, format, args);
    va_end(args);
    return s;
}

#ifdef __cplusplus
}
#endif
#endif
