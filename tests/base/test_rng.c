// Random numbers: Random123's known answers, moments, and the permutation: a bijection that mixes well.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

static void test_known_answers(void **state)
{
    (void)state;
    // philox4x32, 10 rounds, of Random123's kat_vectors: counter, key, result.
    static const uint32_t vectors[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e,
            0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
            0x5001e420, 0x24126ea1},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const uint32_t *v = vectors[i];
        LsRngKey key = {{v[4], v[5]}};
        uint64_t index = (uint64_t)v[1] << 32 | v[0], block = (uint64_t)v[3] << 32 | v[2];
        uint32_t out[4];
        ls_rng_block(key, index, block, out);
        assert_memory_equal(out, v + 6, sizeof out);
        if (block >> 62 == 0) // an element's number has two bits more than its block's
            for (uint64_t j = 0; j < 4; j++)
                assert_int_equal(ls_rng_u32(key, index, 4 * block + j), v[6 + j]);
    }
}

static void test_keys_differ(void **state)
{
    (void)state;
    enum { KEYS = 64 };
    uint64_t seen[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        LsRngKey key = ls_rng_key(i / 8, (uint32_t)(i % 8));
        seen[i] = (uint64_t)key.word[1] << 32 | key.word[0];
        for (size_t j = 0; j < i; j++)
            assert_true(seen[j] != seen[i]);
    }
}

// A mean of n samples with standard deviation s is within 5 s / sqrt(n) of the truth but for one case in a
// million; since the numbers are fixed, a pass here is a pass everywhere.
enum { SAMPLES = 1000000 };
#define FIVE_SIGMA(deviation) (5.0 * (deviation) / sqrt(SAMPLES))

static void test_uniform(void **state)
{
    (void)state;
    LsRngKey key = ls_rng_key(1, LS_RNG_DROPOUT);
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double u = (double)ls_rng_uniform(key, i / 1000, i % 1000);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    // Deviation of u is sqrt(1/12), of u² is sqrt(1/5 - 1/9).
    assert_true(fabs(sum / SAMPLES - 0.5) < FIVE_SIGMA(sqrt(1.0 / 12)));
    assert_true(fabs(squares / SAMPLES - 1.0 / 3) < FIVE_SIGMA(sqrt(4.0 / 45)));
}

static void test_normal(void **state)
{
    (void)state;
    LsRngKey key = ls_rng_key(1, LS_RNG_INITIALIZE);
    double moment[5] = {0}, neighbours = 0, before = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double x = (double)ls_rng_normal(key, i / 1000, i % 1000);
        assert_true(isfinite(x));
        double power = 1;
        for (int m = 0; m < 5; m++, power *= x)
            moment[m] += power / SAMPLES;
        neighbours += x * before / SAMPLES;
        before = x;
    }
    // The deviations of x, x², x³ and x⁴ are the roots of 1, 2, 15 and 96.
    assert_true(fabs(moment[1]) < FIVE_SIGMA(1));
    assert_true(fabs(moment[2] - 1) < FIVE_SIGMA(sqrt(2)));
    assert_true(fabs(moment[3]) < FIVE_SIGMA(sqrt(15)));
    assert_true(fabs(moment[4] - 3) < FIVE_SIGMA(sqrt(96)));
    assert_true(fabs(neighbours) < FIVE_SIGMA(1)); // both numbers of a Box-Muller pair, uncorrelated
}

static void test_below(void **state)
{
    (void)state;
    LsRngKey key = ls_rng_key(3, LS_RNG_SPLIT);
    size_t count[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t value = ls_rng_below(key, 5, i, 7);
        assert_true(value < 7);
        count[value]++;
    }
    for (size_t i = 0; i < 7; i++) // 10,000 each, deviation sqrt(n p q) = 92.6
        assert_true(fabs((double)count[i] - 10000) < 5 * 92.6);
    assert_int_equal(ls_rng_below(key, 0, 0, 1), 0);
    assert_true(ls_rng_below(key, 0, 1, UINT64_MAX) < UINT64_MAX);
}

