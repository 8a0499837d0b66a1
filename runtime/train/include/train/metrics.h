// What a run tells: metrics.jsonl, events.jsonl, status.json and the progress line. Rank 0 only; every
// function accepts a NULL `metrics` and does nothing.
#ifndef LOCKSTEP_TRAIN_METRICS_H
#define LOCKSTEP_TRAIN_METRICS_H

#include <stdio.h>

#include "base/json.h"
#include "train/account.h"
#include "train/run_dir.h"

typedef struct LsMetrics LsMetrics;

typedef struct LsStepRecord {
    int64_t step;
    float loss, lr, gradient_norm, loss_scale;
    double step_seconds, data_seconds,
        comm_seconds;               // means per step since the last record; comm: exposed,
                                    // as far as the host waits for it (with NCCL it does not)
    double samples_per_second, mfu; // mfu < 0: peak not known
    int slowest;                    // rank, by its own work
    double slowest_ratio;           // of its time to the ranks' median; 0: not known
} LsStepRecord;

typedef struct LsProgress {
    int64_t total_steps;       // 0: unknown
    double epoch, eta_seconds; // eta < 0: unknown
    size_t memory_bytes;       // 0: not shown
} LsProgress;

// The progress line, without an end of line:
// step 1200/5000 24% | epoch 0.71 | loss 3.412 | gnorm 0.84 | lr 2.9e-04 | 412.3k tok/s | mfu 41% | …
void ls_progress_line(const LsStepRecord *record, const LsProgress *progress, size_t tokens_per_sample,
    char *text, size_t size);

typedef struct LsMetricsOptions {
    bool quiet;               // no progress line
    size_t tokens_per_sample; // 0: the samples are no sequences, the rate is in samples
    FILE *progress;           // where the progress line goes; NULL: standard output
    LsAccount *account;       // lent; for `goodput` of status.json, NULL: there is none
    LsPulse *pulse;           // lent; learns when this thread writes, NULL: nobody watches
} LsMetricsOptions;

// Opens the files for appending; a line that a dead attempt left unfinished is removed. `options` NULL: all
// zero. Once a newer attempt has claimed the run, what follows is LS_IO and writes nothing (a tenth of a
// second later at the latest, which a newer attempt's ls_metrics_rewind waits for).
LsStatus ls_metrics_open(const LsRunDir *run, const LsMetricsOptions *options, LsMetrics **out);
void ls_metrics_close(LsMetrics *metrics);

// Removes the lines of metrics.jsonl past `step`, because the run resumes there. newest: step of the newest
// checkpoint that a later attempt might resume from all the same, since it could only not be read now; its
// lines are kept aside in metrics-ahead.jsonl, where this call looks for those that metrics.jsonl lacks.
LsStatus ls_metrics_rewind(LsMetrics *metrics, int64_t step, int64_t newest);

// Appends a line and shows the progress line (in place on a terminal). status.json follows every few
// seconds.
LsStatus ls_metrics_step(LsMetrics *metrics, const LsStepRecord *record, const LsProgress *progress);

// Appends an event {"time", "event", "attempt", "step", …}: `kind` is start, resume, checkpoint, preempt,
// restart, skip, eval, autotune, buckets, goodput or stop; takes `details` (an object whose members are
// added, may be NULL).
LsStatus ls_metrics_event(LsMetrics *metrics, const char *kind, int64_t step, json_t *details);

// Everything is on disk (fsync) when this returns: called before a checkpoint is committed.
LsStatus ls_metrics_sync(LsMetrics *metrics);

// Replaces status.json: `fields` (an object, borrowed, may be NULL) are merged over the last ones written.
// Every key is always there, null while it is unknown: state, step, epoch, world_size, attempt, train_loss,
// eval, samples_per_second, tokens_per_second, checkpoint, message, goodput, updated_at. attempt, goodput,
// updated_at and what ls_metrics_step is told are filled in here.
LsStatus ls_metrics_status(LsMetrics *metrics, const json_t *fields);

// For who speaks about a run in which no rank lives, where nobody has its files open: appends an event, as
// ls_metrics_event does; takes `details`.
LsStatus ls_metrics_append_event(
    const char *run_dir, int attempt, const char *kind, int64_t step, json_t *details);

// The same for status.json: replaces state and message, and leaves the rest as the ranks wrote it. Does
// nothing when its state is not `before` (NULL: whatever it is) or there is none.
LsStatus ls_metrics_replace_state(
    const char *run_dir, const char *before, const char *state, const char *message);

#endif
