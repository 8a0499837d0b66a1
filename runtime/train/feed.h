// The way of microbatches from the loader's threads to the device: copied on the copy stream while the device
// computes the one before, and given back to the loader once they are there.
#ifndef LOCKSTEP_TRAIN_FEED_H
#define LOCKSTEP_TRAIN_FEED_H

#include "collectives/comm.h"
#include "data/loader.h"
#include "train/batch.h"

// Microbatches in flight on a device that works behind the host's back.
enum { LS_FEED_SETS = 2 };

typedef struct LsFeedSet {
    const LsHostBatch *host; // the loader's, until it is copied
    LsMarker *copied;        // on the copy stream
    LsMarker *used;          // on the compute stream: the set may be filled again
} LsFeedSet;

typedef struct LsFeed {
    LsComm *comm;         // lent, as are the next three
    LsDevice *device;     //
    LsLoader *loader;     // NULL until it runs
    LsDeviceBatch *batch; // of ls_feed_sets sets
    size_t sets, next;
    LsFeedSet set[LS_FEED_SETS];
} LsFeed;

// Sets that a device needs: one where copies are done when their call returns.
size_t ls_feed_sets(bool discrete);

LsStatus ls_feed_create(LsComm *comm, LsDeviceBatch *batch, LsDevice *device, LsFeed *out);
void ls_feed_destroy(LsFeed *feed); // the device has finished what it was given

// Gives everything back to the loader, which is going to be destroyed. The device has finished what it was
// given.
void ls_feed_forget(LsFeed *feed);

// The next microbatch: what the compute stream is given from now on finds its rows in `*set`. *waited grows
// by the seconds spent waiting for the loader.
LsStatus ls_feed_next(LsFeed *feed, size_t *set, size_t *rows, double *waited);

// Everything that reads the set has been enqueued.
LsStatus ls_feed_used(LsFeed *feed, size_t set);

#endif
