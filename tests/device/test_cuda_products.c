// Products of the cuda device: which algorithms are kept, and what the library and our kernels do of one.
#include "cuda/cuda_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Algorithms -----------------------------------------------------------------------------------------

static const Product deep = {.m = 24, .n = 16, .k = MOST, .type = LS_F32, .output = LS_F32};

static LsDevice *open_with(const char *name, const char *value)
{
    LsDevice *opened;
    setenv(name, value, 1);
    REQUIRE(open_cuda(LS_PRECISION_FP32, &opened));
    unsetenv(name);
    return opened;
}

static char *choices_of(LsDevice *on)
{
    char *text;
    REQUIRE(on->ops->choices(on, &text));
    return text;
}

static void a_shape_keeps_its_bits(void **unused)
{
    (void)unused;
    void *first = run_product(device, &deep);
    for (size_t n = 1; n < 100; n++) { // more kinds than the table starts with
        const Product other = {.m = 2, .n = n, .k = 3, .type = LS_F32, .output = LS_F32};
        free(run_product(device, &other));
    }
    for (int i = 0; i < 5; i++) {
        void *again = run_product(device, &deep);
        assert_true(same_bits(&deep, first, again));
        free(again);
    }
    char *text = choices_of(device), *line = text;
    size_t lines = 0;
    for (; (line = strchr(line, '\n')); line++)
        lines++;
    assert_true(lines >= 100);
    free(text);
    free(first);
}

// Rank 0 measures, the others take its choices, and so does who resumes.
static void what_was_measured_is_taken_over(void **unused)
{
    (void)unused;
    char *empty = choices_of(device);
    assert_string_equal(empty, "");
    free(empty);
    void *untuned = run_product(device, &deep);
    for (int fastest = 0; fastest < 4; fastest++) {
        char number[2] = {(char)('0' + fastest), 0};
        LsDevice *tuner = open_with("EMULATED_CUBLASLT_FASTEST", number), *taker;
        tuner->ops->tune(tuner, true);
        void *tuned = run_product(tuner, &deep);
        if (emulated) // where every algorithm has bits of its own
            assert_int_equal(same_bits(&deep, untuned, tuned), fastest == 0);
        tuner->ops->tune(tuner, false);
        void *kept = run_product(tuner, &deep);
        assert_true(same_bits(&deep, tuned, kept));
        char *text = choices_of(tuner), *same;
        REQUIRE(open_cuda(LS_PRECISION_FP32, &taker));
        free(run_product(taker, &deep)); // a choice comes before what the device chose
        REQUIRE(taker->ops->choose(taker, text));
        void *taken = run_product(taker, &deep);
        assert_true(same_bits(&deep, tuned, taken));
        same = choices_of(taker);
        assert_string_equal(text, same);
        free(text), free(same), free(tuned), free(kept), free(taken);
        ls_device_close(tuner);
        ls_device_close(taker);
    }
    free(untuned);
}

// What is measured runs many times and is added once.
static void measuring_adds_nothing(void **unused)
{
    (void)unused;
    Product sum = deep;
    sum.accumulate = true;
    void *untuned = run_product(device, &sum);
    LsDevice *tuner = open_with("EMULATED_CUBLASLT_FASTEST", "0");
    tuner->ops->tune(tuner, true);
    float *tuned = run_product(tuner, &sum);
    for (size_t i = 0; i < sum.m * sum.n;
         i++) // other algorithms round otherwise, 512 times 2^-24 of 512 at most
        assert_true(fabsf(tuned[i] - ((float *)untuned)[i]) <= 0.01f);
    free(untuned);
    free(tuned);
    ls_device_close(tuner);
}

static void texts_that_are_no_choices_are_told(void **unused)
{
    (void)unused;
    void *first = run_product(device, &deep);
    char *text = choices_of(device);
    char *digit = text + strlen(text) - 129; // a line ends with the 128 digits of an algorithm
    char kept = *digit;
    REQUIRE(device->ops->choose(device, ""));
    *digit = 'x';
    assert_int_equal(device->ops->choose(device, text), LS_BAD_DATA);
    *digit = kept;
    assert_int_equal(device->ops->choose(device, "nothing"), LS_BAD_DATA);
    char other[1200];
    snprintf(other, sizeof other, "cuBLASLt-0.1%s", text); // of another version
    digit[20] = digit[20] == '0' ? '7' : '0';
    REQUIRE(device->ops->choose(device, other));
    void *same = run_product(device, &deep);
    assert_true(same_bits(&deep, first, same));
    free(same);
    if (emulated) { // the stand-in knows that this is none of its algorithms, and another is taken
        memset(digit, '5', 16);
        REQUIRE(device->ops->choose(device, text));
        same = run_product(device, &deep);
        assert_true(same_bits(&deep, first, same));
        free(same);
    }
    free(text);
    free(first);
}

// ---- Epilogues ------------------------------------------------------------------------------------------

