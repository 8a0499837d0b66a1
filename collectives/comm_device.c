// Device memory: which transport carries it, and the order between the compute and the communication stream.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "base/log.h"
#include "base/memory.h"

// ---- Choosing a transport -------------------------------------------------------------------------------

// What a rank tells the others about its processor.
typedef struct Processor {
    char boot[LS_BOOT_ID], host[LS_HOST_NAME];
    char gpu[128]; // "": not a GPU
    bool nccl;     // its build and its device are fit for NCCL
} Processor;

static bool is_gpu(LsDevice *device)
{
    return device->ops->native_stream && device->ops->native_stream(device, LS_STREAM_COMMUNICATION);
}

// Why this rank cannot use NCCL, if so.
static LsStatus check_nccl(LsDevice *device)
{
    if (!is_gpu(device))
        return LS_FAIL(LS_UNAVAILABLE,
            "NCCL needs a GPU and the device is `%s`; set collectives.backend to auto or mpi",
            device->ops->name);
    return ls_nccl_require();
}

// Whether this rank may choose NCCL by itself. GPUs without it work, but slowly, which is said.
static bool has_nccl(LsDevice *device)
{
    if (!is_gpu(device))
        return false;
    LsStatus status = ls_nccl_require();
    if (status != LS_OK)
        ls_warn("gradients travel through MPI, since there is no NCCL: %s", ls_status_message());
    return status == LS_OK;
}

// Fills all[r] for every rank r. sizes: [ranks] scratch.
static LsStatus exchange_processors(LsComm *comm, LsDevice *device, Processor *all, size_t *sizes)
{
    Processor mine;
    memset(&mine, 0, sizeof mine);
    memcpy(mine.boot, comm->boot, sizeof mine.boot);
    memcpy(mine.host, comm->host, sizeof mine.host);
    ls_device_identity(device, mine.gpu, sizeof mine.gpu);
    mine.nccl = has_nccl(device);
    for (int r = 0; r < comm->size; r++)
        sizes[r] = sizeof mine;
    return ls_comm_all_gather(comm, &mine, all, sizes);
}

// Finds the first two ranks that have one GPU. The kernel's boot says whether it is one machine: containers
// on it have host names of their own and may be lent the same GPU.
static bool find_shared(const Processor *all, int ranks, int *first, int *second)
{
    for (int b = 1; b < ranks; b++)
        for (int a = 0; a < b; a++)
            if (all[a].gpu[0] != '\0' && strcmp(all[a].gpu, all[b].gpu) == 0 &&
                strcmp(all[a].boot, all[b].boot) == 0) {
                *first = a;
                *second = b;
                return true;
            }
    return false;
}

// Every rank decides from the same facts, so all decide alike.
static LsStatus judge(const Processor *all, int ranks, int kind, bool *nccl)
{
    bool fit = true;
    for (int r = 0; r < ranks; r++)
        fit = fit && all[r].nccl;
    int first, second;
    bool shared = find_shared(all, ranks, &first, &second);
    if (kind == LS_COMM_NCCL && shared)
        return LS_FAIL(LS_CONFIG,
            "ranks %d and %d on %s share %s, and NCCL wants a GPU for each rank; start one rank per GPU, or "
            "set collectives.backend to mpi",
            first, second, all[first].host, all[first].gpu);
    *nccl = fit && !shared;
    return LS_OK;
}

static LsStatus choose(LsComm *comm, LsDevice *device, int kind, bool *nccl)
{
    *nccl = false;
    if (kind == LS_COMM_MPI || kind == LS_COMM_SHARED)
        return LS_OK;
    size_t ranks = (size_t)comm->size;
    Processor *all = NULL;
    size_t *sizes = NULL;
    LsStatus status = kind == LS_COMM_NCCL ? check_nccl(device) : LS_OK;
    if (status == LS_OK)
        status = ls_memory_allocate(ranks * sizeof *all, (void **)&all);
    if (status == LS_OK)
        status = ls_memory_allocate(ranks * sizeof *sizes, (void **)&sizes);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK)
        status = exchange_processors(comm, device, all, sizes);
    if (status == LS_OK)
        status = judge(all, comm->size, kind, nccl);
    free(sizes);
    free(all);
    return status;
}

// LS_UNAVAILABLE, on all ranks, where none can share memory.
static LsStatus open_shared(LsComm *comm, LsTransport **out)
{
    LsStatus status = LS_OK;
    if (comm->hosts.count == 0)
        status =
            LS_FAIL(LS_UNAVAILABLE, "the ranks of a host do not follow one another; start them host by host");
    else if (comm->hosts.count == (uint32_t)comm->size)
        status = LS_FAIL(LS_UNAVAILABLE, "every rank is on a host of its own: none shares memory");
    else if (!comm->device->plain)
        status = LS_FAIL(
            LS_UNAVAILABLE, "the memory of the device `%s` cannot be shared", comm->device->ops->name);
    LS_TRY(ls_comm_agree(comm, status));
    return ls_shared_transport_open(comm, comm->device, out);
}

