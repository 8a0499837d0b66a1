// Float64 models of the ops of image models, and how far a float32 computation may be from them.
#include <math.h>

#include "op_image.h"

static void add_term(double *value, double *scale, double term)
{
    *value += term;
    *scale += fabs(term);
}

// ---- Windows --------------------------------------------------------------------------------------------

// An element of a window that lies on an image.
typedef struct Touch {
    size_t x, y;    // the places, over all images, of the element and of the window
    size_t element; // of the window
} Touch;

typedef void (*Visit)(
    const LsOpCase *op, const Touch *touch, void *const image[], double *value[], double *scale[]);

// Visits each element of each window, in the order of windows.
static void for_windows(
    const LsOpCase *op, Visit visit, void *const image[], double *value[], double *scale[])
{
    const LsImageWindow window = ls_op_convolution_shape(op).window;
    long high = (long)ls_image_places(&window, op->height), wide = (long)ls_image_places(&window, op->width);
    long kernel = (long)op->kernel, height = (long)op->height, width = (long)op->width;
    for (long at = 0; at < (long)op->rows * high * wide; at++)
        for (long e = 0; e < kernel * kernel; e++) {
            long y = at / wide % high * (long)op->stride + e / kernel - (long)op->padding;
            long x = at % wide * (long)op->stride + e % kernel - (long)op->padding;
            if (y < 0 || y >= height || x < 0 || x >= width)
                continue;
            long row = at / (high * wide);
            const Touch touch = {(size_t)((row * height + y) * width + x), (size_t)at, (size_t)e};
            visit(op, &touch, image, value, scale);
        }
}

// One product is a term of y, of dx or of dweight.
static void convolve(
    const LsOpCase *op, const Touch *touch, void *const image[], double *value[], double *scale[])
{
    for (size_t o = 0; o < op->depth; o++)
        for (size_t c = 0; c < op->columns; c++) {
            size_t x = touch->x * op->columns + c, y = touch->y * op->depth + o;
            size_t w = (o * op->kernel * op->kernel + touch->element) * op->columns + c;
            double by_x =
                op->kind == LS_OP_CONVOLUTION_BACKWARD_DATA ? 1 : ls_op_number(image[0], op->type, x);
            double by_w =
                op->kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS ? 1 : ls_op_number(image[1], op->type, w);
            double by_y = op->kind == LS_OP_CONVOLUTION ? 1 : ls_op_number(image[2], op->type, y);
            size_t buffer = op->kind == LS_OP_CONVOLUTION                 ? 2
                            : op->kind == LS_OP_CONVOLUTION_BACKWARD_DATA ? 0
                                                                          : 1;
            size_t i = buffer == 2 ? y : buffer == 1 ? w : x;
            add_term(&value[buffer][i], &scale[buffer][i], by_x * by_w * by_y);
        }
}

// Values start at 0 and inputs are numbers down to -4, so a window's largest is counted from -8 on.
static void pool(
    const LsOpCase *op, const Touch *touch, void *const image[], double *value[], double *scale[])
{
    for (size_t c = 0; c < op->columns; c++) {
        size_t y = touch->y * op->columns + c;
        double x = ls_op_number(image[0], op->type, touch->x * op->columns + c) + 8;
        value[1][y] = fmax(value[1][y], x);
        scale[1][y] = 0;
    }
}

static void pool_back(
    const LsOpCase *op, const Touch *touch, void *const image[], double *value[], double *scale[])
{
    const uint8_t *place = image[2];
    for (size_t c = 0; c < op->columns; c++) {
        size_t x = touch->x * op->columns + c, y = touch->y * op->columns + c;
        if (place[y] == touch->element)
            add_term(&value[0][x], &scale[0][x], ls_op_number(image[1], op->type, y));
    }
}

static void expect_max_pool(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    LsOpBuffer buffers[LS_OP_BUFFERS];
    ls_op_image_buffers(op, buffers);
    for_windows(op, pool, image, value, scale);
    for (size_t i = 0; i < buffers[1].count; i++)
        value[1][i] -= 8;
}

