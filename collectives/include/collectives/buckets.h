// Buckets: the flat gradient buffer cut into ranges of whole blocks that are communicated as units. The model
// and their size (collectives.bucket_mb) alone fix them, so they are the same for every number of ranks. No
// bit of a sum depends on them.
//
// A rank's shard is the union of its pieces of all buckets; shard memory is packed: bucket after bucket.
#ifndef LOCKSTEP_COLLECTIVES_BUCKETS_H
#define LOCKSTEP_COLLECTIVES_BUCKETS_H

#include "collectives/plan.h"

typedef struct LsBucket {
    size_t first_block, blocks; // in the flat buffer
} LsBucket;

typedef struct LsBuckets {
    size_t count;
    size_t blocks;    // of the whole flat buffer
    LsBucket *bucket; // in the order in which backward finishes them: from the end of the buffer to its start
} LsBuckets;

enum { LS_BUCKET_MB = 25 };

// Bytes of so many mebibytes; of LS_BUCKET_MB for 0, which is `auto` where nothing is measured.
size_t ls_bucket_bytes(double mebibytes);

// Cuts `blocks` blocks into buckets of about `bucket_bytes` bytes of FP32 gradients, from the end of the
// buffer (whose gradients are final first). The first bucket is smaller (a quarter), so that communication
// starts early. Freed by ls_buckets_free.
LsStatus ls_buckets_create(size_t blocks, size_t bucket_bytes, LsBuckets *out);
void ls_buckets_free(LsBuckets *buckets);

// The blocks of bucket `b` that `rank` owns, as positions in the flat buffer.
LsBlockRange ls_bucket_piece(const LsBuckets *buckets, size_t b, uint32_t ranks, uint32_t rank);

// Blocks that some consecutive pieces of a bucket have together.
size_t ls_span_blocks(LsBucket bucket, uint32_t ranks, LsPieceSpan span);

// Blocks owned by `rank` in all buckets, and in the buckets before `b`: the place of b's piece in the packed
// shard.
size_t ls_shard_blocks(const LsBuckets *buckets, uint32_t ranks, uint32_t rank);
size_t ls_shard_offset(const LsBuckets *buckets, size_t b, uint32_t ranks, uint32_t rank);

// Blocks that the rank sends when the plan is executed for every bucket; in_place: of phase 0 nothing is sent
// where the plan allows it (LsPlan.host).
size_t ls_sent_blocks(const LsBuckets *buckets, const LsPlan *plan, bool in_place);

#endif
