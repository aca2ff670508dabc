/* SPDX-License-Identifier: Apache-2.0
 * core/train/train.c: the step loop of one rank.
 *
 * A step: rows from the data, one replay of the training plan for each micro-batch, one of the
 * update plan; with a pipeline, the passes of its schedule take the place of the former. The loss is
 * a sum over tokens times 1 / (tokens that count in the step), so micro-batches simply add.
 */
#include "core/train/train.h"

#include <math.h>
#include <stdlib.h>

/* ---- setting up ---- */

static lmoe_status make_pipelines(lmoe__rank *r, const lmoe__model_shape *shape)
{
    int n = (int)r->setup->train.accumulate;
    LMOE_TRY(lmoe__pipeline_new(&r->engine, shape, n, true, &r->pipe));
    r->flops = r->pipe->flops / r->pipe->axis->ranks;
    if (lmoe__valid_windows(&r->data) == 0) return LMOE_OK;
    return lmoe__pipeline_new(&r->engine, shape, n, false, &r->pipe_eval);
}

static lmoe_status make_whole(lmoe__rank *r, const lmoe__model_shape *shape)
{
    lmoe__engine *e = &r->engine;
    LMOE_TRY(lmoe__engine_program(e, LMOE__TRAIN_FIRST, shape, &r->first));
    r->flops = r->first->plan->flops;
    if (r->setup->train.accumulate > 1)
        LMOE_TRY(lmoe__engine_program(e, LMOE__TRAIN_NEXT, shape, &r->next));
    if (lmoe__valid_windows(&r->data) == 0) return LMOE_OK;
    return lmoe__engine_program(e, LMOE__EVAL, shape, &r->eval);
}

static lmoe_status make_programs(lmoe__rank *r)
{
    const lmoe__setup *s = r->setup;
    lmoe__engine *e = &r->engine;
    lmoe__model_shape shape = lmoe__setup_shape(s);
    const lmoe__optimiser o = lmoe__setup_optimiser(s);
    shape.resets = lmoe__data_has_starts(&r->data);
    e->eager = s->train.eager;
    LMOE_TRY(e->pipe_axis >= 0 ? make_pipelines(r, &shape) : make_whole(r, &shape));
    LMOE_TRY(lmoe__engine_update_program(e, &o, &r->update));
    LMOE_TRY(lmoe__engine_balance_program(e, &r->balance));
    return lmoe__engine_bind(e);
}

static void make_batch(lmoe__rank *r)
{
    const lmoe__train_options *t = &r->setup->train;
    size_t n = (size_t)(t->batch * t->seq);
    lmoe__arena *a = r->engine.arena;
    r->batch = (lmoe__batch){.batch = t->batch, .seq = t->seq};
    r->batch.tokens = LMOE_NEW_N(a, int32_t, n);
    r->batch.labels = LMOE_NEW_N(a, int32_t, n);
    r->batch.positions = LMOE_NEW_N(a, int32_t, n);
    r->batch.document = LMOE_NEW_N(a, int32_t, n);
    r->batch.reset = LMOE_NEW_N(a, uint8_t, n);
    for (int i = 0; i < r->engine.store.count; i++) {
        bool wanted = strncmp(r->engine.store.buffers[i].name, "in:noise", 8) == 0;
        if (wanted && !r->noise) r->noise = LMOE_NEW_N(a, int32_t, n);
    }
}

static lmoe_status open_data(lmoe__rank *r)
{
    const lmoe__setup *s = r->setup;
    lmoe__data_options o = {.train = s->data.train,
                            .valid = s->data.valid,
                            .seq = s->train.seq,
                            .seed = (uint64_t)s->run.seed,
                            .packed = s->data.packed,
                            .vocab = s->model.o.vocab_size};
    o.tokenizer = lmoe__tokenizer_find(&r->ctx, "bytes");
    if (!o.tokenizer) return LMOE_E_INTERNAL;
    lmoe_ctx quiet;
    lmoe__ctx_init(&quiet);
    lmoe_status status = lmoe__data_open(&quiet, &o, &r->data);
    if (status == LMOE_OK) return LMOE_OK;
    const char *where = lmoe__conf_where(s->conf, "data", NULL);
    return lmoe_error(&r->ctx, status, "%s: [data]: %s", where, quiet.message);
}

