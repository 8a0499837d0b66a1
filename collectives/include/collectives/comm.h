// The communicator: what ranks tell each other. Backends: `self` (one rank, no MPI) and `mpi`. Host memory
// travels through the backend itself. Device memory travels through the transport that ls_comm_attach chose
// for it: `nccl` from GPU to GPU; `shared` between CPU ranks, of which those of a host read each other's
// memory in place; or the backend, through pinned host memory where the device is discrete.
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

// Version of the NCCL library, for people; "" in a build without NCCL. Not thread-safe.
const char *ls_comm_nccl_version(void);

// `mpi` when ls_comm_launched() or asked for, else `self`; what a kind means for device memory is settled by
// ls_comm_attach. ls_comm_close(NULL) is fine; closing is collective and detaches.
LsStatus ls_comm_open(const LsCommOptions *options, LsComm **out);
void ls_comm_close(LsComm *comm);

int ls_comm_rank(const LsComm *comm);
int ls_comm_size(const LsComm *comm);
// What carries gradients: "self", "mpi", "shared", "shared+mpi" (inside hosts, between them) or "nccl".
const char *ls_comm_name(const LsComm *comm);
const char *ls_comm_host(const LsComm *comm); // this rank's host name
int ls_comm_local_rank(const LsComm *comm);   // its number among the ranks of its host
int ls_comm_local_size(const LsComm *comm);

// Who shares a host: ranks with one host name on one running kernel. NULL where the ranks of some host do not
// follow one another, or nothing is known. Lent.
const LsHostMap *ls_comm_hosts(const LsComm *comm);

// Whether this host leaves every rank of it a core for a thread of its own, beside those that `threads` of
// each compute on. By the cores and the control group of this process; ranks may come to different answers.
bool ls_comm_core_is_free(const LsComm *comm, int threads);

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

// A number that rises while this process waits for others, or for its device, in a call of any communicator:
// who watches the process from outside tells a rank that waits from one that is stuck. May be read by any
// thread.
const volatile uint64_t *ls_comm_polls(void);

// ---- Device memory --------------------------------------------------------------------------------------

// Chooses what carries the memory of `device` (lent until ls_comm_detach) and connects it; collective, and
// comes before the calls below. kind: LsCommKind; auto is nccl where the device is a GPU, this build has NCCL
// and no two ranks share a GPU, shared for CPU ranks of which a host has several, else mpi. LS_CONFIG: nccl
// for ranks that share a GPU (named). LS_UNAVAILABLE: nccl in a build or on a device without it, shared for
// ranks none of which can read another's memory, or only some on their host. One rank alone needs no
// transport and is refused nothing.
LsStatus ls_comm_attach(LsComm *comm, LsDevice *device, int kind);
void ls_comm_detach(LsComm *comm); // collective; comes before the device is closed

// Device memory that this communicator reduces well, filled with zeros. Released by ls_comm_release. All
// ranks allocate and release in the same order what they reduce or gather; the rest in any.
LsStatus ls_comm_allocate(LsComm *comm, size_t bytes, void **out);
void ls_comm_release(LsComm *comm, void *memory);

// Collective. The same for a flat buffer that is alike on all ranks, of which each writes its shard and
// ls_comm_gather_shards brings the others'. Ranks that share memory get one for all of their host, into which
// another host's shards are brought once: a rank therefore writes its shard only after a collective call that
// no rank entered before it had done with what was there.
LsStatus ls_comm_allocate_common(LsComm *comm, size_t bytes, void **out);

// Gathers `bytes` bytes of device memory from every rank into `all`, rank after rank; `mine` may be this
// rank's place in `all`. Enqueued behind what the compute stream holds, before what it is given next; a
// transport through the host waits for it here.
LsStatus ls_comm_gather_device(LsComm *comm, const void *mine, void *all, size_t bytes);

// The host waits until the device has reached the marker, with the deadline of every wait, watching for
// failures of the transport meanwhile. `what` completes the sentence "waited 5 s for …".
LsStatus ls_comm_wait_marker(LsComm *comm, LsMarker *marker, const char *what);

// The same until the device is done with all gathers so far, the one that is under way included. A device's
// own synchronize has no deadline, so this comes first where other ranks may still owe it data.
LsStatus ls_comm_drain(LsComm *comm);

// ---- The library's own collectives ----------------------------------------------------------------------

typedef enum LsLibraryCall {
    LS_LIBRARY_ALL_REDUCE,     // `to`: [elements] the sum over all ranks; `from` may be `to`
    LS_LIBRARY_REDUCE_SCATTER, // `to`: [elements / ranks] this rank's part of the sum
    LS_LIBRARY_ALL_GATHER      // `to`: [elements × ranks] what every rank has, rank after rank
} LsLibraryCall;

