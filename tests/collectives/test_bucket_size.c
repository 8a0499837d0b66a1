// Which sizes of buckets are tried for a model, and which one the times speak for.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "collectives/bucket_size.h"
#include "device/tensor.h"

enum { SAMPLES = 5, BLOCKS_OF_MB = 64 }; // a block has 16 KiB

static void expect_sizes(size_t blocks, size_t count, const double *expected)
{
    LsBucketTime time[LS_BUCKET_SIZES_MAX];
    size_t sizes = 0;
    assert_int_equal(ls_bucket_sizes(blocks, time, &sizes), LS_OK);
    assert_int_equal(sizes, count);
    for (size_t s = 0; s < sizes; s++)
        assert_true(time[s].mebibytes == expected[s]);
}

static void test_sizes_of_models(void **state)
{
    (void)state;
    // One bucket whatever the size is, as long as all of it fits into the first one of the smallest.
    expect_sizes(1, 1, (double[]){25});
    expect_sizes(25, 1, (double[]){25});
    // 26 blocks are cut by the smallest only; 100, the first bucket of 6.25 MiB, too.
    expect_sizes(26, 2, (double[]){25, 1.5625});
    expect_sizes(100, 2, (double[]){25, 1.5625});
    expect_sizes(101, 3, (double[]){25, 6.25, 1.5625});
    // From 401 blocks on the default cuts, and four times as much does not.
    expect_sizes(401, 4, (double[]){25, 100, 6.25, 1.5625});
    // Very many small buckets are not tried.
    expect_sizes(700 * BLOCKS_OF_MB, 4, (double[]){25, 100, 6.25, 1.5625});
    expect_sizes(900 * BLOCKS_OF_MB, 3, (double[]){25, 100, 6.25});
    expect_sizes(4000 * BLOCKS_OF_MB, 2, (double[]){25, 100});
    // The default is always there.
    expect_sizes((size_t)100000 * BLOCKS_OF_MB, 1, (double[]){25});
}

static void test_no_model_is_cut_twice_alike(void **state)
{
    (void)state;
    for (size_t blocks = 1; blocks < 4000; blocks += 13) {
        LsBucketTime time[LS_BUCKET_SIZES_MAX];
        LsBuckets cut[LS_BUCKET_SIZES_MAX];
        size_t sizes = 0;
        assert_int_equal(ls_bucket_sizes(blocks, time, &sizes), LS_OK);
        for (size_t s = 0; s < sizes; s++) {
            assert_int_equal(ls_buckets_create(blocks, ls_bucket_bytes(time[s].mebibytes), &cut[s]), LS_OK);
            for (size_t o = 0; o < s; o++) // the first bucket and the number of buckets fix the others
                assert_true(
                    cut[o].count != cut[s].count || cut[o].bucket[0].blocks != cut[s].bucket[0].blocks);
        }
        for (size_t s = 0; s < sizes; s++)
            ls_buckets_free(&cut[s]);
    }
}

static void test_auto_stands_for_the_default(void **state)
{
    (void)state;
    assert_int_equal(ls_bucket_bytes(0), (size_t)LS_BUCKET_MB << 20);
    assert_int_equal(ls_bucket_bytes(0.5), 1 << 19);
}

// Samples around `middle` whose median is `middle` and whose median deviation is `spread`.
static void around(double *samples, double middle, double spread)
{
    const double off[SAMPLES] = {2, -1, 0, 1, -40}; // one pass was disturbed
    for (size_t i = 0; i < SAMPLES; i++)
        samples[i] = middle + spread * off[i];
}

static size_t choose(size_t ranks, size_t sizes, double middle[][3], double spread, LsBucketTime *time)
{
    double seconds[2 * 3 * SAMPLES];
    for (size_t r = 0; r < ranks; r++)
        for (size_t s = 0; s < sizes; s++)
            around(seconds + (r * sizes + s) * SAMPLES, middle[r][s], spread);
    return ls_bucket_size_choose(seconds, ranks, sizes, SAMPLES, time);
}

static void test_the_fastest_wins(void **state)
{
    (void)state;
    LsBucketTime time[3] = {{.mebibytes = 25}, {.mebibytes = 100}, {.mebibytes = 6.25}};
    assert_int_equal(choose(1, 3, (double[][3]){{10, 8, 9}}, 0.1, time), 1);
    assert_int_equal(choose(1, 3, (double[][3]){{10, 9, 8}}, 0.1, time), 2);
    assert_int_equal(choose(1, 3, (double[][3]){{8, 9, 10}}, 0.1, time), 0);
    assert_true(time[1].mebibytes == 100);
    assert_true(time[1].seconds == 9 && fabs(time[1].spread - 0.1) < 1e-12);
}

static void test_ties_go_to_the_default(void **state)
{
    (void)state;
    LsBucketTime time[3] = {{0}};
    // 10 ± 0.3 and 9.5 ± 0.3 overlap, 10 ± 0.3 and 9.3 ± 0.3 do not.
    assert_int_equal(choose(1, 3, (double[][3]){{10, 9.5, 9.6}}, 0.3, time), 0);
    assert_int_equal(choose(1, 3, (double[][3]){{10, 9.3, 9.6}}, 0.3, time), 1);
    assert_int_equal(choose(1, 3, (double[][3]){{10, 10, 10}}, 0, time), 0);
    assert_int_equal(choose(1, 1, (double[][3]){{10, 0, 0}}, 0, time), 0);
}

static void test_the_slowest_rank_counts(void **state)
{
    (void)state;
    LsBucketTime time[3] = {{0}};
    // The second size is faster for rank 0 by far, but rank 1 waits longer with it.
    assert_int_equal(choose(2, 2, (double[][3]){{10, 2, 0}, {7, 11, 0}}, 0.1, time), 0);
    assert_true(time[0].seconds == 10 && time[1].seconds == 11);
    assert_int_equal(choose(2, 2, (double[][3]){{10, 2, 0}, {7, 8, 0}}, 0.1, time), 1);
}

static void test_an_even_number_of_samples(void **state)
{
    (void)state;
    double seconds[] = {4, 1, 3, 2, 9, 9, 9, 9};
    LsBucketTime time[2] = {{0}};
    assert_int_equal(ls_bucket_size_choose(seconds, 1, 2, 4, time), 0);
    assert_true(time[0].seconds == 2.5 && time[0].spread == 1);
    assert_true(time[1].seconds == 9 && time[1].spread == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_of_models),
        cmocka_unit_test(test_no_model_is_cut_twice_alike),
        cmocka_unit_test(test_auto_stands_for_the_default),
        cmocka_unit_test(test_the_fastest_wins),
        cmocka_unit_test(test_ties_go_to_the_default),
        cmocka_unit_test(test_the_slowest_rank_counts),
        cmocka_unit_test(test_an_even_number_of_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
