/* SPDX-License-Identifier: Apache-2.0
 * core/train/setup.c: reads a run file.
 */
#include "core/train/setup.h"

#include <math.h>
#include <stdlib.h>

#define O(type, struct_name, field) LMOE_OPTION_##type, offsetof(struct_name, field)

static const lmoe_option run_table[] = {
    {"dir", O(TEXT, lmoe__run_options, dir), "run", 0, 0, NULL, "path",
     "Where the run keeps its metrics and checkpoints."},
    {"seed", O(INT, lmoe__run_options, seed), "1", 0, 1e15, NULL, NULL,
     "Of initial weights and of the order of data."},
    {"save_every", O(INT, lmoe__run_options, save_every), "0", 0, 1e15, NULL, "steps",
     "Save a checkpoint this often; 0: at the end only."},
    {"keep_last", O(INT, lmoe__run_options, keep_last), "2", 1, 1e6, NULL, NULL,
     "Newest checkpoints that are kept."},
    {"keep_every", O(INT, lmoe__run_options, keep_every), "0", 0, 1e15, NULL, "steps",
     "Also keep the checkpoints of these steps; 0: none."},
    {"log_every", O(INT, lmoe__run_options, log_every), "1", 1, 1e9, NULL, "steps",
     "Write metrics this often."},
    {"minutes", O(FLOAT, lmoe__run_options, minutes), "0", 0, 1e9, NULL, "minutes",
     "Stop and save after this time; 0: no limit."},
    {"resume", O(BOOL, lmoe__run_options, resume), "yes", 0, 0, NULL, NULL,
     "Go on from the newest valid checkpoint of the directory."},
    {"plugins", O(TEXT, lmoe__run_options, plugins), "", 0, 0, NULL, "paths",
     "Plugin files that are opened first: for classes and kernels that the folders do not have."},
    LMOE_OPTION_END};

static const lmoe_option train_table[] = {
    {"seq", O(INT, lmoe__train_options, seq), "256", 1, 1e9, NULL, "tokens", "Length of a row."},
    {"batch", O(INT, lmoe__train_options, batch), "16", 1, 1e9, NULL, "rows", "Rows of a step."},
    {"accumulate", O(INT, lmoe__train_options, accumulate), "1", 1, 1e6, NULL, NULL,
     "Micro-batches that a step's rows are worked off in."},
    {"steps", O(INT, lmoe__train_options, steps), "1000", 0, 1e15, NULL, NULL, "Steps in all."},
    {"lr", O(FLOAT, lmoe__train_options, lr), "1e-3", 0, 100, NULL, NULL, "Highest learning rate."},
    {"lr_final", O(FLOAT, lmoe__train_options, lr_final), "0.1", 0, 1, NULL, NULL,
     "Last learning rate, as a part of lr."},
    {"warmup", O(INT, lmoe__train_options, warmup), "0", 0, 1e15, NULL, "steps",
     "Steps over which the learning rate rises linearly from 0."},
    {"schedule", O(ENUM, lmoe__train_options, schedule), "cosine", 0, 0, "cosine wsd constant",
     NULL,
     "After the warm-up: cosine to lr_final; constant, then linear to lr_final (wsd); constant."},
    {"decay", O(FLOAT, lmoe__train_options, decay), "0.2", 0, 1, NULL, NULL,
     "Part of the steps in which wsd decays."},
    {"beta1", O(FLOAT, lmoe__train_options, beta1), "0.9", 0, 1, NULL, NULL, "Of AdamW."},
    {"beta2", O(FLOAT, lmoe__train_options, beta2), "0.95", 0, 1, NULL, NULL, "Of AdamW."},
    {"eps", O(FLOAT, lmoe__train_options, eps), "1e-8", 0, 1, NULL, NULL, "Of AdamW."},
    {"weight_decay", O(FLOAT, lmoe__train_options, weight_decay), "0.1", 0, 10, NULL, NULL,
     "Of AdamW, on matrices only."},
    {"clip", O(FLOAT, lmoe__train_options, clip), "1", 0, 1e9, NULL, NULL,
     "Largest norm of all gradients together; 0: no limit."},
    {"eval_every", O(INT, lmoe__train_options, eval_every), "0", 0, 1e15, NULL, "steps",
     "Evaluate on held-out text this often; 0: at the end only."},
    {"eval_tokens", O(INT, lmoe__train_options, eval_tokens), "0", 0, 1e15, NULL, "tokens",
     "Tokens of an evaluation before the last one; 0: all that are held out."},
    {"nan", O(ENUM, lmoe__train_options, nan), "abort", 0, 0, "abort skip", NULL,
     "When the loss or the gradient is not finite: stop and name the layer, or leave the step "
     "out."},
    {"dtype", O(ENUM, lmoe__train_options, dtype), "f32", 0, 0, "f32 f64 bf16", NULL,
     "Of weights and activations; f64 is for checks; bf16 weights are roundings of f32 masters."},
    {"adam_dtype", O(ENUM, lmoe__train_options, adam_dtype), "state", 0, 0, "state bf16", NULL,
     "Of AdamW's two means: as states (f32; f64 in checks), or bf16, which halves them."},
    {"recompute", O(ENUM, lmoe__train_options, recompute), "none", 0, 0, "none experts", NULL,
     "What is computed again in the backward pass rather than kept, beside the experts' rows and "
     "activations: nothing; or the experts' first products and all that costs little, such as "
     "norms "
     "and gates."},
    {"eager", O(BOOL, lmoe__train_options, eager), "no", 0, 0, NULL, NULL,
     "Check every op's results and name the source line of the first NaN; slow."},
    LMOE_OPTION_END};

