// metrics.jsonl where a run goes back to an earlier step. Private to this layer.
#ifndef LOCKSTEP_TRAIN_METRICS_REWIND_H
#define LOCKSTEP_TRAIN_METRICS_REWIND_H

#include <stdint.h>

#include "base/status.h"

// Puts a new file in the place of `path`, whose lines end with step `step`: what is still appended to the old
// one, by an attempt that was superseded while it stood still, goes nowhere. A newer checkpoint, of step
// `newest`, that cannot be used now may be again after the next start, and the run go on from there: the
// lines up to it are kept in the file `ahead`, and those that the run lacks up to `step` come from there.
LsStatus ls_metrics_rewind_file(const char *path, const char *ahead, int64_t step, int64_t newest);

#endif
