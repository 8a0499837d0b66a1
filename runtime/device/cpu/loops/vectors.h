// Whole vectors of lanes where the compiler makes too little of a loop: the same exactly rounded operations
// as in lanes.h, and so the same bits on every instruction set.
#ifndef LOCKSTEP_DEVICE_CPU_VECTORS_H
#define LOCKSTEP_DEVICE_CPU_VECTORS_H

#include "lanes.h"

typedef int32_t IntegerLanes __attribute__((vector_size(64)));

// A register is as wide as a vector, or half as wide.
#ifdef __AVX512F__
ALWAYS_INLINE FloatLanes fused_multiply_add(FloatLanes a, FloatLanes b, FloatLanes c)
{
    return (FloatLanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

// The larger one; b where either is NaN.
ALWAYS_INLINE FloatLanes larger(FloatLanes a, FloatLanes b)
{
    return (FloatLanes)_mm512_max_ps((__m512)a, (__m512)b);
}

// The smaller one; b where either is NaN.
ALWAYS_INLINE FloatLanes lesser(FloatLanes a, FloatLanes b)
{
    return (FloatLanes)_mm512_min_ps((__m512)a, (__m512)b);
}

// x where `by` is not at most 0, else 0.
ALWAYS_INLINE FloatLanes pass_above_zero(FloatLanes by, FloatLanes x)
{
    return (FloatLanes)_mm512_maskz_mov_ps(
        _mm512_cmp_ps_mask((__m512)by, _mm512_setzero_ps(), _CMP_NLE_UQ), (__m512)x);
}

// Stores past the caches; `to` is aligned to 64 bytes. Another core sees it after streamed().
ALWAYS_INLINE void stream_lanes(float *to, FloatLanes value)
{
    _mm512_stream_ps(to, (__m512)value);
}
#else
typedef union Halves {
    FloatLanes lanes;
    __m256 half[2];
} Halves;

ALWAYS_INLINE FloatLanes fused_multiply_add(FloatLanes a, FloatLanes b, FloatLanes c)
{
    Halves x = {a}, y = {b}, z = {c};
    for (int h = 0; h < 2; h++)
        z.half[h] = _mm256_fmadd_ps(x.half[h], y.half[h], z.half[h]);
    return z.lanes;
}

ALWAYS_INLINE FloatLanes larger(FloatLanes a, FloatLanes b)
{
    Halves x = {a}, y = {b};
    for (int h = 0; h < 2; h++)
        y.half[h] = _mm256_max_ps(x.half[h], y.half[h]);
    return y.lanes;
}

ALWAYS_INLINE FloatLanes lesser(FloatLanes a, FloatLanes b)
{
    Halves x = {a}, y = {b};
    for (int h = 0; h < 2; h++)
        y.half[h] = _mm256_min_ps(x.half[h], y.half[h]);
    return y.lanes;
}

ALWAYS_INLINE FloatLanes pass_above_zero(FloatLanes by, FloatLanes x)
{
    Halves b = {by}, y = {x};
    for (int h = 0; h < 2; h++)
        y.half[h] = _mm256_and_ps(_mm256_cmp_ps(b.half[h], _mm256_setzero_ps(), _CMP_NLE_UQ), y.half[h]);
    return y.lanes;
}

ALWAYS_INLINE void stream_lanes(float *to, FloatLanes value)
{
    Halves x = {value};
    for (int h = 0; h < 2; h++)
        _mm256_stream_ps(to + 8 * h, x.half[h]);
}
#endif

// What was streamed before comes before whatever is written after.
ALWAYS_INLINE void streamed(void)
{
    _mm_sfence();
}

ALWAYS_INLINE FloatLanes all_lanes(float value)
{
    return value - (FloatLanes){0};
}

// Words of all ones in the first `count` lanes, of zeros in the others.
ALWAYS_INLINE IntegerLanes first_lanes(int count)
{
    const IntegerLanes number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return number < count;
}

// a where the mask has ones, else b.
ALWAYS_INLINE FloatLanes choose(IntegerLanes mask, FloatLanes a, FloatLanes b)
{
    return (FloatLanes)(((IntegerLanes)a & mask) | ((IntegerLanes)b & ~mask));
}

// round_to_bf16 of each lane.
ALWAYS_INLINE HalfLanes round_lanes(FloatLanes value)
{
    WordLanes bits = (WordLanes)value, high = bits >> 16;
    WordLanes rounded = (bits + 0x7fffu + (high & 1u)) >> 16;
#ifdef __AVX512F__
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    __m512i words = _mm512_mask_or_epi32((__m512i)rounded, nan, (__m512i)high, _mm512_set1_epi32(0x40));
    return (HalfLanes)_mm512_cvtepi32_epi16(words);
#else
    WordLanes nan = (WordLanes)((bits & 0x7fffffffu) > 0x7f800000u);
    return __builtin_convertvector((rounded & ~nan) | ((high | 0x40u) & nan), HalfLanes);
#endif
}

// nearest_bf16 of each lane.
ALWAYS_INLINE FloatLanes nearest_lanes(FloatLanes value)
{
    WordLanes bits = (WordLanes)value;
    WordLanes rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    WordLanes nan = (WordLanes)((bits & 0x7fffffffu) > 0x7f800000u);
    return (FloatLanes)(((rounded & ~nan) | ((bits | 0x400000u) & nan)) & 0xffff0000u);
}

// round_to_half of each lane.
ALWAYS_INLINE HalfLanes halves_of_lanes(FloatLanes value)
{
#ifdef __AVX512F__
    return (HalfLanes)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#else
    Halves x = {value};
    __m128i half[2];
    HalfLanes halves;
    for (int h = 0; h < 2; h++)
        half[h] = _mm256_cvtps_ph(x.half[h], _MM_FROUND_TO_NEAREST_INT);
    memcpy(&halves, half, sizeof halves);
    return halves;
#endif
}

ALWAYS_INLINE void store_lanes(void *array, LsDtype type, size_t i, FloatLanes value)
{
    if (type == LS_F32) {
        memcpy((float *)array + i, &value, sizeof value);
        return;
    }
    HalfLanes halves = type == LS_BF16 ? round_lanes(value) : halves_of_lanes(value);
    memcpy((uint16_t *)array + i, &halves, sizeof halves);
}

// `count` elements, the lanes behind them are `fill`.
ALWAYS_INLINE FloatLanes load_some(const void *array, LsDtype type, size_t i, size_t count, float fill)
{
    if (count >= LANES)
        return load_lanes(array, type, i);
    float lanes[LANES];
    FloatLanes result;
    for (size_t j = 0; j < LANES; j++)
        lanes[j] = j < count ? load(array, type, i + j) : fill;
    memcpy(&result, lanes, sizeof result);
    return result;
}

// The first `count` lanes.
ALWAYS_INLINE void store_some(void *array, LsDtype type, size_t i, size_t count, FloatLanes lanes)
{
    if (count >= LANES) {
        store_lanes(array, type, i, lanes);
        return;
    }
    for (size_t j = 0; j < count; j++)
        store(array, type, i + j, lanes[j]);
}

// y[i] = a[i] + b[i].
ALWAYS_INLINE void add_arrays(size_t n, const void *a, const void *b, void *y, LsDtype type)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_lanes(y, type, i, load_lanes(a, type, i) + load_lanes(b, type, i));
    for (; i < n; i++)
        store(y, type, i, load(a, type, i) + load(b, type, i));
}

// As sum_lanes.
ALWAYS_INLINE float sum_vector(FloatLanes x)
{
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 0, 0, 0, 0, 0, 0, 0);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return x[0] + x[1];
}

