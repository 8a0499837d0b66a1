// The communicator and the reducer on however many ranks the program is started with (alone: backend `self`).
// Every rank runs the same tests in the same order and computes by itself what all must end with.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "collectives/comm.h"
#include "device/tensor.h"
#include "halving_plan.h"

enum { LANES = 8, PURPOSE = 1000, TIMEOUT_SECONDS = 60 };

static LsComm *comm;
static LsDevice *device;
static uint32_t rank, ranks;

// ---- What all ranks tell each other ---------------------------------------------------------------------

static void test_identity(void **state)
{
    (void)state;
    assert_in_range(rank, 0, ranks - 1);
    assert_string_equal(ls_comm_name(comm), ls_comm_launched() ? "mpi" : "self");
    assert_true(ls_comm_host(comm)[0] != '\0');
    // mpirun starts all ranks of these tests on this machine.
    assert_int_equal(ls_comm_local_size(comm), ranks);
    assert_int_equal(ls_comm_local_rank(comm), rank);
}

static void test_barrier(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(ls_comm_barrier(comm), LS_OK);
}

static void test_broadcast(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 7, 4096, 1 << 20};
    uint8_t *data = malloc(1 << 20);
    assert_non_null(data);
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (uint32_t root = 0; root < ranks; root++) {
            for (size_t i = 0; i < lengths[l]; i++)
                data[i] = rank == root ? (uint8_t)(i * 7 + root) : 0xee;
            assert_int_equal(ls_comm_broadcast(comm, data, lengths[l], (int)root), LS_OK);
            for (size_t i = 0; i < lengths[l]; i++)
                assert_int_equal(data[i], (uint8_t)(i * 7 + root));
        }
    free(data);
}

// Rank r contributes some bytes, every third rank none.
static size_t uneven_size(uint32_t r, size_t scale)
{
    return r % 3 == 1 ? 0 : (r + 1) * scale + r;
}

static uint8_t uneven_byte(uint32_t r, size_t i)
{
    return (uint8_t)(i * 13 + r * 31 + (i >> 8));
}

static void gather_uneven(size_t scale, bool in_place)
{
    size_t sizes[LANES], total = 0, before = 0;
    for (uint32_t r = 0; r < ranks; r++) {
        sizes[r] = uneven_size(r, scale);
        before += r < rank ? sizes[r] : 0;
        total += sizes[r];
    }
    uint8_t *all = malloc(total + 1), *apart = malloc(sizes[rank] + 1);
    assert_true(all && apart);
    memset(all, 0xee, total + 1);
    uint8_t *mine = in_place ? all + before : apart;
    for (size_t i = 0; i < sizes[rank]; i++)
        mine[i] = uneven_byte(rank, i);
    assert_int_equal(ls_comm_all_gather(comm, mine, all, sizes), LS_OK);
    const uint8_t *next = all;
    for (uint32_t r = 0; r < ranks; r++)
        for (size_t i = 0; i < sizes[r]; i++)
            assert_int_equal(*next++, uneven_byte(r, i));
    assert_int_equal(all[total], 0xee); // nothing is written behind the end
    free(apart);
    free(all);
}

static void test_all_gather(void **state)
{
    (void)state;
    static const size_t scales[] = {0, 1, 100, 50000};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        gather_uneven(scales[i], false);
        gather_uneven(scales[i], true);
    }
}

// Bit r of `failing` makes rank r fail, each with a status and a sentence of its own.
static void agree_on(unsigned failing)
{
    static const LsStatus status_of[] = {LS_BAD_DATA, LS_IO, LS_CONFIG};
    char expected[64];
    LsStatus mine = LS_OK;
    ls_status_adopt(LS_INTERNAL, "an old sentence");
    if (failing & 1u << rank)
        mine = LS_FAIL(status_of[rank % 3], "sentence of %u", rank);
    LsStatus agreed = ls_comm_agree(comm, mine);
    if (failing == 0) {
        assert_int_equal(agreed, LS_OK);
        assert_string_equal(ls_status_message(), "an old sentence");
        return;
    }
    uint32_t lowest = (uint32_t)__builtin_ctz(failing);
    assert_int_equal(agreed, status_of[lowest % 3]);
    if (failing == (1u << ranks) - 1)
        snprintf(expected, sizeof expected, "sentence of %u", lowest);
    else
        snprintf(expected, sizeof expected, "rank %u: sentence of %u", lowest, lowest);
    assert_string_equal(ls_status_message(), expected);
}

static void test_agree_in_all_patterns(void **state)
{
    (void)state;
    for (unsigned failing = 0; failing < 1u << ranks; failing++)
        agree_on(failing);
}

// ---- Reductions -----------------------------------------------------------------------------------------

// Gradient element e of a lane: random, of widely differing size, so that the order of additions shows.
static float lane_value(uint32_t lane, size_t e)
{
    LsRngKey key = ls_rng_key(42, PURPOSE);
    uint32_t bits = ls_rng_u32(key, lane, e);
    return ldexpf((float)(bits >> 8) * 0x1p-23f - 1.0f, (int)(bits & 15u));
}

