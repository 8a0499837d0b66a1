// What the supervisor reads and writes of a run's directory; it writes only while no rank lives.
#ifndef LOCKSTEP_SUPERVISOR_RECORD_H
#define LOCKSTEP_SUPERVISOR_RECORD_H

#include "train/metrics.h"

typedef struct LsRecord {
    const char *run_dir; // lent
    int lock;            // held while the supervisor lives; -1: none
} LsRecord;

// One supervisor for a run: takes RUN/launch.lock, and waits for the ranks of a dead one to be gone. Both for
// some seconds at most; LS_IO then, with who is in the way.
LsStatus ls_record_open(const char *run_dir, LsRecord *out);
void ls_record_close(LsRecord *record);

// After a launch of this supervisor whose ranks were `attempt`, and of which some may live on out of reach,
// on a host that is cut off or frozen: takes the run's lock away from that attempt, so that the next one need
// not wait for it. It is fenced by its number from then on. Does nothing when nobody holds the lock, or
// somebody else.
void ls_record_release(const LsRecord *record, uint32_t attempt);

// The newest durable checkpoint's step, -1: none.
int64_t ls_record_durable(const LsRecord *record);

#endif
