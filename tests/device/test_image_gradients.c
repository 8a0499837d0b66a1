// Gradients of the ops of image models against finite differences.
#include "finite_differences.h"

#include <stdio.h>

static float inputs[MOST_INPUTS], output_weights[MOST_INPUTS]; // of the function; of its sum of outputs

// Device memory of one check: arrays of as many floats as the function may have inputs.
enum { ARRAYS = 8 };
typedef struct Memory {
    float *inputs, *y, *dy, *gradient, *rest[ARRAYS];
} Memory;

static void open_memory(LsDevice *device, Memory *m)
{
    *m = (Memory){allocate(device, MOST_INPUTS), allocate(device, MOST_INPUTS), allocate(device, MOST_INPUTS),
        allocate(device, MOST_INPUTS), {NULL}};
    for (size_t i = 0; i < ARRAYS; i++)
        m->rest[i] = allocate(device, MOST_INPUTS);
    copy_in(device, m->inputs, inputs, sizeof inputs);
    copy_in(device, m->dy, output_weights, sizeof output_weights);
}

static void close_memory(LsDevice *device, const Memory *m)
{
    float *const all[] = {m->inputs, m->y, m->dy, m->gradient};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
    for (size_t i = 0; i < ARRAYS; i++)
        device->ops->release(device, m->rest[i]);
}

typedef void (*Run)(LsDevice *device, const Memory *m); // leaves the gradient of inputs

// The function's first n inputs, of every device. A case of its own numbers.
static void check_on_devices(
    Run run, double (*f)(const double *x), size_t n, double tolerance, uint32_t number)
{
    random_numbers(inputs, MOST_INPUTS, 100 + 2 * number);
    random_numbers(output_weights, MOST_INPUTS, 101 + 2 * number);
    for (int d = 0; d < device_count; d++) {
        Memory m;
        float host[MOST_INPUTS];
        open_memory(devices[d], &m);
        run(devices[d], &m);
        copy_out(devices[d], host, m.gradient, n * sizeof *host);
        check_gradient(f, inputs, n, 0, n, host, tolerance, devices[d]->ops->name);
        close_memory(devices[d], &m);
    }
}

// ---- Windows --------------------------------------------------------------------------------------------

static LsConvolutionShape shape;

static size_t high(void)
{
    return ls_image_places(&shape.window, shape.window.height);
}

static size_t wide(void)
{
    return ls_image_places(&shape.window, shape.window.width);
}

static size_t values_in(void)
{
    return shape.window.rows * shape.window.height * shape.window.width * shape.in;
}

// Channel 0 of element (i, j) of the window at (h, w) of image r; NULL: it is on the padding.
static const double *element(const double *x, size_t r, size_t h, size_t w, size_t i, size_t j)
{
    const LsImageWindow *window = &shape.window;
    size_t line = h * window->stride + i - window->padding; // wraps around on the padding
    size_t column = w * window->stride + j - window->padding;
    if (line >= window->height || column >= window->width)
        return NULL;
    return x + ((r * window->height + line) * window->width + column) * shape.in;
}

// What a window makes of the images for an output channel.
typedef double (*Window)(const double *v, size_t r, size_t h, size_t w, size_t channel);

static double sum_of_windows(const double *v, Window window, size_t channels)
{
    double total = 0;
    size_t n = 0;
    for (size_t r = 0; r < shape.window.rows; r++)
        for (size_t h = 0; h < high(); h++)
            for (size_t w = 0; w < wide(); w++)
                for (size_t c = 0; c < channels; c++)
                    total += output_weights[n++] * window(v, r, h, w, c);
    return total;
}

// ---- Convolutions: images, then filters [out][kernel][kernel][in] ---------------------------------------

static double filtered(const double *v, size_t r, size_t h, size_t w, size_t channel)
{
    size_t kernel = shape.window.kernel;
    const double *filter = v + values_in() + channel * kernel * kernel * shape.in;
    double sum = 0;
    for (size_t i = 0; i < kernel; i++)
        for (size_t j = 0; j < kernel; j++, filter += shape.in) {
            const double *x = element(v, r, h, w, i, j);
            for (size_t c = 0; x && c < shape.in; c++)
                sum += x[c] * filter[c];
        }
    return sum;
}

static double convolution_value(const double *v)
{
    return sum_of_windows(v, filtered, shape.out);
}

