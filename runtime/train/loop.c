// The loop around the step. At a step's end the order is: update, log, evaluate, decide, checkpoint.

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "guard.h"

// ---- Logging --------------------------------------------------------------------------------------------

static double epoch_of(const LsTrainer *t)
{
    return (double)t->state.cursor / (double)t->info->samples[LS_TRAIN];
}

static void restart_window(LsTrainer *t)
{
    t->times = (LsStepTimes){.start = ls_clock_seconds()};
}

static LsStepRecord describe_steps(const LsTrainer *t)
{
    const LsStepControl *control = &t->state.control;
    double steps = (double)t->times.steps;
    double seconds = (ls_clock_seconds() - t->times.start) / steps;
    double rate = (double)t->config->train.batch / seconds;
    double peak = t->peak_flops * ls_comm_size(t->comm);
    return (LsStepRecord){
        .step = control->step,
        .loss = control->loss,
        .lr = control->learning_rate,
        .gradient_norm = control->gradient_norm,
        .loss_scale = control->loss_scale,
        .step_seconds = seconds,
        .data_seconds = t->times.data / steps,
        .comm_seconds = t->times.comm / steps,
        .samples_per_second = rate,
        .slowest = t->pace.slowest,
        .slowest_ratio = t->pace.slowest_ratio,
        .mfu = peak > 0 ? t->model->flops_per_sample * rate / peak : -1,
    };
}

static LsStatus log_steps(LsTrainer *t)
{
    if (!t->metrics)
        return LS_OK;
    LsStepRecord record = describe_steps(t);
    LsProgress progress = {
        .total_steps = t->total_steps,
        .epoch = epoch_of(t),
        .eta_seconds = record.step_seconds * (double)(t->total_steps - record.step),
        .memory_bytes = t->memory.device,
    };
    return ls_metrics_step(t->metrics, &record, &progress);
}

LsStatus ls_trainer_status(LsTrainer *t, const char *state, const char *message)
{
    if (!t->metrics)
        return LS_OK;
    json_t *fields = json_pack("{s:s, s:I, s:i, s:s}", "state", state, "step",
        (json_int_t)t->state.control.step, "world_size", ls_comm_size(t->comm), "message", message);
    if (t->info)
        json_object_set_new(fields, "epoch", ls_json_number(epoch_of(t)));
    if (t->state.control.step > 0)
        json_object_set_new(fields, "train_loss", ls_json_number(t->state.control.loss));
    if (t->evaluated)
        json_object_set_new(fields, "eval", ls_evaluation_json(&t->newest_evaluation));
    if (t->saved_step >= 0) {
        char path[LS_PATH_MAX];
        ls_checkpoint_path(path, t->run.path, t->saved_step);
        json_object_set_new(fields, "checkpoint", json_string(path));
    }
    LsStatus status = ls_metrics_status(t->metrics, fields);
    json_decref(fields);
    return status;
}

// ---- Evaluation -----------------------------------------------------------------------------------------

// Rank 0: says what an evaluation has found.
static LsStatus report_evaluation(LsTrainer *t)
{
    if (!t->metrics)
        return LS_OK;
    json_t *details = ls_evaluation_json(&t->newest_evaluation);
    char *line = ls_json_line(details);
    ls_info("evaluation at step %lld: %s", (long long)t->state.control.step, line ? line : "");
    free(line);
    return ls_metrics_event(t->metrics, "eval", t->state.control.step, details);
}

// An evaluation that an attempt begins with is not ended by time, nor by what was there before: every attempt
// gets further, as one that begins with a step does.
static uint32_t asks_to_stop_evaluating(const void *context)
{
    const LsTrainer *t = context;
    uint32_t reason = ls_trainer_asks_to_stop(t);
    bool first = t->issued == t->began_at;
    return first && (reason == LS_STOP_TIME || reason == t->asked_before) ? LS_STOP_NONE : reason;
}

// The averages can take the weights' place when nothing copies these any more.
static LsStatus show_average(LsTrainer *t)
{
    LS_TRY(ls_trainer_save_copied(t));
    return ls_arenas_show_average(&t->arenas);
}

// *stop: why the ranks have given it up, if they have.
static LsStatus evaluate(LsTrainer *t, LsSplit split, const uint64_t *indexes, size_t count, uint32_t *stop)
{
    LsEvaluateStop asks = {.ask = asks_to_stop_evaluating, .context = t};
    LS_TRY(ls_comm_drain(t->comm)); // the weights are whole
    ls_trace_begin(t->trace, "evaluate");
    ls_trainer_at(t, LS_PHASE_EVALUATE);
    bool averaged = t->arenas.average && t->config->eval.average;
    if (averaged)
        LS_TRY(show_average(t));
    LsStatus status = ls_evaluate(t->evaluator,
        &(LsEvaluateOptions){
            .split = split, .indexes = indexes, .count = count, .weights = t->arenas.weights, .stop = &asks},
        &t->newest_evaluation);
    if (averaged && status == LS_OK)
        status = ls_arenas_show_weights(&t->arenas);
    ls_trace_end(t->trace);
    LS_TRY(status);
    *stop = asks.reason;
    if (*stop)
        return LS_OK;
    t->evaluated = true;
    t->evaluation_holds = count == 0;
    return ls_comm_agree(t->comm, report_evaluation(t));
}

