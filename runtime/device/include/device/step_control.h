// What one step decided, alike on every rank: read by the optimizer pass on the device in the same step, by
// the host one step later, and stored in every checkpoint. Fixed width, no pointers.
#ifndef LOCKSTEP_DEVICE_STEP_CONTROL_H
#define LOCKSTEP_DEVICE_STEP_CONTROL_H

#include <stdint.h>

// Why a step made no update.
typedef enum LsSkip {
    LS_SKIP_NONE,
    LS_SKIP_NOT_FINITE, // its loss or gradients were not finite, or a rank failed in it
    LS_SKIP_SPIKE,      // its loss or gradient norm was far above those of the steps before
    LS_SKIP_WRONG       // two ranks computed one lane differently: the step did not happen and is redone
} LsSkip;

typedef struct LsStepControl {
    int64_t step;           // steps done, skipped ones included
    int64_t updates;        // updates applied: Adam's t
    float loss;             // mean over the global batch of the newest step
    float gradient_norm;    // of its unscaled gradient, before clipping
    float learning_rate;    // of the newest step
    float gradient_factor;  // what the optimizer multiplies gradients by: unscale × clip
    float bias_correction1; // Adam: 1 - beta1^t of the newest update
    float bias_correction2;
    float loss_scale;       // that the next step's loss is multiplied by; 1 unless the precision is FP16
    int32_t good_steps;     // since the loss scale last changed
    int32_t skip;           // LsSkip of the newest step; not 0: no update was made
    int32_t skipped_in_row; // skips since the last update
} LsStepControl;

// What a rank wants all ranks to do after a step; combined: the largest value of each. Travels as words.
enum { LS_VOTE_WORDS = 6 };
typedef struct LsVotes {
    uint32_t stop;        // LsStopReason
    uint32_t error;       // LsStatus of a failure in this step, LS_OK if none
    uint32_t unsaved;     // checkpoints begun that this rank has not yet made durable
    uint32_t save;        // 1: it is time for a checkpoint
    uint32_t reserved[2]; // 0
} LsVotes;

// Losses and gradient norms of the newest steps that made an update, each a ring: what a spike is measured
// against.
enum { LS_SPIKE_WINDOW_MAX = 128 };
typedef struct LsSpikeWindow {
    int32_t held; // entries, the newest in front of `next`
    int32_t next; // where the next entry goes
    float loss[LS_SPIKE_WINDOW_MAX];
    float gradient_norm[LS_SPIKE_WINDOW_MAX];
} LsSpikeWindow;

// What the host reads of a step; of the window, which comes last, when steps are measured against it.
typedef struct LsStepOutcome {
    LsStepControl control;
    LsVotes votes;
    float loss_score, gradient_norm_score; // robust z-scores of the newest step, 0 where it had none
    LsSpikeWindow window;
} LsStepOutcome;

#endif
