// CUDA kernels of losses and activations, called directly with what ops on a device do not reach: rows of
// every length, labels that are no classes, numbers that are none, nothing at all.
#include "kernel_arrays.h"

#include <math.h>
#include <stdlib.h>

// ---- Losses ---------------------------------------------------------------------------------------------

enum { ROW_PLAIN, ROW_NO_LABEL, ROW_NEGATIVE_LABEL, ROW_NAN, ROW_MASKED, ROW_ALL_MASKED, ROW_KINDS };

// Row r by itself on the reference: its loss, and its gradient in `gradient`.
static double reference_row(
    LsStatus (*loss)(LsDevice *, const LsLossArgs *), LsLossArgs args, size_t r, float *gradient)
{
    float row_loss;
    size_t first = r * args.columns;
    args.rows = 1;
    args.outputs = (const char *)args.outputs + first * ls_dtype_size(args.type);
    float *outputs = allocate(args.columns * sizeof *outputs);
    bool masked = r % ROW_KINDS == ROW_MASKED; // the reference makes NaN of 0 × infinity
    for (size_t c = 0; c < args.columns; c++) {
        float x = ls_ref_load(args.outputs, args.type, c);
        outputs[c] = masked && isinf(x) ? -1e4f : x;
    }
    args.outputs = outputs; // in F32, so that the reference's gradient is not rounded
    args.type = LS_F32;
    args.labels = args.labels ? args.labels + r : NULL;
    args.targets = args.targets ? args.targets + first : NULL;
    args.gradient = gradient;
    args.row_loss = &row_loss;
    require_ref(loss(NULL, &args));
    free(outputs);
    return row_loss;
}

// How far the row's numbers reach from the largest, which bounds what its sums are made of.
static double row_range(const Array *outputs, size_t r, size_t columns)
{
    double largest = -INFINITY, least = INFINITY;
    for (size_t c = 0; c < columns; c++) {
        double x = host_number(outputs, r * columns + c);
        largest = fmax(largest, x);
        least = isinf(x) ? least : fmin(least, x);
    }
    return largest - least;
}

static void check_row(const Array *losses, const Array *gradient, size_t r, double loss, const float *wanted,
    size_t columns, double range)
{
    // A sum of `columns` terms in F32, and a dozen roundings more.
    double units = ((double)columns + 16) * 0x1p-24;
    expect_near("loss", result_number(losses, r), loss, units * (1 + range));
    for (size_t c = 0; c < columns; c++)
        expect_near("gradient", result_number(gradient, r * columns + c), wanted[c],
            units * (1 + range) + rounding(gradient->type, wanted[c]));
}

static void spoil_row(int kind, Array *outputs, Array *labels, size_t r, size_t columns)
{
    int32_t *label = (int32_t *)labels->host + r;
    *label = (int32_t)draw(columns);
    if (kind == ROW_NO_LABEL)
        *label = (int32_t)columns;
    if (kind == ROW_NEGATIVE_LABEL)
        *label = -1;
    if (kind == ROW_NAN)
        store(outputs->host, outputs->type, r * columns + draw(columns), NAN);
    for (size_t c = 0; c < columns; c++) // a masked class cannot be chosen; a whole register of them is
        if (kind == ROW_ALL_MASKED || (kind == ROW_MASKED && c != (size_t)*label && c % 64 < 40))
            store(outputs->host, outputs->type, r * columns + c, -INFINITY);
}

static void check_cross_entropy(LsDtype type, size_t columns, float smoothing, bool in_place)
{
    size_t rows = columns > 1000 ? ROW_KINDS : 3 * ROW_KINDS;
    Array *outputs = array_of(type, rows * columns), *labels = array_of(LS_I32, rows);
    Array *losses = array_of(LS_F32, rows), *gradient = in_place ? outputs : array_of(type, rows * columns);
    for (size_t r = 0; r < rows; r++)
        spoil_row((int)(r % ROW_KINDS) == ROW_MASKED && smoothing > 0 ? ROW_PLAIN : (int)(r % ROW_KINDS),
            outputs, labels, r, columns);
    send(outputs);
    send(labels);
    LsLossArgs args = {.rows = rows,
        .columns = columns,
        .outputs = outputs->device,
        .type = type,
        .labels = labels->device,
        .smoothing = smoothing,
        .gradient_scale = 0.5f,
        .row_loss = losses->device,
        .gradient = gradient->device};
    REQUIRE(ls_kernel_cross_entropy(0, &args));
    fetch(losses);
    fetch(gradient);
    args.outputs = outputs->host;
    args.labels = labels->host;
    float *wanted = allocate(columns * sizeof *wanted);
    for (size_t r = 0; r < rows; r++) {
        int32_t label = args.labels[r];
        double loss = NAN, range = row_range(outputs, r, columns);
        for (size_t c = 0; c < columns; c++)
            wanted[c] = NAN;
        if (label >= 0 && (size_t)label < columns)
            loss = reference_row(ls_ref_cross_entropy, args, r, wanted);
        check_row(losses, gradient, r, loss, wanted, columns, range);
    }
    free(wanted);
    release_arrays(NULL);
}

