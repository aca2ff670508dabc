/* SPDX-License-Identifier: Apache-2.0
 * lmoe/inner.h: a communicator around another one: an option that names the class inside.
 *
 *   typedef struct options { lmoe_inner inner; ... } options;
 *   static const lmoe_option table[] = {
 *       LMOE_OPTION_INNER("inner", offsetof(options, inner), "comm/loop", "What is inside."), ...
 *
 * When the host fills the options, it finds the class and fills that one's options, from the same
 * section of the run file, before anything of either is called. A host that does not know of this
 * fills the name alone, so look whether there is a class. Both must have the same flags.
 */
#ifndef LMOE_INNER_H
#define LMOE_INNER_H

#include <lmoe/comm.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lmoe_inner {
    const char *name;
    const lmoe_comm *comm;
    const void *options;
} lmoe_inner;

#define LMOE_UNIT_COMM \
    "communicator" /* a TEXT option with this unit is the name of an lmoe_inner */

#define LMOE_OPTION_INNER(name, offset, initial, doc)                            \
    {                                                                            \
        name, LMOE_OPTION_TEXT, offset, initial, 0, 0, NULL, LMOE_UNIT_COMM, doc \
    }

#ifdef __cplusplus
}
#endif
#endif