// Keeps the best value seen and counts the evaluations since.
static void watch_metric(LsTrainer *t)
{
    bool higher = false;
    double value = ls_evaluation_metric(&t->newest_evaluation, t->config->eval.metric, &higher);
    LsBestMetric *best = &t->state.best;
    bool better = isfinite(value) && (!best->known || (higher ? value > best->value : value < best->value));
    if (better)
        *best = (LsBestMetric){.known = true, .value = value, .step = t->state.control.step};
    else
        best->stale++;
}

// The evaluation that follows a step. One that the run is stopped before or in is left to the next attempt.
static LsStatus evaluate_step(LsTrainer *t, uint32_t *stop)
{
    if (*stop == LS_STOP_NONE)
        LS_TRY(evaluate(t, t->watched, t->quick, t->quick_count, stop));
    t->state.evaluation_due = *stop != LS_STOP_NONE;
    if (*stop == LS_STOP_NONE)
        watch_metric(t);
    return LS_OK;
}

static bool stopped_early(const LsTrainer *t)
{
    return t->config->train.early_stopping > 0 && t->state.best.stale >= t->config->train.early_stopping;
}

// ---- The loop -------------------------------------------------------------------------------------------

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static bool finished(const LsTrainer *t)
{
    return t->state.control.step >= t->total_steps || stopped_early(t) || t->rehearsed;
}

static bool save_is_due(const LsTrainer *t, int64_t step)
{
    bool by_steps = t->config->checkpoint.policy == LS_SAVE_STEPS;
    return t->saving.wanted || (by_steps && due(t->config->checkpoint.every, step));
}

// What follows a step: its log line, an evaluation, a checkpoint.
static LsStatus after_step(LsTrainer *t, uint32_t *stop)
{
    int64_t step = t->state.control.step;
    bool last = step >= t->total_steps;
    if (due(t->config->log.every, step) || last || *stop) {
        LS_TRY(ls_comm_agree(t->comm, log_steps(t)));
        restart_window(t);
    }
    bool evaluated = due(t->config->eval.every, step);
    if (evaluated)
        LS_TRY(evaluate_step(t, stop));
    ls_trainer_at(t, LS_PHASE_SAVE);
    bool best = evaluated && t->config->checkpoint.keep_best && t->state.best.step == step;
    bool ends = finished(t) || *stop;
    // Where a rollback goes to must not depend on where the run was stopped: then nothing is given up.
    if (*stop && t->config->guard.action != LS_GUARD_ROLLBACK)
        LS_TRY(ls_trainer_save_clear(t));
    if (save_is_due(t, step) || ends || best)
        LS_TRY(ends ? ls_trainer_save(t) : ls_trainer_save_begin(t));
    if (evaluated)
        ls_save_pace_skip(&t->saving.pace);
    if (evaluated || ends)
        restart_window(t);
    return LS_OK;
}

// What follows a step of a rehearsal.
static LsStatus observe(LsTrainer *t)
{
    LsStepRecord record = describe_steps(t);
    const LsStepObserver *observer = t->options->observer;
    if (due(observer->every, record.step)) {
        t->rehearsed = !observer->look(observer->context, &record);
        restart_window(t);
    }
    return save_is_due(t, record.step) && !t->rehearsed ? ls_trainer_save_begin(t) : LS_OK;
}

static LsStatus write_profile(LsTrainer *t)
{
    char directory[LS_PATH_MAX];
    LsStatus status = ls_path_join(directory, t->run.path, "profile");
    if (status == LS_OK)
        status = ls_trace_write(t->trace, directory);
    return ls_comm_agree(t->comm, status);
}

// Whether the host has to know step `step` before it gives the next one to the device.
static bool needed(const LsTrainer *t, int64_t step)
{
    const LsConfig *config = t->config;
    return !t->device->discrete || (t->options->observer && due(t->options->observer->every, step)) ||
           ls_check_due(t, step) || step >= t->total_steps || due(config->log.every, step) ||
           due(config->eval.every, step) || save_is_due(t, step);
}

