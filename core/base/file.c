/* SPDX-License-Identifier: Apache-2.0
 * core/base/file.c: whole files in and out.
 */
#include "core/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static lmoe_status cannot_read(lmoe_ctx *ctx, const char *path, int error)
{
    return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(error));
}

/* The size is a first guess: pipes have none, and files grow. */
static lmoe_status read_all(lmoe_ctx *ctx, const char *path, int fd, char **data, size_t *size)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return cannot_read(ctx, path, errno);
    if (S_ISDIR(info.st_mode)) return cannot_read(ctx, path, EISDIR);
    size_t capacity = (info.st_size > 0 ? (size_t)info.st_size : 4096) + 1;
    size_t used = 0;
    char *text = lmoe__malloc(capacity);
    for (;;) {
        if (used + 1 == capacity) text = lmoe__realloc(text, capacity *= 2);
        ssize_t n = read(fd, text + used, capacity - used - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int error = errno;
            free(text);
            return cannot_read(ctx, path, error);
        }
        if (n == 0) break;
        used += (size_t)n;
    }
    text[used] = '\0';
    *data = text;
    if (size) *size = used;
    return LMOE_OK;
}

lmoe_status lmoe__read_file(lmoe_ctx *ctx, const char *path, char **data, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cannot_read(ctx, path, errno);
    lmoe_status status = read_all(ctx, path, fd, data, size);
    close(fd);
    return status;
}

/* A new file beside `path`; its name goes to `name`. Rank threads and hosts may write at once. */
static int open_beside(const char *path, char *name, size_t n)
{
    for (int i = 0; i < 100; i++) {
        snprintf(name, n, "%s.%d-%d.tmp", path, (int)gettid(), i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        data += n;
        size -= (size_t)n;
    }
    return fsync(fd);
}

/* Makes a rename last. File systems that cannot sync a folder say EINVAL; there is no more to do.
 */
int lmoe__sync_folder(const char *path)
{
    char *folder = lmoe__malloc(strlen(path) + 2);
    strcpy(folder, path);
    char *slash = strrchr(folder, '/');
    strcpy(slash ? slash + (slash == folder) : folder, slash ? "" : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (fd < 0) return -1;
    int result = fsync(fd) != 0 && errno != EINVAL ? -1 : 0;
    int error = errno;
    close(fd);
    errno = error;
    return result;
}

lmoe_status lmoe__write_file(lmoe_ctx *ctx, const char *path, const void *data, size_t size)
{
    size_t n = strlen(path) + 32;
    char *aside = lmoe__malloc(n);
    const char *doing = "create";
    int error = 0;
    int fd = open_beside(path, aside, n);
    if (fd < 0) {
        error = errno;
    } else {
        doing = "write";
        if (write_all(fd, data, size) != 0) error = errno;
        if (close(fd) != 0 && !error) error = errno;
        if (!error && rename(aside, path) != 0) error = errno;
        if (error) unlink(aside);
        if (!error && lmoe__sync_folder(path) != 0) error = errno;
    }
    free(aside);
    if (!error) return LMOE_OK;
    return lmoe_error(ctx, LMOE_E_IO, "cannot %s %s: %s", doing, path, strerror(error));
}
