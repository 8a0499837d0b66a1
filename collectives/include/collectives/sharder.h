// Reduces gradients that are not kept: lane by lane, in rounds (LsRounds), from memory that the next tensors'
// gradients overwrite, to sums of this rank's shard.
#ifndef LOCKSTEP_COLLECTIVES_SHARDER_H
#define LOCKSTEP_COLLECTIVES_SHARDER_H

#include "collectives/comm.h"

// So many buckets may be under way at once; each has memory for what it receives.
enum { LS_SHARDER_SETS = 2 };

typedef struct LsSharder LsSharder;

typedef struct LsSharderOptions {
    const LsRounds *rounds;   // lent, as is all here; outlives the sharder
    const LsBuckets *buckets; //
    float *const *gradient;   // [buckets->count] where bucket b of the lane being computed lies
    float *const *sum;        // [rounds->sums] of this rank's shard, packed; the total ends in sum[0]
    bool rounded; // gradients and sums become BF16 numbers (LsTreeAdd), which travel so. Those under way are
                  // the sharder's own; sum: [1], the total
} LsSharderOptions;

// Collective.
LsStatus ls_sharder_create(LsComm *comm, const LsSharderOptions *options, LsSharder **out);
void ls_sharder_destroy(LsSharder *sharder);

// The marker that says that bucket b's gradients of the lane are final. The caller records it in the compute
// stream before each ls_sharder_begin of the bucket.
LsMarker *ls_sharder_final(LsSharder *sharder, size_t b);

// Starts the reduction of bucket b of a round: of round 0 the buckets 0, 1, …, then of round 1, the same on
// all ranks, also on one that has no lane in the last round. Waits, with the communicator's deadline, until
// no more than LS_SHARDER_SETS are under way.
LsStatus ls_sharder_begin(LsSharder *sharder, uint32_t round, size_t b);

// Advances what has begun without waiting.
LsStatus ls_sharder_poll(LsSharder *sharder);

// What the compute stream is given from now on may overwrite bucket b's gradients.
LsStatus ls_sharder_release(LsSharder *sharder, size_t b);

// What the compute stream is given from now on finds all that was begun reduced.
LsStatus ls_sharder_finish(LsSharder *sharder);

// Bytes of the sharder's own memory: for received pieces; rounded, also for gradients to send and for sums.
size_t ls_sharder_bytes(const LsRounds *rounds, const LsBuckets *buckets, bool rounded);

#endif
