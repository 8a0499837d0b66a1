// metrics.jsonl where a run goes back to an earlier step. Private to this layer.
#ifndef LOCKSTEP_TRAIN_METRICS_REWIND_H
#define LOCKSTEP_TRAIN_METRICS_REWIND_H

#include <stdint.h>

#include "base/status.h"

// Makes the lines of `path` end with step `step`. fd: the file, open for appending. A newer checkpoint, of
// step `newest`, that cannot be used now may be again after the next start, and the run go on from there: the
// lines up to it are kept in the file `ahead`, and those that the run lacks up to `step` come from there.
LsStatus ls_metrics_rewind_file(const char *path, int fd, const char *ahead, int64_t step, int64_t newest);

#endif
