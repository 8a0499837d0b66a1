// A serial interpreter of lane plans: it runs the plans of all ranks on symbols and compares what every
// piece's owner ends with to the tree over all lanes.
#ifndef LOCKSTEP_TESTS_PLAN_INTERPRETER_H
#define LOCKSTEP_TESTS_PLAN_INTERPRETER_H

#include <stdbool.h>

#include "collectives/plan.h"

// Whether the plans plan[0, ranks) of all ranks compute the tree.
bool plans_compute_tree(const LsPlan *plan, uint32_t ranks);

// Why the newest set of plans does not.
const char *plans_wrong(void);

#endif
