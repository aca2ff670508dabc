/* SPDX-License-Identifier: Apache-2.0
 * breaks: endurance/traces
 * Each trace leaves a byte behind.
 */
#include "layer.h"

#include <stdlib.h>

static void *volatile lost;

static lmoe_status declare(lmoe_trace *t, const void *options, void *params)
{
    lost = malloc(1);
    return good_declare(t, options, params);
}

ZOO_LAYER(.params = declare)
