// Where the time of a step goes, from the trace that the trainer writes.
#ifndef LOCKSTEP_LAUNCH_PHASES_H
#define LOCKSTEP_LAUNCH_PHASES_H

#include "rehearsal.h"

// Reads rank 0's trace of a profiled rehearsal; *out: an array of {"name", "seconds": spread} in the order in
// which phases first occur, "other" last: the rest of the step. Seconds of one step; disturbed windows do not
// count. LS_INTERNAL when the trace is not what the trainer writes.
LsStatus ls_phases_read(const LsRehearsal *rehearsal, int64_t warm_up, int64_t every, json_t **out);

#endif
