// Random words for dropout: ls_rng_block of base/rng.h, eight counters at a time.
#ifndef LOCKSTEP_DEVICE_CPU_PHILOX_H
#define LOCKSTEP_DEVICE_CPU_PHILOX_H

#include <immintrin.h>

#include "lanes.h"

enum { PHILOX_LANES = 8, PHILOX_WORDS = 4 * PHILOX_LANES };

// One counter a lane. Only the lower half of a lane means anything: products ignore the upper one, and so it
// is never cleared.
typedef uint64_t CounterLanes __attribute__((vector_size(64)));

// The full product of the lower halves. A plain product of 64-bit lanes is several instructions.
ALWAYS_INLINE CounterLanes multiply_lower(CounterLanes a, CounterLanes b)
{
#ifdef __AVX512F__
    return (CounterLanes)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
    __m256i x[2], y[2];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    x[0] = _mm256_mul_epu32(x[0], y[0]);
    x[1] = _mm256_mul_epu32(x[1], y[1]);
    memcpy(&a, x, sizeof a);
    return a;
#endif
}

ALWAYS_INLINE CounterLanes spread(uint64_t value)
{
    return value - (CounterLanes){0};
}

// The words of counters (index, block) … (index, block + 7), in order.
ALWAYS_INLINE void random_words(LsRngKey key, uint64_t index, uint64_t block, uint32_t words[PHILOX_WORDS])
{
    CounterLanes counter = spread(block) + (CounterLanes){0, 1, 2, 3, 4, 5, 6, 7};
    CounterLanes c0 = spread(index), c1 = spread(index >> 32), c2 = counter, c3 = counter >> 32;
    uint32_t k0 = key.word[0], k1 = key.word[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        CounterLanes product0 = multiply_lower(c0, spread(0xD2511F53u));
        CounterLanes product1 = multiply_lower(c2, spread(0xCD9E8D57u));
        c0 = (product1 >> 32) ^ c1 ^ spread(k0);
        c1 = product1;
        c2 = (product0 >> 32) ^ c3 ^ spread(k1);
        c3 = product0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    CounterLanes first = (c0 & 0xffffffffu) | c1 << 32, second = (c2 & 0xffffffffu) | c3 << 32;
    CounterLanes low = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
    CounterLanes high = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(words, &low, sizeof low);
    memcpy(words + 16, &high, sizeof high);
}

#endif
