// The optimizer pass, what it does with running statistics and averages, and LARS's ratios, against float64
// models.
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

// ---- The optimizer --------------------------------------------------------------------------------------

enum { N = 2 * LS_BLOCK, STEPS = 20 };
static const float RATE = 0.1f, FOLLOW = 0.25f; // of statistics and averages
static const float BETA1 = 0.9f, BETA2 = 0.95f, EPSILON = 1e-8f, DECAY = 0.1f, MOMENTUM = 0.9f;

typedef struct Variant {
    int kind;
    bool momentum, nesterov;
} Variant;
static const Variant variants[] = {{LS_OPTIMIZER_SGD, false, false}, {LS_OPTIMIZER_SGD, true, false},
    {LS_OPTIMIZER_SGD, true, true}, {LS_OPTIMIZER_ADAMW, true, false}, {LS_OPTIMIZER_LARS, false, false},
    {LS_OPTIMIZER_LARS, true, false}, {LS_OPTIMIZER_LARS, true, true}};

// Of the two blocks, with LARS.
static const float ratios[] = {0.3f, 1};

typedef struct Model {
    double weight, first, second, average;
} Model;

static float host_gradient(int step, size_t i)
{
    return ls_rng_normal(ls_rng_key(3, (uint32_t)step), 0, i);
}

static LsStepControl control_of(int step)
{
    return (LsStepControl){.step = step + 1,
        .updates = step + 1,
        .learning_rate = 0.02f / (float)(step + 1),
        .gradient_factor = 0.5f,
        .bias_correction1 = (float)(1 - pow(BETA1, step + 1)),
        .bias_correction2 = (float)(1 - pow(BETA2, step + 1)),
        .loss_scale = 1};
}

static void model_step(
    const Variant *variant, Model *model, double gradient, double decay, double ratio, int step)
{
    LsStepControl control = control_of(step);
    double rate = control.learning_rate, g = gradient * control.gradient_factor;
    if (variant->kind == LS_OPTIMIZER_ADAMW) {
        model->weight -= rate * decay * model->weight;
        model->first = BETA1 * model->first + (1 - (double)BETA1) * g;
        model->second = BETA2 * model->second + (1 - (double)BETA2) * g * g;
        double corrected1 = model->first / (1 - pow(BETA1, step + 1));
        double corrected2 = model->second / (1 - pow(BETA2, step + 1));
        model->weight -= rate * corrected1 / (sqrt(corrected2) + EPSILON);
        model->average += FOLLOW * (model->weight - model->average);
        return;
    }
    double direction = ratio * (g + decay * model->weight);
    if (variant->momentum) {
        model->first = MOMENTUM * model->first + direction;
        direction = variant->nesterov ? direction + MOMENTUM * model->first : model->first;
    }
    model->weight -= rate * direction;
    model->average += FOLLOW * (model->weight - model->average);
}

typedef struct Buffers {
    float *master, *gradient, *moment1, *moment2, *average;
    uint16_t *weights;
    uint8_t *kind;
    float *ratio;
    LsStepControl *control;
} Buffers;

static Buffers new_buffers(LsDevice *device)
{
    static float zeros[N];
    static float ones[N];
    for (size_t i = 0; i < N; i++)
        ones[i] = 1;
    const uint8_t kind[N / LS_BLOCK] = {LS_KIND_DECAYED, LS_KIND_PLAIN};
    LsStepControl control = {0};
    return (Buffers){.master = on_device(device, ones, sizeof ones),
        .gradient = on_device(device, zeros, sizeof zeros),
        .moment1 = on_device(device, zeros, sizeof zeros),
        .moment2 = on_device(device, zeros, sizeof zeros),
        .average = on_device(device, ones, sizeof ones),
        .weights = on_device(device, zeros, N * 2),
        .kind = on_device(device, kind, sizeof kind),
        .ratio = on_device(device, ratios, sizeof ratios),
        .control = on_device(device, &control, sizeof control)};
}

static void release_buffers(LsDevice *device, const Buffers *b)
{
    void *const all[] = {b->master, b->gradient, b->moment1, b->moment2, b->average, b->weights, b->kind,
        b->ratio, b->control};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->ops->release(device, all[i]);
}

