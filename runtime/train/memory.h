// The memory that a rank of a run needs, by purpose: what --dry-run prints and what the line about memory
// that does not suffice compares with.
#ifndef LOCKSTEP_TRAIN_MEMORY_H
#define LOCKSTEP_TRAIN_MEMORY_H

#include "arenas.h"
#include "data/dataset.h"

typedef struct LsMemoryPlan {
    size_t weights, gradients, optimizer, staging, activations, batches, workspace; // of the device
    size_t device;                                                                  // all of these
    size_t host; // copies of the state for checkpoints
    size_t sent; // no memory: what a step sends to the owners of sums of gradients, where that is messages
} LsMemoryPlan;

typedef struct LsMemoryQuestion {
    const LsConfig *config;
    const LsDatasetInfo *info;
    const LsModel *model; // may be one without a device
    LsCut cut;
    LsDtype type;  // in which the device computes
    bool discrete; // a GPU
    bool in_place; // ranks of a host read each other's gradients where they are (LsHostMap)
    bool borrows;  // the weights are another rank's memory: ranks that read in place have one copy a host
} LsMemoryQuestion;

LsStatus ls_memory_plan(const LsMemoryQuestion *question, LsMemoryPlan *out);

#endif
