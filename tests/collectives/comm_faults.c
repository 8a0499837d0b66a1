// Ranks that fail on purpose: rank 1 does what the argument says while the others communicate. The exit code
// and the line that the job prints are checked by the caller. Ends by itself after a minute in any case.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "collectives/comm.h"
#include "device/tensor.h"
#include "strict_device.h"

enum { FAULTY = 1, BLOCKS = 64 };
static const double TIMEOUT = 1.5; // seconds

static bool progress; // reducers have threads that add up

typedef LsStatus (*OpenDevice)(LsDevice **out);

static LsStatus open_host(LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_FP32, .threads = 1};
    return ls_device_open(&options, out);
}

static LsStatus open_discrete(LsDevice **out)
{
    return ls_strict_device_open(LS_PRECISION_FP32, out);
}

static LsStatus reduce(LsDevice *device, LsReducer *reducer, const LsBuckets *buckets)
{
    for (size_t b = 0; b < buckets->count; b++) {
        LS_TRY(device->ops->marker_record(device, ls_reducer_final(reducer, b)));
        LS_TRY(ls_reducer_begin(reducer, b));
    }
    return ls_reducer_finish(reducer);
}

// Reduces and gathers over and over; stays away from the reductions from round `sleep_at` on.
static LsStatus train_on(OpenDevice open, LsComm *comm, int rounds, int sleep_at)
{
    LsDevice *device;
    LsPlan plan;
    LsBuckets buckets;
    float *slot[4];
    LsReducer *reducer;
    LS_TRY(open(&device));
    LS_TRY(ls_comm_attach(comm, device, LS_COMM_AUTO));
    LS_TRY(ls_plan_compile(8, (uint32_t)ls_comm_size(comm), (uint32_t)ls_comm_rank(comm), &plan));
    LS_TRY(ls_buckets_create(BLOCKS, BLOCKS / 4 * LS_BLOCK * sizeof(float), &buckets));
    for (uint32_t s = 0; s < plan.lane_slots; s++)
        LS_TRY(ls_comm_allocate(comm, BLOCKS * LS_BLOCK * sizeof(float), (void **)&slot[s]));
    LsReducerOptions options = {.plan = &plan,
        .buckets = &buckets,
        .slot = slot,
        .reduction = LS_REDUCTION_EXACT,
        .progress = progress};
    LS_TRY(ls_reducer_create(comm, &options, &reducer));
    if (ls_reducer_has_thread(reducer) != progress)
        return LS_FAIL(LS_INTERNAL, "the reducer has %s", progress ? "no thread" : "a thread");
    for (int i = 0; i < rounds; i++) {
        if (i == sleep_at)
            sleep(60);
        LS_TRY(reduce(device, reducer, &buckets));
        LS_TRY(ls_comm_gather_shards(comm, &buckets, slot[0], sizeof(float)));
    }
    ls_reducer_destroy(reducer);
    for (uint32_t s = 0; s < plan.lane_slots; s++)
        ls_comm_release(comm, slot[s]);
    ls_buckets_free(&buckets);
    ls_plan_free(&plan);
    ls_comm_detach(comm);
    ls_device_close(device);
    return LS_OK;
}

static LsStatus train(LsComm *comm, int rounds)
{
    return train_on(open_host, comm, rounds, rounds);
}

static LsStatus sleep_before_barrier(LsComm *comm, bool faulty)
{
    if (faulty)
        sleep(60);
    return ls_comm_barrier(comm);
}

static LsStatus sleep_before_reduction(LsComm *comm, bool faulty)
{
    return train_on(open_host, comm, 3, faulty ? 2 : 3);
}

static LsStatus sleep_before_staged_reduction(LsComm *comm, bool faulty)
{
    return train_on(open_discrete, comm, 3, faulty ? 2 : 3);
}

static LsStatus sleep_before_threads_reduction(LsComm *comm, bool faulty)
{
    progress = true;
    return sleep_before_reduction(comm, faulty);
}

// A device that never gets anywhere.
static LsStatus never(LsDevice *device, LsMarker *marker, bool *reached)
{
    (void)device;
    (void)marker;
    *reached = false;
    return LS_OK;
}