static void device_step(
    LsDevice *device, const Variant *variant, LsDtype type, const Buffers *b, int step, bool skip)
{
    static float gradient[N];
    for (size_t i = 0; i < N; i++)
        gradient[i] = host_gradient(step, i);
    LsStepControl control = control_of(step);
    control.skip = skip;
    if (skip)
        gradient[5] = NAN;
    assert_int_equal(device->ops->copy_in(device, b->gradient, gradient, sizeof gradient), LS_OK);
    assert_int_equal(device->ops->copy_in(device, b->control, &control, sizeof control), LS_OK);
    bool adamw = variant->kind == LS_OPTIMIZER_ADAMW;
    // A piece for each block, as a rank has of its buckets.
    LsOptimizerPiece pieces[N / LS_BLOCK];
    for (size_t p = 0; p < N / LS_BLOCK; p++)
        pieces[p] = (LsOptimizerPiece){.n = LS_BLOCK,
            .master = b->master + p * LS_BLOCK,
            .gradient = b->gradient + p * LS_BLOCK,
            .moment1 = variant->momentum ? b->moment1 + p * LS_BLOCK : NULL,
            .moment2 = adamw ? b->moment2 + p * LS_BLOCK : NULL,
            .weights = b->weights + p * LS_BLOCK,
            .block_kind = b->kind + p,
            .average = b->average + p * LS_BLOCK,
            .block_ratio = variant->kind == LS_OPTIMIZER_LARS ? b->ratio + p : NULL};
    LsOptimizerStep args = {.count = N / LS_BLOCK,
        .piece = pieces,
        .kind = variant->kind,
        .type = type,
        .momentum = MOMENTUM,
        .beta1 = BETA1,
        .beta2 = BETA2,
        .epsilon = EPSILON,
        .weight_decay = DECAY,
        .nesterov = variant->nesterov,
        .statistics_rate = RATE,
        .average_rate = FOLLOW,
        .control = b->control};
    assert_int_equal(device->ops->optimizer_step(device, &args), LS_OK);
}

static void check_weights(
    LsDevice *device, LsDtype type, const Buffers *b, const Model *model, const char *what)
{
    static float master[N], average[N];
    static uint16_t weights[N];
    read_back(device, master, b->master, sizeof master);
    read_back(device, average, b->average, sizeof average);
    read_back(device, weights, b->weights, sizeof weights);
    for (size_t i = 0; i < N; i++) {
        // Each of the 20 steps rounds the weight (near 1) once, by 2^-25 at most, and its change, of at most
        // 0.02 × 10, by a dozen roundings of 2^-24.
        if (fabs(master[i] - model[i].weight) > STEPS * (0x1p-25 + 0.2 * 12 * 0x1p-24))
            fail_msg("%s on %s: weight %zu is %.9g, the model has %.9g", what, device->ops->name, i,
                master[i], model[i].weight);
        // An average of weights is off by no more than they are, and by three roundings of each step.
        assert_true(fabs(average[i] - model[i].average) < STEPS * (0x1p-25 + (3 + 0.2 * 12) * 0x1p-24));
        assert_int_equal(weights[i], type == LS_BF16 ? ls_f32_to_bf16(master[i]) : ls_f32_to_f16(master[i]));
    }
}

static void steps_follow_the_float64_model(void **unused)
{
    (void)unused;
    static Model model[N];
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int d = 0; d < device_count; d++) {
            LsDtype type = v % 2 ? LS_F16 : LS_BF16; // by turns
            Buffers b = new_buffers(devices[d]);
            for (size_t i = 0; i < N; i++)
                model[i] = (Model){.weight = 1, .average = 1};
            for (int step = 0; step < STEPS; step++) {
                device_step(devices[d], &variants[v], type, &b, step, false);
                for (size_t i = 0; i < N; i++)
                    model_step(&variants[v], &model[i], host_gradient(step, i), i < LS_BLOCK ? DECAY : 0,
                        variants[v].kind == LS_OPTIMIZER_LARS ? ratios[i / LS_BLOCK] : 1, step);
            }
            check_weights(
                devices[d], type, &b, model, variants[v].kind == LS_OPTIMIZER_ADAMW ? "AdamW" : "SGD");
            release_buffers(devices[d], &b);
        }
}

// A step that says skip leaves every byte as it was, whatever the gradients are.
static void a_skipped_step_changes_nothing(void **unused)
{
    (void)unused;
    static float before[4][N], after[4][N];
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int d = 0; d < device_count; d++) {
            Buffers b = new_buffers(devices[d]);
            device_step(devices[d], &variants[v], LS_BF16, &b, 0, false);
            const float *const state[4] = {b.master, b.moment1, b.moment2, b.average};
            for (int i = 0; i < 4; i++)
                read_back(devices[d], before[i], state[i], sizeof before[i]);
            device_step(devices[d], &variants[v], LS_BF16, &b, 1, true);
            for (int i = 0; i < 4; i++)
                read_back(devices[d], after[i], state[i], sizeof after[i]);
            assert_memory_equal(before, after, sizeof before);
            release_buffers(devices[d], &b);
        }
}

