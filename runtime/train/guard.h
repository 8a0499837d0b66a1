// The guard: what a run does about steps whose numbers are wrong. trainer_state.h has what the loop calls;
// here is what the guard's files share.
#ifndef LOCKSTEP_TRAIN_GUARD_H
#define LOCKSTEP_TRAIN_GUARD_H

#include "trainer_state.h"

enum { LS_GUARD_SPAN = 1000 }; // steps within which guard.limit counts

// Adds the newest step to the history; LS_DIVERGED when guard.limit is reached. `what` is what is counted, in
// the singular.
LsStatus ls_guard_count(LsTrainer *trainer, LsGuardHistory *history, const char *what);

// Goes back to the checkpoint before the newest step, which is bad, and passes over all data up to that
// step's: of steps that are multiples of checkpoint.every the newest one, so that what follows does not
// depend on what else was saved, or the one that the run began with. The run goes on in this process,
// t->went_back is set. Collective. When that checkpoint does not verify, the run goes back to one before it
// and changes nothing else, so that it comes to the bad step again.
LsStatus ls_trainer_roll_back(LsTrainer *trainer);

// ---- Checked arithmetic (guard_check.c) -----------------------------------------------------------------

LsStatus ls_check_create(LsTrainer *trainer);
void ls_check_destroy(LsTrainer *trainer);

// Whether a lane is checked in step `step`; in such a step nothing is read late.
bool ls_check_due(const LsTrainer *trainer, int64_t step);

// Begins the step after t->issued: which lane is checked, and by whom, is a function of seed and step alone.
LsStatus ls_check_begin(LsTrainer *trainer);

// Whether this rank's lane is the one that is checked.
bool ls_check_owns(const LsTrainer *trainer, uint32_t lane);

// Adds blocks of the lane's gradients, before anything is added to them, to its owner's fingerprint.
LsStatus ls_check_add(LsTrainer *trainer, const float *gradient, size_t first_block, size_t blocks);

// After this rank's lanes: the owner's finding and, on the other rank, the lane computed again, go to their
// places in the exchange.
LsStatus ls_check_finish(LsTrainer *trainer);

// The two ranks did not agree, so the step was not made. A third one, and both again, compute the lane once
// more: who is not with the majority is at fault, named, and at guard.limit ends the run (LS_UNAVAILABLE).
// Then the step is given once more (t->went_back). Collective.
LsStatus ls_check_settle(LsTrainer *trainer);

// ---- Pace (guard_pace.c) --------------------------------------------------------------------------------

LsStatus ls_pace_create(LsTrainer *trainer);
void ls_pace_destroy(LsTrainer *trainer);

// Around this rank's lanes of a step: takes the time of its own work.
LsStatus ls_pace_begin(LsTrainer *trainer, double *start);
LsStatus ls_pace_end(LsTrainer *trainer, double start);

// After each step; every guard.slow_steps of them the ranks compare their times in the fastest quarter of
// these, and one that takes guard.slow_ratio times the median of all, lane for lane, is an event. Collective
// then.
LsStatus ls_pace_compare(LsTrainer *trainer);

#endif
