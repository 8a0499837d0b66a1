// One size of a collective benchmark: its memory, the numbers in it, the ways to run it and what they must
// give. Private to the collective benchmarks.
//
// Lane l contributes numbers of widely differing size, so that another order of additions shows in the bits.
#ifndef LOCKSTEP_LAUNCH_COLLECTIVE_H
#define LOCKSTEP_LAUNCH_COLLECTIVE_H

#include "bench.h"

typedef enum LsContender {
    LS_CONTENDER_EXACT,  // along the lane plan, in the communicator's memory
    LS_CONTENDER_COPIED, // the same behind a copy from ordinary memory
    LS_CONTENDER_FAST,   // the library adds up, we gather
    LS_CONTENDER_LIBRARY,
    LS_CONTENDERS
} LsContender;

typedef struct LsCollectiveOptions {
    LsComm *comm; // with a device attached
    LsDevice *device;
    LsLibraryCall call;
    uint32_t lanes;
    const LsHostMap *hosts; // for which the plan is made; NULL: as if each rank had its own. Lent
    size_t bucket_bytes;
    bool rounded; // the exact reduction is one of BF16 numbers (collectives.wire)
} LsCollectiveOptions;

// The plan of any of the ranks.
LsStatus ls_collective_plan(const LsCollectiveOptions *options, uint32_t rank, LsPlan *out);

// All of it is the collective's own but comm and device, which are lent. It stays where it was created: its
// reducers are lent plan and buckets.
typedef struct LsCollective {
    LsCollectiveOptions options;
    LsPlan plan;
    LsBuckets buckets;
    size_t elements;                  // of the message
    size_t padded;                    // the same in whole blocks: what is reduced
    size_t part;                      // elements of a rank's part where the library cuts the message evenly
    size_t room;                      // elements that hold either
    float **slot;                     // [plan.lane_slots] the communicator's memory
    uint16_t *half[LS_SUBTREES_MAX];  // the same for sums of BF16 numbers, which the slots are not used for
    float *ordinary[LS_SUBTREES_MAX]; // what belongs into the slots
    float *result;                    // of the exact and the fast reduction; common to the ranks of a host
    float *from, *to; // the library's: this rank's whole sum, or its part to gather; the result
    float *host;      // [room]
    LsReducer *exact, *fast;
    LsMarker *done;
} LsCollective;

// Collective call; a failure is everybody's. bytes: of the message, a multiple of 4.
LsStatus ls_collective_create(const LsCollectiveOptions *options, size_t bytes, LsCollective *out);
void ls_collective_destroy(LsCollective *collective);

// Whether a contender has a part in this call.
bool ls_collective_has(const LsCollective *collective, LsContender contender);

// Puts the numbers into place and waits for the device.
LsStatus ls_collective_fill(LsCollective *collective, LsContender contender);

// Enqueues it once; ls_collective_wait waits until the device is done.
LsStatus ls_collective_run(LsCollective *collective, LsContender contender);
LsStatus ls_collective_wait(LsCollective *collective);

// After one run of freshly filled memory: how many of this rank's results are wrong. Exact ones must have
// the lane tree's bits, the others differ by rounding at most.
LsStatus ls_collective_check(LsCollective *collective, LsContender contender, size_t *wrong);

// ---- The numbers (collective_numbers.c) -----------------------------------------------------------------

typedef enum LsSumOrder {
    LS_SUM_IN_A_ROW,
    LS_SUM_TREE,   // as the lane tree does; a power of two lanes
    LS_SUM_ROUNDED // the same, of BF16 numbers
} LsSumOrder;

// Sums the lanes [first, first + count) over elements [start, start + n).
void ls_collective_sum(uint32_t first, uint32_t count, LsSumOrder order, size_t start, size_t n, float *out);

// How many of found[0, n), elements from `start` on of the sum over all lanes, are wrong. In a row: not near
// the tree's sum.
size_t ls_collective_count_wrong(
    uint32_t lanes, LsSumOrder order, size_t start, size_t n, const float *found);

// The same for what rank `owner` contributes to an all-gather.
void ls_collective_part(uint32_t owner, size_t start, size_t n, float *out);

#endif
