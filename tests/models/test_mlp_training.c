// Ten steps of AdamW with clipping through the device's ops against PyTorch: losses, norms, final weights.
#include "mlp_fixture.h"
#include "training.h"

// Each step's rounding errors of about 1e-6 (FP32) add up over ten steps at most; AdamW divides by the root
// of the second moment, so elements with small gradients carry the relative error of theirs.
static void check_training(LsDevice *device, const json_t *fixture)
{
    Training t;
    LsStepControl control;
    size_t steps, norms;
    float *losses = read_floats(fixture, "losses", &steps), *norm = read_floats(fixture, "norms", &norms);
    LsConfig config;
    configure(fixture, &config);
    t = (Training){0};
    set_up(&t.s, device, &config, fixture, 0);
    float *start = flatten(field(fixture, "parameters"), "value", &t.s.model->parameters);
    begin_training(&t, start);
    free(start);
    for (size_t i = 0; i < steps; i++) {
        step(&t, fixture);
        download(device, &control, &t.outcome->control, sizeof control);
        assert_int_equal(control.updates, i + 1);
        assert_close(&control.loss, &losses[i], 1, 1e-5, "loss");
        assert_close(&control.gradient_norm, &norm[i], 1, 1e-5, "norm of the gradient");
    }
    float *actual = malloc(t.s.elements * sizeof *actual);
    float *expected = flatten(field(fixture, "trained"), "value", &t.s.model->parameters);
    download(device, actual, t.master, t.s.elements * sizeof *actual);
    assert_close(actual, expected, t.s.elements, 1e-5, "trained weights");
    free(expected);
    free(actual);
    end_training(&t);
    free(norm);
    free(losses);
}

static void adamw_like_torch(void **state)
{
    (void)state;
    json_t *fixtures = read_fixtures();
    for (int which = 0; which < DEVICES; which++) {
        LsDevice *device = open_device(which, LS_PRECISION_FP32);
        if (!device)
            continue;
        check_training(device, field(fixtures, "training"));
        ls_device_close(device);
    }
    json_decref(fixtures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adamw_like_torch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
