/* SPDX-License-Identifier: Apache-2.0
 * core/check/ops_rule.c: does an op's axis rule tell the truth? Each letter that may be split is: the
 * reference runs on every part, and the parts' results must be parts of the whole result, or, where
 * the letter is summed, add up to it.
 */
#include "core/check/call.h"

enum { MOST_PARTS = 7 };

typedef struct split {
    const lmoe__rule *rule;
    int letter, parts;
} split;

static int dim_of(const lmoe__term *t, int letter)
{
    for (int i = 0; !t->none && i < t->rank; i++) {
        if (t->dim[i] == letter) return i;
    }
    return -1;
}

/* Terms must have as many dimensions as the tensors, and a letter one size wherever it stands alone.
 * (Products are multiples.) */
static bool fits(lmoe__exam *x, const lmoe__rule *r, const lmoe__called *c)
{
    for (int i = 0; i < r->n_in + r->n_out; i++) {
        bool input = i < r->n_in;
        int port = input ? i : i - r->n_in;
        bool over = port >= (input ? c->n_in : c->n_out);
        const lmoe__term *term = input ? &r->in[port] : &r->out[port];
        if (term->none || (over && term->rank == 0)) continue;
        if (over) {
            lmoe__check_fail(x, "its rule has more terms than it has %s",
                             input ? "inputs" : "outputs");
            return false;
        }
        const lmoe__part *p = input ? &c->in[port] : &c->out[port];
        if (!lmoe_buf_present(&p->b)) continue;
        if (term->rank != p->d.rank) {
            lmoe__check_fail(x, "its rule gives '%s' %d dimensions, but it has %d",
                             input ? c->op->inputs[port].name : c->op->outputs[port].name,
                             term->rank, p->d.rank);
            return false;
        }
    }
    return true;
}

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The smallest number of equal parts, at least 2, into which every dimension of the letter can be
 * cut; 0: none, or no input has it. */
static int parts_of(const lmoe__rule *r, int letter, const lmoe__called *c)
{
    int64_t common = 0;
    for (int i = 0; i < r->n_in + r->n_out; i++) {
        bool input = i < r->n_in;
        const lmoe__term *term = input ? &r->in[i] : &r->out[i - r->n_in];
        const lmoe__part *p = input ? &c->in[i] : &c->out[i - r->n_in];
        int dim = lmoe_buf_present(&p->b) ? dim_of(term, letter) : -1;
        if (dim < 0) continue;
        common = greatest_divisor(common, p->d.dim[dim]);
    }
    for (int n = 2; n <= MOST_PARTS; n++) {
        if (common >= n && common % n == 0) return n;
    }
    return 0;
}

/* The call of one part of the letter. */
static lmoe__called part_call(lmoe__arena *a, const split *s, const lmoe__called *whole, int rank)
{
    lmoe__called c = *whole;
    for (int i = 0; i < s->rule->n_in && i < c.n_in; i++) {
        int dim = lmoe_buf_present(&c.in[i].b) ? dim_of(&s->rule->in[i], s->letter) : -1;
        if (dim < 0) continue;
        int64_t n = c.in[i].d.dim[dim] / s->parts;
        c.in[i] = lmoe__part_cut(a, &c.in[i], dim, n * rank, n);
    }
    return c;
}

static void add(lmoe__part *sum, const lmoe__part *p)
{
    for (int64_t i = 0, n = lmoe_desc_count(&p->d); i < n; i++)
        lmoe_put_add(&sum->b, i, lmoe_get(&p->b, i));
}

static const char *letter_text(const lmoe__rule *r, int letter, char text[2])
{
    text[0] = r->letters[letter] > ' ' ? r->letters[letter] : '.';
    text[1] = 0;
    return text;
}

