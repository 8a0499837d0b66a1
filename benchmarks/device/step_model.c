#include "step_model.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

enum { CHUNK = 1 << 20 }; // elements that are brought to the device at a time

static LsStatus upload(LsDevice *device, const void *host, size_t bytes, void *out)
{
    void *memory;
    LS_TRY(device->ops->allocate(device, bytes, &memory));
    *(void **)out = memory;
    LS_TRY(device->ops->copy_in(device, memory, host, bytes));
    return device->ops->synchronize(device);
}

static LsStatus zeroed(LsDevice *device, size_t bytes, void *out)
{
    void *memory;
    LS_TRY(device->ops->allocate(device, bytes, &memory));
    *(void **)out = memory;
    return device->ops->zero(device, memory, bytes);
}

// ---- Data -----------------------------------------------------------------------------------------------

// Tokens as they are in text, more or less: the chance of token v falls like 1 / v.
static LsStatus open_tokens(StepModel *step, size_t rows)
{
    const LsDataShape *shape = &step->model->shape;
    size_t count = rows * shape->window;
    LsRngKey key = ls_rng_key(1, LS_RNG_SPLIT);
    double logarithm = log((double)shape->vocabulary);
    int32_t *tokens;
    LS_TRY(ls_memory_allocate((count + 1) * sizeof *tokens, (void **)&tokens));
    for (size_t i = 0; i <= count; i++)
        tokens[i] = (int32_t)exp((double)ls_rng_uniform(key, 0, i) * logarithm) - 1;
    LsStatus status = upload(step->device, tokens, count * sizeof *tokens, &step->inputs);
    if (status == LS_OK)
        status = upload(step->device, tokens + 1, count * sizeof *tokens, &step->labels);
    free(tokens);
    return status;
}

static LsStatus open_features(StepModel *step, size_t rows)
{
    const LsDataShape *shape = &step->model->shape;
    LsDevice *device = step->device;
    LsDtype type = ls_device_compute_type(device);
    size_t count = rows * shape->features;
    float *values, *wide = NULL;
    int32_t *labels = NULL;
    LS_TRY(ls_memory_allocate(count * sizeof *values, (void **)&values));
    LsStatus status = ls_memory_allocate(rows * sizeof *labels, (void **)&labels);
    for (size_t i = 0; i < count && status == LS_OK; i++)
        values[i] = ls_rng_normal(ls_rng_key(1, LS_RNG_SPLIT), 0, i);
    for (size_t r = 0; r < rows && status == LS_OK; r++)
        labels[r] = (int32_t)(r % shape->outputs);
    if (status == LS_OK)
        status = upload(device, values, count * sizeof *values, &wide);
    if (status == LS_OK)
        status = upload(device, labels, rows * sizeof *labels, &step->labels);
    if (status == LS_OK)
        status = device->ops->allocate(device, count * ls_dtype_size(type), &step->inputs);
    const LsCast cast = {.n = count, .from = wide, .from_type = LS_F32, .to = step->inputs, .to_type = type};
    if (status == LS_OK)
        status = device->ops->cast(device, &cast);
    if (status == LS_OK)
        status = device->ops->synchronize(device);
    device->ops->release(device, wide);
    free(labels);
    free(values);
    return status;
}

static LsStatus open_batch(StepModel *step, size_t rows)
{
    uint64_t *positions;
    LS_TRY(step->model->shape.window ? open_tokens(step, rows) : open_features(step, rows));
    LS_TRY(ls_memory_allocate(rows * sizeof *positions, (void **)&positions));
    for (size_t r = 0; r < rows; r++)
        positions[r] = r;
    LsStatus status = upload(step->device, positions, rows * sizeof *positions, &step->positions);
    free(positions);
    step->batch =
        (LsBatch){.rows = rows, .inputs = step->inputs, .labels = step->labels, .positions = step->positions};
    return status;
}

// ---- Weights and optimizer ------------------------------------------------------------------------------

static LsStatus initialize(StepModel *step)
{
    LsDevice *device = step->device;
    float *values;
    LS_TRY(ls_memory_allocate(CHUNK * sizeof *values, (void **)&values));
    LsStatus status = LS_OK;
    for (size_t first = 0; first < step->elements && status == LS_OK; first += CHUNK) {
        size_t count = step->elements - first < CHUNK ? step->elements - first : CHUNK;
        ls_parameters_initialize(&step->model->parameters, 1, first, count, values);
        status = device->ops->copy_in(device, step->master + first, values, count * sizeof *values);
    }
    if (status == LS_OK)
        status = device->ops->synchronize(device);
    free(values);
    return status;
}

static LsStatus open_weights(StepModel *step)
{
    LsDevice *device = step->device;
    LsDtype type = ls_device_compute_type(device);
    size_t bytes = step->elements * sizeof(float);
    LS_TRY(device->ops->allocate(device, bytes, (void **)&step->master));
    LS_TRY(zeroed(device, bytes, &step->gradients));
    LS_TRY(zeroed(device, bytes, &step->moment1));
    LS_TRY(zeroed(device, bytes, &step->moment2));
    LS_TRY(initialize(step));
    if (type == LS_F32) {
        step->weights = step->master;
        return LS_OK;
    }
    LS_TRY(device->ops->allocate(device, step->elements * ls_dtype_size(type), &step->weights));
    const LsCast cast = {
        .n = step->elements, .from = step->master, .from_type = LS_F32, .to = step->weights, .to_type = type};
    LS_TRY(device->ops->cast(device, &cast));
    return device->ops->synchronize(device);
}

