// What options must be together.
#include <string.h>

#include "base/config.h"

static LsStatus validate_batch(const LsConfig *config)
{
    int64_t batch = config->train.batch, lanes = config->train.lanes;
    if ((lanes & (lanes - 1)) != 0) {
        int64_t below = 1;
        while (2 * below < lanes)
            below *= 2;
        return LS_FAIL(LS_CONFIG, "train.lanes is %lld, but must be a power of two: %lld or %lld",
            (long long)lanes, (long long)below, (long long)(2 * below));
    }
    int64_t unit = lanes * config->train.accumulation; // bounds keep it below 2^28
    if (batch % unit == 0)
        return LS_OK;
    int64_t below = batch / unit * unit;
    char nearest[64];
    if (below > 0)
        snprintf(nearest, sizeof nearest, "%lld or %lld", (long long)below, (long long)(below + unit));
    else
        snprintf(nearest, sizeof nearest, "%lld", (long long)unit);
    return LS_FAIL(LS_CONFIG,
        "train.batch is %lld, which train.lanes (%lld) × train.accumulation (%lld) = %lld does not divide; "
        "the nearest that fits is %s",
        (long long)batch, (long long)lanes, (long long)config->train.accumulation, (long long)unit, nearest);
}

static LsStatus validate_limits(const LsConfig *config)
{
    if (config->train.max_steps == 0 && config->train.max_epochs == 0)
        return LS_FAIL(LS_CONFIG, "the run has no end; set train.max_steps or train.max_epochs above 0");
    if (config->train.early_stopping > 0 && config->eval.every == 0)
        return LS_FAIL(LS_CONFIG, "train.early_stopping needs evaluations; set eval.every above 0");
    if (config->checkpoint.keep_best && config->eval.every == 0)
        return LS_FAIL(LS_CONFIG, "checkpoint.keep_best needs evaluations; set eval.every above 0");
    return LS_OK;
}

// Whether the schedule fits is known here when the run's end is given in steps; with epochs alone it depends
// on the data, and warm-up or decay then simply reach into what there is.
static LsStatus validate_schedule(const LsConfig *config)
{
    int64_t steps = config->train.max_steps, warmup = config->schedule.warmup_steps;
    bool decays = config->schedule.kind == LS_SCHEDULE_WSD;
    if (decays && config->schedule.decay_steps == 0)
        return LS_FAIL(LS_CONFIG, "schedule.kind is wsd, which needs schedule.decay_steps above 0");
    if (steps > 0 && warmup >= steps)
        return LS_FAIL(LS_CONFIG,
            "schedule.warmup_steps is %lld, but the run has only %lld steps (train.max_steps); make it "
            "shorter",
            (long long)warmup, (long long)steps);
    if (steps > 0 && decays && config->schedule.decay_steps > steps - warmup)
        return LS_FAIL(LS_CONFIG,
            "schedule.warmup_steps (%lld) and schedule.decay_steps (%lld) together are longer than the run "
            "of "
            "%lld steps (train.max_steps)",
            (long long)warmup, (long long)config->schedule.decay_steps, (long long)steps);
    return LS_OK;
}

// Then scaling rounds nothing, and halving it never leaves a fraction.
static LsStatus validate_loss_scale(const LsConfig *config)
{
    double scale = config->train.loss_scale, below = 1;
    while (2 * below <= scale)
        below *= 2;
    if (below < scale)
        return LS_FAIL(LS_CONFIG, "train.loss_scale is %g, but must be a power of two: %.0f or %.0f", scale,
            below, 2 * below);
    return LS_OK;
}

static LsStatus validate_training(const LsConfig *config)
{
    LS_TRY(validate_loss_scale(config));
    if (config->optimizer.nesterov && config->optimizer.kind == LS_OPTIMIZER_ADAMW)
        return LS_FAIL(
            LS_CONFIG, "optimizer.nesterov is a form of sgd's momentum; set optimizer.kind to sgd or lars");
    if (config->optimizer.nesterov && config->optimizer.momentum == 0)
        return LS_FAIL(LS_CONFIG, "optimizer.nesterov needs optimizer.momentum above 0");
    if (config->train.label_smoothing > 0 && config->train.loss != LS_LOSS_AUTO &&
        config->train.loss != LS_LOSS_CROSS_ENTROPY)
        return LS_FAIL(LS_CONFIG,
            "train.label_smoothing is a part of cross-entropy; set it to 0 or train.loss to cross_entropy");
    return LS_OK;
}

