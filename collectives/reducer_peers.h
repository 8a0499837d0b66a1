// Where a plan's received pieces lie in the memory of those who would send them: for transports whose ranks
// read each other's. Private to this layer.
#ifndef LOCKSTEP_COLLECTIVES_REDUCER_PEERS_H
#define LOCKSTEP_COLLECTIVES_REDUCER_PEERS_H

#include "backend.h"

typedef struct LsReducerPeers {
    LsTransport *transport;       // NULL: pieces are sent and received
    float *copy[LS_SUBTREES_MAX]; // what the others read instead of slot s, where that is not the transport's
    LsView *view[LS_SUBTREES_MAX];
    const float **source; // [staging slots] a whole model each
    bool *reads;          // [ranks] whether a rank's slots are among them
} LsReducerPeers;

// Collective. Leaves `out` zeroed where the transport does not share memory or the plan is not the direct
// exchange that ls_plan_compile makes. slot: as in LsReducerOptions, `elements` each.
LsStatus ls_reducer_peers_create(LsComm *comm, const LsPlan *plan, float *const *slot, size_t elements,
    size_t buckets, LsReducerPeers *out);
void ls_reducer_peers_free(LsReducerPeers *peers, LsComm *comm);

#endif