static LsStatus open_host(LsComm *comm, int kind, LsTransport **out)
{
    if (kind == LS_COMM_SHARED)
        return open_shared(comm, out);
    if (comm->device->discrete)
        return ls_staged_transport_open(comm, comm->device, out);
    if (kind == LS_COMM_AUTO) {
        LsStatus status = open_shared(comm, out);
        if (status != LS_UNAVAILABLE)
            return status;
        ls_debug("gradients travel through MPI: %s", ls_status_message());
    }
    return ls_host_transport_open(comm, comm->device, out);
}

static LsStatus open_transport(LsComm *comm, int kind)
{
    bool nccl;
    LsTransport *transport = NULL;
    LS_TRY(choose(comm, comm->device, kind, &nccl));
    LsStatus status =
        nccl ? ls_nccl_transport_open(comm, comm->device, &transport) : open_host(comm, kind, &transport);
    if (status == LS_OK) {
        comm->transport = transport;
        comm->hosts.in_place = transport->ops->sharing != NULL;
    }
    return ls_comm_agree(comm, status);
}

LsStatus ls_comm_attach(LsComm *comm, LsDevice *device, int kind)
{
    if (comm->device)
        return LS_FAIL(LS_INTERNAL, "the communicator has a device already");
    comm->device = device;
    LsStatus status = device->ops->marker_create(device, &comm->before);
    if (status == LS_OK)
        status = device->ops->marker_create(device, &comm->after);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK && comm->size > 1)
        status = open_transport(comm, kind);
    if (status != LS_OK)
        ls_comm_detach(comm);
    return status;
}

void ls_comm_detach(LsComm *comm)
{
    LsDevice *device = comm->device;
    if (!device)
        return;
    if (comm->transport)
        comm->transport->ops->close(comm->transport);
    device->ops->marker_destroy(device, comm->after);
    device->ops->marker_destroy(device, comm->before);
    comm->transport = NULL;
    comm->before = comm->after = NULL;
    comm->device = NULL;
}

static LsStatus check_attached(const LsComm *comm)
{
    return comm->device ? LS_OK : LS_FAIL(LS_INTERNAL, "the communicator has no device attached");
}

// ---- Memory ---------------------------------------------------------------------------------------------

static void release(LsComm *comm, void *memory)
{
    if (comm->transport && comm->transport->ops->release)
        comm->transport->ops->release(comm->transport, memory);
    else
        comm->device->ops->release(comm->device, memory);
}

LsStatus ls_comm_allocate(LsComm *comm, size_t bytes, void **out)
{
    LS_TRY(check_attached(comm));
    LsDevice *device = comm->device;
    if (!comm->transport || !comm->transport->ops->allocate)
        return ls_device_allocate_zeroed(device, bytes, out);
    void *memory;
    LS_TRY(comm->transport->ops->allocate(comm->transport, bytes, &memory));
    // Writing it once now keeps page faults out of the first step's communication.
    LsStatus status = device->ops->zero(device, memory, bytes);
    if (status == LS_OK)
        status = device->ops->synchronize(device);
    if (status != LS_OK) {
        release(comm, memory);
        return status;
    }
    *out = memory;
    return LS_OK;
}

LsStatus ls_comm_allocate_common(LsComm *comm, size_t bytes, void **out)
{
    LS_TRY(check_attached(comm));
    const LsSharingOps *sharing = comm->transport ? comm->transport->ops->sharing : NULL;
    return sharing ? sharing->allocate_common(comm->transport, bytes, out)
                   : ls_comm_agree(comm, ls_comm_allocate(comm, bytes, out));
}

void ls_comm_release(LsComm *comm, void *memory)
{
    if (memory)
        release(comm, memory);
}

// ---- Gathers --------------------------------------------------------------------------------------------

// Between these two the communication stream is selected, behind all that the compute stream holds.
static LsStatus enter_communication(LsComm *comm)
{
    const LsDeviceOps *ops = comm->device->ops;
    LS_TRY(ops->marker_record(comm->device, comm->before));
    ops->select_stream(comm->device, LS_STREAM_COMMUNICATION);
    return ops->marker_wait(comm->device, comm->before);
}

// Back to the compute stream, with a marker behind what was done.
static LsStatus return_to_compute(LsComm *comm, LsStatus status)
{
    const LsDeviceOps *ops = comm->device->ops;
    if (status == LS_OK)
        status = ops->marker_record(comm->device, comm->after);
    ops->select_stream(comm->device, LS_STREAM_COMPUTE);
    return status;
}