/* Ranks on several machines may see different files. */
static lmoe_status same_step(lmoe__rank *r)
{
    int64_t step[2] = {r->done, -r->done};
    LMOE_TRY(lmoe__rank_reduce(r, step, 2, LMOE_I64, LMOE_MAX));
    if (step[0] == -step[1]) return LMOE_OK;
    return lmoe_error(&r->ctx, LMOE_E_CONFIG,
                      "rank %d found the checkpoint of step %lld in '%s', another rank that of "
                      "step %lld; the folder must be the same one for all",
                      r->rank, (long long)r->done, r->setup->run.dir,
                      (long long)(r->done == step[0] ? -step[1] : step[0]));
}

static lmoe_status set_up(lmoe__rank *r, const lmoe__mesh *mesh)
{
    const lmoe__setup *s = r->setup;
    LMOE_TRY(open_data(r));
    LMOE_TRY(lmoe__engine_init(&r->engine, &r->ctx, &s->model, mesh, s->device, r->dev,
                               lmoe__setup_dtype(s)));
    LMOE_TRY(make_programs(r));
    LMOE_TRY(lmoe__engine_init_weights(&r->engine, (uint64_t)s->run.seed));
    make_batch(r);
    r->best_val = NAN;
    if (s->run.resume) LMOE_TRY(lmoe__state_resume(r));
    LMOE_TRY(same_step(r));
    return lmoe__report_open(r);
}

void lmoe__rank_free(lmoe__rank *r)
{
    lmoe__report_close(r);
    lmoe__data_close(&r->data);
    lmoe__pipeline_free(r->pipe);
    lmoe__pipeline_free(r->pipe_eval);
    if (r->engine.arena) lmoe__engine_free(&r->engine);
    if (r->dev) r->setup->device->close(r->dev);
}

/* ---- a step ---- */

static int64_t micro_rows(const lmoe__rank *r)
{
    return r->setup->train.batch / r->setup->train.accumulate;
}

/* Labels that count in the micro-batch that begins at token `at`. */
static int64_t labels_of(const lmoe__rank *r, size_t at)
{
    int64_t n = 0;
    for (int64_t i = 0; i < micro_rows(r) * r->batch.seq; i++)
        n += r->batch.labels[at + (size_t)i] >= 0;
    return n;
}

/* A key for each token of the step: a function of the seed and the token's place in the run. */
static void draw_noise(lmoe__rank *r)
{
    const lmoe__train_options *t = &r->setup->train;
    int64_t n = t->batch * t->seq;
    const uint64_t stream = lmoe__hash_text("in:noise");
    for (int64_t i = 0; r->noise && i < n; i++)
        r->noise[i] = (int32_t)lmoe__below((uint64_t)r->setup->run.seed, stream,
                                           (uint64_t)(r->done * n + i), 1u << 31);
}

/* Rows row ... row + (rows of a micro-batch) of the step's batch become the program's inputs. */
static lmoe_status set_rows(lmoe__rank *r, lmoe__program *p, int64_t row, double factor)
{
    lmoe__engine *e = &r->engine;
    size_t at = (size_t)(row * r->batch.seq);
    LMOE_TRY(lmoe__program_set(e, p, "in:tokens", r->batch.tokens + at));
    LMOE_TRY(lmoe__program_set(e, p, "in:labels", r->batch.labels + at));
    LMOE_TRY(lmoe__program_set(e, p, "in:positions", r->batch.positions + at));
    LMOE_TRY(lmoe__program_set(e, p, "in:document", r->batch.document + at));
    LMOE_TRY(lmoe__program_set(e, p, "in:reset", r->batch.reset + at));
    if (r->noise) LMOE_TRY(lmoe__program_set(e, p, "in:noise", r->noise + at));
    double share = (double)labels_of(r, at) * factor; /* of the step's labels */
    LMOE_TRY(lmoe__program_set_scalar(e, p, "in:aux_scale", share));
    return lmoe__program_set_scalar(e, p, "in:factor", factor);
}

