// Learning rate as a pure function of the step.
#ifndef LOCKSTEP_TRAIN_SCHEDULE_H
#define LOCKSTEP_TRAIN_SCHEDULE_H

#include "base/config.h"

// Steps of a run on `samples` training samples: the smaller of train.max_steps and train.max_epochs.
int64_t ls_schedule_steps(const LsConfig *config, size_t samples);

// The learning rate of `step` (0 is the first) in a run of `total` steps (0: without end; then only constant
// and step schedules are valid). Warm-up rises linearly to optimizer.lr over schedule.warmup_steps; then:
// constant; cosine or linear down to min_ratio × lr at `total`; step: × step_factor every step_every steps;
// wsd: constant, then linear to min_ratio × lr over the last decay_steps.
float ls_schedule_rate(const LsConfig *config, int64_t step, int64_t total);

#endif
