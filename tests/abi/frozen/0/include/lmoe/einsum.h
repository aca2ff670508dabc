/* SPDX-License-Identifier: Apache-2.0
 * lmoe/einsum.h: reads the text of einsum/1, for kernels of any device.
 *
 *   text = term [ "," term ] "->" term        term = { letter }, with blanks between letters
 *
 * "b s e, e h k -> b s h k": y[b,s,h,k] = sum over e of a[b,s,e] * b[e,h,k]. A letter occurs at
 * most once in a term; every letter of the result occurs in an operand; a letter that is missing
 * from the result is summed.
 */
#ifndef LMOE_EINSUM_H
#define LMOE_EINSUM_H

#include <lmoe/base.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A letter, and which dimension of each tensor it is; -1: it does not occur there. */
typedef struct lmoe_einsum_letter {
    char name;
    signed char a, b, out;
} lmoe_einsum_letter;

typedef struct lmoe_einsum_form {
    int32_t operands; /* 1 or 2 */
    char a[LMOE_MAX_DIMS + 1], b[LMOE_MAX_DIMS + 1],
        out[LMOE_MAX_DIMS + 1]; /* letters of the terms */
    int32_t letters;
    lmoe_einsum_letter letter[2 * LMOE_MAX_DIMS]; /* in the order in which they first occur */
} lmoe_einsum_form;

/* Reads one term into `term`; *at moves to its end. Returns what is wrong, or NULL. */
static inline const char *lmoe_einsum_term(const char **at, char term[LMOE_MAX_DIMS + 1])
{
    const char *p = *at;
    int n = 0;
    memset(term, 0, LMOE_MAX_DIMS + 1);
    for (;; p++) {
        char c = *p;
        if (c == ' ') continue;
        if (c == 0 || c == ',' || (c == '-' && p[1] == '>')) break;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
            return "names of axes are single letters";
        if (n > 0 && p[-1] != ' ') return "there must be a blank between two letters";
        if (n == LMOE_MAX_DIMS) return "a term has too many letters";
        if (strchr(term, c)) return "a letter occurs twice in a term";
        term[n++] = c;
    }
    *at = p;
    return NULL;
}

static inline signed char lmoe_einsum_find(const char *term, char letter)
{
    const char *p = strchr(term, letter);
    return (signed char)(p ? p - term : -1);
}

/* Reads the text; returns NULL, or what is wrong with it in words. */
static inline const char *lmoe_einsum_parse(const char *text, lmoe_einsum_form *f)
{
    const char *at = text, *wrong;
    memset(f, 0, sizeof *f);
    f->operands = 1;
    wrong = lmoe_einsum_term(&at, f->a);
    if (wrong) return wrong;
    if (*at == ',') {
        at++;
        f->operands = 2;
        wrong = lmoe_einsum_term(&at, f->b);
        if (wrong) return wrong;
    }
    if (*at == ',') return "there are more than two operands";
    if (*at == 0) return "'->' is missing";
    at += 2;
    wrong = lmoe_einsum_term(&at, f->out);
    if (wrong) return wrong;
    if (*at) return "something follows the result";
    for (int term = 0; term < 2; term++) {
        for (const char *p = term ? f->b : f->a; *p; p++) {
            if (term && strchr(f->a, *p)) continue;
            lmoe_einsum_letter *l = &f->letter[f->letters++];
            l->name = *p;
            l->a = lmoe_einsum_find(f->a, *p);
            l->b = lmoe_einsum_find(f->b, *p);
            l->out = lmoe_einsum_find(f->out, *p);
        }
    }
    for (const char *p = f->out; *p; p++) {
        if (!strchr(f->a, *p) && !strchr(f->b, *p))
            return "a letter of the result occurs in no operand";
    }
    return NULL;
}

/* Elements along a letter, from the dimensions of the operands (b's may be NULL for one operand).
 */
static inline int64_t lmoe_einsum_size(const lmoe_einsum_letter *l, const int64_t *a,
                                       const int64_t *b)
{
    return l->a >= 0 ? a[l->a] : b[l->b];
}

#ifdef __cplusplus
}
#endif
#endif
