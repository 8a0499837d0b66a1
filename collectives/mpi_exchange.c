// Exchanges over MPI: persistent sends and receives, or a nonblocking reduce-scatter.
#include <limits.h>
#include <stdlib.h>

#include "base/memory.h"
#include "device/tensor.h"
#include "mpi_backend.h"

struct LsExchange {
    HostTransport *host;
    size_t capacity, count, outstanding;
    MPI_Request *request; // [capacity]
    int *peer;            // [capacity]
    bool *pending;        // [capacity]
    int *completed;       // [capacity] scratch of MPI_Testsome
    // One reduce-scatter instead of transfers, when `elements` is set.
    const float *from;
    float *piece;
    int *elements; // [size]
};

LsStatus ls_mpi_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out)
{
    if (transfers > INT_MAX)
        return LS_FAIL(LS_INTERNAL, "an exchange of %zu transfers", transfers);
    LsExchange *exchange;
    LS_TRY(ls_memory_allocate(sizeof *exchange, (void **)&exchange));
    exchange->host = (HostTransport *)transport;
    exchange->capacity = transfers;
    LsStatus status = ls_memory_allocate(transfers * sizeof(MPI_Request), (void **)&exchange->request);
    if (status == LS_OK)
        status = ls_memory_allocate(transfers * sizeof(int), (void **)&exchange->peer);
    if (status == LS_OK)
        status = ls_memory_allocate(transfers * sizeof(bool), (void **)&exchange->pending);
    if (status == LS_OK)
        status = ls_memory_allocate(transfers * sizeof(int), (void **)&exchange->completed);
    if (status != LS_OK) {
        ls_mpi_exchange_destroy(exchange);
        return status;
    }
    *out = exchange;
    return LS_OK;
}

void ls_mpi_exchange_destroy(LsExchange *exchange)
{
    if (!exchange)
        return;
    for (size_t i = 0; i < exchange->count; i++)
        if (exchange->request[i] != MPI_REQUEST_NULL)
            MPI_Request_free(&exchange->request[i]);
    free(exchange->elements);
    free(exchange->completed);
    free(exchange->pending);
    free(exchange->peer);
    free(exchange->request);
    free(exchange);
}

static LsStatus check_tag(const HostTransport *host, size_t tag)
{
    int *limit, found;
    ls_mpi_check(
        host->mpi, MPI_Comm_get_attr(host->exchanges, MPI_TAG_UB, &limit, &found), "MPI_Comm_get_attr");
    if (found && tag > (size_t)*limit)
        return LS_FAIL(LS_CONFIG, "more than %d buckets; raise collectives.bucket_mb", *limit);
    return LS_OK;
}

LsStatus ls_mpi_exchange_add(LsExchange *exchange, LsTransferKind kind, void *data, size_t blocks,
    size_t element, uint32_t peer, size_t tag)
{
    HostTransport *host = exchange->host;
    if (exchange->count == exchange->capacity || exchange->elements)
        return LS_FAIL(LS_INTERNAL, "an exchange has no room for another transfer");
    if (blocks > INT_MAX)
        return LS_FAIL(LS_CONFIG, "a message of %zu blocks is too long; lower collectives.bucket_mb", blocks);
    LS_TRY(check_tag(host, tag));
    MPI_Request *request = &exchange->request[exchange->count];
    MPI_Datatype type = host->block[__builtin_ctzll(element)];
    int count = (int)blocks, rank = (int)peer, number = (int)tag;
    if (kind == LS_SEND)
        ls_mpi_check(host->mpi, MPI_Send_init(data, count, type, rank, number, host->exchanges, request),
            "MPI_Send_init");
    else
        ls_mpi_check(host->mpi, MPI_Recv_init(data, count, type, rank, number, host->exchanges, request),
            "MPI_Recv_init");
    exchange->peer[exchange->count++] = rank;
    return LS_OK;
}

LsStatus ls_mpi_exchange_set_reduce_scatter(
    LsExchange *exchange, const float *from, float *piece, const size_t *blocks)
{
    size_t ranks = (size_t)exchange->host->mpi->base.size, total = 0;
    if (exchange->capacity == 0 || exchange->count > 0)
        return LS_FAIL(LS_INTERNAL, "a reduce-scatter needs an exchange of its own");
    int *elements;
    LS_TRY(ls_memory_allocate(ranks * sizeof *elements, (void **)&elements));
    for (size_t r = 0; r < ranks; r++) {
        total += blocks[r];
        elements[r] = (int)(blocks[r] * LS_BLOCK);
        if (total > INT_MAX / LS_BLOCK) {
            free(elements);
            return LS_FAIL(LS_CONFIG,
                "MPI cannot add up a bucket of more than %d blocks at once; lower collectives.bucket_mb",
                INT_MAX / LS_BLOCK);
        }
    }
    exchange->from = from;
    exchange->piece = piece;
    exchange->elements = elements;
    exchange->request[0] = MPI_REQUEST_NULL;
    exchange->peer[0] = -1; // all ranks
    exchange->count = 1;
    return LS_OK;
}

LsStatus ls_mpi_exchange_start(LsExchange *exchange)
{
    HostTransport *host = exchange->host;
    for (size_t i = 0; i < exchange->count; i++)
        exchange->pending[i] = true;
    exchange->outstanding = exchange->count;
    if (exchange->elements)
        ls_mpi_check(host->mpi,
            MPI_Ireduce_scatter(exchange->from, exchange->piece, exchange->elements, MPI_FLOAT, MPI_SUM,
                host->exchanges, &exchange->request[0]),
            "MPI_Ireduce_scatter");
    else if (exchange->count > 0)
        ls_mpi_check(host->mpi, MPI_Startall((int)exchange->count, exchange->request), "MPI_Startall");
    return LS_OK;
}

LsStatus ls_mpi_exchange_test(LsExchange *exchange, size_t *outstanding)
{
    if (exchange->outstanding > 0) {
        int completed = 0;
        ls_mpi_check(exchange->host->mpi,
            MPI_Testsome((int)exchange->count, exchange->request, &completed, exchange->completed,
                MPI_STATUSES_IGNORE),
            "MPI_Testsome");
        for (int i = 0; i < completed; i++) // MPI_UNDEFINED, nothing active, is negative
            exchange->pending[exchange->completed[i]] = false;
        exchange->outstanding -= completed > 0 ? (size_t)completed : 0;
    }
    *outstanding = exchange->outstanding;
    return LS_OK;
}

void ls_mpi_exchange_mark_pending(const LsExchange *exchange, bool *pending)
{
    for (size_t i = 0; i < exchange->count; i++)
        if (exchange->pending[i] && exchange->peer[i] >= 0)
            pending[exchange->peer[i]] = true;
}
