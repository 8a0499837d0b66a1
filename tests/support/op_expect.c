// Float64 models of the ops, and how far a float32 computation may be from them. u = 2^-24 is the largest
// relative error of one rounding.
#include <math.h>

#include "op_cases.h"

static const double GELU_SCALE = 0.79788456080286535588, GELU_CUBIC = 0.044715; // sqrt(2 / pi)

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x)));
}

static double gelu_derivative(double x)
{
    double t = tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x);
}

static double activate(LsActivation activation, double x)
{
    return activation == LS_GELU ? gelu(x) : activation == LS_RELU ? fmax(x, 0) : x;
}

static double input_a(const LsOpCase *op, void *const image[], size_t i, size_t p)
{
    return ls_op_number(image[0], op->type, op->transpose_a ? p * op->rows + i : i * op->depth + p);
}

static double input_b(const LsOpCase *op, void *const image[], size_t p, size_t j)
{
    return ls_op_number(image[1], op->type, op->transpose_b ? j * op->depth + p : p * op->columns + j);
}

static void expect_matmul(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    for (size_t i = 0; i < op->rows; i++)
        for (size_t j = 0; j < op->columns; j++) {
            size_t at = i * op->columns + j;
            double sum = 0, size = 0;
            for (size_t p = 0; p < op->depth; p++) {
                double product = input_a(op, image, i, p) * input_b(op, image, p, j);
                sum += product;
                size += fabs(product);
            }
            double start = op->accumulate ? ls_op_number(image[3], op->output, at)
                           : op->bias     ? ls_op_number(image[2], op->type, j)
                                          : 0;
            sum += start;
            size += fabs(start);
            if (op->keep)
                value[4][at] = sum, scale[4][at] = size;
            value[3][at] = activate(op->activation, sum);
            scale[3][at] = size;
        }
}

static double gradient_scale(void *const image[])
{
    return 1.0 / 64 * *(const float *)image[2];
}

static void expect_cross_entropy(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t columns = op->columns, gradient = op->in_place ? 0 : 4;
    double spread = op->smoothing / (double)columns, factor = gradient_scale(image);
    for (size_t r = 0; r < op->rows; r++) {
        size_t label = (size_t)((const int32_t *)image[1])[r];
        double largest = -INFINITY, exponentials = 0, loss = 0, size = 1;
        for (size_t c = 0; c < columns; c++)
            largest = fmax(largest, ls_op_number(image[0], op->type, r * columns + c));
        for (size_t c = 0; c < columns; c++)
            exponentials += exp(ls_op_number(image[0], op->type, r * columns + c) - largest);
        for (size_t c = 0; c < columns; c++) {
            double x = ls_op_number(image[0], op->type, r * columns + c) - largest;
            double wanted = spread + (c == label ? 1.0 - op->smoothing : 0);
            double probability = exp(x) / exponentials;
            loss -= wanted * (x - log(exponentials));
            size += wanted * fabs(x);
            value[gradient][r * columns + c] = (probability - wanted) * factor;
            scale[gradient][r * columns + c] = (probability * (1 + fabs(x)) + wanted) * factor;
        }
        value[3][r] = loss;
        scale[3][r] = size;
    }
}

static void expect_column_loss(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t columns = op->columns, gradient = op->in_place ? 0 : 4;
    double factor = gradient_scale(image) / (double)columns;
    bool binary = op->kind == LS_OP_BINARY_CROSS_ENTROPY;
    for (size_t r = 0; r < op->rows; r++) {
        double loss = 0, size = 0;
        for (size_t c = 0; c < columns; c++) {
            double x = ls_op_number(image[0], op->type, r * columns + c);
            double t = ((const float *)image[1])[r * columns + c];
            double slope = binary ? 1 / (1 + exp(-x)) - t : 2 * (x - t);
            loss += binary ? fmax(x, 0) + log1p(exp(-fabs(x))) - t * x : (x - t) * (x - t);
            size += binary ? 1 + fabs(x) * (1 + t) : (x - t) * (x - t);
            value[gradient][r * columns + c] = slope * factor;
            scale[gradient][r * columns + c] = (binary ? 1 : fabs(slope)) * factor;
        }
        value[3][r] = loss / (double)columns;
        scale[3][r] = size / (double)columns;
    }
}

