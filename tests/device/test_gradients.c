// Gradients of the ops of MLPs and language models against finite differences.
#include "finite_differences.h"

#include <stdio.h>

enum { ROWS = 7, INNER = 19, COLUMNS = 11 };

// ---- One layer: sum of weights × activation(x w^T + bias) -----------------------------------------------

// x [ROWS][INNER], w [COLUMNS][INNER], bias [COLUMNS], one after the other; dy [ROWS][COLUMNS].
enum { X = 0, W = ROWS * INNER, BIAS = W + COLUMNS * INNER, LAYER = BIAS + COLUMNS };
static float layer_inputs[LAYER], layer_dy[ROWS * COLUMNS];
static LsActivation layer_activation;

static double activate(double x)
{
    if (layer_activation == LS_RELU)
        return x > 0 ? x : 0;
    if (layer_activation == LS_GELU)
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    return x;
}

static double layer_value(const double *v)
{
    double total = 0;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLUMNS; c++) {
            double sum = v[BIAS + c];
            for (size_t p = 0; p < INNER; p++)
                sum += v[X + r * INNER + p] * v[W + c * INNER + p];
            total += activate(sum) * layer_dy[r * COLUMNS + c];
        }
    return total;
}

// The value before GELU, or ReLU's output, to `saved`.
static void run_forward(LsDevice *device, float *inputs, float *output, float *saved)
{
    LsMatmul forward = {.m = ROWS,
        .n = COLUMNS,
        .k = INNER,
        .transpose_b = true,
        .a = inputs + X,
        .b = inputs + W,
        .input_type = LS_F32,
        .c = output,
        .output_type = LS_F32,
        .bias = inputs + BIAS,
        .activation = layer_activation,
        .pre_activation = layer_activation == LS_GELU ? saved : NULL};
    assert_int_equal(device->ops->matmul(device, &forward), LS_OK);
    if (layer_activation != LS_GELU)
        assert_int_equal(device->ops->copy(device, saved, output, ROWS * COLUMNS * sizeof *saved), LS_OK);
}

// Gradients of inputs, weights and bias from `dy`, in the layout of the inputs.
static void run_backward(LsDevice *device, float *inputs, float *saved, float *dy, float *gradient)
{
    LsActivationBackward activation = {.n = ROWS * COLUMNS,
        .activation = layer_activation,
        .saved = saved,
        .dy = dy,
        .dx = dy,
        .type = LS_F32};
    LsMatmul dx = {.m = ROWS,
        .n = INNER,
        .k = COLUMNS,
        .a = dy,
        .b = inputs + W,
        .input_type = LS_F32,
        .c = gradient + X,
        .output_type = LS_F32};
    LsMatmul dw = {.m = COLUMNS,
        .n = INNER,
        .k = ROWS,
        .transpose_a = true,
        .a = dy,
        .b = inputs + X,
        .input_type = LS_F32,
        .c = gradient + W,
        .output_type = LS_F32};
    LsBiasGradient db = {.rows = ROWS, .columns = COLUMNS, .dy = dy, .type = LS_F32, .db = gradient + BIAS};
    assert_int_equal(device->ops->activation_backward(device, &activation), LS_OK);
    assert_int_equal(device->ops->matmul(device, &dx), LS_OK);
    assert_int_equal(device->ops->matmul(device, &dw), LS_OK);
    assert_int_equal(device->ops->bias_gradient(device, &db), LS_OK);
}

