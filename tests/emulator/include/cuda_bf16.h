// __nv_bfloat16 and __nv_bfloat162 as CUDA has them: the upper half of a float, conversions round to nearest
// even, NaN becomes the one NaN that the GPU's conversion gives.
#ifndef LOCKSTEP_EMULATOR_CUDA_BF16_H
#define LOCKSTEP_EMULATOR_CUDA_BF16_H

#include <cuda_runtime.h>

#ifdef __cplusplus

#include <kernel_float16.h>

static inline unsigned short ls_emulator_float_to_bfloat16(float value)
{
    unsigned int bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float ls_emulator_bfloat16_to_float(unsigned short bits)
{
    return __uint_as_float((unsigned int)bits << 16);
}

struct __nv_bfloat16_raw {
    unsigned short x;
};

struct __attribute__((aligned(2))) __nv_bfloat16 {
    __nv_bfloat16() = default;
    constexpr __nv_bfloat16(const __nv_bfloat16_raw &raw) : __x(raw.x)
    {
    }
    __nv_bfloat16(float value) : __x(ls_emulator_float_to_bfloat16(value))
    {
    }
    __nv_bfloat16(double value) : __x(ls_emulator_float_to_bfloat16(ls_emulator_double_to_odd_float(value)))
    {
    }
    __nv_bfloat16(int value) : __nv_bfloat16((double)value)
    {
    }
    operator float() const
    {
        return ls_emulator_bfloat16_to_float(__x);
    }
    operator __nv_bfloat16_raw() const
    {
        return __nv_bfloat16_raw{__x};
    }

  protected:
    unsigned short __x;
};

struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    constexpr __nv_bfloat162(const __nv_bfloat16 &low, const __nv_bfloat16 &high) : x(low), y(high)
    {
    }
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    return __nv_bfloat16(value);
}

static inline __nv_bfloat16 __float2bfloat16(float value)
{
    return __nv_bfloat16(value);
}

static inline __nv_bfloat16 __double2bfloat16(double value)
{
    return __nv_bfloat16(value);
}

static inline __nv_bfloat16 __int2bfloat16_rn(int value)
{
    return __nv_bfloat16(value);
}

static inline float __bfloat162float(__nv_bfloat16 value)
{
    return (float)value;
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value)
{
    return ((__nv_bfloat16_raw)value).x;
}

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return __nv_bfloat16(__nv_bfloat16_raw{bits});
}

static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high)
{
    return __nv_bfloat162(low, high);
}

static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value)
{
    return __nv_bfloat162(value, value);
}

static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair)
{
    return pair.x;
}

static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair)
{
    return pair.y;
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high)
{
    return __nv_bfloat162(__nv_bfloat16(low), __nv_bfloat16(high));
}

static inline __nv_bfloat162 __float2bfloat162_rn(float value)
{
    return __floats2bfloat162_rn(value, value);
}

static inline __nv_bfloat162 __float22bfloat162_rn(float2 pair)
{
    return __floats2bfloat162_rn(pair.x, pair.y);
}

static inline float2 __bfloat1622float2(__nv_bfloat162 pair)
{
    return make_float2((float)pair.x, (float)pair.y);
}

LS_EMULATED_FLOAT16(__nv_bfloat16, __nv_bfloat162, __ushort_as_bfloat16, __bfloat16_as_ushort)

#endif

#endif
