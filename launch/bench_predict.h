// `lockstep bench scaling --predict`: what its parts hand to each other.
#ifndef LOCKSTEP_LAUNCH_BENCH_PREDICT_H
#define LOCKSTEP_LAUNCH_BENCH_PREDICT_H

#include "base/json.h"
#include "collectives/buckets.h"
#include "command.h"
#include "predict/predict.h"
#include "predict/risk.h"

// What a rank computes and what it sends, for any number of ranks. Lengths of time are of one rank alone.
typedef struct LsPredictModel {
    char name[64]; // for people
    size_t parameters;
    LsBuckets buckets;     // owned
    double sample_seconds; // forward and backward of one sample
    double forward_share;  // of them
    double optimizer;      // seconds of the pass over the whole model
    double epoch_samples;  // 0: not known
    double gradient_bytes, weight_bytes;
    int64_t samples; // of a step: of each rank, or of all where strong
    bool strong;     // the global batch stays what it is, else a rank's part of it
    int64_t lanes, accumulation;
    int64_t base_ranks; // a weak sweep multiplies batch and lanes from there on
} LsPredictModel;

// The model of a configuration, whose data set is looked at (file NULL, parameters > 0: as many parameters,
// no data). Samples, weight_bytes and epoch_samples are filled where they are 0. Freed by
// ls_predict_model_free.
LsStatus ls_predict_model_open(
    const char *file, const LsTextList *settings, int64_t parameters, LsPredictModel *model);
void ls_predict_model_free(LsPredictModel *model);

// Takes what reports of `lockstep bench` (their JSON files) say: of `step` the times of one rank that are 0
// here, of `reduce_scatter` and `all_gather` the links inside a node or between nodes, as the ranks were
// placed. LS_BAD_DATA names a report that says none of that.
LsStatus ls_predict_read_measured(const LsTextList *paths, LsPredictModel *model, LsCluster *cluster);

// A step of `ranks` ranks in `bucket` [model->buckets.count], and how many samples all of them compute in it.
// LS_CONFIG: more ranks than a strong sweep has lanes.
LsStatus ls_predict_model_work(const LsPredictModel *model, uint32_t ranks, double overlap,
    bool gather_overlaps, LsWorkBucket *bucket, LsWork *work, double *samples);

// One line of the answer.
typedef struct LsPrediction {
    uint32_t nodes, ranks, lanes; // ranks: of all nodes
    LsAlgorithm algorithm;
    char impossible[256]; // why there is no such run; "": all below is known
    LsTimeline timeline;
    double exchange_bytes; // of each rank
    double slowdown;       // by stragglers
    double rate;           // samples a second
    double efficiency;     // of the ranks, each compared with one rank alone
    LsGoodput goodput;
    double epoch_hours[2], epoch_cost[2]; // on demand, spot; 0: not known
} LsPrediction;

typedef struct LsPredictReport {
    const LsPredictModel *model;
    const LsCluster *cluster; // whose nodes are each line's
    LsJitter jitter;
    LsRisk risk;
    double overlap, price[2]; // of a node and hour
    bool gather_overlaps;
    int64_t timeline; // print that of so many nodes; 0: none
    size_t count;
    const LsPrediction *prediction;
} LsPredictReport;

void ls_predict_print(const LsPredictReport *report, FILE *out);
LsStatus ls_predict_write(const LsPredictReport *report, const char *path);

#endif
