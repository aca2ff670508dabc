/* SPDX-License-Identifier: Apache-2.0
 * lmoe/exchange.h: for authors of communicators: is a call legal, do two calls belong together, what
 * is it called in a message, and reductions in rank order.
 */
#ifndef LMOE_EXCHANGE_H
#define LMOE_EXCHANGE_H

#include <lmoe/comm.h>
#include <lmoe/kernel.h>

#include <math.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- calls ---- */

static inline int lmoe_exchange_is_collective(const lmoe_exchange *e)
{
    return e->kind != LMOE_SEND && e->kind != LMOE_RECV;
}

static inline int64_t lmoe_exchange_sum(const int64_t *counts, int32_t ranks)
{
    int64_t n = 0;
    for (int32_t i = 0; i < ranks; i++) n += counts[i];
    return n;
}

/* Elements that rank sends, and receives. */
static inline int64_t lmoe_exchange_sends(const lmoe_exchange *e, int32_t rank, int32_t ranks)
{
    switch (e->kind) {
    case LMOE_REDUCE_SCATTER:
    case LMOE_ALL_TO_ALL: return ranks * e->count;
    case LMOE_ALL_TO_ALL_V: return lmoe_exchange_sum(e->send_counts, ranks);
    case LMOE_BROADCAST: return rank == e->peer ? e->count : 0;
    case LMOE_RECV:
    case LMOE_BARRIER: return 0;
    default: return e->count;
    }
}

static inline int64_t lmoe_exchange_receives(const lmoe_exchange *e, int32_t ranks)
{
    switch (e->kind) {
    case LMOE_ALL_GATHER:
    case LMOE_ALL_TO_ALL: return ranks * e->count;
    case LMOE_ALL_TO_ALL_V: return lmoe_exchange_sum(e->recv_counts, ranks);
    case LMOE_SEND:
    case LMOE_BARRIER: return 0;
    default: return e->count;
    }
}

/* Why the call of this rank is not possible; NULL if it is. */
static inline const char *lmoe_exchange_problem(const lmoe_exchange *e, int32_t rank, int32_t ranks)
{
    int p2p = !lmoe_exchange_is_collective(e);
    if (e->size < sizeof *e) return "the size of the call's struct is too small";
    if (e->kind < LMOE_ALL_REDUCE || e->kind > LMOE_RECV) return "the kind is unknown";
    if (e->kind == LMOE_BARRIER) return NULL;
    if (lmoe_dtype_bytes(e->dtype) == 0) return "the dtype is unknown";
    if (e->reduce < LMOE_SUM || e->reduce > LMOE_MIN) return "the reduction is unknown";
    if (e->kind != LMOE_ALL_TO_ALL_V && e->count < 0) return "the number of elements is negative";
    if (e->kind == LMOE_ALL_TO_ALL_V) {
        if (!e->send_counts || !e->recv_counts) return "the counts of the ranks are missing";
        for (int32_t i = 0; i < ranks; i++) {
            if (e->send_counts[i] < 0 || e->recv_counts[i] < 0)
                return "the number of elements is negative";
        }
        if (e->send_counts[rank] != e->recv_counts[rank])
            return "the counts of what the rank keeps differ";
    }
    if ((p2p || e->kind == LMOE_BROADCAST) && (e->peer < 0 || e->peer >= ranks))
        return "there is no such peer";
    if (p2p && e->peer == rank) return "a rank has no messages for itself";
    if (p2p && (e->tag < 0 || e->tag > LMOE_MAX_TAG)) return "the tag is out of range";
    if ((!e->send && lmoe_exchange_sends(e, rank, ranks) > 0) ||
        (!e->recv && lmoe_exchange_receives(e, ranks) > 0))
        return "a buffer is missing";
    return NULL;
}

/* Whether two ranks' calls may be parts of one collective. */
static inline int lmoe_exchange_same(const lmoe_exchange *a, const lmoe_exchange *b)
{
    int reduces = a->kind == LMOE_ALL_REDUCE || a->kind == LMOE_REDUCE_SCATTER;
    if (a->kind != b->kind) return 0;
    if (a->kind == LMOE_BARRIER) return 1;
    if (a->dtype != b->dtype || (reduces && a->reduce != b->reduce)) return 0;
    if (a->kind == LMOE_BROADCAST && a->peer != b->peer) return 0;
    return a->kind == LMOE_ALL_TO_ALL_V || a->count == b->count;
}

