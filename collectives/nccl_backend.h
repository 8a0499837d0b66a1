// What the files of the `nccl` transport share. Only they see NCCL's header.
#ifndef LOCKSTEP_COLLECTIVES_NCCL_BACKEND_H
#define LOCKSTEP_COLLECTIVES_NCCL_BACKEND_H

#include <nccl.h>

#include "backend.h"

_Static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 0), "NCCL 2.19 or newer is needed: ncclCommRegister");

// NCCL's functions, of the library that ls_nccl_require has loaded: a machine without GPUs need not have it.
#define LS_NCCL_FUNCTIONS(X)                                                                                 \
    X(AllGather)                                                                                             \
    X(AllReduce)                                                                                             \
    X(Broadcast)                                                                                             \
    X(CommAbort)                                                                                             \
    X(CommDeregister)                                                                                        \
    X(CommDestroy)                                                                                           \
    X(CommFinalize)                                                                                          \
    X(CommGetAsyncError)                                                                                     \
    X(CommInitRankConfig)                                                                                    \
    X(CommRegister)                                                                                          \
    X(GetErrorString)                                                                                        \
    X(GetLastError)                                                                                          \
    X(GetUniqueId)                                                                                           \
    X(GetVersion)                                                                                            \
    X(GroupEnd)                                                                                              \
    X(GroupStart)                                                                                            \
    X(Recv)                                                                                                  \
    X(Reduce)                                                                                                \
    X(ReduceScatter)                                                                                         \
    X(Send)

typedef struct NcclFunctions {
#define LS_NCCL_MEMBER(name) __typeof__(&nccl##name) name;
    LS_NCCL_FUNCTIONS(LS_NCCL_MEMBER)
#undef LS_NCCL_MEMBER
} NcclFunctions;
extern NcclFunctions ls_nccl;

typedef struct NcclMemory NcclMemory;

typedef struct NcclTransport {
    LsTransport base;
    ncclComm_t nccl;     // NULL before it is created and after it was aborted
    cudaStream_t stream; // the device's communication stream
    const char *call;    // what is being waited for, for messages
    NcclMemory *memory;  // what allocate handed out
    size_t markers;
    LsMarker **gathered; // [markers] of a bucket: it is there; grown at the first gather that goes on
} NcclTransport;

static inline NcclTransport *nccl_transport(LsTransport *transport)
{
    return (NcclTransport *)transport;
}

// Ends the job with exit code 1 when `result`, which `call` returned, is a failure.
void ls_nccl_check(NcclTransport *t, ncclResult_t result, const char *call);

// The communicator does not block: `call` may have returned before it was done, and until it is done nothing
// else may be called and nothing of it is in the stream. Waits for it, with the deadline of every wait.
LsStatus ls_nccl_settle(NcclTransport *t, ncclResult_t result, const char *call, const char *what);

LsStatus ls_nccl_gather(LsTransport *transport, const void *mine, void *all, size_t bytes);
LsStatus ls_nccl_gather_shards(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element);
LsStatus ls_nccl_gather_begin(LsTransport *transport, const LsBuckets *buckets, void *flat, size_t element);
LsStatus ls_nccl_gather_wait(LsTransport *transport, size_t bucket);
LsStatus ls_nccl_library(
    LsTransport *transport, LsLibraryCall call, const float *from, float *to, size_t elements);

LsStatus ls_nccl_exchange_create(LsTransport *transport, size_t transfers, LsExchange **out);
void ls_nccl_exchange_destroy(LsExchange *exchange);
LsStatus ls_nccl_exchange_add(LsExchange *exchange, LsTransferKind kind, void *data, size_t blocks,
    size_t element, uint32_t peer, size_t tag);
LsStatus ls_nccl_exchange_set_reduce_scatter(
    LsExchange *exchange, const float *from, float *piece, const size_t *blocks);
LsStatus ls_nccl_exchange_start(LsExchange *exchange);
LsStatus ls_nccl_exchange_test(LsExchange *exchange, size_t *outstanding);
void ls_nccl_exchange_mark_pending(const LsExchange *exchange, bool *pending);

#endif
