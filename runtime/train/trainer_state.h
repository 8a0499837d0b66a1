// Everything a run owns. trainer.c creates it in order and destroys it in reverse; resume.c gives it its
// first state, step.c advances it by one step, loop.c drives it to the end.
#ifndef LOCKSTEP_TRAIN_TRAINER_STATE_H
#define LOCKSTEP_TRAIN_TRAINER_STATE_H

#include "arenas.h"
#include "data/loader.h"
#include "exchange.h"
#include "trace.h"
#include "train/batch.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/trainer.h"

enum { LS_FINGERPRINT_MAX = 512 };

// Seconds of the current logging window on this rank.
typedef struct LsStepTimes {
    double start; // clock when the window began
    double data;  // waiting for the loader
    double comm;  // waiting for other ranks: exposed communication
    int64_t steps;
} LsStepTimes;

typedef struct LsTrainer {
    const LsTrainOptions *options;
    const LsConfig *config;
    LsComm *comm;

    LsRunDir run;
    bool entered;       // the run has accepted this attempt: its status is ours to write
    bool adopted;       // it starts from a checkpoint that is none of this run's
    LsMetrics *metrics; // rank 0 only
    LsDataset *dataset;
    const LsDatasetInfo *info;
    LsDevice *device;
    char fingerprint[LS_FINGERPRINT_MAX];
    double peak_flops; // of this rank's products, 0: not known
    LsModel *model;
    LsPlan plan;
    LsBuckets buckets;
    LsArenas arenas;
    LsReducer *reducer;
    LsExchange exchange;
    LsStepControl *control; // device memory
    LsDeviceBatch *batch;
    LsLoader *loader;
    LsTrace *trace;
    uint64_t *quick; // indexes of the quick evaluation, NULL: the whole split
    size_t quick_count;
    LsSplit watched; // split of evaluations during training

    LsRunState state;    // as of the last finished step
    int64_t total_steps; // the run ends after this one
    size_t microbatch;   // rows
    double deadline;     // clock value at which train.max_time is over, 0: never
    int64_t saved_step;  // newest durable checkpoint's step, -1: none
    LsEvaluation newest_evaluation;
    bool evaluated;
    LsStepTimes times;
} LsTrainer;

// The configuration's data set, which must have a training split. Closed by the caller.
LsStatus ls_train_open_data(const LsConfig *config, LsDataset **out);

// Gives arenas, control and state their first values: from a checkpoint, from train.init_from, or fresh.
LsStatus ls_trainer_resume(LsTrainer *trainer);

// One step. *stop: what the ranks agreed on (LsStopReason).
LsStatus ls_trainer_step(LsTrainer *trainer, uint32_t *stop);

// Steps, logs, evaluates and saves until the run ends or is stopped.
LsStatus ls_trainer_run(LsTrainer *trainer);

// Saves the state as it is; collective.
LsStatus ls_trainer_save(LsTrainer *trainer);

// Rank 0: status.json with this state, the trainer's numbers and the message (may be "").
LsStatus ls_trainer_status(LsTrainer *trainer, const char *state, const char *message);

#endif