static void run_convolution(LsDevice *device, const Memory *m)
{
    LsConvolutionBackwardData data = {
        .shape = shape, .dy = m->dy, .weight = m->inputs + values_in(), .dx = m->gradient, .type = LS_F32};
    LsConvolutionBackwardWeights weights = {.shape = shape,
        .x = m->inputs,
        .dy = m->dy,
        .type = LS_F32,
        .dweight = m->gradient + values_in(),
        .scratch = m->rest[0]};
    assert_int_equal(device->ops->convolution_backward_data(device, &data), LS_OK);
    assert_int_equal(device->ops->convolution_backward_weights(device, &weights), LS_OK);
}

static void convolutions(void **unused)
{
    (void)unused;
    // Images, sides, window; channels in and out. Stems, shortcuts, blocks, and windows that leave gaps.
    static const LsConvolutionShape shapes[] = {{{1, 9, 8, 7, 2, 3}, 3, 2}, {{2, 5, 6, 3, 1, 1}, 3, 4},
        {{2, 6, 7, 3, 2, 1}, 4, 5}, {{2, 5, 4, 1, 1, 0}, 6, 7}, {{2, 7, 6, 1, 2, 0}, 5, 3},
        {{1, 11, 8, 2, 3, 0}, 3, 4}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        shape = shapes[i];
        size_t n = values_in() + ls_convolution_scratch(&shape) / sizeof(float);
        assert_true(shape.window.rows * high() * wide() * shape.out <= MOST_INPUTS);
        // Sums of at most 75 products (a filter's over places): within 1e-5 of their size, a hundred
        // roundings.
        check_on_devices(run_convolution, convolution_value, n, 1e-5, (uint32_t)i);
    }
}

// ---- Pooling --------------------------------------------------------------------------------------------

static double largest(const double *v, size_t r, size_t h, size_t w, size_t channel)
{
    double most = -INFINITY;
    for (size_t i = 0; i < shape.window.kernel; i++)
        for (size_t j = 0; j < shape.window.kernel; j++) {
            const double *x = element(v, r, h, w, i, j);
            if (x && x[channel] > most)
                most = x[channel];
        }
    return most;
}

static double max_pool_value(const double *v)
{
    return sum_of_windows(v, largest, shape.in);
}

static void run_max_pool(LsDevice *device, const Memory *m)
{
    uint8_t *place = (uint8_t *)m->rest[0];
    LsMaxPool forward = {.window = shape.window,
        .channels = shape.in,
        .x = m->inputs,
        .y = m->y,
        .place = place,
        .type = LS_F32};
    LsMaxPoolBackward backward = {.window = shape.window,
        .channels = shape.in,
        .dy = m->dy,
        .place = place,
        .dx = m->gradient,
        .type = LS_F32};
    assert_int_equal(device->ops->max_pool(device, &forward), LS_OK);
    assert_int_equal(device->ops->max_pool_backward(device, &backward), LS_OK);
}

