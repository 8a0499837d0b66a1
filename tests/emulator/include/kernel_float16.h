// What __half and __nv_bfloat16 have in common: comparisons, arithmetic, classification. Included by
// cuda_fp16.h and cuda_bf16.h.
//
// An operation is done in float and rounded once more. For +, -, * and / that gives the correctly rounded
// result, because a float has more than twice the digits (Figueroa, "When is double rounding innocuous?",
// SIGNUM 1995). That is not so for a fused multiply-add, which is left out.
#ifndef LOCKSTEP_EMULATOR_KERNEL_FLOAT16_H
#define LOCKSTEP_EMULATOR_KERNEL_FLOAT16_H

#include <kernel_math.h>

// A double must not be rounded twice: the float that is truncated to odd keeps what the second rounding
// needs to know.
static inline float ls_emulator_double_to_odd_float(double value)
{
    float nearest = (float)value;
    unsigned int bits = __float_as_uint(nearest);
    if ((double)nearest == value || isnan(value) || isinf(nearest))
        return nearest;
    if (fabs((double)nearest) > fabs(value))
        bits--;
    return __uint_as_float(bits | 1u);
}

#define LS_EMULATED_FLOAT16_COMPARISON(T, name, symbol)                                                      \
    static inline bool name(T x, T y)                                                                        \
    {                                                                                                        \
        return (float)x symbol(float) y;                                                                     \
    }                                                                                                        \
    static inline bool operator symbol(T x, T y)                                                             \
    {                                                                                                        \
        return (float)x symbol(float) y;                                                                     \
    }

#define LS_EMULATED_FLOAT16_ARITHMETIC(T, T2, name, symbol)                                                  \
    static inline T name(T x, T y)                                                                           \
    {                                                                                                        \
        return T((float)x symbol(float) y);                                                                  \
    }                                                                                                        \
    static inline T operator symbol(T x, T y)                                                                \
    {                                                                                                        \
        return name(x, y);                                                                                   \
    }                                                                                                        \
    static inline T &operator symbol##=(T &x, T y)                                                           \
    {                                                                                                        \
        return x = name(x, y);                                                                               \
    }                                                                                                        \
    static inline T2 operator symbol(T2 x, T2 y)                                                             \
    {                                                                                                        \
        return T2(name(x.x, y.x), name(x.y, y.y));                                                           \
    }                                                                                                        \
    static inline T2 name##2(T2 x, T2 y)                                                                     \
    {                                                                                                        \
        return x symbol y;                                                                                   \
    }

// The smaller and the larger of two numbers are the number where the other is NaN, and -0 < +0.
#define LS_EMULATED_FLOAT16(T, T2, from_bits, to_bits)                                                       \
    LS_EMULATED_FLOAT16_COMPARISON(T, __heq, ==)                                                             \
    LS_EMULATED_FLOAT16_COMPARISON(T, __hne, !=)                                                             \
    LS_EMULATED_FLOAT16_COMPARISON(T, __hlt, <)                                                              \
    LS_EMULATED_FLOAT16_COMPARISON(T, __hle, <=)                                                             \
    LS_EMULATED_FLOAT16_COMPARISON(T, __hgt, >)                                                              \
    LS_EMULATED_FLOAT16_COMPARISON(T, __hge, >=)                                                             \
    LS_EMULATED_FLOAT16_ARITHMETIC(T, T2, __hadd, +)                                                         \
    LS_EMULATED_FLOAT16_ARITHMETIC(T, T2, __hsub, -)                                                         \
    LS_EMULATED_FLOAT16_ARITHMETIC(T, T2, __hmul, *)                                                         \
    LS_EMULATED_FLOAT16_ARITHMETIC(T, T2, __hdiv, /)                                                         \
    static inline T __hneg(T x)                                                                              \
    {                                                                                                        \
        return from_bits((unsigned short)(to_bits(x) ^ 0x8000u));                                            \
    }                                                                                                        \
    static inline T operator-(T x)                                                                           \
    {                                                                                                        \
        return __hneg(x);                                                                                    \
    }                                                                                                        \
    static inline T __habs(T x)                                                                              \
    {                                                                                                        \
        return from_bits((unsigned short)(to_bits(x) & 0x7fffu));                                            \
    }                                                                                                        \
    static inline bool __hisnan(T x)                                                                         \
    {                                                                                                        \
        return (float)x != (float)x;                                                                         \
    }                                                                                                        \
    static inline int __hisinf(T x)                                                                          \
    {                                                                                                        \
        return fabsf((float)x) == __uint_as_float(0x7f800000u) ? ((float)x < 0 ? -1 : 1) : 0;                \
    }                                                                                                        \
    static inline T __hmin(T x, T y)                                                                         \
    {                                                                                                        \
        if ((float)x == (float)y)                                                                            \
            return to_bits(x) & 0x8000u ? x : y;                                                             \
        return T(fminf((float)x, (float)y));                                                                 \
    }                                                                                                        \
    static inline T __hmax(T x, T y)                                                                         \
    {                                                                                                        \
        if ((float)x == (float)y)                                                                            \
            return to_bits(x) & 0x8000u ? y : x;                                                             \
        return T(fmaxf((float)x, (float)y));                                                                 \
    }                                                                                                        \
    static inline float __low2float(T2 pair)                                                                 \
    {                                                                                                        \
        return (float)pair.x;                                                                                \
    }                                                                                                        \
    static inline float __high2float(T2 pair)                                                                \
    {                                                                                                        \
        return (float)pair.y;                                                                                \
    }

#endif
