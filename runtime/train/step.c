// The step: see train/trainer.h for its order and docs/architecture.md for why.

#include "base/clock.h"
#include "guard.h"
#include "train/schedule.h"

static LsStatus finish_reduction(LsTrainer *t)
{
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "reduce");
    ls_trainer_at(t, LS_PHASE_EXCHANGE);
    LsStatus status = t->sharder ? ls_sharder_finish(t->sharder) : ls_reducer_finish(t->reducer);
    ls_trainer_at(t, LS_PHASE_COMPUTE);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

static LsStatus sum_squares(LsTrainer *t)
{
    if (t->squares == 0)
        return LS_OK;
    return t->device->ops->block_squares(
        t->device, &(LsBlockSquares){.count = t->squares, .piece = t->square});
}

static LsVotes votes_of_this_rank(LsTrainer *t)
{
    LsVotes votes = {0};
    ls_trainer_save_vote(t, &votes);
    votes.error = (uint32_t)t->failed;
    votes.stop = ls_trainer_asks_to_stop(t);
    return votes;
}

static LsStatus exchange(LsTrainer *t)
{
    LsVotes mine = votes_of_this_rank(t);
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "exchange");
    ls_trainer_at(t, LS_PHASE_EXCHANGE);
    LsStatus status = ls_exchange_run(&t->exchange, t->issued + 1, &mine);
    ls_trainer_at(t, LS_PHASE_COMPUTE);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

bool ls_trainer_scales_loss(const LsTrainer *t)
{
    return t->arenas.type == LS_F16 && t->config->train.loss_scale_growth > 0;
}

static LsStatus decide(LsTrainer *t)
{
    const LsConfig *config = t->config;
    const LsExchange *exchange = &t->exchange;
    return t->device->ops->decide_step(t->device,
        &(LsDecideStep){.lanes = exchange->lanes,
            .blocks = exchange->blocks,
            .ranks = exchange->ranks,
            .rank_words = exchange->rank_words,
            .words = exchange->words,
            .lane_index = exchange->lane_index,
            .block_index = exchange->block_index,
            .samples = (double)config->train.batch,
            .learning_rate = ls_schedule_rate(config, t->issued, t->total_steps),
            .clip_norm = (float)config->optimizer.clip_norm,
            .beta1 = (float)config->optimizer.beta1,
            .beta2 = (float)config->optimizer.beta2,
            .growth_interval = ls_trainer_scales_loss(t) ? (int32_t)config->train.loss_scale_growth : 0,
            .spike = (float)config->guard.spike,
            .window = (int32_t)config->guard.window,
            .check_words = t->check.active ? LS_CHECK_WORDS : 0,
            .first_check = ls_exchange_finding_word(exchange, t->check.owner, LS_CHECK_OWNER),
            .second_check = ls_exchange_finding_word(exchange, t->check.witness, LS_CHECK_WITNESS),
            .outcome = t->outcomes.device});
}

// The outcome's way to the host, which looks at it later.
static LsStatus send_outcome(LsTrainer *t)
{
    size_t slot = (size_t)(t->issued + 1) % LS_STEPS_IN_FLIGHT;
    LsOutcomes *outcomes = &t->outcomes;
    // The window is needed where steps are measured against it.
    bool window = t->config->guard.spike > 0;
    LS_TRY(t->device->ops->copy_out(t->device, &outcomes->host[slot], outcomes->device,
        window ? sizeof *outcomes->device : offsetof(LsStepOutcome, window)));
    return t->device->ops->marker_record(t->device, outcomes->arrived[slot]);
}

static LsStatus update(LsTrainer *t)
{
    const LsConfig *config = t->config;
    if (t->updates == 0)
        return LS_OK;
    return t->device->ops->optimizer_step(
        t->device, &(LsOptimizerStep){.count = t->updates,
                       .piece = t->update,
                       .kind = config->optimizer.kind,
                       .type = t->arenas.type,
                       .momentum = (float)config->optimizer.momentum,
                       .beta1 = (float)config->optimizer.beta1,
                       .beta2 = (float)config->optimizer.beta2,
                       .epsilon = (float)config->optimizer.epsilon,
                       .weight_decay = (float)config->optimizer.weight_decay,
                       .nesterov = config->optimizer.nesterov,
                       .statistics_rate = (float)config->model.batch_norm_momentum,
                       .average_rate = (float)(1 - config->optimizer.average),
                       .control = &t->outcomes.device->control});
}

