// Ten steps of AdamW with clipping through the device's ops against PyTorch: losses, norms, final weights.
#include "gpt_fixture.h"
#include "training.h"

// The gradient of what is added to all keys is zero but for rounding, and AdamW makes steps of the learning
// rate even of that; neither loss nor any other weight sees it.
static void forget_key_bias(const LsParameters *parameters, size_t width, float *flat)
{
    for (size_t t = 0; t < parameters->count; t++) {
        const LsParameter *p = &parameters->list[t];
        if (strstr(p->name, "qkv.bias"))
            memset(flat + p->offset + width, 0, width * sizeof *flat);
    }
}

static void check_trained(Training *t)
{
    const LsParameters *parameters = &t->s.model->parameters;
    size_t width = (size_t)t->s.config.model.width;
    float *actual = malloc(t->s.elements * sizeof *actual), *expected = read_numbers(parameters, 1);
    download(t->s.device, actual, t->master, t->s.elements * sizeof *actual);
    forget_key_bias(parameters, width, actual);
    forget_key_bias(parameters, width, expected);
    for (size_t i = 0; i < parameters->count; i++) {
        const LsParameter *p = &parameters->list[i];
        assert_close(actual + p->offset, expected + p->offset, p->elements, 1e-5, p->name);
        for (size_t e = p->elements; e < ls_round_up(p->reserved, LS_BLOCK); e++)
            assert_true(actual[p->offset + e] == 0);
    }
    free(expected);
    free(actual);
}

// Each step's rounding errors of about 1e-6 (FP32) add up over ten steps at most; AdamW divides by the root
// of the second moment, so elements with small gradients carry the relative error of theirs.
static void check_training(LsDevice *device, const json_t *fixture)
{
    const json_t *training = field(fixture, "training");
    LsConfig config;
    LsStepControl control;
    size_t steps, norms;
    float *losses = read_floats(training, "losses", &steps), *norm = read_floats(training, "norms", &norms);
    Training t = {0};
    configure(fixture, &config);
    set_up(&t.s, device, &config, fixture, 0);
    float *start = read_weights(fixture, &t.s.model->parameters);
    begin_training(&t, start);
    free(start);
    for (size_t i = 0; i < steps; i++) {
        step(&t, training);
        download(device, &control, &t.outcome->control, sizeof control);
        assert_int_equal(control.updates, i + 1);
        assert_close(&control.loss, &losses[i], 1, 1e-5, "loss");
        assert_close(&control.gradient_norm, &norm[i], 1, 1e-5, "norm of the gradient");
    }
    check_trained(&t);
    end_training(&t);
    free(norm);
    free(losses);
}

static void adamw_like_torch(void **state)
{
    (void)state;
    json_t *fixture = read_fixture();
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_FP32);
        if (device)
            check_training(device, fixture);
        ls_device_close(device);
    }
    json_decref(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adamw_like_torch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
