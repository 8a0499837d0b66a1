// PyTorch's numbers for the GPT.
#ifndef LOCKSTEP_TESTS_GPT_FIXTURE_H
#define LOCKSTEP_TESTS_GPT_FIXTURE_H

#include "fixture.h"

static inline json_t *read_fixture(void)
{
    json_t *fixture;
    assert_ok(ls_json_read(
        LOCKSTEP_SOURCE_DIR "/tests/models/gpt_fixtures.json", (size_t)1 << 24, LS_BAD_DATA, &fixture));
    return fixture;
}

static inline void configure(const json_t *fixture, LsConfig *config)
{
    ls_config_defaults(config);
    assert_ok(ls_config_set(config, "model.kind", "gpt", "fixture"));
    config->model.layers = (int64_t)number(fixture, "layers");
    config->model.heads = (int64_t)number(fixture, "heads");
    config->model.width = (int64_t)number(fixture, "width");
    config->model.context = (int64_t)number(fixture, "window");
}

// Numbers [set] of the second file (0: gradients, 1: trained weights) in the flat layout; freed by the
// caller.
static inline float *read_numbers(const LsParameters *parameters, size_t set)
{
    size_t elements = ls_parameters_elements(parameters);
    float *packed = malloc(elements * sizeof *packed);
    float *flat = calloc(parameters->blocks * LS_BLOCK, sizeof *flat);
    FILE *file = fopen(LOCKSTEP_SOURCE_DIR "/tests/models/gpt_fixtures.f32", "rb");
    assert_non_null(packed);
    assert_non_null(flat);
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(set * elements * sizeof *packed), SEEK_SET), 0);
    assert_int_equal(fread(packed, sizeof *packed, elements, file), elements);
    fclose(file);
    const float *from = packed;
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        memcpy(flat + p->offset, from, p->elements * sizeof *from);
        from += p->elements;
    }
    free(packed);
    return flat;
}

// The weights that the fixture starts from.
static inline float *read_weights(const json_t *fixture, const LsParameters *parameters)
{
    float *flat = flatten(field(fixture, "parameters"), "value", parameters);
    for (size_t i = 0; i < parameters->blocks * LS_BLOCK; i++)
        flat[i] /= (float)number(fixture, "unit");
    return flat;
}

static inline int32_t *read_tokens(const json_t *fixture, const char *key, size_t *count)
{
    float *values = read_floats(fixture, key, count);
    int32_t *tokens = malloc(*count * sizeof *tokens);
    assert_non_null(tokens);
    for (size_t i = 0; i < *count; i++)
        tokens[i] = (int32_t)values[i];
    free(values);
    return tokens;
}

static inline void set_up_batch(Setup *s, const json_t *fixture)
{
    size_t count;
    int32_t *tokens = read_tokens(fixture, "tokens", &count);
    s->inputs = upload(s->device, tokens, count * sizeof *tokens);
    free(tokens);
    tokens = read_tokens(fixture, "labels", &count);
    s->y = upload(s->device, tokens, count * sizeof *tokens);
    free(tokens);
    s->batch = (LsBatch){.rows = (size_t)number(fixture, "rows"), .inputs = s->inputs, .labels = s->y};
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
        .window = (size_t)number(fixture, "window"), .vocabulary = (size_t)number(fixture, "vocabulary")};
    assert_ok(
        ls_model_create(&s->config, &shape, device, (size_t)number(fixture, "rows") + spare, &s->model));
    s->elements = s->model->parameters.blocks * LS_BLOCK;
    float *flat = read_weights(fixture, &s->model->parameters);
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
