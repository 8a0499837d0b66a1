// Counter-based random numbers: a number is a pure function of what it is for, never of what was drawn
// before, so any rank can compute any number. Philox4x32-10 (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011).
//
// The key is (seed, purpose); the 128-bit counter is (index, element / 4). `index` is whatever the numbers
// belong to: the stream position of a sample for dropout and augmentation, a tensor's number for
// initialisation. Each counter value gives four 32-bit numbers, for elements 4e … 4e + 3.
#ifndef LOCKSTEP_BASE_RNG_H
#define LOCKSTEP_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

#include "base/host_device.h"

// What random numbers are for. Every use has a range of its own; values are stored nowhere but must never
// change, since they decide bits. A layer adds its number to a base (LS_RNG_DROPOUT + layer).
enum {
    LS_RNG_PERMUTATION = 1,
    LS_RNG_SPLIT = 2,
    LS_RNG_SAMPLE_TEXT = 3,
    LS_RNG_WINDOW = 4,
    LS_RNG_CHECK = 5,
    LS_RNG_INITIALIZE = 0x10000,
    LS_RNG_AUGMENT = 0x20000,
    LS_RNG_DROPOUT = 0x30000,
};

typedef struct LsRngKey {
    uint32_t word[2];
} LsRngKey;

// Mixes seed and purpose to a key (two rounds of the SplitMix64 finaliser).
LsRngKey ls_rng_key(uint64_t seed, uint32_t purpose);

// The four numbers of counter (index, block). In the header so that loops over elements are vectorised.
static inline LS_HOST_DEVICE void ls_rng_block(LsRngKey key, uint64_t index, uint64_t block, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)block, c3 = (uint32_t)(block >> 32);
    uint32_t k0 = key.word[0], k1 = key.word[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// One 32-bit number for (index, element).
static inline LS_HOST_DEVICE uint32_t ls_rng_u32(LsRngKey key, uint64_t index, uint64_t element)
{
    uint32_t word[4];
    ls_rng_block(key, index, element / 4, word);
    return word[element % 4];
}

// Uniform in [0, 1), 24 bits.
static inline LS_HOST_DEVICE float ls_rng_uniform(LsRngKey key, uint64_t index, uint64_t element)
{
    return (float)(ls_rng_u32(key, index, element) >> 8) * 0x1p-24f;
}

// Standard normal (Box-Muller in float64 over the element pair), rounded to float.
float ls_rng_normal(LsRngKey key, uint64_t index, uint64_t element);

// Uniform integer in [0, bound), bound > 0, by 64-bit multiply-shift. Two elements share a counter value, so
// it must not be mixed with the others under one key.
uint64_t ls_rng_below(LsRngKey key, uint64_t index, uint64_t element, uint64_t bound);

// A stateless bijection of [0, count): the image of `position`. A balanced Feistel network over the next
// even number of bits, walked until the value falls below count (cycle walking; Black and Rogaway, CT-RSA
// 2002): O(1) expected, at most four times the domain. count must be at least 1.
uint64_t ls_rng_permute(uint64_t seed, uint64_t epoch, uint64_t count, uint64_t position);

#endif