static void check_layer(LsDevice *device)
{
    float *inputs = allocate(device, LAYER), *output = allocate(device, ROWS * COLUMNS);
    float *saved = allocate(device, ROWS * COLUMNS), *dy = allocate(device, ROWS * COLUMNS);
    float *gradient = allocate(device, LAYER), host[LAYER];
    copy_in(device, inputs, layer_inputs, sizeof layer_inputs);
    copy_in(device, dy, layer_dy, sizeof layer_dy);
    run_forward(device, inputs, output, saved);
    run_backward(device, inputs, saved, dy, gradient);
    copy_out(device, host, gradient, sizeof host);
    // Sums of at most 19 products, after an activation: within 1e-5 of their size, a hundred roundings.
    check_gradient(layer_value, layer_inputs, LAYER, 0, LAYER, host, 1e-5, device->ops->name);
    float *const all[] = {inputs, output, saved, dy, gradient};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
}

static void layers(void **unused)
{
    (void)unused;
    random_numbers(layer_inputs, LAYER, 1);
    random_numbers(layer_dy, ROWS * COLUMNS, 2);
    for (int activation = LS_IDENTITY; activation <= LS_GELU; activation++)
        for (int d = 0; d < device_count; d++) {
            layer_activation = (LsActivation)activation;
            check_layer(devices[d]);
        }
}

// ---- Losses ---------------------------------------------------------------------------------------------

typedef enum Loss { CROSS_ENTROPY, BINARY_CROSS_ENTROPY, SQUARED_ERROR, LOSSES } Loss;
static const int32_t labels[ROWS] = {0, 10, 3, 3, 7, 1, 5};
static float targets[ROWS * COLUMNS];
static double smoothing;
static Loss loss_kind;

static double cross_entropy_row(const double *x, int32_t label)
{
    double exponentials = 0, loss = 0;
    for (size_t c = 0; c < COLUMNS; c++)
        exponentials += exp(x[c]);
    for (size_t c = 0; c < COLUMNS; c++) {
        double wanted = smoothing / COLUMNS + ((size_t)label == c ? 1 - smoothing : 0);
        loss -= wanted * (x[c] - log(exponentials));
    }
    return loss;
}

static double loss_value(const double *x)
{
    double total = 0;
    for (size_t r = 0; r < ROWS; r++) {
        if (loss_kind == CROSS_ENTROPY)
            total += cross_entropy_row(x + r * COLUMNS, labels[r]);
        for (size_t c = 0; c < COLUMNS && loss_kind != CROSS_ENTROPY; c++) {
            double v = x[r * COLUMNS + c], t = targets[r * COLUMNS + c];
            double loss = loss_kind == SQUARED_ERROR
                              ? (v - t) * (v - t)
                              : -t * log(1 / (1 + exp(-v))) - (1 - t) * log(1 - 1 / (1 + exp(-v)));
            total += loss / COLUMNS;
        }
    }
    return total;
}

static LsStatus call_loss(LsDevice *device, const LsLossArgs *args)
{
    LsStatus (*const calls[LOSSES])(LsDevice *, const LsLossArgs *) = {
        device->ops->cross_entropy, device->ops->binary_cross_entropy, device->ops->mean_squared_error};
    return calls[loss_kind](device, args);
}

static void check_loss(LsDevice *device, const float *outputs)
{
    float *x = allocate(device, ROWS * COLUMNS), *t = allocate(device, ROWS * COLUMNS);
    float *gradient = allocate(device, ROWS * COLUMNS), *losses = allocate(device, ROWS);
    float *scale = allocate(device, 1), host[ROWS * COLUMNS], row_loss[ROWS], eight = 8;
    copy_in(device, x, outputs, sizeof host);
    copy_in(device, scale, &eight, sizeof eight);
    if (loss_kind == CROSS_ENTROPY)
        copy_in(device, t, labels, sizeof labels);
    else
        copy_in(device, t, targets, sizeof targets);
    LsLossArgs args = {.rows = ROWS,
        .columns = COLUMNS,
        .outputs = x,
        .type = LS_F32,
        .labels = loss_kind == CROSS_ENTROPY ? (const int32_t *)t : NULL,
        .targets = loss_kind == CROSS_ENTROPY ? NULL : t,
        .smoothing = (float)smoothing,
        .gradient_scale = 0.125f,
        .loss_scale = scale,
        .row_loss = losses,
        .gradient = gradient};
    assert_int_equal(call_loss(device, &args), LS_OK);
    copy_out(device, host, gradient, sizeof host);
    copy_out(device, row_loss, losses, sizeof row_loss);
    double total = 0, wide[ROWS * COLUMNS];
    for (size_t r = 0; r < ROWS; r++)
        total += row_loss[r];
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        wide[i] = outputs[i];
    // The float32 smoothing is off by up to 2^-24, a row's loss by about ten roundings.
    assert_true(fabs(total - loss_value(wide)) < 1e-5 * ROWS);
    check_gradient(loss_value, outputs, ROWS * COLUMNS, 0, ROWS * COLUMNS, host, 1e-6, device->ops->name);
    float *const all[] = {x, t, gradient, losses, scale};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
}

