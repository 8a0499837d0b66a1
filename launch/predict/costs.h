// What one collective takes, by itself, on an idle cluster. Private to this folder.
#ifndef LOCKSTEP_PREDICT_COSTS_H
#define LOCKSTEP_PREDICT_COSTS_H

#include "play.h"

// Of more ranks that are not alike only some are looked at.
enum { LS_PLAYED_RANKS = 512, LS_SAMPLED_RANKS = 9 };

typedef struct LsCosts {
    LsCluster cluster;
    LsAlgorithm algorithm;
    double ranks;    // of all nodes
    double subtrees; // LS_EXACT: the most that a rank has
    // LS_EXACT: the plans of nodes, or of the ranks of a single one. All of them are played where they
    // differ, else one of them or, of very many, a sample tells how long each phase takes.
    LsPlay play;
    size_t plans;
    LsPlan plan[LS_SAMPLED_RANKS];
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
