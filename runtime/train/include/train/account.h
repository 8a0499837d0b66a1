// Where a run's time goes, over all its attempts: seconds by cause, and the share of the wall time that was
// spent in steps that counted.
//
// Each attempt keeps a record of its own, attempts/NNNNNN/account.json, which rank 0 writes over in place, at
// most ten times a second, when a step ends or the cause changes. What a killed attempt had spent is
// therefore known to a tenth of a second, or to the length of the step, save or evaluation that it was killed
// in; when the host itself dies, to what its kernel had written back, about half a minute. Steps that were
// made and lost, because a later attempt (or a roll-back in the same one) began before them, count as `redo`.
// What lies between two attempts is `restart`, or `hang` as far as the supervisor says that a rank hung.
#ifndef LOCKSTEP_TRAIN_ACCOUNT_H
#define LOCKSTEP_TRAIN_ACCOUNT_H

#include "base/json.h"
#include "train/pulse.h"
#include "train/run_dir.h"

// What the main thread of rank 0 spends its time on.
typedef enum LsAccountCause {
    LS_ACCOUNT_START, // set-up, until the first step
    LS_ACCOUNT_STEP,
    LS_ACCOUNT_CHECKPOINT, // waiting for one
    LS_ACCOUNT_EVALUATE,
    LS_ACCOUNT_CAUSES
} LsAccountCause;

// All seconds; wall = steps + the sum of what was lost.
typedef struct LsGoodput {
    int attempts;
    double ratio; // steps / wall
    double wall;  // since the first attempt began
    double steps; // in steps that counted
    double start, checkpoint, redo, restart, hang, evaluate;
} LsGoodput;

// {"ratio", "wall_seconds", "step_seconds", "attempts", "lost": {…}}; NULL without memory.
json_t *ls_goodput_json(const LsGoodput *goodput);

// As of the newest records of a run's attempts, living or dead. Records that are missing or damaged count as
// attempts that did nothing. LS_NO_INPUT: there is none at all.
LsStatus ls_goodput_read(const char *run_dir, LsGoodput *out);

// ---- The account of the living attempt: rank 0 only, every function accepts NULL ------------------------

typedef struct LsAccount LsAccount;

// begun: clock at which the attempt began; what it has spent since was START.
LsStatus ls_account_open(const LsRunDir *run, double begun, LsPulse *pulse, LsAccount **out);
void ls_account_close(LsAccount *account);

// The first step of this attempt will be the one after `step`.
void ls_account_resume(LsAccount *account, int64_t step);

// From now on time is spent on `cause`. Costs nothing while that stays the same.
void ls_account_spend(LsAccount *account, LsAccountCause cause);

// Steps up to this one are done. One that is below an earlier call's takes those in between back.
void ls_account_step(LsAccount *account, int64_t step);

void ls_account_goodput(LsAccount *account, LsGoodput *out);

#endif