static void losses(void **unused)
{
    (void)unused;
    float outputs[ROWS * COLUMNS];
    random_numbers(outputs, ROWS * COLUMNS, 3);
    LsRngKey key = ls_rng_key(5, 4);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        targets[i] = ls_rng_uniform(key, 0, i);
    for (int kind = 0; kind < LOSSES; kind++)
        for (int d = 0; d < device_count; d++) {
            loss_kind = (Loss)kind;
            for (smoothing = 0; smoothing < 0.3; smoothing += kind == CROSS_ENTROPY ? 0.2 : 1)
                check_loss(devices[d], outputs);
        }
}

// ---- Dropout --------------------------------------------------------------------------------------------

static float drop_weights[ROWS * COLUMNS], drop_mask[ROWS * COLUMNS];

static double dropped_value(const double *x)
{
    double total = 0;
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        total += x[i] * drop_mask[i] / (1 - 0.3) * drop_weights[i];
    return total;
}

static void run_dropout(LsDevice *device, float *x, const uint64_t *positions)
{
    LsDropout args = {.rows = ROWS,
        .columns = COLUMNS,
        .x = x,
        .y = x,
        .type = LS_F32,
        .rate = 0.3,
        .seed = 9,
        .purpose = LS_RNG_DROPOUT,
        .positions = positions};
    assert_int_equal(device->ops->dropout(device, &args), LS_OK);
}

// The backward pass is the forward op on the gradient: the same mask and factor.
static void dropout(void **unused)
{
    (void)unused;
    const uint64_t positions[ROWS] = {4, 0, 1ull << 40, 5, 6, 7, 8};
    float x[ROWS * COLUMNS], host[ROWS * COLUMNS];
    random_numbers(x, ROWS * COLUMNS, 6);
    random_numbers(drop_weights, ROWS * COLUMNS, 7);
    for (int d = 0; d < device_count; d++) {
        LsDevice *device = devices[d];
        float *values = allocate(device, ROWS * COLUMNS), *at = allocate(device, 2 * ROWS);
        copy_in(device, at, positions, sizeof positions);
        copy_in(device, values, x, sizeof x);
        run_dropout(device, values, (const uint64_t *)at);
        copy_out(device, host, values, sizeof host);
        size_t kept = 0;
        for (size_t i = 0; i < ROWS * COLUMNS; i++) {
            drop_mask[i] = host[i] != 0;
            kept += host[i] != 0;
        }
        assert_in_range(kept, ROWS * COLUMNS / 2, ROWS * COLUMNS - 5); // expected: 54 of 77, deviation 4
        copy_in(device, values, drop_weights, sizeof drop_weights);
        run_dropout(device, values, (const uint64_t *)at);
        copy_out(device, host, values, sizeof host);
        check_gradient(dropped_value, x, ROWS * COLUMNS, 0, ROWS * COLUMNS, host, 1e-6, device->ops->name);
        device->ops->release(device, values);
        device->ops->release(device, at);
    }
}

// ---- Layer normalisation: sum of weights × layer_norm(x + branch) + residual's weights × (x + branch)
// ------