static void test_permutation_is_a_bijection(void **state)
{
    (void)state;
    const uint64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 1023,
        1024, 1025, 4097, 48000, 60000, 65536, 65537};
    uint8_t *hit = malloc(65537);
    assert_non_null(hit);
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            memset(hit, 0, counts[c]);
            for (uint64_t p = 0; p < counts[c]; p++) {
                uint64_t image = ls_rng_permute(9, epoch, counts[c], p);
                assert_true(image < counts[c]);
                assert_false(hit[image]);
                hit[image] = 1;
            }
        }
    free(hit);
    // Too many to count, but the walk must end inside.
    assert_true(ls_rng_permute(9, 0, UINT64_MAX, UINT64_MAX - 1) < UINT64_MAX);
    assert_true(ls_rng_permute(9, 0, (UINT64_C(1) << 62) + 1, 12345) <= UINT64_C(1) << 62);
}

// Over many epochs all orders of a few samples come equally often.
static void check_all_orders(uint64_t count, size_t orders, double limit)
{
    enum { PER_ORDER = 1000, WORDS = 256 };
    size_t seen[WORDS] = {0}; // by the images as digits to base 4
    for (uint64_t epoch = 0; epoch < orders * PER_ORDER; epoch++) {
        size_t word = 0;
        for (uint64_t p = 0; p < count; p++)
            word = 4 * word + (size_t)ls_rng_permute(2, epoch, count, p);
        seen[word]++;
    }
    double chi_square = 0;
    size_t different = 0;
    for (size_t w = 0; w < WORDS; w++)
        if (seen[w] > 0) {
            double off = (double)seen[w] - PER_ORDER;
            chi_square += off * off / PER_ORDER;
            different++;
        }
    assert_int_equal(different, orders);
    assert_true(chi_square < limit);
}

static void test_small_permutations_are_even(void **state)
{
    (void)state;
    // Limits: the 99.99 % points of chi-square with 1, 5 and 23 degrees of freedom.
    check_all_orders(2, 2, 15.1);
    check_all_orders(3, 6, 25.7);
    check_all_orders(4, 24, 58.6);
}

static void test_permutation_mixes(void **state)
{
    (void)state;
    enum { COUNT = 60000, CELLS = 20 };
    static size_t cell[CELLS][CELLS];
    size_t fixed = 0, ascending = 0, same_as_next_epoch = 0;
    memset(cell, 0, sizeof cell);
    uint64_t before = 0;
    for (uint64_t p = 0; p < COUNT; p++) {
        uint64_t image = ls_rng_permute(4, 7, COUNT, p);
        cell[p * CELLS / COUNT][image * CELLS / COUNT]++;
        fixed += image == p;
        ascending += p > 0 && image > before;
        same_as_next_epoch += image == ls_rng_permute(4, 8, COUNT, p);
        before = image;
    }
    double chi_square = 0, expected = (double)COUNT / (CELLS * CELLS);
    for (size_t i = 0; i < CELLS; i++)
        for (size_t j = 0; j < CELLS; j++)
            chi_square += ((double)cell[i][j] - expected) * ((double)cell[i][j] - expected) / expected;
    // Where samples land does not depend on where they were: 361 degrees of freedom, deviation sqrt(722);
    // too even would be wrong as well.
    assert_true(fabs(chi_square - 361) < 5 * sqrt(722));
    // Of a random order, half of the steps ascend (deviation sqrt(n / 12)).
    assert_true(fabs((double)ascending - COUNT / 2.0) < 5 * sqrt(COUNT / 12.0));
    // Coincidences are Poisson with mean 1: more than 9 come once in ten million.
    assert_true(fixed <= 9);
    assert_true(same_as_next_epoch <= 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_keys_differ),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_permutation_is_a_bijection),
        cmocka_unit_test(test_small_permutations_are_even),
        cmocka_unit_test(test_permutation_mixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