// Rows of 8, 12 and 16 elements have more of the library's epilogues than those of 6, 5 and 3 have.
static const size_t widths[] = {16, 12, 8, 6, 5, 3};
static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};

static void check_nan(LsDevice *on, size_t n, LsDtype type, LsDtype output, LsActivation activation, int mode)
{
    enum { M = 4, K = 8 };
    float a[M * K], one[K * 16];
    uint16_t half[2 * K * 16];
    fill(a, M * K, 1);
    a[K] = NAN; // all of c's second row
    for (size_t i = 0; i < K * n; i++)
        one[i] = 1;
    size_t bytes = M * n * ls_dtype_size(output), used = packed(half, a, M * K, type);
    void *left = on_device(on, half, used);
    used = packed(half, one, K * n, type);
    void *right = on_device(on, half, used);
    used = packed(half, one, M * n, output);
    void *saved = on_device(on, half, used); // where ReLU's derivative is 1
    void *c = on_device(on, NULL, bytes), *kept = on_device(on, NULL, bytes);
    LsMatmul args = {
        .m = M, .n = n, .k = K, .a = left, .b = right, .input_type = type, .c = c, .output_type = output};
    if (mode == 2) {
        args.backward = activation;
        args.saved = saved;
    } else {
        args.activation = activation;
        args.bias = right;
        args.pre_activation = mode == 1 ? kept : NULL;
    }
    REQUIRE(on->ops->matmul(on, &args));
    float result[2 * M * 16];
    read_back(on, result, c, bytes);
    for (size_t i = 0; i < M * n; i++)
        if ((isnan(number_at(result, output, i)) != 0) != (i / n == 1))
            fail_msg("%s, %s to %s, width %zu, mode %d: element %zu is %g",
                activation == LS_RELU ? "ReLU" : "GELU", ls_dtype_name(type), ls_dtype_name(output), n, mode,
                i, number_at(result, output, i));
    void *all[] = {left, right, saved, c, kept};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        on->ops->release(on, all[i]);
}

// NaN goes through every activation and derivative, whatever the library's do.
static void nan_goes_through(void **unused)
{
    (void)unused;
    static const char *const hides[] = {"0", "1", "2"};
    for (size_t h = 0; h < (emulated ? 3 : 1); h++) {
        LsDevice *on = open_with("EMULATED_CUBLASLT_HIDES_NAN", hides[h]);
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (size_t t = 0; t < 6; t++)
                for (int activation = LS_RELU; activation <= LS_GELU; activation++)
                    for (int mode = 0; mode < 3; mode++)
                        check_nan(on, widths[w], types[t % 3], t < 3 ? types[t % 3] : LS_F32,
                            (LsActivation)activation, mode);
        ls_device_close(on);
    }
}

// The two ways of computing a product agree: in bits for ReLU, whose argument is rounded to the same number;
// for GELU up to that rounding (2^-8 or 2^-11 of numbers below 8, slopes up to 1.13) and the result's.
static void library_and_kernels_agree(void **unused)
{
    (void)unused;
    if (!emulated)
        skip(); // the library cannot be told to refuse
    LsDevice *composed;
    setenv("EMULATED_CUBLASLT_ROUGH_GELU", "1", 1);
    composed = open_with("EMULATED_CUBLASLT_HIDES_NAN", "2");
    unsetenv("EMULATED_CUBLASLT_ROUGH_GELU");
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int variant = 0; variant < 24; variant++) {
            bool backward = variant % 4 == 3;
            LsActivation activation = variant / 4 % 2 ? LS_GELU : LS_RELU;
            Product p = {.m = 9,
                .n = widths[w],
                .k = 20,
                .type = types[variant / 8],
                .output = types[variant / 8],
                .bias = variant % 4 == 1,
                .keep = variant % 4 == 2,
                .activation = backward ? LS_IDENTITY : activation,
                .backward = backward ? activation : LS_IDENTITY};
            void *one = run_product(device, &p), *other = run_product(composed, &p);
            double unit = p.type == LS_F32 ? 0x1p-21 : p.type == LS_BF16 ? 0x1p-8 : 0x1p-11;
            for (size_t i = 0; i < p.m * p.n; i++) {
                double x = number_at(one, p.output, i), y = number_at(other, p.output, i);
                double allowed = activation == LS_RELU ? 0 : unit * (1.13 * 8 + fabs(x));
                if (!(fabs(x - y) <= allowed))
                    fail_msg("variant %d, width %zu: element %zu is %g and %g", variant, p.n, i, x, y);
            }
            free(one);
            free(other);
        }
    ls_device_close(composed);
}

