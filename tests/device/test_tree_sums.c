// Sums along a tree on every device, bit for bit: short and long, and wherever they are put.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "test_devices.h"

enum { INPUTS = 4, LONG = 1 << 18, MOST = LONG + 64, GUARD = 16 };

static LsDevice *devices[LS_TEST_DEVICES];
static int device_count;
static float input[INPUTS][MOST], found[MOST + 2 * GUARD];

static int open_devices(void **unused)
{
    (void)unused;
    device_count = ls_test_devices_open(LS_PRECISION_FP32, devices);
    LsRngKey key = ls_rng_key(5, 1000);
    for (uint32_t i = 0; i < INPUTS; i++)
        for (size_t e = 0; e < MOST; e++) // of different size, so that another order has other bits
            input[i][e] = (float)ls_rng_u32(key, i, e) * (float)(1 + e % 7) / (float)(1u << (4 * i));
    return device_count == 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        ls_device_close(devices[d]);
    return 0;
}

static float *copy_to(LsDevice *device, const float *from, size_t elements)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, elements * sizeof *from, &memory), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, from, elements * sizeof *from), LS_OK);
    return memory;
}

// (0 + 1) + (2 + 3) over n elements. The sum goes `offset` elements behind the start of memory, or into the
// first input.
static void check(LsDevice *device, size_t n, size_t offset, bool in_place)
{
    static const uint16_t pairs[][2] = {{0, 1}, {2, 3}, {0, 2}};
    const void *inputs[INPUTS];
    for (int i = 0; i < INPUTS; i++)
        inputs[i] = copy_to(device, input[i], n);
    memset(found, 0, sizeof found);
    float *memory = copy_to(device, found, MOST + 2 * GUARD), *sum = memory + offset;
    LsTreeAdd args = {.n = n,
        .count = INPUTS,
        .inputs = inputs,
        .adds = 3,
        .pairs = pairs,
        .output = in_place ? (void *)inputs[0] : sum,
        .type = LS_F32,
        .output_type = LS_F32};
    assert_int_equal(device->ops->tree_add(device, &args), LS_OK);
    size_t from = in_place ? 0 : offset;
    assert_int_equal(device->ops->copy_out(device, found, in_place ? inputs[0] : memory,
                         (in_place ? n : MOST + 2 * GUARD) * sizeof *found),
        LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    for (size_t e = 0; e < n; e++) {
        float left = input[0][e] + input[1][e], right = input[2][e] + input[3][e], all = left + right;
        if (memcmp(&all, &found[from + e], sizeof all) != 0)
            fail_msg("%s: element %zu of %zu is %a, not %a", device->ops->name, e, n, (double)found[from + e],
                (double)all);
    }
    for (size_t e = 0; e < from; e++)
        assert_true(found[e] == 0);
    for (size_t e = from + n; e < MOST + 2 * GUARD && !in_place; e++)
        assert_true(found[e] == 0);
    device->ops->release(device, memory);
    for (int i = 0; i < INPUTS; i++)
        device->ops->release(device, (void *)inputs[i]);
}

static void sums_have_the_bits_of_the_tree(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        check(devices[d], 1000, 0, false);
        check(devices[d], LONG, 0, false); // from here on the cpu device writes past the caches …
        check(devices[d], LONG, 4, false); // … where the place is a whole line's
        check(devices[d], LONG + 5, GUARD, false);
        check(devices[d], LONG + 48, 0, true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_have_the_bits_of_the_tree)};
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
