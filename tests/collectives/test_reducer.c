// Device memory between ranks: reductions, gathers and waits, on every device there is, on however many ranks
// the program is started with. Every rank runs the same tests in the same order and computes by itself what
// all must end with. The host looks at device memory only behind a marker of the compute stream, so that work
// of the communication stream that nothing waits for shows.
//
// With RANKS_PER_HOST in the environment so many ranks say that they are on a host of their own.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "collectives/comm.h"
#include "collectives/sharder.h"
#include "device/tensor.h"
#include "strict_device.h"

enum { LANES = 8, PURPOSE = 1000, TIMEOUT_SECONDS = 60, ROUNDS = 3 };

typedef struct Platform {
    const char *name;
    LsStatus (*open)(LsDevice **out);
    int transport;        // LsCommKind
    const char *expected; // its name, NULL: mpi
    bool progress;        // a thread adds up where that can be
} Platform;

int __real_gethostname(char *name, size_t size);
int __wrap_gethostname(char *name, size_t size);

int __wrap_gethostname(char *name, size_t size)
{
    const char *each = getenv("RANKS_PER_HOST"), *number = getenv("OMPI_COMM_WORLD_RANK");
    if (!each || !number)
        return __real_gethostname(name, size);
    snprintf(name, size, "host-%ld", atol(number) / atol(each));
    return 0;
}

static const Platform *platform;
static LsComm *comm;
static LsDevice *device;
static LsMarker *seen; // in the compute stream
static uint32_t rank, ranks;

// ---- Host and device ------------------------------------------------------------------------------------

static void *allocate(size_t bytes)
{
    void *memory;
    assert_int_equal(ls_memory_allocate(bytes, &memory), LS_OK);
    return memory;
}

static void *allocate_on_device(size_t bytes)
{
    void *memory;
    assert_int_equal(ls_comm_allocate(comm, bytes, &memory), LS_OK);
    return memory;
}

static void upload(void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        assert_int_equal(device->ops->copy_in(device, to, from, bytes), LS_OK);
}

static void download(void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        assert_int_equal(device->ops->copy_out(device, to, from, bytes), LS_OK);
    assert_int_equal(device->ops->marker_record(device, seen), LS_OK);
    assert_int_equal(ls_comm_wait_marker(comm, seen, "a copy"), LS_OK);
}

static void assert_on_device(const void *memory, const void *expected, size_t bytes)
{
    void *found = allocate(bytes);
    download(found, memory, bytes);
    assert_memory_equal(found, expected, bytes);
    free(found);
}

static void test_new_memory_is_zero(void **state)
{
    (void)state;
    enum { BYTES = 70001 };
    char *memory = allocate_on_device(BYTES), *zeros = allocate(BYTES);
    assert_on_device(memory, zeros, BYTES);
    free(zeros);
    ls_comm_release(comm, memory);
    ls_comm_release(comm, NULL);
}

// ---- The canonical sum ----------------------------------------------------------------------------------

// Gradient element e of a lane: random, of widely differing size, so that the order of additions shows.
// Another one in each round, so that what is left of the last round shows.
static float to_value(uint32_t bits)
{
    return ((float)(bits >> 8) * 0x1p-23f - 1.0f) * (float)(1u << (bits & 15u));
}

static float lane_value(uint32_t lane, size_t e, uint32_t round)
{
    return to_value(ls_rng_u32(ls_rng_key(42, PURPOSE + round), lane, e));
}

static bool rounded; // whether the sum is one of BF16 numbers, each lane's values among them

static void narrow(size_t elements, float *values)
{
    for (size_t e = 0; e < elements && rounded; e++)
        values[e] = ls_bf16_to_f32(ls_f32_to_bf16(values[e]));
}

static void fill_lane(uint32_t lane, uint32_t round, size_t elements, float *out)
{
    LsRngKey key = ls_rng_key(42, PURPOSE + round);
    for (size_t e = 0; e < elements; e += 4) { // whole blocks
        uint32_t word[4];
        ls_rng_block(key, lane, e / 4, word);
        for (size_t i = 0; i < 4; i++)
            out[e + i] = to_value(word[i]);
    }
}