static void fill_lane(uint32_t lane, size_t elements, float *out)
{
    for (size_t e = 0; e < elements; e++)
        out[e] = lane_value(lane, e);
}

// The canonical tree over all lanes, as its definition says. `out` has (log2(count) + 1) × elements of room.
static void add_tree(uint32_t first, uint32_t count, size_t elements, float *out)
{
    if (count == 1) {
        fill_lane(first, elements, out);
        return;
    }
    add_tree(first, count / 2, elements, out);
    add_tree(first + count / 2, count / 2, elements, out + elements);
    for (size_t e = 0; e < elements; e++)
        out[e] = out[e] + out[elements + e];
}

typedef LsStatus (*Compile)(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

typedef struct Setting {
    LsPlan plan;
    LsBuckets buckets;
    size_t elements;
    float *slot[LANES];
    float *expected; // the canonical sum
    LsReducer *reducer;
} Setting;

static void set_up(Setting *s, Compile compile, size_t blocks, size_t bucket_blocks, int reduction)
{
    s->elements = blocks * LS_BLOCK;
    assert_int_equal(compile(LANES, ranks, rank, &s->plan), LS_OK);
    assert_int_equal(ls_buckets_create(blocks, bucket_blocks * LS_BLOCK * sizeof(float), &s->buckets), LS_OK);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++)
        assert_int_equal(
            ls_comm_allocate(comm, device, s->elements * sizeof(float), (void **)&s->slot[i]), LS_OK);
    assert_int_equal(ls_memory_allocate(4 * s->elements * sizeof(float), (void **)&s->expected), LS_OK);
    add_tree(0, LANES, s->elements, s->expected);
    LsReducerOptions options = {
        .device = device, .plan = &s->plan, .buckets = &s->buckets, .slot = s->slot, .reduction = reduction};
    assert_int_equal(ls_reducer_create(comm, &options, &s->reducer), LS_OK);
}

static void tear_down(Setting *s)
{
    ls_reducer_destroy(s->reducer);
    free(s->expected);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++)
        ls_comm_release(comm, device, s->slot[i]);
    ls_buckets_free(&s->buckets);
    ls_plan_free(&s->plan);
}

static void run_local_steps(Setting *s)
{
    for (size_t i = 0; i < s->plan.lane_steps; i++) {
        LsLaneStep step = s->plan.lane_step[i];
        fill_lane(step.lane, s->elements, s->slot[step.slot]);
        for (uint32_t top = step.slot; top > step.slot - step.adds; top--)
            for (size_t e = 0; e < s->elements; e++)
                s->slot[top - 1][e] += s->slot[top][e];
    }
}

static void reduce(Setting *s)
{
    for (size_t b = 0; b < s->buckets.count; b++) {
        assert_int_equal(ls_reducer_begin(s->reducer, b), LS_OK);
        if (b % 2)
            assert_int_equal(ls_reducer_poll(s->reducer), LS_OK);
    }
    assert_int_equal(ls_reducer_finish(s->reducer), LS_OK);
}

static void check_pieces(const Setting *s)
{
    for (size_t b = 0; b < s->buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&s->buckets, b, ranks, rank);
        assert_memory_equal(s->slot[0] + piece.first * LS_BLOCK, s->expected + piece.first * LS_BLOCK,
            piece.count * LS_BLOCK * sizeof(float));
    }
}

// The bits of every piece are those of the canonical tree, which no number of ranks enters.
static void reduce_and_compare_bits(Compile compile, size_t blocks, size_t bucket_blocks)
{
    Setting s = {0};
    set_up(&s, compile, blocks, bucket_blocks, LS_REDUCTION_EXACT);
    for (int round = 0; round < 3; round++) {
        run_local_steps(&s);
        reduce(&s);
        check_pieces(&s);
        assert_int_equal(ls_comm_gather_shards(comm, device, &s.buckets, s.slot[0], sizeof(float)), LS_OK);
        assert_memory_equal(s.slot[0], s.expected, s.elements * sizeof(float));
    }
    tear_down(&s);
}

static void test_exact_reduction(void **state)
{
    (void)state;
    reduce_and_compare_bits(ls_plan_compile, 37, 8);
    reduce_and_compare_bits(ls_plan_compile, 5, 1); // most ranks own nothing of a bucket
    reduce_and_compare_bits(ls_plan_compile, 64, 64);
}

static void test_plan_of_several_phases(void **state)
{
    (void)state;
    if (ranks & (ranks - 1))
        skip(); // recursive halving needs a power of two
    reduce_and_compare_bits(halving_plan_compile, 37, 8);
    reduce_and_compare_bits(halving_plan_compile, 5, 1);
}

// The values would not tell the tree from another order if additions were exact: this one does tell.
static void test_the_order_of_additions_shows(void **state)
{
    (void)state;
    float *expected, *in_a_row;
    assert_int_equal(ls_memory_allocate(4 * LS_BLOCK * sizeof(float), (void **)&expected), LS_OK);
    assert_int_equal(ls_memory_allocate(LS_BLOCK * sizeof(float), (void **)&in_a_row), LS_OK);
    add_tree(0, LANES, LS_BLOCK, expected);
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (size_t e = 0; e < LS_BLOCK; e++)
            in_a_row[e] += lane_value(lane, e);
    assert_memory_not_equal(expected, in_a_row, LS_BLOCK * sizeof(float));
    free(in_a_row);
    free(expected);
}

