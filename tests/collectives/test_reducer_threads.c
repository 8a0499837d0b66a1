// Reducers with threads that add up, in ranks that are threads of this program too, over a stand-in for the
// transport `shared`. So it needs no MPI, and a thread sanitizer sees all.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "device/tensor.h"

static const double DEADLINE = 60; // seconds

// ---- Ranks that are threads -----------------------------------------------------------------------------

enum { RANKS_MAX = 8, LANES = 8, TAGS = 64, BLOCKS = 19, STEPS = 6, VIEWS = 64 };

// What all ranks see.
typedef struct World {
    uint32_t ranks;
    int kind;                        // of the devices
    bool rounded, unfinished, mixed; // mixed: only some ranks have a thread
    pthread_barrier_t barrier;
    const void *shown[RANKS_MAX];
    const void *gathered[RANKS_MAX];
    _Atomic uint64_t final[RANKS_MAX][TAGS], read[RANKS_MAX];
    float *expected; // [STEPS][BLOCKS * LS_BLOCK]
} World;

typedef struct Rank {
    LsComm comm;
    LsTransport transport;
    LsCommOps ops;
    World *world;
    uint64_t begun[TAGS], read;
    LsView view[VIEWS];
    const void *place[VIEWS][RANKS_MAX];
    size_t views;
    const char *failure; // NULL: none
    char sentence[512];
} Rank;

static Rank *rank_of(LsTransport *transport)
{
    return (Rank *)((char *)transport - offsetof(Rank, transport));
}

static bool reaches(LsTransport *transport, int rank)
{
    (void)transport;
    (void)rank;
    return true;
}

static bool owns(LsTransport *transport, const void *memory)
{
    (void)transport;
    return memory;
}

static LsStatus view(LsTransport *transport, const void *mine, size_t bytes, LsView **out)
{
    (void)bytes;
    Rank *rank = rank_of(transport);
    World *world = rank->world;
    if (rank->views == VIEWS)
        return LS_FAIL(LS_INTERNAL, "too many views");
    pthread_barrier_wait(&world->barrier);
    world->shown[rank->comm.rank] = mine;
    pthread_barrier_wait(&world->barrier);
    const void **place = rank->place[rank->views];
    memcpy(place, world->shown, sizeof world->shown);
    *out = &rank->view[rank->views++];
    **out = (LsView){.mine = mine, .place = place, .ranks = world->ranks};
    return LS_OK;
}

static void unview(LsView *gone)
{
    gone->place = NULL; // to read it now is a fault
}

static void post_final(LsTransport *transport, size_t tag)
{
    Rank *rank = rank_of(transport);
    atomic_store_explicit(
        &rank->world->final[rank->comm.rank][tag], ++rank->begun[tag], memory_order_release);
}

static bool is_final(LsTransport *transport, size_t tag, int peer)
{
    const Rank *rank = rank_of(transport);
    return atomic_load_explicit(&rank->world->final[peer][tag], memory_order_acquire) >= rank->begun[tag];
}

static void post_read(LsTransport *transport)
{
    Rank *rank = rank_of(transport);
    atomic_store_explicit(&rank->world->read[rank->comm.rank], ++rank->read, memory_order_release);
}

static bool has_read(LsTransport *transport, int peer)
{
    const Rank *rank = rank_of(transport);
    return atomic_load_explicit(&rank->world->read[peer], memory_order_acquire) >= rank->read;
}

static const LsSharingOps sharing = {
    .tags = TAGS,
    .reaches = reaches,
    .owns = owns,
    .view = view,
    .unview = unview,
    .post_final = post_final,
    .is_final = is_final,
    .post_read = post_read,
    .has_read = has_read,
};
static const LsTransportOps transport_ops = {.name = "stand-in", .sharing = &sharing};

static LsStatus all_gather(LsComm *comm, const void *mine, void *all, const size_t *sizes)
{
    World *world = ((Rank *)comm)->world;
    char *to = all;
    pthread_barrier_wait(&world->barrier);
    world->gathered[comm->rank] = mine;
    pthread_barrier_wait(&world->barrier);
    for (int r = 0; r < comm->size; r++) {
        memmove(to, world->gathered[r], sizes[r]);
        to += sizes[r];
    }
    pthread_barrier_wait(&world->barrier);
    return LS_OK;
}

static LsStatus wait(LsComm *comm, const LsWait *what)
{
    double end = ls_clock_seconds() + DEADLINE;
    for (size_t outstanding = 1; outstanding > 0; sched_yield()) {
        LS_TRY(what->poll(what->context, &outstanding));
        if (ls_clock_seconds() > end)
            return LS_FAIL(LS_HUNG, "rank %d waits for %s", comm->rank, what->what);
    }
    return LS_OK;
}