static void expect_convolution(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t filters = op->depth * op->kernel * op->kernel * op->columns;
    for (size_t i = 0; op->accumulate && i < filters; i++)
        add_term(&value[1][i], &scale[1][i], ((const float *)image[1])[i]);
    for_windows(op, convolve, image, value, scale);
}

static void expect_average_pool(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    size_t places = op->height * op->width;
    bool backward = op->kind == LS_OP_AVERAGE_POOL_BACKWARD;
    for (size_t i = 0; i < op->rows * places * op->columns; i++) {
        size_t y = i / (places * op->columns) * op->columns + i % op->columns;
        double number = ls_op_number(image[backward], op->type, backward ? y : i) / (double)places;
        add_term(&value[!backward][backward ? i : y], &scale[!backward][backward ? i : y], number);
    }
}

// ---- Batch normalisation --------------------------------------------------------------------------------

typedef struct Channel {
    double mean, variance, largest;
} Channel;

static Channel measure(const LsOpCase *op, void *const image[], size_t c)
{
    Channel channel = {0};
    for (size_t i = c; i < op->rows * op->columns; i += op->columns) {
        double x = ls_op_number(image[0], op->type, i);
        channel.mean += x / (double)op->rows;
        channel.largest = fmax(channel.largest, fabs(x));
    }
    for (size_t i = c; i < op->rows * op->columns; i += op->columns)
        channel.variance += pow(ls_op_number(image[0], op->type, i) - channel.mean, 2) / (double)op->rows;
    return channel;
}

// As of layer normalisation (op_language_expect.c): errors of distances are relative to the largest number,
// and to that over the deviation where they change the variance.
static void expect_norm(const LsOpCase *op, void *const image[], size_t c, double *value[], double *scale[])
{
    Channel channel = measure(op, image, c);
    if (op->given) {
        channel.mean = ls_op_number(image[3], op->type, 2 * c);
        channel.variance = ls_op_number(image[3], op->type, 2 * c + 1);
        channel.largest += fabs(channel.mean);
    } else {
        value[6][c] = channel.mean, scale[6][c] = channel.largest;
        value[7][c] = channel.variance;
        scale[7][c] = channel.variance + 2 * channel.largest * sqrt(channel.variance);
    }
    double rstd = 1 / sqrt(channel.variance + 1e-5), relative = 1 + channel.largest * rstd;
    double gamma = ls_op_number(image[1], op->type, c), beta = ls_op_number(image[2], op->type, c);
    for (size_t i = c; i < op->rows * op->columns; i += op->columns) {
        double normal = (ls_op_number(image[0], op->type, i) - channel.mean) * rstd;
        double residual = op->branch ? ls_op_number(image[4], op->type, i) : 0;
        double y = normal * gamma + beta + residual;
        value[5][i] = op->activation == LS_RELU ? fmax(y, 0) : y;
        scale[5][i] = fabs(gamma) * (2 * channel.largest * rstd + fabs(normal) * relative) + fabs(beta) +
                      fabs(residual);
    }
}

// What of element i reaches the normalisation, and its size.
static double gradient_at(const LsOpCase *op, void *const image[], size_t i, double *size)
{
    double dy = ls_op_number(image[2], op->type, i);
    double other = op->branch ? ls_op_number(image[3], op->type, i) : 0;
    bool passes = op->activation != LS_RELU || ls_op_number(image[1], op->type, i) > 0;
    *size = passes ? fabs(dy) + fabs(other) : 0;
    return passes ? dy + other : 0;
}

static void expect_statistics(const LsOpCase *op, void *const image[], size_t c, double *value, double *scale)
{
    double mean = ((const float *)image[5])[c], variance = ((const float *)image[6])[c];
    double running = ls_op_number(image[11], op->type, 2 * c), distance = mean - running;
    double size = fabs(mean) + fabs(running);
    for (size_t i = 0; op->accumulate && i < 2; i++)
        add_term(&value[i], &scale[i], ((const float *)image[12])[2 * c + i]);
    value[0] += LS_OP_STATISTICS_WEIGHT * distance;
    scale[0] += LS_OP_STATISTICS_WEIGHT * size;
    value[1] += LS_OP_STATISTICS_WEIGHT * (variance + distance * distance);
    scale[1] += LS_OP_STATISTICS_WEIGHT * (variance + 2 * size * size);
}