// In a sum of n numbers each of the n - 1 additions, in any order, rounds by at most half a unit of the
// partial sum, which the sum of magnitudes bounds; two orders differ by at most twice that.
static float rounding_bound(size_t e)
{
    float magnitudes = 0;
    for (uint32_t lane = 0; lane < LANES; lane++)
        magnitudes += fabsf(lane_value(lane, e));
    return 2 * (LANES - 1) * 0x1p-24f * magnitudes * 1.001f; // and a little for this sum's own rounding
}

static void test_fast_reduction(void **state)
{
    (void)state;
    Setting s = {0};
    set_up(&s, ls_plan_compile, 37, 8, LS_REDUCTION_FAST);
    for (int round = 0; round < 2; round++) {
        run_local_steps(&s);
        for (uint32_t t = 1; t < s.plan.share.subtrees; t++) // fast: the rank's whole sum is in slot 0
            for (size_t e = 0; e < s.elements; e++)
                s.slot[0][e] += s.slot[t][e];
        reduce(&s);
        for (size_t b = 0; b < s.buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&s.buckets, b, ranks, rank);
            for (size_t e = piece.first * LS_BLOCK; e < (piece.first + piece.count) * LS_BLOCK; e++)
                assert_true(fabsf(s.slot[0][e] - s.expected[e]) <= rounding_bound(e));
        }
    }
    tear_down(&s);
}

static void test_staging_size(void **state)
{
    (void)state;
    Setting s = {0};
    set_up(&s, ls_plan_compile, 37, 8, LS_REDUCTION_EXACT);
    size_t shard = ls_shard_blocks(&s.buckets, ranks, rank) * LS_BLOCK * sizeof(float);
    assert_int_equal(ls_reducer_bytes(s.reducer), (s.plan.slots - s.plan.lane_slots) * shard);
    tear_down(&s);
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
    LsReducerOptions options = {.device = device, .plan = &plan};
    assert_int_equal(ls_reducer_create(comm, &options, &reducer), LS_INTERNAL);
    ls_plan_free(&plan);
}

// Parameters of two and four bytes, one byte pattern for each block and byte of an element.
static void gather_elements(size_t element)
{
    LsBuckets buckets;
    size_t blocks = 41, block = LS_BLOCK * element;
    uint8_t *flat = malloc(blocks * block);
    assert_non_null(flat);
    assert_int_equal(ls_buckets_create(blocks, 6 * LS_BLOCK * sizeof(float), &buckets), LS_OK);
    memset(flat, 0xee, blocks * block);
    for (size_t b = 0; b < buckets.count; b++) {
        LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
        for (size_t i = piece.first * block; i < (piece.first + piece.count) * block; i++)
            flat[i] = (uint8_t)(i / block * 3 + i % 11);
    }
    assert_int_equal(ls_comm_gather_shards(comm, device, &buckets, flat, element), LS_OK);
    for (size_t i = 0; i < blocks * block; i++)
        assert_int_equal(flat[i], (uint8_t)(i / block * 3 + i % 11));
    ls_buckets_free(&buckets);
    free(flat);
}

static void test_gather_shards(void **state)
{
    (void)state;
    gather_elements(2);
    gather_elements(4);
    gather_elements(1);
}

// ---- Opening --------------------------------------------------------------------------------------------

static void test_refusals(void **state)
{
    (void)state;
    LsComm *other;
    assert_int_equal(ls_comm_open(&(LsCommOptions){LS_COMM_NCCL, 1}, &other), LS_UNAVAILABLE);
    assert_non_null(strstr(ls_status_message(), "this build has no NCCL"));
    assert_int_equal(ls_comm_open(&(LsCommOptions){LS_COMM_AUTO, 0}, &other), LS_CONFIG);
    ls_comm_close(NULL);
}

static int open_all(void **state)
{
    (void)state;
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = TIMEOUT_SECONDS};
    LsDeviceOptions on = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_FP32, .threads = 1};
    if (ls_comm_open(&options, &comm) != LS_OK || ls_device_open(&on, &device) != LS_OK) {
        print_error("%s\n", ls_status_message());
        return 1;
    }
    rank = (uint32_t)ls_comm_rank(comm);
    ranks = (uint32_t)ls_comm_size(comm);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    ls_device_close(device);
    ls_comm_close(comm);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_all_gather),
        cmocka_unit_test(test_agree_in_all_patterns),
        cmocka_unit_test(test_exact_reduction),
        cmocka_unit_test(test_plan_of_several_phases),
        cmocka_unit_test(test_the_order_of_additions_shows),
        cmocka_unit_test(test_fast_reduction),
        cmocka_unit_test(test_staging_size),
        cmocka_unit_test(test_buckets_out_of_order_are_refused),
        cmocka_unit_test(test_a_plan_for_another_rank_is_refused),
        cmocka_unit_test(test_gather_shards),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
