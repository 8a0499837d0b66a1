// The small exchange of a step: votes, lane losses and block sums of squares of every rank, gathered once in
// device memory.
//
// A rank contributes `rank_words` words, the same number on every rank: its votes, what it found of a lane
// that is checked (where lanes are), one float for each of its lanes, one for each block of its shard, with
// LARS another one for each block's weights, and padding. The device reads the gathered words through index
// tables in canonical order (lane by lane, block by block), so what it decides does not depend on the number
// of ranks. One rank alone computes into the gathered words and nothing is copied.
#ifndef LOCKSTEP_TRAIN_EXCHANGE_H
#define LOCKSTEP_TRAIN_EXCHANGE_H

#include "collectives/comm.h"

// Steps whose host memory may be in use at once: the one being enqueued and the one before it.
enum { LS_STEPS_IN_FLIGHT = 2 };

// What a rank finds of a lane that is checked: the fingerprint of its gradients and its loss. A rank finds it
// as the one whose lane it is, or as the one that computes it again; alone it is both.
typedef enum LsCheckRole { LS_CHECK_OWNER, LS_CHECK_WITNESS, LS_CHECK_ROLES } LsCheckRole;
enum { LS_CHECK_WORDS = 3 };

typedef struct LsExchange {
    LsComm *comm;         // lent
    LsDevice *device;     // lent
    size_t lanes, blocks; // of the model and batch
    size_t my_lanes, my_blocks;
    bool weights;       // squares of weights travel, too
    size_t check_words; // of each rank: of all roles, or 0
    size_t ranks, rank, rank_words;
    float *words;                       // device [ranks][rank_words]
    uint32_t *lane_index, *block_index; // device
    uint32_t *weight_index;             // the same of squares of weights; NULL: none
    LsVotes *votes;                     // pinned [LS_STEPS_IN_FLIGHT]
    LsVotes sent;                       // what the device holds as this rank's votes
} LsExchange;

// checks: lanes can be checked. weights: squares of weights are exchanged.
LsStatus ls_exchange_create(LsComm *comm, LsDevice *device, const LsPlan *plan, const LsBuckets *buckets,
    bool checks, bool weights, LsExchange *out);
void ls_exchange_destroy(LsExchange *exchange);

// Where ops put this rank's numbers: lane losses (in the order of its lanes) and sums of squares, of
// gradients and of weights, of block `shard_block` of its shard.
float *ls_exchange_lane_loss(const LsExchange *exchange, size_t my_lane);
float *ls_exchange_block_squares(const LsExchange *exchange, size_t shard_block);
float *ls_exchange_weight_squares(const LsExchange *exchange, size_t shard_block);

// Where ops put this rank's finding, and where any rank's is among the gathered words.
float *ls_exchange_finding(const LsExchange *exchange, LsCheckRole role);
size_t ls_exchange_finding_word(const LsExchange *exchange, size_t rank, LsCheckRole role);

// Collective. Enqueues the gathering of what ops wrote and of this rank's votes in step `step`. Whoever calls
// it has waited for the device to finish step - LS_STEPS_IN_FLIGHT.
LsStatus ls_exchange_run(LsExchange *exchange, int64_t step, const LsVotes *mine);

#endif
