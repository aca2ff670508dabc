/* SPDX-License-Identifier: Apache-2.0
 * core/check/tables.c: the list of all checks, and which are meant by a pattern or a class.
 */
#include "core/check/check.h"

#include <fnmatch.h>

/* clang-format off */
static const lmoe__check *const tables[] = {
    lmoe__checks_file,
    lmoe__checks_descriptor,
    lmoe__checks_build,
    lmoe__checks_numerics,
    lmoe__checks_layers,
    lmoe__checks_ops,
    lmoe__checks_kernels,
    lmoe__checks_devices,
    lmoe__checks_routers,
    lmoe__checks_strategies,
    lmoe__checks_communicators,
    lmoe__checks_endurance,
};
/* clang-format on */

const lmoe__check *lmoe__check_at(int i)
{
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        for (const lmoe__check *c = tables[t]; c->name; c++) {
            if (i-- == 0) return c;
        }
    }
    return NULL;
}

bool lmoe__check_matches(const lmoe__check *c, const char *pattern)
{
    char full[128];
    snprintf(full, sizeof full, "%s/%s", c->group, c->name);
    if (strpbrk(pattern, "*?[")) return fnmatch(pattern, full, 0) == 0;
    return strcmp(pattern, c->group) == 0 || strstr(full, pattern);
}

bool lmoe__check_is_for(const lmoe__check *c, const char *kind)
{
    if (!c->kind || !kind) return !c->kind && !kind;
    if (strcmp(c->kind, "*") == 0) return true;
    const char *at = strstr(c->kind, kind);
    if (!at) return false;
    char end = at[strlen(kind)];
    return (at == c->kind || at[-1] == ' ') && (end == 0 || end == ' ');
}
