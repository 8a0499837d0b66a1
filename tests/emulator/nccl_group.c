// Calls that enqueue, in groups. A call by itself is a group of one.
#include <stdlib.h>

#include "emulator.h"
#include "nccl_state.h"

static _Thread_local int depth;
static _Thread_local Group *open_group; // NULL: no operation so far
static _Thread_local ncclResult_t group_error;

static size_t element_bytes(ncclDataType_t type)
{
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 0;
    }
}

static ncclResult_t check_comm(const char *call, ncclComm_t comm, cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture;
    if (!comm)
        return ls_nccl_fail(ncclInvalidArgument, "%s: the communicator is NULL", call);
    if (comm->state == ncclInProgress || comm->stage != STAGE_READY)
        return ls_nccl_fail(ncclInvalidArgument,
            "%s: the communicator is used before the previous call on it returned ncclSuccess", call);
    if (comm->state != ncclSuccess)
        return comm->state;
    if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess)
        return ls_nccl_fail(ncclUnhandledCudaError, "%s: that is no stream", call);
    if (capture != cudaStreamCaptureStatusNone)
        return ls_nccl_fail(ncclInvalidUsage, "%s: the stand-in for NCCL cannot be recorded", call);
    if (open_group && (open_group->comm != comm || open_group->stream != stream))
        return ls_nccl_fail(
            ncclInvalidUsage, "%s: the stand-in for NCCL wants one communicator and stream a group", call);
    return ncclSuccess;
}

size_t ls_nccl_reads(ncclComm_t comm, const Operation *o)
{
    switch (o->kind) {
    case OPERATION_RECEIVE:
        return 0;
    case OPERATION_BROADCAST:
        return comm->rank == o->root ? o->bytes : 0;
    case OPERATION_REDUCE_SCATTER:
        return o->bytes * (size_t)comm->ranks;
    default:
        return o->bytes;
    }
}

size_t ls_nccl_writes(ncclComm_t comm, const Operation *o)
{
    switch (o->kind) {
    case OPERATION_SEND:
        return 0;
    case OPERATION_REDUCE:
        return comm->rank == o->root ? o->bytes : 0;
    case OPERATION_ALL_GATHER:
        return o->bytes * (size_t)comm->ranks;
    default:
        return o->bytes;
    }
}

static ncclResult_t check_memory(const char *call, ncclComm_t comm, const Operation *o)
{
    size_t reads = ls_nccl_reads(comm, o), writes = ls_nccl_writes(comm, o);
    if (o->root < 0 || o->root >= comm->ranks)
        return ls_nccl_fail(ncclInvalidArgument, "%s: there is no rank %d", call, o->root);
    if (reads > 0 && !ls_emulator_owns(o->from, reads))
        return ls_nccl_fail(ncclInvalidArgument, "%s: %p is not %zu bytes of device memory", call,
            (const void *)o->from, reads);
    if (writes > 0 && !ls_emulator_owns(o->to, writes))
        return ls_nccl_fail(ncclInvalidArgument, "%s: %p is not %zu bytes of device memory", call,
            (const void *)o->to, writes);
    return ncclSuccess;
}

static void append(ncclComm_t comm, cudaStream_t stream, const Operation *o)
{
    if (!open_group) {
        open_group = calloc(1, sizeof *open_group);
        if (!open_group)
            ls_emulator_fault("no memory for a group");
        open_group->comm = comm;
        open_group->stream = stream;
        comm->references++;
    }
    size_t bytes = (open_group->operations + 1) * sizeof *o;
    open_group->operation = realloc(open_group->operation, bytes);
    if (!open_group->operation)
        ls_emulator_fault("no memory for a group");
    open_group->operation[open_group->operations] = *o;
    if (o->kind > OPERATION_RECEIVE)
        open_group->operation[open_group->operations].number = ++comm->collectives;
    open_group->operations++;
}

