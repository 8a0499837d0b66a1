// The `mpi` backend: opening and closing, ending the job, and what all ranks tell each other at once.
//
// Only nonblocking calls, each waited for by ls_mpi_wait with its deadline. Errors of MPI end the job.
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/memory.h"
#include "mpi_backend.h"

// ---- Closing and ending the job -------------------------------------------------------------------------

static void mpi_abort(LsComm *comm, int exit_code)
{
    MPI_Abort(mpi_comm(comm)->traffic, exit_code);
}

static void free_memory(MpiComm *mpi)
{
    free(mpi->base.hosts.first);
    free(mpi->displacements);
    free(mpi->counts);
    free(mpi);
}

static LsStatus mpi_barrier(LsComm *comm)
{
    MpiComm *mpi = mpi_comm(comm);
    MPI_Request request;
    ls_mpi_check(mpi, MPI_Ibarrier(mpi->traffic, &request), "MPI_Ibarrier");
    return ls_mpi_wait_requests(mpi, &request, 1, "all ranks at a barrier");
}

// The barrier comes first because MPI_Finalize waits for the others without a deadline.
static void mpi_close(LsComm *comm)
{
    MpiComm *mpi = mpi_comm(comm);
    mpi_barrier(comm);
    ls_mpi_stop_listening(mpi);
    MPI_Comm_free(&mpi->pulse);
    MPI_Comm_free(&mpi->traffic);
    MPI_Finalize();
    free_memory(mpi);
}

// ---- One to all, all to all -----------------------------------------------------------------------------

static LsStatus mpi_broadcast(LsComm *comm, void *data, size_t bytes, int root)
{
    MpiComm *mpi = mpi_comm(comm);
    for (size_t done = 0; done < bytes;) {
        size_t part = bytes - done < INT_MAX ? bytes - done : INT_MAX; // counts are ints
        MPI_Request request;
        ls_mpi_check(mpi, MPI_Ibcast((char *)data + done, (int)part, MPI_BYTE, root, mpi->traffic, &request),
            "MPI_Ibcast");
        LS_TRY(ls_mpi_wait_requests(mpi, &request, 1, "a broadcast"));
        done += part;
    }
    return LS_OK;
}

// For totals that do not fit an int.
static LsStatus all_gather_by_broadcasts(LsComm *comm, const void *mine, char *all, const size_t *sizes)
{
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank && all != mine)
            memcpy(all, mine, sizes[r]);
        LS_TRY(mpi_broadcast(comm, all, sizes[r], r));
        all += sizes[r];
    }
    return LS_OK;
}

static LsStatus mpi_all_gather(LsComm *comm, const void *mine, void *all, const size_t *sizes)
{
    MpiComm *mpi = mpi_comm(comm);
    size_t total = 0;
    const char *place = all;
    for (int r = 0; r < comm->size; r++) {
        if (sizes[r] > INT_MAX - total)
            return all_gather_by_broadcasts(comm, mine, all, sizes);
        mpi->counts[r] = (int)sizes[r];
        mpi->displacements[r] = (int)total;
        if (r < comm->rank)
            place += sizes[r];
        total += sizes[r];
    }
    MPI_Request request;
    ls_mpi_check(mpi,
        MPI_Iallgatherv(mine == place ? MPI_IN_PLACE : mine, (int)sizes[comm->rank], MPI_BYTE, all,
            mpi->counts, mpi->displacements, MPI_BYTE, mpi->traffic, &request),
        "MPI_Iallgatherv");
    return ls_mpi_wait_requests(mpi, &request, 1, "an exchange with all ranks");
}

// ---- Opening --------------------------------------------------------------------------------------------

// Containers often forbid one process to read another's memory. Open MPI 4 finds out only when a message is
// under way, and complains on standard error for each; it is told beforehand instead.
static void probe_single_copy(void)
{
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1)
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

// MPI_Init waits for all ranks without a deadline, so a thread beside it keeps one.
typedef struct Meeting {
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool met;
    double timeout; // seconds
} Meeting;

