// CUDA's arithmetic and bit intrinsics as a host compiler computes them. Included by cuda_runtime.h.
//
// Exactly rounded operations (__f*_rn, fmaf, sqrtf, conversions) give the GPU's bits. The functions of libm
// do not: CUDA's own differ from them by a few units in the last place, and so do the approximate intrinsics
// (__expf and so on), which are the accurate functions here.
#ifndef LOCKSTEP_EMULATOR_KERNEL_MATH_H
#define LOCKSTEP_EMULATOR_KERNEL_MATH_H

#include <limits>
#include <math.h> // the overloads of the global namespace too
#include <string.h>

// ---- Bits -----------------------------------------------------------------------------------------------

template <typename To, typename From> static inline To ls_emulator_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline unsigned int __float_as_uint(float x)
{
    return ls_emulator_bits<unsigned int>(x);
}

static inline int __float_as_int(float x)
{
    return ls_emulator_bits<int>(x);
}

static inline float __uint_as_float(unsigned int x)
{
    return ls_emulator_bits<float>(x);
}

static inline float __int_as_float(int x)
{
    return ls_emulator_bits<float>(x);
}

static inline long long __double_as_longlong(double x)
{
    return ls_emulator_bits<long long>(x);
}

static inline double __longlong_as_double(long long x)
{
    return ls_emulator_bits<double>(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned int)x) : 32;
}

static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}

static inline int __popc(unsigned int x)
{
    return __builtin_popcount(x);
}

static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

static inline unsigned int __brev(unsigned int x)
{
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}

static inline unsigned int __umulhi(unsigned int x, unsigned int y)
{
    return (unsigned int)((unsigned long long)x * y >> 32);
}

static inline int __mulhi(int x, int y)
{
    return (int)((long long)x * y >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}

// Shifts of 32 and more are taken modulo 32, as the instruction does.
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift)
{
    return (unsigned int)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}

static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift)
{
    return (unsigned int)(((unsigned long long)high << 32 | low) >> (shift & 31));
}

// Bytes of y:x chosen by the nibbles of s; bit 3 of a nibble replicates the byte's sign.
static inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s)
{
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned int out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned int selector = s >> (4 * i) & 15;
        unsigned int byte = (unsigned int)(bytes >> (8 * (selector & 7))) & 255;
        if (selector & 8)
            byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}

// ---- Exactly rounded arithmetic ---------------------------------------------------------------------------

static inline float __fadd_rn(float x, float y)
{
    return x + y;
}

static inline float __fsub_rn(float x, float y)
{
    return x - y;
}

static inline float __fmul_rn(float x, float y)
{
    return x * y;
}

static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}

static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

// Rounded twice, from an error far below half a unit of the float: never seen to differ from once.
static inline float __frsqrt_rn(float x)
{
    return (float)(1.0 / sqrt((double)x));
}

static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}

static inline double __dadd_rn(double x, double y)
{
    return x + y;
}

static inline double __dsub_rn(double x, double y)
{
    return x - y;
}

static inline double __dmul_rn(double x, double y)
{
    return x * y;
}

static inline double __ddiv_rn(double x, double y)
{
    return x / y;
}

static inline double __dsqrt_rn(double x)
{
    return sqrt(x);
}

static inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}

// ---- Conversions ------------------------------------------------------------------------------------------

static inline float __int2float_rn(int x)
{
    return (float)x;
}

static inline float __uint2float_rn(unsigned int x)
{
    return (float)x;
}

static inline float __ll2float_rn(long long x)
{
    return (float)x;
}

static inline float __ull2float_rn(unsigned long long x)
{
    return (float)x;
}

static inline float __double2float_rn(double x)
{
    return (float)x;
}

static inline double __int2double_rn(int x)
{
    return x;
}

static inline double __uint2double_rn(unsigned int x)
{
    return x;
}

static inline double __ll2double_rn(long long x)
{
    return (double)x;
}

static inline double __ull2double_rn(unsigned long long x)
{
    return (double)x;
}

// Out of range goes to the nearest end and NaN to 0, where C leaves both undefined.
template <typename Integer> static inline Integer ls_emulator_saturate(double x)
{
    using limits = std::numeric_limits<Integer>;
    if (isnan(x))
        return 0;
    if (x <= (double)limits::min())
        return limits::min();
    if (x >= (double)limits::max())
        return limits::max();
    return (Integer)x;
}

static inline int __float2int_rn(float x)
{
    return ls_emulator_saturate<int>(rint(x));
}

static inline int __float2int_rz(float x)
{
    return ls_emulator_saturate<int>(trunc(x));
}

static inline unsigned int __float2uint_rn(float x)
{
    return ls_emulator_saturate<unsigned int>(rint(x));
}

static inline unsigned int __float2uint_rz(float x)
{
    return ls_emulator_saturate<unsigned int>(trunc(x));
}

static inline int __double2int_rn(double x)
{
    return ls_emulator_saturate<int>(rint(x));
}

// ---- Functions --------------------------------------------------------------------------------------------

static inline float rsqrtf(float x)
{
    return __frsqrt_rn(x);
}

static inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}

static inline float __fdividef(float x, float y)
{
    return x / y;
}

// Macros, because glibc declares functions of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)

// NaN becomes 0, as the instruction has it.
static inline float __saturatef(float x)
{
    return fminf(fmaxf(x, 0.0f), 1.0f);
}

// min and max of two numbers; of a float and a NaN the float, as fminf. Mixed signedness is unsigned, as in
// CUDA's overloads and in C.
#define LS_MIN_MAX(type)                                                                                     \
    static inline type min(type x, type y)                                                                   \
    {                                                                                                        \
        return y < x ? y : x;                                                                                \
    }                                                                                                        \
    static inline type max(type x, type y)                                                                   \
    {                                                                                                        \
        return x < y ? y : x;                                                                                \
    }
LS_MIN_MAX(int)
LS_MIN_MAX(unsigned int)
LS_MIN_MAX(long)
LS_MIN_MAX(unsigned long)
LS_MIN_MAX(long long)
LS_MIN_MAX(unsigned long long)
#undef LS_MIN_MAX

static inline float min(float x, float y)
{
    return fminf(x, y);
}

static inline float max(float x, float y)
{
    return fmaxf(x, y);
}

static inline double min(double x, double y)
{
    return fmin(x, y);
}

static inline double max(double x, double y)
{
    return fmax(x, y);
}

static inline unsigned int umin(unsigned int x, unsigned int y)
{
    return min(x, y);
}

static inline unsigned int umax(unsigned int x, unsigned int y)
{
    return max(x, y);
}

#define LS_MIN_MAX_MIXED(narrow, wide)                                                                       \
    static inline wide min(narrow x, wide y)                                                                 \
    {                                                                                                        \
        return min((wide)x, y);                                                                              \
    }                                                                                                        \
    static inline wide min(wide x, narrow y)                                                                 \
    {                                                                                                        \
        return min(x, (wide)y);                                                                              \
    }                                                                                                        \
    static inline wide max(narrow x, wide y)                                                                 \
    {                                                                                                        \
        return max((wide)x, y);                                                                              \
    }                                                                                                        \
    static inline wide max(wide x, narrow y)                                                                 \
    {                                                                                                        \
        return max(x, (wide)y);                                                                              \
    }
LS_MIN_MAX_MIXED(int, unsigned int)
LS_MIN_MAX_MIXED(long, unsigned long)
LS_MIN_MAX_MIXED(long long, unsigned long long)
LS_MIN_MAX_MIXED(float, double)
#undef LS_MIN_MAX_MIXED

#endif
