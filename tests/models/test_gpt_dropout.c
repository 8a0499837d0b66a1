// Dropout of the GPT: masks follow the samples, and the gradient is that of the loss with these masks.
#include "gpt_fixture.h"

static void configure_dropout(const json_t *fixture, LsConfig *config)
{
    configure(fixture, config);
    config->model.dropout = 0.3;
}

static float training_loss(Setup *s)
{
    float loss;
    assert_ok(s->device->ops->zero(s->device, s->loss_sum, sizeof loss));
    compute(s, true, false);
    download(s->device, &loss, s->loss_sum, sizeof loss);
    return loss / (float)s->batch.rows;
}

static void set_position(Setup *s, size_t row, uint64_t position)
{
    assert_ok(s->device->ops->copy_in(s->device, (uint64_t *)s->positions + row, &position, sizeof position));
    assert_ok(s->device->ops->synchronize(s->device));
}

// Each window's mask is that of its own stream position, wherever it lies in a batch.
static void check_masks(LsDevice *device, const json_t *fixture)
{
    LsConfig config;
    Setup s;
    float first[16], second[16];
    configure_dropout(fixture, &config);
    set_up(&s, device, &config, fixture, 0);
    size_t bytes = s.batch.rows * sizeof *first;
    training_loss(&s);
    download(device, first, s.row_loss, bytes);
    training_loss(&s);
    download(device, second, s.row_loss, bytes);
    assert_memory_equal(first, second, bytes);
    set_position(&s, 1, 4711);
    training_loss(&s);
    download(device, second, s.row_loss, bytes);
    assert_memory_equal(first, second, sizeof *first);
    assert_true(first[1] != second[1]);
    assert_memory_equal(first + 2, second + 2, bytes - 2 * sizeof *first);
    tear_down(&s);
}

static void masks(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_FP32);
        if (device)
            check_masks(device, fixture);
        ls_device_close(device);
    }
    json_decref(fixture);
}

// Moves the elements [first, first + count) of the weights along their gradient by `distance`.
static float loss_at(
    Setup *s, const float *flat, const float *gradient, size_t first, size_t count, double distance)
{
    float *moved = malloc(s->elements * sizeof *moved);
    assert_non_null(moved);
    memcpy(moved, flat, s->elements * sizeof *moved);
    for (size_t i = first; i < first + count; i++)
        moved[i] += (float)(distance * gradient[i]);
    assert_ok(s->device->ops->copy_in(s->device, s->weights, moved, s->elements * sizeof *moved));
    assert_ok(s->device->ops->synchronize(s->device));
    free(moved);
    return training_loss(s);
}

// The slope of the loss along a tensor's gradient is that gradient's norm. The loss, about 4, is known within
// 4 · 2^-23, so at a distance of 0.02 to either side the slope has an error of 3e-5; the third derivative's
// share is about 0.02². A wrong mask anywhere changes the slope of what lies in front of it by some tenths.
static void check_slope(Setup *s, const float *flat, const float *gradient, const LsParameter *p)
{
    double square = 0, distance = 0.02;
    for (size_t i = p->offset; i < p->offset + p->elements; i++)
        square += (double)gradient[i] * gradient[i];
    double norm = sqrt(square);
    if (norm < 0.02) // too flat to be measured this way
        return;
    double above = loss_at(s, flat, gradient, p->offset, p->elements, distance / norm);
    double below = loss_at(s, flat, gradient, p->offset, p->elements, -distance / norm);
    double slope = (above - below) / (2 * distance);
    if (!(fabs(slope - norm) <= 0.01 * norm))
        fail_msg("%s: slope %g, norm of the gradient %g", p->name, slope, norm);
}

static void slopes(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    LsDevice *device = open_device(DEVICE_REF, LS_PRECISION_FP32);
    LsConfig config;
    Setup s;
    configure_dropout(fixture, &config);
    set_up(&s, device, &config, fixture, 0);
    float *flat = read_weights(fixture, &s.model->parameters);
    float *gradient = malloc(s.elements * sizeof *gradient);
    training_loss(&s);
    download(device, gradient, s.gradients, s.elements * sizeof *gradient);
    for (size_t t = 0; t < s.model->parameters.count; t++)
        check_slope(&s, flat, gradient, &s.model->parameters.list[t]);
    free(gradient);
    free(flat);
    tear_down(&s);
    ls_device_close(device);
    json_decref(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(masks), cmocka_unit_test(slopes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