// The padding behind a tensor is zero, has zero gradients, and stays zero.
static void padding_stays_zero(void **unused)
{
    (void)unused;
    static float zeros[N], master[N];
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int d = 0; d < device_count; d++) {
            Buffers b = new_buffers(devices[d]);
            LsStepControl control = control_of(3);
            const uint8_t kind[N / LS_BLOCK] = {LS_KIND_DECAYED, LS_KIND_STATISTICS};
            assert_int_equal(devices[d]->ops->copy_in(devices[d], b.kind, kind, sizeof kind), LS_OK);
            assert_int_equal(devices[d]->ops->zero(devices[d], b.master, sizeof master), LS_OK);
            assert_int_equal(
                devices[d]->ops->copy_in(devices[d], b.control, &control, sizeof control), LS_OK);
            LsOptimizerPiece piece = {.n = N,
                .master = b.master,
                .gradient = b.gradient,
                .moment1 = b.moment1,
                .moment2 = b.moment2,
                .block_kind = b.kind};
            LsOptimizerStep args = {.count = 1,
                .piece = &piece,
                .kind = variants[v].kind,
                .momentum = MOMENTUM,
                .beta1 = BETA1,
                .beta2 = BETA2,
                .epsilon = EPSILON,
                .weight_decay = DECAY,
                .nesterov = variants[v].nesterov,
                .control = b.control};
            assert_int_equal(devices[d]->ops->optimizer_step(devices[d], &args), LS_OK);
            read_back(devices[d], master, b.master, sizeof master);
            assert_memory_equal(master, zeros, sizeof master);
            release_buffers(devices[d], &b);
        }
}

// ---- Statistics -----------------------------------------------------------------------------------------

enum { MICROBATCHES = 3 };

// Mean and variance of a microbatch: channels lie far from zero, as many as there are pairs.
static double batch_mean(int step, int microbatch, size_t channel)
{
    LsRngKey key = ls_rng_key(4, (uint32_t)step);
    return (double)(channel % 7) - 3 + 0.5 * (double)ls_rng_normal(key, (uint64_t)microbatch, channel);
}

static double batch_variance(int step, int microbatch, size_t channel)
{
    return 0.5 + (double)ls_rng_uniform(ls_rng_key(5, (uint32_t)step), (uint64_t)microbatch, channel);
}

static void pool(int step, size_t channel, double *mean, double *variance)
{
    double sum = 0, within = 0, between = 0;
    for (int b = 0; b < MICROBATCHES; b++) {
        sum += batch_mean(step, b, channel);
        within += batch_variance(step, b, channel);
    }
    *mean = sum / MICROBATCHES;
    for (int b = 0; b < MICROBATCHES; b++)
        between += pow(batch_mean(step, b, channel) - *mean, 2);
    *variance = (within + between) / MICROBATCHES;
}

