// Opening devices, what they say about themselves, and what they refuse.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"

static LsStatus open_device(int kind, int precision, LsDevice **out)
{
    LsDeviceOptions options = {.kind = kind, .precision = precision, .threads = 1};
    return ls_device_open(&options, out);
}

// A failure is one line that says what to do.
static void assert_advice(const char *part)
{
    assert_non_null(strstr(ls_status_message(), part));
    assert_null(strchr(ls_status_message(), '\n'));
}

static bool has_cuda(void)
{
    LsDevice *device;
    bool has = open_device(LS_DEVICE_CUDA, LS_PRECISION_AUTO, &device) == LS_OK;
    if (has)
        ls_device_close(device);
    return has;
}

static void auto_is_cuda_where_there_is_one(void **unused)
{
    (void)unused;
    LsDevice *device;
    bool cuda = has_cuda();
    if (open_device(LS_DEVICE_AUTO, LS_PRECISION_AUTO, &device) != LS_OK)
        skip();
    assert_string_equal(device->ops->name, cuda ? "cuda" : "cpu");
    assert_int_equal(device->discrete, cuda);
    LsDtype expected = device->precision == LS_PRECISION_BF16 ? LS_BF16 : LS_F32;
    assert_int_equal(ls_device_compute_type(device), expected);
    assert_true(device->precision == LS_PRECISION_BF16 || device->precision == LS_PRECISION_FP32);
    ls_device_close(device);
    ls_device_close(NULL);
}

static void hosts_have_every_precision(void **unused)
{
    (void)unused;
    static const LsDtype types[] = {
        [LS_PRECISION_FP32] = LS_F32, [LS_PRECISION_BF16] = LS_BF16, [LS_PRECISION_FP16] = LS_F16};
    static const char *const names[] = {
        [LS_PRECISION_FP32] = "fp32", [LS_PRECISION_BF16] = "bf16", [LS_PRECISION_FP16] = "fp16"};
    for (int precision = LS_PRECISION_FP32; precision <= LS_PRECISION_FP16; precision++) {
        LsDevice *devices[2] = {NULL, NULL};
        assert_int_equal(open_device(LS_DEVICE_REF, precision, &devices[0]), LS_OK);
        LsStatus cpu = open_device(LS_DEVICE_CPU, precision, &devices[1]);
        if (cpu != LS_OK) // without AVX2, or without AVX-512 in bf16
            printf("skipped: %s\n", ls_status_message());
        for (int d = 0; d < 1 + (cpu == LS_OK); d++) {
            char text[256];
            assert_int_equal(ls_device_compute_type(devices[d]), types[precision]);
            ls_device_fingerprint(devices[d], text, sizeof text);
            assert_non_null(strstr(text, names[precision]));
            ls_device_close(devices[d]);
        }
    }
}

static void what_is_missing_is_unavailable(void **unused)
{
    (void)unused;
    LsDevice *device = NULL;
    if (!has_cuda()) {
        assert_int_equal(open_device(LS_DEVICE_CUDA, LS_PRECISION_AUTO, &device), LS_UNAVAILABLE);
        assert_advice("set it to cpu or auto");
    }
    LsDeviceOptions none = {.kind = LS_DEVICE_REF, .threads = 0};
    assert_int_equal(ls_device_open(&none, &device), LS_CONFIG);
    assert_null(device);
}

static void fingerprints_differ_where_bits_do(void **unused)
{
    (void)unused;
    LsDevice *one, *other;
    char a[256], b[256];
    assert_int_equal(open_device(LS_DEVICE_REF, LS_PRECISION_AUTO, &one), LS_OK);
    assert_int_equal(one->precision, LS_PRECISION_FP32);
    ls_device_fingerprint(one, a, sizeof a);
    assert_non_null(strstr(a, "ref fp32"));
    assert_int_equal(open_device(LS_DEVICE_REF, LS_PRECISION_BF16, &other), LS_OK);
    ls_device_fingerprint(other, b, sizeof b);
    assert_string_not_equal(a, b);
    ls_device_close(other);
    if (open_device(LS_DEVICE_CPU, LS_PRECISION_FP32, &other) == LS_OK) {
        ls_device_fingerprint(other, b, sizeof b);
        assert_string_not_equal(a, b);
        assert_non_null(strstr(b, "oneDNN"));
        assert_non_null(strstr(b, "threads 1"));
        printf("%s\n", b);
        ls_device_close(other);
    }
    ls_device_close(one);
}

static void the_peak_is_measured(void **unused)
{
    (void)unused;
    LsDevice *device;
    double flops = 0;
    if (open_device(LS_DEVICE_CPU, LS_PRECISION_FP32, &device) != LS_OK)
        skip();
    assert_int_equal(ls_device_measure_peak(device, &flops), LS_OK);
    assert_true(isfinite(flops) && flops > 0);
    bool sheet = true;
    flops = 0;
    assert_int_equal(ls_device_peak(device, &flops, &sheet), LS_OK);
    assert_true(isfinite(flops) && flops > 0 && !sheet); // no table of processors
    ls_device_close(device);
}