static LsStatus open_decision(StepModel *step)
{
    size_t blocks = step->model->parameters.blocks;
    const LsStepOutcome outcome = {.control.loss_scale = 1};
    LS_TRY(upload(step->device, &outcome, sizeof outcome, &step->outcome));
    LS_TRY(zeroed(step->device, (LS_VOTE_WORDS + 1 + blocks) * sizeof(float), &step->words));
    uint32_t *index;
    uint8_t *kind;
    LS_TRY(ls_memory_allocate((blocks + 1) * sizeof *index + blocks, (void **)&index));
    for (size_t i = 0; i <= blocks; i++)
        index[i] = (uint32_t)(LS_VOTE_WORDS + i);
    kind = (uint8_t *)(index + blocks + 1);
    ls_parameters_block_kinds(&step->model->parameters, kind);
    LsStatus status = upload(step->device, index, (blocks + 1) * sizeof *index, &step->index);
    if (status == LS_OK)
        status = upload(step->device, kind, blocks, &step->kind);
    free(index);
    return status;
}

LsStatus step_model_open(const LsConfig *config, const LsDataShape *shape, LsDevice *device, StepModel *out)
{
    size_t rows = (size_t)(config->train.batch / (config->train.lanes * config->train.accumulation));
    *out = (StepModel){.config = config, .device = device};
    LS_TRY(ls_model_create(config, shape, device, rows, &out->model));
    out->elements = out->model->parameters.blocks * LS_BLOCK;
    LS_TRY(open_batch(out, rows));
    LS_TRY(open_weights(out));
    return open_decision(out);
}

void step_model_close(StepModel *step)
{
    if (!step->device)
        return;
    void *const memory[] = {step->inputs, step->labels, step->positions, step->master, step->gradients,
        step->moment1, step->moment2, step->words, step->index, step->kind, step->outcome};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        step->device->ops->release(step->device, memory[i]);
    if (step->weights != step->master)
        step->device->ops->release(step->device, step->weights);
    ls_model_destroy(step->model);
    *step = (StepModel){0};
}

// ---- The step -------------------------------------------------------------------------------------------

static LsStatus decide(StepModel *step)
{
    const LsConfig *config = step->config;
    size_t blocks = step->model->parameters.blocks;
    const LsDecideStep args = {
        .lanes = 1,
        .blocks = blocks,
        .ranks = 1,
        .rank_words = LS_VOTE_WORDS + 1 + blocks,
        .words = step->words,
        .lane_index = step->index,
        .block_index = step->index + 1,
        .samples = (double)step->batch.rows,
        .learning_rate = (float)config->optimizer.lr,
        .clip_norm = (float)config->optimizer.clip_norm,
        .beta1 = (float)config->optimizer.beta1,
        .beta2 = (float)config->optimizer.beta2,
        .outcome = step->outcome,
    };
    return step->device->ops->decide_step(step->device, &args);
}

static LsStatus update(StepModel *step)
{
    const LsConfig *config = step->config;
    bool adam = config->optimizer.kind == LS_OPTIMIZER_ADAMW;
    const LsOptimizerPiece piece = {
        .n = step->elements,
        .master = step->master,
        .gradient = step->gradients,
        .moment1 = adam || config->optimizer.momentum > 0 ? step->moment1 : NULL,
        .moment2 = adam ? step->moment2 : NULL,
        .weights = step->weights == step->master ? NULL : step->weights,
        .block_kind = step->kind,
    };
    const LsOptimizerStep args = {
        .count = 1,
        .piece = &piece,
        .kind = config->optimizer.kind,
        .type = ls_device_compute_type(step->device),
        .momentum = (float)config->optimizer.momentum,
        .beta1 = (float)config->optimizer.beta1,
        .beta2 = (float)config->optimizer.beta2,
        .epsilon = (float)config->optimizer.epsilon,
        .weight_decay = (float)config->optimizer.weight_decay,
        .nesterov = config->optimizer.nesterov,
        .control = &step->outcome->control,
    };
    return step->device->ops->optimizer_step(step->device, &args);
}

LsStatus step_model_run(StepModel *step)
{
    const LsModelOps *model = step->model->ops;
    const LsDeviceOps *ops = step->device->ops;
    float *loss = step->words + LS_VOTE_WORDS;
    LS_TRY(ops->zero(step->device, loss, sizeof *loss));
    LS_TRY(model->forward(step->model, step->weights, &step->batch, true));
    LS_TRY(model->loss(step->model, &step->batch, 1.0f / (float)step->batch.rows,
        &step->outcome->control.loss_scale, loss, NULL));
    LS_TRY(model->backward(step->model, step->weights, &step->batch, step->gradients, false, NULL, NULL));
    const LsSquaresPiece piece = {.n = step->elements, .x = step->gradients, .sums = loss + 1};
    LS_TRY(ops->block_squares(step->device, &(LsBlockSquares){.count = 1, .piece = &piece}));
    LS_TRY(decide(step));
    return update(step);
}
