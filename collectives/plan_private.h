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

#endif
