// Learning-rate schedules against their closed forms at chosen steps.
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "train/schedule.h"

enum { TOTAL = 100, WARMUP = 10 };

static LsConfig make_config(int kind)
{
    LsConfig config;
    ls_config_defaults(&config);
    config.optimizer.lr = 0.5;
    config.schedule.kind = kind;
    config.schedule.warmup_steps = WARMUP;
    config.schedule.min_ratio = 0.1;
    config.schedule.step_every = 30;
    config.schedule.step_factor = 0.5;
    config.schedule.decay_steps = 20;
    return config;
}

typedef struct Expectation {
    int64_t step;
    double rate;
} Expectation;

// Both sides compute in float64 and one rounds to float: half a unit in the last place of a float, 2^-24.
static void check(const LsConfig *config, int64_t total, const Expectation *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double actual = ls_schedule_rate(config, list[i].step, total);
        if (fabs(actual - list[i].rate) > ldexp(list[i].rate, -23))
            fail_msg("step %lld: %.9g, not %.9g", (long long)list[i].step, actual, list[i].rate);
    }
}

#define CHECK(config, total, ...)                                                                            \
    check((config), (total), (const Expectation[]){__VA_ARGS__},                                             \
        sizeof((const Expectation[]){__VA_ARGS__}) / sizeof(Expectation))

// The first step already moves, the last one of the warm-up has the full rate, whatever comes after.
static void warmup(void **state)
{
    (void)state;
    for (int kind = LS_SCHEDULE_CONSTANT; kind <= LS_SCHEDULE_WSD; kind++) {
        LsConfig config = make_config(kind);
        CHECK(&config, TOTAL, {0, 0.05}, {4, 0.25}, {9, 0.5}, {10, 0.5});
    }
}

static void constant(void **state)
{
    (void)state;
    LsConfig config = make_config(LS_SCHEDULE_CONSTANT);
    CHECK(&config, 0, {10, 0.5}, {1000000, 0.5});
    config.schedule.warmup_steps = 0;
    CHECK(&config, 0, {0, 0.5}, {1, 0.5});
}

// cos of 0, a third, a half, two thirds and the whole of pi is 1, 1/2, 0, -1/2, -1.
static void cosine(void **state)
{
    (void)state;
    LsConfig config = make_config(LS_SCHEDULE_COSINE);
    CHECK(&config, TOTAL, {10, 0.5}, {40, 0.5 * (0.1 + 0.9 * 0.75)}, {55, 0.5 * 0.55},
        {70, 0.5 * (0.1 + 0.9 * 0.25)}, {100, 0.05}, {150, 0.05});
    config.schedule.min_ratio = 0;
    config.schedule.warmup_steps = 0;
    CHECK(&config, TOTAL, {0, 0.5}, {50, 0.25}, {100, 0});
}

static void linear(void **state)
{
    (void)state;
    LsConfig config = make_config(LS_SCHEDULE_LINEAR);
    CHECK(&config, TOTAL, {10, 0.5}, {55, 0.5 * 0.55}, {91, 0.5 * 0.19}, {100, 0.05}, {150, 0.05});
}

static void step(void **state)
{
    (void)state;
    LsConfig config = make_config(LS_SCHEDULE_STEP);
    CHECK(&config, 0, {29, 0.5}, {30, 0.25}, {59, 0.25}, {60, 0.125}, {300, 0.5 / 1024});
}

static void warmup_stable_decay(void **state)
{
    (void)state;
    LsConfig config = make_config(LS_SCHEDULE_WSD);
    CHECK(&config, TOTAL, {10, 0.5}, {80, 0.5}, {90, 0.5 * 0.55}, {95, 0.5 * 0.325}, {100, 0.05});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warmup),
        cmocka_unit_test(constant),
        cmocka_unit_test(cosine),
        cmocka_unit_test(linear),
        cmocka_unit_test(step),
        cmocka_unit_test(warmup_stable_decay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
