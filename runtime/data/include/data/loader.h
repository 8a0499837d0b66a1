// The loader: worker threads that bring the next microbatches while the rank computes.
//
// The stream of training samples is endless: position p lies in epoch p / N and is sample permute(seed,
// epoch, N)[p mod N], N being the samples of an epoch. Batches cross epochs. A step's global batch is the
// positions [cursor, cursor + batch); lane l of L gets the l-th contiguous L-th of it, microbatch a of A the
// a-th part of that.
#ifndef LOCKSTEP_DATA_LOADER_H
#define LOCKSTEP_DATA_LOADER_H

#include "data/augment.h"
#include "data/dataset.h"

// The sample at a stream position: O(1).
uint64_t ls_stream_sample(uint64_t seed, uint64_t samples, uint64_t position);

// Of tokens, a sample is a window, and those of an epoch lie side by side from a random token before the
// window'th on. Each epoch has another one: a text that is read again is cut elsewhere. ls_stream_windows is
// how many an epoch has, at least 1, of more `tokens` than a `window` has; ls_stream_window the first token
// of the one at a stream position, O(1).
size_t ls_stream_windows(size_t tokens, size_t window);
uint64_t ls_stream_window(uint64_t seed, size_t tokens, size_t window, uint64_t position);

// One microbatch as raw rows in host memory; owned by the loader, valid until it is returned.
typedef struct LsHostBatch {
    size_t rows;
    uint64_t *positions; // [rows]
    void *x;             // [rows][features] of the file's type
    void *y;             // [rows] int32 or [rows][outputs] float32
} LsHostBatch;

typedef struct LsLoader LsLoader;

// Memory that batches are made of, for instance pinned memory of a device. NULL functions: ordinary memory.
typedef struct LsHostMemory {
    LsStatus (*allocate)(void *context, size_t bytes, void **out);
    void (*release)(void *context, void *memory);
    void *context;
} LsHostMemory;

typedef struct LsLoaderOptions {
    uint64_t seed;
    uint64_t cursor;                      // first stream position of the next step
    size_t batch;                         // global
    size_t lanes, first_lane, lane_count; // of the global batch, and this rank's
    size_t lane_stride;                   // from one of its lanes to the next; 0: 1
    size_t accumulation;                  // microbatches per lane
    int workers;                          // threads, at least 1; they unbind themselves from the rank's core
    int prefetch;                         // microbatches ahead, at least 1
    LsHostMemory memory;
    LsAugmentation augmentation; // of images, done by the workers
} LsLoaderOptions;

// Starts the workers on the training split. They bring, step after step, this rank's microbatches in the
// order (step, lane, part). LS_CONFIG for options that do not fit each other or the data.
LsStatus ls_loader_create(const LsDataset *dataset, const LsLoaderOptions *options, LsLoader **out);
void ls_loader_destroy(LsLoader *loader);

// The next microbatch in order; waits for it. A worker's failure is returned here. *waited (may be NULL)
// grows by the seconds spent waiting.
LsStatus ls_loader_next(LsLoader *loader, const LsHostBatch **out, double *waited);

// Gives the microbatch back for refilling.
void ls_loader_return(LsLoader *loader, const LsHostBatch *batch);

// ---- Any lane -------------------------------------------------------------------------------------------

// Reads microbatches of any lane, one at a time, in the calling thread: for a rank that looks at what another
// one computed.
typedef struct LsLaneReader LsLaneReader;

// Of the options, cursor, first_lane, lane_count, workers and prefetch do not matter.
LsStatus ls_lane_reader_create(const LsDataset *dataset, const LsLoaderOptions *options, LsLaneReader **out);
void ls_lane_reader_destroy(LsLaneReader *reader);

// Microbatch `part` of a lane of the step whose first stream position is `cursor`; valid until the next call.
LsStatus ls_lane_reader_read(
    LsLaneReader *reader, uint64_t cursor, size_t lane, size_t part, const LsHostBatch **out);

#endif
