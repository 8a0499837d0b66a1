// Steps of AdamW with clipping through the device's ops, as PyTorch's fixtures make them.
#ifndef LOCKSTEP_TESTS_TRAINING_H
#define LOCKSTEP_TESTS_TRAINING_H

#include "fixture.h"

typedef struct Training {
    Setup s;
    float *master, *moment1, *moment2, *words;
    LsStepOutcome *outcome;
    uint8_t *kind;
    uint32_t *lane_index, *block_index;
    size_t blocks;
} Training;

// Of the model that t->s holds, from the flat values `flat`.
static inline void begin_training(Training *t, const float *flat)
{
    LsDevice *device = t->s.device;
    const LsParameters *parameters = &t->s.model->parameters;
    t->blocks = parameters->blocks;
    size_t bytes = t->s.elements * sizeof(float);
    float *zeros = calloc(1, bytes);
    assert_non_null(zeros);
    t->master = upload(device, flat, bytes);
    t->moment1 = upload(device, zeros, bytes);
    t->moment2 = upload(device, zeros, bytes);
    // Votes, the loss sum, the block norms.
    t->words = upload(device, zeros, (LS_VOTE_WORDS + 1 + t->blocks) * sizeof(float));
    free(zeros);
    LsStepOutcome outcome = {.control.loss_scale = 1};
    t->outcome = upload(device, &outcome, sizeof outcome);
    uint8_t kind[64];
    uint32_t index[65];
    assert_true(t->blocks <= sizeof kind);
    ls_parameters_block_kinds(parameters, kind);
    for (uint32_t i = 0; i <= t->blocks; i++)
        index[i] = LS_VOTE_WORDS + i;
    t->kind = upload(device, kind, t->blocks);
    t->lane_index = upload(device, index, sizeof *index);
    t->block_index = upload(device, index + 1, t->blocks * sizeof *index);
}

static inline void end_training(Training *t)
{
    LsDevice *device = t->s.device;
    void *memory[] = {
        t->master, t->moment1, t->moment2, t->words, t->outcome, t->kind, t->lane_index, t->block_index};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        device->ops->release(device, memory[i]);
    tear_down(&t->s);
}

// `fixture` has the optimizer's options.
static inline void step(Training *t, const json_t *fixture)
{
    LsDevice *device = t->s.device;
    const LsModelOps *model = t->s.model->ops;
    const LsBatch *batch = &t->s.batch;
    float *loss_sum = t->words + LS_VOTE_WORDS;
    assert_ok(device->ops->zero(device, loss_sum, sizeof(float)));
    assert_ok(model->forward(t->s.model, t->s.weights, batch, true));
    assert_ok(model->loss(t->s.model, batch, 1.0f / (float)batch->rows, NULL, loss_sum, NULL));
    assert_ok(model->backward(t->s.model, t->s.weights, batch, t->s.gradients, false, NULL, NULL));
    LsSquaresPiece piece = {.n = t->s.elements, .x = t->s.gradients, .sums = loss_sum + 1};
    assert_ok(device->ops->block_squares(device, &(LsBlockSquares){.count = 1, .piece = &piece}));
    LsDecideStep decide = {
        .lanes = 1,
        .blocks = t->blocks,
        .ranks = 1,
        .rank_words = LS_VOTE_WORDS + 1 + t->blocks,
        .words = t->words,
        .lane_index = t->lane_index,
        .block_index = t->block_index,
        .samples = (double)batch->rows,
        .learning_rate = (float)number(fixture, "lr"),
        .clip_norm = (float)number(fixture, "clip_norm"),
        .beta1 = (float)number(fixture, "beta1"),
        .beta2 = (float)number(fixture, "beta2"),
        .outcome = t->outcome,
    };
    assert_ok(device->ops->decide_step(device, &decide));
    LsOptimizerPiece shard = {
        .n = t->s.elements,
        .master = t->master,
        .gradient = t->s.gradients,
        .moment1 = t->moment1,
        .moment2 = t->moment2,
        .weights = t->s.weights,
        .block_kind = t->kind,
    };
    LsOptimizerStep update = {
        .count = 1,
        .piece = &shard,
        .kind = LS_OPTIMIZER_ADAMW,
        .type = ls_device_compute_type(device),
        .beta1 = decide.beta1,
        .beta2 = decide.beta2,
        .epsilon = (float)number(fixture, "epsilon"),
        .weight_decay = (float)number(fixture, "weight_decay"),
        .control = &t->outcome->control,
    };
    assert_ok(device->ops->optimizer_step(device, &update));
}

#endif
