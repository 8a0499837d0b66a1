// The communicator: what ranks tell each other. Backends: `self` (one rank, no MPI) and `mpi`.
//
// All calls come from one thread. Collective calls are made by all ranks in the same order. Every wait has
// the deadline LsCommOptions.timeout, which starts anew with each message that arrives; when it passes, the
// rank asks the others for a sign of life (a second at most), prints one line that names those who gave none,
// and ends the whole job with exit code 124. When MPI itself reports an error the job ends likewise with exit
// code 1. So no call here returns after a peer has died, and none hangs.
#ifndef LOCKSTEP_COLLECTIVES_COMM_H
#define LOCKSTEP_COLLECTIVES_COMM_H

#include "base/config.h"
#include "base/status.h"
#include "collectives/buckets.h"
#include "collectives/plan.h"
#include "device/device.h"

typedef struct LsComm LsComm;

typedef struct LsCommOptions {
    int kind;       // LsCommKind
    double timeout; // seconds for one wait
} LsCommOptions;

// Whether this process was started as one of several MPI ranks (Open MPI, PMIx, Slurm or MPICH's
// environment), without starting MPI.
bool ls_comm_launched(void);

// Name and version of the MPI library, for people; MPI need not be started. Not thread-safe.
const char *ls_comm_library_version(void);

// `mpi` when ls_comm_launched() or asked for, else `self`. ls_comm_close(NULL) is fine; closing is
// collective.
LsStatus ls_comm_open(const LsCommOptions *options, LsComm **out);
void ls_comm_close(LsComm *comm);

int ls_comm_rank(const LsComm *comm);
int ls_comm_size(const LsComm *comm);
const char *ls_comm_name(const LsComm *comm); // "self", "mpi"
const char *ls_comm_host(const LsComm *comm); // this rank's host name
int ls_comm_local_rank(const LsComm *comm);   // its number among the ranks of its host
int ls_comm_local_size(const LsComm *comm);

// Ends the whole job at once with the status's exit code: for failures that the other ranks cannot learn of
// in time. Prints the line. Does not return.
_Noreturn void ls_comm_abort(LsComm *comm, LsStatus status, const char *message);

LsStatus ls_comm_barrier(LsComm *comm);

// Host memory from `root` to all.
LsStatus ls_comm_broadcast(LsComm *comm, void *data, size_t bytes, int root);

// Gathers sizes[r] bytes from every rank r into `all`, rank after rank; `mine` is this rank's. Host memory.
LsStatus ls_comm_all_gather(LsComm *comm, const void *mine, void *all, const size_t *sizes);

// Sets `*agreed` on all ranks to LS_OK when every rank passed LS_OK, else to the failing status of the lowest
// failing rank, whose sentence becomes this thread's message on every rank (prefixed with "rank R: " unless
// all ranks failed or there is one). The return value is `*agreed` (so that LS_TRY works). Call it after each
// part of set-up that may fail on some ranks only.
LsStatus ls_comm_agree(LsComm *comm, LsStatus mine);

// Memory that this communicator reduces well. Released by ls_comm_release before closing.
LsStatus ls_comm_allocate(LsComm *comm, LsDevice *device, size_t bytes, void **out);
void ls_comm_release(LsComm *comm, LsDevice *device, void *memory);

// ---- Gradients and parameters ---------------------------------------------------------------------------

// What a reduction needs, fixed at set-up.
typedef struct LsReducer LsReducer;

typedef struct LsReducerOptions {
    LsDevice *device;
    const LsPlan *plan;       // lent; outlives the reducer
    const LsBuckets *buckets; // lent
    float *const
        *slot;     // [plan->lane_slots] gradient buffers (whole model, buckets->blocks blocks each), lent
    int reduction; // LsReductionKind; fast: slot 0 holds this rank's whole sum, the library's reduce-scatter
                   // adds up
} LsReducerOptions;

LsStatus ls_reducer_create(LsComm *comm, const LsReducerOptions *options, LsReducer **out);
void ls_reducer_destroy(LsReducer *reducer);

// Starts the reduction of bucket b, whose gradients are final in the rank's slots; buckets are begun in order
// 0, 1, …, the same on all ranks.
LsStatus ls_reducer_begin(LsReducer *reducer, size_t b);

// Advances what has begun without waiting.
LsStatus ls_reducer_poll(LsReducer *reducer);

// Waits until all buckets begun are reduced. Then this rank's piece of each bucket holds the sum in slot 0,
// at the bucket's place.
LsStatus ls_reducer_finish(LsReducer *reducer);

// Staging bytes that the reducer holds. Every bucket has staging of its own, so that all may be under way at
// once: exact: the plan's staging slots (other ranks' subtrees) times this rank's shard, with W a power of
// two a little less than one model; fast: one shard.
size_t ls_reducer_bytes(const LsReducer *reducer);

// All-gathers bucket by bucket: every rank's piece of `flat` (elements of `element` bytes, whole model) to
// all ranks, in place. Elements have 1, 2, 4 or 8 bytes; the first call allocates what later ones reuse.
LsStatus ls_comm_gather_shards(
    LsComm *comm, LsDevice *device, const LsBuckets *buckets, void *flat, size_t element);

#endif