static void expect_norm_backward(
    const LsOpCase *op, void *const image[], size_t c, double *value[], double *scale[])
{
    double mean = ((const float *)image[5])[c], n = (double)op->rows, size;
    double rstd = 1 / sqrt(((const float *)image[6])[c] + 1e-5), gamma = ls_op_number(image[4], op->type, c);
    double sum = 0, along = 0, sum_size = 0, along_size = 0;
    size_t dx = op->in_place ? 2 : 8;
    for (size_t i = c; i < op->rows * op->columns; i += op->columns) {
        double x = ls_op_number(image[0], op->type, i), g = gradient_at(op, image, i, &size);
        sum += g, sum_size += size;
        along += g * (x - mean) * rstd, along_size += size * (fabs(x) + fabs(mean)) * rstd;
    }
    for (size_t b = 9; op->accumulate && b <= 10; b++)
        add_term(&value[b][c], &scale[b][c], ((const float *)image[b])[c]);
    value[9][c] += along, scale[9][c] += along_size;
    value[10][c] += sum, scale[10][c] += sum_size;
    for (size_t i = c; i < op->rows * op->columns; i += op->columns) {
        double x = ls_op_number(image[0], op->type, i), g = gradient_at(op, image, i, &size);
        double normal = (x - mean) * rstd, reach = (fabs(x) + fabs(mean)) * rstd;
        if (op->keep)
            value[7][i] = g, scale[7][i] = size;
        value[dx][i] = gamma * rstd * (g - sum / n - normal * along / n);
        scale[dx][i] = fabs(gamma) * rstd * (size + sum_size / n + reach * along_size / n);
    }
    if (op->given)
        expect_statistics(op, image, c, &value[12][2 * c], &scale[12][2 * c]);
}

void ls_op_image_expect(const LsOpCase *op, void *const image[], double *value[], double *scale[])
{
    switch (op->kind) {
    case LS_OP_BATCH_NORM:
        for (size_t c = 0; c < op->columns; c++)
            expect_norm(op, image, c, value, scale);
        return;
    case LS_OP_BATCH_NORM_BACKWARD:
        for (size_t c = 0; c < op->columns; c++)
            expect_norm_backward(op, image, c, value, scale);
        return;
    case LS_OP_MAX_POOL:
        expect_max_pool(op, image, value, scale);
        return;
    case LS_OP_MAX_POOL_BACKWARD:
        for_windows(op, pool_back, image, value, scale);
        return;
    case LS_OP_AVERAGE_POOL:
    case LS_OP_AVERAGE_POOL_BACKWARD:
        expect_average_pool(op, image, value, scale);
        return;
    default:
        expect_convolution(op, image, value, scale);
    }
}

// Units of 2^-24 × scale, as in op_expect.c.
double ls_op_image_units(const LsOpCase *op)
{
    double window = (double)(op->kernel * op->kernel);
    switch (op->kind) {
    case LS_OP_CONVOLUTION: // sums of products, as matmul's
        return 2 * (window * (double)op->columns + 8);
    case LS_OP_CONVOLUTION_BACKWARD_DATA:
        return 2 * (window * (double)op->depth + 8);
    case LS_OP_CONVOLUTION_BACKWARD_WEIGHTS:
        return 2 * ((double)(op->rows * op->height * op->width) + 8); // at most so many places
    case LS_OP_BATCH_NORM:
    case LS_OP_BATCH_NORM_BACKWARD:
        return (double)op->rows + 24; // sums over places, and two dozen roundings of an element
    case LS_OP_MAX_POOL:
        return 0;
    case LS_OP_MAX_POOL_BACKWARD:
        return window;
    default:
        return (double)(op->height * op->width) + 2;
    }
}
