// A stand-in for NCCL over MPI, as strict as the library: a communicator that is not blocking is really in
// progress for several polls, nothing of a group is in the stream before the caller has polled until it is
// done, a call before that is refused, and two ranks on one GPU are as well.
//
// Its communicators span MPI_COMM_WORLD and keep its rank numbers. MPI is called by the main thread alone.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulator.h"
#include "nccl_state.h"

enum {
    POLLS = 3,      // that a group needs until it is in the stream
    IDLE_POLLS = 64 // after so many in a row the caller waits for something else
};

// ---- Errors ---------------------------------------------------------------------------------------------

static _Thread_local char last_error[512];

static void remember(const char *format, va_list arguments)
{
    vsnprintf(last_error, sizeof last_error, format, arguments);
}

ncclResult_t ls_nccl_fail(ncclResult_t result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    remember(format, arguments);
    va_end(arguments);
    return result;
}

void ls_nccl_break(ncclComm_t comm, ncclResult_t result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    remember(format, arguments);
    va_end(arguments);
    comm->state = result;
}

void ls_nccl_mpi(int code, const char *call)
{
    if (code != MPI_SUCCESS)
        ls_emulator_fault("the stand-in for NCCL: %s failed with code %d", call, code);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
#define X(name, value, text)                                                                                 \
    case name:                                                                                               \
        return text;
        LS_NCCL_RESULTS(X)
#undef X
    default:
        return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

// ---- Joining --------------------------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *uniqueId)
{
    FILE *random = fopen("/dev/urandom", "rb");
    size_t got = random ? fread(uniqueId->internal, sizeof uniqueId->internal, 1, random) : 0;
    if (random)
        fclose(random);
    return got == 1 ? ncclSuccess : ls_nccl_fail(ncclSystemError, "/dev/urandom cannot be read");
}

static Fault read_fault(void)
{
    Fault fault = {.rank = -1};
    const char *text = getenv("EMULATED_NCCL_FAULT");
    if (text && (sscanf(text, "%15s %d %d", fault.kind, &fault.rank, &fault.group) != 3 ||
                    !strstr("absent stuck error", fault.kind)))
        ls_emulator_fault("EMULATED_NCCL_FAULT is \"%s\"; it must be KIND RANK N", text);
    return fault;
}

static ncclResult_t check_arguments(int nranks, int rank, const ncclConfig_t *config)
{
    int started, main_thread, world_rank, world_size;
    if (MPI_Initialized(&started) != MPI_SUCCESS || !started)
        return ls_nccl_fail(ncclInvalidUsage, "the stand-in for NCCL needs MPI_Init");
    ls_nccl_mpi(MPI_Is_thread_main(&main_thread), "MPI_Is_thread_main");
    ls_nccl_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank), "MPI_Comm_rank");
    ls_nccl_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world_size), "MPI_Comm_size");
    if (!main_thread || rank != world_rank || nranks != world_size)
        return ls_nccl_fail(
            ncclInvalidArgument, "the stand-in for NCCL has the ranks of MPI_COMM_WORLD, in its main thread");
    if (!config || config->magic != 0xcafebeef || config->size != sizeof *config)
        return ls_nccl_fail(ncclInvalidArgument, "ncclConfig_t not initialized by NCCL_CONFIG_INITIALIZER");
    if (config->blocking != 0)
        return ls_nccl_fail(ncclInvalidArgument, "the stand-in for NCCL knows no blocking communicators");
    return ncclSuccess;
}

