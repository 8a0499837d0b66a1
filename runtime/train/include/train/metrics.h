// What a run tells: metrics.jsonl, events.jsonl, status.json and the progress line. Rank 0 only; every
// function accepts a NULL `metrics` and does nothing.
#ifndef LOCKSTEP_TRAIN_METRICS_H
#define LOCKSTEP_TRAIN_METRICS_H

#include "base/json.h"
#include "train/run_dir.h"

typedef struct LsMetrics LsMetrics;

typedef struct LsStepRecord {
    int64_t step;
    float loss, lr, gradient_norm, loss_scale;
    double step_seconds, data_seconds, comm_seconds; // means per step since the last record; comm: exposed
    double samples_per_second, mfu;                  // mfu < 0: peak not known
} LsStepRecord;

typedef struct LsProgress {
    int64_t total_steps; // 0: unknown
    double epoch, eta_seconds;
    size_t memory_bytes;
} LsProgress;

LsStatus ls_metrics_open(const LsRunDir *run, LsMetrics **out);
void ls_metrics_close(LsMetrics *metrics);

// Removes lines of metrics.jsonl past `step` (a resume there); a torn last line goes too.
LsStatus ls_metrics_rewind(LsMetrics *metrics, int64_t step);

// Appends a line and shows the progress line (in place on a terminal).
LsStatus ls_metrics_step(LsMetrics *metrics, const LsStepRecord *record, const LsProgress *progress);

// Appends an event: `kind` is start, resume, checkpoint, preempt, restart, skip, eval or stop; takes
// `details` (an object, may be NULL).
LsStatus ls_metrics_event(LsMetrics *metrics, const char *kind, int64_t step, json_t *details);

// Everything is on disk (fsync) when this returns: called before a checkpoint is committed.
LsStatus ls_metrics_sync(LsMetrics *metrics);

// Replaces status.json: `fields` (an object, borrowed) are merged over the last ones written; state, step and
// so on as in the contract.
LsStatus ls_metrics_status(LsMetrics *metrics, const json_t *fields);

#endif
