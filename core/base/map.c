/* SPDX-License-Identifier: Apache-2.0
 * core/base/map.c: files mapped for reading.
 */
#include "core/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* 0, or what errno should say. */
static int map_open(const char *path, lmoe__map *map)
{
    static const unsigned char nothing[1];
    struct stat info;
    map->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer returns */
    if (map->fd < 0) return errno;
    if (fstat(map->fd, &info) != 0) return errno;
    if (S_ISDIR(info.st_mode)) return EISDIR;
    if (!S_ISREG(info.st_mode)) return ESPIPE;
    map->size = (size_t)info.st_size;
    map->data = nothing; /* the system maps no empty range */
    if (map->size == 0) return 0;
    void *data = mmap(NULL, map->size, PROT_READ, MAP_PRIVATE, map->fd, 0);
    if (data == MAP_FAILED) {
        map->size = 0;
        return errno;
    }
    map->data = data;
    return 0;
}

lmoe_status lmoe__map_file(lmoe_ctx *ctx, const char *path, lmoe__map *map)
{
    *map = (lmoe__map){.fd = -1};
    int error = map_open(path, map);
    if (!error) return LMOE_OK;
    lmoe__map_close(map);
    if (error == ESPIPE)
        return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: it is not a regular file", path);
    return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(error));
}

lmoe_status lmoe__map_check(lmoe_ctx *ctx, const char *path, const lmoe__map *map)
{
    struct stat info;
    if (fstat(map->fd, &info) != 0)
        return lmoe_error(ctx, LMOE_E_IO, "cannot read %s: %s", path, strerror(errno));
    if ((size_t)info.st_size == map->size) return LMOE_OK;
    return lmoe_error(
        ctx, LMOE_E_IO,
        "%s has changed while it was in use: it had %zu bytes and has %lld now; a file "
        "that is read must stay as it is",
        path, map->size, (long long)info.st_size);
}

void lmoe__map_close(lmoe__map *map)
{
    if (map->size) munmap((void *)map->data, map->size);
    if (map->fd >= 0) close(map->fd);
    *map = (lmoe__map){.fd = -1};
}