LsStatus ls_trainer_gather(LsTrainer *t)
{
    double start = ls_clock_seconds();
    const LsArenas *arenas = &t->arenas;
    ls_trace_begin(t->trace, "gather");
    ls_trainer_at(t, LS_PHASE_EXCHANGE);
    LsStatus status =
        arenas->whole
            ? ls_comm_gather_shards(t->comm, &t->buckets, arenas->gradient[0], sizeof(float))
            : ls_comm_gather_begin(t->comm, &t->buckets, arenas->weights, ls_dtype_size(arenas->type));
    ls_trainer_at(t, LS_PHASE_COMPUTE);
    ls_trace_end(t->trace);
    t->times.comm += ls_clock_seconds() - start;
    return status;
}

static LsStatus decide_and_update(LsTrainer *t)
{
    bool whole = t->arenas.whole;
    LS_TRY(sum_squares(t));
    LS_TRY(exchange(t));
    LS_TRY(decide(t));
    LS_TRY(ls_trust_decide(t));
    LS_TRY(send_outcome(t));
    if (whole)
        LS_TRY(ls_trainer_gather(t));
    LS_TRY(ls_trainer_save_copied(t)); // what the optimizer overwrites
    ls_trace_begin(t->trace, "optimizer");
    LsStatus status = update(t);
    ls_trace_end(t->trace);
    LS_TRY(status);
    return whole ? LS_OK : ls_trainer_gather(t);
}

void ls_trainer_require(LsTrainer *t, LsStatus status)
{
    if (status == LS_OK)
        return;
    if (t->failed != LS_OK)
        ls_comm_abort(t->comm, t->failed, t->failure);
    ls_comm_abort(t->comm, status, ls_status_message());
}

void ls_trainer_step(LsTrainer *t)
{
    // A rank that fails in its lanes still takes part in everything and says so with its votes, so that no
    // rank waits for it and all end with its sentence.
    double start = 0;
    ls_pulse_step(t->options->pulse, t->issued + 1,
        t->state.cursor + (uint64_t)((t->issued - t->state.control.step) * t->config->train.batch),
        t->saved_step);
    ls_trainer_require(t, ls_pace_begin(t, &start));
    ls_trainer_require(t, ls_trainer_compute(t));
    ls_trainer_require(t, ls_pace_end(t, start));
    ls_trainer_require(t, finish_reduction(t));
    ls_trainer_require(t, decide_and_update(t));
    t->issued++;
    t->times.steps++;
}

LsStatus ls_trainer_read(LsTrainer *t, LsVotes *votes)
{
    size_t slot = (size_t)(t->state.control.step + 1) % LS_STEPS_IN_FLIGHT;
    ls_trace_begin(t->trace, "wait");
    ls_trainer_at(t, LS_PHASE_EXCHANGE);
    ls_trainer_require(
        t, ls_comm_wait_marker(t->comm, t->outcomes.arrived[slot], "the device to finish a step"));
    ls_trace_end(t->trace);
    const LsStepOutcome *outcome = &t->outcomes.host[slot];
    if (outcome->votes.error != LS_OK) {
        LS_TRY(ls_trainer_save_learn(t, outcome->votes.unsaved));
        if (t->failed != LS_OK)
            ls_status_adopt(t->failed, t->failure);
        return ls_comm_agree(t->comm, t->failed);
    }
    *votes = outcome->votes;
    t->check.differed = outcome->control.skip == LS_SKIP_WRONG;
    if (t->check.differed) // there was no step
        return LS_OK;
    t->state.control = outcome->control;
    if (t->config->guard.spike > 0) {
        t->state.window = outcome->window;
        t->scores[0] = outcome->loss_score;
        t->scores[1] = outcome->gradient_norm_score;
    }
    t->state.cursor += (uint64_t)t->config->train.batch;
    return LS_OK;
}
