/* SPDX-License-Identifier: Apache-2.0
 * tests/cuda/count_waits.c: preloaded, counts the calls in which a program waits for a GPU, and at its
 * end appends their number to the file that WAITS names.
 *
 * Copies of memory that is not page-locked wait too, and so does what frees or allocates: all count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static long waits; /* the program's one thread that uses the GPU adds to it */

/* The function that would have been called. */
#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

int cudaStreamSynchronize(void *stream);
int cudaEventSynchronize(void *event);
int cudaDeviceSynchronize(void);
int cudaMemcpy(void *to, const void *from, size_t n, int kind);
int cudaMemset(void *to, int value, size_t n);
int cudaMalloc(void **p, size_t n);
int cudaFree(void *p);

int cudaStreamSynchronize(void *stream)
{
    waits++;
    return REAL(cudaStreamSynchronize, void *)(stream);
}

int cudaEventSynchronize(void *event)
{
    waits++;
    return REAL(cudaEventSynchronize, void *)(event);
}

int cudaDeviceSynchronize(void)
{
    waits++;
    return REAL(cudaDeviceSynchronize, void)();
}

int cudaMemcpy(void *to, const void *from, size_t n, int kind)
{
    waits++;
    return REAL(cudaMemcpy, void *, const void *, size_t, int)(to, from, n, kind);
}

int cudaMemset(void *to, int value, size_t n)
{
    waits++;
    return REAL(cudaMemset, void *, int, size_t)(to, value, n);
}

int cudaMalloc(void **p, size_t n)
{
    waits++;
    return REAL(cudaMalloc, void **, size_t)(p, n);
}

int cudaFree(void *p)
{
    waits++;
    return REAL(cudaFree, void *)(p);
}

static __attribute__((destructor)) void report(void)
{
    const char *path = getenv("WAITS");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f) return;
    fprintf(f, "%ld\n", waits);
    fclose(f);
}