// Random numbers of one window are further apart than the difference's step.
static void max_pools(void **unused)
{
    (void)unused;
    static const LsConvolutionShape shapes[] = {
        {{2, 9, 8, 3, 2, 1}, 5, 0}, {{1, 7, 7, 3, 1, 1}, 4, 0}, {{2, 8, 6, 2, 2, 0}, 3, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        shape = shapes[i];
        // Sums of up to nine weights.
        check_on_devices(run_max_pool, max_pool_value, values_in(), 1e-6, 10 + (uint32_t)i);
    }
}

enum { IMAGES = 3, PLACES = 35, CHANNELS = 7 };

static double average_pool_value(const double *v)
{
    double total = 0;
    for (size_t r = 0; r < IMAGES; r++)
        for (size_t p = 0; p < PLACES; p++)
            for (size_t c = 0; c < CHANNELS; c++)
                total += v[(r * PLACES + p) * CHANNELS + c] / PLACES * output_weights[r * CHANNELS + c];
    return total;
}

static void run_average_pool(LsDevice *device, const Memory *m)
{
    LsAveragePoolBackward backward = {.rows = IMAGES,
        .places = PLACES,
        .channels = CHANNELS,
        .dy = m->dy,
        .dx = m->gradient,
        .type = LS_F32};
    assert_int_equal(device->ops->average_pool_backward(device, &backward), LS_OK);
}

static void average_pools(void **unused)
{
    (void)unused;
    // One division.
    check_on_devices(run_average_pool, average_pool_value, (size_t)IMAGES * PLACES * CHANNELS, 1e-6, 20);
}

// ---- Batch normalisation: sum of weights × activation(normal × gamma + beta + residual) -----------------

// x and residual [PLACES][CHANNELS], gamma and beta [CHANNELS], one after the other. The weights of the sum
// come in two parts, as gradients that reached the output by two ways.
enum {
    NORM = PLACES * CHANNELS,
    RESIDUAL = NORM,
    GAMMA = 2 * NORM,
    BETA = GAMMA + CHANNELS,
    NORM_INPUTS = BETA + CHANNELS
};
static const size_t OTHER = NORM; // where the second part begins
static bool adds_residual, two_gradients;
static LsActivation activation;

static double before_activation(const double *v, size_t place, size_t c, double mean, double variance)
{
    size_t i = place * CHANNELS + c;
    double normal = (v[i] - mean) / sqrt(variance + (double)LS_BATCH_NORM_EPSILON);
    return normal * v[GAMMA + c] + v[BETA + c] + (adds_residual ? v[RESIDUAL + i] : 0);
}

static double norm_channel(const double *v, size_t c)
{
    double mean = 0, variance = 0, total = 0;
    for (size_t p = 0; p < PLACES; p++)
        mean += v[p * CHANNELS + c] / PLACES;
    for (size_t p = 0; p < PLACES; p++)
        variance += (v[p * CHANNELS + c] - mean) * (v[p * CHANNELS + c] - mean) / PLACES;
    for (size_t p = 0; p < PLACES; p++) {
        double y = before_activation(v, p, c, mean, variance);
        double weight = output_weights[p * CHANNELS + c];
        if (two_gradients)
            weight += output_weights[OTHER + p * CHANNELS + c];
        // So far from 0 rounding decides nothing, and no step of a difference leads across.
        assert_true(fabs(y) > 1e-4 || activation == LS_IDENTITY);
        total += weight * (activation == LS_RELU && y < 0 ? 0 : y);
    }
    return total;
}

static double norm_value(const double *v)
{
    double total = 0;
    for (size_t c = 0; c < CHANNELS; c++)
        total += norm_channel(v, c);
    return total;
}

static void run_norm(LsDevice *device, const Memory *m)
{
    float *mean = m->rest[0], *variance = m->rest[1], *scratch = m->rest[2];
    LsBatchNorm forward = {.places = PLACES,
        .channels = CHANNELS,
        .x = m->inputs,
        .gamma = m->inputs + GAMMA,
        .beta = m->inputs + BETA,
        .residual = adds_residual ? m->inputs + RESIDUAL : NULL,
        .activation = activation,
        .y = m->y,
        .type = LS_F32,
        .mean = mean,
        .variance = variance,
        .scratch = scratch};
    LsBatchNormBackward backward = {.places = PLACES,
        .channels = CHANNELS,
        .x = m->inputs,
        .y = m->y,
        .dy = m->dy,
        .other = two_gradients ? m->dy + OTHER : NULL,
        .gamma = m->inputs + GAMMA,
        .mean = mean,
        .variance = variance,
        .activation = activation,
        .dresidual = adds_residual ? m->gradient + RESIDUAL : NULL,
        .dx = m->gradient,
        .dgamma = m->gradient + GAMMA,
        .dbeta = m->gradient + BETA,
        .type = LS_F32,
        .scratch = scratch};
    assert_true(ls_batch_norm_scratch(PLACES, CHANNELS) <= MOST_INPUTS * sizeof(float));
    assert_int_equal(device->ops->zero(device, m->gradient, MOST_INPUTS * sizeof(float)), LS_OK);
    assert_int_equal(device->ops->batch_norm(device, &forward), LS_OK);
    assert_int_equal(device->ops->batch_norm_backward(device, &backward), LS_OK);
}

static void batch_norms(void **unused)
{
    (void)unused;
    for (uint32_t variant = 0; variant < 8; variant++) {
        activation = variant & 1 ? LS_RELU : LS_IDENTITY;
        adds_residual = variant & 2;
        two_gradients = variant & 4;
        // Sums of 35 terms, and statistics of as many, in every factor: a hundred roundings.
        check_on_devices(run_norm, norm_value, NORM_INPUTS, 1e-5, 40 + variant);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(convolutions), cmocka_unit_test(max_pools),
        cmocka_unit_test(average_pools), cmocka_unit_test(batch_norms)};
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
