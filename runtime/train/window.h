// Gradients that are not kept (optimizer.shard: state+gradients): memory for two *regions* of the flat buffer
// at a time, and how the buffer is cut for it.
//
// Backward goes from the end of the flat buffer to its start. A region is a stretch of it that backward
// finishes before it writes in front of it (LsParameter.stage), about a bucket long or as long as its largest
// tensor. Regions take turns in two halves of the memory: while the gradients of one are reduced, backward
// fills the other. What backward adds to all the time, such as a token table that is also the output layer,
// is a region with memory of its own. Buckets lie within regions.
#ifndef LOCKSTEP_TRAIN_WINDOW_H
#define LOCKSTEP_TRAIN_WINDOW_H

#include "collectives/buckets.h"
#include "models/model.h"

typedef struct LsRegion {
    size_t first_block, blocks; // in the flat buffer
    size_t place;               // first block in the window
    size_t first_bucket, buckets;
} LsRegion;

typedef struct LsWindow {
    size_t regions, blocks; // blocks: of the memory
    LsRegion *region;       // in the order of backward
    LsGradientPlaces places;
    LsGradientPlace *part;
} LsWindow;

// Cuts the model's flat buffer into regions and these into buckets of at most about `bucket_bytes` bytes.
// Freed by ls_window_free and ls_buckets_free.
LsStatus ls_window_create(const LsModel *model, size_t bucket_bytes, LsWindow *out, LsBuckets *buckets);
void ls_window_free(LsWindow *window);

// Where bucket b begins, in elements of the window.
size_t ls_window_place(const LsWindow *window, const LsBuckets *buckets, size_t b);

#endif
