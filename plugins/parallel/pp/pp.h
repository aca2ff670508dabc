/* SPDX-License-Identifier: Apache-2.0
 * plugins/parallel/pp/pp.h: what the files of this plugin share.
 */
#ifndef LMOE_PARALLEL_PP_H
#define LMOE_PARALLEL_PP_H

#include <lmoe/graph.h>

/* Writes count[0 .. stages): consecutive layers, at least one a stage, such that the dearest stage
 * costs as little as it can. */
lmoe_status pp_balance(const lmoe_stages *s, int32_t stages, int32_t *count);

#endif
