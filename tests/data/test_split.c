// The split: exact totals, every class in proportion, decided by the seed alone.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "dataset_fixture.h"
#include "split.h"

enum { CLASSES = 7, ROWS = 1009 };

// Classes of 4, 36, 100, … rows, interleaved.
static void make_classes(int32_t classes[ROWS])
{
    for (int r = 0; r < ROWS; r++)
        classes[r] = (int32_t)(sqrt((double)(r * 389 % ROWS) / ROWS) * CLASSES);
}

static void count_splits(
    const int32_t *classes, const uint8_t *split, size_t rows, size_t class, size_t counts[LS_SPLITS])
{
    memset(counts, 0, LS_SPLITS * sizeof *counts);
    for (size_t r = 0; r < rows; r++)
        counts[split[r]] += classes == NULL || (size_t)classes[r] == class;
}

static void test_fractions_are_met(void **state)
{
    (void)state;
    static const LsSplitFractions all[] = {
        {0, 0}, {0.1, 0.15}, {0.25, 0}, {0, 0.3}, {0.333, 0.333}, {0.6, 0.3}};
    int32_t classes[ROWS];
    uint8_t split[ROWS];
    make_classes(classes);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t total[LS_SPLITS] = {0}, counts[LS_SPLITS];
        assert_ok(ls_split_assign(3, all[i], classes, CLASSES, ROWS, split));
        for (size_t c = 0; c < CLASSES; c++) {
            count_splits(classes, split, ROWS, c, counts);
            double rows = (double)(counts[LS_TRAIN] + counts[LS_VALIDATION] + counts[LS_TEST]);
            double held_out = (double)(counts[LS_VALIDATION] + counts[LS_TEST]);
            // Largest remainders move a class by less than one row; the held-out rows are divided by a second
            // such step, so that validation can be off by less than two.
            assert_true(fabs(held_out - (all[i].validation + all[i].test) * rows) < 1);
            assert_true(fabs((double)counts[LS_VALIDATION] - all[i].validation * rows) < 2);
            assert_true(counts[LS_TRAIN] > 0);
            for (int s = 0; s < LS_SPLITS; s++)
                total[s] += counts[s];
        }
        double held_out = nearbyint((all[i].validation + all[i].test) * ROWS);
        double validation = nearbyint(all[i].validation * ROWS);
        assert_int_equal(total[LS_VALIDATION], validation);
        assert_int_equal(total[LS_TEST], held_out - validation);
    }
}

// Many small classes, whose quotas round to nothing each, still meet the totals together, and test rows do
// not starve.
static void test_small_classes(void **state)
{
    (void)state;
    enum { SMALL = 100, EACH = 5 };
    int32_t classes[SMALL * EACH];
    uint8_t split[SMALL * EACH];
    size_t counts[LS_SPLITS];
    for (int r = 0; r < SMALL * EACH; r++)
        classes[r] = r % SMALL;
    assert_ok(ls_split_assign(1, (LsSplitFractions){0.1, 0.1}, classes, SMALL, SMALL * EACH, split));
    count_splits(NULL, split, SMALL * EACH, 0, counts);
    assert_int_equal(counts[LS_VALIDATION], 50);
    assert_int_equal(counts[LS_TEST], 50);
    for (size_t c = 0; c < SMALL; c++) {
        count_splits(classes, split, SMALL * EACH, c, counts);
        assert_int_equal(counts[LS_TRAIN], 4);
    }
}

static void test_last_row_stays(void **state)
{
    (void)state;
    enum { N = 20 };
    int32_t classes[N];
    uint8_t split[N];
    for (int r = 0; r < N; r++)
        classes[r] = r < 10 ? r : 10; // ten classes of one row, one of ten
    assert_ok(ls_split_assign(1, (LsSplitFractions){0.3, 0.3}, classes, 11, N, split));
    size_t counts[LS_SPLITS];
    for (size_t c = 0; c < 11; c++) {
        count_splits(classes, split, N, c, counts);
        assert_int_equal(counts[LS_TRAIN], 1);
    }
}

// A row's split may depend on the seed and on the rows of its class, not on other classes.
static void test_seed_decides(void **state)
{
    (void)state;
    int32_t classes[ROWS];
    uint8_t first[ROWS], again[ROWS], other[ROWS];
    size_t counts[LS_SPLITS], same = 0;
    LsSplitFractions fractions = {0.2, 0.2};
    make_classes(classes);
    assert_ok(ls_split_assign(1, fractions, classes, CLASSES, ROWS, first));
    assert_ok(ls_split_assign(1, fractions, classes, CLASSES, ROWS, again));
    assert_memory_equal(first, again, ROWS);
    assert_ok(ls_split_assign(2, fractions, classes, CLASSES, ROWS, other));
    for (int r = 0; r < ROWS; r++)
        same += first[r] == other[r];
    // Two independent assignments agree in 0.36 + 0.04 + 0.04 = 44 % of the rows; 1,009 rows put the
    // deviation at 16 rows, so six of them are not reached by chance.
    assert_in_range(same, 444 - 96, 444 + 96);

    assert_ok(ls_split_assign(1, fractions, NULL, 0, ROWS, first));
    count_splits(NULL, first, ROWS, 0, counts);
    assert_int_equal(counts[LS_VALIDATION], 202);
    assert_int_equal(counts[LS_TEST], 202);
}

static void test_refuses(void **state)
{
    (void)state;
    static const LsSplitFractions bad[] = {{-0.1, 0.2}, {0.2, -0.1}, {0.5, 0.5}, {1, 0}, {NAN, 0}, {0, NAN}};
    uint8_t split[4] = {9, 9, 9, 9}, untouched[4] = {9, 9, 9, 9};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(ls_split_assign(1, bad[i], NULL, 0, 4, split), LS_CONFIG, "fractions");
    assert_memory_equal(split, untouched, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fractions_are_met),
        cmocka_unit_test(test_small_classes),
        cmocka_unit_test(test_last_row_stays),
        cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