static void *watch_meeting(void *argument)
{
    Meeting *meeting = argument;
    double end = ls_clock_seconds() + meeting->timeout;
    struct timespec until = {.tv_sec = (time_t)end, .tv_nsec = (long)((end - floor(end)) * 1e9)};
    int late = 0;
    pthread_mutex_lock(&meeting->lock);
    while (!meeting->met && late == 0)
        late = pthread_cond_clockwait(&meeting->over, &meeting->lock, CLOCK_MONOTONIC, &until);
    if (!meeting->met) {
        // MPI cannot be asked to end the job; its launcher does when a rank ends like this.
        fprintf(stderr,
            "lockstep: the ranks did not meet within %g s; look for a rank that hangs (collectives.timeout "
            "sets the limit)\n",
            meeting->timeout);
        _exit(ls_status_exit_code(LS_HUNG));
    }
    pthread_mutex_unlock(&meeting->lock);
    return NULL;
}

static int init_within(double timeout, int *provided)
{
    Meeting meeting = {
        .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER, .timeout = timeout};
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's
    bool watched = pthread_create(&thread, NULL, watch_meeting, &meeting) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, provided);
    pthread_mutex_lock(&meeting.lock);
    meeting.met = true;
    pthread_cond_signal(&meeting.over);
    pthread_mutex_unlock(&meeting.lock);
    if (watched)
        pthread_join(thread, NULL);
    return code;
}

static LsStatus start_mpi(double timeout)
{
    int initialized, finalized;
    if (MPI_Initialized(&initialized) != MPI_SUCCESS || MPI_Finalized(&finalized) != MPI_SUCCESS ||
        initialized || finalized)
        return LS_FAIL(LS_INTERNAL, "MPI can be started once in a process");
    probe_single_copy();
    int provided;
    if (init_within(timeout, &provided) != MPI_SUCCESS)
        return LS_FAIL(LS_UNAVAILABLE, "MPI_Init_thread failed");
    if (provided < MPI_THREAD_FUNNELED)
        return LS_FAIL(LS_UNAVAILABLE, "this MPI supports no threads beside the one that calls it");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return LS_OK;
}

// Another MPI's mpirun starts processes that do not find each other: each would train alone.
static LsStatus check_launcher(int size)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *promised = getenv(variables[i]);
        if (promised && size == 1 && atol(promised) > 1)
            return LS_FAIL(LS_UNAVAILABLE,
                "%s promises %s ranks but MPI finds one; start with the mpirun of the MPI library that "
                "lockstep was built with",
                variables[i], promised);
    }
    return LS_OK;
}

