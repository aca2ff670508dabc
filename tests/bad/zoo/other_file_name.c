/* SPDX-License-Identifier: Apache-2.0
 * breaks: descriptor/file_name
 * Its class is called like no file of it.
 */
#include "layer.h"

ZOO_LAYER(.base.name = "zoo.x/somewhere_else")
