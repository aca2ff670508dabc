/* SPDX-License-Identifier: Apache-2.0
 * plugins/comm/nccl/library.c: opens NCCL.
 */
#include "nccl_comm.h"

#include <dlfcn.h>
#include <stdio.h>

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define LIBRARY    "libnccl.so." STRING(NCCL_MAJOR)

bool nccl_open_library(library *l, char *text, size_t size)
{
    l->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!l->handle) {
        snprintf(text, size,
                 "the library NCCL cannot be opened: %s; install it, or add its folder "
                 "to LD_LIBRARY_PATH",
                 dlerror());
        return false;
    }
    void *symbol;
#define FIND(name)                                                                           \
    symbol = dlsym(l->handle, "nccl" #name);                                                 \
    if (!symbol) {                                                                           \
        snprintf(text, size, LIBRARY " lacks nccl" #name "; comm/nccl was built with %d.%d", \
                 NCCL_MAJOR, NCCL_MINOR);                                                    \
        return false;                                                                        \
    }                                                                                        \
    memcpy(&l->name, &symbol, sizeof symbol); /* ISO C has no cast from object to function */
    NCCL_FUNCTIONS(FIND)
#undef FIND
    return true;
}
