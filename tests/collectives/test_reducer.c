// Reductions of gradients between ranks, on every device and transport: the bits of the canonical tree,
// whatever the plan, the number of ranks and the place of the sum.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/tensor.h"
#include "lane_sums.h"
#include "platforms.h"

// The values would not tell the tree from another order if additions were exact: this one does tell.
static void test_the_order_of_additions_shows(void **state)
{
    (void)state;
    float *expected = allocate(4 * LS_BLOCK * sizeof(float)), *in_a_row = allocate(LS_BLOCK * sizeof(float));
    add_tree(0, LANES, 0, LS_BLOCK, expected);
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (size_t e = 0; e < LS_BLOCK; e++)
            in_a_row[e] += lane_value(lane, e, 0);
    assert_memory_not_equal(expected, in_a_row, LS_BLOCK * sizeof(float));
    free(in_a_row);
    free(expected);
}

typedef LsStatus (*Compile)(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

typedef struct Setting {
    LsPlan plan;
    LsBuckets buckets;
    size_t elements;
    float *slot[LANES];    // on the device
    uint16_t *half[LANES]; // instead of them where sums are rounded
    float *partial[LANES]; // what belongs there before the reduction
    float *expected;       // the canonical sum
    bool apart;            // from the slots: where the sum goes
    bool meets;            // in a gather, before the slots are written again
    size_t counted;        // elements that are added up; 0: all
    float *sum;
    LsReducer *reducer;
} Setting;

static void set_up(Setting *s, Compile compile, size_t blocks, size_t bucket_blocks, int reduction)
{
    s->elements = blocks * LS_BLOCK;
    assert_int_equal(compile(LANES, ranks, rank, &s->plan), LS_OK);
    assert_int_equal(ls_buckets_create(blocks, bucket_blocks * LS_BLOCK * sizeof(float), &s->buckets), LS_OK);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++) {
        s->slot[i] = allocate_on_device(s->elements * sizeof(float));
        s->partial[i] = allocate(s->elements * sizeof(float));
    }
    for (uint32_t i = 0; rounded && i < s->plan.share.subtrees; i++)
        s->half[i] = allocate_on_device(s->elements * sizeof(uint16_t));
    s->expected = allocate(4 * s->elements * sizeof(float));
    s->sum = s->slot[0];
    if (s->apart)
        assert_int_equal(ls_comm_allocate_common(comm, s->elements * sizeof(float), (void **)&s->sum), LS_OK);
    LsReducerOptions options = {
        .plan = &s->plan, .buckets = &s->buckets, .slot = s->slot, .reduction = reduction};
    options.result = s->apart || rounded ? s->sum : NULL;
    options.rounded = rounded ? s->half : NULL;
    options.progress = platform->progress;
    options.meets = s->meets;
    options.elements = s->counted;
    assert_int_equal(ls_reducer_create(comm, &options, &s->reducer), LS_OK);
}

static void tear_down(Setting *s)
{
    ls_reducer_destroy(s->reducer);
    free(s->expected);
    if (s->apart)
        ls_comm_release(comm, s->sum);
    for (uint32_t i = 0; i < LANES; i++)
        ls_comm_release(comm, s->half[i]);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++) {
        free(s->partial[i]);
        ls_comm_release(comm, s->slot[i]);
    }
    ls_buckets_free(&s->buckets);
    ls_plan_free(&s->plan);
}

static void run_local_steps(Setting *s, uint32_t round)
{
    for (size_t i = 0; i < s->plan.lane_steps; i++) {
        LsLaneStep step = s->plan.lane_step[i];
        fill_lane(step.lane, round, s->elements, s->partial[step.slot]);
        narrow(s->elements, s->partial[step.slot]);
        for (uint32_t top = step.slot; top > step.slot - step.adds; top--) {
            for (size_t e = 0; e < s->elements; e++)
                s->partial[top - 1][e] += s->partial[top][e];
            narrow(s->elements, s->partial[top - 1]);
        }
    }
    add_tree(0, LANES, round, s->elements, s->expected);
}

