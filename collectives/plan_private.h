// What the files that compile plans share. Private to this layer.
#ifndef LOCKSTEP_COLLECTIVES_PLAN_PRIVATE_H
#define LOCKSTEP_COLLECTIVES_PLAN_PRIVATE_H

#include "collectives/plan.h"

// Checks the shape and makes all of a plan that does not cross ranks: shares, local steps, slots. *unit is
// what ls_plan_share wants. The caller frees the plan, also after a failure.
LsStatus ls_plan_begin(uint32_t lanes, uint32_t ranks, uint32_t rank, uint32_t *unit, LsPlan *plan);

// Fills in what follows from the transfers and additions: the spans of the staging slots.
LsStatus ls_plan_end(LsPlan *plan);

// The lanes of `rank` when they are dealt in units of `unit` lanes.
LsLaneShare ls_plan_share(uint32_t lanes, uint32_t ranks, uint32_t rank, uint32_t unit);

// Lanes of the largest aligned subtree that starts at lane `first` and ends at or before lane `end`.
uint32_t ls_plan_aligned(uint32_t first, uint32_t end);

// A subtree and the slot of this rank that holds its sum over the pieces in question.
typedef struct LsPlanLeaf {
    LsSubtree subtree;
    uint32_t slot;
} LsPlanLeaf;

// A walk over a part of the tree; leaves are met from left to right.
typedef struct LsPlanWalk {
    LsPlan *plan;
    const LsPlanLeaf *next;
    LsPieceSpan pieces;
} LsPlanWalk;

// Plans the additions of node(first, first + count) over the pieces and returns the slot that holds it
// afterwards.
uint32_t ls_plan_node(LsPlanWalk *walk, uint32_t first, uint32_t count);

#endif