static void impossible_arguments_are_refused(void **unused)
{
    (void)unused;
    static float x[LS_BLOCK];
    static const int32_t bad_label[2] = {0, 3};
    for (int kind = LS_DEVICE_CPU; kind <= LS_DEVICE_REF; kind += LS_DEVICE_REF - LS_DEVICE_CPU) {
        LsDevice *device;
        if (open_device(kind, LS_PRECISION_FP32, &device) != LS_OK)
            continue;
        const LsDeviceOps *ops = device->ops;
        LsMatmul bytes = {.m = 1, .n = 1, .k = 1, .a = x, .b = x, .c = x, .input_type = LS_U8};
        assert_int_equal(ops->matmul(device, &bytes), LS_UNSUPPORTED);
        assert_advice("uint8");
        LsMatmul narrow = {
            .m = 1, .n = 1, .k = 1, .a = x, .b = x, .c = x, .input_type = LS_F32, .output_type = LS_BF16};
        assert_int_equal(ops->matmul(device, &narrow), LS_UNSUPPORTED);
        LsMatmul fused = {.m = 1, .n = 1, .k = 1, .a = x, .b = x, .c = x, .accumulate = true, .bias = x};
        assert_int_equal(ops->matmul(device, &fused), LS_INTERNAL);
        LsMatmul both = fused;
        both.bias = NULL, both.backward = LS_RELU, both.saved = x;
        assert_int_equal(ops->matmul(device, &both), LS_INTERNAL);
        LsMatmul unsaved = {.m = 1, .n = 1, .k = 1, .a = x, .b = x, .c = x, .backward = LS_GELU};
        assert_int_equal(ops->matmul(device, &unsaved), LS_INTERNAL);
        LsMatmul rows = {.m = 1, .n = 1, .k = 1, .a = x, .b = x, .c = x, .bias_gradient = x};
        assert_int_equal(ops->matmul(device, &rows), LS_INTERNAL);
        assert_advice("transposed a");
        LsLossArgs loss = {.rows = 2, .columns = 3, .outputs = x, .labels = bad_label, .row_loss = x};
        assert_int_equal(ops->cross_entropy(device, &loss), LS_BAD_DATA);
        assert_advice("label 3");
        const LsOptimizerPiece pieces[] = {
            {.n = 0, .master = x, .gradient = x}, {.n = LS_BLOCK - 1, .master = x, .gradient = x}};
        assert_int_equal(
            ops->optimizer_step(device, &(LsOptimizerStep){.count = 2, .piece = pieces}), LS_INTERNAL);
        assert_advice("piece 1");
        const void *inputs[1] = {x};
        const uint16_t pairs[1][2] = {{0, 1}};
        LsTreeAdd tree = {.n = 1, .count = 1, .inputs = inputs, .adds = 1, .pairs = pairs, .output = x};
        assert_int_equal(ops->tree_add(device, &tree), LS_INTERNAL);
        ls_device_close(device);
    }
}

// NaN and infinity must reach the loss and the gradients, where the step is refused.
static void not_finite_goes_through(void **unused)
{
    (void)unused;
    for (int kind = LS_DEVICE_CPU; kind <= LS_DEVICE_REF; kind += LS_DEVICE_REF - LS_DEVICE_CPU) {
        LsDevice *device;
        if (open_device(kind, LS_PRECISION_FP32, &device) != LS_OK)
            continue;
        const LsDeviceOps *ops = device->ops;
        float a[20] = {0}, b[20], c[20], sums[1];
        const LsSquaresPiece piece = {.n = 20, .x = a, .sums = sums};
        const LsBlockSquares squares = {.count = 1, .piece = &piece};
        for (int i = 0; i < 20; i++)
            b[i] = 1;
        a[3] = NAN;
        for (int activation = LS_IDENTITY; activation <= LS_GELU; activation++) {
            LsMatmul product = {
                .m = 1, .n = 1, .k = 20, .a = a, .b = b, .c = c, .activation = (LsActivation)activation};
            assert_int_equal(ops->matmul(device, &product), LS_OK);
            assert_true(isnan(c[0]));
            LsActivationBackward backward = {
                .n = 20, .activation = (LsActivation)activation, .saved = b, .dy = a, .dx = c};
            assert_int_equal(ops->activation_backward(device, &backward), LS_OK);
            assert_true(isnan(c[3]));
        }
        const int32_t label = 0;
        float bad[] = {NAN, INFINITY};
        for (int i = 0; i < 2; i++) {
            a[3] = bad[i];
            LsLossArgs loss = {
                .rows = 1, .columns = 20, .outputs = a, .labels = &label, .row_loss = c, .gradient = NULL};
            assert_int_equal(ops->cross_entropy(device, &loss), LS_OK);
            assert_false(isfinite(c[0]));
            LsLossArgs targets = {.rows = 1, .columns = 20, .outputs = a, .targets = b, .row_loss = c};
            assert_int_equal(ops->mean_squared_error(device, &targets), LS_OK);
            assert_false(isfinite(c[0]));
            assert_int_equal(ops->block_squares(device, &squares), LS_OK);
            assert_false(isfinite(sums[0]));
        }
        a[3] = 3e19f; // its square is beyond float32
        assert_int_equal(ops->block_squares(device, &squares), LS_OK);
        assert_false(isfinite(sums[0]));
        ls_device_close(device);
    }
}