// The canonical tree over all lanes, as its definition says. `out` has (log2(count) + 1) × elements of room.
static void add_tree(uint32_t first, uint32_t count, uint32_t round, size_t elements, float *out)
{
    if (count == 1) {
        fill_lane(first, round, elements, out);
        narrow(elements, out);
        return;
    }
    add_tree(first, count / 2, round, elements, out);
    add_tree(first + count / 2, count / 2, round, elements, out + elements);
    for (size_t e = 0; e < elements; e++)
        out[e] = out[e] + out[elements + e];
    narrow(elements, out);
}

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

// ---- Reductions -----------------------------------------------------------------------------------------

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
    Setting s = {.apart = apart};
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

// ---- Gradients that are not kept ------------------------------------------------------------------------

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

// ---- Gathers --------------------------------------------------------------------------------------------

static uint8_t shard_byte(size_t i, size_t block, int round)
{
    return (uint8_t)(i / block * 3 + i % 11 + (size_t)round * 101);
}

// The start of `flat` is used while the rest may be on its way.
static void use_what_is_there(const uint8_t *flat, const uint8_t *expected, size_t blocks, size_t block)
{
    for (size_t end = 0; end < blocks; end += 7) {
        assert_int_equal(ls_comm_gather_upto(comm, end * LS_BLOCK), LS_OK);
        assert_on_device(flat, expected, end * block);
    }
    assert_int_equal(ls_comm_gather_end(comm), LS_OK);
    assert_false(ls_comm_gathers(comm));
    assert_int_equal(ls_comm_gather_upto(comm, 1), LS_OK); // of none
}

// One byte pattern for each block and byte of an element. goes_on: it is not waited for as a whole.
static void gather_elements(size_t element, bool goes_on)
{
    LsBuckets buckets;
    size_t blocks = 41, block = LS_BLOCK * element, bytes = blocks * block;
    uint8_t *mine = allocate(bytes), *expected = allocate(bytes), *flat = allocate_on_device(bytes);
    assert_int_equal(ls_buckets_create(blocks, 6 * LS_BLOCK * sizeof(float), &buckets), LS_OK);
    for (int round = 0; round < ROUNDS; round++) {
        memset(mine, 0xee, bytes);
        for (size_t i = 0; i < bytes; i++)
            expected[i] = shard_byte(i, block, round);
        for (size_t b = 0; b < buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
            memcpy(mine + piece.first * block, expected + piece.first * block, piece.count * block);
        }
        upload(flat, mine, bytes);
        if (goes_on) {
            assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, element), LS_OK);
            if (ls_comm_gathers(comm)) // one at a time
                assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, element), LS_INTERNAL);
            if (round % 2)
                use_what_is_there(flat, expected, blocks, block);
            else
                assert_int_equal(ls_comm_drain(comm), LS_OK);
        } else {
            assert_int_equal(ls_comm_gather_shards(comm, &buckets, flat, element), LS_OK);
        }
        if (round > 0) // the first time the next upload comes without the host having waited
            assert_on_device(flat, expected, bytes);
    }
    ls_buckets_free(&buckets);
    ls_comm_release(comm, flat);
    free(expected);
    free(mine);
}

static void test_gather_shards(void **state)
{
    (void)state;
    gather_elements(2, false);
    gather_elements(4, false);
    gather_elements(1, false);
    gather_elements(8, false);
}

static void test_gather_goes_on(void **state)
{
    (void)state;
    gather_elements(2, true);
    gather_elements(4, true);
}

// Each rank writes nothing but its shard, into what may be one memory for all.
static void test_gather_shards_of_common_memory(void **state)
{
    (void)state;
    LsBuckets buckets;
    size_t blocks = 41, elements = blocks * LS_BLOCK;
    float *expected = allocate(elements * sizeof *expected);
    void *memory = NULL;
    assert_int_equal(ls_comm_allocate_common(comm, elements * sizeof(float), &memory), LS_OK);
    float *flat = memory;
    assert_on_device(flat, expected, elements * sizeof(float)); // zeros
    assert_int_equal(ls_buckets_create(blocks, 6 * LS_BLOCK * sizeof(float), &buckets), LS_OK);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < elements; i++)
            expected[i] = (float)(i * 7 + (size_t)round);
        assert_int_equal(ls_comm_barrier(comm), LS_OK);
        for (size_t b = 0; b < buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&buckets, b, ranks, rank);
            size_t first = piece.first * LS_BLOCK;
            upload(flat + first, expected + first, piece.count * LS_BLOCK * sizeof(float));
        }
        if (round % 2) {
            assert_int_equal(ls_comm_gather_begin(comm, &buckets, flat, sizeof(float)), LS_OK);
            assert_int_equal(ls_comm_gather_upto(comm, 1), LS_OK);
            assert_on_device(flat, expected, sizeof(float));
            assert_int_equal(ls_comm_gather_end(comm), LS_OK);
        } else {
            assert_int_equal(ls_comm_gather_shards(comm, &buckets, flat, sizeof(float)), LS_OK);
        }
        assert_on_device(flat, expected, elements * sizeof(float));
    }
    ls_buckets_free(&buckets);
    ls_comm_release(comm, flat);
    free(expected);
}