// x [ROWS][INNER], weight [INNER], bias [INNER]; the branch is a constant.
enum { NORM = ROWS * INNER, NORM_WEIGHT = NORM, NORM_BIAS = NORM + INNER, NORM_INPUTS = NORM + 2 * INNER };
static float norm_inputs[NORM_INPUTS], norm_branch[NORM], norm_dy[NORM], norm_residual[NORM];

static double norm_value(const double *v)
{
    double total = 0;
    for (size_t r = 0; r < ROWS; r++) {
        double mean = 0, variance = 0, sum[INNER];
        for (size_t c = 0; c < INNER; c++) {
            // The gradient is taken where the device rounded the sum to, as a function of x.
            double rounding = (double)(norm_inputs[r * INNER + c] + norm_branch[r * INNER + c]) -
                              (double)norm_inputs[r * INNER + c];
            sum[c] = v[r * INNER + c] + rounding;
            mean += sum[c] / INNER;
        }
        for (size_t c = 0; c < INNER; c++)
            variance += (sum[c] - mean) * (sum[c] - mean) / INNER;
        for (size_t c = 0; c < INNER; c++) {
            double y = (sum[c] - mean) / sqrt(variance + 1e-5) * v[NORM_WEIGHT + c] + v[NORM_BIAS + c];
            total += y * norm_dy[r * INNER + c] + sum[c] * norm_residual[r * INNER + c];
        }
    }
    return total;
}

typedef struct NormMemory {
    float *inputs, *branch, *sum, *y, *dy, *residual, *statistics, *gradient, *scratch;
} NormMemory;

static void run_norm(LsDevice *device, const NormMemory *m)
{
    LsLayerNorm forward = {.rows = ROWS,
        .columns = INNER,
        .x = m->inputs,
        .branch = m->branch,
        .sum = m->sum,
        .weight = m->inputs + NORM_WEIGHT,
        .bias = m->inputs + NORM_BIAS,
        .y = m->y,
        .mean = m->statistics,
        .rstd = m->statistics + ROWS,
        .type = LS_F32};
    LsLayerNormBackward backward = {.rows = ROWS,
        .columns = INNER,
        .x = m->sum,
        .dy = m->dy,
        .weight = m->inputs + NORM_WEIGHT,
        .mean = m->statistics,
        .rstd = m->statistics + ROWS,
        .residual = m->residual,
        .dx = m->gradient,
        .type = LS_F32,
        .dweight = m->gradient + NORM_WEIGHT,
        .dbias = m->gradient + NORM_BIAS,
        .scratch = m->scratch};
    assert_int_equal(device->ops->layer_norm(device, &forward), LS_OK);
    assert_int_equal(device->ops->layer_norm_backward(device, &backward), LS_OK);
}