// Takes over what the device has decided up to step `last`.
static LsStatus read_steps(LsTrainer *t, int64_t last, uint32_t *stop)
{
    while (t->state.control.step < last && !t->went_back) {
        float loss_scale = t->state.control.loss_scale;
        LsVotes votes;
        LS_TRY(ls_trainer_read(t, &votes));
        *stop = votes.stop > *stop ? votes.stop : *stop;
        t->saving.wanted |= votes.save != 0;
        LS_TRY(ls_trainer_save_learn(t, votes.unsaved));
        LS_TRY(ls_trainer_guard(t, loss_scale));
        ls_account_step(t->account, t->state.control.step);
    }
    return LS_OK;
}

// The host reads the step before the one it has just given to the device, so that the device never waits for
// it, unless something follows this step. All ranks read the same, so all stop after the same step.
static LsStatus run_step(LsTrainer *t, uint32_t *stop)
{
    ls_trace_begin(t->trace, "step");
    t->went_back = t->evaluation_holds = false;
    ls_trainer_step(t);
    LsStatus status = read_steps(t, t->issued - !needed(t, t->issued), stop);
    if (status == LS_OK && (*stop || t->saving.wanted))
        status = read_steps(t, t->issued, stop);
    ls_trace_end(t->trace);
    LS_TRY(status);
    LS_TRY(ls_pace_compare(t));
    if (t->went_back) { // whoever asks to stop asks again
        *stop = LS_STOP_NONE;
        restart_window(t);
    }
    bool known = t->state.control.step == t->issued && !t->went_back;
    if (known)
        LS_TRY(t->options->observer ? observe(t) : after_step(t, stop));
    ls_trainer_save_step(t);
    // The trace is whole after its last step, or when the run ends before that.
    bool whole = ls_trace_step(t->trace), ends = finished(t) || *stop;
    return whole || (ends && ls_trace_open(t->trace)) ? write_profile(t) : LS_OK;
}

// What an earlier attempt left to this one; the options may have changed since.
static LsStatus make_up_evaluation(LsTrainer *t, uint32_t *stop)
{
    if (due(t->config->eval.every, t->state.control.step))
        LS_TRY(evaluate_step(t, stop));
    else
        t->state.evaluation_due = false;
    restart_window(t);
    return finished(t) && *stop == LS_STOP_NONE ? ls_trainer_save(t) : LS_OK;
}

static LsStatus run_steps(LsTrainer *t)
{
    restart_window(t);
    while (!finished(t) || t->state.evaluation_due) {
        uint32_t stop = LS_STOP_NONE;
        LS_TRY(t->state.evaluation_due ? make_up_evaluation(t, &stop) : run_step(t, &stop));
        if (stop && (!finished(t) || t->state.evaluation_due))
            return ls_trainer_stop(t, stop);
    }
    return LS_OK;
}

// The run's last numbers: every split that is not trained on, in full; the test split, if there is one, last.
// The last step's checkpoint is durable.
static LsStatus evaluate_in_full(LsTrainer *t)
{
    static const LsSplit order[] = {LS_VALIDATION, LS_TEST};
    uint32_t stop = LS_STOP_NONE;
    for (size_t i = 0; i < sizeof order / sizeof *order && stop == LS_STOP_NONE; i++) {
        if (t->info->samples[order[i]] == 0)
            continue;
        if (t->evaluation_holds && t->newest_evaluation.split == order[i])
            LS_TRY(ls_comm_agree(t->comm, report_evaluation(t)));
        else
            LS_TRY(evaluate(t, order[i], NULL, 0, &stop));
    }
    return stop ? ls_trainer_stop(t, stop) : LS_OK;
}

LsStatus ls_trainer_run(LsTrainer *t)
{
    t->began_at = t->issued;
    t->asked_before = ls_trainer_asks_to_stop(t);
    // From now on the run has what it goes on from, whatever becomes of the place where it lay. A run that
    // may be set back to its beginning has that, too.
    bool first = t->state.control.step == 0 && t->config->guard.action == LS_GUARD_ROLLBACK;
    if (!t->options->observer && (t->adopted || first))
        LS_TRY(ls_trainer_save(t));
    LS_TRY(run_steps(t));
    if (t->options->observer)
        return ls_trainer_save_wait(t);
    LS_TRY(evaluate_in_full(t));
    ls_trainer_at(t, LS_PHASE_SAVE);
    LS_TRY(ls_trainer_save_tidy(t));
    const char *why = t->state.control.step >= t->total_steps ? "the last step is done" : "early stopping";
    LsStatus status =
        ls_metrics_event(t->metrics, "stop", t->state.control.step, json_pack("{s:s}", "reason", why));
    if (status == LS_OK)
        status = ls_stop_obeyed(t->stop);
    if (status == LS_OK)
        status = ls_trainer_status(t, "completed", why);
    return ls_comm_agree(t->comm, status);
}