static void expect_sgd(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    const LsStepControl *control = image[6];
    const float *master = image[0], *gradient = image[1], *moment = image[2];
    for (size_t i = 0; i < op->columns; i++) {
        double decay = ((const uint8_t *)image[5])[i / LS_BLOCK] ? (double)0.1f : 0;
        double momentum = op->momentum ? (double)0.9f : 0, before = op->momentum ? moment[i] : 0;
        double step = gradient[i] * (double)control->gradient_factor + decay * master[i];
        double size = fabs(gradient[i]) + fabs(decay * master[i]) + fabs(before);
        double m = momentum * before + step;
        double direction = op->nesterov ? step + momentum * m : m;
        if (op->momentum)
            value[2][i] = m, scale[2][i] = size;
        value[0][i] = master[i] - (double)control->learning_rate * direction;
        scale[0][i] = fabs(master[i]) + size;
    }
}

static void expect_adamw(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    const LsStepControl *control = image[6];
    const float *master = image[0], *gradient = image[1], *moment1 = image[2], *moment2 = image[3];
    double beta1 = 0.9f, beta2 = 0.95f, rate = control->learning_rate;
    for (size_t i = 0; i < op->columns; i++) {
        double decay = ((const uint8_t *)image[5])[i / LS_BLOCK] ? (double)0.1f : 0;
        double g = gradient[i] * (double)control->gradient_factor;
        double m = beta1 * moment1[i] + (1 - beta1) * g, v = beta2 * moment2[i] + (1 - beta2) * g * g;
        double size = fabs(beta1 * moment1[i]) + fabs((1 - beta1) * g);
        double root = sqrt(v / control->bias_correction2) + 1e-8;
        value[2][i] = m, scale[2][i] = size;
        value[3][i] = v, scale[3][i] = v;
        value[0][i] = master[i] * (1 - rate * decay) - rate * (m / control->bias_correction1) / root;
        scale[0][i] = fabs(master[i]) + rate * size / control->bias_correction1 / root;
    }
}

static void expect_optimizer(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    if (op->kind == LS_OP_ADAMW)
        expect_adamw(op, image, value, scale);
    else
        expect_sgd(op, image, value, scale);
    for (size_t i = 0; op->output == LS_BF16 && i < op->columns; i++)
        value[4][i] = value[0][i], scale[4][i] = scale[0][i];
}

static void expect_sums(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t block = op->kind == LS_OP_BLOCK_SQUARES ? LS_BLOCK : op->columns;
    for (size_t first = 0; first < op->columns; first += block) {
        size_t end = op->columns - first < block ? op->columns : first + block;
        double sum = op->accumulate ? *(const float *)image[1] : 0, size = fabs(sum);
        for (size_t i = first; i < end; i++) {
            double x = ((const float *)image[0])[i];
            sum += op->kind == LS_OP_BLOCK_SQUARES ? x * x : x;
            size += op->kind == LS_OP_BLOCK_SQUARES ? x * x : fabs(x);
        }
        value[1][first / block] = sum;
        // Rounded once; the sum itself is in float64, whose roundings are 2^-29 of ours.
        scale[1][first / block] = fabs(sum) + (double)(end - first) * 0x1p-29 * size;
    }
}

static void expect_tree(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t output = op->in_place ? 0 : op->depth;
    for (size_t i = 0; i < op->columns; i++) {
        double sum = 0, size = 0;
        for (size_t input = 0; input < op->depth; input++) {
            sum += ((const float *)image[input])[i];
            size += fabs(((const float *)image[input])[i]);
        }
        value[output][i] = sum, scale[output][i] = size;
    }
}

static void expect_bias_gradient(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    for (size_t c = 0; c < op->columns; c++) {
        double sum = op->accumulate ? ((const float *)image[1])[c] : 0, size = fabs(sum);
        for (size_t r = 0; r < op->rows; r++) {
            sum += ls_op_number(image[0], op->type, r * op->columns + c);
            size += fabs(ls_op_number(image[0], op->type, r * op->columns + c));
        }
        value[1][c] = sum, scale[1][c] = size;
    }
}

static double expect_dropped(const LsOpCase *op, void *const image[], size_t i)
{
    LsRngKey key = ls_rng_key(11, LS_RNG_DROPOUT + 1);
    uint64_t position = ((const uint64_t *)image[1])[i / op->columns];
    bool keep = ls_rng_u32(key, position, i % op->columns) >= (uint32_t)(op->rate * 0x1p32);
    return keep ? ls_op_number(image[0], op->type, i) / (1 - op->rate) : 0;
}

