// A thread that makes the additions of a reducer's phase 0 while the rank's own thread computes, where that
// phase is read in place. Private to this layer.
//
// The rank's thread gives it bucket after bucket. A bucket is held by one thread at a time, which alone looks
// whether everybody's part is there and then adds: the helper does so whenever there is something, the rank's
// thread where it asks for it, because it has nothing else to do. Who added changes no bit.
//
// The helper makes no MPI call, allocates nothing, keeps no deadline and takes no signal. With nothing to do
// it sleeps. When a peer is late it looks again and again, after longer and longer pauses, up to a
// millisecond.
#ifndef LOCKSTEP_COLLECTIVES_REDUCER_PROGRESS_H
#define LOCKSTEP_COLLECTIVES_REDUCER_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct LsReducerProgress LsReducerProgress;

// What there is to do. Both calls come from the thread that holds bucket b; those for different buckets may
// come from both threads at once.
typedef struct LsReducerProgressWork {
    size_t buckets;
    void *context;                             // lent
    bool (*is_ready)(void *context, size_t b); // all that the additions read is there
    LsStatus (*add)(void *context, size_t b);
} LsReducerProgressWork;

LsStatus ls_reducer_progress_create(const LsReducerProgressWork *work, LsReducerProgress **out);

// Ends the thread. It comes before the release of whatever the work touches, at any time: it waits for the
// additions of one bucket at most, and those of others that have been given are left undone. NULL is fine.
void ls_reducer_progress_destroy(LsReducerProgress *progress);

// Buckets come in order 0, 1, …; bucket 0 begins anew, when all given before have been found to be added.
void ls_reducer_progress_give(LsReducerProgress *progress, size_t b);

// Whether bucket b, which has been given, is added; then its sums are seen. help: the calling thread does it
// if it can be done and nobody is at it. Returns the failure of its additions, whoever made them.
LsStatus ls_reducer_progress_look(LsReducerProgress *progress, size_t b, bool help, bool *added);

#endif
