/* SPDX-License-Identifier: Apache-2.0
 * plugins/device/cpu/loops.h: nested loops over two operands and a result, by their steps in
 * memory.
 */
#ifndef CPU_LOOPS_H
#define CPU_LOOPS_H

#include "cpu.h"

#define CPU_MAX_LOOPS 16

/* `size` rounds; a round moves so many elements in a, b and c. c is 0 for what is summed. */
typedef struct cpu_loop {
    int64_t size, a, b, c;
} cpu_loop;

/* Offsets of one iteration of nested loops in a, b and c. */
typedef struct cpu_place {
    int64_t a, b, c;
} cpu_place;

static inline int64_t cpu_rounds(const cpu_loop *loop, int n)
{
    int64_t rounds = 1;
    for (int i = 0; i < n; i++) rounds *= loop[i].size;
    return rounds;
}

/* A walk over the iterations of nested loops; the last loop runs fastest. */
typedef struct cpu_walk {
    int64_t round[CPU_MAX_LOOPS];
    cpu_place at;
} cpu_walk;

/* Begins at iteration `index`. */
static inline void cpu_walk_from(cpu_walk *w, const cpu_loop *loop, int n, int64_t index)
{
    w->at = (cpu_place){0, 0, 0};
    for (int i = n - 1; i >= 0; i--) {
        w->round[i] = index % loop[i].size;
        index /= loop[i].size;
        w->at.a += w->round[i] * loop[i].a;
        w->at.b += w->round[i] * loop[i].b;
        w->at.c += w->round[i] * loop[i].c;
    }
}

static inline void cpu_walk_next(cpu_walk *w, const cpu_loop *loop, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        int64_t rounds = ++w->round[i] < loop[i].size ? 1 : 1 - loop[i].size;
        w->at.a += rounds * loop[i].a;
        w->at.b += rounds * loop[i].b;
        w->at.c += rounds * loop[i].c;
        if (rounds == 1) return;
        w->round[i] = 0;
    }
}

#endif
