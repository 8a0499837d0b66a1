// What the files of the `mpi` backend and its transport share. Only they see MPI's header.
#ifndef LOCKSTEP_COLLECTIVES_MPI_BACKEND_H
#define LOCKSTEP_COLLECTIVES_MPI_BACKEND_H

#include <mpi.h>

#include "backend.h"

// The element sizes whose blocks have a datatype: 1, 2, 4 and 8 bytes.
enum { BLOCK_TYPES = 4 };

typedef struct MpiComm {
    LsComm base;
    MPI_Comm traffic;            // everything but questions after a rank's well-being
    MPI_Comm pulse;              // those
    int *counts, *displacements; // [size] scratch of all_gather
    bool crowded;                // more ranks on this host than cores that they may use

    MPI_Request question; // a receive that is always posted
    char question_byte;
} MpiComm;

// The transport `host`: memory that MPI can reach.
typedef struct HostTransport {
    LsTransport base;
    MpiComm *mpi; // lent
    // Exchanges have a communicator of their own, because the ranks of `staged` start them when their devices
    // are ready for it, and not at the same place among the collective calls of the program.
    MPI_Comm exchanges;
    // Blocks as MPI datatypes keep counts far from the limit of an int.
    MPI_Datatype block[BLOCK_TYPES]; // of elements of 1 << i bytes
    size_t *sizes;                   // [size] scratch of gather

    // Scratch of gather_shards, grown at its first call.
    size_t gathers;
    MPI_Request *gather;
    int *gather_counts, *gather_displacements; // [gathers × size]

    // Of ls_host_move_begin, likewise.
    size_t moves;
    MPI_Request *move;
} HostTransport;

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

// Another communicator of all ranks; collective. `what` as in LsWait.
LsStatus ls_mpi_duplicate(MpiComm *mpi, const char *what, MPI_Comm *out);

// The backend's `library`.
LsStatus ls_mpi_library(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements);

// Posts and withdraws the receive for questions.
void ls_mpi_listen(MpiComm *mpi);
void ls_mpi_stop_listening(MpiComm *mpi);

// The exchanges of the transport `host`.
LsStatus ls_mpi_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out);
void ls_mpi_exchange_destroy(LsExchange *exchange);
LsStatus ls_mpi_exchange_add(LsExchange *exchange, LsTransferKind kind, void *data, size_t blocks,
    size_t element, uint32_t peer, size_t tag);
LsStatus ls_mpi_exchange_set_reduce_scatter(
    LsExchange *exchange, const float *from, float *piece, const size_t *blocks);
LsStatus ls_mpi_exchange_start(LsExchange *exchange);
LsStatus ls_mpi_exchange_test(LsExchange *exchange, size_t *outstanding);
void ls_mpi_exchange_mark_pending(const LsExchange *exchange, bool *pending);

#endif
