// FP16 numbers on every device: all of them, and the floats around the middle of each two neighbours.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "test_devices.h"

enum { HALVES = 1 << 16, AROUND = 3, FLOATS = HALVES * AROUND, TAIL = 7 };

static LsDevice *devices[LS_TEST_DEVICES];
static int device_count;
static uint16_t halves[HALVES], rounded[FLOATS];
static float floats[FLOATS], widened[HALVES];

static int open_devices(void **unused)
{
    (void)unused;
    device_count = ls_test_devices_open(LS_PRECISION_FP16, devices);
    for (uint32_t h = 0; h < HALVES; h++)
        halves[h] = (uint16_t)h;
    return device_count == 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        ls_device_close(devices[d]);
    return 0;
}

static void *copy_to(LsDevice *device, const void *from, size_t bytes)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, bytes, &memory), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, from, bytes), LS_OK);
    return memory;
}

static void copy_back(LsDevice *device, void *to, void *from, size_t bytes)
{
    assert_int_equal(device->ops->copy_out(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    device->ops->release(device, from);
}

// In calls of `chunk` elements: few are converted one by one, many in whole vectors.
static void cast(
    LsDevice *device, size_t n, const void *from, LsDtype from_type, void *to, LsDtype to_type, size_t chunk)
{
    char *in = copy_to(device, from, n * ls_dtype_size(from_type));
    char *out = copy_to(device, to, n * ls_dtype_size(to_type));
    for (size_t first = 0; first < n; first += chunk) {
        LsCast args = {.n = n - first < chunk ? n - first : chunk,
            .from = in + first * ls_dtype_size(from_type),
            .from_type = from_type,
            .to = out + first * ls_dtype_size(to_type),
            .to_type = to_type};
        assert_int_equal(device->ops->cast(device, &args), LS_OK);
    }
    copy_back(device, to, out, n * ls_dtype_size(to_type));
    device->ops->release(device, in);
}

static void every_number_is_widened_exactly(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        for (int tails = 0; tails < 2; tails++) {
            cast(devices[d], HALVES, halves, LS_F16, widened, LS_F32, tails ? TAIL : HALVES);
            for (uint32_t h = 0; h < HALVES; h++) {
                float expected = ls_f16_to_f32((uint16_t)h);
                if (isnan(expected) ? !isnan(widened[h])
                                    : ls_f32_to_bits(widened[h]) != ls_f32_to_bits(expected))
                    fail_msg("%s: %04x becomes %a, not %a", devices[d]->ops->name, h, (double)widened[h],
                        (double)expected);
            }
        }
}

// The middle between a number and the next larger one in magnitude, which is exact in float32, and the floats
// on either side of it.
static void fill_middles(void)
{
    for (uint32_t h = 0; h < HALVES; h++) {
        uint32_t sign = h & 0x8000u, magnitude = h & 0x7fffu;
        // Behind the largest number comes what would be next if the exponent went on.
        float low = ls_f16_to_f32((uint16_t)magnitude);
        float high = magnitude == 0x7bffu ? 65536.0f : ls_f16_to_f32((uint16_t)(magnitude + 1));
        uint32_t middle = ls_f32_to_bits(magnitude < 0x7c00u ? (low + high) / 2 : low);
        for (uint32_t i = 0; i < AROUND; i++)
            floats[h * AROUND + i] = ls_bits_to_f32((middle + i - 1) | sign << 16);
    }
}

static void every_middle_is_rounded_to_even(void **unused)
{
    (void)unused;
    fill_middles();
    for (int d = 0; d < device_count; d++)
        for (int tails = 0; tails < 2; tails++) {
            cast(devices[d], FLOATS, floats, LS_F32, rounded, LS_F16, tails ? TAIL : FLOATS);
            for (size_t i = 0; i < FLOATS; i++) {
                uint16_t expected = ls_f32_to_f16(floats[i]);
                if (isnan(floats[i]) ? (rounded[i] & 0x7fffu) <= 0x7c00u : rounded[i] != expected)
                    fail_msg("%s: %a becomes %04x, not %04x", devices[d]->ops->name, (double)floats[i],
                        rounded[i], expected);
            }
        }
}

// The loops of other ops convert in ways of their own: x + (-0) is x, NaN or not.
static void every_number_survives_an_op(void **unused)
{
    (void)unused;
    static uint16_t zeros[HALVES], sums[HALVES];
    for (size_t i = 0; i < HALVES; i++)
        zeros[i] = 0x8000u;
    for (int d = 0; d < device_count; d++) {
        LsDevice *device = devices[d];
        void *a = copy_to(device, halves, sizeof halves), *b = copy_to(device, zeros, sizeof zeros);
        LsAdd add = {.n = HALVES, .a = a, .b = b, .y = a, .type = LS_F16};
        assert_int_equal(device->ops->add(device, &add), LS_OK);
        copy_back(device, sums, a, sizeof sums);
        device->ops->release(device, b);
        for (uint32_t h = 0; h < HALVES; h++) {
            bool nan = (h & 0x7fffu) > 0x7c00u;
            if (nan ? (sums[h] & 0x7fffu) <= 0x7c00u : sums[h] != h)
                fail_msg("%s: %04x becomes %04x", device->ops->name, h, sums[h]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_is_widened_exactly),
        cmocka_unit_test(every_middle_is_rounded_to_even),
        cmocka_unit_test(every_number_survives_an_op),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