// What the compute stream is given from here on waits for what was done in between.
static LsStatus leave_communication(LsComm *comm, LsStatus status)
{
    LS_TRY(return_to_compute(comm, status));
    return comm->device->ops->marker_wait(comm->device, comm->after);
}

LsStatus ls_comm_gather_device(LsComm *comm, const void *mine, void *all, size_t bytes)
{
    LS_TRY(check_attached(comm));
    if (comm->size == 1)
        return mine == all ? LS_OK : comm->device->ops->copy(comm->device, all, mine, bytes);
    LsStatus status = enter_communication(comm);
    if (status == LS_OK)
        status = comm->transport->ops->gather(comm->transport, mine, all, bytes);
    return leave_communication(comm, status);
}

LsStatus ls_comm_gather_shards(LsComm *comm, const LsBuckets *buckets, void *flat, size_t element)
{
    LS_TRY(check_attached(comm));
    if (comm->size == 1)
        return LS_OK;
    LsStatus status = enter_communication(comm);
    if (status == LS_OK)
        status = comm->transport->ops->gather_shards(comm->transport, buckets, flat, element);
    return leave_communication(comm, status);
}

// ---- A gather that goes on ------------------------------------------------------------------------------

bool ls_comm_gathers(const LsComm *comm)
{
    return comm->gathering != NULL;
}

LsStatus ls_comm_gather_begin(LsComm *comm, const LsBuckets *buckets, void *flat, size_t element)
{
    LS_TRY(check_attached(comm));
    if (comm->gathering)
        return LS_FAIL(LS_INTERNAL, "a gather has not ended");
    if (comm->size == 1)
        return LS_OK;
    if (!comm->transport->ops->gather_begin)
        return ls_comm_gather_shards(comm, buckets, flat, element);
    LsStatus status = enter_communication(comm);
    if (status == LS_OK)
        status = comm->transport->ops->gather_begin(comm->transport, buckets, flat, element);
    LS_TRY(return_to_compute(comm, status));
    comm->gathering = buckets;
    comm->missing = buckets->count;
    return LS_OK;
}

LsStatus ls_comm_gather_upto(LsComm *comm, size_t elements)
{
    const LsBuckets *buckets = comm->gathering;
    // The last bucket is the start of the buffer.
    while (comm->gathering && buckets->bucket[comm->missing - 1].first_block * LS_BLOCK < elements) {
        LS_TRY(comm->transport->ops->gather_wait(comm->transport, comm->missing - 1));
        if (--comm->missing == 0)
            comm->gathering = NULL;
    }
    return LS_OK;
}

LsStatus ls_comm_gather_end(LsComm *comm)
{
    return ls_comm_gather_upto(comm, SIZE_MAX);
}

// ---- The library's own collectives ----------------------------------------------------------------------

static LsStatus call_library(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    LsTransport *transport = comm->transport;
    if (transport->ops->library)
        return transport->ops->library(transport, call, from, to, elements);
    return comm->ops->library(comm, call, from, to, elements);
}

LsStatus ls_comm_library(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    LS_TRY(check_attached(comm));
    if (call == LS_LIBRARY_REDUCE_SCATTER && elements % (size_t)comm->size != 0)
        return LS_FAIL(
            LS_CONFIG, "%zu elements cannot be scattered evenly over %d ranks", elements, comm->size);
    if (comm->size == 1)
        return from == to ? LS_OK : comm->device->ops->copy(comm->device, to, from, elements * sizeof *to);
    LsStatus status = enter_communication(comm);
    if (status == LS_OK)
        status = call_library(comm, call, from, to, elements);
    return leave_communication(comm, status);
}

// ---- Waiting --------------------------------------------------------------------------------------------

typedef struct MarkerWait {
    LsComm *comm;
    LsMarker *marker;
} MarkerWait;

static LsStatus poll_marker(void *context, size_t *outstanding)
{
    const MarkerWait *wait = context;
    LsComm *comm = wait->comm;
    bool reached;
    LS_TRY(comm->device->ops->marker_reached(comm->device, wait->marker, &reached));
    *outstanding = reached ? 0 : 1;
    return LS_OK;
}

LsStatus ls_comm_wait_marker(LsComm *comm, LsMarker *marker, const char *what)
{
    LS_TRY(check_attached(comm));
    if (comm->size == 1) // nothing that this process could learn of would end the wait
        return comm->device->ops->marker_synchronize(comm->device, marker);
    MarkerWait wait = {comm, marker};
    return comm->ops->wait(comm, &(LsWait){.what = what, .poll = poll_marker, .context = &wait});
}

LsStatus ls_comm_drain(LsComm *comm)
{
    LS_TRY(check_attached(comm));
    LS_TRY(ls_comm_gather_end(comm));
    return comm->size == 1 ? LS_OK : ls_comm_wait_marker(comm, comm->after, "an exchange with all ranks");
}
