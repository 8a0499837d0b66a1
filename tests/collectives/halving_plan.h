// A plan of several phases, for tests of what executes plans: recursive halving along the lane tree, ranks
// being a power of two with one subtree each.
#ifndef LOCKSTEP_TESTS_COLLECTIVES_HALVING_PLAN_H
#define LOCKSTEP_TESTS_COLLECTIVES_HALVING_PLAN_H

#include "collectives/plan.h"

// Phase k exchanges halves of what is left with the rank whose number differs in bit k, the neighbour in the
// tree at that level; after it a rank holds the pieces whose numbers agree with its own in the bits 0 … k.
// Freed by ls_plan_free.
LsStatus halving_plan_compile(uint32_t lanes, uint32_t ranks, uint32_t rank, LsPlan *out);

#endif