static void upload_sums(Setting *s, LsBucket bucket)
{
    size_t first = bucket.first_block * LS_BLOCK, count = bucket.blocks * LS_BLOCK;
    for (uint32_t i = 0; i < s->plan.lane_slots && !rounded; i++)
        upload(s->slot[i] + first, s->partial[i] + first, count * sizeof(float));
    for (uint32_t i = 0; i < s->plan.share.subtrees && rounded; i++) {
        uint16_t *half = allocate(count * sizeof *half);
        for (size_t e = 0; e < count; e++)
            half[e] = ls_f32_to_bf16(s->partial[i][first + e]);
        upload(s->half[i] + first, half, count * sizeof *half);
        assert_int_equal(device->ops->synchronize(device), LS_OK);
        free(half);
    }
}

// As backward does: bucket after bucket becomes final and is begun at once.
static void reduce(Setting *s)
{
    for (size_t b = 0; b < s->buckets.count; b++) {
        upload_sums(s, s->buckets.bucket[b]);
        assert_int_equal(device->ops->marker_record(device, ls_reducer_final(s->reducer, b)), LS_OK);
        assert_int_equal(ls_reducer_begin(s->reducer, b), LS_OK);
        if ((b + rank) % 2) // ranks need not poll at the same places
            assert_int_equal(ls_reducer_poll(s->reducer), LS_OK);
    }
    assert_int_equal(ls_reducer_finish(s->reducer), LS_OK);
}

static void check_pieces(const Setting *s)
{
    for (size_t b = 0; b < s->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&s->buckets, b, ranks, rank);
        size_t first = piece.first * LS_BLOCK;
        assert_on_device(s->sum + first, s->expected + first, piece.count * LS_BLOCK * sizeof(float));
    }
}

// The bits of every piece are those of the canonical tree, which no number of ranks and no transport enters.
static void reduce_to_and_compare_bits(bool apart, Compile compile, size_t blocks, size_t bucket_blocks)
{
    Setting s = {.apart = apart, .meets = !apart};
    set_up(&s, compile, blocks, bucket_blocks, LS_REDUCTION_EXACT);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        run_local_steps(&s, round);
        reduce(&s);
        if (round % 2 == 0) // else the gather follows without the host having waited
            check_pieces(&s);
        assert_int_equal(ls_comm_gather_shards(comm, &s.buckets, s.sum, sizeof(float)), LS_OK);
        assert_on_device(s.sum, s.expected, s.elements * sizeof(float));
    }
    tear_down(&s);
}

static void reduce_and_compare_bits(Compile compile, size_t blocks, size_t bucket_blocks)
{
    reduce_to_and_compare_bits(false, compile, blocks, bucket_blocks);
    reduce_to_and_compare_bits(true, compile, blocks, bucket_blocks);
}

static void test_exact_reduction(void **state)
{
    (void)state;
    reduce_and_compare_bits(ls_plan_compile, 37, 8);
    reduce_and_compare_bits(ls_plan_compile, 5, 1); // most ranks own nothing of a bucket
    reduce_and_compare_bits(ls_plan_compile, 64, 64);
}

// What lies behind the elements that count is not even written where the sum goes.
static void test_the_end_is_left_out(void **state)
{
    (void)state;
    static const size_t ends[] = {1, 4 * LS_BLOCK + 1000, 5 * LS_BLOCK};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        Setting s = {.apart = true, .counted = ends[i]};
        size_t blocks = (ends[i] + LS_BLOCK - 1) / LS_BLOCK;
        set_up(&s, ls_plan_compile, blocks, 2, LS_REDUCTION_EXACT);
        bool made = ranks > 1; // alone, the rank copies its slot
        run_local_steps(&s, 0);
        reduce(&s);
        for (size_t e = ends[i]; e < s.elements && made; e++)
            s.expected[e] = 0; // as it was allocated
        check_pieces(&s);
        tear_down(&s);
    }
}

