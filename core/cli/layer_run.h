/* SPDX-License-Identifier: Apache-2.0
 * core/cli/layer_run.h: what `lmoe layer run` is asked to do.
 */
#ifndef LMOE_CORE_LAYER_RUN_H
#define LMOE_CORE_LAYER_RUN_H

#include "core/base/base.h"

enum { LMOE__MAX_NUMBERS = 64 };

typedef struct lmoe__numbers {
    int64_t at[LMOE__MAX_NUMBERS];
    int count;
} lmoe__numbers;

typedef struct lmoe__layer_job {
    const char *class_name, *in, *out;
    const char *plugin_path; /* NULL: none */
    const char *sets[LMOE__MAX_NUMBERS];
    int n_sets;
    bool f64, init;
    int64_t seed;         /* init: of the parameters that the file lacks */
    lmoe__numbers chunks; /* sizes of pieces, repeated; none: the whole at once */
    int64_t decode;       /* so many tokens at the end go in one by one */
    lmoe__numbers resets; /* tokens at which a document starts */
    lmoe__numbers layers; /* numbers of the layers, rising */
} lmoe__layer_job;

lmoe_status lmoe__layer_run(lmoe_ctx *ctx, const lmoe__layer_job *j);

#endif