static const LsCommOps comm_ops = {.name = "threads", .all_gather = all_gather, .wait = wait};

// ---- Their reductions -----------------------------------------------------------------------------------

static void fill_lane(const World *world, uint32_t lane, uint32_t step, float *out)
{
    LsRngKey key = ls_rng_key(44, step);
    for (size_t e = 0; e < BLOCKS * LS_BLOCK; e++) {
        uint32_t bits = ls_rng_u32(key, lane, e);
        out[e] = ((float)(bits >> 8) * 0x1p-23f - 1.0f) * (float)(1u << (bits & 15u));
        if (world->rounded)
            out[e] = ls_bf16_to_f32(ls_f32_to_bf16(out[e]));
    }
}

static float sum_of(const World *world, float a, float b)
{
    return world->rounded ? ls_bf16_to_f32(ls_f32_to_bf16(a + b)) : a + b;
}

// The canonical tree over lanes first … first + count - 1, one after the other. `out` has room for
// log2(count) + 1 models.
static void add_tree(const World *world, uint32_t first, uint32_t count, uint32_t step, float *out)
{
    float *right = out + BLOCKS * LS_BLOCK;
    if (count == 1) {
        fill_lane(world, first, step, out);
        return;
    }
    add_tree(world, first, count / 2, step, out);
    add_tree(world, first + count / 2, count / 2, step, right);
    for (size_t e = 0; e < BLOCKS * LS_BLOCK; e++)
        out[e] = sum_of(world, out[e], right[e]);
}

typedef struct Model {
    LsDevice *device;
    LsPlan plan;
    LsBuckets buckets;
    float *slot[LANES], *room, *result;
    uint16_t *half[LS_SUBTREES_MAX];
    LsReducer *reducer;
} Model;

static LsStatus prepare(Rank *rank, Model *m)
{
    const World *world = rank->world;
    size_t bytes = BLOCKS * LS_BLOCK * sizeof(float);
    LsDeviceOptions options = {.kind = world->kind, .precision = LS_PRECISION_FP32, .threads = 1};
    LS_TRY(ls_device_open(&options, &m->device));
    rank->comm.device = m->device;
    LS_TRY(ls_plan_compile(LANES, world->ranks, (uint32_t)rank->comm.rank, &m->plan));
    LS_TRY(ls_buckets_create(BLOCKS, 4 * LS_BLOCK * sizeof(float), &m->buckets));
    for (uint32_t s = 0; s < m->plan.lane_slots; s++)
        LS_TRY(ls_memory_allocate(bytes, (void **)&m->slot[s]));
    for (uint32_t s = 0; s < m->plan.share.subtrees && world->rounded; s++)
        LS_TRY(ls_memory_allocate(bytes / 2, (void **)&m->half[s]));
    LS_TRY(ls_memory_allocate(bytes, (void **)&m->result));
    LS_TRY(ls_memory_allocate(4 * bytes, (void **)&m->room));
    LsReducerOptions reducer = {.plan = &m->plan,
        .buckets = &m->buckets,
        .slot = m->slot,
        .rounded = world->rounded ? m->half : NULL,
        .result = m->result,
        .reduction = LS_REDUCTION_EXACT,
        .progress = !world->mixed || rank->comm.rank % 2 == 0};
    LS_TRY(ls_reducer_create(&rank->comm, &reducer, &m->reducer));
    return ls_reducer_has_thread(m->reducer) == (world->ranks > 1 && reducer.progress)
               ? LS_OK
               : LS_FAIL(LS_INTERNAL, "a thread is not where it should be");
}

// The rank's subtrees as its own lanes make them.
static void compute(const Rank *rank, Model *m, uint32_t step)
{
    for (uint32_t s = 0; s < m->plan.share.subtrees; s++) {
        LsSubtree subtree = m->plan.share.subtree[s];
        add_tree(rank->world, subtree.first, subtree.count, step, m->room);
        memcpy(m->slot[s], m->room, BLOCKS * LS_BLOCK * sizeof(float));
        for (size_t e = 0; e < BLOCKS * LS_BLOCK && rank->world->rounded; e++)
            m->half[s][e] = ls_f32_to_bf16(m->slot[s][e]);
    }
}

static LsStatus reduce(Rank *rank, Model *m, uint32_t step)
{
    for (size_t b = 0; b < m->buckets.count; b++) {
        if ((step + b + (uint32_t)rank->comm.rank) % 3 == 0)
            usleep(300); // ranks are late at different places
        LS_TRY(m->device->ops->marker_record(m->device, ls_reducer_final(m->reducer, b)));
        LS_TRY(ls_reducer_begin(m->reducer, b));
        if ((step + b) % 2 == 0)
            LS_TRY(ls_reducer_poll(m->reducer));
    }
    return rank->world->unfinished ? LS_OK : ls_reducer_finish(m->reducer);
}

