/* SPDX-License-Identifier: Apache-2.0
 * core/train/balance.c: how tokens spread over experts, from the loads of a step: metrics, the
 * summary at a run's end, alarms.
 *
 * A load counts in shares: 1 is what an expert would get if all were alike. The violation is the
 * largest share less 1 (MaxVio of arXiv 2408.15664).
 */
#include "core/train/train.h"

#include <math.h>

/* ---- looking ---- */

/* Statistic `name` of a layer; false if there is none, or it is all zero. */
static bool read_loads(lmoe__rank *r, const char *what, int layer, double *sum)
{
    char name[64];
    int64_t experts = r->setup->model.ffn.experts;
    snprintf(name, sizeof name, "stat:moe/%s/%d", what, layer);
    if (lmoe__engine_read(&r->engine, name, r->report.load, experts) != experts) return false;
    *sum = 0;
    for (int64_t i = 0; i < experts; i++) *sum += r->report.load[i];
    return *sum > 0;
}

static void look_at_layer(lmoe__rank *r, lmoe__balance *b, double chosen)
{
    const double *load = r->report.load;
    int64_t n = r->setup->model.ffn.experts;
    double fair = chosen / (double)n, squares = 0, entropy = 0;
    b->most = 0;
    b->least = INFINITY;
    b->dead = 0;
    for (int64_t i = 0; i < n; i++) {
        double share = load[i] / fair;
        b->most = fmax(b->most, share);
        b->least = fmin(b->least, share);
        b->dead += share < r->setup->alarm.load_dead;
        squares += (share - 1) * (share - 1);
        if (load[i] > 0) entropy -= load[i] / chosen * log(load[i] / chosen);
    }
    b->deviation = sqrt(squares / (double)n);
    b->entropy = n > 1 ? entropy / log((double)n) : 1;
}

/* Fills r->report.balance of the layers that have experts; returns how many. */
static int look(lmoe__rank *r)
{
    const lmoe__model *m = &r->setup->model;
    int n = 0;
    for (int layer = 0; m->ffn.kind == LMOE__FFN_MOE && layer < m->o.layers; layer++) {
        lmoe__balance *b = &r->report.balance[n];
        double chosen, kept;
        if (!read_loads(r, "load", layer, &chosen)) continue;
        b->layer = layer;
        look_at_layer(r, b, chosen);
        b->dropped = read_loads(r, "kept", layer, &kept) ? 1 - kept / chosen : 0;
        n++;
    }
    return n;
}

/* ---- alarms ---- */

static bool first_time(lmoe__rank *r, int alarm)
{
    bool first = !r->report.alarmed[alarm];
    r->report.alarmed[alarm] = true;
    return first;
}

static void alarm_of(lmoe__rank *r, const lmoe__balance *b)
{
    const lmoe__alarm_options *a = &r->setup->alarm;
    if (r->done <= a->after) return;
    if (a->load_max > 0 && b->most > a->load_max && first_time(r, 0))
        lmoe__log(&r->ctx, LMOE_LOG_WARN,
                  "layer %d: one expert gets %.1f times its fair share; a higher [router] aux_loss "
                  "(moe/deepseek_v3: bias_speed) balances more",
                  b->layer, b->most);
    if (b->dead > 0 && first_time(r, 1))
        lmoe__log(&r->ctx, LMOE_LOG_WARN,
                  "layer %d: %d of %d experts get next to nothing; a higher [router] aux_loss "
                  "(moe/deepseek_v3: bias_speed) feeds them",
                  b->layer, b->dead, (int)r->setup->model.ffn.experts);
    if (a->drop_max > 0 && b->dropped > a->drop_max && first_time(r, 2))
        lmoe__log(&r->ctx, LMOE_LOG_WARN,
                  "layer %d: %.0f %% of the choices are dropped; a higher [ffn] capacity drops "
                  "fewer, a better balance too",
                  b->layer, 100 * b->dropped);
}

/* ---- telling ---- */

typedef double (*field)(const lmoe__balance *b);

static double violation(const lmoe__balance *b)
{
    return b->most - 1;
}

static double least(const lmoe__balance *b)
{
    return b->least;
}

static double deviation(const lmoe__balance *b)
{
    return b->deviation;
}

static double entropy(const lmoe__balance *b)
{
    return b->entropy;
}

static double dead(const lmoe__balance *b)
{
    return b->dead;
}

static double dropped(const lmoe__balance *b)
{
    return b->dropped;
}

/* The name of each figure, and how the layers' become one: 'x' the largest, 'n' the least, 'm' the
 * mean, 's' the sum. */
static const struct figure {
    const char *name;
    field of;
    char all;
} figures[] = {
    {"max_violation", violation, 'x'}, {"least_load", least, 'n'},  {"load_std", deviation, 'x'},
    {"entropy", entropy, 'm'},         {"dead_experts", dead, 's'}, {"drop_rate", dropped, 'm'},
};
enum { FIGURES = sizeof figures / sizeof *figures };

static double over_layers(const lmoe__rank *r, const struct figure *f)
{
    double x = f->of(&r->report.balance[0]);
    for (int i = 1; i < r->report.n_balance; i++) {
        double y = f->of(&r->report.balance[i]);
        x = f->all == 'x' ? fmax(x, y) : f->all == 'n' ? fmin(x, y) : x + y;
    }
    return f->all == 'm' ? x / r->report.n_balance : x;
}

/* "moe/max_violation":0.3 over all layers, and "moe/layers":{"max_violation":[...], ...} in their
 * order. */
void lmoe__balance_note(lmoe__rank *r, lmoe__text *t)
{
    r->report.n_balance = look(r);
    if (r->report.n_balance == 0) return;
    for (int i = 0; i < r->report.n_balance; i++) alarm_of(r, &r->report.balance[i]);
    for (int k = 0; k < FIGURES; k++)
        lmoe__text_add(t, ",\"moe/%s\":%.9g", figures[k].name, over_layers(r, &figures[k]));
    lmoe__text_add(t, ",\"moe/layers\":{");
    for (int k = 0; k < FIGURES; k++) {
        lmoe__text_add(t, "%s\"%s\":", k ? "," : "", figures[k].name);
        for (int i = 0; i < r->report.n_balance; i++)
            lmoe__text_add(t, "%c%.4g", i ? ',' : '[', figures[k].of(&r->report.balance[i]));
        lmoe__text_add(t, "]");
    }
    lmoe__text_add(t, "}");
}

/* Of the last step that was noted. */
void lmoe__balance_summary(const lmoe__rank *r)
{
    const lmoe__balance *b = r->report.balance, *most = b, *fewest = b;
    if (r->report.n_balance == 0) return;
    for (int i = 1; i < r->report.n_balance; i++) {
        if (b[i].most > most->most) most = &b[i];
        if (b[i].least < fewest->least) fewest = &b[i];
    }
    printf("experts: the busiest gets %.2f times its share (layer %d), the idlest %.2f (layer %d); "
           "entropy %.3f of 1, %.0f dead, %.1f %% of choices dropped\n",
           most->most, most->layer, fewest->least, fewest->layer, over_layers(r, &figures[3]),
           over_layers(r, &figures[4]), 100 * over_layers(r, &figures[5]));
}