static double expect_normalized(const LsOpCase *op, void *const image[], size_t i)
{
    size_t feature = op->uniform ? 0 : i % op->columns;
    double x = op->type == LS_U8 ? ((const uint8_t *)image[0])[i] : ((const float *)image[0])[i];
    return (x - ((const float *)image[1])[feature]) * ((const float *)image[2])[feature];
}

// Ops on each element by itself; the result and the numbers that its errors are relative to.
static void expect_element(const LsOpCase *op, void *const image[], size_t i, double *value, double *scale)
{
    double dy, saved;
    switch (op->kind) {
    case LS_OP_NORMALIZE:
        *value = expect_normalized(op, image, i);
        *scale = fabs(*value);
        return;
    case LS_OP_DROPOUT:
        *value = expect_dropped(op, image, i);
        *scale = fabs(*value);
        return;
    case LS_OP_ADD:
        *value = ls_op_number(image[0], op->type, i) + ls_op_number(image[1], op->type, i);
        *scale = fabs(*value);
        return;
    case LS_OP_ACTIVATION_BACKWARD:
        dy = ls_op_number(image[0], op->type, i), saved = ls_op_number(image[1], op->type, i);
        *value = dy * (op->activation == LS_GELU ? gelu_derivative(saved) : saved > 0 ? 1 : 0);
        *scale = fabs(dy);
        return;
    default: // cast
        *value = ls_op_number(image[0], op->type, i);
        *scale = fabs(*value);
    }
}

static void expect_elements(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t output = op->in_place ? 0 : op->kind == LS_OP_CAST ? 1 : op->kind == LS_OP_NORMALIZE ? 3 : 2;
    for (size_t i = 0; i < op->rows * op->columns; i++)
        expect_element(op, image, i, &value[output][i], &scale[output][i]);
}

void ls_op_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    switch (op->kind) {
    case LS_OP_MATMUL:
        expect_matmul(op, image, value, scale);
        return;
    case LS_OP_CROSS_ENTROPY:
        expect_cross_entropy(op, image, value, scale);
        return;
    case LS_OP_BINARY_CROSS_ENTROPY:
    case LS_OP_MEAN_SQUARED_ERROR:
        expect_column_loss(op, image, value, scale);
        return;
    case LS_OP_SGD:
    case LS_OP_ADAMW:
        expect_optimizer(op, image, value, scale);
        return;
    case LS_OP_SUM:
    case LS_OP_BLOCK_SQUARES:
        expect_sums(op, image, value, scale);
        return;
    case LS_OP_TREE_ADD:
        expect_tree(op, image, value, scale);
        return;
    case LS_OP_BIAS_GRADIENT:
        expect_bias_gradient(op, image, value, scale);
        return;
    default:
        expect_elements(op, image, value, scale);
    }
}

double ls_op_units(const LsOpCase *op)
{
    switch (op->kind) {
    case LS_OP_MATMUL:
        // A sum of k products in any order is within k u of the sum of their sizes (Higham, "Accuracy and
        // stability of numerical algorithms", 4.2); BF16 instructions round products and sums of pairs
        // separately, which doubles it. GELU's slope is at most 1.13, and its own error a few u of its input.
        return 2.0 * (double)(op->depth + 8);
    case LS_OP_CROSS_ENTROPY:
        // A sum of `columns` exponentials, each within 2 ulp and with an argument rounded once; then a
        // logarithm or a quotient.
        return (double)op->columns + 16;
    case LS_OP_BINARY_CROSS_ENTROPY:
    case LS_OP_MEAN_SQUARED_ERROR:
        // A sum over the columns of terms with about ten roundings each.
        return (double)op->columns + 16;
    case LS_OP_SGD:
    case LS_OP_ADAMW:
        return 16; // roundings of one element's formula, at most
    case LS_OP_BIAS_GRADIENT:
        return (double)op->rows + 2;
    case LS_OP_TREE_ADD:
        return (double)op->depth;
    case LS_OP_ACTIVATION_BACKWARD:
        // GELU': an argument of up to 2|u| with one ulp moves the gate by 2|u| u s(1 - s), at most 0.23 u,
        // and the slope multiplies that by less than 4; a dozen roundings besides.
        return 32;
    default:
        return 3; // two operations and the rounding of a constant
    }
}