static ncclResult_t find_place(Place *place)
{
    int device;
    struct cudaDeviceProp properties;
    memset(place, 0, sizeof *place);
    if (gethostname(place->host, sizeof place->host - 1) != 0 || cudaGetDevice(&device) != cudaSuccess ||
        cudaGetDeviceProperties(&properties, device) != cudaSuccess)
        return ls_nccl_fail(ncclUnhandledCudaError, "no CUDA device is current");
    place->gpu = properties.uuid;
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(
    ncclComm_t *out, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config)
{
    Place place;
    ncclResult_t result = check_arguments(nranks, rank, config);
    if (result == ncclSuccess)
        result = find_place(&place);
    if (result != ncclSuccess)
        return result;
    ncclComm_t comm = calloc(1, sizeof *comm);
    Place *all = calloc((size_t)nranks, sizeof *all);
    if (!comm || !all)
        ls_emulator_fault("no memory for a communicator");
    *comm = (struct ncclComm){.rank = rank,
        .ranks = nranks,
        .references = 1,
        .state = ncclInProgress,
        .request = MPI_REQUEST_NULL,
        .mine = place,
        .all = all,
        .fault = read_fault()};
    comm->mine.id = commId;
    if (comm->fault.rank != rank)
        comm->fault.kind[0] = '\0';
    if (strcmp(comm->fault.kind, "absent") != 0)
        ls_nccl_mpi(MPI_Comm_idup(MPI_COMM_WORLD, &comm->mpi, &comm->request), "MPI_Comm_idup");
    *out = comm;
    return ncclInProgress;
}

static void find_disagreement(ncclComm_t comm)
{
    const Place *all = comm->all;
    for (int b = 1; b < comm->ranks; b++)
        for (int a = 0; a < b; a++) {
            if (memcmp(&all[a].id, &all[b].id, sizeof all[a].id) != 0)
                ls_nccl_break(comm, ncclInvalidUsage, "ranks %d and %d have different ids", a, b);
            else if (strcmp(all[a].host, all[b].host) == 0 &&
                     memcmp(&all[a].gpu, &all[b].gpu, sizeof all[a].gpu) == 0)
                ls_nccl_break(comm, ncclInvalidUsage, "ranks %d and %d are both on one CUDA device", a, b);
        }
}

// ---- Progress -------------------------------------------------------------------------------------------

static bool request_over(ncclComm_t comm)
{
    int over;
    ls_nccl_mpi(MPI_Test(&comm->request, &over, MPI_STATUS_IGNORE), "MPI_Test");
    return over;
}

static void progress_joining(ncclComm_t comm)
{
    if (comm->request == MPI_REQUEST_NULL || !request_over(comm)) // never asked to join, or not there yet
        return;
    ls_nccl_mpi(MPI_Iallgather(&comm->mine, sizeof comm->mine, MPI_BYTE, comm->all, sizeof comm->mine,
                    MPI_BYTE, comm->mpi, &comm->request),
        "MPI_Iallgather");
    comm->stage = STAGE_MEETING;
}

static void progress_meeting(ncclComm_t comm)
{
    if (!request_over(comm))
        return;
    comm->state = ncclSuccess;
    comm->stage = STAGE_READY;
    find_disagreement(comm);
}

static void progress_ready(ncclComm_t comm)
{
    if (comm->starting && comm->polls >= POLLS) {
        Group *group = comm->starting;
        comm->starting = NULL;
        comm->state = ls_nccl_enqueue(group);
    } else if (!comm->starting && comm->in_stream > 0 && comm->polls >= IDLE_POLLS) {
        ls_emulator_progress(); // peers may be waiting for what this rank's GPU would be doing by now
    }
}

static void progress_closing(ncclComm_t comm)
{
    if (comm->in_stream > 0) {
        ls_emulator_progress();
        return;
    }
    if (comm->request == MPI_REQUEST_NULL) {
        ls_nccl_mpi(MPI_Ibarrier(comm->mpi, &comm->request), "MPI_Ibarrier");
        return;
    }
    if (!request_over(comm))
        return;
    comm->state = ncclSuccess;
    comm->stage = STAGE_CLOSED;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError)
{
    static void (*const progress[])(ncclComm_t comm) = {
        [STAGE_JOINING] = progress_joining,
        [STAGE_MEETING] = progress_meeting,
        [STAGE_READY] = progress_ready,
        [STAGE_CLOSING] = progress_closing,
    };
    if (!comm || !asyncError)
        return ls_nccl_fail(ncclInvalidArgument, "ncclCommGetAsyncError: a pointer is NULL");
    comm->polls++;
    if (comm->stage < STAGE_CLOSED && (comm->state == ncclSuccess || comm->state == ncclInProgress))
        progress[comm->stage](comm);
    *asyncError = comm->state;
    return ncclSuccess;
}

// ---- Leaving --------------------------------------------------------------------------------------------

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    if (comm->stage != STAGE_READY || comm->state != ncclSuccess)
        return ls_nccl_fail(ncclInvalidArgument, "ncclCommFinalize: the communicator is not ready");
    comm->stage = STAGE_CLOSING;
    comm->state = ncclInProgress;
    return ncclInProgress;
}

void ls_nccl_release(ncclComm_t comm)
{
    if (--comm->references > 0)
        return;
    free(comm->all);
    free(comm);
}

// Called by all ranks, each of which has been through the barrier of ncclCommFinalize.
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm->stage != STAGE_CLOSED)
        return ls_nccl_fail(
            ncclInvalidUsage, "the stand-in for NCCL destroys a communicator only after ncclCommFinalize");
    ls_nccl_mpi(MPI_Comm_free(&comm->mpi), "MPI_Comm_free");
    ls_nccl_release(comm);
    return ncclInProgress; // as the library says it, though there is nothing left to ask
}

// What the stream holds ends without effect. What MPI is doing cannot be taken back: its memory stays, and so
// does a communicator that is being made.
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (!comm)
        return ncclSuccess;
    if (getenv("EMULATED_NCCL_TRACE"))
        fprintf(stderr, "emulated NCCL: rank %d aborts\n", comm->rank);
    while (getenv("EMULATED_NCCL_ABORT_HANGS"))
        pause();
    comm->aborted = true;
    if (comm->starting)
        ls_nccl_free_group(comm->starting);
    comm->starting = NULL;
    if (comm->request == MPI_REQUEST_NULL)
        ls_nccl_release(comm);
    return ncclSuccess;
}

// ---- Registered memory ----------------------------------------------------------------------------------

typedef struct Registration {
    ncclComm_t comm;
    void *memory;
    size_t bytes;
} Registration;

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buff, size_t size, void **handle)
{
    if (!ls_emulator_owns(buff, size))
        return ls_nccl_fail(ncclInvalidArgument, "ncclCommRegister: %p is not device memory", buff);
    Registration *registration = malloc(sizeof *registration);
    if (!registration)
        ls_emulator_fault("no memory for a registration");
    *registration = (Registration){comm, buff, size};
    *handle = registration;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    Registration *registration = handle;
    if (!registration)
        return ncclSuccess;
    if (registration->comm != comm || !ls_emulator_owns(registration->memory, registration->bytes))
        ls_emulator_fault("memory %p is deregistered elsewhere or after it was freed", registration->memory);
    free(registration);
    return ncclSuccess;
}
