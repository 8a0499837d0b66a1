// What the files of the `mpi` backend share. Only they see MPI's header.
#ifndef LOCKSTEP_COLLECTIVES_MPI_BACKEND_H
#define LOCKSTEP_COLLECTIVES_MPI_BACKEND_H

#include <mpi.h>

#include "backend.h"

// The element sizes whose blocks have a datatype: 1, 2, 4 and 8 bytes.
enum { BLOCK_TYPES = 4 };

typedef struct MpiComm {
    LsComm base;
    MPI_Comm traffic; // everything but questions after a rank's well-being
    MPI_Comm pulse;   // those
    // Blocks as MPI datatypes keep counts far from the limit of an int.
    MPI_Datatype block[BLOCK_TYPES]; // of elements of 1 << i bytes
    int *counts, *displacements;     // [size] scratch of all_gather
    bool crowded;                    // more ranks on this host than processors

    MPI_Request question; // a receive that is always posted
    char question_byte;

    // Scratch of gather_shards, grown at its first call.
    size_t gathers;
    MPI_Request *gather;
    int *gather_counts, *gather_displacements; // [gathers × size]
} MpiComm;

static inline MpiComm *mpi_comm(LsComm *comm)
{
    return (MpiComm *)comm;
}

// Ends the job with exit code 1 when `code`, which `call` returned, is a failure.
void ls_mpi_check(MpiComm *mpi, int code, const char *call);

// The backend's `wait`.
LsStatus ls_mpi_wait(LsComm *comm, const LsWait *wait);

// Waits for `count` requests.
LsStatus ls_mpi_wait_requests(MpiComm *mpi, MPI_Request *requests, int count, const char *what);

// Posts and withdraws the receive for questions.
void ls_mpi_listen(MpiComm *mpi);
void ls_mpi_stop_listening(MpiComm *mpi);

LsStatus ls_mpi_exchange_create(LsComm *comm, size_t transfers, LsExchange **out);
void ls_mpi_exchange_destroy(LsExchange *exchange);
LsStatus ls_mpi_exchange_add(
    LsExchange *exchange, LsTransferKind kind, float *data, size_t blocks, uint32_t peer, size_t tag);
LsStatus ls_mpi_exchange_set_reduce_scatter(
    LsExchange *exchange, const float *from, float *piece, const size_t *blocks);
LsStatus ls_mpi_exchange_start(LsExchange *exchange);
LsStatus ls_mpi_exchange_test(LsExchange *exchange, size_t *outstanding);
void ls_mpi_exchange_mark_pending(const LsExchange *exchange, bool *pending);

#endif
