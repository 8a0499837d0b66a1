// Plays the plans of all ranks message by message, where ranks are not alike. Private to this folder.
#ifndef LOCKSTEP_PREDICT_PLAY_H
#define LOCKSTEP_PREDICT_PLAY_H

#include "collectives/plan.h"
#include "predict/predict.h"

typedef struct LsPlayMessage {
    uint32_t from, to;
    double begin, bytes;
    double end[2]; // when it has left its sender's link and entered its receiver's
} LsPlayMessage;

// A message in a list of those that share a link.
typedef struct LsPlayJob {
    double begin, left, *end;
} LsPlayJob;

typedef struct LsPlay {
    uint32_t ranks;
    LsPlan *plan;           // [ranks]
    LsPlayMessage *message; // [the most of a phase]
    LsPlayJob *job;         // [the same]
    uint32_t *first;        // [ranks + 1] a rank's jobs
    double *now, *next;     // [ranks]
} LsPlay;

// Compiles the plans of all ranks. Freed by ls_play_free.
LsStatus ls_play_create(uint32_t lanes, uint32_t ranks, LsPlay *out);
void ls_play_free(LsPlay *play);

// Seconds until the last rank has its sums of a bucket. A message begins when both ends have come to its
// phase; messages that use a link at the same time share its bandwidth evenly.
double ls_play_seconds(const LsPlay *play, const LsLink *link, size_t blocks, double block_bytes);

#endif
