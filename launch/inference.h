// A trained model brought back from a checkpoint, for eval and predict.
#ifndef LOCKSTEP_LAUNCH_INFERENCE_H
#define LOCKSTEP_LAUNCH_INFERENCE_H

#include "command.h"
#include "data/dataset.h"
#include "models/model.h"
#include "train/checkpoint.h"

typedef struct LsInference {
    LsCheckpoint *checkpoint;
    LsConfig config;      // the checkpoint's, with environment and settings over it
    LsDataset *described; // the training data as the checkpoint's schema describes it; without rows
    LsDataShape shape;
    LsDevice *device;
    size_t rows;    // of a batch at most; may be changed between open and load
    LsModel *model; // for that many
    void *weights;  // device, compute type, whole model
} LsInference;

// Opens what `named` names (a checkpoint, or a run: its newest one). *out is always safe to close.
LsStatus ls_inference_open(const char *named, const LsTextList *settings, LsInference *out);

// Opens the device, for this process's place on its host, and builds the model with the checkpoint's weights;
// every block is verified as it is read.
LsStatus ls_inference_load(LsInference *inference, int local_rank);

void ls_inference_close(LsInference *inference);

#endif
