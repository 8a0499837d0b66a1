// Whether a job that ended is started again: a pure function of what is known, so that it is tested without
// processes.
#ifndef LOCKSTEP_SUPERVISOR_POLICY_H
#define LOCKSTEP_SUPERVISOR_POLICY_H

#include <stdbool.h>
#include <stdint.h>

typedef enum LsJobEnd {
    LS_JOB_EXITED, // by itself, with `code`
    LS_JOB_DIED,   // a rank or the launcher died by signal `code` - 128
    LS_JOB_HUNG,   // a rank stood still and the job was ended
} LsJobEnd;

typedef struct LsJobOutcome {
    LsJobEnd end;
    int code;
    bool asked;      // we were asked to stop while it ran
    bool resizing;   // we asked it to stop, to go on with other ranks
    bool final_stop; // it stopped for a reason that holds for the whole run: its time, the stop file
    bool superseded; // somebody else's attempt has claimed the run
    bool in_step;    // it had begun a step
    int64_t step;    // the one being worked on, as far as is known
    int64_t slack;   // it may have been up to so many steps further
    int64_t durable; // newest durable checkpoint now, -1: none
} LsJobOutcome;

typedef struct LsPolicy {
    int64_t max_restarts; // without progress
    // Begin with zeros, and -1 for the newest durable checkpoint before the first launch unless it has one.
    int64_t durable;
    int64_t restarts; // since the last progress
    bool failed;      // since then, by itself, in failed_step
    int64_t failed_step, failed_slack;
} LsPolicy;

typedef struct LsDecision {
    bool again;
    double delay;    // seconds before the next launch
    int code;        // when not again: the supervisor's exit code
    const char *why; // when not again, and it is not plain from the code: a part of a sentence; else NULL
} LsDecision;

// Decides and remembers.
LsDecision ls_policy_decide(LsPolicy *policy, const LsJobOutcome *outcome);

#endif