static LsStatus wait_for_a_stuck_device(LsComm *comm, bool faulty)
{
    LsDevice *device;
    LsMarker *marker;
    LS_TRY(open_host(&device));
    LsDeviceOps ops = *device->ops;
    ops.marker_reached = never;
    device->ops = &ops;
    LS_TRY(ls_comm_attach(comm, device, LS_COMM_AUTO));
    LS_TRY(device->ops->marker_create(device, &marker));
    return faulty ? ls_comm_wait_marker(comm, marker, "its device") : ls_comm_barrier(comm);
}

// A stopped process receives nothing and dies of nothing but SIGKILL.
static LsStatus stop(LsComm *comm, bool faulty)
{
    LS_TRY(train(comm, 3));
    if (faulty)
        raise(SIGSTOP);
    return train(comm, 1);
}

static LsStatus make_different_calls(LsComm *comm, bool faulty)
{
    int number = 0;
    return faulty ? ls_comm_barrier(comm) : ls_comm_broadcast(comm, &number, sizeof number, FAULTY);
}

static LsStatus abort_job(LsComm *comm, bool faulty)
{
    LS_TRY(train(comm, 3));
    if (faulty)
        ls_comm_abort(comm, LS_BAD_DATA, "rank 1 found bad data");
    return train(comm, 1000000);
}

static LsStatus be_killed(LsComm *comm, bool faulty)
{
    if (faulty && fork() == 0) {
        usleep(300000); // into the reductions
        kill(getppid(), SIGKILL);
        _exit(0);
    }
    return train(comm, 1000000);
}

static LsStatus stop_beside_threads(LsComm *comm, bool faulty)
{
    progress = true;
    return stop(comm, faulty);
}

static LsStatus abort_beside_threads(LsComm *comm, bool faulty)
{
    progress = true;
    return abort_job(comm, faulty);
}

static LsStatus be_killed_beside_threads(LsComm *comm, bool faulty)
{
    progress = true;
    return be_killed(comm, faulty);
}

// The whole job is stopped for longer than the deadline, as from a terminal, and goes on.
static LsStatus suspend_job(LsComm *comm, bool faulty)
{
    enum { BEFORE = 300000, STOPPED = 2500000, AFTER = 500000 };
    double start = ls_clock_seconds();
    pid_t rank = getpid();
    if (fork() == 0) {
        usleep(BEFORE);
        kill(rank, SIGSTOP);
        usleep(STOPPED);
        kill(rank, SIGCONT);
        _exit(0);
    }
    while (faulty && ls_clock_seconds() - start < 1e-6 * (BEFORE + STOPPED + AFTER))
        usleep(1000); // the others wait all the time
    return ls_comm_barrier(comm);
}

static const struct {
    const char *name;
    LsStatus (*run)(LsComm *comm, bool faulty);
} faults[] = {
    {"sleep_before_barrier", sleep_before_barrier},
    {"sleep_before_reduction", sleep_before_reduction},
    {"sleep_before_staged_reduction", sleep_before_staged_reduction},
    {"sleep_before_threads_reduction", sleep_before_threads_reduction},
    {"stopped_beside_threads", stop_beside_threads},
    {"killed_beside_threads", be_killed_beside_threads},
    {"abort_beside_threads", abort_beside_threads},
    {"stuck_device", wait_for_a_stuck_device},
    {"stopped", stop},
    {"different_calls", make_different_calls},
    {"abort", abort_job},
    {"killed", be_killed},
    {"suspended", suspend_job},
};

int main(int argc, char **argv)
{
    alarm(60);
    LsComm *comm;
    LsCommOptions options = {.kind = LS_COMM_MPI, .timeout = TIMEOUT};
    if (ls_comm_open(&options, &comm) != LS_OK) {
        fprintf(stderr, "lockstep: %s\n", ls_status_message());
        return 1;
    }
    for (size_t i = 0; argc == 2 && i < sizeof faults / sizeof *faults; i++)
        if (strcmp(argv[1], faults[i].name) == 0) {
            LsStatus status = faults[i].run(comm, ls_comm_rank(comm) == FAULTY);
            if (status != LS_OK)
                ls_comm_abort(comm, status, ls_status_message());
            ls_comm_close(comm);
            return 0; // no fault came through
        }
    ls_comm_abort(comm, LS_USAGE, "usage: comm_faults FAULT");
}