// Rows for some threads of a warp, for a warp, for a block, and longer than a block keeps in registers.
static void cross_entropy_of_any_row(void **unused)
{
    (void)unused;
    static const size_t columns[] = {1, 2, 9, 31, 64, 511, 512, 513, 1000, 4096, 4099, 6000};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        for (int variant = 0; variant < 2; variant++)
            check_cross_entropy(draw_type(), columns[i], variant ? 0.1f : 0.0f, draw(2));
}

static void check_column_loss(cudaError_t (*kernel)(cudaStream_t, const LsLossArgs *),
    LsStatus (*reference)(LsDevice *, const LsLossArgs *), size_t columns)
{
    size_t rows = 1 + draw(5);
    LsDtype type = draw_type();
    Array *outputs = array_of(type, rows * columns), *targets = array_of(LS_F32, rows * columns);
    Array *losses = array_of(LS_F32, rows), *gradient = draw(2) ? outputs : array_of(type, rows * columns);
    LsLossArgs args = {.rows = rows,
        .columns = columns,
        .outputs = outputs->device,
        .type = type,
        .targets = targets->device,
        .gradient_scale = 0.5f,
        .row_loss = losses->device,
        .gradient = gradient->device};
    REQUIRE(kernel(0, &args));
    fetch(losses);
    fetch(gradient);
    args.outputs = outputs->host;
    args.targets = targets->host;
    float *wanted = allocate(columns * sizeof *wanted);
    for (size_t r = 0; r < rows; r++) {
        double loss = reference_row(reference, args, r, wanted);
        check_row(losses, gradient, r, loss, wanted, columns, 64); // (x - t)² and x t below 64
    }
    free(wanted);
    release_arrays(NULL);
}

static void column_losses_of_any_row(void **unused)
{
    (void)unused;
    static const size_t columns[] = {1, 3, 8, 130, 2048, 2052, 4001};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        check_column_loss(ls_kernel_binary_cross_entropy, ls_ref_binary_cross_entropy, columns[i]);
        check_column_loss(ls_kernel_mean_squared_error, ls_ref_mean_squared_error, columns[i]);
    }
}

// ---- Activations ----------------------------------------------------------------------------------------

static double gelu(double x)
{
    return x / (1 + exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
}

static void check_bias_activation(LsActivation activation, size_t rows, size_t columns)
{
    LsDtype type = draw_type();
    Array *x = array_of(type, rows * columns), *y = draw(2) ? x : array_of(type, rows * columns);
    Array *pre = draw(2) ? array_of(type, rows * columns) : NULL;
    Array *bias = draw(4) ? array_of(draw_type(), columns) : NULL;
    LsBiasActivation args = {rows, columns, x->device, bias ? bias->device : NULL, bias ? bias->type : LS_F32,
        activation, pre ? pre->device : NULL, y->device, type};
    REQUIRE(ls_kernel_bias_activation(0, &args));
    fetch(y);
    for (size_t i = 0; i < rows * columns; i++) {
        float before = host_number(x, i) + (bias ? host_number(bias, i % columns) : 0.0f);
        if (pre)
            ls_ref_store(pre->host, type, i, before);
        double after = activation == LS_GELU   ? gelu(before)
                       : activation == LS_RELU ? fmax(before, 0)
                                               : before;
        // GELU in F32 is off by a few units of its input's size; the others are exact.
        double allowed = activation == LS_GELU ? 16 * 0x1p-24 * (1 + fabs(before)) : 0;
        expect_near(
            "activation", result_number(y, i), after, allowed + rounding(type, fabs(after) + allowed));
    }
    if (pre)
        expect_bits("value before the activation", pre);
    release_arrays(NULL);
}

static void bias_and_activation(void **unused)
{
    (void)unused;
    for (int repeat = 0; repeat < 8; repeat++)
        for (int activation = LS_IDENTITY; activation <= LS_GELU; activation++)
            check_bias_activation((LsActivation)activation, 1 + draw(40), 1 + draw(300));
    // Beyond what fills the GPU, a thread goes down several rows; and whole groups of columns.
    check_bias_activation(LS_RELU, elements_that_fill_gpu() / 8 + draw(1000), 16 * (1 + draw(2)));
    check_bias_activation(LS_GELU, elements_that_fill_gpu() / 8 + draw(1000), 1 + draw(20));
}

// ---- Numbers that are none ------------------------------------------------------------------------------

static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-40f, 3e38f, -3e38f,
    65504.0f, -65504.0f, 1.0f, -1.0f, 100.0f, -100.0f, 0x1p-24f};
