// Where the pieces received in a plan's phase 0 lie in the memory of those who would send them: for
// transports whose ranks read each other's. Private to this layer.
#ifndef LOCKSTEP_COLLECTIVES_REDUCER_PEERS_H
#define LOCKSTEP_COLLECTIVES_REDUCER_PEERS_H

#include "backend.h"

typedef struct LsReducerPeers {
    LsTransport *transport;      // NULL: pieces are sent and received in all phases
    void *copy[LS_SUBTREES_MAX]; // what the others read instead of slot s, where that is not the transport's
    LsView *view[LS_SUBTREES_MAX];
    const void **source; // [staging slots] a whole model each; NULL: received in a later phase
    bool *reads;         // [ranks] whether a rank's slots are among them
} LsReducerPeers;

// Collective. Leaves `out` zeroed on all ranks where the plan has no phase to be read in place (LsPlan.host)
// or the transport does not reach all ranks of it. slot: as in LsReducerOptions, `bytes` each.
LsStatus ls_reducer_peers_create(
    LsComm *comm, const LsPlan *plan, void *const *slot, size_t bytes, size_t buckets, LsReducerPeers *out);
void ls_reducer_peers_free(LsReducerPeers *peers, LsComm *comm);

#endif
