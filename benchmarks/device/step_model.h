// A model with all that a training step of it needs, on random data: what bench_step runs.
#ifndef LOCKSTEP_BENCH_STEP_MODEL_H
#define LOCKSTEP_BENCH_STEP_MODEL_H

#include "models/model.h"

typedef struct StepModel {
    const LsConfig *config; // lent, as is the device
    LsDevice *device;
    LsModel *model;
    LsBatch batch;
    size_t elements; // of the flat buffers
    void *inputs, *weights;
    int32_t *labels;
    uint64_t *positions;
    float *master, *gradients, *moment1, *moment2;
    float *words; // votes, the loss, and the sum of squares of each block: what a rank exchanges
    uint32_t *index;
    uint8_t *kind;
    LsStepOutcome *outcome;
} StepModel;

// The model that the configuration names, for one microbatch of it (train.batch / lanes / accumulation rows).
// Close it also after a failure.
LsStatus step_model_open(const LsConfig *config, const LsDataShape *shape, LsDevice *device, StepModel *out);
void step_model_close(StepModel *step);

// Forward, loss, backward, norms, decision and optimizer: a step of one lane with one microbatch on one rank.
LsStatus step_model_run(StepModel *step);

#endif
