// Which checkpoints were read and found whole, so that each is read once. Private to the layer.
#ifndef LOCKSTEP_TRAIN_VERIFIED_H
#define LOCKSTEP_TRAIN_VERIFIED_H

#include <sys/stat.h>

#include "train/checkpoint.h"

enum { LS_VERIFIED_MAX = 16 }; // more than a run asks about; what is forgotten is read again

typedef struct LsVerifiedStep {
    int64_t step;
    ino_t inode; // of the manifest, and when it was written: a step that is saved again is another checkpoint
    struct timespec time;
    LsVerdict verdict; // LATER: no entry
} LsVerifiedStep;

typedef struct LsVerified {
    LsVerifiedStep step[LS_VERIFIED_MAX];
    size_t next;
} LsVerified; // empty when zero

// Reads all of a run's checkpoint and checks it, unless that is known. Between portions it asks `pause`
// (NULL: nobody) whether to go on; LATER when not.
LsVerdict ls_verified_check(
    LsVerified *verified, const char *run, int64_t step, bool (*pause)(void *context), void *context);

#endif
