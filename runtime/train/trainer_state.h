// Everything a run owns. trainer.c creates it in order and destroys it in reverse; resume.c gives it its
// first state, compute.c and step.c advance it by one step, loop.c drives it to the end.
#ifndef LOCKSTEP_TRAIN_TRAINER_STATE_H
#define LOCKSTEP_TRAIN_TRAINER_STATE_H

#include "arenas.h"
#include "collectives/bucket_size.h"
#include "collectives/sharder.h"
#include "exchange.h"
#include "feed.h"
#include "memory.h"
#include "saving.h"
#include "stop.h"
#include "trace.h"
#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/trainer.h"

enum { LS_FINGERPRINT_MAX = 512, LS_FAILURE_MAX = 1024 };

// Seconds of the current logging window on this rank.
typedef struct LsStepTimes {
    double start; // clock when the window began
    double data;  // waiting for the loader
    double comm;  // waiting for other ranks: exposed communication
    int64_t steps;
} LsStepTimes;

// A microbatch's work on the device, in all the ways in which its pointers and ops can differ.
typedef struct LsVariant {
    bool ran;       // its shapes have been run, as recording needs
    LsGraph *graph; // NULL until it is recorded
} LsVariant;

// What the device decided about the steps in flight, on its way to the host.
typedef struct LsOutcomes {
    LsStepOutcome *device; // the newest
    LsStepOutcome *host;   // pinned [LS_STEPS_IN_FLIGHT]
    LsMarker *arrived[LS_STEPS_IN_FLIGHT];
} LsOutcomes;

// With optimizer.kind lars: rates of tensors' own (trust.c). All on the device.
typedef struct LsTrust {
    uint32_t *first; // [tensors + 1] their blocks
    uint8_t *adapts; // [tensors]
    float *ratio;    // [blocks]; NULL: there are none
} LsTrust;

// Checked arithmetic, with guard.recompute_every: what a rank needs to compute another one's lane again, and
// which lane that is in the step being computed.
typedef struct LsCheck {
    float *gradient;      // device, one model; NULL: nothing is checked
    uint64_t *sums;       // device [LS_CHECK_ROLES]: fingerprints
    LsLaneReader *reader; // of any lane's samples
    LsMarker *copied;     // its host memory may be filled again
    int64_t *findings;    // [ranks] wrong lanes of each, in this attempt
    bool active;          // the step is checked
    bool differed;        // the newest step was, and the two ranks did not agree
    uint32_t lane, owner, witness;
} LsCheck;

// For how long a rank has been slow.
typedef struct LsSlowness {
    int silent;     // comparisons for which it is not named again
    double seconds; // of its own work; below zero after it was named
} LsSlowness;

// How fast this rank works, for guard.slow_ratio.
typedef struct LsPace {
    double *all;          // [ranks] seconds for a lane, of the newest comparison
    double *sorted;       // [ranks]
    size_t *sizes;        // [ranks]
    LsSlowness *slow;     // [ranks]
    LsMarker *done;       // behind the lanes, where the device works behind the host's back
    double seconds;       // of the samples of this quarter
    size_t samples;       // in this quarter
    double fastest;       // mean seconds of a step in the fastest quarter since the last comparison, 0: none
    int64_t steps;        // since the last comparison
    int slowest;          // rank
    double slowest_ratio; // of its time to the median, 0: not known
} LsPace;

// Where gradients are not kept: what goes out next in this step.
typedef struct LsSending {
    uint32_t round;
    size_t bucket;
} LsSending;