// What a model leaves in the gradients: averages of d and of variance + d², d from the mean as it is read.
static void leave_statistics(LsDevice *device, const Buffers *b, LsDtype type, int step)
{
    static float gradient[N], master[N];
    static uint16_t weights[N];
    read_back(device, weights, b->weights, sizeof weights);
    read_back(device, master, b->master, sizeof master);
    for (size_t i = 0; i < N; i += 2) {
        double d = 0, q = 0;
        float read = type == LS_F32    ? master[i]
                     : type == LS_BF16 ? ls_bf16_to_f32(weights[i])
                                       : ls_f16_to_f32(weights[i]);
        for (int m = 0; m < MICROBATCHES; m++) {
            double one = batch_mean(step, m, i / 2) - (double)read;
            d += one / MICROBATCHES;
            q += (batch_variance(step, m, i / 2) + one * one) / MICROBATCHES;
        }
        gradient[i] = (float)d;
        gradient[i + 1] = (float)q;
    }
    assert_int_equal(device->ops->copy_in(device, b->gradient, gradient, sizeof gradient), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

static void statistics_step(
    LsDevice *device, const Variant *variant, LsDtype type, const Buffers *b, int step)
{
    LsStepControl control = control_of(step);
    assert_int_equal(device->ops->copy_in(device, b->control, &control, sizeof control), LS_OK);
    LsOptimizerPiece piece = {.n = N,
        .master = b->master,
        .gradient = b->gradient,
        .moment1 = variant->momentum ? b->moment1 : NULL,
        .moment2 = variant->kind == LS_OPTIMIZER_ADAMW ? b->moment2 : NULL,
        .weights = type == LS_F32 ? NULL : b->weights,
        .block_kind = b->kind};
    LsOptimizerStep args = {.count = 1,
        .piece = &piece,
        .kind = variant->kind,
        .type = type,
        .momentum = MOMENTUM,
        .beta1 = BETA1,
        .beta2 = BETA2,
        .epsilon = EPSILON,
        .weight_decay = DECAY,
        .nesterov = variant->nesterov,
        .statistics_rate = RATE,
        .average_rate = FOLLOW,
        .control = b->control};
    assert_int_equal(device->ops->optimizer_step(device, &args), LS_OK);
}

static void begin_statistics(LsDevice *device, const Buffers *b, LsDtype type)
{
    static float first[N];
    static uint16_t rounded[N];
    static const uint8_t kind[N / LS_BLOCK] = {LS_KIND_STATISTICS, LS_KIND_STATISTICS};
    for (size_t i = 0; i < N; i++) {
        first[i] = (float)(i % 2);
        rounded[i] = type == LS_BF16 ? ls_f32_to_bf16(first[i]) : ls_f32_to_f16(first[i]);
    }
    assert_int_equal(device->ops->copy_in(device, b->master, first, sizeof first), LS_OK);
    assert_int_equal(device->ops->copy_in(device, b->weights, rounded, sizeof rounded), LS_OK);
    assert_int_equal(device->ops->copy_in(device, b->kind, kind, sizeof kind), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
}

// The running values are moving averages of the mean and variance of all microbatches pooled, in every type
// and whatever the optimizer; it leaves its moments of them as they were.
static void statistics_are_pooled(void **unused)
{
    (void)unused;
    static double expected[N];
    static float master[N], moment[N], zeros[N];
    static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int d = 0; d < device_count; d++)
            for (size_t t = 0; t < 3; t++) {
                Buffers b = new_buffers(devices[d]);
                begin_statistics(devices[d], &b, types[t]);
                for (size_t i = 0; i < N; i++)
                    expected[i] = (double)(i % 2);
                for (int step = 0; step < STEPS; step++) {
                    leave_statistics(devices[d], &b, types[t], step);
                    statistics_step(devices[d], &variants[v], types[t], &b, step);
                    for (size_t i = 0; i < N; i += 2) {
                        double mean, variance;
                        pool(step, i / 2, &mean, &variance);
                        expected[i] += (double)RATE * (mean - expected[i]);
                        expected[i + 1] += (double)RATE * (variance - expected[i + 1]);
                    }
                }
                read_back(devices[d], master, b.master, sizeof master);
                // Differences are below 8 and their squares below 64; each is rounded at most four times, and
                // the moving average of such errors is no larger.
                for (size_t i = 0; i < N; i++)
                    if (fabs(master[i] - expected[i]) > 4 * 64 * 0x1p-24)
                        fail_msg("%s, %s: element %zu is %.9g, not %.9g", devices[d]->ops->name,
                            ls_dtype_name(types[t]), i, master[i], expected[i]);
                read_back(devices[d], moment, b.moment1, sizeof moment);
                assert_memory_equal(moment, zeros, sizeof zeros);
                release_buffers(devices[d], &b);
            }
}

// Where the sum of squares has been rounded below the square of the sum.
static void a_variance_is_never_negative(void **unused)
{
    (void)unused;
    static float gradient[N], master[N];
    for (size_t i = 0; i < N; i++)
        gradient[i] = i % 2 ? 8.9f : 3;
    for (int d = 0; d < device_count; d++) {
        Buffers b = new_buffers(devices[d]);
        begin_statistics(devices[d], &b, LS_F32);
        assert_int_equal(devices[d]->ops->copy_in(devices[d], b.gradient, gradient, sizeof gradient), LS_OK);
        statistics_step(devices[d], &variants[0], LS_F32, &b, 0);
        read_back(devices[d], master, b.master, sizeof master);
        for (size_t i = 0; i < N; i += 2)
            assert_true(master[i] == RATE * 3 && master[i + 1] == 1 - RATE);
        release_buffers(devices[d], &b);
    }
}

// In a norm they are nothing, however large; but what is not finite in them is not finite in the norm.
static void statistics_count_in_no_norm(void **unused)
{
    (void)unused;
    static float x[2 * LS_BLOCK];
    static const float bad[] = {1, NAN, INFINITY, -INFINITY};
    static const uint8_t kind[2] = {LS_KIND_STATISTICS, LS_KIND_PLAIN};
    for (size_t i = 0; i < 2 * LS_BLOCK; i++)
        x[i] = i < LS_BLOCK ? 1e6f : 2;
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            LsDevice *device = devices[d];
            float sums[2];
            x[17] = bad[i];
            void *numbers = on_device(device, x, sizeof x), *kinds = on_device(device, kind, sizeof kind);
            void *out = on_device(device, sums, sizeof sums);
            LsSquaresPiece piece = {.n = 2 * LS_BLOCK, .x = numbers, .sums = out, .block_kind = kinds};
            LsBlockSquares args = {.count = 1, .piece = &piece};
            assert_int_equal(device->ops->block_squares(device, &args), LS_OK);
            read_back(device, sums, out, sizeof sums);
            assert_true(i == 0 ? sums[0] == 0 : isnan(sums[0]));
            assert_true(sums[1] == 4.0f * LS_BLOCK);
            void *const all[] = {numbers, kinds, out};
            for (size_t a = 0; a < 3; a++)
                device->ops->release(device, all[a]);
        }
}

// ---- LARS -----------------------------------------------------------------------------------------------

// Three tensors of one, two and three blocks, of which the second does not adapt; one more has no gradient,
// and one no weights.
enum { TENSORS = 5, TENSOR_BLOCKS = 8 };
static const uint32_t first_block[TENSORS + 1] = {0, 1, 3, 6, 7, TENSOR_BLOCKS};
static const uint8_t adapts[TENSORS] = {1, 0, 1, 1, 1};

static void ratios_follow_the_float64_model(void **unused)
{
    (void)unused;
    static const float gradient_squares[TENSOR_BLOCKS] = {4, 1, 1, 9, 16, 11, 0, 5},
                       weight_squares[TENSOR_BLOCKS] = {16, 3, 3, 1, 2, 6, 7, 0};
    const double trust = 0.02f, decay = 0.01f, epsilon = 1e-3f, factor = 0.125f;
    for (int d = 0; d < device_count; d++)
        for (int skip = 0; skip < 2; skip++) {
            LsDevice *device = devices[d];
            float words[3 + 2 * TENSOR_BLOCKS] = {NAN, NAN, NAN}, ratio[TENSOR_BLOCKS];
            uint32_t gradient_index[TENSOR_BLOCKS], weight_index[TENSOR_BLOCKS];
            for (uint32_t b = 0; b < TENSOR_BLOCKS; b++) { // from the last to the first, by turns
                gradient_index[b] = 3 + 2 * (TENSOR_BLOCKS - 1 - b);
                weight_index[b] = gradient_index[b] + 1;
                words[gradient_index[b]] = gradient_squares[b];
                words[weight_index[b]] = weight_squares[b];
                ratio[b] = -1;
            }
            LsStepControl control = {.gradient_factor = (float)factor, .skip = skip};
            void *const memory[] = {on_device(device, first_block, sizeof first_block),
                on_device(device, adapts, sizeof adapts), on_device(device, words, sizeof words),
                on_device(device, gradient_index, sizeof gradient_index),
                on_device(device, weight_index, sizeof weight_index),
                on_device(device, &control, sizeof control), on_device(device, ratio, sizeof ratio)};
            LsTrustRatios args = {.tensors = TENSORS,
                .first = memory[0],
                .adapts = memory[1],
                .words = memory[2],
                .gradient_index = memory[3],
                .weight_index = memory[4],
                .trust = (float)trust,
                .weight_decay = (float)decay,
                .epsilon = (float)epsilon,
                .control = memory[5],
                .ratio = memory[6]};
            assert_int_equal(device->ops->trust_ratios(device, &args), LS_OK);
            read_back(device, ratio, memory[6], sizeof ratio);
            double first = trust * 4 / (2 * factor + decay * 4 + epsilon);
            double third = trust * 3 / (6 * factor + decay * 3 + epsilon);
            const double expected[TENSOR_BLOCKS] = {first, 1, 1, third, third, third, 1, 1};
            for (size_t b = 0; b < TENSOR_BLOCKS; b++) // rounded once, to 24 bits
                assert_true(skip ? ratio[b] == -1 : fabs(ratio[b] - expected[b]) <= expected[b] * 0x1p-24);
            for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
                device->ops->release(device, memory[i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_follow_the_float64_model),
        cmocka_unit_test(a_skipped_step_changes_nothing),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(statistics_are_pooled),
        cmocka_unit_test(a_variance_is_never_negative),
        cmocka_unit_test(statistics_count_in_no_norm),
        cmocka_unit_test(ratios_follow_the_float64_model),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
