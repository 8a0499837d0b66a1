// The transport `staged`: a discrete device's memory over MPI, through pinned host memory.
//
// It wraps the transport `host`, whose exchanges and gathers work on the pinned memory. All copies are in the
// communication stream, and MPI starts to touch pinned memory when the device has reached a marker recorded
// behind the copies out of it. Earlier copies into the device from the same pinned memory (of the step
// before) are ahead of that marker in the stream, so they have been read by then as well: no pinned memory is
// overwritten while the device still reads it.
#include <stdlib.h>

#include "backend.h"
#include "base/memory.h"
#include "device/tensor.h"

typedef struct StagedTransport {
    LsTransport base;
    LsTransport *host; // owned
    // Exchanges get to MPI in the order in which they were started: reduce-scatters need the same order on
    // all ranks, whenever their devices are ready.
    size_t started, released; // exchanges so far; those that MPI has
    // Pinned memory of the gathers, grown when needed.
    char *pinned;
    size_t pinned_bytes;
    LsMarker *copied_out;
} StagedTransport;

// One piece of device memory with its pinned counterpart.
typedef struct Leg {
    LsTransferKind kind; // LS_SEND: copied out before MPI starts, LS_RECEIVE: copied in when it is done
    void *data, *pinned;
    size_t bytes;
} Leg;

typedef enum Stage { IDLE, COPYING_OUT, MOVING } Stage;

// What an LsExchange of this transport is.
typedef struct StagedExchange {
    StagedTransport *transport;
    LsExchange *host; // owned; the same transfers between pinned memory
    size_t capacity, legs;
    Leg *leg; // [capacity]
    LsMarker *copied_out;
    Stage stage;
    size_t turn; // when stage is COPYING_OUT: the exchange's number in the order of starts
} StagedExchange;

// ---- Setting up exchanges -------------------------------------------------------------------------------

static void staged_exchange_destroy(LsExchange *opaque)
{
    StagedExchange *exchange = (StagedExchange *)opaque;
    if (!exchange)
        return;
    LsTransport *host = exchange->transport->host;
    LsDevice *device = exchange->transport->base.device;
    if (exchange->host)
        host->ops->exchange_destroy(exchange->host);
    for (size_t i = 0; i < exchange->legs; i++)
        device->ops->release_host(device, exchange->leg[i].pinned);
    device->ops->marker_destroy(device, exchange->copied_out);
    free(exchange->leg);
    free(exchange);
}

static LsStatus staged_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out)
{
    StagedTransport *staged = (StagedTransport *)transport;
    LsDevice *device = transport->device;
    StagedExchange *exchange;
    LS_TRY(ls_memory_allocate(sizeof *exchange, (void **)&exchange));
    exchange->transport = staged;
    exchange->capacity = transfers > 2 ? transfers : 2; // a reduce-scatter has two legs
    LsStatus status = ls_memory_allocate(exchange->capacity * sizeof *exchange->leg, (void **)&exchange->leg);
    if (status == LS_OK)
        status = device->ops->marker_create(device, &exchange->copied_out);
    if (status == LS_OK)
        status = staged->host->ops->exchange_create(staged->host, transfers, &exchange->host);
    if (status != LS_OK) {
        staged_exchange_destroy((LsExchange *)exchange);
        return status;
    }
    *out = (LsExchange *)exchange;
    return LS_OK;
}

// Adds a leg with pinned memory of its own; the exchange frees it.
static LsStatus add_leg(StagedExchange *exchange, LsTransferKind kind, void *data, size_t bytes, Leg **out)
{
    LsDevice *device = exchange->transport->base.device;
    if (exchange->legs == exchange->capacity)
        return LS_FAIL(LS_INTERNAL, "an exchange has no room for another transfer");
    void *pinned;
    LS_TRY(device->ops->allocate_host(device, bytes > 0 ? bytes : 1, &pinned));
    Leg *leg = &exchange->leg[exchange->legs++];
    *leg = (Leg){.kind = kind, .data = data, .pinned = pinned, .bytes = bytes};
    *out = leg;
    return LS_OK;
}

static LsStatus staged_exchange_add(LsExchange *opaque, LsTransferKind kind, void *data, size_t blocks,
    size_t element, uint32_t peer, size_t tag)
{
    StagedExchange *exchange = (StagedExchange *)opaque;
    Leg *leg;
    LS_TRY(add_leg(exchange, kind, data, blocks * LS_BLOCK * element, &leg));
    return exchange->transport->host->ops->exchange_add(
        exchange->host, kind, leg->pinned, blocks, element, peer, tag);
}