static const lmoe_option data_table[] = {
    {"train", O(TEXT, lmoe__data_section, train), NULL, 0, 0, NULL, "path",
     "Text file (bytes are tokens), or token file made by lmoe data prepare."},
    {"valid", O(TEXT, lmoe__data_section, valid), "", 0, 0, NULL, NULL,
     "Held-out text: a file, or a part such as 10 %, the end of the training text."},
    {"packed", O(BOOL, lmoe__data_section, packed), "no", 0, 0, NULL, NULL,
     "Rows hold whole documents one after another; nothing is carried from one to the next."},
    LMOE_OPTION_END};

static const lmoe_option alarm_table[] = {
    {"load_max", O(FLOAT, lmoe__alarm_options, load_max), "4", 0, 1e6, NULL, NULL,
     "Warn when an expert gets more than this many times its fair share; 0: never."},
    {"load_dead", O(FLOAT, lmoe__alarm_options, load_dead), "0.02", 0, 1, NULL, NULL,
     "Warn when an expert gets less than this part of its fair share; 0: never."},
    {"drop_max", O(FLOAT, lmoe__alarm_options, drop_max), "0.1", 0, 1, NULL, NULL,
     "Warn when more than this part of a layer's choices is dropped; 0: never."},
    {"after", O(INT, lmoe__alarm_options, after), "100", 0, 1e15, NULL, "steps",
     "Steps before the first warning."},
    LMOE_OPTION_END};

typedef struct device_section {
    const char *class_name, *kernels;
} device_section;

static const lmoe_option device_table[] = {
    {"class", O(TEXT, device_section, class_name), "device/cpu", 0, 0, NULL, NULL,
     "Class of the device; its options stand in the same section."},
    {"kernels", O(TEXT, device_section, kernels), "", 0, 0, NULL, NULL,
     "Kernels, separated by commas, that are the only ones of their op whatever others score; an "
     "op's name: its reference."},
    LMOE_OPTION_END};

typedef struct parallel_options {
    const char *mesh, *comm, *strategy[6];
} parallel_options;

static const char *const axis_names[] = {"dp", "sp", "tp", "ep", "pp", "fsdp"};

