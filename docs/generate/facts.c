/* SPDX-License-Identifier: Apache-2.0
 * docs/generate/facts.c: what the reference of the SDK takes from the program itself, as Markdown: the
 * kinds of classes, and lmoe's ops with ports, rules and attributes.
 */
#include "core/conf/conf.h"
#include "core/op/op.h"
#include "core/plug/plug.h"

static void kinds(void)
{
    printf("## Kinds\n\n| kind | what | class name | must have |\n| --- | --- | --- | --- |\n");
    for (int i = 0; lmoe__kind_at(i); i++) {
        const lmoe__kind *k = lmoe__kind_at(i);
        printf("| `%s` | %s | ", k->id, k->word);
        if (k->folder)
            printf("`%s/NAME` or `vendor.x/NAME` | ", k->folder);
        else
            printf("%s | ", strcmp(k->id, LMOE_KIND_OP) == 0 ? "`vendor.x/NAME/REVISION`" : "free");
        for (const lmoe__slot *s = k->required; s->name; s++)
            printf("%s`%s`", s == k->required ? "" : ", ", s->name);
        printf(" |\n");
    }
}

static void flag(bool set, const char *word, int *n)
{
    if (set) printf("%s%s", (*n)++ ? ", " : " (", word);
}

static const char *ambient_word(lmoe_ambient a)
{
    switch (a) {
    case LMOE_AMBIENT_TOKENS: return "ambient: tokens";
    case LMOE_AMBIENT_POSITIONS: return "ambient: positions";
    case LMOE_AMBIENT_DOCUMENT: return "ambient: document starts";
    case LMOE_AMBIENT_RESET: return "ambient: resets";
    case LMOE_AMBIENT_SKIP: return "ambient: padding";
    case LMOE_AMBIENT_NOISE: return "ambient: noise keys";
    case LMOE_AMBIENT_VALID: return "ambient: valid tokens";
    default: return "ambient";
    }
}

static void ports(const char *title, const lmoe_port *p)
{
    printf("- %s:", title);
    if (!p->name) printf(" none");
    for (int i = 0; p[i].name; i++) {
        int n = 0;
        printf("%s `%s`", i ? "," : "", p[i].name);
        flag(p[i].flags & LMOE_PORT_OPTIONAL, "optional", &n);
        flag(p[i].flags & LMOE_PORT_MUTATES, "changed in place", &n);
        flag(p[i].flags & LMOE_PORT_CARRY, "carry", &n);
        flag(p[i].flags & LMOE_PORT_FORWARD_CARRY, "the forward op's carry", &n);
        flag(p[i].flags & LMOE_PORT_STATE, "state dtype", &n);
        flag(p[i].flags & LMOE_PORT_SHAPE, "only its shape", &n);
        flag(p[i].flags & LMOE_PORT_NO_GRAD, "no gradient", &n);
        flag(p[i].ambient != LMOE_AMBIENT_NONE, ambient_word(p[i].ambient), &n);
        printf(n ? ")" : "");
    }
    printf("\n");
}

static void attributes(const lmoe_option *table)
{
    for (const lmoe_option *o = table; o && o->name; o++) {
        lmoe__text value = {0};
        lmoe__option_describe(o, &value);
        printf("%s  - `%s`: %s", o == table ? "- attributes:\n" : "", o->name, value.data);
        if (o->initial && *o->initial) printf("; default `%s`", o->initial);
        printf(". %s\n", o->doc ? o->doc : "");
        lmoe__text_free(&value);
    }
}

static void in_place(const lmoe_op *op)
{
    int said = 0;
    for (int o = 0; op->inplace && op->outputs[o].name; o++) {
        if (op->inplace[o] < 1) continue;
        printf("%s `%s` over `%s`",
               said++ ? "," : "- may be written in place:", op->outputs[o].name,
               op->inputs[op->inplace[o] - 1].name);
    }
    printf(said ? "\n" : "");
}

static void describe(const lmoe_op *op)
{
    printf("\n### %s\n\n%s\n\n", op->base.name, op->base.summary);
    ports("inputs", op->inputs);
    ports("outputs", op->outputs);
    attributes(op->base.options);
    if (op->rule)
        printf("- rule: `%s`\n", op->rule);
    else
        printf("- rule: %s\n", op->rule_of ? "depends on attributes and shapes"
                                           : "none, so its inputs are made whole");
    const lmoe_carry *c = op->carry;
    if (c) {
        printf("- carry: %d tensor%s along `seq`%s", c->count, c->count > 1 ? "s" : "",
               c->reverse ? ", from its end" : "");
        if (c->summary) printf("; summary `%s`, combined by `%s`", c->summary, c->combine);
        printf("\n");
    }
    in_place(op);
    if (op->view) printf("- a view: shares the storage of its input\n");
    printf("- %s\n", op->vjp ? "differentiable" : "not differentiable");
}

int main(void)
{
    kinds();
    printf("\n## Ops\n\nPorts in their order, attributes, and how a split of an axis shows in the "
           "results (the rule; `lmoe/op.h` says how to read it). Kernels are held against each "
           "op's reference.\n");
    for (const lmoe_op *const *op = lmoe__ops; *op; op++) describe(*op);
    return 0;
}
