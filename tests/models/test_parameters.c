// The parameter table: places, names, decay, freezing; initial values that any rank can draw for any range.
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#include "device/operations.h"
#include "device/tensor.h"
#include "models/parameters.h"

static const LsParameter TENSORS[] = {
    {.name = "uniform",
        .dimensions = 2,
        .shape = {70, 130},
        .decay = true,
        .init = LS_INIT_UNIFORM,
        .init_scale = 0.25f},
    {.name = "zero", .dimensions = 1, .shape = {70}, .init = LS_INIT_ZERO},
    {.name = "normal",
        .dimensions = 3,
        .shape = {2, LS_BLOCK / 4, 2},
        .decay = true,
        .init = LS_INIT_NORMAL,
        .init_scale = 0.5f},
    {.name = "one", .dimensions = 1, .shape = {LS_BLOCK + 1}, .init = LS_INIT_ONE},
    {.name = "ran", .dimensions = 2, .shape = {70, 2}, .statistics = true, .init = LS_INIT_STATISTICS},
};
enum { COUNT = sizeof TENSORS / sizeof TENSORS[0], BLOCKS = 3 + 1 + 1 + 2 + 1 };

static LsParameters make_table(void)
{
    LsParameters table = {0};
    for (size_t t = 0; t < COUNT; t++)
        assert_int_equal(ls_parameters_add(&table, &TENSORS[t]), LS_OK);
    return table;
}

static void places(void **state)
{
    (void)state;
    static const size_t offsets[COUNT] = {0, 3 * LS_BLOCK, 4 * LS_BLOCK, 5 * LS_BLOCK, 7 * LS_BLOCK};
    enum { P = LS_KIND_PLAIN, D = LS_KIND_DECAYED, S = LS_KIND_STATISTICS };
    static const uint8_t kinds[BLOCKS] = {D, D, D, P, D, P, P, S};
    LsParameters table = make_table();
    uint8_t kind[BLOCKS];
    assert_int_equal(table.blocks, BLOCKS);
    assert_int_equal(ls_parameters_elements(&table), 9100 + 70 + LS_BLOCK + LS_BLOCK + 1 + 140);
    for (size_t t = 0; t < COUNT; t++) {
        assert_int_equal(table.list[t].offset, offsets[t]);
        assert_ptr_equal(ls_parameters_find(&table, TENSORS[t].name), &table.list[t]);
    }
    assert_null(ls_parameters_find(&table, "nobody"));
    ls_parameters_block_kinds(&table, kind);
    assert_memory_equal(kind, kinds, sizeof kind);
    ls_parameters_decay_all(&table);
    ls_parameters_block_kinds(&table, kind);
    for (size_t b = 0; b < BLOCKS; b++)
        assert_int_equal(kind[b], kinds[b] == S ? S : D);
    ls_parameters_free(&table);
    assert_int_equal(table.count, 0);
}

static void refuses(void **state)
{
    (void)state;
    LsParameters table = make_table();
    LsParameter twin = {.name = "zero", .dimensions = 1, .shape = {1}};
    LsParameter empty = {.name = "empty", .dimensions = 2, .shape = {3, 0}};
    LsParameter huge = {.name = "huge", .dimensions = 2, .shape = {SIZE_MAX / 2, 3}};
    LsParameter large = {.name = "large", .dimensions = 1, .shape = {SIZE_MAX - LS_BLOCK}};
    LsParameter scalar = {.name = "scalar"};
    assert_int_equal(ls_parameters_add(&table, &twin), LS_INTERNAL);
    assert_int_equal(ls_parameters_add(&table, &empty), LS_CONFIG);
    assert_int_equal(ls_parameters_add(&table, &huge), LS_CONFIG);
    assert_int_equal(ls_parameters_add(&table, &large), LS_CONFIG);
    assert_int_equal(ls_parameters_add(&table, &scalar), LS_INTERNAL);
    assert_int_equal(table.count, COUNT);
    assert_int_equal(table.blocks, BLOCKS);
    ls_parameters_free(&table);
}

// Ranges that cut tensors, start in padding, are empty, and cover all: bits as in the whole.
static void any_range(void **state)
{
    (void)state;
    LsParameters table = make_table();
    size_t elements = table.blocks * LS_BLOCK;
    float *whole = malloc(elements * sizeof *whole), *part = malloc(elements * sizeof *part);
    ls_parameters_initialize(&table, 42, 0, elements, whole);
    static const size_t ranges[][2] = {{1, 3}, {4095, 2}, {9099, 5000}, {9101, 7}, {12288, 70}, {0, 0},
        {16385, 4096}, {20000, 8672}, {28671, 1}, {28673, 200}, {0, 32768}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        memset(part, 0xff, elements * sizeof *part);
        ls_parameters_initialize(&table, 42, ranges[i][0], ranges[i][1], part);
        assert_memory_equal(part, whole + ranges[i][0], ranges[i][1] * sizeof *part);
        for (size_t e = ranges[i][1]; e < elements; e++)
            assert_int_equal(((uint32_t *)part)[e], 0xffffffffu); // nothing is written behind the range
    }
    ls_parameters_initialize(&table, 43, 0, elements, part);
    assert_memory_not_equal(part, whole, elements * sizeof *part);
    free(part);
    free(whole);
    ls_parameters_free(&table);
}