static uint32_t host_size; // 0: the hosts that there are

static LsStatus compile_two_levels(uint32_t lanes, uint32_t of, uint32_t number, LsPlan *out)
{
    uint32_t first[LANES + 1];
    LsHostMap hosts = {.first = first};
    if (host_size == 0 && ls_comm_hosts(comm))
        return ls_plan_compile_hosts(lanes, of, number, ls_comm_hosts(comm), out);
    for (uint32_t r = 0; r < of; r += host_size ? host_size : of)
        first[hosts.count++] = r;
    first[hosts.count] = of;
    return ls_plan_compile_hosts(lanes, of, number, &hosts, out);
}

// Also on other hosts than those that there are: what is not reached in place is sent.
static void test_plan_of_two_levels(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {2, 3, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        host_size = sizes[i];
        reduce_to_and_compare_bits(i % 2, compile_two_levels, i == 1 ? 5 : 19, i == 1 ? 1 : 8);
    }
    reduce_to_and_compare_bits(true, compile_two_levels, 19, 8);
}

static void test_plan_of_several_phases(void **state)
{
    (void)state;
    reduce_and_compare_bits(ls_plan_compile_halving, 37, 8);
    reduce_and_compare_bits(ls_plan_compile_halving, 5, 1);
}

// The same tree of BF16 numbers, which the others get as such.
static void test_rounded_reduction(void **state)
{
    (void)state;
    rounded = true;
    reduce_to_and_compare_bits(true, ls_plan_compile, 37, 8);
    reduce_to_and_compare_bits(false, ls_plan_compile, 5, 1);
    reduce_to_and_compare_bits(true, ls_plan_compile_halving, 37, 8);
    for (host_size = 0; host_size <= 3; host_size += 3)
        reduce_to_and_compare_bits(host_size > 0, compile_two_levels, 19, 8);
    rounded = false;
}

static void test_rounding_needs_a_place_and_exact_sums(void **state)
{
    (void)state;
    Setting s = {0};
    set_up(&s, ls_plan_compile, 5, 1, LS_REDUCTION_EXACT);
    LsReducer *reducer;
    LsReducerOptions options = {.plan = &s.plan, .buckets = &s.buckets, .rounded = s.half};
    assert_int_equal(ls_reducer_create(comm, &options, &reducer), LS_INTERNAL);
    options.result = s.sum;
    options.reduction = LS_REDUCTION_FAST;
    assert_int_equal(ls_reducer_create(comm, &options, &reducer), LS_INTERNAL);
    tear_down(&s);
}

// The reducer is destroyed as soon as finish has returned, while the device may still be at work for it.
static void test_destroyed_at_once(void **state)
{
    (void)state;
    Setting s = {0};
    set_up(&s, ls_plan_compile, 37, 8, LS_REDUCTION_EXACT);
    run_local_steps(&s, 0);
    reduce(&s);
    ls_reducer_destroy(s.reducer);
    s.reducer = NULL;
    check_pieces(&s);
    tear_down(&s);
}

// A thread is there only where it has something to do.
static void test_thread_where_parts_are_read(void **state)
{
    (void)state;
    for (int reduction = LS_REDUCTION_EXACT; reduction <= LS_REDUCTION_FAST; reduction++) {
        Setting s = {0};
        set_up(&s, ls_plan_compile, 5, 1, reduction);
        bool in_place = ranks > 1 && platform->expected && strcmp(platform->expected, "shared") == 0;
        assert_int_equal(ls_reducer_has_thread(s.reducer),
            platform->progress && in_place && reduction == LS_REDUCTION_EXACT);
        tear_down(&s);
    }
}