ALWAYS_INLINE float largest_lane(FloatLanes x)
{
    x = larger(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 0, 0, 0, 0, 0, 0, 0));
    x = larger(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    x = larger(x, __builtin_shufflevector(x, x, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    return x[0] > x[1] ? x[0] : x[1];
}

// reduced_exponential of lanes.h times its power of two, of x within ±87 and bounded to that; NaN for NaN.
ALWAYS_INLINE FloatLanes bounded_exponential(FloatLanes x)
{
    const FloatLanes shifter = all_lanes(0x1.8p23f);
    x = lesser(all_lanes(87.0f), larger(all_lanes(-87.0f), x));
    FloatLanes shifted = fused_multiply_add(x, all_lanes(1.44269504089f), shifter), n = shifted - shifter;
    FloatLanes r = fused_multiply_add(n, all_lanes(-0.693359375f), x);
    r = fused_multiply_add(n, all_lanes(2.12194440e-4f), r);
    FloatLanes p = all_lanes(1.9875691500e-4f);
    p = fused_multiply_add(p, r, all_lanes(1.3981999507e-3f));
    p = fused_multiply_add(p, r, all_lanes(8.3334519073e-3f));
    p = fused_multiply_add(p, r, all_lanes(4.1665795894e-2f));
    p = fused_multiply_add(p, r, all_lanes(1.6666665459e-1f));
    p = fused_multiply_add(p, r, all_lanes(5.0000001201e-1f));
    p = fused_multiply_add(p, r * r, r) + 1.0f;
    IntegerLanes exponent = (IntegerLanes)shifted - (IntegerLanes)shifter;
    return p * (FloatLanes)((exponent + 127) << 23);
}

// 1 / (1 + e^-x), with the bits of sigmoid of lanes.h.
ALWAYS_INLINE FloatLanes sigmoid_lanes(FloatLanes x)
{
    return 1.0f / (1.0f + bounded_exponential(-x));
}

#endif
