// The transport `host`: device memory that MPI can reach, as on the CPU, and the pinned memory of `staged`.
#include <limits.h>
#include <stdlib.h>

#include "base/memory.h"
#include "device/tensor.h"
#include "mpi_backend.h"

static LsStatus host_gather(LsTransport *transport, const void *mine, void *all, size_t bytes)
{
    const HostTransport *host = (const HostTransport *)transport;
    LsComm *comm = transport->comm;
    for (int r = 0; r < comm->size; r++)
        host->sizes[r] = bytes;
    return comm->ops->all_gather(comm, mine, all, host->sizes);
}

// ---- Parameters -----------------------------------------------------------------------------------------

// MPI reads the counts until the gather is over, so every bucket has its own.
static LsStatus reserve_gathers(HostTransport *host, size_t buckets)
{
    if (buckets <= host->gathers)
        return LS_OK;
    if (buckets > INT_MAX)
        return LS_FAIL(LS_CONFIG, "%zu buckets are too many; raise collectives.bucket_mb", buckets);
    size_t entries, bytes;
    if (!ls_size_multiply(buckets, (size_t)host->base.comm->size, &entries) ||
        !ls_size_multiply(entries, sizeof(int), &bytes))
        return LS_FAIL(LS_INTERNAL, "%zu buckets do not fit in memory", buckets);
    free(host->gather_displacements);
    free(host->gather_counts);
    free(host->gather);
    host->gather_displacements = host->gather_counts = NULL;
    host->gather = NULL;
    host->gathers = 0;
    LS_TRY(ls_memory_allocate(buckets * sizeof(MPI_Request), (void **)&host->gather));
    LS_TRY(ls_memory_allocate(bytes, (void **)&host->gather_counts));
    LS_TRY(ls_memory_allocate(bytes, (void **)&host->gather_displacements));
    host->gathers = buckets;
    return LS_OK;
}

static void start_gather(HostTransport *host, LsBucket bucket, size_t b, char *flat, int type)
{
    int ranks = host->base.comm->size;
    int *counts = host->gather_counts + b * (size_t)ranks;
    int *displacements = host->gather_displacements + b * (size_t)ranks;
    for (int r = 0; r < ranks; r++) {
        LsBlockRange piece = ls_piece(bucket.blocks, (uint32_t)ranks, (uint32_t)r);
        counts[r] = (int)piece.count;
        displacements[r] = (int)piece.first;
    }
    char *place = flat + bucket.first_block * ((size_t)LS_BLOCK << type);
    ls_mpi_check(host->mpi,
        MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, place, counts, displacements, host->block[type],
            host->mpi->traffic, &host->gather[b]),
        "MPI_Iallgatherv");
}

// *type: the index of the block of such elements.
static LsStatus check_gather(const LsBuckets *buckets, size_t element, int *type)
{
    *type = 0;
    while (*type < BLOCK_TYPES && element != (size_t)1 << *type)
        ++*type;
    if (*type == BLOCK_TYPES)
        return LS_FAIL(LS_UNSUPPORTED, "cannot gather elements of %zu bytes", element);
    for (size_t b = 0; b < buckets->count; b++)
        if (buckets->bucket[b].blocks > INT_MAX)
            return LS_FAIL(LS_CONFIG, "a bucket of %zu blocks is too large; lower collectives.bucket_mb",
                buckets->bucket[b].blocks);
    return LS_OK;
}

static LsStatus host_gather_begin(
    LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    HostTransport *host = (HostTransport *)transport;
    int type;
    LS_TRY(check_gather(buckets, element, &type));
    LS_TRY(reserve_gathers(host, buckets->count));
    for (size_t b = buckets->count; b-- > 0;)
        start_gather(host, buckets->bucket[b], b, flat, type);
    return LS_OK;
}

static const char *const PARAMETERS = "the updated parameters";

static LsStatus host_gather_wait(LsTransport *transport, size_t bucket)
{
    HostTransport *host = (HostTransport *)transport;
    return ls_mpi_wait_requests(host->mpi, &host->gather[bucket], 1, PARAMETERS);
}

static LsStatus host_gather_shards(
    LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element)
{
    HostTransport *host = (HostTransport *)transport;
    LS_TRY(host_gather_begin(transport, buckets, flat, element));
    return ls_mpi_wait_requests(host->mpi, host->gather, (int)buckets->count, PARAMETERS);
}

// ---- Shards to single ranks -----------------------------------------------------------------------------

static LsStatus reserve_moves(HostTransport *host, size_t buckets, size_t moves, size_t *messages)
{
    size_t bytes;
    if (!ls_size_multiply(buckets, moves, messages) || *messages > INT_MAX ||
        !ls_size_multiply(*messages, sizeof(MPI_Request), &bytes))
        return LS_FAIL(LS_CONFIG, "%zu buckets are too many; raise collectives.bucket_mb", buckets);
    if (*messages <= host->moves)
        return LS_OK;
    free(host->move);
    host->move = NULL;
    host->moves = 0;
    LS_TRY(ls_memory_allocate(bytes, (void **)&host->move));
    host->moves = *messages;
    return LS_OK;
}

