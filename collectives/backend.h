// What a backend of the communicator provides to comm.c and reducer.c. Private to this layer.
//
// A backend extends LsComm: the first member of its state is an LsComm.
#ifndef LOCKSTEP_COLLECTIVES_BACKEND_H
#define LOCKSTEP_COLLECTIVES_BACKEND_H

#include "collectives/comm.h"

enum { LS_HOST_NAME = 256, LS_BOOT_ID = 64 };

// Something to wait for. `poll` advances it and counts what is outstanding, 0 when it is over; the deadline
// starts anew whenever the count changes. `mark_pending` sets pending[r] for each rank r whose data is
// missing, or is NULL where that cannot be known. `what` completes the sentence "waited 5 s for …".
typedef struct LsWait {
    const char *what;
    LsStatus (*poll)(void *context, size_t *outstanding);
    void (*mark_pending)(void *context, bool *pending);
    void *context;
} LsWait;

// What carries device memory. All of it is called with the communication stream selected: device work goes
// there, and whatever was in the compute stream before has been waited for there.
//
// `host` (mpi_transport.c) takes host-reachable memory to MPI directly. `staged` (staged.c) wraps it for
// discrete devices: device → pinned memory → MPI → pinned memory → device. `shared` (shared.c) is for ranks
// whose devices work in host memory: those of one host read each other's in place, and what goes from host to
// host goes through `host`. `nccl` (nccl.c) enqueues on the communication stream.
typedef struct LsTransport LsTransport;

// A set of concurrent transfers, prepared once and started any number of times. It is either any number of
// sends and receives or one reduce-scatter.
typedef struct LsExchange LsExchange;

// Memory that every rank passed to `view`, as this process sees it, read-only.
typedef struct LsView {
    const void *mine;
    const void **place;    // [ranks] NULL for a rank that passed NULL, and for one of another host
    struct LsSegment *map; // [ranks]
    size_t ranks;
    struct LsView *next; // for the transport
} LsView;

// What a transport offers besides whose ranks can read each other's memory in place, those of a host. `tag` <
// `tags`.
typedef struct LsSharingOps {
    size_t tags;
    bool (*reaches)(LsTransport *transport, int rank);        // this rank sees that one's memory
    bool (*owns)(LsTransport *transport, const void *memory); // came from `allocate`
    // Collective. One memory for all ranks of a host, zeroed; `gather_shards` brings what other hosts' ranks
    // wrote, and of the others only waits until they have.
    LsStatus (*allocate_common)(LsTransport *transport, size_t bytes, void **out);
    // Collective. mine: in memory that the transport owns, or NULL. `unview` comes before its release.
    LsStatus (*view)(LsTransport *transport, const void *mine, size_t bytes, LsView **out);
    void (*unview)(LsView *view);
    // A reduction: each rank posts that its contribution `tag` is final, reads those of the others of its
    // host that are, and after any number of reductions posts once that it has read all, before which no
    // other rank may change its contributions. Of ranks that are not reached only has_read may be asked:
    // true.
    void (*post_final)(LsTransport *transport, size_t tag);
    bool (*is_final)(LsTransport *transport, size_t tag, int rank);
    void (*post_read)(LsTransport *transport);
    bool (*has_read)(LsTransport *transport, int rank);
} LsSharingOps;