static void gather_bytes(size_t bytes, bool in_place)
{
    size_t total = bytes * ranks;
    uint8_t *expected = allocate(total), *all = allocate_on_device(total), *apart = allocate_on_device(bytes);
    uint8_t *mine = in_place ? all + bytes * rank : apart;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < total; i++)
            expected[i] = (uint8_t)(i * 13 + (i >> 8) + i / bytes * 31 + round * 7);
        upload(mine, expected + bytes * rank, bytes);
        assert_int_equal(ls_comm_gather_device(comm, mine, all, bytes), LS_OK);
        if (round > 0)
            assert_on_device(all, expected, total);
    }
    ls_comm_release(comm, apart);
    ls_comm_release(comm, all);
    free(expected);
}

static void test_gather_device(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 100, 70001, 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gather_bytes(sizes[i], false);
        gather_bytes(sizes[i], true);
    }
    char *memory = allocate_on_device(1);
    assert_int_equal(ls_comm_gather_device(comm, memory, memory, 0), LS_OK);
    ls_comm_release(comm, memory);
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
            gather_bytes(1000, true);
            if (rank % 2)
                assert_int_equal(ls_reducer_poll(s.reducer), LS_OK);
        }
        assert_int_equal(ls_reducer_finish(s.reducer), LS_OK);
        memset(s.expected, 0, s.elements * sizeof(float)); // new memory is zero
        check_pieces(&s);
        tear_down(&s);
    }
}

// ---- The library's own ----------------------------------------------------------------------------------

// Small whole numbers: their sums are the same in any order.
static void test_library_calls(void **state)
{
    (void)state;
    size_t n = 1000 * ranks, bytes = n * sizeof(float);
    float *host = allocate(bytes * ranks), *from = allocate_on_device(bytes);
    float *to = allocate_on_device(bytes * ranks);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)(i % 50 + rank);
    upload(from, host, bytes);
    for (size_t i = 0; i < n * ranks; i++)
        host[i] = (float)(i % n % 50 + i / n);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_GATHER, from, to, n), LS_OK);
    assert_on_device(to, host, bytes * ranks);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)(i % 50 * ranks + ranks * (ranks - 1) / 2);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_REDUCE_SCATTER, from, to, n), LS_OK);
    assert_on_device(to, host + rank * 1000, 1000 * sizeof(float));
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_REDUCE, from, to, n), LS_OK);
    assert_on_device(to, host, bytes);
    assert_int_equal(ls_comm_library(comm, LS_LIBRARY_ALL_REDUCE, from, from, n), LS_OK);
    assert_on_device(from, host, bytes);
    assert_int_equal(
        ls_comm_library(comm, LS_LIBRARY_REDUCE_SCATTER, from, to, 1), ranks == 1 ? LS_OK : LS_CONFIG);
    ls_comm_release(comm, to);
    ls_comm_release(comm, from);
    free(host);
}

// ---- Devices --------------------------------------------------------------------------------------------

static LsStatus open_ref(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_FP32, .threads = 1};
    return ls_device_open(&options, out);
}

static LsStatus open_cpu(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_CPU, .precision = LS_PRECISION_FP32, .threads = 1};
    return ls_device_open(&options, out);
}

static const LsDeviceOps *strict_ops;

// Devices get ahead of each other: each rank has another pattern of places reached and not reached yet.
static LsStatus reached_at_last(LsDevice *on, LsMarker *marker, bool *reached)
{
    static uint64_t asked;
    *reached = false;
    if (ls_rng_u32(ls_rng_key(43, PURPOSE), rank, asked++) % 4 > 0)
        return LS_OK;
    return strict_ops->marker_reached(on, marker, reached);
}

