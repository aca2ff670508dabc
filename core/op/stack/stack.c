/* SPDX-License-Identifier: Apache-2.0
 * core/op/stack/stack.c: stack/1: up to four tensors of one shape, stacked as segments' summaries
 * are for a combine; assign/1: a buffer is overwritten. Strategies emit them; nothing
 * differentiates them.
 */
#include "core/op/shape.h"

lmoe_status lmoe__stack_reference(const lmoe_args *args);
lmoe_status lmoe__assign_reference(const lmoe_args *args);

enum { MOST = 4 };

static int present(const lmoe_desc *in, int n_in)
{
    int n = 0;
    while (n < n_in && n < MOST && in[n].dtype != LMOE_NONE) n++;
    return n;
}

static lmoe_status stack_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                               lmoe_desc *out)
{
    static const char *const names[MOST] = {"a", "b", "c", "d"};
    int n = present(in, n_in);
    if (n == 0) return lmoe_shape_error(t, "'a' is absent");
    if (in[0].rank == LMOE_MAX_DIMS)
        return lmoe_shape_error(t, "'a' has %d axes already, none can be added", LMOE_MAX_DIMS);
    for (int i = 1; i < n; i++) {
        LMOE_TRY(lmoe__need_axes(t, &in[0], names[0], &in[i], names[i]));
        LMOE_TRY(lmoe__need_dtype(t, &in[i], names[i], in[0].dtype));
    }
    out[0] = (lmoe_desc){.dtype = in[0].dtype, .rank = in[0].rank + 1};
    out[0].dim[0] = n;
    out[0].axis[0] = "rank";
    for (int i = 0; i < in[0].rank; i++) {
        out[0].dim[i + 1] = in[0].dim[i];
        out[0].axis[i + 1] = in[0].axis[i];
    }
    return lmoe__need_unique_axes(t, &out[0]);
}

static lmoe_status stack_rule(const void *attrs, const lmoe_desc *in, int n_in, char *text,
                              size_t n)
{
    int used = 0;
    for (int i = 0; i < present(in, n_in); i++)
        used += snprintf(text + used, n - (size_t)used, "%s...", i ? ", " : "");
    snprintf(text + used, n - (size_t)used, " -> n ... | linear all");
    return LMOE_OK;
}

static const struct stack_case {
    int64_t count, dim[2];
} stack_cases[] = {{1, {1, 1}}, {2, {3, 5}}, {3, {1, 127}}, {4, {65, 64}}};

static int stack_sample(int index, lmoe_case *c)
{
    if (index >= (int)(sizeof stack_cases / sizeof *stack_cases)) return 0;
    const struct stack_case *k = &stack_cases[index];
    for (int i = 0; i < k->count; i++)
        lmoe__case_input(c, i, LMOE_F32, "batch embed", k->dim, LMOE_FILL_NORMAL, 0, 1);
    return 1;
}

static const lmoe_port stack_inputs[] = {{.name = "a"},
                                         {.name = "b", .flags = LMOE_PORT_OPTIONAL},
                                         {.name = "c", .flags = LMOE_PORT_OPTIONAL},
                                         {.name = "d", .flags = LMOE_PORT_OPTIONAL},
                                         {.name = NULL}};
static const lmoe_port stack_outputs[] = {{.name = "y"}, {.name = NULL}};

const lmoe_op lmoe__op_stack = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "stack/1", "tensors of one shape, stacked", NULL, 0, 0},
    .inputs = stack_inputs,
    .outputs = stack_outputs,
    .shape = stack_shape,
    .rule_of = stack_rule,
    .reference = lmoe__stack_reference,
    .sample = stack_sample,
};

/* ---- assign ---- */

static lmoe_status assign_shape(lmoe_trace *t, const void *attrs, const lmoe_desc *in, int n_in,
                                lmoe_desc *out)
{
    LMOE_TRY(lmoe__need_float(t, &in[0], "target"));
    LMOE_TRY(lmoe__need_dtype(t, &in[1], "x", in[0].dtype));
    return lmoe__need_axes(t, &in[0], "target", &in[1], "x");
}

static int assign_sample(int index, lmoe_case *c)
{
    if (index >= (int)(sizeof stack_cases / sizeof *stack_cases)) return 0;
    for (int i = 0; i < 2; i++)
        lmoe__case_input(c, i, LMOE_F32, "batch embed", stack_cases[index].dim, LMOE_FILL_NORMAL, 0,
                         1);
    return 1;
}

static const lmoe_port assign_inputs[] = {
    {.name = "target", .flags = LMOE_PORT_MUTATES | LMOE_PORT_NO_GRAD},
    {.name = "x", .flags = LMOE_PORT_NO_GRAD},
    {.name = NULL}};
static const lmoe_port no_outputs[] = {{.name = NULL}};

const lmoe_op lmoe__op_assign = {
    .base = {sizeof(lmoe_op), LMOE_KIND_OP, "assign/1", "target = x, in place", NULL, 0, 0},
    .inputs = assign_inputs,
    .outputs = no_outputs,
    .shape = assign_shape,
    .rule = "..., ... ->",
    .reference = lmoe__assign_reference,
    .sample = assign_sample,
};
