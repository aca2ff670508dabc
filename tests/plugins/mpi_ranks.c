/* SPDX-License-Identifier: Apache-2.0
 * tests/plugins/mpi_ranks.c: one rank of a test of comm/mpi; mpi.sh starts some. Links the plugin
 * built with -DLMOE_BUILTIN=comm_mpi. Usage: mpi_ranks WHAT [TIMEOUT]
 *
 *   exchange    every kind of exchange; says how many were wrong
 *   KIND        rank 1 starts KIND (gather, count, message) while the others do something else
 *   absent      rank 1 does not come
 *   abort       rank 1 aborts
 *   forever     all exchange until they are ended from outside; each rank prints its process first
 */
#include "../../core/check/comm_exchange.h"

#include <lmoe/plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const lmoe_plugin *lmoe_plugin_v1_comm_mpi(const lmoe_host *host);

static int number(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : -1;
}

/* The environment of either MPI. */
static int32_t of_launcher(const char *open_mpi, const char *mpich)
{
    return number(open_mpi) >= 0 ? number(open_mpi) : number(mpich);
}

static lmoe_status sum(const lmoe_comm *c, void *comm, int64_t count)
{
    static float x[100000];
    return lmoe_all_reduce(c, comm, x, count, LMOE_F32, LMOE_SUM, NULL);
}

static lmoe_status disagree(const lmoe_comm *c, void *comm, const char *what)
{
    static float x[64];
    lmoe_exchange message = {.size = sizeof message, .kind = LMOE_SEND, .dtype = LMOE_F32};
    LMOE_TRY(sum(c, comm, 3));
    if (strcmp(what, "message") == 0) {
        message.kind = c->rank(comm) == 1 ? LMOE_SEND : LMOE_RECV;
        message.peer = c->rank(comm) == 1 ? 0 : 1;
        message.count = c->rank(comm) == 1 ? 3 : 4;
        message.send = message.recv = x;
        if (c->rank(comm) > 1) return sum(c, comm, 3);
        LMOE_TRY(lmoe_exchange_run(c, comm, &message));
        return sum(c, comm, 3);
    }
    if (c->rank(comm) != 1) return sum(c, comm, 8);
    if (strcmp(what, "count") == 0) return sum(c, comm, 9);
    if (strcmp(what, "gather") == 0) return lmoe_all_gather(c, comm, x, x + 8, 8, LMOE_F32, NULL);
    if (strcmp(what, "absent") == 0) sleep(600);
    return LMOE_E_COMM;
}

static lmoe_status forever(const lmoe_comm *c, void *comm)
{
    printf("rank %d is process %d\n", (int)c->rank(comm), (int)getpid());
    fflush(stdout);
    for (;;) {
        LMOE_TRY(sum(c, comm, 100000));
        usleep(1000);
    }
}

int main(int argc, char **argv)
{
    const lmoe_comm *c = (const lmoe_comm *)lmoe_plugin_v1_comm_mpi(NULL)->classes[0];
    const char *what = argc > 1 ? argv[1] : "exchange";
    lmoe_comm_env env = {.size = sizeof env, .timeout = argc > 2 ? atof(argv[2]) : 60};
    void *comm;
    env.rank = of_launcher("OMPI_COMM_WORLD_RANK", "PMI_RANK");
    env.ranks = of_launcher("OMPI_COMM_WORLD_SIZE", "PMI_SIZE");
    if (c->open(NULL, &env, &comm) != LMOE_OK) {
        fprintf(stderr, "open: %s\n", c->message(comm));
        return 1;
    }
    if (strcmp(what, "exchange") == 0) {
        int wrong = lmoe__exchange_check(c, comm, true, LMOE__EXCHANGE_ALL, NULL);
        printf("rank %d of %d: %d wrong\n", (int)env.rank, (int)env.ranks, wrong);
        c->close(comm);
        return wrong != 0;
    }
    lmoe_status s = strcmp(what, "forever") == 0 ? forever(c, comm) : disagree(c, comm, what);
    if (s != LMOE_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)env.rank, c->message(comm));
        c->abort(comm);
    }
    c->close(comm);
    return s != LMOE_OK;
}