static const lmoe_option parallel_table[] = {
    {"mesh", O(TEXT, parallel_options, mesh), "", 0, 0, NULL, NULL,
     "Axes and sizes, outermost first, e.g. dp:2 sp:4."},
    {"comm", O(TEXT, parallel_options, comm), "comm/self", 0, 0, NULL, NULL,
     "Class of the communicator."},
    {"dp", O(TEXT, parallel_options, strategy[0]), "parallel/dp", 0, 0, NULL, NULL,
     "Strategy of the axis dp."},
    {"sp", O(TEXT, parallel_options, strategy[1]), "parallel/lasp2", 0, 0, NULL, NULL,
     "Strategy of the axis sp."},
    {"tp", O(TEXT, parallel_options, strategy[2]), "parallel/tp", 0, 0, NULL, NULL,
     "Strategy of the axis tp."},
    {"ep", O(TEXT, parallel_options, strategy[3]), "parallel/ep", 0, 0, NULL, NULL,
     "Strategy of the axis ep."},
    {"pp", O(TEXT, parallel_options, strategy[4]), "parallel/pp", 0, 0, NULL, NULL,
     "Strategy of the axis pp."},
    {"fsdp", O(TEXT, parallel_options, strategy[5]), "parallel/fsdp", 0, 0, NULL, NULL,
     "Strategy of the axis fsdp."},
    LMOE_OPTION_END};

static const lmoe_option plan_table[] = {
    {"flops", O(FLOAT, lmoe__plan_options, flops), "0", 0, 1e30, NULL, "FLOP/s",
     "What a rank computes; 0: lmoe plan predicts no time."},
    {"latency", O(FLOAT, lmoe__plan_options, latency), "5e-6", 0, 1e6, NULL, "seconds",
     "To begin an exchange."},
    {"bandwidth", O(FLOAT, lmoe__plan_options, bandwidth), "50e9", 0, 1e30, NULL, "bytes/s",
     "What a rank receives; 0: without limit."},
    LMOE_OPTION_END};

typedef struct comm_section {
    double timeout;
} comm_section;

static const lmoe_option comm_table[] = {
    {"timeout", O(FLOAT, comm_section, timeout), "600", 0, 1e6, NULL, "seconds",
     "The longest that a rank waits for others in one exchange before the run ends; 0: no limit."},
    LMOE_OPTION_END};

const lmoe__section_table *lmoe__setup_tables(void)
{
    static const lmoe__section_table tables[] = {
        {"run", run_table},     {"data", data_table},     {"train", train_table},
        {"alarm", alarm_table}, {"device", device_table}, {"parallel", parallel_table},
        {"plan", plan_table},   {"comm", comm_table},     {NULL, NULL}};
    return tables;
}

static lmoe_status fill_class(lmoe_ctx *ctx, lmoe__setup *s, const char *section,
                              const lmoe_class *c, void **options)
{
    *options = lmoe__arena_alloc(s->arena, c->options_size ? c->options_size : 1);
    if (!c->options) return LMOE_OK;
    return lmoe__options_fill(ctx, s->conf, section, c->options, *options, s->arena);
}

static lmoe_status read_device(lmoe_ctx *ctx, lmoe__setup *s, device_section *o)
{
    const lmoe_class *c;
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "device", device_table, o, s->arena));
    LMOE_TRY(lmoe__class_find(ctx, s->conf, s->registry, LMOE_KIND_DEVICE, "device", "class",
                              o->class_name, &c));
    s->device = (const lmoe_device *)c;
    return fill_class(ctx, s, "device", c, &s->device_options);
}

static lmoe_status add_axis(lmoe_ctx *ctx, lmoe__setup *s, const parallel_options *o,
                            const char *word)
{
    char name[16];
    int size = 0, used = 0, which = -1;
    const int known = (int)(sizeof axis_names / sizeof *axis_names);
    const char *where = lmoe__conf_where(s->conf, "parallel", "mesh");
    if (sscanf(word, "%15[a-z]:%d%n", name, &size, &used) != 2 || word[used] || size < 1)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: [parallel] mesh: '%s' is not an axis and its size, such as dp:2",
                          where, word);
    for (int i = 0; i < known; i++) {
        if (strcmp(name, axis_names[i]) == 0) which = i;
    }
    if (which < 0)
        return lmoe_error(
            ctx, LMOE_E_CONFIG,
            "%s: [parallel] mesh: there is no axis '%s'; axes are dp, sp, tp, ep, pp, fsdp", where,
            name);
    for (int i = 0; i < s->n_axes; i++) {
        if (strcmp(s->axis_name[i], name) == 0)
            return lmoe_error(ctx, LMOE_E_CONFIG, "%s: [parallel] mesh: the axis '%s' stands twice",
                              where, name);
    }
    const lmoe_class *c;
    LMOE_TRY(lmoe__class_find(ctx, s->conf, s->registry, LMOE_KIND_STRATEGY, "parallel",
                              axis_names[which], o->strategy[which], &c));
    if (s->n_axes == LMOE__MAX_MESH)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: [parallel] mesh has too many axes", where);
    s->axis_name[s->n_axes] = axis_names[which];
    LMOE_TRY(fill_class(ctx, s, name, c, &s->axis_options[s->n_axes])); /* in [pp] and the like */
    s->axis_size[s->n_axes] = size;
    s->axis_strategy[s->n_axes++] = (const lmoe_strategy *)c;
    s->world *= size;
    return LMOE_OK;
}

