// PyTorch's numbers for the MLP.
#ifndef LOCKSTEP_TESTS_MLP_FIXTURE_H
#define LOCKSTEP_TESTS_MLP_FIXTURE_H

#include "fixture.h"

static inline json_t *read_fixtures(void)
{
    json_t *fixtures;
    assert_ok(ls_json_read(
        LOCKSTEP_SOURCE_DIR "/tests/models/mlp_fixtures.json", (size_t)1 << 24, LS_BAD_DATA, &fixtures));
    return fixtures;
}

static inline void configure(const json_t *fixture, LsConfig *config)
{
    ls_config_defaults(config);
    const json_t *hidden = field(fixture, "hidden");
    config->model.hidden.count = json_array_size(hidden);
    for (size_t i = 0; i < json_array_size(hidden); i++)
        config->model.hidden.values[i] = json_integer_value(json_array_get(hidden, i));
    config->model.residual = json_is_true(field(fixture, "residual"));
    assert_ok(ls_config_set(config, "model.activation", text(fixture, "activation"), "fixture"));
    assert_ok(ls_config_set(config, "train.loss", text(fixture, "loss"), "fixture"));
    config->train.label_smoothing = number(fixture, "smoothing");
}

static inline void set_up_batch(Setup *s, const json_t *fixture)
{
    size_t count;
    float *x = read_floats(fixture, "x", &count);
    s->inputs = upload_rounded(s->device, x, count);
    free(x);
    float *y = read_floats(fixture, "y", &count);
    if (s->model->shape.classes)
        for (size_t r = 0; r < count; r++) {
            int32_t label = (int32_t)y[r];
            memcpy(&y[r], &label, sizeof label);
        }
    s->y = upload(s->device, y, count * sizeof *y);
    free(y);
    s->batch = (LsBatch){.rows = (size_t)number(fixture, "rows"), .inputs = s->inputs};
    if (s->model->shape.classes)
        s->batch.labels = s->y;
    else
        s->batch.targets = s->y;
    uint64_t positions[16];
    for (size_t r = 0; r < s->batch.rows; r++)
        positions[r] = ((uint64_t)1 << 33) + 17 * r; // beyond 32 bits, and not in a row
    s->positions = upload(s->device, positions, s->batch.rows * sizeof *positions);
    s->batch.positions = s->positions;
}

// `spare` rows more than the fixture has, since a batch may be smaller than what the model was made for.
static inline void set_up(
    Setup *s, LsDevice *device, const LsConfig *config, const json_t *fixture, size_t spare)
{
    *s = (Setup){.device = device, .config = *config};
    LsDataShape shape = {
        .features = (size_t)number(fixture, "features"),
        .outputs = (size_t)number(fixture, "outputs"),
        .classes = strcmp(text(fixture, "loss"), "cross_entropy") == 0,
    };
    assert_ok(
        ls_model_create(&s->config, &shape, device, (size_t)number(fixture, "rows") + spare, &s->model));
    s->elements = s->model->parameters.blocks * LS_BLOCK;
    float *flat = flatten(field(fixture, "parameters"), "value", &s->model->parameters);
    s->weights = upload_rounded(device, flat, s->elements);
    memset(flat, 0, s->elements * sizeof *flat);
    s->gradients = upload(device, flat, s->elements * sizeof *flat);
    s->loss_sum = upload(device, flat, sizeof *flat);
    free(flat);
    set_up_batch(s, fixture);
    void *row_loss;
    assert_ok(device->ops->allocate(device, s->batch.rows * sizeof(float), &row_loss));
    s->row_loss = row_loss;
}

#endif
