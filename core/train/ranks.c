/* SPDX-License-Identifier: Apache-2.0
 * core/train/ranks.c: which rank a process is, from what its launcher has left in the environment.
 */
#include "core/train/train.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

typedef struct launcher {
    const char *name, *rank, *ranks, *local_rank, *local_ranks;
} launcher;

static const launcher launchers[] = {
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
};
enum { N_LAUNCHERS = sizeof launchers / sizeof *launchers };

/* Asked only where no other has a word: a job's own shell has these variables too, and other
 * launchers start one process of their own on each machine in a Slurm step. */
static const launcher slurm = {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL};

/* A number from least on; `missing` if there is no such variable. */
static lmoe_status read_number(lmoe_ctx *ctx, const char *variable, int least, int missing,
                               int *out)
{
    const char *text = variable ? getenv(variable) : NULL;
    *out = missing;
    if (!text) return LMOE_OK;
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < least || n > INT_MAX)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "the environment says %s = '%s', which is not a number from %d on; the "
                          "launcher sets it: start the ranks with one",
                          variable, text, least);
    *out = (int)n;
    return LMOE_OK;
}

static lmoe_status read_launcher(lmoe_ctx *ctx, const launcher *l, lmoe__place *out)
{
    *out = (lmoe__place){.launcher = l->name, .variable = l->ranks};
    LMOE_TRY(read_number(ctx, l->rank, 0, -1, &out->rank));
    LMOE_TRY(read_number(ctx, l->ranks, 1, -1, &out->ranks));
    if (out->rank < 0 && out->ranks < 0) return LMOE_OK;
    if (out->rank < 0 || out->ranks < 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "the environment has %s but not %s, and a rank needs both; start the "
                          "ranks with a launcher, or unset the one that is there",
                          out->rank < 0 ? l->ranks : l->rank, out->rank < 0 ? l->rank : l->ranks);
    if (out->rank >= out->ranks)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "the environment says %s = %d with %s = %d; ranks are numbered from 0, "
                          "so it must be less",
                          l->rank, out->rank, l->ranks, out->ranks);
    LMOE_TRY(read_number(ctx, l->local_rank, 0, 0, &out->local_rank));
    return read_number(ctx, l->local_ranks, 1, 1, &out->local_ranks);
}

lmoe_status lmoe__place_find(lmoe_ctx *ctx, lmoe__place *out)
{
    lmoe__place none = {.rank = 0, .ranks = 0, .local_ranks = 1}, found[N_LAUNCHERS];
    const lmoe__place *first = NULL;
    for (int i = 0; i < N_LAUNCHERS; i++) {
        LMOE_TRY(read_launcher(ctx, &launchers[i], &found[i]));
        if (found[i].ranks < 0) continue;
        if (first && (first->rank != found[i].rank || first->ranks != found[i].ranks))
            return lmoe_error(ctx, LMOE_E_CONFIG,
                              "%s says that this is rank %d of %d (%s), and %s that it is rank %d "
                              "of %d (%s); start the ranks with one launcher, and unset what "
                              "another has left",
                              first->launcher, first->rank, first->ranks, first->variable,
                              found[i].launcher, found[i].rank, found[i].ranks, found[i].variable);
        if (!first) first = &found[i];
    }
    *out = first ? *first : none;
    if (first || (!getenv("SLURM_STEP_ID") && !getenv("SLURM_STEPID"))) return LMOE_OK;
    LMOE_TRY(read_launcher(ctx, &slurm, out));
    if (out->ranks < 0) *out = none;
    return LMOE_OK;
}