LsStatus ls_mpi_duplicate(MpiComm *mpi, const char *what, MPI_Comm *out)
{
    MPI_Comm duplicate;
    MPI_Request request;
    ls_mpi_check(mpi, MPI_Comm_idup(MPI_COMM_WORLD, &duplicate, &request), "MPI_Comm_idup");
    LS_TRY(ls_mpi_wait_requests(mpi, &request, 1, what));
    ls_mpi_check(mpi, MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    *out = duplicate;
    return LS_OK;
}

// Where a rank runs: the kernel's boot and the host name. Two machines may carry one name, and the
// containers of one machine may not share memory.
typedef struct Place {
    char boot[LS_BOOT_ID], host[LS_HOST_NAME];
} Place;

static bool is_same(const Place *a, const Place *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

// Leaves comm->hosts empty where a host comes twice.
static LsStatus list_hosts(LsComm *comm, const Place *all)
{
    uint32_t ranks = (uint32_t)comm->size, *first, count = 0;
    LS_TRY(ls_memory_allocate((ranks + 1) * sizeof *first, (void **)&first));
    bool contiguous = true;
    for (uint32_t r = 0; r < ranks && contiguous; r++) {
        if (r > 0 && is_same(&all[r], &all[r - 1]))
            continue;
        for (uint32_t h = 0; h < count; h++)
            contiguous = contiguous && !is_same(&all[r], &all[first[h]]);
        first[count++] = r;
    }
    first[count] = ranks;
    comm->hosts = (LsHostMap){.count = contiguous ? count : 0, .first = first};
    return LS_OK;
}

static LsStatus find_neighbours(LsComm *comm)
{
    size_t ranks = (size_t)comm->size;
    Place mine = {0}, *all = NULL;
    size_t *sizes = NULL;
    FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (boot) {
        if (!fgets(mine.boot, sizeof mine.boot, boot))
            mine.boot[0] = '\0';
        fclose(boot);
    }
    if (gethostname(mine.host, sizeof mine.host - 1) != 0)
        strcpy(mine.host, "localhost");
    memcpy(comm->host, mine.host, sizeof comm->host);
    memcpy(comm->boot, mine.boot, sizeof comm->boot);

    LS_TRY(ls_memory_allocate(ranks * sizeof *all, (void **)&all));
    LsStatus status = ls_memory_allocate(ranks * sizeof *sizes, (void **)&sizes);
    for (size_t r = 0; status == LS_OK && r < ranks; r++)
        sizes[r] = sizeof mine;
    if (status == LS_OK)
        status = mpi_all_gather(comm, &mine, all, sizes);
    comm->local_size = comm->local_rank = 0;
    for (int r = 0; status == LS_OK && r < comm->size; r++) {
        bool here = is_same(&all[r], &mine);
        comm->local_size += here;
        comm->local_rank += here && r < comm->rank;
    }
    if (status == LS_OK)
        status = list_hosts(comm, all);
    free(sizes);
    free(all);
    return status;
}

static LsStatus connect_ranks(MpiComm *mpi)
{
    LS_TRY(ls_mpi_duplicate(mpi, "all ranks to start", &mpi->traffic));
    LS_TRY(ls_mpi_duplicate(mpi, "all ranks to start", &mpi->pulse));
    ls_mpi_listen(mpi);
    return find_neighbours(&mpi->base);
}

static const LsCommOps mpi_ops = {
    .name = "mpi",
    .close = mpi_close,
    .abort = mpi_abort,
    .barrier = mpi_barrier,
    .broadcast = mpi_broadcast,
    .all_gather = mpi_all_gather,
    .library = ls_mpi_library,
    .wait = ls_mpi_wait,
};

LsStatus ls_mpi_open(const LsCommOptions *options, LsComm **out)
{
    LS_TRY(start_mpi(options->timeout));
    MpiComm *mpi;
    LS_TRY(ls_memory_allocate(sizeof *mpi, (void **)&mpi));
    mpi->base = (LsComm){.ops = &mpi_ops, .timeout = options->timeout};
    mpi->traffic = MPI_COMM_WORLD; // for failures before there is a duplicate
    mpi->question = MPI_REQUEST_NULL;
    ls_mpi_check(mpi, MPI_Comm_rank(MPI_COMM_WORLD, &mpi->base.rank), "MPI_Comm_rank");
    ls_mpi_check(mpi, MPI_Comm_size(MPI_COMM_WORLD, &mpi->base.size), "MPI_Comm_size");
    size_t scratch = (size_t)mpi->base.size * sizeof(int);
    LsStatus status = check_launcher(mpi->base.size);
    if (status == LS_OK)
        status = ls_memory_allocate(scratch, (void **)&mpi->counts);
    if (status == LS_OK)
        status = ls_memory_allocate(scratch, (void **)&mpi->displacements);
    if (status != LS_OK) {
        free_memory(mpi);
        return status;
    }
    status = connect_ranks(mpi);
    if (status != LS_OK) // the others may have got through, so there is no orderly way back
        ls_comm_abort(&mpi->base, status, ls_status_message());
    mpi->crowded = (size_t)mpi->base.local_size > ls_cores_usable();
    *out = &mpi->base;
    return LS_OK;
}
