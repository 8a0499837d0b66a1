// Float64 models of the ops, and how far a float32 computation may be from them. u = 2^-24 is the largest
// relative error of one rounding.
#include <math.h>
#include <stdio.h>

#include "op_image.h"

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

static double derivative(LsActivation activation, double saved)
{
    return activation == LS_GELU ? gelu_derivative(saved) : saved > 0 ? 1 : 0;
}

// Sums of the columns of the first input, added to `before` when the op accumulates.
static void expect_column_sums(const LsOpCase *op, void *const image[], size_t rows, size_t columns,
    const float *before, double *value, double *scale)
{
    for (size_t c = 0; c < columns; c++) {
        double sum = op->accumulate ? before[c] : 0, size = fabs(sum);
        for (size_t r = 0; r < rows; r++) {
            sum += ls_op_number(image[0], op->type, r * columns + c);
            size += fabs(ls_op_number(image[0], op->type, r * columns + c));
        }
        value[c] = sum, scale[c] = size;
    }
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
            if (op->backward != LS_IDENTITY)
                value[3][at] *= derivative(op->backward, ls_op_number(image[5], op->output, at));
        }
    if (op->bias_gradient)
        expect_column_sums(op, image, op->depth, op->rows, image[6], value[6], scale[6]);
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
    for (size_t i = 0; op->output != LS_F32 && i < op->columns; i++)
        value[4][i] = value[0][i], scale[4][i] = scale[0][i];
}

// A sum may be taken pairwise in F32: adding n numbers so rounds each at most ceil(log2 n) times.
static double pairwise_scale(double sum, double size, size_t n)
{
    return fabs(sum) + size * (n > 1 ? ceil(log2((double)n)) : 0) / 3; // in 3 units, those of ls_op_tolerance
}

static void expect_sum(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    double sum = op->accumulate ? *(const float *)image[1] : 0, size = fabs(sum);
    for (size_t i = 0; i < op->columns; i++) {
        sum += ((const float *)image[0])[i];
        size += fabs(((const float *)image[0])[i]);
    }
    *value[1] = sum, *scale[1] = pairwise_scale(sum, size, op->columns);
}

static void expect_squares(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    const float *x = image[0];
    size_t at = 0;
    for (size_t p = 0; p < op->pieces; p++) {
        size_t end = ls_op_piece_begin(op, p + 1);
        for (size_t first = ls_op_piece_begin(op, p); first < end; first += LS_BLOCK, at++) {
            size_t count = end - first < LS_BLOCK ? end - first : LS_BLOCK;
            double sum = 0;
            for (size_t i = first; i < first + count; i++)
                sum += (double)x[i] * x[i];
            value[1][at] = sum, scale[1][at] = pairwise_scale(sum, sum, count);
        }
    }
}

static void expect_tree(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t output = op->in_place ? 0 : op->depth;
    for (size_t i = 0; i < op->columns; i++) {
        double sum = 0, size = 0;
        for (size_t input = 0; input < op->depth; input++) {
            sum += ls_op_number(image[input], op->type, i);
            size += fabs(ls_op_number(image[input], op->type, i));
        }
        value[output][i] = sum, scale[output][i] = size;
    }
}

static double expect_dropped(const LsOpCase *op, void *const image[], size_t i)
{
    LsRngKey key = ls_rng_key(11, LS_RNG_DROPOUT + 1);
    size_t sample = op->columns * (op->window ? op->window : 1); // elements of one
    uint64_t position = ((const uint64_t *)image[1])[i / sample];
    bool keep = ls_rng_u32(key, position, i % sample) >= (uint32_t)(op->rate * 0x1p32);
    return keep ? ls_op_number(image[0], op->type, i) / (1 - op->rate) : 0;
}