/* Kind 0 is split, which is numbered as the collectives are. */
static inline const char *lmoe_exchange_name(const lmoe_exchange *e)
{
    static const char *const names[] = {"split",     "all_reduce", "reduce_scatter", "all_gather",
                                        "broadcast", "all_to_all", "all_to_all_v",   "barrier",
                                        "send",      "recv",       "an unknown call"};
    return names[(unsigned)e->kind <= LMOE_RECV ? e->kind : LMOE_RECV + 1];
}

/* "all_reduce number 5 (sum of 8 f32)"; number: how many collectives, or messages, this rank has
 * started on the communicator, this one included. Returns buf. */
static inline const char *lmoe_exchange_text(char *buf, size_t n, const lmoe_exchange *e,
                                             int64_t number)
{
    static const char *const reductions[] = {"sum", "max", "min", "unknown reduction"};
    static const char *const dtypes[] = {"none", "f32", "f64", "bf16", "f16",
                                         "i32",  "i64", "u8",  "u16"};
    const char *name = lmoe_exchange_name(e);
    const char *dtype = (unsigned)e->dtype < sizeof dtypes / sizeof *dtypes ? dtypes[e->dtype]
                                                                            : "of an unknown dtype";
    long long at = (long long)number, count = (long long)e->count;
    switch (e->kind) {
    case LMOE_ALL_REDUCE:
    case LMOE_REDUCE_SCATTER:
        snprintf(buf, n, "%s number %lld (%s of %lld %s)", name, at,
                 reductions[(unsigned)e->reduce <= LMOE_MIN ? e->reduce : 3], count, dtype);
        break;
    case LMOE_ALL_GATHER:
        snprintf(buf, n, "%s number %lld (%lld %s of each rank)", name, at, count, dtype);
        break;
    case LMOE_BROADCAST:
        snprintf(buf, n, "%s number %lld (%lld %s of rank %d)", name, at, count, dtype,
                 (int)e->peer);
        break;
    case LMOE_ALL_TO_ALL:
        snprintf(buf, n, "%s number %lld (%lld %s to each rank)", name, at, count, dtype);
        break;
    case LMOE_ALL_TO_ALL_V: snprintf(buf, n, "%s number %lld (%s)", name, at, dtype); break;
    case LMOE_SEND:
    case LMOE_RECV:
        snprintf(buf, n, "%s number %lld (%lld %s %s rank %d, tag %d)", name, at, count, dtype,
                 e->kind == LMOE_SEND ? "to" : "from", (int)e->peer, (int)e->tag);
        break;
    default: snprintf(buf, n, "%s number %lld", name, at);
    }
    return buf;
}

/* ---- reductions ---- */

/* IEEE half precision: 1 sign, 5 exponent, 10 fraction bits. */
static inline float lmoe_half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf((float)fraction, -24)
                                 : ldexpf((float)(fraction + 1024), exponent - 25);
    return h & 0x8000 ? -size : size;
}

/* Rounds to nearest, ties to even. */
static inline uint16_t lmoe_float_to_half(float x)
{
    unsigned sign = signbit(x) ? 0x8000 : 0;
    int exponent;
    if (x == 0) return (uint16_t)sign;
    if (isnan(x)) return (uint16_t)(sign | 0x7e00);
    if (fabsf(x) >= 65520) return (uint16_t)(sign | 0x7c00); /* rounds to infinity */
    frexpf(x, &exponent);
    int shift = exponent < -13 ? 24 : 11 - exponent; /* subnormals share one exponent */
    unsigned units = (unsigned)nearbyintf(ldexpf(fabsf(x), shift));
    /* A carry out of the fraction goes on into the exponent, as it should. */
    if (exponent >= -13) units += ((unsigned)(exponent + 14) << 10) - 1024;
    return (uint16_t)(sign | units);
}

#define LMOE_REDUCE_BLOCK_  512
#define LMOE_SAME_(x)       (x)
#define LMOE_ADD_(T, a, b)  ((a) + (b))
#define LMOE_WRAP_(T, a, b) ((T)((uint64_t)(a) + (uint64_t)(b)))

