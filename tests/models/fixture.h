// What the models' tests have in common: devices, PyTorch's numbers, and a model on a device.
#ifndef LOCKSTEP_TESTS_FIXTURE_H
#define LOCKSTEP_TESTS_FIXTURE_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/memory.h"
#include "models/model.h"
#include "strict_device.h"

#define assert_ok(expression) assert_status((expression), #expression)

static inline void assert_status(LsStatus status, const char *expression)
{
    if (status != LS_OK)
        fail_msg("%s: %s", expression, ls_status_message());
}

// ---- Devices --------------------------------------------------------------------------------------------

enum { DEVICE_REF, DEVICE_CPU, DEVICE_STRICT, DEVICE_CUDA, DEVICES };

// Opens one of the devices; NULL where the machine lacks it or cannot compute in this precision.
static inline LsDevice *open_device(int which, int precision)
{
    static const int kinds[DEVICES] = {
        [DEVICE_REF] = LS_DEVICE_REF, [DEVICE_CPU] = LS_DEVICE_CPU, [DEVICE_CUDA] = LS_DEVICE_CUDA};
    LsDeviceOptions options = {.kind = kinds[which], .precision = precision, .threads = 1};
    LsDevice *device = NULL;
    LsStatus status = which == DEVICE_STRICT ? ls_strict_device_open(precision, &device)
                                             : ls_device_open(&options, &device);
    if (status == LS_UNAVAILABLE || status == LS_UNSUPPORTED)
        return NULL;
    assert_ok(status);
    return device;
}

static inline void *upload(LsDevice *device, const void *host, size_t bytes)
{
    void *memory;
    assert_ok(device->ops->allocate(device, bytes, &memory));
    assert_ok(device->ops->copy_in(device, memory, host, bytes));
    assert_ok(device->ops->synchronize(device));
    return memory;
}

static inline void download(LsDevice *device, void *host, const void *memory, size_t bytes)
{
    assert_ok(device->ops->copy_out(device, host, memory, bytes));
    assert_ok(device->ops->synchronize(device));
}

// Values in the device's compute type.
static inline void *upload_rounded(LsDevice *device, const float *values, size_t count)
{
    float *f32 = upload(device, values, count * sizeof *values);
    LsDtype type = ls_device_compute_type(device);
    if (type == LS_F32)
        return f32;
    void *out;
    assert_ok(device->ops->allocate(device, count * sizeof(uint16_t), &out));
    LsCast cast = {.n = count, .from = f32, .from_type = LS_F32, .to = out, .to_type = type};
    assert_ok(device->ops->cast(device, &cast));
    assert_ok(device->ops->synchronize(device));
    device->ops->release(device, f32);
    return out;
}

// ---- Fixtures -------------------------------------------------------------------------------------------

static inline const json_t *field(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        fail_msg("the fixture has no %s", key);
    return value;
}

static inline double number(const json_t *object, const char *key)
{
    return json_number_value(field(object, key));
}

static inline const char *text(const json_t *object, const char *key)
{
    return json_string_value(field(object, key));
}

// The array's numbers; freed by the caller.
static inline float *read_floats(const json_t *object, const char *key, size_t *count)
{
    const json_t *array = field(object, key);
    float *values = malloc((json_array_size(array) + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < json_array_size(array); i++)
        values[i] = (float)json_number_value(json_array_get(array, i));
    *count = json_array_size(array);
    return values;
}

// The fixture's tensors ("value" or "gradient") in the flat layout of the model, padding zero; freed by the
// caller. Fails unless the model has exactly these tensors.
static inline float *flatten(const json_t *list, const char *key, const LsParameters *parameters)
{
    float *flat = calloc(parameters->blocks * LS_BLOCK, sizeof *flat);
    assert_non_null(flat);
    assert_int_equal(json_array_size(list), parameters->count);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *tensor = json_array_get(list, i);
        const LsParameter *p = ls_parameters_find(parameters, text(tensor, "name"));
        assert_non_null(p);
        size_t count;
        float *values = read_floats(tensor, key, &count);
        assert_int_equal(count, p->elements);
        memcpy(flat + p->offset, values, count * sizeof *values);
        free(values);
    }
    return flat;
}

// ---- Models ---------------------------------------------------------------------------------------------

// A fixture's model, weights and batch on a device.
typedef struct Setup {
    LsDevice *device;
    LsConfig config;
    LsModel *model;
    size_t elements; // of the flat buffers
    void *weights;   // compute type
    float *gradients, *row_loss, *loss_sum;
    LsBatch batch;
    void *inputs, *y, *positions; // what the batch points to
} Setup;

static inline void tear_down(Setup *s)
{
    const LsDeviceOps *ops = s->device->ops;
    void *memory[] = {s->weights, s->gradients, s->row_loss, s->loss_sum, s->inputs, s->y, s->positions};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        ops->release(s->device, memory[i]);
    ls_model_destroy(s->model);
}

// Forward, loss and backward of the batch's mean loss.
static inline void compute(Setup *s, bool train, bool accumulate)
{
    const LsModelOps *ops = s->model->ops;
    assert_ok(ops->forward(s->model, s->weights, &s->batch, train));
    assert_ok(ops->loss(s->model, &s->batch, 1.0f / (float)s->batch.rows, NULL, s->loss_sum, s->row_loss));
    assert_ok(ops->backward(s->model, s->weights, &s->batch, s->gradients, accumulate, NULL, NULL));
}

// |a - b| / |b| in the Euclidean norm.
static inline double relative_error(const float *a, const float *b, size_t count)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

// `what` names the tensor in a failure. NaN fails too.
static inline void assert_close(
    const float *actual, const float *expected, size_t count, double tolerance, const char *what)
{
    double error = relative_error(actual, expected, count);
    if (!(error <= tolerance))
        fail_msg("%s differs by %.3g, allowed are %.3g", what, error, tolerance);
}

#endif
