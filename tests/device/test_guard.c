// The guard's part of a step's decision: spikes against a model of their own, the window across a resume,
// lanes that differ, fingerprints. Every device has the bits of the reference.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "device_group.h"

// ---- The decision: one rank, one lane, one block, and what two ranks found of a lane ---------------------

enum { CHECK = 3, WORDS = LS_VOTE_WORDS + 2 + 2 * CHECK };
static const uint32_t lane_index[1] = {LS_VOTE_WORDS}, block_index[1] = {LS_VOTE_WORDS + 1};

typedef struct Question {
    float loss, norm;
    float spike;
    int32_t window, growth;
    uint32_t error;
    size_t check_words;
    uint32_t flipped; // bits of the second finding's last word
} Question;

static LsStepOutcome decide(LsDevice *device, const LsStepOutcome *before, const Question *q)
{
    float scaled = q->norm * before->control.loss_scale; // as the gradients are
    float words[WORDS] = {[LS_VOTE_WORDS] = q->loss, scaled * scaled};
    memcpy(&words[1], &q->error, sizeof q->error);
    uint32_t found[2][CHECK] = {
        {1, 0x7fc00001u, 3}, {1, 0x7fc00001u, 3 ^ q->flipped}}; // a NaN is a number here
    memcpy(&words[WORDS - 2 * CHECK], found, sizeof found);
    void *w = on_device(device, words, sizeof words);
    void *lanes = on_device(device, lane_index, sizeof lane_index);
    void *blocks = on_device(device, block_index, sizeof block_index);
    void *state = on_device(device, before, sizeof *before);
    LsStepOutcome after;
    LsDecideStep args = {.lanes = 1,
        .blocks = 1,
        .ranks = 1,
        .rank_words = WORDS,
        .words = w,
        .lane_index = lanes,
        .block_index = blocks,
        .samples = 1,
        .learning_rate = 0.5f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .growth_interval = q->growth,
        .spike = q->spike,
        .window = q->window,
        .check_words = q->check_words,
        .first_check = WORDS - 2 * CHECK,
        .second_check = WORDS - CHECK,
        .outcome = state};
    assert_int_equal(device->ops->decide_step(device, &args), LS_OK);
    assert_int_equal(device->ops->copy_out(device, &after, state, sizeof after), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    void *const all[] = {w, lanes, blocks, state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
    return after;
}

// ---- A model of spikes ----------------------------------------------------------------------------------

enum { STEPS = 300 };

typedef struct Good {
    size_t count;
    double value[STEPS];
} Good;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle_of(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static double score_of(const Good *good, size_t window, double value)
{
    double newest[LS_SPIKE_WINDOW_MAX];
    if (good->count < window)
        return 0;
    memcpy(newest, good->value + good->count - window, window * sizeof *newest);
    double median = middle_of(newest, window);
    for (size_t i = 0; i < window; i++)
        newest[i] = fabs(newest[i] - median);
    double unit = 1.4826 * middle_of(newest, window);
    return (value - median) / fmax(unit, fmax(0.01 * fabs(median), 1e-6));
}

// A falling loss with noise; now and then far above, far below, or no number at all.
static Question question_of(uint64_t step, float spike, int32_t window)
{
    LsRngKey key = ls_rng_key(17, (uint32_t)window);
    float fall = 4.0f / (1.0f + 0.01f * (float)step);
    Question q = {.spike = spike, .window = window, .growth = 7};
    q.loss = fall + 0.1f * ls_rng_uniform(key, step, 0);
    q.norm = 1.0f + 0.5f * ls_rng_uniform(key, step, 1);
    uint32_t kind = ls_rng_u32(key, step, 2) % 16;
    if (kind == 0)
        q.loss += 30.0f;
    else if (kind == 1)
        q.norm *= 12.0f;
    else if (kind == 2)
        q.loss = 0.01f; // no spike: it is below
    else if (kind == 3)
        q.norm = INFINITY;
    return q;
}

// The float64 model and the ops round the same few operations alike, but for the square and its root.
static void check_step(
    const Question *q, const LsStepOutcome *before, const LsStepOutcome *now, Good *loss, Good *norm)
{
    const LsStepControl *control = &now->control;
    bool finite = isfinite(q->norm);
    double scores[2] = {0};
    if (finite) {
        scores[0] = score_of(loss, (size_t)q->window, control->loss);
        scores[1] = score_of(norm, (size_t)q->window, control->gradient_norm);
        assert_true(fabs(now->loss_score - scores[0]) <= 1e-6 * fabs(scores[0]));
        assert_true(fabs(now->gradient_norm_score - scores[1]) <= 1e-6 * fabs(scores[1]));
    }
    bool spike = finite && (now->loss_score > q->spike || now->gradient_norm_score > q->spike);
    assert_int_equal(control->skip, !finite ? LS_SKIP_NOT_FINITE : spike ? LS_SKIP_SPIKE : LS_SKIP_NONE);
    assert_int_equal(control->step, before->control.step + 1);
    assert_int_equal(control->updates, before->control.updates + !control->skip);
    assert_int_equal(control->skipped_in_row, control->skip ? before->control.skipped_in_row + 1 : 0);
    if (spike) { // says nothing about the scale
        assert_true(control->loss_scale == before->control.loss_scale);
        assert_int_equal(control->good_steps, before->control.good_steps);
        assert_true(control->gradient_factor == 0);
    }
    if (!control->skip) {
        loss->value[loss->count++] = control->loss;
        norm->value[norm->count++] = control->gradient_norm;
    }
}

static const LsStepOutcome first = {.control = {.loss_scale = 1024}};

static void spikes_follow_the_model(void **unused)
{
    (void)unused;
    static const int32_t windows[] = {8, 9, 64, 127, 128};
    for (int d = 0; d < device_count; d++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
            static Good loss, norm;
            LsStepOutcome outcome = first;
            int kinds[3] = {0};
            loss.count = norm.count = 0;
            for (uint64_t s = 0; s < STEPS; s++) {
                Question q = question_of(s, 8, windows[w]);
                LsStepOutcome now = decide(devices[d], &outcome, &q);
                check_step(&q, &outcome, &now, &loss, &norm);
                kinds[now.control.skip]++;
                outcome = now;
            }
            assert_true(
                kinds[LS_SKIP_NONE] > 150 && kinds[LS_SKIP_NOT_FINITE] > 5 && kinds[LS_SKIP_SPIKE] > 5);
        }
}

static void every_device_decides_alike(void **unused)
{
    (void)unused;
    LsStepOutcome outcome = first;
    for (uint64_t s = 0; s < STEPS; s++) {
        Question q = question_of(s, 5, 33);
        LsStepOutcome expected = decide(devices[0], &outcome, &q);
        for (int d = 1; d < device_count; d++) {
            LsStepOutcome now = decide(devices[d], &outcome, &q);
            assert_memory_equal(&now, &expected, sizeof now);
        }
        outcome = expected;
    }
}

// A checkpoint keeps the entries from the oldest on, not where in the ring they lay.
static void a_window_that_was_saved_decides_alike(void **unused)
{
    (void)unused;
    LsStepOutcome going = first, resumed = first;
    for (uint64_t s = 0; s < STEPS; s++) {
        Question q = question_of(s, 8, 16);
        going = decide(devices[0], &going, &q);
        resumed = decide(devices[0], &resumed, &q);
        assert_memory_equal(&going.control, &resumed.control, sizeof going.control);
        assert_true(going.loss_score == resumed.loss_score);
        if (s % 37 != 0)
            continue;
        LsSpikeWindow *window = &resumed.window, turned = {.held = window->held};
        for (int32_t i = 0; i < window->held; i++) {
            int32_t place = (window->next - window->held + i + LS_SPIKE_WINDOW_MAX) % LS_SPIKE_WINDOW_MAX;
            turned.loss[i] = window->loss[place];
            turned.gradient_norm[i] = window->gradient_norm[place];
        }
        turned.next = turned.held % LS_SPIKE_WINDOW_MAX;
        *window = turned;
    }
}

// Noise of a thousandth is none; a tenth more than the median is at the least one for 9.
static void a_flat_window_has_a_floor(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        LsStepOutcome outcome = first;
        Question q = {.loss = 2, .norm = 1, .spike = 9, .window = 8};
        for (int s = 0; s < 8; s++)
            outcome = decide(devices[d], &outcome, &q);
        q.loss = 2.002f;
        assert_int_equal(decide(devices[d], &outcome, &q).control.skip, LS_SKIP_NONE);
        q.loss = 2.2f;
        assert_int_equal(decide(devices[d], &outcome, &q).control.skip, LS_SKIP_SPIKE);
        q.window = 9; // which does not hold so many
        assert_int_equal(decide(devices[d], &outcome, &q).control.skip, LS_SKIP_NONE);
        q.spike = 0;
        LsStepOutcome off = decide(devices[d], &outcome, &q);
        assert_int_equal(off.control.skip, LS_SKIP_NONE);
        assert_memory_equal(&off.window, &outcome.window, sizeof off.window);
    }
}

// ---- Lanes that differ ----------------------------------------------------------------------------------

static void a_lane_that_differs_undoes_the_step(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        for (uint32_t bit = 0; bit < 32; bit += 31) {
            LsStepOutcome before = first;
            before.control.step = 6;
            before.control.updates = 5;
            Question q = {.loss = 1, .norm = 1, .spike = 9, .window = 8, .check_words = CHECK};
            assert_int_equal(decide(devices[d], &before, &q).control.step, 7);
            q.flipped = 1u << bit;
            LsStepOutcome after = decide(devices[d], &before, &q);
            assert_int_equal(after.control.skip, LS_SKIP_WRONG);
            after.control.skip = LS_SKIP_NONE;
            assert_memory_equal(&after.control, &before.control, sizeof before.control);
            assert_memory_equal(&after.window, &before.window, sizeof before.window);
            q.error = LS_IO; // a rank that failed may have found nothing
            after = decide(devices[d], &before, &q);
            assert_int_equal(after.control.skip, LS_SKIP_NOT_FINITE);
            assert_int_equal(after.votes.error, LS_IO);
        }
}

// ---- Fingerprints ---------------------------------------------------------------------------------------

enum { N = 70001 };

static uint64_t fingerprint(LsDevice *device, const float *x, size_t n, size_t cut)
{
    uint64_t sum = 0;
    void *values = on_device(device, x, n * sizeof *x), *place = on_device(device, &sum, sizeof sum);
    const LsFingerprint parts[] = {{.n = n - cut, .x = (float *)values + cut, .first = cut, .sum = place},
        {.n = cut, .x = values, .first = 0, .sum = place}};
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(device->ops->fingerprint_bits(device, &parts[i]), LS_OK);
    assert_int_equal(device->ops->copy_out(device, &sum, place, sizeof sum), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    device->ops->release(device, place);
    device->ops->release(device, values);
    return sum;
}

static void fingerprints_see_every_bit(void **unused)
{
    (void)unused;
    static float x[N];
    LsRngKey key = ls_rng_key(5, 5);
    for (size_t i = 0; i < N; i++)
        x[i] = ls_rng_normal(key, 0, i);
    x[7] = NAN;
    x[9] = -0.0f;
    uint64_t whole = fingerprint(devices[0], x, N, 0);
    for (int d = 0; d < device_count; d++) {
        for (size_t cut = 0; cut <= N; cut += N / 3)
            assert_true(fingerprint(devices[d], x, N, cut) == whole);
        assert_true(fingerprint(devices[d], x, 0, 0) == 0);
    }
    static const size_t places[] = {0, 7, 9, 4095, 4096, N - 1};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++)
        for (uint32_t bit = 0; bit < 32; bit++) {
            float kept = x[places[p]];
            uint32_t bits;
            memcpy(&bits, &kept, sizeof bits);
            bits ^= 1u << bit;
            memcpy(&x[places[p]], &bits, sizeof bits);
            assert_true(fingerprint(devices[device_count > 1], x, N, 0) != whole);
            x[places[p]] = kept;
        }
    float swapped = x[20];
    x[20] = x[21];
    x[21] = swapped;
    assert_true(fingerprint(devices[0], x, N, 0) != whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spikes_follow_the_model),
        cmocka_unit_test(every_device_decides_alike),
        cmocka_unit_test(a_window_that_was_saved_decides_alike),
        cmocka_unit_test(a_flat_window_has_a_floor),
        cmocka_unit_test(a_lane_that_differs_undoes_the_step),
        cmocka_unit_test(fingerprints_see_every_bit),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
