// What the files of the stand-in for NCCL share: communicators (nccl.c), calls that enqueue (nccl_group.c)
// and what happens when the stream comes to it (nccl_work.c).
#ifndef LOCKSTEP_EMULATOR_NCCL_STATE_H
#define LOCKSTEP_EMULATOR_NCCL_STATE_H

#include <mpi.h>
#include <nccl.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum OperationKind {
    OPERATION_SEND,
    OPERATION_RECEIVE,
    OPERATION_ALL_GATHER,
    OPERATION_BROADCAST,
    OPERATION_REDUCE,
    OPERATION_REDUCE_SCATTER,
    OPERATION_ALL_REDUCE
} OperationKind;

typedef struct Operation {
    OperationKind kind;
    const char *from;
    char *to;
    size_t bytes; // that one rank contributes, or of its piece
    int root;     // or the peer of a send or receive
    uint32_t number;
} Operation;

// The operations of a group, in flight together.
typedef struct Group {
    ncclComm_t comm;
    cudaStream_t stream;
    Operation *operation;
    size_t operations;
    bool begun;
    struct Message *message; // NULL before it is started
    MPI_Request *request;
    size_t messages;
} Group;

typedef enum Stage { STAGE_JOINING, STAGE_MEETING, STAGE_READY, STAGE_CLOSING, STAGE_CLOSED } Stage;

// Where a rank is, so that two on one GPU are found.
typedef struct Place {
    char host[256];
    cudaUUID_t gpu;
    ncclUniqueId id;
} Place;

typedef struct Fault {
    char kind[16];
    int rank, group;
} Fault;

struct ncclComm {
    int rank, ranks;
    unsigned references; // the caller's and those of groups that a stream still holds
    Stage stage;
    ncclResult_t state; // what ncclCommGetAsyncError says
    bool aborted;
    MPI_Comm mpi;        // its own, from STAGE_MEETING on
    MPI_Request request; // of joining, meeting and closing
    Place mine, *all;    // all: [ranks]
    Group *starting;     // ended by the caller, not in the stream yet
    unsigned polls;      // in a row while nothing changed
    unsigned in_stream;  // groups
    uint32_t collectives;
    int groups_begun;
    Fault fault;
};

// Remembers the text for ncclGetLastError and returns the result.
ncclResult_t ls_nccl_fail(ncclResult_t result, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The same, and the communicator is in that state from now on.
void ls_nccl_break(ncclComm_t comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Aborts the process where MPI fails: the stand-in has no use for such an error.
void ls_nccl_mpi(int code, const char *call);

void ls_nccl_release(ncclComm_t comm); // drops one reference

// How much of `from` and `to` the operation touches on this rank.
size_t ls_nccl_reads(ncclComm_t comm, const Operation *o);
size_t ls_nccl_writes(ncclComm_t comm, const Operation *o);

// Frees a group whose messages, if any, are over.
void ls_nccl_free_group(Group *group);

// Puts a group, which is given away, into its stream.
ncclResult_t ls_nccl_enqueue(Group *group);

#endif
