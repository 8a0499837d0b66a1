// Sums rounded to BF16 on every device, bit for bit: ties, subnormal numbers, overflow, infinities and NaN.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "test_devices.h"

enum { RANDOM = 4000, MOST = 5000 };

// Bits of F32 numbers: where rounding to BF16 does something special, each with either sign.
static const uint32_t special[] = {
    0,                                  // zero
    1, 0x7fff, 0x8000, 0x8001, 0x18000, // subnormal; the middles of the first two, the tie goes to even
    0x7fffff, 0x800000, 0x7f8000, 0x7f7fff, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001,
    0x3f817fff,                                     // one and what is around the next middles
    0x3fff8000, 0x3fffffff,                         // up to the next power of two
    0x7f7f0000, 0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, // the largest BF16 number, and what rounds up
    0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, // infinity, NaN
};
enum { SPECIAL = sizeof special / sizeof *special };

static LsDevice *devices[LS_TEST_DEVICES];
static int device_count;

static int open_devices(void **unused)
{
    (void)unused;
    device_count = ls_test_devices_open(LS_PRECISION_FP32, devices);
    return device_count == 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        ls_device_close(devices[d]);
    return 0;
}

// All pairs of special numbers, then numbers with random bits.
static size_t fill(uint32_t *left, uint32_t *right)
{
    size_t n = 0;
    for (size_t i = 0; i < 2 * SPECIAL; i++)
        for (size_t j = 0; j < 2 * SPECIAL; j++, n++) {
            left[n] = special[i / 2] | (uint32_t)(i % 2) << 31;
            right[n] = special[j / 2] | (uint32_t)(j % 2) << 31;
        }
    LsRngKey key = ls_rng_key(3, 1000);
    for (size_t i = 0; i < RANDOM / 2; i++, n++) {
        left[n] = ls_rng_u32(key, 0, i);
        right[n] = (left[n] & 0xff800000u) ^ (ls_rng_u32(key, 1, i) & 0x80ffffffu); // near in size
    }
    return n;
}

// From the definition alone: the BF16 numbers on either side, the nearer one, of two as near the even one.
static uint16_t nearest(float value)
{
    uint32_t bits = ls_f32_to_bits(value), below = bits >> 16, above = below + 1;
    if (isnan(value) || isinf(value))
        return (uint16_t)(below | (isnan(value) ? 0x40u : 0));
    double size = fabs((double)value), low = fabs((double)ls_bf16_to_f32((uint16_t)below));
    double high = (above & 0x7fffu) == 0x7f80u ? 0x1p128 : fabs((double)ls_bf16_to_f32((uint16_t)above));
    if (size - low == high - size)
        return (uint16_t)(below % 2 ? above : below);
    return (uint16_t)(size - low < high - size ? below : above);
}

static float narrow(float value)
{
    return ls_bf16_to_f32(nearest(value));
}

// One NaN is as good as another.
static bool same(uint16_t a, uint16_t b)
{
    bool nan = (a & 0x7fffu) > 0x7f80u;
    return nan ? (b & 0x7fffu) > 0x7f80u : a == b;
}

static void *copy_to(LsDevice *device, const void *from, size_t bytes)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, bytes, &memory), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, from, bytes), LS_OK);
    return memory;
}

// left + right on a device, in calls of `chunk` elements; of the second input's own sum where `alone`.
static void add(LsDevice *device, size_t n, const void *const *from, LsDtype type, LsDtype output_type,
    size_t chunk, bool alone, uint16_t *sums)
{
    static uint32_t result[MOST];
    const uint16_t pair[1][2] = {{0, 1}};
    size_t in_size = ls_dtype_size(type), out_size = ls_dtype_size(output_type);
    char *inputs[2] = {copy_to(device, from[0], n * in_size), copy_to(device, from[1], n * in_size)};
    char *output = copy_to(device, result, n * out_size);
    for (size_t first = 0; first < n; first += chunk) {
        const void *here[2] = {inputs[0] + first * in_size, inputs[1] + first * in_size};
        LsTreeAdd args = {.n = n - first < chunk ? n - first : chunk,
            .count = 2,
            .inputs = here,
            .adds = !alone,
            .pairs = pair,
            .result = alone,
            .output = output + first * out_size,
            .type = type,
            .output_type = output_type,
            .rounded = true};
        assert_int_equal(device->ops->tree_add(device, &args), LS_OK);
    }
    assert_int_equal(device->ops->copy_out(device, result, output, n * out_size), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    for (size_t i = 0; i < n; i++) {
        if (output_type == LS_F32)
            assert_int_equal(result[i] & 0xffffu, 0); // a BF16 number
        sums[i] = output_type == LS_F32 ? (uint16_t)(result[i] >> 16) : ((const uint16_t *)result)[i];
    }
    device->ops->release(device, output);
    device->ops->release(device, inputs[1]);
    device->ops->release(device, inputs[0]);
}

static void check(LsDtype type, LsDtype output_type, bool alone)
{
    static uint32_t left[MOST], right[MOST];
    static uint16_t left_half[MOST], right_half[MOST], sums[MOST];
    size_t n = fill(left, right);
    assert_in_range(n, 1, MOST);
    for (size_t i = 0; i < n; i++) {
        left_half[i] = nearest(ls_bits_to_f32(left[i]));
        right_half[i] = nearest(ls_bits_to_f32(right[i]));
    }
    const void *floats[2] = {left, right}, *halves[2] = {left_half, right_half};
    static const size_t chunks[] = {MOST, 515, 7};
    for (int d = 0; d < device_count; d++)
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            add(devices[d], n, type == LS_F32 ? floats : halves, type, output_type, chunks[c], alone, sums);
            for (size_t i = 0; i < n; i++) {
                float a = narrow(ls_bits_to_f32(left[i])), b = narrow(ls_bits_to_f32(right[i]));
                uint16_t wanted = nearest(alone ? b : a + b);
                if (!same(wanted, sums[i]))
                    fail_msg("%s: %08x + %08x is %04x, not %04x", devices[d]->ops->name, left[i], right[i],
                        sums[i], wanted);
            }
        }
}

static void check_types(bool alone)
{
    check(LS_F32, LS_F32, alone);
    check(LS_F32, LS_BF16, alone);
    check(LS_BF16, LS_F32, alone);
    check(LS_BF16, LS_BF16, alone);
}

static void sums_are_the_nearest_numbers(void **unused)
{
    (void)unused;
    check_types(false);
}

static void a_value_alone_is_rounded(void **unused)
{
    (void)unused;
    check_types(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_the_nearest_numbers),
        cmocka_unit_test(a_value_alone_is_rounded),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