// On the host everything has happened when a call returns, and there is nothing to choose from.
static void host_devices_have_nothing_to_wait_for(void **unused)
{
    (void)unused;
    for (int kind = LS_DEVICE_CPU; kind <= LS_DEVICE_REF; kind += LS_DEVICE_REF - LS_DEVICE_CPU) {
        LsDevice *device;
        if (open_device(kind, LS_PRECISION_FP32, &device) != LS_OK)
            continue;
        const LsDeviceOps *ops = device->ops;
        LsMarker *marker;
        bool reached = false;
        char *choices, identity[8] = "x";
        assert_false(device->discrete);
        ls_device_identity(device, identity, sizeof identity);
        assert_string_equal(identity, "");
        assert_int_equal(ops->marker_create(device, &marker), LS_OK);
        ops->select_stream(device, LS_STREAM_COPY);
        assert_int_equal(ops->marker_record(device, marker), LS_OK);
        ops->select_stream(device, LS_STREAM_COMPUTE);
        assert_int_equal(ops->marker_wait(device, marker), LS_OK);
        assert_int_equal(ops->marker_reached(device, marker, &reached), LS_OK);
        assert_true(reached);
        assert_int_equal(ops->marker_synchronize(device, marker), LS_OK);
        ops->marker_destroy(device, marker);
        ops->marker_destroy(device, NULL);
        assert_null(ops->native_stream(device, LS_STREAM_COMPUTE));
        assert_null(ops->capture_begin);
        ops->tune(device, true);
        assert_int_equal(ops->choices(device, &choices), LS_OK);
        assert_string_equal(choices, "");
        assert_int_equal(ops->choose(device, choices), LS_OK);
        free(choices);
        // What a GPU chose may be in a checkpoint that goes on here.
        assert_int_equal(ops->choose(device, "1024x1024x1024/nt/bf16 66:3\nanother 7\n"), LS_OK);
        static const char *const bad[] = {"no newline", "word\n", "\n", " x\n", "x \n", "a\tb\n", "a b\n\n"};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
            assert_int_equal(ops->choose(device, bad[i]), LS_BAD_DATA);
        ls_device_close(device);
    }
}

// GELU of x through a product with 1, the value before it kept.
static void run_gelu(LsDevice *device, size_t n, const float *x, float *y)
{
    static float before[4096];
    const float one = 1;
    assert_true(n <= sizeof before / sizeof *before);
    LsMatmul product = {
        .m = n, .n = 1, .k = 1, .a = x, .b = &one, .c = y, .activation = LS_GELU, .pre_activation = before};
    assert_int_equal(device->ops->matmul(device, &product), LS_OK);
}

// The value is x s(2u) with the sigmoid s. Three roundings in 2u move s by a relative 3 |2u| u (1 - s); the
// exponential (2 ulp), sum, quotient and product add at most 6 u, u = 2^-24.
static void gelu_is_accurate(void **unused)
{
    (void)unused;
    enum { POINTS = 4096 };
    static float x[POINTS], y[POINTS];
    for (int i = 0; i < POINTS; i++)
        x[i] = (float)(i - POINTS / 2) / 256; // -8 to 8
    static const float extremes[] = {-3e38f, -1e20f, -100.0f, -20.0f, 100.0f, 1e20f, 3e38f};
    memcpy(x, extremes, sizeof extremes);
    for (int kind = LS_DEVICE_CPU; kind <= LS_DEVICE_REF; kind += LS_DEVICE_REF - LS_DEVICE_CPU) {
        LsDevice *device;
        if (open_device(kind, LS_PRECISION_FP32, &device) != LS_OK)
            continue;
        run_gelu(device, POINTS, x, y);
        for (int i = 0; i < POINTS; i++) {
            double v = x[i], twice = 2 * 0.79788456080286535588 * (v + 0.044715 * v * v * v);
            double gate = 1 / (1 + exp(-twice));
            double factor = 6 + (gate < 1 && gate > 0 ? 3 * fabs(twice) * (1 - gate) : 0);
            if (!(fabs(y[i] - v * gate) <= factor * 0x1p-24 * fabs(v * gate) + 0x1p-115))
                fail_msg("%s: gelu(%g) is %.9g, float64 says %.9g", device->ops->name, v, y[i], v * gate);
        }
        ls_device_close(device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_is_cuda_where_there_is_one),
        cmocka_unit_test(hosts_have_every_precision),
        cmocka_unit_test(what_is_missing_is_unavailable),
        cmocka_unit_test(fingerprints_differ_where_bits_do),
        cmocka_unit_test(the_peak_is_measured),
        cmocka_unit_test(impossible_arguments_are_refused),
        cmocka_unit_test(not_finite_goes_through),
        cmocka_unit_test(host_devices_have_nothing_to_wait_for),
        cmocka_unit_test(gelu_is_accurate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
