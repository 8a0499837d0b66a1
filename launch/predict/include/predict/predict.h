// What a training step would take on a cluster that is not here: a pure function from the work of a rank and
// a description of the cluster to a time-line and a step time.
//
// Ranks compute alike. Backward makes gradients final in buckets; each bucket is reduced as soon as it is
// final and the one before it has been reduced, while computing goes on. Behind the last one come the small
// exchange and the optimizer pass over the rank's shard; then the updated weights are gathered, bucket after
// bucket. Messages cost what a link's latency, overhead and bandwidth say (the α–β model with LogGP's
// overhead for each message: Hockney 1994; Alexandrov et al., "LogGP", SPAA 1995). Nothing is drawn at
// random.
#ifndef LOCKSTEP_PREDICT_H
#define LOCKSTEP_PREDICT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// A message of n bytes is there `latency` + `message` + n / `bandwidth` after its send; messages that a rank
// sends at once follow each other at distances of the larger of `message` and n / `bandwidth`.
typedef struct LsLink {
    double latency;   // seconds on the way
    double message;   // seconds that each message keeps its sender busy, beside its bytes
    double bandwidth; // bytes a second, in each direction
} LsLink;

// The same wires under reductions, which also add, and under gathers: alike unless measured
// (predict/links.h).
typedef struct LsPath {
    LsLink reduce, gather;
} LsPath;

// Nodes of equally many ranks, numbered node after node, joined by a network without bottlenecks of its own.
typedef struct LsCluster {
    uint32_t nodes, ranks_per_node;
    LsPath inside;  // from each rank to the other ranks of its node
    LsPath between; // from each node to the others: its ranks share the bandwidth, not latency and overhead
} LsCluster;

// How gradients are summed and weights gathered. W ranks, n bytes:
typedef enum LsAlgorithm {
    LS_RING, // one ring through all ranks: W - 1 rounds of n / W, each as slow as the slowest link
    LS_TREE, // recursive halving, and doubling to gather: log2 W rounds (Thakur, Rabenseifner, Gropp 2005;
             // Bruck et al. 1997 where W is no power of two), first inside the nodes, then between them
    LS_HIERARCHICAL, // a ring inside each node, then one between the nodes for each shard
    LS_EXACT,        // the lane plan (ls_plan_choose): inside each node, then between the shards' owners;
                     // weights are gathered as by LS_TREE
    LS_ALGORITHMS
} LsAlgorithm;

extern const char *const ls_algorithm_names[LS_ALGORITHMS + 1]; // NULL-terminated

typedef struct LsWorkBucket {
    size_t blocks;  // of LS_BLOCK elements
    double forward; // seconds of forward that need this bucket's weights
    double ready;   // seconds of computing, from the start of backward on, until its gradients are final
} LsWorkBucket;

// A step of one rank. Buckets are in the order in which backward finishes them; forward uses them in the
// opposite one.
typedef struct LsWork {
    size_t count;
    const LsWorkBucket *bucket; // lent
    double backward;            // seconds; at least the last bucket's `ready`
    double optimizer;           // seconds of a pass over the whole model; a rank does its shard's part
    double gradient_bytes;      // of an element that is reduced
    double weight_bytes;        // of an element that is gathered
    double exchange_bytes;      // what each rank tells all others before the optimizer pass
    double overlap;       // how fast computing goes on during communication: 1 as ever (a GPU with a stream
                          // for it), 0 not at all (a rank that does both on one core)
    bool gather_overlaps; // weights are gathered during the next step's forward
    uint32_t lanes;       // for LS_EXACT
} LsWork;

typedef struct LsSpan {
    double begin, end; // seconds from the start of the step
} LsSpan;

typedef struct LsTimelineBucket {
    double ready;          // its gradients are final
    LsSpan reduce, gather; // gather: of the weights that this step's forward uses where gather_overlaps
} LsTimelineBucket;

typedef struct LsTimeline {
    size_t count;
    LsTimelineBucket *bucket; // owned
    LsSpan forward, backward, exchange, optimizer;
    double step;
    double computing; // forward, backward and optimizer pass without communication
    double exposed;   // step - computing
    double busy;      // the time of all communication, hidden or not
} LsTimeline;

// Slowdown multiplies all computing: 1, or what stragglers make of it (predict/risk.h). LS_CONFIG: no such
// plan (LS_EXACT with more ranks than lanes). The time-line is freed by ls_timeline_free.
LsStatus ls_predict_step(
    const LsWork *work, const LsCluster *cluster, LsAlgorithm algorithm, double slowdown, LsTimeline *out);
void ls_timeline_free(LsTimeline *timeline);

#endif
