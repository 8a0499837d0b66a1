// Evaluation: fixed blocks of samples in a fixed shape, dealt to the ranks, combined in the order of the
// blocks; so its numbers, too, do not depend on the number of ranks.
#ifndef LOCKSTEP_TRAIN_EVALUATE_H
#define LOCKSTEP_TRAIN_EVALUATE_H

#include "base/json.h"
#include "collectives/comm.h"
#include "data/dataset.h"
#include "models/model.h"
#include "train/pulse.h"

typedef struct LsEvaluation {
    LsSplit split;
    size_t samples;
    bool classes; // accuracy, macro_f1 are set
    bool many;    // of classes: top5_accuracy is set
    bool binary;  // roc_auc is set
    double loss, accuracy, top5_accuracy, macro_f1, roc_auc;
    size_t window;        // tokens of a sample, 0: no tokens; then loss is the mean over all tokens
    double perplexity;    // e^loss
    double bits_per_byte; // of the text; 0: its length in bytes is not known
} LsEvaluation;

// What one sample contributes to every metric.
// With so many classes or fewer every label is among the best five.
enum { LS_TOP = 5 };

typedef struct LsPrediction {
    float loss;
    int32_t label;     // the true class
    int32_t predicted; // the class of the highest output, the lowest one when several are equal
    int32_t ahead;     // classes whose outputs come before that of `label`
    float score;       // evidence for class 1, when there are two
} LsPrediction;

// Sets predicted, ahead and score from one sample's label and outputs: `columns` logits of classes, or the
// one logit of binary cross-entropy. Of equal outputs the lower class comes first, and a NaN comes last.
void ls_predict_class(const float *outputs, size_t columns, LsPrediction *prediction);

// Metrics of one set of predictions, on the host, from whole counts. top5_accuracy: of labels with fewer than
// five classes ahead of them, where there are more classes. macro_f1: mean F1 over classes that occur in
// labels or predictions. roc_auc (binary when classes is 2): by ranks with ties averaged (Mann-Whitney); NaN
// when only one class occurs.
LsStatus ls_metrics_classification(
    const LsPrediction *predictions, size_t samples, size_t classes, LsEvaluation *out);

// A stratified, seeded choice of `count` samples of the split, sorted (the "quick" part): the same for every
// rank and step. Classes get their share by largest remainders. Writes indexes [count]; LS_CONFIG when the
// split has fewer samples.
LsStatus ls_evaluate_choose(
    const LsDataset *dataset, LsSplit split, uint64_t seed, size_t count, uint64_t *indexes);

// Memory for blocks of samples, on the device and the host: made once, for any number of evaluations.
typedef struct LsEvaluator LsEvaluator;

typedef struct LsEvaluatorOptions { // all lent
    LsComm *comm;
    LsDevice *device;
    LsModel *model;
    const LsDataset *dataset;
    size_t batch;   // rows of a block, at most model->max_rows
    LsPulse *pulse; // NULL: nobody watches
} LsEvaluatorOptions;

// LS_BAD_DATA when the data are not those of the model's shape; LS_CONFIG when a block is too large.
LsStatus ls_evaluator_create(const LsEvaluatorOptions *options, LsEvaluator **out);
void ls_evaluator_destroy(LsEvaluator *evaluator); // accepts NULL

// What may end an evaluation early: every rank is asked after each of its blocks.
typedef struct LsEvaluateStop {
    uint32_t (*ask)(const void *context); // why this rank wants to stop, 0: it does not
    const void *context;
    uint32_t reason; // out: the largest of all ranks' answers
} LsEvaluateStop;

typedef struct LsEvaluateOptions {
    LsSplit split;
    const uint64_t *indexes; // NULL: the whole split
    size_t count;            // of indexes
    const void *weights;     // compute type, whole model, device
    LsEvaluateStop *stop;    // NULL, on all ranks: the evaluation goes on to its end
} LsEvaluateOptions;

// Collective; the result is the same on all ranks. Unless stop->reason is 0 afterwards the evaluation was
// given up, on all ranks, and *out is as it was.
LsStatus ls_evaluate(LsEvaluator *evaluator, const LsEvaluateOptions *options, LsEvaluation *out);

// {"split": …, "loss": …, "accuracy": …} as status.json and events carry it.
json_t *ls_evaluation_json(const LsEvaluation *evaluation);

// The value of the metric that eval.metric names; *better_is_higher says which way is better.
double ls_evaluation_metric(const LsEvaluation *evaluation, int metric, bool *better_is_higher);

#endif
