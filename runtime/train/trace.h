// --profile: spans of a few steps, written as a Chrome trace (chrome://tracing, Perfetto) per rank, and as
// ranges in the timeline of a GPU's profiler.
#ifndef LOCKSTEP_TRAIN_TRACE_H
#define LOCKSTEP_TRAIN_TRACE_H

#include "base/status.h"

typedef struct LsTrace LsTrace;

// Room for `steps` steps; what comes after that many is not recorded. All calls accept NULL and do nothing.
LsStatus ls_trace_create(int rank, int steps, LsTrace **out);
void ls_trace_destroy(LsTrace *trace);

// A span of the phase `name` (a literal). Spans of one thread nest.
void ls_trace_begin(LsTrace *trace, const char *name);
void ls_trace_end(LsTrace *trace);

// Counts a step; true when the last one wanted has just ended.
bool ls_trace_step(LsTrace *trace);

// True while steps are still being recorded.
bool ls_trace_open(const LsTrace *trace);

// Writes `directory`/rank-NNNN.json.
LsStatus ls_trace_write(const LsTrace *trace, const char *directory);

#endif
