// What the `nccl` transport moves: exchanges between ranks, and parameters from their owners to all.
//
// Everything is enqueued on the communication stream, so what follows there finds it done, and the host need
// not wait for it: a test reports nothing outstanding. NCCL has no tags. It matches the sends and receives
// between two ranks in the order in which each rank enqueued them. That is the order of the plan, because a
// group is one exchange, whose transfers are added in the plan's order on both sides, and because all ranks
// start their exchanges in one order: bucket after bucket, and each bucket phase after phase, since nothing
// is ever outstanding between two phases. Collective calls, too, come in one order on all ranks.
#include <stdlib.h>

#include "base/memory.h"
#include "device/tensor.h"
#include "nccl_backend.h"

typedef struct Transfer {
    LsTransferKind kind;
    void *data;
    size_t bytes;
    int peer;
} Transfer;

struct LsExchange {
    NcclTransport *transport;
    size_t capacity, count;
    Transfer *transfer; // [capacity]
    // One reduce-scatter instead of transfers, when `blocks` is set.
    const float *from;
    float *piece;
    size_t *blocks; // [size] of each rank's piece
    bool even;      // they are all equal
};

LsStatus ls_nccl_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out)
{
    size_t bytes;
    if (!ls_size_multiply(transfers, sizeof(Transfer), &bytes))
        return LS_FAIL(LS_INTERNAL, "an exchange of %zu transfers", transfers);
    LsExchange *exchange;
    LS_TRY(ls_memory_allocate(sizeof *exchange, (void **)&exchange));
    LsStatus status = ls_memory_allocate(bytes, (void **)&exchange->transfer);
    if (status != LS_OK) {
        free(exchange);
        return status;
    }
    exchange->transport = nccl_transport(transport);
    exchange->capacity = transfers;
    *out = exchange;
    return LS_OK;
}

void ls_nccl_exchange_destroy(LsExchange *exchange)
{
    if (!exchange)
        return;
    free(exchange->blocks);
    free(exchange->transfer);
    free(exchange);
}

LsStatus ls_nccl_exchange_add(LsExchange *exchange, LsTransferKind kind, void *data, size_t blocks,
    size_t element, uint32_t peer, size_t tag)
{
    (void)tag; // order says it, see above
    if (exchange->count == exchange->capacity || exchange->blocks)
        return LS_FAIL(LS_INTERNAL, "an exchange has no room for another transfer");
    exchange->transfer[exchange->count++] = (Transfer){kind, data, blocks * LS_BLOCK * element, (int)peer};
    return LS_OK;
}

LsStatus ls_nccl_exchange_set_reduce_scatter(
    LsExchange *exchange, const float *from, float *piece, const size_t *blocks)
{
    size_t ranks = (size_t)exchange->transport->base.comm->size;
    if (exchange->count > 0 || exchange->blocks)
        return LS_FAIL(LS_INTERNAL, "a reduce-scatter needs an exchange of its own");
    LS_TRY(ls_memory_allocate(ranks * sizeof *blocks, (void **)&exchange->blocks));
    exchange->even = true;
    for (size_t r = 0; r < ranks; r++) {
        exchange->blocks[r] = blocks[r];
        exchange->even = exchange->even && blocks[r] == blocks[0];
    }
    exchange->from = from;
    exchange->piece = piece;
    return LS_OK;
}

static void enqueue_transfer(NcclTransport *t, const Transfer *transfer)
{
    if (transfer->kind == LS_SEND)
        ls_nccl_check(t,
            ls_nccl.Send(transfer->data, transfer->bytes, ncclUint8, transfer->peer, t->nccl, t->stream),
            "ncclSend");
    else
        ls_nccl_check(t,
            ls_nccl.Recv(transfer->data, transfer->bytes, ncclUint8, transfer->peer, t->nccl, t->stream),
            "ncclRecv");
}

// NCCL's reduce-scatter knows equal pieces only; unequal ones are a reduction each, to its owner.
static void enqueue_reduce_scatter(NcclTransport *t, const LsExchange *exchange)
{
    if (exchange->even) {
        ls_nccl_check(t,
            ls_nccl.ReduceScatter(exchange->from, exchange->piece, exchange->blocks[0] * LS_BLOCK,
                ncclFloat32, ncclSum, t->nccl, t->stream),
            "ncclReduceScatter");
        return;
    }
    const float *from = exchange->from;
    for (int r = 0; r < t->base.comm->size; r++) {
        size_t elements = exchange->blocks[r] * LS_BLOCK;
        if (elements > 0)
            ls_nccl_check(t,
                ls_nccl.Reduce(from, exchange->piece, elements, ncclFloat32, ncclSum, r, t->nccl, t->stream),
                "ncclReduce");
        from += elements;
    }
}

LsStatus ls_nccl_exchange_start(LsExchange *exchange)
{
    NcclTransport *t = exchange->transport;
    if (exchange->count == 0 && !exchange->blocks)
        return LS_OK;
    ls_nccl_check(t, ls_nccl.GroupStart(), "ncclGroupStart");
    for (size_t i = 0; i < exchange->count; i++)
        enqueue_transfer(t, &exchange->transfer[i]);
    if (exchange->blocks)
        enqueue_reduce_scatter(t, exchange);
    return ls_nccl_settle(t, ls_nccl.GroupEnd(), "ncclGroupEnd", "NCCL to start an exchange of gradients");
}

