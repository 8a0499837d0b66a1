// float16 conversion, exhaustively.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "device/tensor.h"

enum { PATTERNS = 65536, INFINITE = 0x7c00, SIGN = 0x8000 };

// What the pattern means, from the definition of the format.
static double meaning(uint16_t pattern)
{
    int exponent = pattern >> 10 & 31, mantissa = pattern & 1023;
    double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(mantissa, -24)
                                       : ldexp(1024 + mantissa, exponent - 25);
    return pattern & SIGN ? -magnitude : magnitude;
}

static void every_pattern_converts_and_comes_back(void **unused)
{
    (void)unused;
    for (uint32_t p = 0; p < PATTERNS; p++) {
        uint16_t pattern = (uint16_t)p;
        float value = ls_f16_to_f32(pattern);
        uint16_t back = ls_f32_to_f16(value);
        if (isnan(meaning(pattern))) {
            assert_true(isnan(value) && isnan(meaning(back)));
            assert_int_equal(back & SIGN, pattern & SIGN);
            continue;
        }
        assert_true(value == meaning(pattern));
        assert_int_equal(ls_f32_to_bits(value) >> 31, pattern >> 15); // zero has a sign, too
        assert_int_equal(back, pattern);
    }
}

// Between two neighbours: the middle goes to the even one, what is next to it to the nearer one.
static void every_tie_rounds_to_even(void **unused)
{
    (void)unused;
    for (uint16_t low = 0; low < INFINITE; low++) {
        uint16_t high = (uint16_t)(low + 1);
        // Infinity stands where the next number, 2^16, would be.
        double above = high == INFINITE ? 65536 : meaning(high);
        float middle = (float)((meaning(low) + above) / 2);
        assert_true(middle == (meaning(low) + above) / 2); // a float32 has room for it
        for (int sign = 0; sign < 2; sign++) {
            uint16_t bit = sign ? SIGN : 0;
            float way = sign ? -1.0f : 1.0f;
            assert_int_equal(ls_f32_to_f16(way * middle), (low & 1 ? high : low) | bit);
            assert_int_equal(ls_f32_to_f16(way * nextafterf(middle, 0)), low | bit);
            assert_int_equal(ls_f32_to_f16(way * nextafterf(middle, INFINITY)), high | bit);
        }
    }
}

static void numbers_round_to_the_nearest(void **unused)
{
    (void)unused;
    LsRngKey key = ls_rng_key(7, 1);
    for (uint32_t i = 0; i < 1u << 20; i++) {
        // Any sign and mantissa, an exponent from below the least subnormal number to above the largest.
        uint32_t word = ls_rng_u32(key, 0, i);
        uint32_t exponent = 127 - 27 + (word >> 23 & 0xffu) % 45;
        float value = ls_bits_to_f32((word & 0x807fffffu) | exponent << 23);
        uint16_t got = ls_f32_to_f16(value), magnitude = got & 0x7fffu;
        if (magnitude == INFINITE) {
            assert_true(fabsf(value) >= 65520.0f);
            continue;
        }
        double error = fabs(meaning(magnitude) - fabs(value));
        double above = magnitude + 1 == INFINITE ? 65536 : meaning((uint16_t)(magnitude + 1));
        assert_true(error <= fabs(above - fabs(value)));
        if (magnitude > 0)
            assert_true(error <= fabs(meaning((uint16_t)(magnitude - 1)) - fabs(value)));
        assert_int_equal(got >> 15, ls_f32_to_bits(value) >> 31);
    }
}

static void extremes(void **unused)
{
    (void)unused;
    assert_int_equal(ls_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(ls_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(ls_f32_to_f16(65520.0f), INFINITE);
    assert_int_equal(ls_f32_to_f16(3e38f), INFINITE);
    assert_int_equal(ls_f32_to_f16(-INFINITY), INFINITE | SIGN);
    assert_int_equal(ls_f32_to_f16(0x1p-24f), 1);
    assert_int_equal(ls_f32_to_f16(0x1p-25f), 0); // half of the least, a tie
    assert_int_equal(ls_f32_to_f16(0x1.000002p-25f), 1);
    assert_int_equal(ls_f32_to_f16(0x1p-149f), 0); // a subnormal float32
    assert_int_equal(ls_f32_to_f16(-0x1p-149f), SIGN);
    // NaN stays NaN whichever of its bits are set.
    for (int bit = 0; bit < 23; bit++)
        for (uint32_t sign = 0; sign < 2; sign++)
            assert_true(isnan(meaning(ls_f32_to_f16(ls_bits_to_f32(sign << 31 | 0x7f800000u | 1u << bit)))));
}

// bfloat16 by the same test of ties, over all its numbers.
static void bfloat16_ties_round_to_even(void **unused)
{
    (void)unused;
    for (uint32_t low = 0; low < 0x7f7f; low++) {
        float middle = ls_bits_to_f32(low << 16 | 0x8000u);
        assert_int_equal(ls_f32_to_bf16(middle), low & 1 ? low + 1 : low);
        assert_int_equal(ls_f32_to_bf16(ls_bits_to_f32(low << 16 | 0x7fffu)), low);
        assert_int_equal(ls_f32_to_bf16(ls_bits_to_f32(low << 16 | 0x8001u)), low + 1);
    }
}

static void types_have_names_and_sizes(void **unused)
{
    (void)unused;
    assert_int_equal(ls_dtype_size(LS_F16), 2);
    assert_string_equal(ls_dtype_name(LS_F16), "float16");
    assert_int_equal(ls_dtype_size(LS_F32), 4);
    assert_string_equal(ls_dtype_name(LS_BF16), "bfloat16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_converts_and_comes_back),
        cmocka_unit_test(every_tie_rounds_to_even),
        cmocka_unit_test(numbers_round_to_the_nearest),
        cmocka_unit_test(extremes),
        cmocka_unit_test(bfloat16_ties_round_to_even),
        cmocka_unit_test(types_have_names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