// "uniform", "zero", "normal", "one", "ran" by patterns, as flags in that order.
static void assert_frozen(const char *patterns, const char *flags)
{
    LsParameters table = make_table();
    if (ls_parameters_freeze(&table, patterns) != LS_OK)
        fail_msg("%s: %s", patterns, ls_status_message());
    for (size_t t = 0; t < COUNT; t++)
        if (table.list[t].frozen != (flags[t] == '1'))
            fail_msg("%s freezes %s otherwise than %s", patterns, TENSORS[t].name, flags);
    ls_parameters_free(&table);
}

static void assert_freeze_refused(const char *patterns, const char *words)
{
    LsParameters table = make_table();
    assert_int_equal(ls_parameters_freeze(&table, patterns), LS_CONFIG);
    if (!strstr(ls_status_message(), words))
        fail_msg("expected %s in: %s", words, ls_status_message());
    ls_parameters_free(&table);
}

static void freezing(void **state)
{
    (void)state;
    assert_frozen("", "00000");
    assert_frozen(" , ", "00000");
    assert_frozen("zero", "01000");
    assert_frozen("one,zero", "01010");
    assert_frozen(" one , zero,", "01010");
    assert_frozen("*or*", "10100");
    assert_frozen("?ne", "00010");
    assert_frozen("n*m*l", "00100");
    assert_frozen("*o", "01000");
    assert_frozen("**u*r*", "10000"); // the last r is not the first one that is found
    assert_frozen("uniform*,normal", "10100");
    assert_freeze_refused("on", "one");
    assert_freeze_refused("one,zeros", "zero");
    assert_freeze_refused("?one", "one");
    assert_freeze_refused("zero?", "zero");
    assert_frozen("r*", "00001");
    assert_freeze_refused("*", "all parameters");
    assert_freeze_refused("one,*o*", "all parameters"); // statistics alone are nothing to train
    assert_freeze_refused(
        "a-pattern-longer-than-any-name-of-a-parameter-could-ever-be-in-this-table-of-five", "matches no");
}

static void freezing_parts(void **state)
{
    (void)state;
    LsParameters table = {0};
    LsParameter weight = {.name = "layers.0.weight", .dimensions = 1, .shape = {1}};
    LsParameter other = {.name = "layers.01", .dimensions = 1, .shape = {1}};
    assert_int_equal(ls_parameters_add(&table, &other), LS_OK);
    assert_int_equal(ls_parameters_add(&table, &weight), LS_OK);
    assert_int_equal(ls_parameters_freeze(&table, "layers.0"), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "did you mean layers.0.*"));
    ls_parameters_free(&table);
}

static double deviation(const float *x, size_t n, double *mean)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    return sqrt(squares / (double)n);
}

// Statistics of n independent draws: the mean lies within 5 standard errors (sigma / sqrt(n)) of 0, and so
// does the deviation of sigma (its standard error is at most sigma / sqrt(2n)): a fixed seed, so no
// flakiness.
static void values(void **state)
{
    (void)state;
    LsParameters table = make_table();
    size_t elements = table.blocks * LS_BLOCK;
    float *x = malloc(elements * sizeof *x);
    ls_parameters_initialize(&table, 7, 0, elements, x);
    double mean, uniform_sigma = 0.25 / sqrt(3), sigma = deviation(x, 9100, &mean);
    assert_true(fabs(mean) < 5 * uniform_sigma / sqrt(9100));
    assert_true(fabs(sigma - uniform_sigma) < 5 * uniform_sigma / sqrt(2 * 9100));
    float largest = 0;
    for (size_t i = 0; i < 9100; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    assert_true(largest <= 0.25f && largest > 0.249f);
    sigma = deviation(x + 4 * LS_BLOCK, LS_BLOCK, &mean);
    assert_true(fabs(mean) < 5 * 0.5 / sqrt(LS_BLOCK));
    assert_true(fabs(sigma - 0.5) < 5 * 0.5 / sqrt(2 * LS_BLOCK));
    for (size_t t = 0; t < table.count; t++) {
        const LsParameter *p = &table.list[t];
        for (size_t i = p->elements; i % LS_BLOCK != 0; i++)
            assert_true(x[p->offset + i] == 0);
        for (size_t i = 0; i < p->elements && p->init == LS_INIT_ONE; i++)
            assert_true(x[p->offset + i] == 1);
        for (size_t i = 0; i < p->elements && p->init == LS_INIT_ZERO; i++)
            assert_true(x[p->offset + i] == 0);
        for (size_t i = 0; i < p->elements && p->init == LS_INIT_STATISTICS; i++)
            assert_true(x[p->offset + i] == (float)(i % 2));
    }
    free(x);
    ls_parameters_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),
        cmocka_unit_test(refuses),
        cmocka_unit_test(any_range),
        cmocka_unit_test(values),
        cmocka_unit_test(freezing),
        cmocka_unit_test(freezing_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