typedef struct micro_batches {
    lmoe__rank *r;
    double factor;
} micro_batches;

static lmoe_status set_micro_batch(void *user, lmoe__program *p, int micro_batch)
{
    const micro_batches *m = user;
    return set_rows(m->r, p, micro_batch * micro_rows(m->r), m->factor);
}

/* The first n micro-batches of the batch: through the pipeline; or through `first`, and `next` from
 * the second one on. loss: their sum; NULL (not with a pipeline): the host does not wait for it. */
static lmoe_status run_micro_batches(lmoe__rank *r, lmoe__pipeline *pipe, lmoe__program *first,
                                     lmoe__program *next, int64_t n, double factor, double *loss)
{
    micro_batches m = {r, factor};
    if (loss) *loss = 0;
    if (pipe) return lmoe__pipeline_run(pipe, (int)n, set_micro_batch, &m, loss);
    for (int64_t i = 0; i < n; i++) {
        lmoe__program *p = i == 0 ? first : next;
        double x = 0;
        LMOE_TRY(set_micro_batch(&m, p, (int)i));
        LMOE_TRY(lmoe__program_run(&r->engine, p));
        if (!loss) continue;
        lmoe__engine_read(&r->engine, "out:loss", &x, 1);
        *loss += x;
    }
    return LMOE_OK;
}

static void set_eager(lmoe__rank *r, bool eager)
{
    if (r->pipe)
        lmoe__pipeline_eager(r->pipe, eager);
    else
        r->first->plan->eager = eager;
}

/* The micro-batches of a step that was not finite are run once more, op by op, so that the message
 * can name the first bad op. */
static lmoe_status find_nan(lmoe__rank *r, double factor, double loss, double norm)
{
    const lmoe__train_options *t = &r->setup->train;
    char what[sizeof r->ctx.message] = "";
    double again;
    set_eager(r, true);
    lmoe_status status =
        run_micro_batches(r, r->pipe, r->first, r->first, t->accumulate, factor, &again);
    set_eager(r, r->engine.eager);
    if (status != LMOE_OK && status != LMOE_E_NUMERIC) return status;
    if (status == LMOE_E_NUMERIC) memcpy(what, r->ctx.message, sizeof what);
    lmoe__ctx_clear(&r->ctx);
    return lmoe_error(
        &r->ctx, LMOE_E_NUMERIC,
        "step %lld: loss %g, gradient norm %g%s%.700s; this step has changed nothing. "
        "A lower [train] lr or clip may help; nan = skip leaves such steps out",
        (long long)r->done + 1, loss, norm, what[0] ? ": " : "", what);
}

/* Does the host look at the loss and the norm of this step? Where it need not, it goes on to the next
 * one without waiting for the device, and sees at the next look whether all were finite. */
static bool looks(const lmoe__rank *r)
{
    const lmoe__train_options *t = &r->setup->train;
    const lmoe__run_options *o = &r->setup->run;
    int64_t step = r->done + 1;
    bool always = r->pipe || r->balance || t->nan == LMOE__NAN_SKIP || o->minutes > 0;
    bool evaluates = (r->eval || r->pipe_eval) && t->eval_every > 0 && step % t->eval_every == 0;
    bool saves = o->save_every > 0 && step % o->save_every == 0;
    return always || evaluates || saves || step >= t->steps || step % o->log_every == 0;
}