enum { SPECIAL = sizeof special / sizeof *special };

// Every pair of them as saved value and gradient.
static void activations_of_special_numbers(void **unused)
{
    (void)unused;
    Array *saved = array_of(LS_F32, SPECIAL * SPECIAL), *dy = array_of(LS_F32, SPECIAL * SPECIAL);
    Array *dx = array_of(LS_F32, SPECIAL * SPECIAL), *y = array_of(LS_F32, SPECIAL * SPECIAL);
    for (size_t i = 0; i < SPECIAL * SPECIAL; i++) {
        ((float *)saved->host)[i] = special[i / SPECIAL];
        ((float *)dy->host)[i] = special[i % SPECIAL];
    }
    send(saved);
    send(dy);
    LsActivationBackward args = {saved->count, LS_RELU, saved->device, dy->device, dx->device, LS_F32};
    REQUIRE(ls_kernel_activation_backward(0, &args));
    LsActivationBackward on_host = {saved->count, LS_RELU, saved->host, dy->host, dx->host, LS_F32};
    require_ref(ls_ref_activation_backward(NULL, &on_host));
    expect_bits("gradient of ReLU", dx);
    args.activation = LS_GELU;
    REQUIRE(ls_kernel_activation_backward(0, &args));
    LsBiasActivation forward = {
        SPECIAL, SPECIAL, saved->device, NULL, LS_F32, LS_GELU, NULL, y->device, LS_F32};
    REQUIRE(ls_kernel_bias_activation(0, &forward));
    fetch(dx);
    fetch(y);
    for (size_t i = 0; i < saved->count; i++) {
        float x = host_number(saved, i), d = host_number(dy, i), got = result_number(dx, i);
        if (isnan(x) || isnan(d))
            assert_true(isnan(got));
        else if (x >= 100.0f)
            assert_true(got == d);
        else if (x <= -100.0f)
            assert_true(isinf(d) ? isnan(got) : got == 0.0f);
        float value = result_number(y, i);
        if (isnan(x) || x >= 100.0f || x == 0.0f)
            assert_true(isnan(x) ? isnan(value) : value == x);
        else if (x <= -100.0f)
            assert_true(value == 0.0f);
    }
}

// A buffer of no elements is done at once, wherever it is said to be.
static void nothing_to_do(void **unused)
{
    (void)unused;
    REQUIRE(ls_kernel_cast(0, &(LsCast){.to_type = LS_BF16}));
    REQUIRE(ls_kernel_cast(0, &(LsCast){.to_type = LS_F32}));
    REQUIRE(ls_kernel_normalize(0, &(LsNormalize){.columns = 3, .y_type = LS_F32}));
    REQUIRE(ls_kernel_activation_backward(0, &(LsActivationBackward){.n = 0}));
    REQUIRE(ls_kernel_dropout(0, &(LsDropout){.rows = 3}));
    REQUIRE(ls_kernel_add(0, &(LsAdd){.n = 0}));
    REQUIRE(ls_kernel_bias_activation(0, &(LsBiasActivation){.columns = 3}));
    REQUIRE(ls_kernel_bias_gradient(0, &(LsBiasGradient){.rows = 3}, NULL));
    REQUIRE(ls_kernel_cross_entropy(0, &(LsLossArgs){.columns = 3}));
    REQUIRE(ls_kernel_binary_cross_entropy(0, &(LsLossArgs){.columns = 3}));
    REQUIRE(ls_kernel_mean_squared_error(0, &(LsLossArgs){.columns = 3}));
    REQUIRE(ls_kernel_sum(0, &(LsSum){.accumulate = true}));
    REQUIRE(ls_kernel_block_squares(0, &(LsBlockSquares){.count = 0}));
    REQUIRE(ls_kernel_block_squares(0, &(LsBlockSquares){1, &(LsSquaresPiece){.n = 0}}));
    REQUIRE(ls_kernel_tree_add(0, &(LsTreeAdd){.count = 1}));
    REQUIRE(ls_kernel_optimizer_step(0, &(LsOptimizerStep){.count = 0}));
    REQUIRE(cudaDeviceSynchronize());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cross_entropy_of_any_row, release_arrays),
        cmocka_unit_test_teardown(column_losses_of_any_row, release_arrays),
        cmocka_unit_test_teardown(bias_and_activation, release_arrays),
        cmocka_unit_test_teardown(activations_of_special_numbers, release_arrays),
        cmocka_unit_test_teardown(nothing_to_do, release_arrays),
    };
    return RUN_ON_GPU(tests);
}