static LsStatus staged_exchange_set_reduce_scatter(
    LsExchange *opaque, const float *from, float *piece, const size_t *blocks)
{
    StagedExchange *exchange = (StagedExchange *)opaque;
    const LsComm *comm = exchange->transport->base.comm;
    size_t total = 0;
    for (int r = 0; r < comm->size; r++)
        total += blocks[r];
    Leg *whole, *mine;
    size_t block = LS_BLOCK * sizeof *from;
    LS_TRY(add_leg(exchange, LS_SEND, (float *)from, total * block, &whole)); // sent legs are only read
    LS_TRY(add_leg(exchange, LS_RECEIVE, piece, blocks[comm->rank] * block, &mine));
    return exchange->transport->host->ops->exchange_set_reduce_scatter(
        exchange->host, whole->pinned, mine->pinned, blocks);
}

// ---- Running exchanges ----------------------------------------------------------------------------------

static LsStatus staged_exchange_start(LsExchange *opaque)
{
    StagedExchange *exchange = (StagedExchange *)opaque;
    LsDevice *device = exchange->transport->base.device;
    for (size_t i = 0; i < exchange->legs; i++) {
        const Leg *leg = &exchange->leg[i];
        if (leg->kind == LS_SEND && leg->bytes > 0)
            LS_TRY(device->ops->copy_out(device, leg->pinned, leg->data, leg->bytes));
    }
    LS_TRY(device->ops->marker_record(device, exchange->copied_out));
    exchange->turn = exchange->transport->started++;
    exchange->stage = COPYING_OUT;
    return LS_OK;
}

// Lets MPI start when the pinned memory is ready and it is this exchange's turn.
static LsStatus try_to_move(StagedExchange *exchange)
{
    StagedTransport *staged = exchange->transport;
    LsDevice *device = staged->base.device;
    bool ready;
    if (exchange->turn != staged->released)
        return LS_OK;
    LS_TRY(device->ops->marker_reached(device, exchange->copied_out, &ready));
    if (!ready)
        return LS_OK;
    LS_TRY(staged->host->ops->exchange_start(exchange->host));
    staged->released++;
    exchange->stage = MOVING;
    return LS_OK;
}

static LsStatus copy_in(StagedExchange *exchange)
{
    LsDevice *device = exchange->transport->base.device;
    for (size_t i = 0; i < exchange->legs; i++) {
        const Leg *leg = &exchange->leg[i];
        if (leg->kind == LS_RECEIVE && leg->bytes > 0)
            LS_TRY(device->ops->copy_in(device, leg->data, leg->pinned, leg->bytes));
    }
    return LS_OK;
}

static LsStatus staged_exchange_test(LsExchange *opaque, size_t *outstanding)
{
    StagedExchange *exchange = (StagedExchange *)opaque;
    *outstanding = 0;
    if (exchange->stage == COPYING_OUT)
        LS_TRY(try_to_move(exchange));
    if (exchange->stage == COPYING_OUT)
        *outstanding = exchange->legs + 1; // one more than MPI will have: progress shows as a new number
    if (exchange->stage != MOVING)
        return LS_OK;
    LS_TRY(exchange->transport->host->ops->exchange_test(exchange->host, outstanding));
    if (*outstanding > 0)
        return LS_OK;
    exchange->stage = IDLE;
    return copy_in(exchange);
}

// Before MPI has started, it is this rank's own device that keeps it waiting.
static void staged_exchange_mark_pending(const LsExchange *opaque, bool *pending)
{
    const StagedExchange *exchange = (const StagedExchange *)opaque;
    if (exchange->stage == MOVING)
        exchange->transport->host->ops->exchange_mark_pending(exchange->host, pending);
}

// ---- Gathers --------------------------------------------------------------------------------------------

static LsStatus reserve(StagedTransport *staged, size_t bytes)
{
    LsDevice *device = staged->base.device;
    if (bytes <= staged->pinned_bytes)
        return LS_OK;
    LS_TRY(device->ops->synchronize(device)); // the last gather may still be read
    device->ops->release_host(device, staged->pinned);
    staged->pinned = NULL;
    staged->pinned_bytes = 0;
    LS_TRY(device->ops->allocate_host(device, bytes, (void **)&staged->pinned));
    staged->pinned_bytes = bytes;
    return LS_OK;
}

static LsStatus wait_until_copied_out(StagedTransport *staged)
{
    LsDevice *device = staged->base.device;
    LS_TRY(device->ops->marker_record(device, staged->copied_out));
    return ls_comm_wait_marker(staged->base.comm, staged->copied_out, "the device before an exchange");
}

static LsStatus staged_gather(LsTransport *transport, const void *mine, void *all, size_t bytes)
{
    StagedTransport *staged = (StagedTransport *)transport;
    LsDevice *device = transport->device;
    size_t total;
    if (bytes == 0)
        return LS_OK;
    if (!ls_size_multiply(bytes, (size_t)transport->comm->size, &total))
        return LS_FAIL(LS_INTERNAL, "cannot gather %zu bytes from %d ranks", bytes, transport->comm->size);
    LS_TRY(reserve(staged, total));
    char *place = staged->pinned + bytes * (size_t)transport->comm->rank;
    LS_TRY(device->ops->copy_out(device, place, mine, bytes));
    LS_TRY(wait_until_copied_out(staged));
    LS_TRY(staged->host->ops->gather(staged->host, place, staged->pinned, bytes));
    return device->ops->copy_in(device, all, staged->pinned, total);
}