// Which of the ways is taken is seen in the choices, so that neither is tested in vain.
static void every_route_is_taken(void **unused)
{
    (void)unused;
    if (!emulated)
        skip();
    Product p = {
        .m = 4, .n = 8, .k = 8, .type = LS_BF16, .output = LS_BF16, .bias = true, .activation = LS_RELU};
    static const char *const routes[] = {" fused:", " stored:", " wide:"};
    static const size_t n[] = {8, 6, 5};
    for (int r = 0; r < 3; r++) {
        LsDevice *on;
        REQUIRE(open_cuda(LS_PRECISION_BF16, &on));
        p.n = n[r];
        free(run_product(on, &p));
        char *text = choices_of(on);
        if (!strstr(text, routes[r]))
            fail_msg("%zu columns: %s is no%s", n[r], text, routes[r]);
        free(text);
        ls_device_close(on);
    }
}

static void empty_products_leave_bias_and_activation(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    float bias[3] = {-1, 2, 3}, c[6], sums[4] = {9, 9, 9, 9};
    float *b = on_device(device, bias, sizeof bias), *out = on_device(device, NULL, sizeof c);
    float *kept = on_device(device, NULL, sizeof c), *db = on_device(device, sums, sizeof sums);
    LsMatmul args = {.m = 2,
        .n = 3,
        .input_type = LS_F32,
        .c = out,
        .output_type = LS_F32,
        .bias = b,
        .activation = LS_RELU,
        .pre_activation = kept};
    REQUIRE(ops->matmul(device, &args));
    read_back(device, c, out, sizeof c);
    for (int i = 0; i < 6; i++)
        assert_true(c[i] == (bias[i % 3] < 0 ? 0 : bias[i % 3]));
    read_back(device, c, kept, sizeof c);
    for (int i = 0; i < 6; i++)
        assert_true(c[i] == bias[i % 3]);
    args = (LsMatmul){
        .m = 4, .input_type = LS_F32, .output_type = LS_F32, .transpose_a = true, .bias_gradient = db};
    REQUIRE(ops->matmul(device, &args)); // no columns, no depth: sums of nothing
    read_back(device, sums, db, sizeof sums);
    for (int i = 0; i < 4; i++)
        assert_true(sums[i] == 0);
    void *all[] = {b, out, kept, db};
    for (int i = 0; i < 4; i++)
        ops->release(device, all[i]);
}

// A bias gradient beside whatever else a product does is the separate op's, in the bits that the library's
// way and ours have in common: sums of whole numbers.
static void bias_gradients_come_with_any_product(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    enum { K = 6, M = 8, N = 8 };
    float a[K * M], sums[M], wanted[M];
    uint16_t half[2 * K * M];
    for (int i = 0; i < K * M; i++)
        a[i] = (float)(i * 5 % 11 - 5);
    for (int variant = 0; variant < 3 * 8; variant++) {
        LsDtype type = types[variant / 8];
        bool accumulate = variant % 8 == 1, bias = variant & 2, backward = variant % 8 == 4;
        size_t m = variant % 8 == 5 ? M - 1 : M; // which the stand-in's epilogue does not do
        void *left = on_device(device, half, packed(half, a, K * m, type));
        void *right = numbers_on_device(device, K * N, 2, type),
             *c = numbers_on_device(device, M * N, 3, type);
        void *saved = numbers_on_device(device, M * N, 4, type);
        for (size_t i = 0; i < M; i++)
            sums[i] = wanted[i] = accumulate ? (float)i : 0;
        for (size_t i = 0; i < K * m; i++)
            wanted[i % m] += a[i];
        float *db = on_device(device, sums, sizeof sums);
        const LsMatmul args = {.m = m,
            .n = N,
            .k = K,
            .transpose_a = true,
            .a = left,
            .b = right,
            .input_type = type,
            .c = c,
            .output_type = type,
            .accumulate = accumulate,
            .bias = bias ? right : NULL,
            .activation = bias ? LS_RELU : LS_IDENTITY,
            .backward = backward ? LS_GELU : LS_IDENTITY,
            .saved = saved,
            .bias_gradient = db};
        REQUIRE(ops->matmul(device, &args));
        read_back(device, sums, db, sizeof sums);
        assert_memory_equal(sums, wanted, sizeof sums);
        void *all[] = {left, right, c, saved, db};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            ops->release(device, all[i]);
    }
    char *text = choices_of(device);
    if (emulated)
        assert_non_null(strstr(text, ",bias0,act0,pre0,back0,db1 fused:"));
    assert_non_null(strstr(text, ",db1 stored:"));
    free(text);
}

int main(void)
{
    if (!find_cuda())
        return emulated ? 1 : SKIPPED;
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {
        TEST(a_shape_keeps_its_bits),
        TEST(what_was_measured_is_taken_over),
        TEST(measuring_adds_nothing),
        TEST(texts_that_are_no_choices_are_told),
        TEST(nan_goes_through),
        TEST(library_and_kernels_agree),
        TEST(every_route_is_taken),
        TEST(empty_products_leave_bias_and_activation),
        TEST(bias_gradients_come_with_any_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
