// The MLP against PyTorch, on every device: outputs, losses and every gradient; and what backward promises
// about order and accumulation.
#include "coming_weights.h"
#include "mlp_fixture.h"

// FP32: sums of at most a dozen products with rounding errors of 2^-24, through at most four layers, forward
// and backward: about 1e-6; ten times that is still far below any mistake in a formula.
static const double TOLERANCE_FP32 = 1e-5;

// BF16 keeps 8 bits: each stored value has a relative error of at most 2^-8. From the inputs to the deepest
// gradient of `hidden` hidden layers it is stored 3 times a layer forward (product, value before the
// activation, residual sum) and 3 times backward (activation, product, residual sum), and once as the
// outputs' gradient. The errors add at worst linearly in the norm; 2 bounds their growth through weights of
// these fixtures, whose norms are at most about 2, as errors enter at every layer and seldom agree.
//
// FP16 keeps 11 bits, and these fixtures' gradients are far from its smallest numbers.
static double tolerance(int precision, size_t hidden)
{
    if (precision == LS_PRECISION_FP32)
        return TOLERANCE_FP32;
    return 2 * (1.0 + 6.0 * (double)hidden) / (precision == LS_PRECISION_BF16 ? 256 : 2048);
}

typedef void (*Check)(Setup *s, const json_t *fixture, double tolerance);

// Runs a check for every fixture on every device and precision.
static void for_all(Check check)
{
    json_t *fixtures = read_fixtures();
    for (int which = 0; which < DEVICES; which++)
        for (int precision = LS_PRECISION_FP32; precision <= LS_PRECISION_FP16; precision++) {
            LsDevice *device = open_device(which, precision);
            size_t i;
            json_t *fixture;
            json_array_foreach(field(fixtures, "cases"), i, fixture)
            {
                if (!device)
                    continue;
                LsConfig config;
                Setup s;
                configure(fixture, &config);
                set_up(&s, device, &config, fixture, 3);
                check(&s, fixture, tolerance(precision, config.model.hidden.count));
                tear_down(&s);
            }
            ls_device_close(device);
        }
    json_decref(fixtures);
}

static void check_array(
    Setup *s, const json_t *fixture, const char *key, const void *memory, double tolerance)
{
    size_t count;
    float *expected = read_floats(fixture, key, &count);
    float *actual = malloc(count * sizeof *actual);
    download(s->device, actual, memory, count * sizeof *actual);
    char what[128];
    snprintf(what, sizeof what, "%s of \"%s\" on %s", key, text(fixture, "name"), s->device->ops->name);
    assert_close(actual, expected, count, tolerance, what);
    free(actual);
    free(expected);
}

static void check_gradients(Setup *s, const json_t *fixture, double factor, double tolerance)
{
    const LsParameters *parameters = &s->model->parameters;
    float *expected = flatten(field(fixture, "parameters"), "gradient", parameters);
    float *actual = malloc(s->elements * sizeof *actual);
    download(s->device, actual, s->gradients, s->elements * sizeof *actual);
    for (size_t i = 0; i < s->elements; i++)
        expected[i] *= (float)factor;
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        char what[256];
        snprintf(what, sizeof what, "gradient of %s of \"%s\" on %s", p->name, text(fixture, "name"),
            s->device->ops->name);
        assert_close(actual + p->offset, expected + p->offset, p->elements, tolerance, what);
        for (size_t i = p->elements; i % LS_BLOCK != 0; i++)
            assert_true(actual[p->offset + i] == 0); // the padding was zero and stays so
    }
    free(actual);
    free(expected);
}

static void check_like_torch(Setup *s, const json_t *fixture, double tolerance)
{
    compute(s, true, false);
    check_array(s, fixture, "logits", s->model->ops->outputs(s->model), tolerance);
    check_array(s, fixture, "row_losses", s->row_loss, tolerance);
    check_gradients(s, fixture, 1, tolerance);
}