/* The sum of the norms since the last look; it begins anew. */
static lmoe_status sum_of_norms(lmoe__rank *r, double *sum)
{
    lmoe__engine *e = &r->engine;
    lmoe__buffer *b = lmoe__store_find(&e->store, "sum:grad_norm");
    lmoe__engine_read(e, "sum:grad_norm", sum, 1);
    return e->device->zero(e->dev, b->data, (size_t)lmoe_desc_bytes(&b->desc));
}

static lmoe_status look(lmoe__rank *r, double factor, lmoe__step_result *out)
{
    const lmoe__train_options *t = &r->setup->train;
    double sum;
    lmoe__engine_read(&r->engine, "out:grad_norm", &out->grad_norm, 1);
    LMOE_TRY(sum_of_norms(r, &sum));
    if (!isfinite(out->loss) || !isfinite(out->grad_norm)) {
        if (t->nan == LMOE__NAN_ABORT) return find_nan(r, factor, out->loss, out->grad_norm);
        lmoe__log(&r->ctx, LMOE_LOG_WARN, "step %lld left out: loss %g, gradient norm %g",
                  (long long)r->done + 1, out->loss, out->grad_norm);
    } else if (!isfinite(sum)) {
        return lmoe_error(&r->ctx, LMOE_E_NUMERIC,
                          "a gradient was not finite in one of the steps %lld to %lld, which "
                          "has changed nothing. A lower [train] lr or clip may help; with [run] "
                          "log_every = 1 the step and the op are named",
                          (long long)r->done + 1 - r->unseen, (long long)r->done);
    } else if (r->balance) {
        LMOE_TRY(lmoe__program_run(&r->engine, r->balance));
    }
    return LMOE_OK;
}

/* out->seconds: mean of the steps since the last look, 0 without a look. */
static lmoe_status train_step(lmoe__rank *r, lmoe__step_result *out)
{
    const lmoe__train_options *t = &r->setup->train;
    lmoe__engine *e = &r->engine;
    const bool looked = looks(r);
    if (r->unseen == 0) r->unseen_since = lmoe__now();
    int64_t labels = lmoe__batch_fill(&r->ctx, &r->data, r->done * t->batch, &r->batch);
    if (labels < 0) return (lmoe_status)labels;
    draw_noise(r);
    double factor = labels > 0 ? 1.0 / (double)labels : 0;
    LMOE_TRY(run_micro_batches(r, r->pipe, r->first, r->next, t->accumulate, factor,
                               looked ? &out->loss : NULL));
    out->lr = lmoe__setup_lr(r->setup, r->done);
    LMOE_TRY(lmoe__program_set_scalar(e, r->update, "in:lr", out->lr));
    LMOE_TRY(lmoe__program_set_scalar(e, r->update, "in:step", (double)(r->done + 1)));
    LMOE_TRY(lmoe__program_run(e, r->update));
    if (looked) LMOE_TRY(look(r, factor, out));
    r->done++;
    r->unseen++;
    r->saved = false;
    out->step = r->done;
    out->tokens = (double)(t->batch * t->seq);
    r->tokens += out->tokens;
    if (!looked) return LMOE_OK;
    out->seconds = (lmoe__now() - r->unseen_since) / r->unseen;
    r->unseen = 0;
    return LMOE_OK;
}

/* ---- evaluation ---- */

/* A signal to any rank stops all, after the same step. */
static lmoe_status poll_stop(lmoe__rank *r)
{
    bool stop = r->stop || lmoe__signal_pending();
    LMOE_TRY(lmoe__rank_any(r, &stop));
    r->stop = stop;
    return LMOE_OK;
}

