/* SPDX-License-Identifier: Apache-2.0
 * core/base/hash.c: names of random streams (FNV-1a) and digests of files (XXH3, 128 bits).
 */
#define XXH_INLINE_ALL /* the header is the implementation: nothing to link */
#include <xxhash.h>

#include "core/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

uint64_t lmoe__hash_text(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        h = (h ^ *p) * 0x100000001b3u;
    }
    return h;
}

/* Most significant half first, as xxh128sum prints it. */
static void to_hex(XXH128_hash_t h, char hex[33])
{
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

void lmoe__digest_bytes(const void *data, size_t size, char hex[33])
{
    to_hex(XXH3_128bits(data, size), hex);
}

lmoe_status lmoe__digest_file(lmoe_ctx *ctx, const char *path, char hex[33])
{
    enum { PIECE = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(errno));
    char *piece = lmoe__malloc(PIECE);
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    ssize_t n;
    while ((n = read(fd, piece, PIECE)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0) XXH3_128bits_update(&state, piece, (size_t)n);
    }
    int error = errno;
    close(fd);
    free(piece);
    if (n < 0) return lmoe_error(ctx, LMOE_E_CONFIG, "cannot read %s: %s", path, strerror(error));
    to_hex(XXH3_128bits_digest(&state), hex);
    return LMOE_OK;
}
