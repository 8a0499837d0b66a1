#include "train/schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

int64_t ls_schedule_steps(const LsConfig *config, size_t samples)
{
    int64_t steps = config->train.max_steps;
    if (config->train.max_epochs > 0) {
        double wanted = config->train.max_epochs * (double)samples;
        int64_t by_epochs = (int64_t)ceil(wanted / (double)config->train.batch);
        steps = steps == 0 || by_epochs < steps ? by_epochs : steps;
    }
    return steps;
}

// How far a decay from step `first` to step `last` has come, 0 … 1.
static double progress(int64_t step, int64_t first, int64_t last)
{
    if (step <= first)
        return 0;
    return step >= last ? 1 : (double)(step - first) / (double)(last - first);
}

// The factor on optimizer.lr behind the warm-up.
static double decay(const LsConfig *config, int64_t step, int64_t total)
{
    int64_t warmup = config->schedule.warmup_steps;
    double low = config->schedule.min_ratio;
    switch ((LsScheduleKind)config->schedule.kind) {
    case LS_SCHEDULE_CONSTANT:
        break;
    case LS_SCHEDULE_COSINE:
        return low + (1 - low) * 0.5 * (1 + cos(PI * progress(step, warmup, total)));
    case LS_SCHEDULE_LINEAR:
        return 1 - (1 - low) * progress(step, warmup, total);
    case LS_SCHEDULE_STEP:
        return config->schedule.step_every > 0
                   ? pow(config->schedule.step_factor, (double)(step / config->schedule.step_every))
                   : 1;
    case LS_SCHEDULE_WSD:
        return 1 - (1 - low) * progress(step, total - config->schedule.decay_steps, total);
    }
    return 1;
}

float ls_schedule_rate(const LsConfig *config, int64_t step, int64_t total)
{
    int64_t warmup = config->schedule.warmup_steps;
    if (step < warmup)
        return (float)(config->optimizer.lr * (double)(step + 1) / (double)warmup);
    return (float)(config->optimizer.lr * decay(config, step, total));
}