/* Mean loss over held-out windows. Leaves NaN when a signal came in between. */
static lmoe_status evaluate(lmoe__rank *r, int64_t tokens, lmoe__step_result *out)
{
    const lmoe__train_options *t = &r->setup->train;
    int64_t windows = lmoe__valid_windows(&r->data), rows = micro_rows(r);
    int64_t most = r->pipe_eval ? t->accumulate : 1; /* micro-batches between looks for a signal */
    double sum = 0, count = 0, bytes = 0, start = lmoe__now();
    lmoe__batch b = r->batch;
    if (tokens > 0 && tokens / t->seq < windows)
        windows = tokens / t->seq > 0 ? tokens / t->seq : 1;
    for (int64_t w = 0; w < windows; w += b.batch) {
        int64_t n = (windows - w + rows - 1) / rows;
        double loss = 0;
        if (n > most) n = most;
        b.batch = n * rows;
        int64_t labels = lmoe__valid_fill(&r->ctx, &r->data, w, &b);
        if (labels < 0) return (lmoe_status)labels;
        LMOE_TRY(run_micro_batches(r, r->pipe_eval, r->eval, r->eval, n, 1.0, &loss));
        sum += loss;
        count += (double)labels;
        bytes += (double)b.bytes;
        LMOE_TRY(poll_stop(r));
        if (r->stop) return LMOE_OK;
    }
    r->eval_seconds = lmoe__now() - start;
    if (count == 0) return LMOE_OK;
    out->val_loss = sum / count;
    out->val_bits = bytes > 0 ? sum / log(2.0) / bytes : NAN;
    if (!(out->val_loss >= r->best_val)) r->best_val = out->val_loss;
    return LMOE_OK;
}

/* ---- the loop ---- */

static bool out_of_time(const lmoe__rank *r)
{
    double minutes = r->setup->run.minutes;
    return minutes > 0 && lmoe__now() - r->report.started + r->eval_seconds > minutes * 60;
}

static bool eval_due(const lmoe__rank *r)
{
    const lmoe__train_options *t = &r->setup->train;
    bool due = r->done >= t->steps || (t->eval_every > 0 && r->done % t->eval_every == 0);
    return (r->eval || r->pipe_eval) && due;
}

/* What comes after step `done`: evaluation if it is time for one, and the report of both. An
 * evaluation that a signal cuts off is owed; the run that goes on from here makes up for it. */
static lmoe_status close_step(lmoe__rank *r, lmoe__step_result *out, bool late)
{
    const lmoe__train_options *t = &r->setup->train;
    bool due = eval_due(r), all = late || r->done >= t->steps;
    if ((r->eval || r->pipe_eval) && (due || late) && !r->stop)
        LMOE_TRY(evaluate(r, all ? 0 : t->eval_tokens, out));
    r->owes_eval = due && r->stop;
    return r->owes_eval ? LMOE_OK : lmoe__report_step(r, out);
}

static lmoe_status loop(lmoe__rank *r)
{
    const lmoe__setup *s = r->setup;
    bool late = false;
    LMOE_TRY(poll_stop(r));
    if (r->owes_eval && !r->stop) {
        lmoe__step_result out = {.step = r->done, .val_loss = NAN, .val_bits = NAN};
        r->saved = false;
        LMOE_TRY(close_step(r, &out, false));
    }
    while (r->done < s->train.steps && !late && !r->stop) {
        lmoe__step_result out = {.val_loss = NAN, .val_bits = NAN};
        LMOE_TRY(train_step(r, &out));
        LMOE_TRY(poll_stop(r));
        late = out_of_time(r);
        LMOE_TRY(lmoe__rank_any(r, &late));
        if (late || eval_due(r) || r->done % s->run.log_every == 0) lmoe__report_note(r, &out);
        if (r->unseen == 0) LMOE_TRY(close_step(r, &out, late));
        if (s->run.save_every > 0 && r->done % s->run.save_every == 0)
            LMOE_TRY(lmoe__state_save(r));
    }
    if (!r->saved) LMOE_TRY(lmoe__state_save(r));
    return LMOE_OK;
}

lmoe_status lmoe__rank_train(lmoe__rank *r, const lmoe__mesh *mesh)
{
    lmoe_status status = set_up(r, mesh);
    if (status == LMOE_OK) status = loop(r);
    if (status == LMOE_OK) status = lmoe__report_end(r);
    return status;
}