static ncclResult_t add(
    const char *call, ncclComm_t comm, cudaStream_t stream, ncclDataType_t type, Operation o)
{
    size_t element = element_bytes(type);
    ncclGroupStart();
    ncclResult_t result = check_comm(call, comm, stream);
    if (result == ncclSuccess && (element == 0 || o.bytes > SIZE_MAX / element / (size_t)comm->ranks))
        result = ls_nccl_fail(ncclInvalidArgument, "%s: invalid type or count", call);
    o.bytes *= element;
    if (result == ncclSuccess)
        result = check_memory(call, comm, &o);
    if (result == ncclSuccess && o.bytes > 0)
        append(comm, stream, &o);
    if (result != ncclSuccess)
        group_error = result;
    ncclResult_t ended = ncclGroupEnd();
    return result != ncclSuccess ? result : ended;
}

// ---- Groups ---------------------------------------------------------------------------------------------

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (depth == 0)
        return ls_nccl_fail(ncclInvalidUsage, "ncclGroupEnd: not in a group");
    if (--depth > 0)
        return ncclSuccess;
    Group *group = open_group;
    ncclResult_t error = group_error;
    open_group = NULL;
    group_error = ncclSuccess;
    if (!group)
        return error;
    if (error != ncclSuccess) {
        group->comm->state = error;
        ls_nccl_free_group(group);
        return error;
    }
    group->comm->starting = group;
    group->comm->polls = 0;
    group->comm->state = ncclInProgress;
    return ncclInProgress;
}

// ---- Operations -----------------------------------------------------------------------------------------

ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
    cudaStream_t stream)
{
    return add("ncclSend", comm, stream, datatype,
        (Operation){.kind = OPERATION_SEND, .from = sendbuff, .bytes = count, .root = peer});
}

ncclResult_t ncclRecv(
    void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return add("ncclRecv", comm, stream, datatype,
        (Operation){.kind = OPERATION_RECEIVE, .to = recvbuff, .bytes = count, .root = peer});
}

ncclResult_t ncclAllGather(const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
    ncclComm_t comm, cudaStream_t stream)
{
    return add("ncclAllGather", comm, stream, datatype,
        (Operation){.kind = OPERATION_ALL_GATHER, .from = sendbuff, .to = recvbuff, .bytes = sendcount});
}

ncclResult_t ncclBroadcast(const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
    int root, ncclComm_t comm, cudaStream_t stream)
{
    return add("ncclBroadcast", comm, stream, datatype,
        (Operation){
            .kind = OPERATION_BROADCAST, .from = sendbuff, .to = recvbuff, .bytes = count, .root = root});
}

static ncclResult_t check_sum(const char *call, ncclDataType_t type, ncclRedOp_t op)
{
    return type == ncclFloat32 && op == ncclSum
               ? ncclSuccess
               : ls_nccl_fail(ncclInvalidArgument, "%s: the stand-in for NCCL adds ncclFloat32 only", call);
}

ncclResult_t ncclReduce(const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
    ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream)
{
    ncclResult_t result = check_sum("ncclReduce", datatype, op);
    if (result != ncclSuccess)
        return result;
    return add("ncclReduce", comm, stream, datatype,
        (Operation){
            .kind = OPERATION_REDUCE, .from = sendbuff, .to = recvbuff, .bytes = count, .root = root});
}

ncclResult_t ncclReduceScatter(const void *sendbuff, void *recvbuff, size_t recvcount,
    ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    ncclResult_t result = check_sum("ncclReduceScatter", datatype, op);
    if (result != ncclSuccess)
        return result;
    return add("ncclReduceScatter", comm, stream, datatype,
        (Operation){.kind = OPERATION_REDUCE_SCATTER, .from = sendbuff, .to = recvbuff, .bytes = recvcount});
}

ncclResult_t ncclAllReduce(const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
    ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    ncclResult_t result = check_sum("ncclAllReduce", datatype, op);
    if (result != ncclSuccess)
        return result;
    return add("ncclAllReduce", comm, stream, datatype,
        (Operation){.kind = OPERATION_ALL_REDUCE, .from = sendbuff, .to = recvbuff, .bytes = count});
}