// Messages between two ranks are told apart by their order: collectives, which also use this communicator,
// are not mixed up with them.
static void start_move(HostTransport *host, const LsShardMove *move, LsBlockRange piece, char *flat, int type,
    MPI_Request *request)
{
    char *place = flat + piece.first * ((size_t)LS_BLOCK << type);
    int count = (int)piece.count, peer = (int)move->peer;
    *request = MPI_REQUEST_NULL;
    if (piece.count == 0) // both ends leave it out
        return;
    if (move->kind == LS_SEND)
        ls_mpi_check(host->mpi,
            MPI_Isend(place, count, host->block[type], peer, 0, host->mpi->traffic, request), "MPI_Isend");
    else
        ls_mpi_check(host->mpi,
            MPI_Irecv(place, count, host->block[type], peer, 0, host->mpi->traffic, request), "MPI_Irecv");
}

LsStatus ls_host_move_begin(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element,
    const LsShardMove *move, size_t moves)
{
    HostTransport *host = (HostTransport *)transport;
    int type;
    size_t messages;
    LS_TRY(check_gather(buckets, element, &type));
    LS_TRY(reserve_moves(host, buckets->count, moves, &messages));
    for (size_t b = buckets->count; b-- > 0;)
        for (size_t i = 0; i < moves; i++) {
            LsBlockRange piece = ls_bucket_piece(buckets, b, (uint32_t)transport->comm->size, move[i].owner);
            start_move(host, &move[i], piece, flat, type, &host->move[b * moves + i]);
        }
    return LS_OK;
}

typedef struct MoveWait {
    MpiComm *mpi;
    const LsShardMove *move;
    size_t moves;
    MPI_Request *request; // [moves]
} MoveWait;

static LsStatus poll_moves(void *context, size_t *outstanding)
{
    const MoveWait *wait = context;
    *outstanding = 0;
    for (size_t i = 0; i < wait->moves; i++) {
        int done = 1;
        if (wait->request[i] != MPI_REQUEST_NULL)
            ls_mpi_check(wait->mpi, MPI_Test(&wait->request[i], &done, MPI_STATUS_IGNORE), "MPI_Test");
        *outstanding += !done;
    }
    return LS_OK;
}

static void mark_moves(void *context, bool *pending)
{
    const MoveWait *wait = context;
    for (size_t i = 0; i < wait->moves; i++)
        if (wait->request[i] != MPI_REQUEST_NULL)
            pending[wait->move[i].peer] = true;
}

LsStatus ls_host_move_wait(LsTransport *transport, size_t bucket, const LsShardMove *move, size_t moves)
{
    HostTransport *host = (HostTransport *)transport;
    MoveWait wait = {host->mpi, move, moves, host->move + bucket * moves};
    return ls_mpi_wait(transport->comm,
        &(LsWait){.what = PARAMETERS, .poll = poll_moves, .mark_pending = mark_moves, .context = &wait});
}

// ---- Opening --------------------------------------------------------------------------------------------

static void host_close(LsTransport *transport)
{
    HostTransport *host = (HostTransport *)transport;
    for (int i = 0; i < BLOCK_TYPES; i++)
        if (host->block[i] != MPI_DATATYPE_NULL)
            MPI_Type_free(&host->block[i]);
    if (host->exchanges != MPI_COMM_NULL)
        MPI_Comm_free(&host->exchanges);
    free(host->gather_displacements);
    free(host->gather_counts);
    free(host->gather);
    free(host->move);
    free(host->sizes);
    free(host);
}

static void create_block_types(HostTransport *host)
{
    for (int i = 0; i < BLOCK_TYPES; i++) {
        ls_mpi_check(
            host->mpi, MPI_Type_contiguous(LS_BLOCK << i, MPI_BYTE, &host->block[i]), "MPI_Type_contiguous");
        ls_mpi_check(host->mpi, MPI_Type_commit(&host->block[i]), "MPI_Type_commit");
    }
}

static const LsTransportOps host_ops = {
    .name = "mpi",
    .close = host_close,
    .gather = host_gather,
    .gather_shards = host_gather_shards,
    .gather_begin = host_gather_begin,
    .gather_wait = host_gather_wait,
    .exchange_create = ls_mpi_exchange_create,
    .exchange_destroy = ls_mpi_exchange_destroy,
    .exchange_add = ls_mpi_exchange_add,
    .exchange_set_reduce_scatter = ls_mpi_exchange_set_reduce_scatter,
    .exchange_start = ls_mpi_exchange_start,
    .exchange_test = ls_mpi_exchange_test,
    .exchange_mark_pending = ls_mpi_exchange_mark_pending,
};

LsStatus ls_host_transport_open(LsComm *comm, LsDevice *device, LsTransport **out)
{
    HostTransport *host = NULL;
    LsStatus status = ls_memory_allocate(sizeof *host, (void **)&host);
    if (status == LS_OK) {
        host->base = (LsTransport){.ops = &host_ops, .comm = comm, .device = device};
        host->mpi = mpi_comm(comm);
        host->exchanges = MPI_COMM_NULL;
        for (int i = 0; i < BLOCK_TYPES; i++)
            host->block[i] = MPI_DATATYPE_NULL;
        status = ls_memory_allocate((size_t)comm->size * sizeof *host->sizes, (void **)&host->sizes);
    }
    status = ls_comm_agree(comm, status); // the next is collective
    if (status == LS_OK)
        status = ls_mpi_duplicate(host->mpi, "all ranks to open the exchange of gradients", &host->exchanges);
    if (status != LS_OK) {
        if (host)
            host_close(&host->base);
        return status;
    }
    create_block_types(host);
    *out = &host->base;
    return LS_OK;
}
