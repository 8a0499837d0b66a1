// Gradients that are not kept: each round's are reduced bucket after bucket into the ranks' shards, on every
// device and transport, to the bits of the canonical tree.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "collectives/sharder.h"
#include "device/tensor.h"
#include "lane_sums.h"
#include "platforms.h"

enum { SUMS_MAX = 4 }; // of LANES

typedef struct Rounds {
    LsPlan plan;
    LsRounds rounds;
    LsBuckets buckets;
    float *window, **gradient; // two buckets' gradients at a time
    float *sum[SUMS_MAX];
    float *lane, *expected;
    LsSharder *sharder;
} Rounds;

static void set_up_rounds(Rounds *s, size_t blocks, size_t bucket_blocks)
{
    size_t elements = blocks * LS_BLOCK, most = 0;
    assert_int_equal(ls_rounds_compile(LANES, ranks, rank, &s->plan, &s->rounds), LS_OK);
    assert_in_range(s->rounds.sums, 1, SUMS_MAX);
    assert_int_equal(ls_buckets_create(blocks, bucket_blocks * LS_BLOCK * sizeof(float), &s->buckets), LS_OK);
    for (size_t b = 0; b < s->buckets.count; b++)
        most = s->buckets.bucket[b].blocks > most ? s->buckets.bucket[b].blocks : most;
    s->window = allocate_on_device(2 * most * LS_BLOCK * sizeof(float));
    s->gradient = allocate(s->buckets.count * sizeof *s->gradient);
    for (size_t b = 0; b < s->buckets.count; b++)
        s->gradient[b] = s->window + b % 2 * most * LS_BLOCK;
    size_t shard = ls_shard_blocks(&s->buckets, ranks, rank) * LS_BLOCK * sizeof(float);
    for (uint32_t i = 0; i < (rounded ? 1 : s->rounds.sums); i++)
        s->sum[i] = allocate_on_device(shard > 0 ? shard : 1);
    s->lane = allocate(elements * sizeof(float));
    s->expected = allocate(4 * elements * sizeof(float));
    LsSharderOptions options = {.rounds = &s->rounds,
        .buckets = &s->buckets,
        .gradient = s->gradient,
        .sum = s->sum,
        .rounded = rounded};
    assert_int_equal(ls_sharder_create(comm, &options, &s->sharder), LS_OK);
}

static void tear_down_rounds(Rounds *s)
{
    ls_sharder_destroy(s->sharder);
    free(s->expected);
    free(s->lane);
    for (uint32_t i = 0; i < s->rounds.sums; i++)
        ls_comm_release(comm, s->sum[i]);
    free(s->gradient);
    ls_comm_release(comm, s->window);
    ls_buckets_free(&s->buckets);
    ls_rounds_free(&s->rounds);
    ls_plan_free(&s->plan);
}

// As backward does: a bucket's gradients overwrite those of the one before the last.
static void reduce_round(Rounds *s, uint32_t round, uint32_t numbers)
{
    size_t blocks = s->buckets.blocks;
    bool mine = round < s->plan.lane_steps;
    if (mine)
        fill_lane(s->plan.lane_step[round].lane, numbers, blocks * LS_BLOCK, s->lane);
    for (size_t b = 0; b < s->buckets.count; b++) {
        LsBucket bucket = s->buckets.bucket[b];
        for (size_t before = b % 2; mine && before < s->buckets.count; before += 2)
            assert_int_equal(ls_sharder_release(s->sharder, before), LS_OK);
        if (mine)
            upload(s->gradient[b], s->lane + bucket.first_block * LS_BLOCK,
                bucket.blocks * LS_BLOCK * sizeof(float));
        assert_int_equal(device->ops->marker_record(device, ls_sharder_final(s->sharder, b)), LS_OK);
        assert_int_equal(ls_sharder_begin(s->sharder, round, b), LS_OK);
        if ((b + rank) % 2)
            assert_int_equal(ls_sharder_poll(s->sharder), LS_OK);
    }
}

static void reduce_in_rounds(size_t blocks, size_t bucket_blocks)
{
    Rounds s = {0};
    set_up_rounds(&s, blocks, bucket_blocks);
    for (uint32_t numbers = 0; numbers < ROUNDS; numbers++) {
        for (uint32_t round = 0; round < s.rounds.rounds; round++)
            reduce_round(&s, round, numbers);
        assert_int_equal(ls_sharder_finish(s.sharder), LS_OK);
        add_tree(0, LANES, numbers, blocks * LS_BLOCK, s.expected);
        for (size_t b = 0; b < s.buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&s.buckets, b, ranks, rank);
            size_t place = ls_shard_offset(&s.buckets, b, ranks, rank);
            assert_on_device(s.sum[0] + place * LS_BLOCK, s.expected + piece.first * LS_BLOCK,
                piece.count * LS_BLOCK * sizeof(float));
        }
    }
    tear_down_rounds(&s);
}

static void test_rounds(void **state)
{
    (void)state;
    reduce_in_rounds(37, 8);
    reduce_in_rounds(5, 1);
    reduce_in_rounds(3, 64);
}

static void test_rounded_rounds(void **state)
{
    (void)state;
    rounded = true;
    reduce_in_rounds(37, 8);
    reduce_in_rounds(5, 1);
    rounded = false;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rounds),
    cmocka_unit_test(test_rounded_rounds),
};

int main(int argc, char **argv)
{
    return run_on_platforms(argc, argv, tests, sizeof tests / sizeof *tests);
}
