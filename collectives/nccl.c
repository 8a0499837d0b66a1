// The `nccl` transport: opening and closing, memory, and errors.
//
// The communicator is a non-blocking one, so that the host never waits inside NCCL: whatever takes long is
// polled by the communicator's own wait, which has a deadline, answers the other ranks' questions and names
// those that are silent. Work that is enqueued reports its errors later; `check` looks for them whenever the
// host waits for anything.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "nccl_backend.h"

// ---- Errors ---------------------------------------------------------------------------------------------

// One line is enough, and the best one comes from the rank where the trouble began: who only noticed that a
// peer is gone speaks last, and among equals the lowest rank first.
enum { TURN_MILLISECONDS = 200, LAST_TURN = 10, REMOTE_MILLISECONDS = 1500 };

static void wait_for_turn(const LsComm *comm, ncclResult_t result)
{
    long turn = comm->rank < LAST_TURN ? comm->rank : LAST_TURN;
    long milliseconds = TURN_MILLISECONDS * turn + (result == ncclRemoteError ? REMOTE_MILLISECONDS : 0);
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static void nccl_abort(LsTransport *transport)
{
    NcclTransport *t = nccl_transport(transport);
    ncclComm_t nccl = t->nccl;
    t->nccl = NULL;
    if (nccl)
        ls_nccl.CommAbort(nccl); // it fails only for what is broken already
}

void ls_nccl_check(NcclTransport *t, ncclResult_t result, const char *call)
{
    if (result == ncclSuccess || result == ncclInProgress)
        return;
    LsComm *comm = t->base.comm;
    char detail[512] = "", line[1024];
    const char *last = ls_nccl.GetLastError(t->nccl);
    if (last && *last) {
        snprintf(detail, sizeof detail, ": %s", last);
        detail[strcspn(detail, "\n")] = '\0';
    }
    snprintf(line, sizeof line, "rank %d on %s: %s failed: %s%s (NCCL_DEBUG=WARN says more)", comm->rank,
        comm->host, call, ls_nccl.GetErrorString(result), detail);
    wait_for_turn(comm, result);
    ls_comm_abort(comm, LS_INTERNAL, line); // aborts this transport before it ends the job
}

static ncclResult_t find_state(NcclTransport *t, const char *call)
{
    ncclResult_t state;
    ls_nccl_check(t, ls_nccl.CommGetAsyncError(t->nccl, &state), "ncclCommGetAsyncError");
    ls_nccl_check(t, state, call);
    return state;
}

static LsStatus poll_state(void *context, size_t *outstanding)
{
    NcclTransport *t = context;
    *outstanding = find_state(t, t->call) == ncclInProgress;
    return LS_OK;
}

LsStatus ls_nccl_settle(NcclTransport *t, ncclResult_t result, const char *call, const char *what)
{
    ls_nccl_check(t, result, call);
    t->call = call;
    LsComm *comm = t->base.comm;
    return comm->ops->wait(comm, &(LsWait){.what = what, .poll = poll_state, .context = t});
}

static LsStatus nccl_check(LsTransport *transport)
{
    NcclTransport *t = nccl_transport(transport);
    if (t->nccl)
        find_state(t, "work on the GPU");
    return LS_OK;
}

// ---- Memory ---------------------------------------------------------------------------------------------

// NCCL sends to and receives from registered memory directly, without copies through its own buffers.
struct NcclMemory {
    void *address, *handle; // handle: NULL if NCCL has no use for the registration
    NcclMemory *next;
};

static LsStatus nccl_allocate(LsTransport *transport, size_t bytes, void **out)
{
    NcclTransport *t = nccl_transport(transport);
    LsDevice *device = transport->device;
    NcclMemory *memory;
    LS_TRY(ls_memory_allocate(sizeof *memory, (void **)&memory));
    LsStatus status = device->ops->allocate(device, bytes, &memory->address);
    if (status != LS_OK) {
        free(memory);
        return status;
    }
    // Registration makes transfers faster and nothing else; without it they work as well.
    if (!t->nccl || bytes == 0 ||
        ls_nccl.CommRegister(t->nccl, memory->address, bytes, &memory->handle) != ncclSuccess)
        memory->handle = NULL;
    memory->next = t->memory;
    t->memory = memory;
    *out = memory->address;
    return LS_OK;
}

static void nccl_release(LsTransport *transport, void *address)
{
    NcclTransport *t = nccl_transport(transport);
    NcclMemory **link = &t->memory;
    while (*link && (*link)->address != address)
        link = &(*link)->next;
    NcclMemory *memory = *link;
    if (memory) {
        *link = memory->next;
        if (t->nccl && memory->handle)
            ls_nccl.CommDeregister(t->nccl, memory->handle);
        free(memory);
    }
    transport->device->ops->release(transport->device, address);
}

// ---- Opening and closing --------------------------------------------------------------------------------

// NCCL waits in Finalize until the work of all is done, so a peer that is gone shows at the deadline.
static void nccl_close(LsTransport *transport)
{
    NcclTransport *t = nccl_transport(transport);
    if (t->nccl &&
        ls_nccl_settle(t, ls_nccl.CommFinalize(t->nccl), "ncclCommFinalize", "NCCL to close") == LS_OK)
        ls_nccl.CommDestroy(t->nccl); // local, and nothing could be done about a failure
    while (t->memory) {               // not released yet, which no longer concerns NCCL
        NcclMemory *memory = t->memory;
        t->memory = memory->next;
        free(memory);
    }
    for (size_t i = 0; i < t->markers; i++)
        transport->device->ops->marker_destroy(transport->device, t->gathered[i]);
    free(t->gathered);
    free(t);
}

static const LsTransportOps nccl_ops = {
    .name = "nccl",
    .close = nccl_close,
    .allocate = nccl_allocate,
    .release = nccl_release,
    .gather = ls_nccl_gather,
    .gather_shards = ls_nccl_gather_shards,
    .gather_begin = ls_nccl_gather_begin,
    .gather_wait = ls_nccl_gather_wait,
    .library = ls_nccl_library,
    .exchange_create = ls_nccl_exchange_create,
    .exchange_destroy = ls_nccl_exchange_destroy,
    .exchange_add = ls_nccl_exchange_add,
    .exchange_set_reduce_scatter = ls_nccl_exchange_set_reduce_scatter,
    .exchange_start = ls_nccl_exchange_start,
    .exchange_test = ls_nccl_exchange_test,
    .exchange_mark_pending = ls_nccl_exchange_mark_pending,
    .check = nccl_check,
    .abort = nccl_abort,
};

// What can fail before the ranks meet; *id is set on rank 0.
static LsStatus prepare(LsComm *comm, LsDevice *device, ncclUniqueId *id, NcclTransport **out)
{
    if (comm->rank == 0) {
        ncclResult_t result = ls_nccl.GetUniqueId(id);
        if (result != ncclSuccess)
            return LS_FAIL(LS_UNAVAILABLE,
                "NCCL finds no way to reach other ranks: %s: %s; NCCL_SOCKET_IFNAME names a network "
                "interface",
                ls_nccl.GetErrorString(result), ls_nccl.GetLastError(NULL));
    }
    NcclTransport *t;
    LS_TRY(ls_memory_allocate(sizeof *t, (void **)&t));
    t->base = (LsTransport){.ops = &nccl_ops, .comm = comm, .device = device};
    t->stream = device->ops->native_stream(device, LS_STREAM_COMMUNICATION);
    *out = t;
    return LS_OK;
}

LsStatus ls_nccl_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    NcclTransport *t = NULL;
    ncclUniqueId id = {0};
    LsStatus status = ls_comm_agree(comm, prepare(comm, device, &id, &t));
    if (status == LS_OK)
        status = ls_comm_broadcast(comm, &id, sizeof id, 0);
    if (status != LS_OK) {
        free(t);
        return status;
    }
    // From here on a failure ends the job, which aborts the transport that the communicator has.
    comm->transport = &t->base;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    LS_TRY(ls_nccl_settle(t, ls_nccl.CommInitRankConfig(&t->nccl, comm->size, id, comm->rank, &config),
        "ncclCommInitRankConfig", "NCCL to connect all ranks"));
    *out = &t->base;
    return LS_OK;
}

const char *ls_comm_nccl_version(void)
{
    static char text[32];
    int version;
    if (ls_nccl_require() != LS_OK)
        return "not found";
    if (ls_nccl.GetVersion(&version) != ncclSuccess)
        return "unknown";
    snprintf(text, sizeof text, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return text;
}