/* Output i of the parts against the whole's. */
static bool compare(lmoe__exam *x, lmoe__arena *a, const split *s, const lmoe__called *whole,
                    const lmoe__called *part, int i)
{
    const lmoe__part *want = &whole->out[i];
    char what[200], text[2];
    int dim = dim_of(&s->rule->out[i], s->letter);
    snprintf(what, sizeof what, "'%s', with letter %s split into %d", whole->op->outputs[i].name,
             letter_text(s->rule, s->letter, text), s->parts);
    lmoe__part sum = lmoe__part_new(a, &part[0].out[i].d);
    for (int k = 0; k < s->parts; k++) {
        if (dim >= 0) {
            int64_t n = want->d.dim[dim] / s->parts;
            lmoe__part piece = lmoe__part_cut(a, want, dim, n * k, n);
            if (!lmoe__part_close(x, &part[k].out[i], &piece, what)) return false;
        } else if (s->rule->same & (1u << i)) {
            if (!lmoe__part_close(x, &part[k].out[i], want, what)) return false;
        } else {
            add(&sum, &part[k].out[i]);
        }
    }
    bool summed = dim < 0 && !(s->rule->same & (1u << i));
    return !summed || lmoe__part_close(x, &sum, want, what);
}

static bool split_letter(lmoe__exam *x, lmoe__arena *a, const lmoe__rule *r, int letter,
                         const lmoe__called *whole)
{
    split s = {r, letter, parts_of(r, letter, whole)};
    lmoe__called part[MOST_PARTS];
    bool read = false; /* an input that is there has the letter */
    for (int i = 0; i < r->n_in; i++)
        read |= lmoe_buf_present(&whole->in[i].b) && dim_of(&r->in[i], letter) >= 0;
    if (!read || s.parts == 0) return true;
    for (int k = 0; k < s.parts; k++) {
        part[k] = part_call(a, &s, whole, k);
        if (!lmoe__called_run(x, a, &part[k])) return false;
    }
    for (int i = 0; i < r->n_out && i < whole->n_out; i++) {
        if (r->out[i].none || !lmoe_buf_present(&whole->out[i].b)) continue;
        if (!compare(x, a, &s, whole, part, i)) return false;
    }
    return true;
}

static bool check_case(lmoe__exam *x, lmoe__arena *a, lmoe__called *c, int *letters)
{
    lmoe__rule r;
    lmoe_desc in[LMOE_MAX_IO] = {{LMOE_NONE, 0, {0}, {0}}};
    for (int i = 0; i < c->n_in; i++) {
        if (c->op->inputs[i].flags & (LMOE_PORT_CARRY | LMOE_PORT_FORWARD_CARRY))
            memset(&c->in[i], 0, sizeof c->in[i]); /* takes no part in rules */
        in[i] = c->in[i].d;
    }
    if (!lmoe__check_ok(x, lmoe__rule_of(x->ctx, c->op, c->attrs, in, c->n_in, &r), "its rule"))
        return false;
    if (!lmoe__called_run(x, a, c) || !fits(x, &r, c)) return false;
    /* Along these a part is no call of its own: the core knows more about them. */
    uint32_t apart = r.whole | r.order | r.ragged | r.offset | r.merge | r.expert;
    for (int i = 0; i < r.n_letters; i++) {
        bool token = r.letters[i] == 'b' || r.letters[i] == 's';
        if ((apart & (1u << i)) || (token && r.ragged)) continue;
        if (!split_letter(x, a, &r, i, c)) return false;
        *letters += 1;
    }
    return true;
}

void lmoe__ops_rule(lmoe__exam *x)
{
    const lmoe_op *op = (const lmoe_op *)(const void *)x->class;
    int letters = 0;
    bool more = true;
    if (!op->rule && !op->rule_of) {
        lmoe__check_warn(x, "it has no axis rule: every input is gathered whole, which is slow");
        return;
    }
    for (int i = 0; more && !lmoe__check_failed(x); i++) {
        lmoe__arena *a = lmoe__arena_new();
        lmoe__called c;
        uint32_t flags;
        more = lmoe__called_sample(x, a, i, 0, &c, &flags);
        if (more && !(flags & LMOE_CASE_BENCH)) more = check_case(x, a, &c, &letters);
        lmoe__arena_free(a);
    }
    lmoe__check_note(x, "%d letters split", letters);
}