// The thread waits for the others' parts, or adds, when the reducer goes.
static void test_destroyed_before_finish(void **state)
{
    (void)state;
    if (ranks > 1 && !(platform->expected && strcmp(platform->expected, "shared") == 0))
        return; // messages must not be under way
    for (int pause = 0; pause < 3; pause++) {
        Setting s = {0};
        set_up(&s, ls_plan_compile, 64, 16, LS_REDUCTION_EXACT);
        if (rank % 2)
            usleep(20000);
        for (size_t b = 0; b < s.buckets.count; b++)
            assert_int_equal(ls_reducer_begin(s.reducer, b), LS_OK);
        usleep((useconds_t)(pause * 300));
        tear_down(&s);
    }
    reduce_and_compare_bits(ls_plan_compile, 5, 1); // nothing of it is left
}

// In a sum of n numbers each of the n - 1 additions, in any order, rounds by at most half a unit of the
// partial sum, which the sum of magnitudes bounds; two orders differ by at most twice that.
static float rounding_bound(size_t e, uint32_t round)
{
    float magnitudes = 0;
    for (uint32_t lane = 0; lane < LANES; lane++)
        magnitudes += fabsf(lane_value(lane, e, round));
    return 2 * (LANES - 1) * 0x1p-24f * magnitudes * 1.001f; // and a little for this sum's own rounding
}

enum { FAST_BLOCKS = 37 };

// Sums near the canonical ones; and the same bits on every device where MPI adds the same numbers.
static void check_fast_pieces(const Setting *s, uint32_t round)
{
    static float first_device[ROUNDS][FAST_BLOCKS * LS_BLOCK];
    static bool known[ROUNDS];
    float *found = allocate(s->elements * sizeof(float));
    download(found, s->sum, s->elements * sizeof(float));
    if (!known[round])
        memcpy(first_device[round], found, s->elements * sizeof(float));
    known[round] = true;
    for (size_t b = 0; b < s->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&s->buckets, b, ranks, rank);
        size_t first = piece.first * LS_BLOCK, end = first + piece.count * LS_BLOCK;
        for (size_t e = first; e < end; e++)
            assert_true(fabsf(found[e] - s->expected[e]) <= rounding_bound(e, round));
        if (platform->transport == LS_COMM_MPI)
            assert_memory_equal(found + first, first_device[round] + first, (end - first) * sizeof(float));
    }
    free(found);
}

static void reduce_fast(bool apart)
{
    Setting s = {.apart = apart};
    set_up(&s, ls_plan_compile, FAST_BLOCKS, 8, LS_REDUCTION_FAST);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        run_local_steps(&s, round);
        for (uint32_t t = 1; t < s.plan.share.subtrees; t++) // fast: the rank's whole sum is in slot 0
            for (size_t e = 0; e < s.elements; e++)
                s.partial[0][e] += s.partial[t][e];
        reduce(&s);
        check_fast_pieces(&s, round);
    }
    tear_down(&s);
}

static void test_fast_reduction(void **state)
{
    (void)state;
    reduce_fast(false);
    reduce_fast(true);
}

static void assert_staging(const Setting *s)
{
    size_t blocks, element = rounded ? sizeof(uint16_t) : sizeof(float);
    bool reached = s->plan.host.count < ranks || (ls_comm_hosts(comm) && ls_comm_hosts(comm)->count == 1);
    bool in_place = platform->expected && strncmp(platform->expected, "shared", 6) == 0 && reached;
    assert_int_equal(ls_reducer_staging(&s->plan, &s->buckets, in_place, &blocks), LS_OK);
    assert_int_equal(ls_reducer_bytes(s->reducer), blocks * LS_BLOCK * element);
}

static void check_staging_size(void)
{
    Setting s = {0};
    size_t block = LS_BLOCK * (rounded ? sizeof(uint16_t) : sizeof(float));
    set_up(&s, ls_plan_compile, 37, 8, LS_REDUCTION_EXACT);
    size_t shard = ls_shard_blocks(&s.buckets, ranks, rank) * block;
    bool in_place = platform->expected && strcmp(platform->expected, "shared") == 0;
    assert_int_equal(ls_reducer_bytes(s.reducer), in_place ? 0 : (s.plan.slots - s.plan.lane_slots) * shard);
    assert_staging(&s);
    tear_down(&s);
    set_up(&s, ls_plan_compile_halving, 37, 8, LS_REDUCTION_EXACT);
    assert_staging(&s);
    tear_down(&s);
    host_size = 0;
    set_up(&s, compile_two_levels, 19, 8, LS_REDUCTION_EXACT);
    assert_staging(&s);
    tear_down(&s);
}

