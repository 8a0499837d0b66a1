// __half and __nv_bfloat16 of the emulated GPU: every pattern, every rounding decision, against the
// conversions of the runtime, which are written another way.
#include "kernel_test.h"

#include <math.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" {
#include "device/tensor.h"
}

namespace
{

struct HalfFormat {
    typedef __half Number;
    static float ours(unsigned short bits)
    {
        return __half2float(__ushort_as_half(bits));
    }
    static unsigned short ours(float value)
    {
        return __half_as_ushort(__float2half_rn(value));
    }
    static unsigned short ours(double value)
    {
        return __half_as_ushort(__double2half(value));
    }
    static float theirs(unsigned short bits)
    {
        return ls_f16_to_f32(bits);
    }
    static unsigned short theirs(float value)
    {
        return ls_f32_to_f16(value);
    }
    static const unsigned short infinity = 0x7c00;
};

struct Bfloat16Format {
    typedef __nv_bfloat16 Number;
    static float ours(unsigned short bits)
    {
        return __bfloat162float(__ushort_as_bfloat16(bits));
    }
    static unsigned short ours(float value)
    {
        return __bfloat16_as_ushort(__float2bfloat16(value));
    }
    static unsigned short ours(double value)
    {
        return __bfloat16_as_ushort(__double2bfloat16(value));
    }
    static float theirs(unsigned short bits)
    {
        return ls_bf16_to_f32(bits);
    }
    static unsigned short theirs(float value)
    {
        return ls_f32_to_bf16(value);
    }
    static const unsigned short infinity = 0x7f80;
};

template <typename Format> bool is_nan(unsigned short bits)
{
    return (bits & 0x7fff) > Format::infinity;
}

// The bits of a NaN are the GPU's one, whatever the runtime's conversion makes of it.
template <typename Format> void check_rounding(float value)
{
    unsigned short got = Format::ours(value), expected = Format::theirs(value);
    if (isnan(value))
        expected = 0x7fff;
    if (got != expected)
        fail_msg("%a became 0x%04x instead of 0x%04x", value, got, expected);
}

template <typename Format> void every_pattern_converts(void **)
{
    for (unsigned bits = 0; bits < 65536; bits++) {
        unsigned short b = (unsigned short)bits;
        float got = Format::ours(b), expected = Format::theirs(b);
        if (is_nan<Format>(b)) {
            assert_true(isnan(got));
            continue;
        }
        assert_int_equal(__float_as_uint(got), __float_as_uint(expected));
        assert_int_equal(Format::ours(got), bits);
        assert_int_equal(Format::ours((double)got), bits);
    }
}

// The number halfway to the next pattern, in float and therefore exact, its neighbours, and every 251st
// float.
template <typename Format> void every_rounding_decision_is_right(void **)
{
    for (unsigned bits = 0; bits + 1 <= Format::infinity; bits++)
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            float low = Format::theirs((unsigned short)(bits | sign));
            float high = Format::theirs((unsigned short)((bits + 1) | sign));
            if (isinf(high)) // where the pattern after the largest number would be
                high = low + (low - Format::theirs((unsigned short)((bits - 1) | sign)));
            float middle = low + (high - low) / 2;
            check_rounding<Format>(middle);
            check_rounding<Format>(nextafterf(middle, low));
            check_rounding<Format>(nextafterf(middle, high));
            // A double that float would round onto the middle must still go to its own side.
            if (!isinf(high) && middle != 0) {
                double near_low = nextafter((double)middle, (double)low);
                double near_high = nextafter((double)middle, (double)high);
                assert_int_equal(Format::ours(near_low), bits | sign);
                assert_int_equal(Format::ours(near_high), (bits + 1) | sign);
            }
        }
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 251)
        check_rounding<Format>(__uint_as_float((unsigned)bits));
}

// Sums and products of such numbers are exact in double, and quotients are further from any halfway point
// than double's error, so the conversion from double gives the correctly rounded result.
template <typename Format> void arithmetic_is_rounded_once(void **)
{
    typedef typename Format::Number Number;
    uint64_t state = 12345;
    for (int i = 0; i < 500000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        unsigned short a = (unsigned short)(state >> 32), b = (unsigned short)(state >> 48);
        Number x = Number(Format::ours(a)), y = Number(Format::ours(b));
        double p = (double)Format::ours(a), q = (double)Format::ours(b);
        if (is_nan<Format>(a) || is_nan<Format>(b) || isnan(p + q) || isnan(p - q) || isnan(p * q) ||
            q == 0 || isnan(p / q))
            continue;
        assert_int_equal(Format::ours((float)(x + y)), Format::ours(p + q));
        assert_int_equal(Format::ours((float)(x - y)), Format::ours(p - q));
        assert_int_equal(Format::ours((float)(x * y)), Format::ours(p * q));
        assert_int_equal(Format::ours((float)(x / y)), Format::ours(p / q));
        assert_int_equal(x < y, p < q);
        assert_int_equal(x == y, p == q);
        assert_int_equal(__hge(x, y), p >= q);
        assert_true((float)__hmax(x, y) == (float)fmax(p, q));
        assert_true((float)__hmin(x, y) == (float)fmin(p, q));
        assert_true((float)-x == (float)-p && (float)__habs(x) == (float)fabs(p));
    }
}

void pairs_keep_their_order(void **)
{
    __half2 h = __floats2half2_rn(1.0f, 2.0f);
    float2 f = __half22float2(h);
    assert_true(f.x == 1 && f.y == 2 && __low2float(h) == 1 && __high2float(h) == 2);
    assert_true((float)__low2half(__halves2half2(__float2half(3), __float2half(4))) == 3);
    __nv_bfloat162 b = __float22bfloat162_rn(make_float2(5.0f, 6.0f)), sum = b + b;
    f = __bfloat1622float2(sum);
    assert_true(f.x == 10 && f.y == 12 && (float)__high2bfloat16(b) == 6);
    uint32_t word;
    memcpy(&word, &h, 4);
    assert_int_equal(word, 0x40003c00u); // the first is in the lower half
}

void specials(void **)
{
    assert_true(__hisnan(__ushort_as_half(0x7e00)) && !__hisnan(__ushort_as_half(0x7c00)));
    assert_int_equal(__hisinf(__ushort_as_half(0xfc00)), -1);
    assert_int_equal(__hisinf(__ushort_as_bfloat16(0x7f80)), 1);
    assert_int_equal(__half_as_ushort(__float2half(65519.0f)), 0x7bff);
    assert_int_equal(__half_as_ushort(__float2half(65520.0f)), 0x7c00);
    assert_int_equal(__half_as_ushort(__float2half(-0x1p-25f)), 0x8000);
    assert_int_equal(__half_as_ushort(__float2half(0x1.8p-25f)), 1);
    __half nan = __ushort_as_half(0x7fff), one = __float2half(1.0f);
    assert_true((float)__hmax(nan, one) == 1 && (float)__hmin(one, nan) == 1 && !(nan == nan) && nan != nan);
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_converts<HalfFormat>),
        cmocka_unit_test(every_pattern_converts<Bfloat16Format>),
        cmocka_unit_test(every_rounding_decision_is_right<HalfFormat>),
        cmocka_unit_test(every_rounding_decision_is_right<Bfloat16Format>),
        cmocka_unit_test(arithmetic_is_rounded_once<HalfFormat>),
        cmocka_unit_test(arithmetic_is_rounded_once<Bfloat16Format>),
        cmocka_unit_test(pairs_keep_their_order),
        cmocka_unit_test(specials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
