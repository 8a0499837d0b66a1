// Buckets cover the buffer from its end to its start, and shards are packed without gaps.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "collectives/buckets.h"
#include "device/tensor.h"

enum { BLOCK_BYTES = LS_BLOCK * sizeof(float) };

static void test_buckets_cover_the_buffer(void **state)
{
    (void)state;
    for (size_t blocks = 1; blocks < 200; blocks++)
        for (size_t usual = 1; usual < 40; usual += 3) {
            LsBuckets buckets;
            assert_int_equal(ls_buckets_create(blocks, usual * BLOCK_BYTES, &buckets), LS_OK);
            assert_int_equal(buckets.blocks, blocks);
            size_t end = blocks;
            for (size_t b = 0; b < buckets.count; b++) {
                assert_in_range(buckets.bucket[b].blocks, 1, usual);
                assert_int_equal(buckets.bucket[b].first_block + buckets.bucket[b].blocks, end);
                end = buckets.bucket[b].first_block;
            }
            assert_int_equal(end, 0);
            ls_buckets_free(&buckets);
        }
}

static void test_the_first_bucket_is_a_quarter(void **state)
{
    (void)state;
    LsBuckets buckets;
    assert_int_equal(ls_buckets_create(100, 16 * BLOCK_BYTES, &buckets), LS_OK);
    assert_int_equal(buckets.bucket[0].blocks, 4);
    assert_int_equal(buckets.count, 1 + 6); // 96 blocks left, 16 each
    ls_buckets_free(&buckets);
}

static void test_small_limits_and_models(void **state)
{
    (void)state;
    LsBuckets buckets;
    assert_int_equal(ls_buckets_create(3, 1, &buckets), LS_OK); // less than a block: a block each
    assert_int_equal(buckets.count, 3);
    ls_buckets_free(&buckets);
    assert_int_equal(ls_buckets_create(3, (size_t)1 << 40, &buckets), LS_OK);
    assert_int_equal(buckets.count, 1);
    ls_buckets_free(&buckets);
    assert_int_equal(ls_buckets_create(0, 1 << 20, &buckets), LS_INTERNAL);
    ls_buckets_free(NULL);
}

static void test_shards_are_packed(void **state)
{
    (void)state;
    LsBuckets buckets;
    assert_int_equal(ls_buckets_create(97, 10 * BLOCK_BYTES, &buckets), LS_OK);
    for (uint32_t ranks = 1; ranks <= 16; ranks++) {
        unsigned char owners[97] = {0};
        for (uint32_t rank = 0; rank < ranks; rank++) {
            size_t packed = 0;
            for (size_t b = 0; b < buckets.count; b++) {
                LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
                assert_int_equal(ls_shard_offset(&buckets, b, ranks, rank), packed);
                packed += piece.count;
                for (size_t i = 0; i < piece.count; i++)
                    owners[piece.first + i]++;
            }
            assert_int_equal(ls_shard_blocks(&buckets, ranks, rank), packed);
        }
        for (size_t i = 0; i < 97; i++)
            assert_int_equal(owners[i], 1);
    }
    ls_buckets_free(&buckets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_cover_the_buffer),
        cmocka_unit_test(test_the_first_bucket_is_a_quarter),
        cmocka_unit_test(test_small_limits_and_models),
        cmocka_unit_test(test_shards_are_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