static void check_norm(LsDevice *device)
{
    float host[NORM_INPUTS];
    NormMemory m = {allocate(device, NORM_INPUTS), allocate(device, NORM), allocate(device, NORM),
        allocate(device, NORM), allocate(device, NORM), allocate(device, NORM), allocate(device, 2 * ROWS),
        allocate(device, NORM_INPUTS), allocate(device, ls_layer_norm_scratch(ROWS, INNER) / sizeof(float))};
    copy_in(device, m.inputs, norm_inputs, sizeof norm_inputs);
    copy_in(device, m.branch, norm_branch, sizeof norm_branch);
    copy_in(device, m.dy, norm_dy, sizeof norm_dy);
    copy_in(device, m.residual, norm_residual, sizeof norm_residual);
    run_norm(device, &m);
    copy_out(device, host, m.gradient, sizeof host);
    // Sums of 19 terms, and statistics of as many, in every factor: a hundred roundings.
    check_gradient(norm_value, norm_inputs, NORM_INPUTS, 0, NORM_INPUTS, host, 1e-5, device->ops->name);
    float *const all[] = {
        m.inputs, m.branch, m.sum, m.y, m.dy, m.residual, m.statistics, m.gradient, m.scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
}

static void layer_norms(void **unused)
{
    (void)unused;
    random_numbers(norm_inputs, NORM_INPUTS, 8);
    random_numbers(norm_branch, NORM, 9);
    random_numbers(norm_dy, NORM, 10);
    random_numbers(norm_residual, NORM, 11);
    for (int d = 0; d < device_count; d++)
        check_norm(devices[d]);
}

// ---- Attention: sum of weights × attention(qkv) -----------------------------------------------------------

enum { WINDOWS = 2, WINDOW = 5, HEADS = 2, SIZE = 3, TOKENS = WINDOWS * WINDOW, OUT = TOKENS * HEADS * SIZE };
static float packed[3 * OUT], attention_dout[OUT];

// Number i of part 0, 1 or 2 (q, k, v) of a head's row.
static double part_of(const double *qkv, size_t row, size_t part, size_t head, size_t i)
{
    return qkv[((row * 3 + part) * HEADS + head) * SIZE + i];
}

static double attention_row(const double *qkv, size_t head, size_t row)
{
    double total = 0, sum = 0;
    for (size_t key = row / WINDOW * WINDOW; key <= row; key++) {
        double score = 0, value = 0;
        for (size_t i = 0; i < SIZE; i++) {
            score += part_of(qkv, row, 0, head, i) * part_of(qkv, key, 1, head, i);
            value += part_of(qkv, key, 2, head, i) * attention_dout[(row * HEADS + head) * SIZE + i];
        }
        double weight = exp(score / sqrt(SIZE));
        sum += weight;
        total += weight * value;
    }
    return total / sum;
}

static double attention_value(const double *qkv)
{
    double total = 0;
    for (size_t row = 0; row < TOKENS; row++)
        for (size_t head = 0; head < HEADS; head++)
            total += attention_row(qkv, head, row);
    return total;
}

static void check_attention(LsDevice *device)
{
    size_t bytes = ls_attention_scratch(WINDOWS, WINDOW, HEADS, SIZE);
    float *qkv = allocate(device, 3 * OUT), *out = allocate(device, OUT), *dout = allocate(device, OUT);
    float *log_sum = allocate(device, TOKENS * HEADS), *dqkv = allocate(device, 3 * OUT);
    float *scratch = allocate(device, bytes / sizeof(float)), host[3 * OUT];
    LsAttention forward = {.windows = WINDOWS,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = qkv,
        .out = out,
        .log_sum = log_sum,
        .type = LS_F32};
    LsAttentionBackward backward = {.windows = WINDOWS,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = qkv,
        .out = out,
        .dout = dout,
        .log_sum = log_sum,
        .dqkv = dqkv,
        .type = LS_F32,
        .scratch = scratch};
    copy_in(device, qkv, packed, sizeof packed);
    copy_in(device, dout, attention_dout, sizeof attention_dout);
    assert_int_equal(device->ops->attention(device, &forward), LS_OK);
    assert_int_equal(device->ops->attention_backward(device, &backward), LS_OK);
    copy_out(device, host, dqkv, sizeof host);
    // Softmax over up to 5 scores of 3 products each, and sums over as many: some thirty roundings.
    check_gradient(attention_value, packed, 3 * OUT, 0, 3 * OUT, host, 1e-5, device->ops->name);
    float *const all[] = {qkv, out, dout, log_sum, dqkv, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
}

static void attention(void **unused)
{
    (void)unused;
    random_numbers(packed, 3 * OUT, 12);
    random_numbers(attention_dout, OUT, 13);
    for (int d = 0; d < device_count; d++)
        check_attention(devices[d]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(layers), cmocka_unit_test(losses),
        cmocka_unit_test(dropout), cmocka_unit_test(layer_norms), cmocka_unit_test(attention)};
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