typedef struct LsTransportOps {
    const char *name;            // for people: as ls_comm_name
    const LsSharingOps *sharing; // NULL: messages only
    void (*close)(LsTransport *transport);

    // Memory that the transport moves well; NULL: the device's own.
    LsStatus (*allocate)(LsTransport *transport, size_t bytes, void **out);
    void (*release)(LsTransport *transport, void *memory);

    LsStatus (*gather)(LsTransport *transport, const void *mine, void *all, size_t bytes);
    LsStatus (*gather_shards)(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element);
    // Both NULL where that is all. begin starts it, the last bucket first; wait comes once for each bucket in
    // that order, with the compute stream selected, which may be recording a graph. Then the bucket is there
    // for what follows in that stream.
    LsStatus (*gather_begin)(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element);
    LsStatus (*gather_wait)(LsTransport *transport, size_t bucket);

    // See ls_comm_library; NULL: the backend's own does it, because it can reach the memory.
    LsStatus (*library)(
        LsTransport *transport, LsLibraryCall call, const float *from, float *to, size_t elements);

    // For up to `transfers` transfers of blocks. Destroy only what is not under way.
    LsStatus (*exchange_create)(LsTransport *transport, size_t transfers, LsExchange **out);
    void (*exchange_destroy)(LsExchange *exchange);
    // element: bytes of one, 2 or 4. Transfers between the same two ranks with the same tag match in the
    // order in which they are added and started.
    LsStatus (*exchange_add)(LsExchange *exchange, LsTransferKind kind, void *data, size_t blocks,
        size_t element, uint32_t peer, size_t tag);
    // Sums `from` over the ranks; rank r gets blocks[r] blocks of the sum, rank after rank, in its `piece`.
    LsStatus (*exchange_set_reduce_scatter)(
        LsExchange *exchange, const float *from, float *piece, const size_t *blocks);
    // What is received may be used on the communication stream once nothing is outstanding.
    LsStatus (*exchange_start)(LsExchange *exchange);
    LsStatus (*exchange_test)(LsExchange *exchange, size_t *outstanding);
    void (*exchange_mark_pending)(const LsExchange *exchange, bool *pending);

    // Errors that the library reports later than the call that made them; NULL: there are none. Every wait of
    // the communicator calls it now and then.
    LsStatus (*check)(LsTransport *transport);
    // Ends what is under way so that the process can leave; NULL: nothing to do.
    void (*abort)(LsTransport *transport);
} LsTransportOps;

// Transports extend this struct.
struct LsTransport {
    const LsTransportOps *ops;
    LsComm *comm;     // lent
    LsDevice *device; // lent
};

typedef struct LsCommOps {
    const char *name;
    void (*close)(LsComm *comm);
    void (*abort)(LsComm *comm, int exit_code); // may return if the job cannot be ended that way

    LsStatus (*barrier)(LsComm *comm);
    LsStatus (*broadcast)(LsComm *comm, void *data, size_t bytes, int root);
    LsStatus (*all_gather)(LsComm *comm, const void *mine, void *all, const size_t *sizes);

    // Host memory; see ls_comm_library.
    LsStatus (*library)(LsComm *comm, LsLibraryCall call, const float *from, float *to, size_t elements);

    LsStatus (*wait)(LsComm *comm, const LsWait *wait);
} LsCommOps;

struct LsComm {
    const LsCommOps *ops;
    LsDevice *device;           // attached, lent; NULL before
    LsTransport *transport;     // owned; NULL for one rank alone
    LsMarker *before;           // in the compute stream: what the communication stream has to wait for
    LsMarker *after;            // in the communication stream: what the compute stream has to wait for
    const LsBuckets *gathering; // lent; NULL: no gather has begun that has not ended
    size_t missing;             // buckets of it, from the first on, that have not been waited for
    int rank, size, local_rank, local_size;
    LsHostMap hosts; // all ranks'; count 0 where one host's are not contiguous, and in `self`
    double timeout;  // seconds for one wait
    char host[LS_HOST_NAME];
    char boot[LS_BOOT_ID]; // of the kernel underneath: the containers of one machine share it; "" if unknown
};

LsStatus ls_self_open(const LsCommOptions *options, LsComm **out);
LsStatus ls_mpi_open(const LsCommOptions *options, LsComm **out);

// The transports' constructors. `host` is given a communicator of the mpi backend.
LsStatus ls_host_transport_open(LsComm *comm, LsDevice *device, LsTransport **out);

// One owner's pieces of all buckets, to or from another rank. Between two ranks they match in order.
typedef struct LsShardMove {
    LsTransferKind kind;
    uint32_t peer, owner;
} LsShardMove;

// Begins to move shards of `flat` over the transport `host`, the last bucket first, and waits for those of a
// bucket.
LsStatus ls_host_move_begin(LsTransport *host, const LsBuckets *buckets, void *flat, size_t element,
    const LsShardMove *move, size_t moves);
LsStatus ls_host_move_wait(LsTransport *host, size_t bucket, const LsShardMove *move, size_t moves);

LsStatus ls_staged_transport_open(LsComm *comm, LsDevice *device, LsTransport **out);
// For comm->hosts.count > 0. LS_UNAVAILABLE, on all ranks alike, when some cannot reach the memory of others
// of their host.
LsStatus ls_shared_transport_open(LsComm *comm, LsDevice *device, LsTransport **out);
LsStatus ls_nccl_transport_open(
    LsComm *comm, LsDevice *device, LsTransport **out); // LS_UNAVAILABLE without NCCL
LsStatus ls_nccl_require(void); // LS_UNAVAILABLE where this build or machine has no NCCL

#endif