static void like_torch(void **state)
{
    (void)state;
    for_all(check_like_torch);
}

// A second pass adds its gradients and its loss to the first one's.
static void check_accumulation(Setup *s, const json_t *fixture, double tolerance)
{
    compute(s, true, false);
    compute(s, true, true);
    check_gradients(s, fixture, 2, tolerance);
    size_t count;
    float *losses = read_floats(fixture, "row_losses", &count), sum, expected = 0;
    for (size_t r = 0; r < count; r++)
        expected += 2 * losses[r];
    free(losses);
    download(s->device, &sum, s->loss_sum, sizeof sum);
    assert_close(&sum, &expected, 1, tolerance, "sum of losses");
}

static void accumulates(void **state)
{
    (void)state;
    for_all(check_accumulation);
}

// A scale of the loss scales every gradient; powers of two do so exactly, but where FP16 is at the end of its
// range.
static void check_loss_scale(Setup *s, const json_t *fixture, double tolerance)
{
    (void)fixture;
    size_t bytes = s->elements * sizeof(float);
    float scale = 1024, *plain = malloc(bytes), *scaled = malloc(bytes);
    float *device_scale = upload(s->device, &scale, sizeof scale);
    const LsModelOps *ops = s->model->ops;
    assert_ok(ops->forward(s->model, s->weights, &s->batch, false));
    assert_ok(ops->loss(s->model, &s->batch, 0.25f, NULL, NULL, NULL));
    assert_ok(ops->backward(s->model, s->weights, &s->batch, s->gradients, false, NULL, NULL));
    download(s->device, plain, s->gradients, bytes);
    assert_ok(ops->loss(s->model, &s->batch, 0.25f, device_scale, NULL, NULL));
    assert_ok(ops->backward(s->model, s->weights, &s->batch, s->gradients, false, NULL, NULL));
    download(s->device, scaled, s->gradients, bytes);
    for (size_t i = 0; i < s->elements; i++)
        plain[i] *= scale;
    if (ls_device_compute_type(s->device) == LS_F16)
        assert_close(scaled, plain, s->elements, tolerance, "scaled gradient");
    else
        assert_memory_equal(scaled, plain, bytes);
    s->device->ops->release(s->device, device_scale);
    free(scaled);
    free(plain);
}

static void loss_scale(void **state)
{
    (void)state;
    for_all(check_loss_scale);
}

// ---- Order of the gradients -----------------------------------------------------------------------------

typedef struct Ready {
    Setup *s;
    size_t calls, previous;
    float *seen; // gradients as they were when they were announced
    size_t fail_at;
} Ready;

static LsStatus on_ready(void *context, size_t first)
{
    Ready *ready = context;
    size_t bytes = (ready->previous - first) * sizeof(float);
    assert_true(first < ready->previous);
    download(ready->s->device, ready->seen + first, ready->s->gradients + first, bytes);
    ready->previous = first;
    if (++ready->calls == ready->fail_at)
        return LS_FAIL(LS_IO, "the test's failure");
    return LS_OK;
}

// Ranges run from the buffer's end to 0 without a gap, one for each layer, and are final when announced.
static void check_order(Setup *s, const json_t *fixture, double tolerance)
{
    (void)fixture;
    (void)tolerance;
    size_t bytes = s->elements * sizeof(float);
    float *final = malloc(bytes);
    Ready ready = {.s = s, .previous = s->elements, .seen = malloc(bytes)};
    const LsModelOps *ops = s->model->ops;
    assert_ok(ops->forward(s->model, s->weights, &s->batch, false));
    assert_ok(ops->loss(s->model, &s->batch, 1, NULL, NULL, NULL));
    assert_ok(ops->backward(s->model, s->weights, &s->batch, s->gradients, false, on_ready, &ready));
    assert_int_equal(ready.previous, 0);
    assert_int_equal(ready.calls, s->config.model.hidden.count + 1);
    download(s->device, final, s->gradients, bytes);
    assert_memory_equal(ready.seen, final, bytes);
    ready = (Ready){.s = s, .previous = s->elements, .seen = ready.seen, .fail_at = 1};
    assert_int_equal(
        ops->backward(s->model, s->weights, &s->batch, s->gradients, false, on_ready, &ready), LS_IO);
    assert_int_equal(ready.calls, 1);
    free(ready.seen);
    free(final);
}

