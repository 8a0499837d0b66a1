// What the loops are written with: loads and stores of all types, fixed lanes for sums, exponential and
// logarithm that the compiler vectorises. LS_LOOPS_ISA is the suffix of the instruction set.
#ifndef LOCKSTEP_DEVICE_CPU_LANES_H
#define LOCKSTEP_DEVICE_CPU_LANES_H

#include <immintrin.h>
#include <string.h>

#include "loops.h"

#define LS_LOOPS_JOIN_(name, isa) name##_##isa
#define LS_LOOPS_JOIN(name, isa) LS_LOOPS_JOIN_(name, isa)
// The name of a function or table of this instruction set.
#define LOOPS(name) LS_LOOPS_JOIN(ls_cpu_##name, LS_LOOPS_ISA)

// Tells the compiler that iterations do not depend on each other: y may be x, but never overlaps it shifted.
#ifdef __clang__
#define ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define ELEMENTWISE _Pragma("GCC ivdep")
#endif

// A loop body is written once and inlined with a constant type.
#define ALWAYS_INLINE static inline __attribute__((always_inline))

// Makes a call in which TYPE is the type as a constant: F32, BF16, or F16, which an op has checked.
#define WITH_TYPE(type, call)                                                                                \
    do {                                                                                                     \
        if ((type) == LS_F32) {                                                                              \
            const LsDtype TYPE = LS_F32;                                                                     \
            call;                                                                                            \
        } else if ((type) == LS_BF16) {                                                                      \
            const LsDtype TYPE = LS_BF16;                                                                    \
            call;                                                                                            \
        } else {                                                                                             \
            const LsDtype TYPE = LS_F16;                                                                     \
            call;                                                                                            \
        }                                                                                                    \
    } while (0)

ALWAYS_INLINE float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

ALWAYS_INLINE uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// ls_f32_to_bf16 without a branch.
ALWAYS_INLINE uint16_t round_to_bf16(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// The nearest BF16 number.
ALWAYS_INLINE float nearest_bf16(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    uint32_t quiet = bits | 0x400000u;
    return float_of_bits(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) & 0xffff0000u);
}

// Words of ones where the condition holds. Compilers put choices by masks side by side, and choices among
// three values they do not; nor do they F16C's instructions for single numbers, hence the next two.
ALWAYS_INLINE uint32_t mask_of(bool condition)
{
    return 0u - (uint32_t)condition;
}

// What F16C's instruction makes, but that NaN stays as quiet as it was.
ALWAYS_INLINE float float_of_half(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
    uint32_t subnormal = mask_of(magnitude < 0x400u), infinite = mask_of(magnitude > 0x7bffu);
    uint32_t small = bits_of_float((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t normal = ((magnitude << 13) + ((127u - 15u) << 23)) | (infinite & 0x7f800000u);
    return float_of_bits((small & subnormal) | (normal & ~subnormal) | sign);
}

// ls_f32_to_f16 without a branch.
ALWAYS_INLINE uint16_t round_to_half(float value)
{
    uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffffu;
    uint32_t subnormal = mask_of(magnitude < 0x38800000u), nan = mask_of(magnitude > 0x7f800000u);
    uint32_t infinite = mask_of(magnitude > 0x477fefffu); // or NaN; from 65520 on
    // Between 1/2 and 1 the units of float are those of F16's subnormal numbers: the addition rounds.
    uint32_t small = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
    uint32_t large = 0x7c00u | (nan & (0x200u | (magnitude >> 13 & 0x1ffu)));
    uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - ((127u - 15u) << 23)) >> 13;
    uint32_t half = (small & subnormal) | (large & infinite) | (normal & ~(subnormal | infinite));
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

ALWAYS_INLINE float load(const void *array, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)array)[i];
    uint16_t half = ((const uint16_t *)array)[i];
    return type == LS_BF16 ? float_of_bits((uint32_t)half << 16) : float_of_half(half);
}

ALWAYS_INLINE void store(void *array, LsDtype type, size_t i, float value)
{
    if (type == LS_F32)
        ((float *)array)[i] = value;
    else
        ((uint16_t *)array)[i] = type == LS_BF16 ? round_to_bf16(value) : round_to_half(value);
}

// ---- Sums over a fixed number of lanes ------------------------------------------------------------------

enum { LANES = 16 };
typedef float FloatLanes __attribute__((vector_size(64)));
typedef uint32_t WordLanes __attribute__((vector_size(64)));
typedef uint16_t HalfLanes __attribute__((vector_size(32)));