static double expect_normalized(const LsOpCase *op, void *const image[], size_t i)
{
    size_t feature = i % op->columns % op->period;
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
        *value = dy * derivative(op->activation, saved);
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
    if (ls_op_is_language(op)) {
        ls_op_language_expect(op, image, value, scale);
        return;
    }
    if (ls_op_is_image(op)) {
        ls_op_image_expect(op, image, value, scale);
        return;
    }
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
        expect_sum(op, image, value, scale);
        return;
    case LS_OP_BLOCK_SQUARES:
        expect_squares(op, image, value, scale);
        return;
    case LS_OP_TREE_ADD:
        expect_tree(op, image, value, scale);
        return;
    case LS_OP_BIAS_GRADIENT:
        expect_column_sums(op, image, op->rows, op->columns, image[1], value[1], scale[1]);
        return;
    default:
        expect_elements(op, image, value, scale);
    }
}

// How many units of 2^-24 × scale a result in F32 may be off.
static double units(const LsOpCase *op)
{
    // GELU': an argument of up to 2|u| with one ulp moves the gate by 2|u| u s(1 - s), at most 0.23 u, and
    // the slope multiplies that by less than 4; a dozen roundings besides.
    const double derivative_units = 32;
    if (ls_op_is_language(op))
        return ls_op_language_units(op);
    if (ls_op_is_image(op))
        return ls_op_image_units(op);
    switch (op->kind) {
    case LS_OP_MATMUL:
        // A sum of k products in any order is within k u of the sum of their sizes (Higham, "Accuracy and
        // stability of numerical algorithms", 4.2); BF16 instructions round products and sums of pairs
        // separately, which doubles it. GELU's slope is at most 1.13, and its own error a few u of its input.
        return 2.0 * (double)(op->depth + 8) + (op->backward != LS_IDENTITY ? derivative_units : 0);
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
        // Rounded to BF16: each input once and each of up to log2(depth) sums that it is in, by 2^-8 of that,
        // and a little of these errors' own sums.
        return (double)op->depth + (op->rounded ? 0x1.1p16 * (1 + ceil(log2((double)op->depth))) : 0);
    case LS_OP_ACTIVATION_BACKWARD:
        return derivative_units;
    default:
        return 3; // two operations and the rounding of a constant
    }
}

// One rounding to a 16-bit type is off by half a unit of the last of its bits, 8 in BF16 and 11 in F16, or of
// F16's subnormal numbers.
static double rounding(LsDtype type, double size)
{
    return type == LS_F32 ? 0 : type == LS_BF16 ? 0x1p-8 * size : 0x1p-11 * size + 0x1p-25;
}

// Attention rounds the weights, and the gradients of scores, before it multiplies by them. Of F16's subnormal
// numbers, each of up to `window` of them is off by 2^-25, and multiplied by a number up to 4.
static double attention_rounding(const LsOpCase *op, LsDtype type, double scale)
{
    return rounding(type, scale) + (type == LS_F16 ? 4 * (double)op->window * 0x1p-25 : 0);
}

double ls_op_tolerance(const LsOpCase *op, LsDtype type, double value, double scale)
{
    double allowed = units(op) * 0x1p-24 * scale + 0x1p-126;
    // The value before an activation, or before the product with a derivative, may be rounded as well; slopes
    // are up to 1.13 and `scale` bounds its size. A GPU library's own GELU may be off by a quarter of that.
    bool attention = op->kind == LS_OP_ATTENTION || op->kind == LS_OP_ATTENTION_BACKWARD;
    bool filters = op->kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
    double before = attention                                 ? attention_rounding(op, type, scale)
                    : filters && op->rounded                  ? rounding(op->type, scale)
                    : op->keep || op->backward != LS_IDENTITY ? 1.13 * rounding(type, scale)
                    : op->activation == LS_GELU               ? rounding(type, scale) / 4
                                                              : 0;
    return allowed + before + rounding(type, fabs(value) + allowed + before);
}

// Worst cases that no output reaches on the average over many. F32: with 257 terms, errors of 2^-24 that add
// up like a random walk make 16 × 6e-8 of the terms' size. BF16: one or two roundings of at most 2^-8, on
// average 1.6e-3 each. F16 has three bits more, and so an eighth of that.
double ls_op_relative_bound(LsDtype type)
{
    return type == LS_F32 ? 1e-5 : type == LS_BF16 ? 1e-2 : 1.25e-3;
}

// ---- decide_step ----------------------------------------------------------------------------------------

