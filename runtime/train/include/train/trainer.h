// The trainer: everything a run owns, and the step.
//
// One step: microbatches of this rank's lanes → forward → backward, which hands out finished gradient ranges
// → each bucket is reduced along the lane plan → one small exchange (lane losses, block norms, votes) → the
// step's decision, on the device → one optimizer pass over this rank's shard → parameters gathered.
#ifndef LOCKSTEP_TRAIN_TRAINER_H
#define LOCKSTEP_TRAIN_TRAINER_H

#include "base/config.h"
#include "collectives/comm.h"
#include "data/dataset.h"
#include "train/checkpoint.h"
#include "train/pulse.h"

// What a signal handler leaves behind; written by it alone.
typedef struct LsStopSignal {
    volatile int number;     // of the newest signal that asks to stop, 0: none
    volatile double seconds; // ls_clock_seconds when the first of them came
    volatile int continued;  // SIGCONTs so far
} LsStopSignal;

// Benchmarks look at a run while it goes on: a rehearsal, which makes no evaluation, no log line, and no
// checkpoint but those that are due every so many steps.
struct LsStepRecord;
typedef struct LsStepObserver {
    int64_t every; // steps; at least 1
    // On every rank, behind every so many steps: means over them, times as this rank has them. What is done
    // here is in no step's time. False, on all ranks alike, ends the run.
    bool (*look)(void *context, const struct LsStepRecord *record);
    void *context;
} LsStepObserver;

typedef struct LsTrainOptions {
    const LsConfig *config; // validated
    const char *run_dir;
    const char *resume; // "auto", "never" or a checkpoint directory
    int profile_steps;  // 0: none; else write <run>/profile/rank-NNNN.json, a Chrome trace of that many steps
    LsComm *comm;
    LsDevice *device;                // lent; NULL: the device that the configuration names
    bool quiet;                      // no progress line
    LsPulse *pulse;                  // lent; NULL: nobody watches
    const LsStopSignal *stop_signal; // NULL: no signal asks to stop
    const LsStepObserver *observer;  // NULL: this is no rehearsal
} LsTrainOptions;

// Trains to the end. LS_OK: done. LS_STOPPED: asked to stop, a durable checkpoint is there. LS_DIVERGED and
// other failures as they come; status.json says so in every case.
LsStatus ls_train(const LsTrainOptions *options);

// The configuration's data set, which must have a training split. Closed by the caller.
LsStatus ls_train_open_data(const LsConfig *config, LsDataset **out);

// Prints what a run would do on `ranks` ranks: lanes per rank and balance, rows per product, bytes sent,
// memory by purpose. ranks_per_host: 0 where it is not known; then all that ranks tell each other are
// messages. No run directory, no MPI traffic.
LsStatus ls_train_dry_run(const LsConfig *config, int ranks, int ranks_per_host, FILE *out);

#endif