static lmoe_status read_parallel(lmoe_ctx *ctx, lmoe__setup *s)
{
    parallel_options o;
    comm_section limits;
    const lmoe_class *c;
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "parallel", parallel_table, &o, s->arena));
    s->world = 1;
    char *words = lmoe__arena_strdup(s->arena, o.mesh), *save = NULL;
    for (char *w = strtok_r(words, " \t", &save); w; w = strtok_r(NULL, " \t", &save))
        LMOE_TRY(add_axis(ctx, s, &o, w));
    for (size_t i = 0; i < sizeof axis_names / sizeof *axis_names; i++) {
        /* options may wait for an axis that the mesh does not have now */
        void *unused;
        bool there = false;
        for (int k = 0; k < s->n_axes; k++) there |= strcmp(s->axis_name[k], axis_names[i]) == 0;
        if (there || !lmoe__conf_has(s->conf, axis_names[i])) continue;
        LMOE_TRY(lmoe__class_find(ctx, s->conf, s->registry, LMOE_KIND_STRATEGY, "parallel",
                                  axis_names[i], o.strategy[i], &c));
        LMOE_TRY(fill_class(ctx, s, axis_names[i], c, &unused));
    }
    LMOE_TRY(lmoe__class_find(ctx, s->conf, s->registry, LMOE_KIND_COMM, "parallel", "comm", o.comm,
                              &c));
    s->comm = (const lmoe_comm *)c;
    LMOE_TRY(fill_class(ctx, s, "comm", c, &s->comm_options));
    LMOE_TRY(lmoe__comm_inner(ctx, s->registry, s->conf, s->comm, s->comm_options, s->arena));
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "comm", comm_table, &limits, s->arena));
    s->comm_timeout = limits.timeout;
    if (s->world > 1 && !(c->flags & (LMOE_COMM_THREADS | LMOE_COMM_PROCESSES)))
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: the mesh has %d ranks, but %s has one; use comm = comm/loop, or "
                          "comm/mpi for processes",
                          lmoe__conf_where(s->conf, "parallel", "mesh"), s->world, o.comm);
    return LMOE_OK;
}

static lmoe_status check_train(lmoe_ctx *ctx, const lmoe__setup *s)
{
    const lmoe__train_options *t = &s->train;
    if (t->batch % t->accumulate != 0)
        return lmoe_error(ctx, LMOE_E_CONFIG,
                          "%s: [train] batch = %lld is not a multiple of accumulate = %lld",
                          lmoe__conf_where(s->conf, "train", "accumulate"), (long long)t->batch,
                          (long long)t->accumulate);
    if (t->warmup > t->steps)
        return lmoe_error(ctx, LMOE_E_CONFIG, "%s: [train] warmup = %lld is more than steps = %lld",
                          lmoe__conf_where(s->conf, "train", "warmup"), (long long)t->warmup,
                          (long long)t->steps);
    return LMOE_OK;
}