static void order_of_gradients(void **state)
{
    (void)state;
    for_all(check_order);
}

// ---- Creation -------------------------------------------------------------------------------------------

static void check_coming(Setup *s, const json_t *fixture, double bound)
{
    (void)fixture;
    (void)bound;
    check_coming_weights(s, 1 + (int)s->config.model.hidden.count);
}

static void weights_may_come(void **state)
{
    (void)state;
    for_all(check_coming);
}

static void refuses_what_does_not_fit(void **state)
{
    (void)state;
    LsConfig config;
    LsModel *model;
    ls_config_defaults(&config);
    LsDataShape classes = {.features = 4, .outputs = 3, .classes = true};
    LsDataShape numbers = {.features = 4, .outputs = 1};
    config.train.loss = LS_LOSS_MSE;
    assert_int_equal(ls_model_create(&config, &classes, NULL, 8, &model), LS_CONFIG);
    config.train.loss = LS_LOSS_CROSS_ENTROPY;
    assert_int_equal(ls_model_create(&config, &numbers, NULL, 8, &model), LS_CONFIG);
    config.train.loss = LS_LOSS_AUTO;
    config.train.label_smoothing = 0.1;
    assert_int_equal(ls_model_create(&config, &numbers, NULL, 8, &model), LS_CONFIG);
    config.model.hidden = (LsIntList){.count = 2, .values = {INT64_MAX / 2, INT64_MAX / 2}};
    assert_int_equal(ls_model_create(&config, &classes, NULL, 8, &model), LS_CONFIG);
}

// Without a device, a model tells its size, and it is the size it has on a device.
static void dry_run(void **state)
{
    (void)state;
    LsConfig config;
    LsModel *dry, *real;
    ls_config_defaults(&config);
    config.model.hidden = (LsIntList){.count = 2, .values = {6, 5}};
    config.runtime.precision = LS_PRECISION_BF16;
    LsDataShape shape = {.features = 7, .outputs = 3, .classes = true};
    LsDevice *device = open_device(DEVICE_REF, LS_PRECISION_BF16);
    assert_ok(ls_model_create(&config, &shape, NULL, 8, &dry));
    assert_ok(ls_model_create(&config, &shape, device, 8, &real));
    assert_int_equal(dry->activation_bytes, real->activation_bytes);
    assert_int_equal(dry->loss_kind, LS_LOSS_CROSS_ENTROPY);
    assert_int_equal(dry->parameters.count, 6);
    assert_int_equal(ls_parameters_elements(&dry->parameters), 7 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3);
    // The first layer's input has no gradient: 2 products there, 3 elsewhere, 2 FLOP each multiply-add.
    assert_true(dry->flops_per_sample == 2.0 * (2 * 42 + 3 * 30 + 3 * 15));
    const LsParameter *weight = ls_parameters_find(&dry->parameters, "layers.1.weight");
    assert_non_null(weight);
    assert_int_equal(weight->shape[0], 5);
    assert_int_equal(weight->shape[1], 6);
    assert_true(weight->decay);
    assert_false(ls_parameters_find(&dry->parameters, "layers.1.bias")->decay);
    ls_model_destroy(real);
    ls_model_destroy(dry);
    ls_model_destroy(NULL);
    ls_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_torch),
        cmocka_unit_test(accumulates),
        cmocka_unit_test(loss_scale),
        cmocka_unit_test(order_of_gradients),
        cmocka_unit_test(weights_may_come),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(dry_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
