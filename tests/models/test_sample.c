// Choosing tokens: greedy, by temperature, among the likeliest, reproducibly.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/sample.h"

enum { VOCABULARY = 5, DRAWS = 20000 };

// Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625 in another order, times a factor that does not matter.
static const float LOGITS[VOCABULARY] = {
    -2.0794415f + 3, -0.6931472f + 3, -2.7725887f + 3, -1.3862944f + 3, -2.7725887f + 3};
static const double PROBABILITIES[VOCABULARY] = {0.125, 0.5, 0.0625, 0.25, 0.0625};

static uint32_t draw(const LsSampling *sampling, const float *logits, uint64_t number)
{
    LsCandidate scratch[VOCABULARY];
    uint32_t token = UINT32_MAX;
    assert_int_equal(ls_sample(sampling, logits, VOCABULARY, number, scratch, &token), LS_OK);
    assert_true(token < VOCABULARY);
    return token;
}

// Frequencies within five standard deviations, sqrt(p (1 - p) / n); the seed is fixed, so no flakiness.
static void expect_frequencies(const LsSampling *sampling, const double *expected)
{
    size_t counts[VOCABULARY] = {0};
    for (uint64_t i = 0; i < DRAWS; i++)
        counts[draw(sampling, LOGITS, i)]++;
    for (size_t v = 0; v < VOCABULARY; v++) {
        double deviation = sqrt(expected[v] * (1 - expected[v]) / DRAWS);
        assert_true(fabs((double)counts[v] / DRAWS - expected[v]) <= 5 * deviation);
    }
}

static void greedy(void **state)
{
    (void)state;
    const float equal[VOCABULARY] = {1, 2, 2, 0, 2};
    LsSampling sampling = {.temperature = 0, .top_p = 1};
    for (uint64_t i = 0; i < 10; i++) {
        assert_int_equal(draw(&sampling, LOGITS, i), 1);
        assert_int_equal(draw(&sampling, equal, i), 1); // the lowest of equal ones
    }
}

static void by_probability(void **state)
{
    (void)state;
    expect_frequencies(&(LsSampling){.temperature = 1, .top_p = 1, .seed = 3}, PROBABILITIES);
    double squared[VOCABULARY], sum = 0; // temperature 1/2 squares the probabilities
    for (size_t v = 0; v < VOCABULARY; v++)
        sum += PROBABILITIES[v] * PROBABILITIES[v];
    for (size_t v = 0; v < VOCABULARY; v++)
        squared[v] = PROBABILITIES[v] * PROBABILITIES[v] / sum;
    expect_frequencies(&(LsSampling){.temperature = 0.5, .top_p = 1, .seed = 3}, squared);
}

static void among_the_likeliest(void **state)
{
    (void)state;
    const double two[VOCABULARY] = {0, 2.0 / 3, 0, 1.0 / 3, 0};
    const double three[VOCABULARY] = {1.0 / 7, 4.0 / 7, 0, 2.0 / 7, 0};
    const double four[VOCABULARY] = {
        2.0 / 15, 8.0 / 15, 1.0 / 15, 4.0 / 15, 0}; // of equal ones the lower token
    expect_frequencies(&(LsSampling){.temperature = 1, .top_k = 2, .top_p = 1, .seed = 4}, two);
    expect_frequencies(&(LsSampling){.temperature = 1, .top_k = 4, .top_p = 1, .seed = 4}, four);
    expect_frequencies(&(LsSampling){.temperature = 1, .top_k = 100, .top_p = 1, .seed = 4}, PROBABILITIES);
    expect_frequencies(&(LsSampling){.temperature = 1, .top_p = 0.7, .seed = 4}, two);
    expect_frequencies(&(LsSampling){.temperature = 1, .top_p = 0.8, .seed = 4}, three);
    // 0.55 of what the three likeliest have together, 0.875, is less than the first one's 0.5.
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(
            draw(&(LsSampling){.temperature = 1, .top_k = 3, .top_p = 0.55, .seed = 4}, LOGITS, i), 1);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(draw(&(LsSampling){.temperature = 1, .top_p = 0, .seed = 4}, LOGITS, i), 1);
}

// Another seed or another place in the text is another draw.
static void reproducible(void **state)
{
    (void)state;
    size_t by_seed = 0, by_number = 0;
    for (uint64_t i = 0; i < 200; i++) {
        LsSampling first = {.temperature = 1, .top_p = 1, .seed = 9}, second = first;
        second.seed = 10;
        assert_int_equal(draw(&first, LOGITS, i), draw(&first, LOGITS, i));
        by_seed += draw(&first, LOGITS, i) != draw(&second, LOGITS, i);
        by_number += draw(&first, LOGITS, i) != draw(&first, LOGITS, i + 1);
    }
    assert_true(by_seed > 50 && by_number > 50);
}

static void refuses_damage(void **state)
{
    (void)state;
    const float bad[][VOCABULARY] = {{1, NAN, 0, 0, 0}, {NAN, 1, 0, 0, 0}, {0, 0, INFINITY, 0, 0},
        {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    LsCandidate scratch[VOCABULARY];
    uint32_t token;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (double temperature = 0; temperature < 2; temperature++)
            assert_int_equal(ls_sample(&(LsSampling){.temperature = temperature, .top_p = 1}, bad[i],
                                 VOCABULARY, 0, scratch, &token),
                LS_BAD_DATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),
        cmocka_unit_test(by_probability),
        cmocka_unit_test(among_the_likeliest),
        cmocka_unit_test(reproducible),
        cmocka_unit_test(refuses_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