lmoe_status lmoe__setup_read(lmoe_ctx *ctx, lmoe__setup *s, const char *plugin_path, int needs)
{
    device_section device;
    s->arena = lmoe__arena_new();
    if (!s->registry) s->registry = lmoe__registry_new(plugin_path);
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "run", run_table, &s->run, s->arena));
    LMOE_TRY(lmoe__setup_open_files(ctx, s));
    bool mixers = !(needs & LMOE__SETUP_NO_MIXERS);
    LMOE_TRY(lmoe__model_load(ctx, s->conf, s->registry, mixers, &s->model));
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "train", train_table, &s->train, s->arena));
    s->model.recompute = s->train.recompute != 0;
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "alarm", alarm_table, &s->alarm, s->arena));
    LMOE_TRY(lmoe__options_fill(ctx, s->conf, "plan", plan_table, &s->plan, s->arena));
    if ((needs & LMOE__SETUP_DATA) || lmoe__conf_has(s->conf, "data")) {
        LMOE_TRY(lmoe__options_fill(ctx, s->conf, "data", data_table, &s->data, s->arena));
        if ((needs & LMOE__SETUP_DATA) && !s->data.train[0])
            return lmoe_error(ctx, LMOE_E_CONFIG,
                              "%s: [data] train is empty; name a text, or a token file that lmoe "
                              "data prepare made",
                              lmoe__conf_where(s->conf, "data", "train"));
        if (s->data.valid[0] && !strchr(s->data.valid, '%'))
            s->data.valid = lmoe__conf_resolve(s->conf, "data", "valid", s->data.valid, s->arena);
    }
    LMOE_TRY(read_device(ctx, s, &device));
    LMOE_TRY(read_parallel(ctx, s));
    lmoe__model_adopt_ops(&s->model, s->registry); /* all plugins are open now */
    LMOE_TRY(lmoe__setup_kernels(ctx, s, device.kernels));
    LMOE_TRY(lmoe__conf_check_unused(ctx, s->conf));
    return check_train(ctx, s);
}

void lmoe__setup_free(lmoe__setup *s)
{
    if (s->model.arena) lmoe__model_free(&s->model);
    lmoe__registry_free(s->registry);
    lmoe__conf_free(s->conf);
    lmoe__arena_free(s->arena);
    memset(s, 0, sizeof *s);
}

lmoe_dtype lmoe__setup_dtype(const lmoe__setup *s)
{
    static const lmoe_dtype dtypes[] = {LMOE_F32, LMOE_F64, LMOE_BF16};
    return dtypes[s->train.dtype];
}

lmoe__optimiser lmoe__setup_optimiser(const lmoe__setup *s)
{
    const lmoe__train_options *t = &s->train;
    lmoe__optimiser o = {t->beta1, t->beta2, t->eps, t->weight_decay, t->clip, LMOE_NONE};
    if (t->adam_dtype == 1) o.state = LMOE_BF16;
    return o;
}

lmoe__model_shape lmoe__setup_shape(const lmoe__setup *s)
{
    lmoe__model_shape shape = {.batch = s->train.batch / s->train.accumulate, .seq = s->train.seq};
    shape.resets = s->data.packed;
    shape.loss = true;
    return shape;
}

void lmoe__setup_place(const lmoe__setup *s, int rank, lmoe__mesh *mesh)
{
    memset(mesh, 0, sizeof *mesh);
    mesh->count = s->n_axes;
    for (int i = s->n_axes - 1; i >= 0; i--) {
        lmoe__mesh_axis *a = &mesh->axis[i];
        a->name = s->axis_name[i];
        a->index = i;
        a->ranks = s->axis_size[i];
        a->rank = rank % a->ranks;
        a->strategy = s->axis_strategy[i];
        a->options = s->axis_options[i];
        rank /= a->ranks;
    }
}

double lmoe__setup_lr(const lmoe__setup *s, int64_t step)
{
    const lmoe__train_options *t = &s->train;
    double low = t->lr * t->lr_final;
    if (step < t->warmup) return t->lr * (double)(step + 1) / (double)t->warmup;
    double left = (double)(t->steps - t->warmup), at = (double)(step - t->warmup);
    if (left <= 1) return t->lr;
    if (t->schedule == LMOE__COSINE)
        return low + (t->lr - low) * 0.5 * (1 + cos(acos(-1.0) * fmin(1.0, at / (left - 1))));
    if (t->schedule == LMOE__WSD) {
        double decay = fmax(1.0, t->decay * (double)t->steps);
        double start = (double)t->steps - decay, past = (double)step + 1 - start;
        if (past > 0) return t->lr + (low - t->lr) * fmin(1.0, past / decay);
    }
    return t->lr;
}
