// Ops of image models where numbers are not ordinary: equal maxima, zeros of both signs, infinities, NaN.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "device_group.h"

// Channels that are neither a lane of the cpu device's vectors nor a group of a GPU's.
enum { IMAGES = 2, SIDE = 11, CHANNELS = 37, VALUES = IMAGES * SIDE * SIDE * CHANNELS };

static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};
enum { TYPES = sizeof types / sizeof *types };

// Few different numbers, which every type holds exactly, so that windows have several largest ones.
static void fill(float x[VALUES])
{
    static const float numbers[] = {-1, -0.0f, 0, 0.5f, 2, 2, NAN, -INFINITY, INFINITY};
    LsRngKey key = ls_rng_key(3, 1);
    for (size_t i = 0; i < VALUES; i++) {
        // Some channels have few numbers only: NaN, infinities or maxima are not in every window.
        size_t most = 3 + i % CHANNELS % 7;
        x[i] = numbers[ls_rng_below(key, 0, i, most)];
    }
}

static uint16_t narrow(float value, LsDtype type)
{
    return type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

static void encode(const float *from, size_t n, LsDtype type, void *to)
{
    for (size_t i = 0; i < n; i++)
        if (type == LS_F32)
            ((float *)to)[i] = from[i];
        else
            ((uint16_t *)to)[i] = narrow(from[i], type);
}

static float decode(const void *from, size_t i, LsDtype type)
{
    if (type == LS_F32)
        return ((const float *)from)[i];
    uint16_t bits = ((const uint16_t *)from)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

// ---- Maxima ---------------------------------------------------------------------------------------------

static const LsImageWindow windows[] = {
    {IMAGES, SIDE, SIDE, 3, 2, 1}, {IMAGES, SIDE, SIDE, 2, 2, 0}, {IMAGES, SIDE, SIDE, 5, 1, 4}};

typedef struct Pooled {
    size_t count;            // of results
    float y[4 * VALUES];     // what the header promises
    size_t from[4 * VALUES]; // element of x that each maximum is
    uint8_t place[4 * VALUES];
    float dy[4 * VALUES], dx[VALUES];
} Pooled;

// Whether `value` takes the place of what was the maximum before it: the first NaN, else the first largest.
static bool takes(float value, float largest)
{
    return !isnan(largest) && (isnan(value) || value > largest);
}

static void expect_window(
    const LsImageWindow *window, const float *x, size_t r, size_t h, size_t w, size_t c, Pooled *out)
{
    size_t n = out->count++;
    bool found = false;
    for (size_t e = 0; e < window->kernel * window->kernel; e++) {
        size_t line =
            h * window->stride + e / window->kernel - window->padding; // wraps around on the padding
        size_t column = w * window->stride + e % window->kernel - window->padding;
        if (line >= SIDE || column >= SIDE)
            continue;
        size_t at = ((r * SIDE + line) * SIDE + column) * CHANNELS + c;
        if (found && !takes(x[at], out->y[n]))
            continue;
        found = true;
        out->y[n] = x[at];
        out->from[n] = at;
        out->place[n] = (uint8_t)e;
    }
    out->dy[n] = (float)(1 + n % 5);
    out->dx[out->from[n]] += out->dy[n];
}

static void expect(const LsImageWindow *window, const float *x, Pooled *out)
{
    size_t places = ls_image_places(window, SIDE);
    memset(out, 0, sizeof *out);
    assert_true(IMAGES * places * places * CHANNELS <= sizeof out->y / sizeof *out->y);
    for (size_t r = 0; r < IMAGES; r++)
        for (size_t h = 0; h < places; h++)
            for (size_t w = 0; w < places; w++)
                for (size_t c = 0; c < CHANNELS; c++)
                    expect_window(window, x, r, h, w, c, out);
}

static void read_back(LsDevice *device, void *host, const void *memory, size_t bytes)
{
    assert_int_equal(device->ops->copy_out(device, host, memory, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

static void check_forward(
    LsDevice *device, const LsImageWindow *window, LsDtype type, const float *x, const Pooled *expected)
{
    static float raw[4 * VALUES], got[4 * VALUES];
    static uint8_t place[4 * VALUES];
    encode(x, VALUES, type, raw);
    void *on_x = on_device(device, raw, VALUES * ls_dtype_size(type));
    void *on_y = on_device(device, raw, expected->count * ls_dtype_size(type));
    void *on_place = on_device(device, raw, expected->count);
    LsMaxPool args = {
        .window = *window, .channels = CHANNELS, .x = on_x, .y = on_y, .place = on_place, .type = type};
    assert_int_equal(device->ops->max_pool(device, &args), LS_OK);
    read_back(device, got, on_y, expected->count * ls_dtype_size(type));
    read_back(device, place, on_place, expected->count);
    for (size_t i = 0; i < expected->count; i++) {
        float y = decode(got, i, type);
        bool same =
            isnan(expected->y[i]) ? isnan(y) : y == expected->y[i] && !signbit(y) == !signbit(expected->y[i]);
        if (!same || place[i] != expected->place[i])
            fail_msg("%s, %s: maximum %zu is %g at %u, not %g at %u", device->ops->name, ls_dtype_name(type),
                i, (double)y, place[i], (double)expected->y[i], expected->place[i]);
    }
    device->ops->release(device, on_x);
    device->ops->release(device, on_y);
    device->ops->release(device, on_place);
}

// Every gradient goes to one element, also that of a NaN; a NaN among gradients to one as well.
static void check_backward(
    LsDevice *device, const LsImageWindow *window, LsDtype type, const Pooled *expected, size_t poisoned)
{
    static float raw[4 * VALUES], got[VALUES];
    encode(expected->dy, expected->count, type, raw);
    const float nan = NAN;
    encode(&nan, 1, type, (char *)raw + poisoned * ls_dtype_size(type));
    void *on_dy = on_device(device, raw, expected->count * ls_dtype_size(type));
    void *on_dx = on_device(device, raw, VALUES * ls_dtype_size(type));
    void *on_place = on_device(device, expected->place, expected->count);
    LsMaxPoolBackward args = {
        .window = *window, .channels = CHANNELS, .dy = on_dy, .place = on_place, .dx = on_dx, .type = type};
    assert_int_equal(device->ops->max_pool_backward(device, &args), LS_OK);
    read_back(device, got, on_dx, VALUES * ls_dtype_size(type));
    for (size_t i = 0; i < VALUES; i++) {
        float dx = decode(got, i, type);
        // Sums of up to 25 whole numbers up to 5, which every type holds.
        if (i == expected->from[poisoned] ? !isnan(dx) : dx != expected->dx[i])
            fail_msg("%s, %s: gradient %zu is %g, not %g", device->ops->name, ls_dtype_name(type), i,
                (double)dx, (double)expected->dx[i]);
    }
    device->ops->release(device, on_dy);
    device->ops->release(device, on_dx);
    device->ops->release(device, on_place);
}

static void the_first_maximum_and_the_first_nan_win(void **unused)
{
    (void)unused;
    static float x[VALUES];
    static Pooled expected;
    fill(x);
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        expect(&windows[w], x, &expected);
        for (size_t t = 0; t < TYPES; t++)
            for (int d = 0; d < device_count; d++) {
                check_forward(devices[d], &windows[w], types[t], x, &expected);
                check_backward(devices[d], &windows[w], types[t], &expected, expected.count / 2);
            }
    }
}

// ---- Running variances ----------------------------------------------------------------------------------

enum { WIDE = 4 };

// y of one place of channels with x 512, gamma 1, beta 0 and the running mean 256.
static void normalize(LsDevice *device, LsDtype type, const float variances[WIDE], float y[WIDE])
{
    float numbers[5 * WIDE] = {0}, raw[5 * WIDE]; // x, gamma, beta, running
    size_t element = ls_dtype_size(type);
    void *scratch;
    for (size_t c = 0; c < WIDE; c++) {
        numbers[c] = 512, numbers[WIDE + c] = 1;
        numbers[3 * WIDE + 2 * c] = 256, numbers[3 * WIDE + 2 * c + 1] = variances[c];
    }
    encode(numbers, 5 * WIDE, type, raw);
    char *memory = on_device(device, raw, 5 * WIDE * element);
    assert_int_equal(device->ops->allocate(device, ls_batch_norm_scratch(1, WIDE), &scratch), LS_OK);
    LsBatchNorm args = {.places = 1,
        .channels = WIDE,
        .x = memory,
        .gamma = memory + WIDE * element,
        .beta = memory + 2 * WIDE * element,
        .running = memory + 3 * WIDE * element,
        .activation = LS_IDENTITY,
        .y = memory,
        .type = type,
        .scratch = scratch};
    assert_int_equal(device->ops->batch_norm(device, &args), LS_OK);
    read_back(device, raw, memory, WIDE * element);
    for (size_t c = 0; c < WIDE; c++)
        y[c] = decode(raw, c, type);
    device->ops->release(device, scratch);
    device->ops->release(device, memory);
}

static void running_variances_beyond_f16_count_as_its_largest_number(void **unused)
{
    (void)unused;
    static const float variances[WIDE] = {1, 131072, 1e9f, NAN};
    for (size_t t = 0; t < TYPES; t++)
        for (int d = 0; d < device_count; d++) {
            float y[WIDE];
            normalize(devices[d], types[t], variances, y);
            for (size_t c = 0; c < WIDE; c++) {
                double taken = types[t] == LS_F16 ? fmin(variances[c], 65504) : (double)variances[c];
                double expected = isnan(variances[c]) ? NAN : 256 / sqrt(taken + 1e-5);
                // Variance and y are rounded, to 2^-9 of them at the coarsest.
                if (isnan(expected) ? !isnan(y[c]) : !(fabs(y[c] - expected) <= expected * 0x1p-8))
                    fail_msg("%s, %s: %g, not %g, with the running variance %g", devices[d]->ops->name,
                        ls_dtype_name(types[t]), (double)y[c], expected, (double)variances[c]);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_maximum_and_the_first_nan_win),
        cmocka_unit_test(running_variances_beyond_f16_count_as_its_largest_number)};
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
