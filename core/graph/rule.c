/* SPDX-License-Identifier: Apache-2.0
 * core/graph/rule.c: reads axis rules.
 *
 *   rule      = terms "->" terms [ "|" clauses ]   terms separated by commas, one for each port
 *   term      = "." | { dimension }                "." : this tensor takes no part
 *   dimension = letter | "(" letter letter ... ")" | "..."
 *   clauses   = { "whole" x | "order" x | "ragged" x | "offset" x | "merge" x | "expert" x |
 *                 "linear" i | "linear all" | "shape" i | "same" i }
 * A product's first letter is the outer one; the others may not be split. "..." stands for an
 * operand's leading dimensions, the same ones in every term.
 */
#include "core/graph/graph.h"

#include <ctype.h>
#include <stdlib.h>

typedef struct reader {
    lmoe_ctx *ctx;
    const char *text, *at;
    lmoe__rule *rule;
    int ellipsis; /* dimensions that "..." stands for */
} reader;

static lmoe_status bad(reader *r, const char *why)
{
    return lmoe_error(r->ctx, LMOE_E_INTERNAL, "axis rule '%s': %s at '%.20s'", r->text, why,
                      r->at);
}

static void skip(reader *r)
{
    while (isspace((unsigned char)*r->at) || *r->at == ';') r->at++;
}

static int letter(lmoe__rule *rule, char c)
{
    for (int i = 0; i < rule->n_letters; i++) {
        if (rule->letters[i] == c) return i;
    }
    if (rule->n_letters == LMOE__MAX_LETTERS) return -1;
    rule->letters[rule->n_letters] = c;
    return rule->n_letters++;
}

static lmoe_status read_dimension(reader *r, lmoe__term *term)
{
    int l = -1;
    if (term->rank == LMOE_MAX_DIMS) return bad(r, "too many dimensions");
    if (*r->at == '(') {
        r->at++;
        for (skip(r); isalpha((unsigned char)*r->at); skip(r)) {
            int inner = letter(r->rule, *r->at++);
            if (inner < 0) return bad(r, "too many letters");
            if (l < 0)
                l = inner;
            else
                r->rule->whole |= 1u << inner;
        }
        if (*r->at != ')' || l < 0) return bad(r, "a product is written (a b)");
        r->at++;
    } else {
        l = letter(r->rule, *r->at++);
        if (l < 0) return bad(r, "too many letters");
    }
    term->dim[term->rank++] = (signed char)l;
    return LMOE_OK;
}

static lmoe_status read_term(reader *r, lmoe__term *term)
{
    memset(term, 0, sizeof *term);
    for (skip(r);; skip(r)) {
        if (strncmp(r->at, "...", 3) == 0) {
            r->at += 3;
            for (int i = 0; i < r->ellipsis && term->rank < LMOE_MAX_DIMS; i++) {
                int l = letter(r->rule, (char)(1 + i));
                if (l < 0) return bad(r, "too many letters");
                term->dim[term->rank++] = (signed char)l;
            }
        } else if (*r->at == '.') {
            r->at++;
            term->none = true;
        } else if (isalpha((unsigned char)*r->at) || *r->at == '(') {
            LMOE_TRY(read_dimension(r, term));
        } else {
            return LMOE_OK;
        }
    }
}

static lmoe_status read_terms(reader *r, lmoe__term *terms, int *n)
{
    *n = 0;
    do {
        if (*n == LMOE_MAX_IO) return bad(r, "too many terms");
        LMOE_TRY(read_term(r, &terms[(*n)++]));
    } while (*r->at == ',' && r->at++);
    return LMOE_OK;
}

static lmoe_status read_clause(reader *r)
{
    char word[16], arg[16];
    int used = 0;
    if (sscanf(r->at, "%15s %15s%n", word, arg, &used) != 2)
        return bad(r, "a clause is 'word what'");
    char *comma = strchr(arg, ',');
    if (comma) *comma = 0;
    lmoe__rule *rule = r->rule;
    if (strcmp(word, "linear") == 0 && strcmp(arg, "all") == 0) {
        rule->linear_all = true;
    } else if (strcmp(word, "linear") == 0) {
        rule->linear |= 1u << (atoi(arg) & 31);
    } else if (strcmp(word, "shape") == 0) {
        rule->shape_only |= 1u << (atoi(arg) & 31);
    } else if (strcmp(word, "same") == 0) {
        rule->same |= 1u << (atoi(arg) & 31);
    } else {
        uint32_t *set = strcmp(word, "whole") == 0    ? &rule->whole
                        : strcmp(word, "order") == 0  ? &rule->order
                        : strcmp(word, "ragged") == 0 ? &rule->ragged
                        : strcmp(word, "offset") == 0 ? &rule->offset
                        : strcmp(word, "merge") == 0  ? &rule->merge
                        : strcmp(word, "expert") == 0 ? &rule->expert
                                                      : NULL;
        if (!set || arg[1] || !isalpha((unsigned char)arg[0])) return bad(r, "unknown clause");
        int l = letter(rule, arg[0]);
        if (l < 0) return bad(r, "too many letters");
        *set |= 1u << l;
    }
    r->at += used;
    while (*r->at == ',') r->at++;
    skip(r);
    return LMOE_OK;
}

/* How many dimensions "..." stands for: from the first operand term that has it. */
static int measure_ellipsis(const char *text, const lmoe_desc *in, int n_in)
{
    int operand = 0, dims = 0, most = 0;
    bool dots = false, product = false;
    for (const char *p = text; *p && strncmp(p, "->", 2) != 0; p++) {
        if (*p == ',') {
            operand++;
            dims = 0;
            dots = false;
        } else if (strncmp(p, "...", 3) == 0) {
            dots = true;
            p += 2;
        } else if (*p == '(') {
            product = true;
            dims++;
        } else if (*p == ')') {
            product = false;
        } else if (isalpha((unsigned char)*p) && !product) {
            dims++;
        }
        bool end = p[1] == 0 || p[1] == ',' || strncmp(p + 1, "->", 2) == 0;
        if (end && dots && operand < n_in && in[operand].rank - dims > most)
            most = in[operand].rank - dims;
    }
    return most;
}

lmoe_status lmoe__rule_of(lmoe_ctx *ctx, const lmoe_op *op, const void *attrs, const lmoe_desc *in,
                          int n_in, lmoe__rule *rule)
{
    char text[512];
    memset(rule, 0, sizeof *rule);
    if (op->rule)
        snprintf(text, sizeof text, "%s", op->rule);
    else if (op->rule_of)
        LMOE_TRY(op->rule_of(attrs, in, n_in, text, sizeof text));
    else
        return LMOE_E_UNSUPPORTED;

    reader r = {.ctx = ctx, .text = text, .at = text, .rule = rule};
    r.ellipsis = measure_ellipsis(text, in, n_in);
    LMOE_TRY(read_terms(&r, rule->in, &rule->n_in));
    if (strncmp(r.at, "->", 2) != 0) return bad(&r, "'->' is missing");
    r.at += 2;
    LMOE_TRY(read_terms(&r, rule->out, &rule->n_out));
    if (*r.at == '|') {
        r.at++;
        skip(&r);
        while (*r.at) LMOE_TRY(read_clause(&r));
    }
    if (*r.at) return bad(&r, "unexpected text");
    for (int i = 0; i < rule->n_in && i < n_in; i++) {
        if (in[i].dtype == LMOE_NONE || rule->in[i].none) continue;
        if (rule->in[i].rank != in[i].rank)
            return bad(&r, "a term has another rank than its operand");
    }
    return LMOE_OK;
}
