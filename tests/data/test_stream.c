// The stream of samples: every sample once an epoch, another order every epoch, the same for whoever asks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data/loader.h"

static void test_every_sample_once(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 7, 64, 65, 1000, 4097};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            uint8_t *seen = calloc(sizes[s], 1);
            for (uint64_t i = 0; i < sizes[s]; i++) {
                uint64_t sample = ls_stream_sample(5, sizes[s], epoch * sizes[s] + i);
                assert_true(sample < sizes[s]);
                assert_int_equal(seen[sample]++, 0);
            }
            free(seen);
        }
}

static void test_epochs_and_seeds_differ(void **state)
{
    (void)state;
    enum { SAMPLES = 1000 };
    int same_epoch = 0, same_seed = 0, fixed = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t sample = ls_stream_sample(1, SAMPLES, i);
        same_epoch += sample == ls_stream_sample(1, SAMPLES, SAMPLES + i);
        same_seed += sample == ls_stream_sample(2, SAMPLES, i);
        fixed += sample == i;
    }
    // Two random permutations agree in one place on average, with a standard deviation of one: ten is beyond
    // chance.
    assert_true(same_epoch < 10 && same_seed < 10 && fixed < 10);
}

static void test_far_positions(void **state)
{
    (void)state;
    uint64_t samples = (uint64_t)1 << 40, position = (uint64_t)1 << 62;
    uint64_t sample = ls_stream_sample(3, samples, position);
    assert_true(sample < samples);
    assert_true(sample == ls_rng_permute(3, position / samples, samples, position % samples));
}

// Windows of an epoch lie side by side within the text, wherever they begin; epochs begin at different
// tokens, and with luck at every one of them.
static void test_windows(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{2, 1}, {9, 8}, {15, 8}, {16, 8}, {17, 8}, {24, 8}, {1000, 7}, {5, 2}};
    enum { EPOCHS = 200, TOKENS = 1000 };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t tokens = cases[c][0], window = cases[c][1], windows = ls_stream_windows(tokens, window);
        size_t room = tokens - windows * window, shifts = room < window ? room : window;
        uint8_t met[TOKENS] = {0};
        assert_true(windows > 0);
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
            uint8_t seen[TOKENS] = {0};
            uint64_t lowest = tokens, highest = 0;
            for (uint64_t i = 0; i < windows; i++) {
                uint64_t first = ls_stream_window(5, tokens, window, epoch * windows + i);
                assert_true(first + window < tokens);
                assert_int_equal(seen[first]++, 0);
                lowest = first < lowest ? first : lowest;
                highest = first > highest ? first : highest;
            }
            assert_int_equal(highest - lowest, (windows - 1) * window);
            for (uint64_t first = lowest; first <= highest; first += window)
                assert_int_equal(seen[first], 1);
            assert_true(lowest < shifts);
            met[lowest] = 1;
        }
        for (size_t shift = 0; shift < shifts; shift++) // 8 of 8 are met but for a chance of 1e-10
            assert_int_equal(met[shift], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_sample_once),
        cmocka_unit_test(test_epochs_and_seeds_differ),
        cmocka_unit_test(test_far_positions),
        cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