typedef struct LsTrainer {
    const LsTrainOptions *options;
    const LsConfig *config;
    LsComm *comm;

    LsRunDir run;
    bool entered;       // the run has accepted this attempt: its status is ours to write
    bool adopted;       // it starts from a checkpoint that is none of this run's
    LsAccount *account; // rank 0 only
    LsMetrics *metrics; // rank 0 only
    LsDataset *dataset;
    const LsDatasetInfo *info;
    LsDevice *device;
    bool attached; // the communicator carries its memory
    char fingerprint[LS_FINGERPRINT_MAX];
    double peak_flops; // of this rank's products, 0: not known
    LsModel *model;
    LsPlan plan;
    double bucket_mb;                              // their size, as chosen
    LsBucketTime bucket_time[LS_BUCKET_SIZES_MAX]; // [bucket_sizes] what the choice rests on
    size_t bucket_sizes;                           // 0: nothing was measured
    LsBuckets buckets;
    LsMemoryPlan memory;
    LsArenas arenas;
    size_t squares, updates; // of what is trained
    LsSquaresPiece *square;
    LsOptimizerPiece *update;
    LsReducer *reducer; // NULL where gradients are not kept; then there are these four
    LsSharder *sharder;
    LsRounds rounds;
    LsWindow window;
    float **bucket_gradient; // [buckets.count] where they lie in the window
    LsSending sending;
    LsExchange exchange;
    LsOutcomes outcomes;
    LsDeviceBatch *batch;
    LsLoader *loader;
    LsFeed feed;
    float *lane_loss; // device: of the lane being computed
    // By set of the feed, gradient slot, and whether gradients are added to, the lane begins, the step ends,
    // weights are still coming.
    LsVariant variant[LS_FEED_SETS][LS_LANE_SLOTS_MAX][2][2][2][2];
    char *algorithms; // what runtime.autotune chose, as the device writes it; NULL: nothing
    LsTrace *trace;
    LsStopWatch *stop; // what may ask to stop
    LsEvaluator *evaluator;
    uint64_t *quick; // indexes of the quick evaluation, NULL: the whole split
    size_t quick_count;
    LsSplit watched; // split of evaluations during training

    int64_t issued;        // steps given to the device
    int64_t began_at;      // step with which this attempt began
    uint32_t asked_before; // LsStopReason of this rank when it did
    LsRunState state;      // as of the newest step that the host knows to be finished
    float scores[2];       // of that step's loss and gradient norm, with guard.spike
    LsTrust trust;
    LsCheck check;
    LsPace pace;
    bool went_back;      // the guard has set the run back: what was to follow the step is void
    bool rehearsed;      // the observer has seen enough
    int64_t total_steps; // the run ends after this one
    LsDataShape shape;
    size_t microbatch; // rows
    size_t block;      // rows, of an evaluation
    size_t rows;       // the most that the model is given at a time: a microbatch or a block of evaluation
    double begun;      // clock value at which the attempt began
    LsSaving saving;
    int64_t saved_step; // newest durable checkpoint's step, -1: none
    LsEvaluation newest_evaluation;
    bool evaluated;
    bool evaluation_holds; // newest_evaluation is of its whole split, and no step came after it
    LsStepTimes times;
    LsStatus failed; // of this rank's lanes or saves; the others learn of it from the votes
    char failure[LS_FAILURE_MAX];
} LsTrainer;

// Gives arenas, control and state their first values: from a checkpoint, from train.init_from, or fresh.
LsStatus ls_trainer_resume(LsTrainer *trainer);

// Reads the state of the newest own checkpoint of step `most` or before that verifies into the host's copies
// and t->state. The device is idle; collective.
LsStatus ls_trainer_reread(LsTrainer *trainer, int64_t most);

// Gives the device the state's control and window, as if its step had been the newest.
LsStatus ls_trainer_upload_state(LsTrainer *trainer);

// With runtime.autotune: rank 0 measures the products of this run, all ranks choose alike. Collective.
LsStatus ls_trainer_tune(LsTrainer *trainer);

// Chooses bucket_mb: what the configuration says, or with `auto` what takes the ranks least time with this
// model. Before buckets, arenas and reducer are made. Collective.
LsStatus ls_trainer_size_buckets(LsTrainer *trainer);

// Rank 0: says what was measured, as a line and an event.
LsStatus ls_trainer_report_buckets(LsTrainer *trainer);

// What sums up the buckets' gradients, in trainer->reducer or trainer->sharder. Collective.
LsStatus ls_trainer_create_reducer(LsTrainer *trainer);

// Enqueues this rank's lanes of one step and begins the reduction of each bucket. A failure in the lanes is
// kept in trainer->failed, since the other ranks wait for the buckets whatever happened here. The return
// value is a failure that they cannot be told of.
LsStatus ls_trainer_compute(LsTrainer *trainer);