static LsStatus check(const Rank *rank, const Model *m, uint32_t step)
{
    const float *expected = rank->world->expected + step * (size_t)BLOCKS * LS_BLOCK;
    uint32_t ranks = rank->world->ranks, number = (uint32_t)rank->comm.rank;
    for (size_t b = 0; b < m->buckets.count && !rank->world->unfinished; b++) {
        LsBlockRange piece = ls_bucket_piece(&m->buckets, b, ranks, number);
        size_t first = piece.first * LS_BLOCK;
        if (memcmp(m->result + first, expected + first, piece.count * LS_BLOCK * sizeof(float)) != 0)
            return LS_FAIL(LS_INTERNAL, "rank %u of %u: bucket %zu of step %u", number, ranks, b, step);
    }
    return LS_OK;
}

static LsStatus train(Rank *rank, Model *m)
{
    LS_TRY(prepare(rank, m));
    for (uint32_t step = 0; step < (rank->world->unfinished ? 1 : STEPS); step++) {
        compute(rank, m, step);
        LS_TRY(reduce(rank, m, step));
        LS_TRY(check(rank, m, step));
    }
    return LS_OK;
}

static void *run_rank(void *context)
{
    Rank *rank = context;
    Model m = {0};
    if (train(rank, &m) != LS_OK) {
        snprintf(rank->sentence, sizeof rank->sentence, "%s", ls_status_message());
        rank->failure = rank->sentence;
    }
    ls_reducer_destroy(m.reducer);
    pthread_barrier_wait(&rank->world->barrier); // others may still read this one's slots
    for (uint32_t s = 0; s < LANES; s++)
        free(m.slot[s]);
    for (uint32_t s = 0; s < LS_SUBTREES_MAX; s++)
        free(m.half[s]);
    free(m.result);
    free(m.room);
    ls_buckets_free(&m.buckets);
    ls_plan_free(&m.plan);
    ls_device_close(m.device);
    return NULL;
}

static void run_world(World *world)
{
    static Rank rank[RANKS_MAX];
    pthread_t thread[RANKS_MAX];
    size_t model = (size_t)BLOCKS * LS_BLOCK;
    assert_int_equal(
        ls_memory_allocate((STEPS + 3) * model * sizeof(float), (void **)&world->expected), LS_OK);
    for (uint32_t step = 0; step < STEPS; step++)
        add_tree(world, 0, LANES, step, world->expected + step * model);
    pthread_barrier_init(&world->barrier, NULL, world->ranks);
    for (uint32_t r = 0; r < world->ranks; r++) {
        rank[r] = (Rank){
            .comm = {.ops = &comm_ops, .rank = (int)r, .size = (int)world->ranks, .timeout = DEADLINE}};
        rank[r].world = world;
        rank[r].transport = (LsTransport){.ops = &transport_ops, .comm = &rank[r].comm};
        rank[r].comm.transport = world->ranks > 1 ? &rank[r].transport : NULL;
        assert_int_equal(pthread_create(&thread[r], NULL, run_rank, &rank[r]), 0);
    }
    for (uint32_t r = 0; r < world->ranks; r++)
        pthread_join(thread[r], NULL);
    pthread_barrier_destroy(&world->barrier);
    free(world->expected);
    for (uint32_t r = 0; r < world->ranks; r++)
        if (rank[r].failure)
            fail_msg("%s", rank[r].failure);
}

static const uint32_t counts[] = {1, 2, 3, 5, 8};

static void test_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int rounded = 0; rounded < 2; rounded++)
            run_world(&(World){.ranks = counts[i], .kind = LS_DEVICE_REF, .rounded = rounded});
}

static void test_bits_on_cpu(void **state)
{
    (void)state;
    LsDevice *device;
    LsDeviceOptions options = {.kind = LS_DEVICE_CPU, .precision = LS_PRECISION_FP32, .threads = 1};
    if (ls_device_open(&options, &device) != LS_OK)
        skip();
    ls_device_close(device);
    for (size_t i = 1; i < sizeof counts / sizeof *counts; i++)
        run_world(&(World){.ranks = counts[i], .kind = LS_DEVICE_CPU, .rounded = i % 2});
}

static void test_only_some_have_a_thread(void **state)
{
    (void)state;
    run_world(&(World){.ranks = 3, .kind = LS_DEVICE_REF, .mixed = true});
}

static void test_destroyed_before_finish(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        run_world(&(World){.ranks = counts[1 + i % 4], .kind = LS_DEVICE_REF, .unfinished = true});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_on_cpu),
        cmocka_unit_test(test_only_some_have_a_thread),
        cmocka_unit_test(test_destroyed_before_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