LsStatus ls_nccl_exchange_test(LsExchange *exchange, size_t *outstanding)
{
    (void)exchange;
    *outstanding = 0;
    return LS_OK;
}

void ls_nccl_exchange_mark_pending(const LsExchange *exchange, bool *pending)
{
    (void)exchange; // whose data is missing is known to the GPU alone
    (void)pending;
}

// ---- To all ranks ---------------------------------------------------------------------------------------

LsStatus ls_nccl_gather(LsTransport *transport, const void *mine, void *all, size_t bytes)
{
    NcclTransport *t = nccl_transport(transport);
    if (bytes == 0)
        return LS_OK;
    return ls_nccl_settle(t, ls_nccl.AllGather(mine, all, bytes, ncclUint8, t->nccl, t->stream),
        "ncclAllGather", "NCCL to start an exchange with all ranks");
}

// NCCL's all-gather knows equal pieces only; unequal ones are a broadcast each, from its owner.
static void enqueue_gather(NcclTransport *t, LsBucket bucket, char *place, size_t block)
{
    size_t ranks = (size_t)t->base.comm->size, share = bucket.blocks / ranks * block;
    if (bucket.blocks % ranks == 0) {
        ls_nccl_check(t,
            ls_nccl.AllGather(
                place + (size_t)t->base.comm->rank * share, place, share, ncclUint8, t->nccl, t->stream),
            "ncclAllGather");
        return;
    }
    for (size_t r = 0; r < ranks; r++) {
        LsBlockRange piece = ls_piece(bucket.blocks, (uint32_t)ranks, (uint32_t)r);
        char *data = place + piece.first * block;
        if (piece.count > 0)
            ls_nccl_check(t,
                ls_nccl.Broadcast(data, data, piece.count * block, ncclUint8, (int)r, t->nccl, t->stream),
                "ncclBroadcast");
    }
}

// All buckets are one group, which NCCL turns into few kernels.
LsStatus ls_nccl_gather_shards(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    NcclTransport *t = nccl_transport(transport);
    size_t block = LS_BLOCK * element;
    ls_nccl_check(t, ls_nccl.GroupStart(), "ncclGroupStart");
    for (size_t b = 0; b < buckets->count; b++)
        if (buckets->bucket[b].blocks > 0)
            enqueue_gather(
                t, buckets->bucket[b], (char *)flat + buckets->bucket[b].first_block * block, block);
    return ls_nccl_settle(t, ls_nccl.GroupEnd(), "ncclGroupEnd", "NCCL to start gathering the parameters");
}

static LsStatus reserve_markers(NcclTransport *t, size_t buckets)
{
    LsDevice *device = t->base.device;
    if (buckets <= t->markers)
        return LS_OK;
    LsMarker **grown = realloc(t->gathered, buckets * sizeof(LsMarker *));
    if (!grown)
        return LS_FAIL(LS_INTERNAL, "no memory for the markers of %zu buckets", buckets);
    t->gathered = grown;
    for (; t->markers < buckets; t->markers++)
        LS_TRY(device->ops->marker_create(device, &t->gathered[t->markers]));
    return LS_OK;
}

// A group for each bucket, so that the first one does not wait for the last.
LsStatus ls_nccl_gather_begin(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    NcclTransport *t = nccl_transport(transport);
    LsDevice *device = transport->device;
    size_t block = LS_BLOCK * element;
    LS_TRY(reserve_markers(t, buckets->count));
    for (size_t b = buckets->count; b-- > 0;) {
        LsBucket bucket = buckets->bucket[b];
        ls_nccl_check(t, ls_nccl.GroupStart(), "ncclGroupStart");
        enqueue_gather(t, bucket, (char *)flat + bucket.first_block * block, block);
        LS_TRY(
            ls_nccl_settle(t, ls_nccl.GroupEnd(), "ncclGroupEnd", "NCCL to start gathering the parameters"));
        LS_TRY(device->ops->marker_record(device, t->gathered[b]));
    }
    return LS_OK;
}

LsStatus ls_nccl_gather_wait(LsTransport *transport, size_t bucket)
{
    LsDevice *device = transport->device;
    return device->ops->marker_wait(device, nccl_transport(transport)->gathered[bucket]);
}

// ---- The library's own collectives ----------------------------------------------------------------------

static ncclResult_t call_library(
    NcclTransport *t, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    switch (call) {
    case LS_LIBRARY_ALL_REDUCE:
        return ls_nccl.AllReduce(from, to, elements, ncclFloat32, ncclSum, t->nccl, t->stream);
    case LS_LIBRARY_REDUCE_SCATTER:
        return ls_nccl.ReduceScatter(
            from, to, elements / (size_t)t->base.comm->size, ncclFloat32, ncclSum, t->nccl, t->stream);
    case LS_LIBRARY_ALL_GATHER:
        break;
    }
    return ls_nccl.AllGather(from, to, elements, ncclFloat32, t->nccl, t->stream);
}

LsStatus ls_nccl_library(
    LsTransport *transport, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    NcclTransport *t = nccl_transport(transport);
    return ls_nccl_settle(t, call_library(t, call, from, to, elements), "a collective call of NCCL",
        "NCCL to start a collective call");
}
