// The step's decision against float64 models, over several steps.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "device_group.h"

static void read_back(LsDevice *device, void *to, const void *from, size_t bytes)
{
    assert_int_equal(device->ops->copy_out(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

// ---- The decision ---------------------------------------------------------------------------------------

// The exchange of a rank holds its votes, its lanes' losses and its blocks' squares; here two ranks, three
// lanes and four blocks, scattered over the words with others in between.
enum { LANES = 3, BLOCKS = 4, RANKS = 2, RANK_WORDS = LS_VOTE_WORDS + 5, WORDS = RANKS * RANK_WORDS };
#define WORD(rank, i) ((rank)*RANK_WORDS + LS_VOTE_WORDS + (i)) // behind the rank's votes
static const uint32_t lane_index[LANES] = {WORD(1, 2), WORD(0, 0), WORD(0, 3)},
                      block_index[BLOCKS] = {WORD(0, 1), WORD(1, 4), WORD(0, 4), WORD(1, 0)};
static const float good_words[WORDS] = {
    [WORD(0, 0)] = 2.0f, 9.0f, NAN, 4.0f, 1.0f, [WORD(1, 0)] = 2.0f, NAN, 6.0f, INFINITY, 4.0f};

static LsStepOutcome decide_outcome(
    LsDevice *device, const float *words, LsStepControl control, float clip, int32_t growth)
{
    LsStepOutcome outcome = {.control = control, .votes = {.stop = 9, .error = 9}};
    void *w = on_device(device, words, WORDS * sizeof *words);
    void *lanes = on_device(device, lane_index, sizeof lane_index);
    void *blocks = on_device(device, block_index, sizeof block_index);
    void *state = on_device(device, &outcome, sizeof outcome);
    LsDecideStep args = {.lanes = LANES,
        .blocks = BLOCKS,
        .ranks = RANKS,
        .rank_words = RANK_WORDS,
        .words = w,
        .lane_index = lanes,
        .block_index = blocks,
        .samples = 24,
        .learning_rate = 0.01f,
        .clip_norm = clip,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .growth_interval = growth,
        .outcome = state};
    assert_int_equal(device->ops->decide_step(device, &args), LS_OK);
    read_back(device, &outcome, state, sizeof outcome);
    void *const all[] = {w, lanes, blocks, state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
    return outcome;
}

static LsStepControl decide(LsDevice *device, const float *words, LsStepControl control, float clip)
{
    return decide_outcome(device, words, control, clip, 0).control;
}

static const LsStepControl start = {.step = 41,
    .updates = 39,
    .loss_scale = 1,
    .good_steps = 5,
    .bias_correction1 = 0.9f,
    .bias_correction2 = 0.8f,
    .gradient_factor = 1};

static void a_finite_step_updates(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        LsStepControl control = decide(devices[d], good_words, start, 0);
        assert_true(control.step == 42 && control.updates == 40 && control.skip == 0);
        assert_true(control.good_steps == 6 && control.skipped_in_row == 0);
        assert_true(control.loss == 0.5f); // (6 + 2 + 4) / 24, exact
        assert_true(control.gradient_norm == 4.0f && control.gradient_factor == 1.0f);
        assert_true(control.learning_rate == 0.01f && control.loss_scale == 1.0f);
        // Rounded once to float, half a unit of 2^-24 of a value below 1.
        assert_true(fabs(control.bias_correction1 - (1 - pow(0.9f, 40))) <= 0x1p-25);
        assert_true(fabs(control.bias_correction2 - (1 - pow(0.95f, 40))) <= 0x1p-25);
    }
}

static void a_large_norm_is_clipped(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        assert_true(decide(devices[d], good_words, start, 1.0f).gradient_factor == 0.25f);
        assert_true(decide(devices[d], good_words, start, 4.0f).gradient_factor == 1.0f);
        assert_true(decide(devices[d], good_words, start, 100.0f).gradient_factor == 1.0f);
    }
}

// Gradients are scaled, so the norm is divided and the factor unscales.
static void the_loss_scale_is_taken_out(void **unused)
{
    (void)unused;
    LsStepControl scaled = start;
    scaled.loss_scale = 8.0f;
    for (int d = 0; d < device_count; d++) {
        LsStepControl control = decide(devices[d], good_words, scaled, 0.25f);
        assert_true(control.gradient_norm == 0.5f);
        assert_true(control.gradient_factor == 0.5f / 8.0f);
    }
}

static void what_is_not_finite_skips(void **unused)
{
    (void)unused;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const uint32_t places[] = {
        WORD(0, 0), WORD(0, 3), WORD(1, 2), WORD(0, 1), WORD(1, 0), WORD(1, 4)}; // a lane's or a block's word
    for (int d = 0; d < device_count; d++)
        for (size_t p = 0; p < 6; p++)
            for (size_t b = 0; b < 3; b++) {
                float words[WORDS];
                memcpy(words, good_words, sizeof words);
                words[places[p]] = bad[b];
                LsStepControl once = decide(devices[d], words, start, 1.0f);
                assert_true(once.skip == 1 && once.step == 42 && once.updates == 39);
                assert_true(once.skipped_in_row == 1 && once.gradient_factor == 0.0f);
                assert_true(once.bias_correction1 == start.bias_correction1);
                LsStepControl twice = decide(devices[d], words, once, 1.0f);
                assert_true(twice.skipped_in_row == 2 && twice.step == 43 && twice.updates == 39);
                LsStepControl after = decide(devices[d], good_words, twice, 1.0f);
                assert_true(after.skip == 0 && after.skipped_in_row == 0 && after.updates == 40);
            }
}

static void set_vote(float *words, size_t rank, size_t word, uint32_t vote)
{
    memcpy(&words[rank * RANK_WORDS + word], &vote, sizeof vote);
}

static void the_largest_votes_count(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        float words[WORDS];
        memcpy(words, good_words, sizeof words);
        LsVotes none = decide_outcome(devices[d], words, start, 0, 0).votes;
        assert_true(none.stop == 0 && none.error == 0);
        set_vote(words, 0, 0, 2);
        set_vote(words, 1, 0, 1);
        set_vote(words, 1, LS_VOTE_WORDS - 1, 0x80000001u); // the bits of a float below zero
        LsStepOutcome stop = decide_outcome(devices[d], words, start, 0, 0);
        assert_true(stop.votes.stop == 2 && stop.votes.error == 0 && stop.votes.reserved[1] == 0x80000001u);
        assert_true(stop.control.skip == 0 && stop.control.updates == 40); // the step itself is as good
    }
}

// A failure says nothing about the gradients: whatever they are, it is no overflow and no good step.
static void an_error_vote_skips_and_counts_as_nothing(void **unused)
{
    (void)unused;
    LsStepControl scaled = start;
    scaled.loss_scale = 64;
    scaled.skipped_in_row = 2;
    for (int d = 0; d < device_count; d++)
        for (int bad = 0; bad < 2; bad++) {
            float words[WORDS];
            memcpy(words, good_words, sizeof words);
            set_vote(words, 1, 1, LS_IO);
            words[WORD(0, 1)] = bad ? INFINITY : words[WORD(0, 1)];
            LsStepOutcome outcome = decide_outcome(devices[d], words, scaled, 1.0f, 6);
            LsStepControl control = outcome.control;
            assert_int_equal(outcome.votes.error, LS_IO);
            assert_true(control.skip == 1 && control.gradient_factor == 0 && control.step == 42);
            assert_true(control.updates == 39 && control.skipped_in_row == 2 && control.good_steps == 5);
            assert_true(control.loss_scale == 64 && control.bias_correction1 == start.bias_correction1);
        }
}

typedef struct ScaleStep {
    bool bad;
    float scale;  // after the step
    int32_t good; // good_steps after it
} ScaleStep;

// Overflows halve the scale down to 1, three good steps in a row double it up to 2^24; each step unscales by
// the scale that its gradients had.
static void the_loss_scale_follows_the_overflows(void **unused)
{
    (void)unused;
    static const ScaleStep falling[] = {{true, 2, 0}, {false, 2, 1}, {false, 2, 2}, {true, 1, 0},
        {true, 1, 0}, {false, 1, 1}, {false, 1, 2}, {false, 2, 0}, {false, 2, 1}, {false, 2, 2},
        {false, 4, 0}, {true, 2, 0}};
    static const ScaleStep rising[] = {{false, 0x1p23f, 1}, {false, 0x1p23f, 2}, {false, 0x1p24f, 0},
        {false, 0x1p24f, 1}, {false, 0x1p24f, 2}, {false, 0x1p24f, 0}, {true, 0x1p23f, 0}};
    static const struct {
        float first;
        const ScaleStep *steps;
        size_t count;
    } runs[] = {
        {4, falling, sizeof falling / sizeof *falling}, {0x1p23f, rising, sizeof rising / sizeof *rising}};
    for (int d = 0; d < device_count; d++)
        for (int r = 0; r < 2; r++) {
            LsStepControl control = {.loss_scale = runs[r].first};
            int64_t updates = 0;
            for (size_t s = 0; s < runs[r].count; s++) {
                const ScaleStep *step = &runs[r].steps[s];
                float words[WORDS], before = control.loss_scale;
                memcpy(words, good_words, sizeof words);
                words[WORD(1, 0)] = step->bad ? INFINITY : words[WORD(1, 0)];
                control = decide_outcome(devices[d], words, control, 0, 3).control;
                updates += !step->bad;
                assert_true(control.loss_scale == step->scale && control.good_steps == step->good);
                assert_true(control.skip == step->bad && control.updates == updates);
                assert_true(control.step == (int64_t)s + 1);
                assert_true(control.gradient_factor == (step->bad ? 0 : 1 / before));
            }
        }
}

// Without growth the scale stays whatever happens.
static void a_fixed_loss_scale_stays(void **unused)
{
    (void)unused;
    LsStepControl scaled = start;
    scaled.loss_scale = 8;
    for (int d = 0; d < device_count; d++) {
        float words[WORDS];
        memcpy(words, good_words, sizeof words);
        words[WORD(1, 0)] = NAN;
        LsStepControl bad = decide(devices[d], words, scaled, 0);
        assert_true(bad.skip == 1 && bad.loss_scale == 8 && bad.good_steps == 0);
        assert_true(decide(devices[d], good_words, bad, 0).loss_scale == 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_finite_step_updates),
        cmocka_unit_test(a_large_norm_is_clipped),
        cmocka_unit_test(the_loss_scale_is_taken_out),
        cmocka_unit_test(what_is_not_finite_skips),
        cmocka_unit_test(the_largest_votes_count),
        cmocka_unit_test(an_error_vote_skips_and_counts_as_nothing),
        cmocka_unit_test(the_loss_scale_follows_the_overflows),
        cmocka_unit_test(a_fixed_loss_scale_stays),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
