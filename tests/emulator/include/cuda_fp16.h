// __half and __half2 as CUDA has them: conversions round to nearest even, subnormal numbers are kept, NaN
// becomes the one NaN that the GPU's conversions give. Arithmetic is done in float and rounded once, which
// for +, -, *, / of 11-bit significands is the exact result rounded.
#ifndef LOCKSTEP_EMULATOR_CUDA_FP16_H
#define LOCKSTEP_EMULATOR_CUDA_FP16_H

#include <cuda_runtime.h>

#ifdef __cplusplus

#include <kernel_float16.h>

// A float as binary16 bits. Below 2^-14 the sum with 0.5 makes the adder round at binary16's last place.
static inline unsigned short ls_emulator_float_to_half(float value)
{
    unsigned int bits = __float_as_uint(value);
    unsigned int sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return 0x7fff;
    if (bits >= 0x477ff000u) // 65520: halfway from the largest number to 65536
        return (unsigned short)(sign | 0x7c00u);
    if (bits < 0x38800000u)
        return (unsigned short)(sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000u));
    return (unsigned short)(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13);
}

// The exponent is corrected by a product, which makes subnormal numbers normal at the same time.
static inline float ls_emulator_half_to_float(unsigned short bits)
{
    unsigned int magnitude = bits & 0x7fffu;
    if (magnitude > 0x7c00u)
        return __uint_as_float(0x7fffffffu);
    unsigned int sign = (unsigned int)(bits & 0x8000u) << 16;
    if (magnitude == 0x7c00u)
        return __uint_as_float(sign | 0x7f800000u);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

struct __half_raw {
    unsigned short x;
};

struct __attribute__((aligned(2))) __half {
    __half() = default;
    constexpr __half(const __half_raw &raw) : __x(raw.x)
    {
    }
    __half(float value) : __x(ls_emulator_float_to_half(value))
    {
    }
    __half(double value) : __x(ls_emulator_float_to_half(ls_emulator_double_to_odd_float(value)))
    {
    }
    __half(int value) : __half((double)value)
    {
    }
    operator float() const
    {
        return ls_emulator_half_to_float(__x);
    }
    operator __half_raw() const
    {
        return __half_raw{__x};
    }

  protected:
    unsigned short __x;
};

struct __attribute__((aligned(4))) __half2 {
    __half x, y;
    __half2() = default;
    constexpr __half2(const __half &low, const __half &high) : x(low), y(high)
    {
    }
};

typedef __half half;
typedef __half2 half2;

static inline __half __float2half_rn(float value)
{
    return __half(value);
}

static inline __half __float2half(float value)
{
    return __half(value);
}

static inline __half __double2half(double value)
{
    return __half(value);
}

static inline __half __int2half_rn(int value)
{
    return __half(value);
}

static inline float __half2float(__half value)
{
    return (float)value;
}

static inline unsigned short __half_as_ushort(__half value)
{
    return ((__half_raw)value).x;
}

static inline __half __ushort_as_half(unsigned short bits)
{
    return __half(__half_raw{bits});
}

static inline __half2 __halves2half2(__half low, __half high)
{
    return __half2(low, high);
}

static inline __half2 __half2half2(__half value)
{
    return __half2(value, value);
}

static inline __half __low2half(__half2 pair)
{
    return pair.x;
}

static inline __half __high2half(__half2 pair)
{
    return pair.y;
}

static inline __half2 __floats2half2_rn(float low, float high)
{
    return __half2(__half(low), __half(high));
}

static inline __half2 __float2half2_rn(float value)
{
    return __floats2half2_rn(value, value);
}

static inline __half2 __float22half2_rn(float2 pair)
{
    return __floats2half2_rn(pair.x, pair.y);
}

static inline float2 __half22float2(__half2 pair)
{
    return make_float2((float)pair.x, (float)pair.y);
}

LS_EMULATED_FLOAT16(__half, __half2, __ushort_as_half, __half_as_ushort)

#endif

#endif