static void test_staging_size(void **state)
{
    (void)state;
    check_staging_size();
    rounded = true;
    check_staging_size();
    rounded = false;
}

static void test_buckets_out_of_order_are_refused(void **state)
{
    (void)state;
    Setting s = {0};
    set_up(&s, ls_plan_compile, 37, 8, LS_REDUCTION_EXACT);
    assert_int_equal(ls_reducer_begin(s.reducer, 1), LS_INTERNAL);
    assert_int_equal(ls_reducer_finish(s.reducer), LS_OK); // nothing was begun
    tear_down(&s);
}

static void test_a_plan_for_another_rank_is_refused(void **state)
{
    (void)state;
    LsPlan plan;
    LsReducer *reducer;
    assert_int_equal(ls_plan_compile(16, ranks + 1, rank, &plan), LS_OK);
    LsReducerOptions options = {.plan = &plan};
    assert_int_equal(ls_reducer_create(comm, &options, &reducer), LS_INTERNAL);
    ls_plan_free(&plan);
}

static void gather_ranks(void)
{
    uint32_t *all = allocate_on_device(ranks * sizeof *all), *expected = allocate(ranks * sizeof *expected);
    for (uint32_t r = 0; r < ranks; r++)
        expected[r] = r + 1;
    upload(all + rank, expected + rank, sizeof *all);
    assert_int_equal(ls_comm_gather_device(comm, all + rank, all, sizeof *all), LS_OK);
    assert_on_device(all, expected, ranks * sizeof *all);
    free(expected);
    ls_comm_release(comm, all);
}

// A gather while reductions are under way does not get between them, whichever rank is ahead.
static void test_gather_between_reductions(void **state)
{
    (void)state;
    static const int reductions[] = {LS_REDUCTION_EXACT, LS_REDUCTION_FAST};
    for (int kind = 0; kind < 2; kind++) {
        Setting s = {0};
        set_up(&s, ls_plan_compile, 37, 8, reductions[kind]);
        for (size_t b = 0; b < s.buckets.count; b++) {
            assert_int_equal(device->ops->marker_record(device, ls_reducer_final(s.reducer, b)), LS_OK);
            assert_int_equal(ls_reducer_begin(s.reducer, b), LS_OK);
            gather_ranks();
            if (rank % 2)
                assert_int_equal(ls_reducer_poll(s.reducer), LS_OK);
        }
        assert_int_equal(ls_reducer_finish(s.reducer), LS_OK);
        memset(s.expected, 0, s.elements * sizeof(float)); // new memory is zero
        check_pieces(&s);
        tear_down(&s);
    }
}
static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_the_order_of_additions_shows),
    cmocka_unit_test(test_exact_reduction),
    cmocka_unit_test(test_the_end_is_left_out),
    cmocka_unit_test(test_plan_of_two_levels),
    cmocka_unit_test(test_plan_of_several_phases),
    cmocka_unit_test(test_rounded_reduction),
    cmocka_unit_test(test_rounding_needs_a_place_and_exact_sums),
    cmocka_unit_test(test_destroyed_at_once),
    cmocka_unit_test(test_thread_where_parts_are_read),
    cmocka_unit_test(test_destroyed_before_finish),
    cmocka_unit_test(test_fast_reduction),
    cmocka_unit_test(test_staging_size),
    cmocka_unit_test(test_buckets_out_of_order_are_refused),
    cmocka_unit_test(test_a_plan_for_another_rank_is_refused),
    cmocka_unit_test(test_gather_between_reductions),
};

int main(int argc, char **argv)
{
    return run_on_platforms(argc, argv, tests, sizeof tests / sizeof *tests);
}
