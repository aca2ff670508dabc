/* SPDX-License-Identifier: Apache-2.0
 * core/op/random/random_ref.c: reference of random/1; the generator is told in random.c.
 */
#include "core/op/op.h"

lmoe_status lmoe__random_reference(const lmoe_args *args);

lmoe_status lmoe__random_reference(const lmoe_args *args)
{
    const lmoe_random_attrs *o = args->attrs;
    const lmoe_buf *key = &args->in[0], *y = &args->out[0];
    for (int64_t i = 0; i < lmoe_buf_count(y); i++) {
        uint32_t word[4];
        uint64_t k = (uint32_t)(int64_t)lmoe_get(key, i / o->n), at = (uint64_t)(i % o->n);
        lmoe__philox((uint64_t)o->salt, k, at / 4, word);
        lmoe_put(y, i, (word[at % 4] >> 8) * 0x1p-24);
    }
    return LMOE_OK;
}