static LsStatus validate_model(const LsConfig *config)
{
    if (config->model.kind == LS_MODEL_GPT && config->model.width % config->model.heads != 0)
        return LS_FAIL(LS_CONFIG, "model.width is %lld, which model.heads (%lld) do not divide",
            (long long)config->model.width, (long long)config->model.heads);
    if (config->model.kind == LS_MODEL_GPT && config->train.label_smoothing > 0)
        return LS_FAIL(LS_CONFIG, "train.label_smoothing is not for tokens; set it to 0 for model.kind gpt");
    return LS_OK;
}

static LsStatus validate_stop(const LsConfig *config)
{
    const char *url = config->stop.notice_url;
    if (!*url || strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0)
        return LS_OK;
    return LS_FAIL(
        LS_CONFIG, "stop.notice_url is \"%s\", but must begin with http:// or https://, or be empty", url);
}

// A rollback goes to the same step whatever else was saved, and one lane's gradients are a sum of their own
// only in the exact reduction.
static LsStatus validate_guard(const LsConfig *config)
{
    bool goes_back = config->guard.action == LS_GUARD_ROLLBACK;
    if (goes_back && (config->checkpoint.every == 0 || config->checkpoint.policy != LS_SAVE_STEPS))
        return LS_FAIL(LS_CONFIG,
            "guard.action is rollback, which needs checkpoints at fixed steps; set checkpoint.every above 0 "
            "and checkpoint.policy to steps");
    if (config->guard.recompute_every > 0 && config->collectives.reduction != LS_REDUCTION_EXACT)
        return LS_FAIL(
            LS_CONFIG, "guard.recompute_every needs collectives.reduction exact; set it to 0 or that");
    return LS_OK;
}

// Gradients that are not kept are sent when a microbatch has made them.
static LsStatus validate_shard(const LsConfig *config)
{
    if (config->optimizer.shard != LS_SHARD_STATE_GRADIENTS)
        return LS_OK;
    if (config->train.accumulation > 1)
        return LS_FAIL(LS_CONFIG,
            "optimizer.shard is state+gradients, which keeps no gradients from one microbatch to the next; "
            "set "
            "train.accumulation to 1 and train.lanes to %lld",
            (long long)(config->train.accumulation * config->train.lanes));
    if (config->collectives.reduction != LS_REDUCTION_EXACT)
        return LS_FAIL(
            LS_CONFIG, "optimizer.shard state+gradients needs collectives.reduction exact; set it to that");
    if (config->guard.recompute_every > 0)
        return LS_FAIL(LS_CONFIG,
            "optimizer.shard state+gradients keeps no lane's gradients that guard.recompute_every could "
            "compare; set it to 0");
    return LS_OK;
}

// Libraries add what they add in their own way: MPI has no BF16 at all.
static LsStatus validate_wire(const LsConfig *config)
{
    if (config->collectives.wire != LS_WIRE_FP32 && config->collectives.reduction != LS_REDUCTION_EXACT)
        return LS_FAIL(LS_CONFIG, "collectives.wire bf16 needs collectives.reduction exact; set it to fp32, "
                                  "or the reduction to exact");
    return LS_OK;
}

LsStatus ls_config_validate(const LsConfig *config)
{
    LS_TRY(validate_model(config));
    LS_TRY(validate_batch(config));
    LS_TRY(validate_limits(config));
    LS_TRY(validate_schedule(config));
    LS_TRY(validate_stop(config));
    LS_TRY(validate_guard(config));
    LS_TRY(validate_shard(config));
    LS_TRY(validate_wire(config));
    return validate_training(config);
}
