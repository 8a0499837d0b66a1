#include "collectives/comm.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "base/cores.h"
#include "base/memory.h"

bool ls_comm_launched(void)
{
    // Open MPI's mpirun, any PMIx server (`srun --mpi=pmix` among them), and MPICH's hydra or PMI-2. Slurm's
    // own variables are no sign: a batch script has them too, and so has a task that srun started without
    // any way for ranks to find each other.
    static const char *const signs[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (getenv(signs[i]))
            return true;
    return false;
}

// Several tasks that srun started without PMIx would each believe to be alone and train into the same
// directory.
static LsStatus refuse_unconnected_tasks(void)
{
    const char *task = getenv("SLURM_PROCID"), *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (task && tasks && atol(tasks) > 1)
        return LS_FAIL(LS_CONFIG,
            "srun started %s tasks that cannot find each other; start them with `srun --mpi=pmix`", tasks);
    return LS_OK;
}

static LsStatus check_options(const LsCommOptions *options)
{
    if (!(options->timeout > 0))
        return LS_FAIL(LS_CONFIG, "collectives.timeout is %g; it must be above 0 seconds", options->timeout);
    return LS_OK;
}

LsStatus ls_comm_open(const LsCommOptions *options, LsComm **out)
{
    LS_TRY(check_options(options));
    bool launched = ls_comm_launched();
    if (!launched)
        LS_TRY(refuse_unconnected_tasks());
    LsComm *comm;
    LS_TRY(launched || options->kind == LS_COMM_MPI ? ls_mpi_open(options, &comm)
                                                    : ls_self_open(options, &comm));
    if (comm->host[0] == '\0' && gethostname(comm->host, sizeof comm->host - 1) != 0)
        strcpy(comm->host, "localhost");
    *out = comm;
    return LS_OK;
}

void ls_comm_close(LsComm *comm)
{
    if (!comm)
        return;
    ls_comm_detach(comm);
    comm->ops->close(comm);
}

int ls_comm_rank(const LsComm *comm)
{
    return comm->rank;
}

int ls_comm_size(const LsComm *comm)
{
    return comm->size;
}

const char *ls_comm_name(const LsComm *comm)
{
    return comm->transport ? comm->transport->ops->name : comm->ops->name;
}

const char *ls_comm_host(const LsComm *comm)
{
    return comm->host;
}

int ls_comm_local_rank(const LsComm *comm)
{
    return comm->local_rank;
}

int ls_comm_local_size(const LsComm *comm)
{
    return comm->local_size;
}

const LsHostMap *ls_comm_hosts(const LsComm *comm)
{
    return comm->hosts.count > 0 ? &comm->hosts : NULL;
}

// A transport's abort waits for its GPU and for other ranks, which may be what has failed: the process does
// not wait for it longer than this.
enum { ABORT_SECONDS = 1 };

static void *leave_in_time(void *exit_code)
{
    sleep(ABORT_SECONDS);
    _exit((int)(intptr_t)exit_code);
}

static void abort_transport(LsComm *comm, int exit_code)
{
    LsTransport *transport = comm->transport;
    comm->transport = NULL; // should its abort fail and come here again
    if (!transport || !transport->ops->abort)
        return;
    pthread_t watchdog;
    if (pthread_create(&watchdog, NULL, leave_in_time, (void *)(intptr_t)exit_code) == 0)
        pthread_detach(watchdog);
    transport->ops->abort(transport);
}

_Noreturn void ls_comm_abort(LsComm *comm, LsStatus status, const char *message)
{
    // One write, so that the lines of several ranks do not mix.
    char line[4096];
    int length = snprintf(line, sizeof line - 1, "lockstep: %s", message);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length] = '\n';
    fflush(stdout);
    fflush(stderr);
    ssize_t written = write(STDERR_FILENO, line, (size_t)length + 1);
    (void)written; // there is nowhere left to report a failure

    int exit_code = ls_status_exit_code(status == LS_OK ? LS_INTERNAL : status);
    abort_transport(comm, exit_code);
    comm->ops->abort(comm, exit_code);
    _exit(exit_code);
}

LsStatus ls_comm_barrier(LsComm *comm)
{
    return comm->ops->barrier(comm);
}

LsStatus ls_comm_broadcast(LsComm *comm, void *data, size_t bytes, int root)
{
    return comm->ops->broadcast(comm, data, bytes, root);
}

LsStatus ls_comm_all_gather(LsComm *comm, const void *mine, void *all, const size_t *sizes)
{
    return comm->ops->all_gather(comm, mine, all, sizes);
}

bool ls_comm_core_is_free(const LsComm *comm, int threads)
{
    return ls_cores_usable() >= (size_t)comm->local_size * ((size_t)threads + 1);
}

// ---- Agreement ------------------------------------------------------------------------------------------

enum { SENTENCE = 2048 };

// Collects every rank's status; `statuses` and `sizes` have one place a rank.
static LsStatus gather_statuses(LsComm *comm, LsStatus mine, int32_t *statuses, size_t *sizes)
{
    int32_t number = (int32_t)mine;
    for (int r = 0; r < comm->size; r++)
        sizes[r] = sizeof number;
    return ls_comm_all_gather(comm, &number, statuses, sizes);
}

// The failing rank's sentence becomes everybody's.
static LsStatus adopt_failure(LsComm *comm, LsStatus status, int rank, bool all_failed)
{
    char sentence[SENTENCE] = "", prefixed[SENTENCE + 32];
    if (comm->rank == rank)
        snprintf(sentence, sizeof sentence, "%s", ls_status_message());
    LS_TRY(ls_comm_broadcast(comm, sentence, sizeof sentence, rank));
    if (all_failed)
        return ls_status_adopt(status, sentence);
    snprintf(prefixed, sizeof prefixed, "rank %d: %s", rank, sentence);
    return ls_status_adopt(status, prefixed);
}

LsStatus ls_comm_agree(LsComm *comm, LsStatus mine)
{
    if (comm->size == 1)
        return mine;
    size_t ranks = (size_t)comm->size;
    size_t *sizes;
    LS_TRY(ls_memory_allocate(ranks * (sizeof *sizes + sizeof(int32_t)), (void **)&sizes));
    int32_t *statuses = (int32_t *)(sizes + ranks);
    LsStatus status = gather_statuses(comm, mine, statuses, sizes);
    int lowest = -1, failures = 0;
    for (int r = comm->size - 1; status == LS_OK && r >= 0; r--)
        if (statuses[r] != LS_OK) {
            lowest = r;
            failures++;
        }
    LsStatus agreed = lowest < 0 ? LS_OK : (LsStatus)statuses[lowest];
    free(sizes);
    LS_TRY(status);
    return lowest < 0 ? LS_OK : adopt_failure(comm, agreed, lowest, failures == comm->size);
}