// Rounded once to F32, of a float64 sum whose own roundings are 2^-29 of that.
static bool is_near(float got, double wanted)
{
    if (!isfinite((float)wanted))
        return isnan(wanted) ? isnan(got) : got == (float)wanted;
    return fabs(got - wanted) <= 0x1.004p-24 * fabs(wanted);
}

static double sum_at(void *const image[], const uint32_t *index, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ((const float *)image[0])[index[i]];
    return sum;
}

// Updates the control's whole numbers and its loss scale, which are exact.
static void expect_counts(const LsOpCase *op, LsStepControl *control, bool error, bool finite)
{
    bool scaling = ls_op_growth_interval(op) > 0;
    control->step += 1;
    control->skip = error || !finite;
    if (error)
        return;
    control->skipped_in_row = finite ? 0 : control->skipped_in_row + 1;
    control->good_steps = finite ? control->good_steps + 1 : 0;
    control->updates += finite;
    if (scaling && !finite && control->loss_scale > 1)
        control->loss_scale /= 2;
    if (scaling && control->good_steps == ls_op_growth_interval(op)) {
        control->good_steps = 0;
        control->loss_scale = control->loss_scale < 0x1p24f ? 2 * control->loss_scale : 0x1p24f;
    }
}

static bool counts_are_equal(const LsStepControl *got, const LsStepControl *wanted)
{
    return got->step == wanted->step && got->updates == wanted->updates && got->skip == wanted->skip &&
           got->good_steps == wanted->good_steps && got->skipped_in_row == wanted->skipped_in_row &&
           got->loss_scale == wanted->loss_scale && got->learning_rate == 0.025f;
}

static bool votes_are_largest(const LsOpCase *op, void *const image[], const LsVotes *got)
{
    const uint32_t *words = image[0], *votes = (const uint32_t *)got;
    for (size_t i = 0; i < LS_VOTE_WORDS; i++) {
        uint32_t largest = 0;
        for (size_t rank = 0; rank < op->rows; rank++) {
            uint32_t vote = words[rank * ls_op_rank_words(op) + i];
            largest = vote > largest ? vote : largest;
        }
        if (votes[i] != largest)
            return false;
    }
    return true;
}

bool ls_op_check_outcome(
    const LsOpCase *op, void *const image[], const LsStepOutcome *got, char *text, size_t size)
{
    const LsStepControl *before = &((const LsStepOutcome *)image[3])->control, *now = &got->control;
    LsStepControl wanted = *before;
    double loss = sum_at(image, image[1], op->columns) / 64;
    double norm = sqrt(sum_at(image, image[2], op->depth)) / before->loss_scale;
    bool error = op->decision == LS_DECIDE_ERROR || op->decision == LS_DECIDE_ERROR_AND_BAD;
    expect_counts(op, &wanted, error, isfinite(loss) && isfinite(norm));
    double clip = ls_op_clip_norm(op) > 0 ? fmin(1, ls_op_clip_norm(op) / norm) : 1;
    double factor = wanted.skip ? 0 : clip / before->loss_scale;
    double correction1 = wanted.skip ? before->bias_correction1 : 1 - pow(0.9f, 8);
    double correction2 = wanted.skip ? before->bias_correction2 : 1 - pow(0.95f, 8);
    const char *wrong = !counts_are_equal(now, &wanted)                ? "counts or loss scale"
                        : !votes_are_largest(op, image, &got->votes)   ? "votes"
                        : !is_near(now->loss, loss)                    ? "loss"
                        : !is_near(now->gradient_norm, norm)           ? "norm"
                        : !is_near(now->gradient_factor, factor)       ? "gradient factor"
                        : !is_near(now->bias_correction1, correction1) ? "first bias correction"
                        : !is_near(now->bias_correction2, correction2) ? "second bias correction"
                                                                       : NULL;
    if (wrong)
        snprintf(text, size, "%s: loss %.9g of %.9g, norm %.9g of %.9g, factor %.9g of %.9g, scale %g of %g",
            wrong, now->loss, loss, now->gradient_norm, norm, now->gradient_factor, factor, now->loss_scale,
            wanted.loss_scale);
    return !wrong;
}
