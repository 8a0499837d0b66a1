// Losses and their gradients, row by row.
#include <math.h>

#include "lanes.h"
#include "parts.h"

ALWAYS_INLINE float gradient_factor(const LsLossArgs *args)
{
    return args->gradient_scale * (args->loss_scale ? *args->loss_scale : 1.0f);
}

ALWAYS_INLINE float largest_of(const void *outputs, LsDtype type, size_t first, size_t columns)
{
    float lanes[LANES];
    for (int j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float x = load(outputs, type, first + c + j);
            lanes[j] = x > lanes[j] ? x : lanes[j];
        }
    for (size_t j = 0; c < columns; c++, j++) {
        float x = load(outputs, type, first + c);
        lanes[j] = x > lanes[j] ? x : lanes[j];
    }
    float largest = lanes[0];
    for (int j = 1; j < LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}

// Sum of (x - largest) and sum of exp(x - largest).
ALWAYS_INLINE void row_sums(const void *outputs, LsDtype type, size_t first, size_t columns, float largest,
    float *differences, float *exponentials)
{
    float difference_lanes[LANES] = {0}, exponential_lanes[LANES] = {0};
    size_t c = 0;
    for (; c + LANES <= columns; c += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float x = load(outputs, type, first + c + j) - largest;
            difference_lanes[j] += x;
            exponential_lanes[j] += exponential(x);
        }
    for (size_t j = 0; c < columns; c++, j++) {
        float x = load(outputs, type, first + c) - largest;
        difference_lanes[j] += x;
        exponential_lanes[j] += exponential(x);
    }
    *differences = sum_lanes(difference_lanes);
    *exponentials = sum_lanes(exponential_lanes);
}

// All is relative to the row's largest output, so that a small loss is not the difference of large numbers.
ALWAYS_INLINE void cross_entropy_row(const LsLossArgs *args, size_t row, LsDtype type)
{
    size_t columns = args->columns, first = row * columns, label = (size_t)args->labels[row];
    float certain = 1.0f - args->smoothing, spread = args->smoothing / (float)columns;
    float largest = largest_of(args->outputs, type, first, columns);
    float differences, exponentials;
    row_sums(args->outputs, type, first, columns, largest, &differences, &exponentials);
    float chosen = load(args->outputs, type, first + label) - largest;
    args->row_loss[row] = logarithm(exponentials) - certain * chosen - spread * differences;
    if (!args->gradient)
        return;
    float factor = gradient_factor(args);
    float at_label = (exponential(chosen) / exponentials - (spread + certain)) * factor;
    ELEMENTWISE
    for (size_t c = 0; c < columns; c++) {
        float probability = exponential(load(args->outputs, type, first + c) - largest) / exponentials;
        store(args->gradient, type, first + c, (probability - spread) * factor);
    }
    store(args->gradient, type, first + label, at_label);
}

ALWAYS_INLINE void cross_entropy(const LsLossArgs *args, LsDtype type)
{
    for (size_t row = 0; row < args->rows; row++)
        cross_entropy_row(args, row, type);
}

LsStatus LOOPS(cross_entropy)(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("cross_entropy", args->type));
    LS_TRY(ls_require_labels(args));
    WITH_TYPE(args->type, cross_entropy(args, TYPE));
    return LS_OK;
}

// log(1 + y) for y in [0, 1]; the quotient makes up for what 1 + y rounds away.
ALWAYS_INLINE float log_one_plus(float y)
{
    float sum = 1.0f + y;
    return logarithm(sum) + (y - (sum - 1.0f)) / sum;
}

ALWAYS_INLINE float binary_loss(float x, float target)
{
    float above = x < 0.0f ? 0.0f : x;
    return above - x * target + log_one_plus(exponential(-__builtin_fabsf(x)));
}

ALWAYS_INLINE float binary_gradient(float x, float target)
{
    return sigmoid(x) - target;
}

ALWAYS_INLINE float squared_loss(float x, float target)
{
    return (x - target) * (x - target);
}

ALWAYS_INLINE float squared_gradient(float x, float target)
{
    return 2.0f * (x - target);
}

// A loss that is the mean over the columns of a function of output and target.
ALWAYS_INLINE void column_loss(
    const LsLossArgs *args, LsDtype type, float (*loss)(float, float), float (*gradient)(float, float))
{
    size_t columns = args->columns;
    float factor = gradient_factor(args) / (float)columns;
    for (size_t row = 0; row < args->rows; row++) {
        size_t first = row * columns, c = 0;
        float lanes[LANES] = {0};
        for (; c + LANES <= columns; c += LANES)
            for (size_t j = 0; j < LANES; j++)
                lanes[j] += loss(load(args->outputs, type, first + c + j), args->targets[first + c + j]);
        for (size_t j = 0; c < columns; c++, j++)
            lanes[j] += loss(load(args->outputs, type, first + c), args->targets[first + c]);
        args->row_loss[row] = sum_lanes(lanes) / (float)columns;
    }
    if (!args->gradient)
        return;
    ELEMENTWISE
    for (size_t i = 0; i < args->rows * columns; i++)
        store(args->gradient, type, i, gradient(load(args->outputs, type, i), args->targets[i]) * factor);
}

LsStatus LOOPS(binary_cross_entropy)(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("binary_cross_entropy", args->type));
    WITH_TYPE(args->type, column_loss(args, TYPE, binary_loss, binary_gradient));
    return LS_OK;
}

LsStatus LOOPS(mean_squared_error)(LsDevice *device, const LsLossArgs *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("mean_squared_error", args->type));
    WITH_TYPE(args->type, column_loss(args, TYPE, squared_loss, squared_gradient));
    return LS_OK;
}
