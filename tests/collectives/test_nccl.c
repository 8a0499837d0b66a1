// The nccl transport beside what test_reducer.c tests of every transport: that it is chosen, opened and
// closed any number of times, and keeps its order when many steps are under way that the host waits for once.
// Each rank needs a GPU of its own.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/comm.h"
#include "device/tensor.h"

enum { LANES = 8, BLOCKS = 13, STEPS = 6, SKIPPED = 77, TIMEOUT_SECONDS = 60 };
enum { ELEMENTS = BLOCKS * LS_BLOCK };

static LsComm *comm;
static LsDevice *device;
static uint32_t rank, ranks;

static const char *expected_name(void)
{
    return ranks > 1 ? "nccl" : ls_comm_launched() ? "mpi" : "self";
}

static void test_it_is_chosen(void **state)
{
    (void)state;
    static const int kinds[] = {LS_COMM_AUTO, LS_COMM_NCCL};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ls_comm_attach(comm, device, kinds[i % 2]), LS_OK);
        assert_string_equal(ls_comm_name(comm), expected_name());
        ls_comm_detach(comm);
    }
    assert_int_equal(ls_comm_attach(comm, device, LS_COMM_MPI), LS_OK);
    assert_string_equal(ls_comm_name(comm), ls_comm_launched() ? "mpi" : "self");
    ls_comm_detach(comm);
}

static void test_version(void **state)
{
    (void)state;
    int major, minor, patch, end = 0;
    assert_int_equal(sscanf(ls_comm_nccl_version(), "%d.%d.%d%n", &major, &minor, &patch, &end), 3);
    assert_int_equal(ls_comm_nccl_version()[end], '\0');
    assert_true(major == 2 && minor >= 19);
}

// ---- Many steps under way -------------------------------------------------------------------------------

// Small whole numbers, whose sums are exact in every order.
static float gradient(uint32_t lane, size_t e, uint32_t step)
{
    return (float)((lane * 7 + e * 3 + step * 11) % 1000);
}

static float sum_of_lanes(size_t e, uint32_t step)
{
    float sum = 0;
    for (uint32_t lane = 0; lane < LANES; lane++)
        sum += gradient(lane, e, step);
    return sum;
}

typedef struct Steps {
    LsPlan plan;
    LsBuckets buckets;
    float *slot[LANES];
    float *inputs;  // [STEPS × lane_slots × ELEMENTS] on the device
    float *history; // [STEPS × ELEMENTS] likewise: the sums after each step
    LsReducer *reducer;
} Steps;

static float *allocate(size_t elements)
{
    void *memory;
    assert_int_equal(ls_comm_allocate(comm, elements * sizeof(float), &memory), LS_OK);
    return memory;
}

// A rank's subtrees of one step, slot after slot.
static void fill(const LsPlan *plan, uint32_t step, float *out)
{
    memset(out, 0, plan->lane_slots * (size_t)ELEMENTS * sizeof *out);
    for (uint32_t t = 0; t < plan->share.subtrees; t++)
        for (uint32_t lane = 0; lane < plan->share.subtree[t].count; lane++)
            for (size_t e = 0; e < ELEMENTS; e++)
                out[t * (size_t)ELEMENTS + e] += gradient(plan->share.subtree[t].first + lane, e, step);
}

static void set_up(Steps *s)
{
    assert_int_equal(ls_plan_compile(LANES, ranks, rank, &s->plan), LS_OK);
    assert_int_equal(ls_buckets_create(BLOCKS, 4 * LS_BLOCK * sizeof(float), &s->buckets), LS_OK);
    size_t of_step = s->plan.lane_slots * (size_t)ELEMENTS;
    for (uint32_t i = 0; i < s->plan.lane_slots; i++)
        s->slot[i] = allocate(ELEMENTS);
    s->inputs = allocate(STEPS * of_step);
    s->history = allocate(STEPS * (size_t)ELEMENTS);
    float *host = malloc(of_step * sizeof *host);
    assert_non_null(host);
    for (uint32_t step = 0; step < STEPS; step++) {
        fill(&s->plan, step, host);
        assert_int_equal(
            device->ops->copy_in(device, s->inputs + step * of_step, host, of_step * sizeof *host), LS_OK);
        assert_int_equal(device->ops->synchronize(device), LS_OK);
    }
    free(host);
    LsReducerOptions options = {.plan = &s->plan, .buckets = &s->buckets, .slot = s->slot};
    assert_int_equal(ls_reducer_create(comm, &options, &s->reducer), LS_OK);
}