// Enqueues what a step's last microbatch does, on any batch: forward, for which weights that are being
// gathered are waited for, backward, and the reduction of each bucket. Its gradients are worth nothing.
// Failures as above.
LsStatus ls_trainer_rehearse(LsTrainer *trainer, const LsBatch *batch);
void ls_trainer_forget_graphs(LsTrainer *trainer);

// Where gradients are not kept, an LsGradientsReady whose context is the trainer: hands over the regions of
// the window that are final. What follows it in the compute stream may overwrite what comes before the
// newest.
LsStatus ls_trainer_send_regions(void *trainer, size_t first);

// Hands over all that this step has not: after a failure, and in a round in which this rank has no lane.
LsStatus ls_trainer_send_rest(LsTrainer *trainer);

// Enqueues the computation of any lane of the step whose first stream position is `cursor`, into
// check.gradient; its loss is left in lane_loss.
LsStatus ls_trainer_compute_again(LsTrainer *trainer, uint32_t lane, uint64_t cursor);

// What its loader reads.
LsLoaderOptions ls_trainer_loader_options(LsTrainer *trainer);

// Starts the loader at the state's cursor, in the place of one that runs. The device is idle then.
LsStatus ls_trainer_start_loader(LsTrainer *trainer);

// From their owners to all ranks: with optimizer.shard none the finished sums of gradients, which every rank
// updates everything with, else the weights, which are waited for where the next forward pass reads them.
LsStatus ls_trainer_gather(LsTrainer *trainer);

// Past the lanes, ranks are in the middle of collective calls and a failure cannot be told to the others
// there: it ends the job. What failed in the lanes is the better sentence, if there is one.
void ls_trainer_require(LsTrainer *trainer, LsStatus status);

// Before the list of a step's pieces. decide: enqueues what follows the decision of a step.
LsStatus ls_trust_create(LsTrainer *trainer);
LsStatus ls_trust_decide(LsTrainer *trainer);
void ls_trust_destroy(LsTrainer *trainer);

// Gives one step to the device. What fails here and cannot be told to the other ranks ends the job.
void ls_trainer_step(LsTrainer *trainer);

// Waits for the oldest step that the host does not know of and takes over its state. When a rank failed in it
// that failure is returned, on all ranks.
LsStatus ls_trainer_read(LsTrainer *trainer, LsVotes *votes);

// Whether steps are skipped to find the scale of the loss: its gradients need one, and it may change.
bool ls_trainer_scales_loss(const LsTrainer *trainer);

// Steps, logs, evaluates and saves until the run ends or is stopped.
LsStatus ls_trainer_run(LsTrainer *trainer);

// Tells who watches this rank, and the account of the run's time, what its main thread is busy with from now
// on.
static inline void ls_trainer_at(const LsTrainer *trainer, LsPhase phase)
{
    ls_pulse_at(trainer->options->pulse, phase);
    ls_account_spend(trainer->account, phase == LS_PHASE_START      ? LS_ACCOUNT_START
                                       : phase == LS_PHASE_SAVE     ? LS_ACCOUNT_CHECKPOINT
                                       : phase == LS_PHASE_EVALUATE ? LS_ACCOUNT_EVALUATE
                                                                    : LS_ACCOUNT_STEP);
}

// Begins to watch for what may ask this rank to stop.
LsStatus ls_trainer_watch(LsTrainer *trainer);

// What this rank votes for: an LsStopReason. Cheap; asked once a step.
uint32_t ls_trainer_asks_to_stop(const LsTrainer *trainer);

// The ranks have agreed to stop for `reason` and the checkpoint is durable: says who asked and how long ago,
// and returns LS_STOPPED. Collective.
LsStatus ls_trainer_stop(LsTrainer *trainer, uint32_t reason);

// Looks at what the newest step decided about its own numbers: a skipped step is an event, too many end the
// run or, by guard.action, take it back to a checkpoint (t->went_back). loss_scale: the one that the step was
// computed with. Alike on all ranks; collective.
LsStatus ls_trainer_guard(LsTrainer *trainer, float loss_scale);

// Rank 0: status.json with this state, the trainer's numbers and the message (may be "").
LsStatus ls_trainer_status(LsTrainer *trainer, const char *state, const char *message);

#endif