static LsStatus copy_part_in(StagedTransport *staged, char *flat, size_t begin, size_t end)
{
    LsDevice *device = staged->base.device;
    return begin == end ? LS_OK
                        : device->ops->copy_in(device, flat + begin, staged->pinned + begin, end - begin);
}

// While MPI gathers a bucket, the device takes in the one before.
static LsStatus staged_gather_shards(
    LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    StagedTransport *staged = (StagedTransport *)transport;
    LsDevice *device = transport->device;
    uint32_t ranks = (uint32_t)transport->comm->size, rank = (uint32_t)transport->comm->rank;
    size_t block = LS_BLOCK * element;
    LS_TRY(reserve(staged, buckets->blocks * block));
    for (size_t b = 0; b < buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(buckets, b, ranks, rank);
        size_t begin = piece.first * block;
        if (piece.count > 0)
            LS_TRY(device->ops->copy_out(
                device, staged->pinned + begin, (const char *)flat + begin, piece.count * block));
    }
    LS_TRY(wait_until_copied_out(staged));
    for (size_t b = 0; b < buckets->count; b++) {
        LsBucket bucket = buckets->bucket[b];
        LsBuckets one = {.count = 1, .blocks = buckets->blocks, .bucket = &bucket};
        LS_TRY(staged->host->ops->gather_shards(staged->host, &one, staged->pinned, element));
        LsBlockRange piece = ls_bucket_piece(buckets, b, ranks, rank);
        LS_TRY(copy_part_in(staged, flat, bucket.first_block * block, piece.first * block));
        LS_TRY(copy_part_in(
            staged, flat, (piece.first + piece.count) * block, (bucket.first_block + bucket.blocks) * block));
    }
    return LS_OK;
}

// ---- The library's own collectives ----------------------------------------------------------------------

static LsStatus staged_library(
    LsTransport *transport, LsLibraryCall call, const float *from, float *to, size_t elements)
{
    StagedTransport *staged = (StagedTransport *)transport;
    LsDevice *device = transport->device;
    LsComm *comm = transport->comm;
    size_t ranks = (size_t)comm->size, results = elements;
    if (call == LS_LIBRARY_REDUCE_SCATTER)
        results = elements / ranks;
    else if (call == LS_LIBRARY_ALL_GATHER && !ls_size_multiply(elements, ranks, &results))
        return LS_FAIL(LS_INTERNAL, "cannot gather %zu elements from %d ranks", elements, comm->size);
    LS_TRY(reserve(staged, (elements + results) * sizeof(float)));
    float *input = (float *)(void *)staged->pinned, *result = input + elements;
    LS_TRY(device->ops->copy_out(device, input, from, elements * sizeof(float)));
    LS_TRY(wait_until_copied_out(staged));
    LS_TRY(comm->ops->library(comm, call, input, result, elements));
    return device->ops->copy_in(device, to, result, results * sizeof(float));
}

// ---- Opening --------------------------------------------------------------------------------------------

static void staged_close(LsTransport *transport)
{
    StagedTransport *staged = (StagedTransport *)transport;
    LsDevice *device = transport->device;
    device->ops->synchronize(device); // the last gather may still be read
    device->ops->release_host(device, staged->pinned);
    device->ops->marker_destroy(device, staged->copied_out);
    if (staged->host)
        staged->host->ops->close(staged->host);
    free(staged);
}

static const LsTransportOps staged_ops = {
    .name = "mpi",
    .close = staged_close,
    .gather = staged_gather,
    .gather_shards = staged_gather_shards,
    .library = staged_library,
    .exchange_create = staged_exchange_create,
    .exchange_destroy = staged_exchange_destroy,
    .exchange_add = staged_exchange_add,
    .exchange_set_reduce_scatter = staged_exchange_set_reduce_scatter,
    .exchange_start = staged_exchange_start,
    .exchange_test = staged_exchange_test,
    .exchange_mark_pending = staged_exchange_mark_pending,
};

LsStatus ls_staged_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    StagedTransport *staged = NULL;
    LsStatus status = ls_memory_allocate(sizeof *staged, (void **)&staged);
    if (status == LS_OK) {
        staged->base = (LsTransport){.ops = &staged_ops, .comm = comm, .device = device};
        status = device->ops->marker_create(device, &staged->copied_out);
    }
    status = ls_comm_agree(comm, status); // the next is collective
    if (status == LS_OK)
        status = ls_host_transport_open(comm, device, &staged->host);
    if (status != LS_OK) {
        if (staged)
            staged_close(&staged->base);
        return status;
    }
    *out = &staged->base;
    return LS_OK;
}
