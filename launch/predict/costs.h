// What one collective takes, by itself, on an idle cluster. Private to this folder.
#ifndef LOCKSTEP_PREDICT_COSTS_H
#define LOCKSTEP_PREDICT_COSTS_H

#include "collectives/plan.h"
#include "predict/predict.h"

// Plans of the ranks that may be the last to finish, of all of them: the first, which has the smallest
// pieces and many lanes; the last, with the largest pieces; and one with the most subtrees.
enum { LS_COSTS_RANKS = 3 };

typedef struct LsCosts {
    LsCluster cluster;
    LsAlgorithm algorithm;
    double ranks;    // of all nodes
    double subtrees; // LS_EXACT: the most that a rank has
    size_t plans;    // LS_EXACT: plans of nodes, or of the ranks of a single one
    LsPlan plan[LS_COSTS_RANKS];
} LsCosts;

// LS_CONFIG: LS_EXACT for more ranks than lanes. Freed by ls_costs_free.
LsStatus ls_costs_create(const LsCluster *cluster, LsAlgorithm algorithm, uint32_t lanes, LsCosts *out);
void ls_costs_free(LsCosts *costs);

// Seconds until every rank has its piece of the sum of a bucket, until all have a bucket's weights, and until
// all have `bytes` of each. A block has LS_BLOCK elements of `element` bytes.
double ls_costs_reduce(const LsCosts *costs, size_t blocks, double element);
double ls_costs_gather(const LsCosts *costs, size_t blocks, double element);
double ls_costs_exchange(const LsCosts *costs, double bytes);

#endif
