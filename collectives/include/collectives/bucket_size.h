// The size of buckets by measurement (collectives.bucket_mb: auto): which sizes are worth a try for a model,
// and which of them the times speak for. Who measures is the trainer.
//
// Small buckets leave little to reduce behind backward's end; large ones cost fewer messages and waits.
#ifndef LOCKSTEP_COLLECTIVES_BUCKET_SIZE_H
#define LOCKSTEP_COLLECTIVES_BUCKET_SIZE_H

#include "collectives/buckets.h"

// Of one size.
typedef struct LsBucketTime {
    double mebibytes;
    double seconds; // the slowest rank's median
    double spread;  // the median of what that rank's samples are off it
} LsBucketTime;

enum { LS_BUCKET_SIZES_MAX = 4 };

// Sizes to try for a model of `blocks` blocks, whose times are not known yet: LS_BUCKET_MB first, then four
// times as much, a quarter, and a quarter of that. A size is left out that cuts the model as one before it
// does, so for a small model only the first is left, or cuts it into more than LS_BUCKETS_TRIED.
enum { LS_BUCKETS_TRIED = 512 };
LsStatus ls_bucket_sizes(size_t blocks, LsBucketTime time[LS_BUCKET_SIZES_MAX], size_t *sizes);

// seconds: [ranks][sizes][samples], which are put in order. Fills in the times and returns the fastest size;
// 0, the first, unless another one is faster by more than the spreads of both.
size_t ls_bucket_size_choose(double *seconds, size_t ranks, size_t sizes, size_t samples, LsBucketTime *time);

#endif
