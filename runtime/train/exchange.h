// The small exchange of a step: lane losses, block sums of squares and votes of every rank, gathered once.
//
// A rank contributes LS_VOTE_WORDS words of votes, one float for each of its lanes and one for each block of
// its shard. The device reads the gathered words through index tables in canonical order (lane by lane, block
// by block), so what it decides does not depend on the number of ranks.
#ifndef LOCKSTEP_TRAIN_EXCHANGE_H
#define LOCKSTEP_TRAIN_EXCHANGE_H

#include "collectives/comm.h"

enum { LS_VOTE_WORDS = 4 };

// What a rank wants all ranks to do after this step. Combined: the largest value of each.
typedef struct LsVotes {
    uint32_t stop;  // LsStopReason
    uint32_t error; // LsStatus of a failure in this step, LS_OK if none
    uint32_t reserved[LS_VOTE_WORDS - 2];
} LsVotes;

typedef enum LsStopReason { LS_STOP_NONE, LS_STOP_TIME, LS_STOP_SIGNAL } LsStopReason;

typedef struct LsExchange {
    LsComm *comm;         // lent
    LsDevice *device;     // lent
    size_t lanes, blocks; // of the model and batch
    size_t my_lanes, my_blocks;
    size_t ranks, total_words;
    size_t *bytes;                      // [ranks] contributed by each rank
    uint32_t *mine, *all;               // host
    float *device_mine;                 // [my_lanes + my_blocks] lane losses, then block sums: written by ops
    float *device_all;                  // [total_words]
    uint32_t *lane_index, *block_index; // device
} LsExchange;

LsStatus ls_exchange_create(
    LsComm *comm, LsDevice *device, const LsPlan *plan, const LsBuckets *buckets, LsExchange *out);
void ls_exchange_destroy(LsExchange *exchange);

// Where ops put this rank's numbers: lane losses (in the order of its lanes) and sums of squares of bucket
// b's piece.
float *ls_exchange_lane_loss(const LsExchange *exchange, size_t my_lane);
float *ls_exchange_block_squares(const LsExchange *exchange, size_t shard_block);

// Collective. Gathers, leaves the words on the device and combines the votes.
LsStatus ls_exchange_run(LsExchange *exchange, const LsVotes *mine, LsVotes *combined);

#endif