// What MPI or NCCL does by itself with `elements` floats of each rank in device memory: for benchmarks, which
// compare with it; training has no use for it, since the sums' bits depend on the number of ranks. Ordered as
// ls_comm_gather_device. A call of MPI blocks and has no deadline. LS_CONFIG: more elements than the library
// can count, or for a reduce-scatter a number that the ranks do not divide.
LsStatus ls_comm_library(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements);

// ---- Gradients and parameters ---------------------------------------------------------------------------

// What a reduction needs, fixed at set-up.
typedef struct LsReducer LsReducer;

typedef struct LsReducerOptions {
    const LsPlan *plan;       // lent; outlives the reducer
    const LsBuckets *buckets; // lent
    float *const
        *slot; // [plan->lane_slots] gradient buffers (whole model, buckets->blocks blocks each), lent
    uint16_t *const *rounded; // instead of `slot`: [plan->share.subtrees] the subtrees' sums as BF16 numbers,
                              // lent. They travel so, and each sum is rounded to BF16 (LsTreeAdd). Exact only
    float *result; // where this rank's pieces of the sum go, at their places of the whole model; lent. NULL,
                   // but with `rounded`: slot 0
    int reduction; // LsReductionKind; fast: slot 0 holds this rank's whole sum, the library's reduce-scatter
                   // adds up
    bool progress; // what is read from peers of the host in place, a thread of the reducer's own adds up
                   // while this one computes; nothing where messages are received instead. No bit depends
                   // on it, and ranks may differ in it
    bool meets; // before it writes to its slots again the caller waits for all ranks after finish (a gather
                // does), so finish need not wait until the others have read them in place
    size_t elements; // of the flat buffer that are ever looked at, in all but its last block; 0: all. What
                     // lies behind them is not added up
} LsReducerOptions;

// Collective; where it fails on some ranks only, the others must learn of it before they go on.
LsStatus ls_reducer_create(LsComm *comm, const LsReducerOptions *options, LsReducer **out);
void ls_reducer_destroy(LsReducer *reducer);
bool ls_reducer_has_thread(const LsReducer *reducer); // of its own, see LsReducerOptions.progress

// The marker that says that bucket b's gradients are final in the rank's slots. The caller records it in the
// compute stream (or has a graph record it) before each ls_reducer_begin of the bucket.
LsMarker *ls_reducer_final(LsReducer *reducer, size_t b);

// Starts the reduction of bucket b behind its marker; buckets are begun in order 0, 1, …, the same on all
// ranks.
LsStatus ls_reducer_begin(LsReducer *reducer, size_t b);

// Advances what has begun without waiting.
LsStatus ls_reducer_poll(LsReducer *reducer);

// What the compute stream is given from now on finds all buckets begun reduced: this rank's piece of each
// bucket holds the sum in the result, at the bucket's place. The host waits where the transport needs it to
// (through the host), with NCCL it does not.
LsStatus ls_reducer_finish(LsReducer *reducer);

// Staging bytes that the reducer holds. Every bucket has staging of its own, so that all may be under way at
// once: exact: the plan's staging slots (other ranks' subtrees) times this rank's shard, with W a power of
// two a little less than one model, of 4 or, rounded, 2 bytes an element; fast: one shard.
size_t ls_reducer_bytes(const LsReducer *reducer);

// Blocks of staging that an exact reducer will hold; in_place: the ranks of the plan's host read each other's
// memory where it is (LsHostMap).
LsStatus ls_reducer_staging(const LsPlan *plan, const LsBuckets *buckets, bool in_place, size_t *blocks);

// All-gathers bucket by bucket: every rank's piece of `flat` (elements of `element` bytes, whole model,
// device memory) to all ranks, in place. Elements have 1, 2, 4 or 8 bytes; the first call allocates what
// later ones reuse. Ordered as ls_comm_gather_device.
LsStatus ls_comm_gather_shards(LsComm *comm, const LsBuckets *buckets, void *flat, size_t element);

// The same gather while the compute stream goes on with what is there: a forward pass that reads `flat` from
// its start to its end waits for each part when it comes to it. What the compute stream is given after upto
// finds the first `elements` elements there, after end all of them; upto may come within a graph, which then
// waits at that place whenever it is launched. One gather at a time; buckets are lent to it, and `flat` is
// not written until it has ended. Where a transport cannot go on by itself, begin waits for all. All three
// are made by all ranks; without a gather the last two do nothing.
LsStatus ls_comm_gather_begin(LsComm *comm, const LsBuckets *buckets, void *flat, size_t element);
LsStatus ls_comm_gather_upto(LsComm *comm, size_t elements);
LsStatus ls_comm_gather_end(LsComm *comm);
bool ls_comm_gathers(const LsComm *comm); // whether one has begun and not ended

#endif
