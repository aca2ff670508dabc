/* SPDX-License-Identifier: Apache-2.0
 * breaks: file/exports
 * Exports a helper besides the entry; the map of the tree would hide it, so it is linked without.
 */
#include "layer.h"

__attribute__((visibility("default"))) int zoo_helper(int x);
__attribute__((visibility("default"))) int zoo_helper(int x)
{
    return x + 1;
}

ZOO_LAYER()