static LsStatus open_strict(LsDevice **out)
{
    static LsDeviceOps ops;
    LS_TRY(ls_strict_device_open(LS_PRECISION_FP32, out));
    strict_ops = (*out)->ops;
    ops = *strict_ops;
    ops.marker_reached = reached_at_last;
    (*out)->ops = &ops;
    return LS_OK;
}

static LsStatus open_cuda(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_CUDA,
        .precision = LS_PRECISION_FP32,
        .threads = 1,
        .local_rank = ls_comm_local_rank(comm)};
    return ls_device_open(&options, out);
}

static int attach(void **state)
{
    (void)state;
    if (platform->open(&device) != LS_OK || ls_comm_attach(comm, device, platform->transport) != LS_OK ||
        device->ops->marker_create(device, &seen) != LS_OK) {
        print_error("%s: %s\n", platform->name, ls_status_message());
        return 1;
    }
    return 0;
}

static int detach(void **state)
{
    (void)state;
    device->ops->marker_destroy(device, seen);
    ls_comm_detach(comm);
    ls_device_close(device);
    return 0;
}

static void test_attaching_twice_is_refused(void **state)
{
    (void)state;
    const char *alone = ls_comm_launched() ? "mpi" : "self";
    assert_string_equal(ls_comm_name(comm), ranks > 1 && platform->expected ? platform->expected : alone);
    assert_int_equal(ls_comm_attach(comm, device, LS_COMM_MPI), LS_INTERNAL);
}

// ---- The program ----------------------------------------------------------------------------------------

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_the_order_of_additions_shows),
    cmocka_unit_test(test_attaching_twice_is_refused),
    cmocka_unit_test(test_new_memory_is_zero),
    cmocka_unit_test(test_exact_reduction),
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
    cmocka_unit_test(test_rounds),
    cmocka_unit_test(test_rounded_rounds),
    cmocka_unit_test(test_gather_shards),
    cmocka_unit_test(test_gather_goes_on),
    cmocka_unit_test(test_gather_shards_of_common_memory),
    cmocka_unit_test(test_gather_device),
    cmocka_unit_test(test_gather_between_reductions),
    cmocka_unit_test(test_library_calls),
};

// With an argument: on that platform alone.
int main(int argc, char **argv)
{
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = TIMEOUT_SECONDS};
    if (ls_comm_open(&options, &comm) != LS_OK) {
        print_error("%s\n", ls_status_message());
        return 1;
    }
    rank = (uint32_t)ls_comm_rank(comm);
    ranks = (uint32_t)ls_comm_size(comm);

    char text[512];
    int gpus;
    ls_device_gpus(text, sizeof text, &gpus);
    const char *shared = ls_comm_local_size(comm) < (int)ranks ? "shared+mpi" : "shared";
    // The first one's transport is the plainest: what the others' results are compared to.
    const Platform platforms[] = {
        {.name = "ref", .open = open_ref, .transport = LS_COMM_MPI},
        {.name = "strict", .open = open_strict, .transport = LS_COMM_MPI, .progress = true},
        {.name = "shared", .open = open_ref, .transport = LS_COMM_SHARED, .expected = shared},
        {.name = "auto", .open = open_cpu, .transport = LS_COMM_AUTO, .expected = shared, .progress = true},
        {.name = "cuda", .open = open_cuda, .transport = LS_COMM_MPI},
        {.name = "nccl", .open = open_cuda, .transport = LS_COMM_NCCL, .expected = "nccl"},
    };
    bool nccl = ls_comm_nccl_version()[0] != '\0' && gpus > 0 && (uint32_t)gpus >= ranks;
    int failed = 0;
    bool tested = false;
    for (int p = 0; p < (nccl ? 6 : gpus > 0 ? 5 : 4); p++) {
        platform = &platforms[p];
        if (argc > 1 && strcmp(argv[1], platform->name) != 0)
            continue;
        tested = true;
        failed += cmocka_run_group_tests_name(platform->name, tests, attach, detach);
    }
    ls_comm_close(comm);
    return tested ? failed : 77; // skipped
}