/* T: element; A: accumulator; load, store: between them; add: the sum in A. b != b: NaN. */
#define LMOE_REDUCE_(name, T, A, load, store, add)                                           \
    static inline void name(const void *const *from, int32_t n, int64_t at, void *const *to, \
                            int32_t m, int64_t put, int64_t count, lmoe_reduce reduce)       \
    {                                                                                        \
        A acc[LMOE_REDUCE_BLOCK_];                                                           \
        for (int64_t i = 0; i < count; i++) acc[i] = load(((const T *)from[0])[at + i]);     \
        for (int32_t r = 1; r < n; r++) {                                                    \
            const T *x = (const T *)from[r] + at;                                            \
            for (int64_t i = 0; i < count; i++) {                                            \
                A a = acc[i], b = load(x[i]);                                                \
                if (reduce == LMOE_SUM)                                                      \
                    acc[i] = add(A, a, b);                                                   \
                else if (reduce == LMOE_MAX)                                                 \
                    acc[i] = b > a || b != b ? b : a;                                        \
                else                                                                         \
                    acc[i] = b < a || b != b ? b : a;                                        \
            }                                                                                \
        }                                                                                    \
        for (int32_t r = 0; r < m; r++) {                                                    \
            T *y = (T *)to[r] + put;                                                         \
            for (int64_t i = 0; i < count; i++) y[i] = store(acc[i]);                        \
        }                                                                                    \
    }

LMOE_REDUCE_(lmoe_reduce_f32_, float, float, LMOE_SAME_, LMOE_SAME_, LMOE_ADD_)
LMOE_REDUCE_(lmoe_reduce_f64_, double, double, LMOE_SAME_, LMOE_SAME_, LMOE_ADD_)
LMOE_REDUCE_(lmoe_reduce_bf16_, uint16_t, float, lmoe_bf16_to_float, lmoe_float_to_bf16, LMOE_ADD_)
LMOE_REDUCE_(lmoe_reduce_f16_, uint16_t, float, lmoe_half_to_float, lmoe_float_to_half, LMOE_ADD_)
LMOE_REDUCE_(lmoe_reduce_i32_, int32_t, int32_t, LMOE_SAME_, LMOE_SAME_, LMOE_WRAP_)
LMOE_REDUCE_(lmoe_reduce_i64_, int64_t, int64_t, LMOE_SAME_, LMOE_SAME_, LMOE_WRAP_)
LMOE_REDUCE_(lmoe_reduce_u8_, uint8_t, uint8_t, LMOE_SAME_, LMOE_SAME_, LMOE_WRAP_)
LMOE_REDUCE_(lmoe_reduce_u16_, uint16_t, uint16_t, LMOE_SAME_, LMOE_SAME_, LMOE_WRAP_)

/* Elements at ... at + count - 1 of n buffers are reduced in the order of the buffers, and written
 * from element `put` on to each of m buffers, which may be among those of `from` if put = at. f32
 * and f64 are added in their own dtype, f16 and bf16 in f32 and rounded once, integers modulo their
 * range. A NaN in any buffer makes the largest and the smallest NaN. */
static inline void lmoe_reduce_ordered(const void *const *from, int32_t n, int64_t at,
                                       void *const *to, int32_t m, int64_t put, int64_t count,
                                       lmoe_dtype dtype, lmoe_reduce op)
{
    for (int64_t i = 0; i < count; i += LMOE_REDUCE_BLOCK_) {
        int64_t a = at + i, p = put + i, left = count - i;
        int64_t k = left < LMOE_REDUCE_BLOCK_ ? left : LMOE_REDUCE_BLOCK_;
        switch (dtype) {
        case LMOE_F32: lmoe_reduce_f32_(from, n, a, to, m, p, k, op); break;
        case LMOE_F64: lmoe_reduce_f64_(from, n, a, to, m, p, k, op); break;
        case LMOE_BF16: lmoe_reduce_bf16_(from, n, a, to, m, p, k, op); break;
        case LMOE_F16: lmoe_reduce_f16_(from, n, a, to, m, p, k, op); break;
        case LMOE_I32: lmoe_reduce_i32_(from, n, a, to, m, p, k, op); break;
        case LMOE_I64: lmoe_reduce_i64_(from, n, a, to, m, p, k, op); break;
        case LMOE_U8: lmoe_reduce_u8_(from, n, a, to, m, p, k, op); break;
#if LMOE_TARGET_API >= 1
        case LMOE_U16: lmoe_reduce_u16_(from, n, a, to, m, p, k, op); break;
#endif
        case LMOE_NONE: break;
        }
    }
}

#ifdef __cplusplus
}
#endif
#endif