static void tear_down(Steps *s)
{
    ls_reducer_destroy(s->reducer);
    ls_comm_release(comm, s->history);
    ls_comm_release(comm, s->inputs);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++)
        ls_comm_release(comm, s->slot[i]);
    ls_buckets_free(&s->buckets);
    ls_plan_free(&s->plan);
}

// The step's gradients overwrite what the last step's gather left in the slots, and so forth: each only if it
// waits for the one before.
static void enqueue_step(Steps *s, uint32_t step)
{
    size_t bytes = ELEMENTS * sizeof(float);
    for (uint32_t i = 0; i < s->plan.lane_slots; i++)
        assert_int_equal(device->ops->copy(device, s->slot[i],
                             s->inputs + (step * s->plan.lane_slots + i) * (size_t)ELEMENTS, bytes),
            LS_OK);
    for (size_t b = 0; b < s->buckets.count; b++) {
        assert_int_equal(device->ops->marker_record(device, ls_reducer_final(s->reducer, b)), LS_OK);
        assert_int_equal(ls_reducer_begin(s->reducer, b), LS_OK);
    }
    assert_int_equal(ls_reducer_finish(s->reducer), LS_OK);
    assert_int_equal(ls_comm_gather_shards(comm, &s->buckets, s->slot[0], sizeof(float)), LS_OK);
    assert_int_equal(
        device->ops->copy(device, s->history + step * (size_t)ELEMENTS, s->slot[0], bytes), LS_OK);
}

static void check_history(const Steps *s)
{
    LsMarker *done;
    size_t bytes = STEPS * (size_t)ELEMENTS * sizeof(float);
    float *found = malloc(bytes);
    assert_non_null(found);
    assert_int_equal(device->ops->marker_create(device, &done), LS_OK);
    assert_int_equal(device->ops->copy_out(device, found, s->history, bytes), LS_OK);
    assert_int_equal(device->ops->marker_record(device, done), LS_OK);
    assert_int_equal(ls_comm_wait_marker(comm, done, "the history"), LS_OK);
    for (uint32_t step = 0; step < STEPS; step++)
        for (size_t e = 0; e < ELEMENTS; e++)
            assert_true(found[step * (size_t)ELEMENTS + e] == sum_of_lanes(e, step));
    device->ops->marker_destroy(device, done);
    free(found);
}

static void test_many_steps_under_way(void **state)
{
    (void)state;
    Steps s = {0};
    assert_int_equal(ls_comm_attach(comm, device, LS_COMM_NCCL), LS_OK);
    set_up(&s);
    for (uint32_t step = 0; step < STEPS; step++)
        enqueue_step(&s, step);
    // Ranks that wait for each other through MPI still let their GPUs work: the first ones wait here, while
    // the last one needs their GPUs.
    if (rank == ranks - 1)
        check_history(&s);
    assert_int_equal(ls_comm_barrier(comm), LS_OK);
    check_history(&s);
    tear_down(&s);
    ls_comm_detach(comm);
}

// ---- The program ----------------------------------------------------------------------------------------

static int open_device(void **state)
{
    (void)state;
    LsDeviceOptions options = {.kind = LS_DEVICE_CUDA,
        .precision = LS_PRECISION_FP32,
        .threads = 1,
        .local_rank = ls_comm_local_rank(comm)};
    if (ls_device_open(&options, &device) == LS_OK)
        return 0;
    print_error("%s\n", ls_status_message());
    return 1;
}

static int close_device(void **state)
{
    (void)state;
    ls_device_close(device);
    return 0;
}

int main(void)
{
    LsCommOptions options = {.kind = LS_COMM_AUTO, .timeout = TIMEOUT_SECONDS};
    if (ls_comm_open(&options, &comm) != LS_OK) {
        print_error("%s\n", ls_status_message());
        return 1;
    }
    rank = (uint32_t)ls_comm_rank(comm);
    ranks = (uint32_t)ls_comm_size(comm);
    char text[512];
    int gpus, failed = SKIPPED;
    ls_device_gpus(text, sizeof text, &gpus);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_chosen),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_many_steps_under_way),
    };
    if (ls_comm_nccl_version()[0] == '\0' || gpus < (int)ranks)
        print_message("needs NCCL and %u GPUs: %s\n", ranks, text);
    else
        failed = cmocka_run_group_tests(tests, open_device, close_device);
    ls_comm_close(comm);
    return failed;
}
