/* SPDX-License-Identifier: Apache-2.0
 * core/train/builds.c: all ranks run the same program: before anything else they compare digests of
 * the command and of every plugin file that they opened. Ranks of different builds would compute
 * different things, or wait for each other for ever.
 *
 * One number of each rank tells whether all agree. Only if they do not are lists exchanged, so that
 * the first difference from rank 0 can be told.
 */
#include "core/train/world.h"

#include <stdlib.h>

static void add(lmoe__builds *b, const char *name, const char *path, const char *digest)
{
    lmoe__build x;
    memset(&x, 0, sizeof x);
    snprintf(x.name, sizeof x.name, "%s", name);
    snprintf(x.path, sizeof x.path, "%s", path);
    snprintf(x.digest, sizeof x.digest, "%s", digest);
    LMOE_PUSH(b->list, b->count, b->capacity, x);
}

lmoe_status lmoe__builds_read(lmoe_ctx *ctx, lmoe__registry *registry, lmoe__builds *b)
{
    static const char self[] = "/proc/self/exe";
    const lmoe__plugin *p;
    char digest[33];
    memset(b, 0, sizeof *b);
    LMOE_TRY(lmoe__digest_file(ctx, self, digest));
    char *path = realpath(self, NULL);
    add(b, "the command", path ? path : self, digest);
    free(path);
    for (int i = 0; (p = lmoe__registry_plugin(registry, i)); i++)
        add(b, p->info.id, p->path, p->digest);
    return LMOE_OK;
}

void lmoe__builds_free(lmoe__builds *b)
{
    free(b->list);
    memset(b, 0, sizeof *b);
}

/* The digests only: the same file may lie in other folders. */
static int64_t sum_of(const lmoe__builds *b)
{
    lmoe__text t = {0};
    for (int i = 0; i < b->count; i++)
        lmoe__text_add(&t, "%s %s\n", b->list[i].name, b->list[i].digest);
    int64_t sum = (int64_t)(lmoe__hash_text(t.data) >> 1);
    lmoe__text_free(&t);
    return sum;
}

/* What rank `from` has becomes everyone's. Bytes are not negative, so the others' zeros do not show. */
static lmoe_status tell(lmoe__rank *r, int from, lmoe__build *x)
{
    if (r->rank != from) memset(x, 0, sizeof *x);
    for (size_t at = 0; at < sizeof *x; at += LMOE__WORD) {
        size_t n = sizeof *x - at < LMOE__WORD ? sizeof *x - at : LMOE__WORD;
        LMOE_TRY(lmoe__rank_reduce(r, (char *)x + at, (int64_t)n, LMOE_U8, LMOE_MAX));
    }
    return LMOE_OK;
}

static const lmoe__build *entry(const lmoe__builds *b, const char *name)
{
    for (int i = 0; i < b->count; i++) {
        if (strcmp(b->list[i].name, name) == 0) return &b->list[i];
    }
    return NULL;
}

/* The first entry that rank 0 or this rank has not, or has otherwise: ours and rank 0's, of which one
 * may be without a digest. *ours stays without a name if there is none. */
static lmoe_status compare(lmoe__rank *r, const lmoe__builds *b, lmoe__build *ours,
                           lmoe__build *first)
{
    lmoe__builds theirs = {0};
    int64_t count = r->rank == 0 ? b->count : 0;
    lmoe_status status = lmoe__rank_reduce(r, &count, 1, LMOE_I64, LMOE_MAX);
    for (int64_t i = 0; status == LMOE_OK && i < count; i++) {
        lmoe__build x = {.name = ""};
        if (r->rank == 0) x = b->list[i];
        status = tell(r, 0, &x);
        LMOE_PUSH(theirs.list, theirs.count, theirs.capacity, x);
        const lmoe__build *mine = entry(b, x.name);
        if (ours->name[0] || (mine && strcmp(mine->digest, x.digest) == 0)) continue;
        *first = x;
        if (mine) *ours = *mine;
        memcpy(ours->name, x.name, sizeof x.name);
    }
    for (int i = 0; i < b->count && !ours->name[0]; i++) {
        if (!entry(&theirs, b->list[i].name)) *ours = b->list[i];
    }
    free(theirs.list);
    return status;
}

static void describe(lmoe__text *t, int rank, const lmoe__build *x)
{
    if (x->path[0])
        lmoe__text_add(t, "rank %d has %s with digest %s", rank, x->path,
                       x->digest[0] ? x->digest : "(built in)");
    else
        lmoe__text_add(t, "rank %d has none", rank);
}

lmoe_status lmoe__builds_agree(lmoe__rank *r, const lmoe__builds *b)
{
    int64_t sum = sum_of(b), ends[2] = {sum, -sum};
    LMOE_TRY(lmoe__rank_reduce(r, ends, 2, LMOE_I64, LMOE_MAX));
    if (ends[0] == -ends[1]) return LMOE_OK; /* the largest sum is the smallest */

    lmoe__build ours = {.name = ""}, first = {.name = ""};
    LMOE_TRY(compare(r, b, &ours, &first));
    int64_t other = ours.name[0] ? r->rank : INT32_MAX;
    LMOE_TRY(lmoe__rank_reduce(r, &other, 1, LMOE_I64, LMOE_MIN));
    if (other == INT32_MAX) /* the same files, in another order of opening */
        return LMOE_OK;
    LMOE_TRY(tell(r, (int)other, &ours));
    LMOE_TRY(tell(r, (int)other, &first));
    lmoe__text t = {0};
    describe(&t, 0, &first);
    lmoe__text_add(&t, ", ");
    describe(&t, (int)other, &ours);
    lmoe_status status =
        lmoe_error(&r->ctx, LMOE_E_CONFIG,
                   "the ranks run different builds of %s: %s; give all ranks the same files",
                   ours.name, t.data);
    lmoe__text_free(&t);
    return status;
}
