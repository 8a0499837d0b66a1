#include "base/rng.h"

#include <math.h>

// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection in which every input bit
// moves about half of the output bits.
static uint64_t mix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

LsRngKey ls_rng_key(uint64_t seed, uint32_t purpose)
{
    uint64_t key = mix64(mix64(seed) ^ purpose);
    return (LsRngKey){{(uint32_t)key, (uint32_t)(key >> 32)}};
}

float ls_rng_normal(LsRngKey key, uint64_t index, uint64_t element)
{
    uint32_t word[4];
    ls_rng_block(key, index, element / 4, word);
    const uint32_t *pair = word + (element & 2);
    double radius = sqrt(-2.0 * log(((double)pair[0] + 1.0) * 0x1p-32)); // of (0, 1]: never log(0)
    double angle = 2.0 * 3.14159265358979323846 * ((double)pair[1] * 0x1p-32);
    return (float)(radius * (element % 2 == 0 ? cos(angle) : sin(angle)));
}

uint64_t ls_rng_below(LsRngKey key, uint64_t index, uint64_t element, uint64_t bound)
{
    uint32_t word[4];
    ls_rng_block(key, index, element / 2, word);
    const uint32_t *pair = word + 2 * (element % 2);
    uint64_t number = (uint64_t)pair[1] << 32 | pair[0];
    return (uint64_t)(((unsigned __int128)number * bound) >> 64);
}

enum { FEISTEL_ROUNDS = 8 };

// One pass of the network over 2 × half bits.
static uint64_t feistel(uint64_t value, unsigned half, const uint32_t round_key[FEISTEL_ROUNDS])
{
    uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t left = value >> half;
    uint64_t right = value & mask;
    for (int round = 0; round < FEISTEL_ROUNDS; round++) {
        // The upper half of a product with an odd constant depends on every bit of its argument.
        uint64_t mixed = (right ^ round_key[round]) * 0xD6E8FEB86659FD93u;
        mixed = (mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93u;
        uint64_t next = left ^ ((mixed >> 32) & mask);
        left = right;
        right = next;
    }
    return left << half | right;
}

uint64_t ls_rng_permute(uint64_t seed, uint64_t epoch, uint64_t count, uint64_t position)
{
    if (count <= 1)
        return 0;
    unsigned bits = 64u - (unsigned)__builtin_clzll(count - 1);
    unsigned half = (bits + 1) / 2;

    LsRngKey key = ls_rng_key(seed, LS_RNG_PERMUTATION);
    uint32_t round_key[FEISTEL_ROUNDS];
    ls_rng_block(key, epoch, 0, round_key);
    ls_rng_block(key, epoch, 1, round_key + 4);

    // The domain is at most four times the count, so a few passes find a value inside; since the network is a
    // bijection, the walk comes back into [0, count) for every position that starts there.
    uint64_t value = position;
    do
        value = feistel(value, half, round_key);
    while (value >= count);
    return value;
}