// With one instruction where there is one: compilers make several of the plain conversion.
ALWAYS_INLINE WordLanes widen(HalfLanes halves)
{
#ifdef __AVX512F__
    return (WordLanes)_mm512_cvtepu16_epi32((__m256i)halves);
#else
    return __builtin_convertvector(halves, WordLanes);
#endif
}

// float_of_half of each lane.
ALWAYS_INLINE FloatLanes lanes_of_halves(HalfLanes halves)
{
#ifdef __AVX512F__
    return (FloatLanes)_mm512_cvtph_ps((__m256i)halves);
#else
    __m128i half[2];
    __m256 wide[2];
    FloatLanes lanes;
    memcpy(half, &halves, sizeof half);
    for (int h = 0; h < 2; h++)
        wide[h] = _mm256_cvtph_ps(half[h]);
    memcpy(&lanes, wide, sizeof lanes);
    return lanes;
#endif
}

ALWAYS_INLINE FloatLanes load_lanes(const void *array, LsDtype type, size_t i)
{
    FloatLanes lanes;
    if (type == LS_F32) {
        memcpy(&lanes, (const float *)array + i, sizeof lanes);
        return lanes;
    }
    HalfLanes halves;
    memcpy(&halves, (const uint16_t *)array + i, sizeof halves);
    if (type == LS_F16)
        return lanes_of_halves(halves);
    WordLanes words = widen(halves) << 16;
    memcpy(&lanes, &words, sizeof lanes);
    return lanes;
}

// The lanes' sum as a balanced tree.
ALWAYS_INLINE float sum_lanes(const float lanes[LANES])
{
    float sums[LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

// ---- Transcendental functions ---------------------------------------------------------------------------

// e^x = p 2^n, p in [0.7, 1.5], within 2 units in the last place; x within ±104. Argument reduction by Cody
// and Waite, polynomial from Moshier's Cephes library. NaN for NaN.
ALWAYS_INLINE float reduced_exponential(float x, int32_t *exponent)
{
    const float shifter = 0x1.8p23f; // adding it rounds to an integer in the low bits of the mantissa
    float shifted = __builtin_fmaf(x, 1.44269504089f, shifter);
    float n = shifted - shifter;
    float r = __builtin_fmaf(n, -0.693359375f, x);
    r = __builtin_fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p, r * r, r) + 1.0f;
    *exponent = (int32_t)(bits_of_float(shifted) - bits_of_float(shifter));
    return p;
}

ALWAYS_INLINE float power_of_two(int32_t exponent)
{
    return float_of_bits((uint32_t)(exponent + 127) << 23);
}

// e^x; 0 and infinity beyond the range of float.
ALWAYS_INLINE float exponential(float x)
{
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    int32_t exponent;
    float p = reduced_exponential(x, &exponent);
    // In two factors, so that neither leaves the range of normal numbers before the product does.
    int32_t half = exponent >> 1;
    return p * power_of_two(half) * power_of_two(exponent - half);
}

// 1 / (1 + e^-x), at least 1.6e-38: beyond ±87 the exponential stays as it is there, which keeps its power of
// two within the range of normal numbers.
ALWAYS_INLINE float sigmoid(float x)
{
    float y = -x;
    y = y < -87.0f ? -87.0f : y;
    y = y > 87.0f ? 87.0f : y;
    int32_t exponent;
    float p = reduced_exponential(y, &exponent);
    return 1.0f / (1.0f + p * power_of_two(exponent));
}

// Natural logarithm of a normal positive number within 2 units in the last place; NaN for infinity and NaN.
// From Cephes.
ALWAYS_INLINE float logarithm(float x)
{
    uint32_t bits = bits_of_float(x);
    // The mantissa is brought into [sqrt(1/2), sqrt(2)).
    uint32_t shifted = bits - 0x3f3504f3u;
    float exponent = (float)((int32_t)shifted >> 23);
    float m = float_of_bits((shifted & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    float square = m * m;
    float p = 7.0376836292e-2f;
    p = __builtin_fmaf(p, m, -1.1514610310e-1f);
    p = __builtin_fmaf(p, m, 1.1676998740e-1f);
    p = __builtin_fmaf(p, m, -1.2420140846e-1f);
    p = __builtin_fmaf(p, m, 1.4249322787e-1f);
    p = __builtin_fmaf(p, m, -1.6668057665e-1f);
    p = __builtin_fmaf(p, m, 2.0000714765e-1f);
    p = __builtin_fmaf(p, m, -2.4999993993e-1f);
    p = __builtin_fmaf(p, m, 3.3333331174e-1f);
    float y = __builtin_fmaf(exponent, -2.12194440e-4f, m * square * p);
    y = m + __builtin_fmaf(-0.5f, square, y);
    return __builtin_fmaf(exponent, 0.693359375f, y) + (x - x);
}

#endif
