// Failures of the nccl transport on purpose, each rank with a GPU of its own: rank 1 does what the argument
// says, or what EMULATED_NCCL_FAULT tells the stand-in for NCCL to do, while the others go on. The exit code
// and the line that the job prints are checked by the caller. Ends by itself after a minute in any case.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/comm.h"
#include "device/tensor.h"

enum { FAULTY = 1, BLOCKS = 16, FEW_ROUNDS = 4, MANY_ROUNDS = 1000000 };
static const double TIMEOUT = 1.5; // seconds

typedef struct Run {
    LsComm *comm;
    LsDevice *device;
    LsPlan plan;
    LsBuckets buckets;
    float *slot[4];
    LsReducer *reducer;
    LsMarker *done;
} Run;

static LsStatus set_up(Run *r)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_CUDA,
        .precision = LS_PRECISION_FP32,
        .threads = 1,
        .local_rank = ls_comm_local_rank(r->comm)};
    LS_TRY(ls_device_open(&options, &r->device));
    LS_TRY(ls_comm_attach(r->comm, r->device, LS_COMM_NCCL));
    LS_TRY(ls_plan_compile(8, (uint32_t)ls_comm_size(r->comm), (uint32_t)ls_comm_rank(r->comm), &r->plan));
    LS_TRY(ls_buckets_create(BLOCKS, BLOCKS / 4 * LS_BLOCK * sizeof(float), &r->buckets));
    for (uint32_t s = 0; s < r->plan.lane_slots; s++)
        LS_TRY(ls_comm_allocate(r->comm, BLOCKS * LS_BLOCK * sizeof(float), (void **)&r->slot[s]));
    LsReducerOptions reducer = {.plan = &r->plan, .buckets = &r->buckets, .slot = r->slot};
    LS_TRY(ls_reducer_create(r->comm, &reducer, &r->reducer));
    return r->device->ops->marker_create(r->device, &r->done);
}

static LsStatus tear_down(Run *r)
{
    ls_reducer_destroy(r->reducer);
    for (uint32_t s = 0; s < r->plan.lane_slots; s++)
        ls_comm_release(r->comm, r->slot[s]);
    ls_buckets_free(&r->buckets);
    ls_plan_free(&r->plan);
    r->device->ops->marker_destroy(r->device, r->done);
    ls_comm_detach(r->comm);
    ls_device_close(r->device);
    return LS_OK;
}

// Reduces and gathers over and over; like the trainer, the host waits for what it enqueued a round ago.
static LsStatus train(Run *r, int rounds)
{
    LsDevice *device = r->device;
    for (int i = 0; i < rounds; i++) {
        for (size_t b = 0; b < r->buckets.count; b++) {
            LS_TRY(device->ops->marker_record(device, ls_reducer_final(r->reducer, b)));
            LS_TRY(ls_reducer_begin(r->reducer, b));
        }
        LS_TRY(ls_reducer_finish(r->reducer));
        LS_TRY(ls_comm_wait_marker(r->comm, r->done, "the step before"));
        LS_TRY(ls_comm_gather_shards(r->comm, &r->buckets, r->slot[0], sizeof(float)));
        LS_TRY(device->ops->marker_record(device, r->done));
    }
    return LS_OK;
}

static LsStatus go_on(Run *r, bool faulty)
{
    (void)faulty; // the stand-in sees to it
    return train(r, MANY_ROUNDS);
}

static LsStatus end(Run *r, bool faulty)
{
    (void)faulty;
    LS_TRY(train(r, FEW_ROUNDS));
    return tear_down(r);
}

static LsStatus sleep_before_reduction(Run *r, bool faulty)
{
    LS_TRY(train(r, FEW_ROUNDS));
    if (faulty)
        sleep(60);
    return train(r, FEW_ROUNDS);
}

static LsStatus sleep_before_closing(Run *r, bool faulty)
{
    LS_TRY(train(r, FEW_ROUNDS));
    if (faulty)
        sleep(60);
    return tear_down(r);
}

// A stopped process receives nothing and dies of nothing but SIGKILL.
static LsStatus stop(Run *r, bool faulty)
{
    LS_TRY(train(r, FEW_ROUNDS));
    if (faulty)
        raise(SIGSTOP);
    return train(r, MANY_ROUNDS);
}

static LsStatus be_killed(Run *r, bool faulty)
{
    if (faulty && fork() == 0) {
        usleep(300000); // into the reductions
        kill(getppid(), SIGKILL);
        _exit(0);
    }
    return train(r, MANY_ROUNDS);
}

// The others have enqueued the gather that follows a step's end, and wait for it before they evaluate.
static LsStatus sleep_before_gather(Run *r, bool faulty)
{
    LS_TRY(train(r, FEW_ROUNDS));
    if (faulty)
        sleep(60);
    LS_TRY(ls_comm_gather_shards(r->comm, &r->buckets, r->slot[0], sizeof(float)));
    LS_TRY(ls_comm_drain(r->comm));
    return r->device->ops->synchronize(r->device); // without a deadline
}

// Ranks that do not agree on the size would mix data, or hang, on a GPU; the stand-in finds them.
static LsStatus gather_different_sizes(Run *r, bool faulty)
{
    size_t bytes = faulty ? 100 : 64;
    LS_TRY(ls_comm_gather_device(r->comm, r->slot[1], r->slot[0], bytes));
    LS_TRY(r->device->ops->marker_record(r->device, r->done));
    return ls_comm_wait_marker(r->comm, r->done, "a gather");
}

static const struct {
    const char *name;
    LsStatus (*run)(Run *r, bool faulty);
} faults[] = {
    {"none", end},
    {"of_the_library", go_on},
    {"sleep_before_reduction", sleep_before_reduction},
    {"sleep_before_closing", sleep_before_closing},
    {"sleep_before_gather", sleep_before_gather},
    {"stopped", stop},
    {"killed", be_killed},
    {"different_sizes", gather_different_sizes},
};

int main(int argc, char **argv)
{
    alarm(60);
    Run run = {0};
    LsCommOptions options = {.kind = LS_COMM_MPI, .timeout = TIMEOUT};
    if (ls_comm_open(&options, &run.comm) != LS_OK) {
        fprintf(stderr, "lockstep: %s\n", ls_status_message());
        return 1;
    }
    for (size_t i = 0; argc == 2 && i < sizeof faults / sizeof *faults; i++)
        if (strcmp(argv[1], faults[i].name) == 0) {
            LsStatus status = set_up(&run);
            if (status == LS_OK)
                status = faults[i].run(&run, ls_comm_rank(run.comm) == FAULTY);
            if (status != LS_OK)
                ls_comm_abort(run.comm, status, ls_status_message());
            ls_comm_close(run.comm);
            return 0; // no fault came through
        }
    ls_comm_abort(run.comm, LS_USAGE, "usage: nccl_faults FAULT");
}
