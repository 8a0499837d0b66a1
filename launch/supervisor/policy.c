#include "policy.h"

#include <signal.h>
#include <stddef.h>

#include "base/status.h"

static const double DELAY_MAX = 60;

// What another attempt with the same files, options and machine would only meet again.
static bool is_final(int code)
{
    static const int codes[] = {2, 65, 66, 69, 70, 76, 78, 126, 127};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (code == codes[i])
            return true;
    return false;
}

// Whether the job failed for a reason that seems to lie in what it does, not in somebody who ended it, or a
// full disk.
static bool failed_by_itself(const LsJobOutcome *o)
{
    if (o->end == LS_JOB_HUNG)
        return o->in_step;
    if (o->end == LS_JOB_DIED)
        return o->code - 128 != SIGKILL && o->code - 128 != SIGTERM && o->code - 128 != SIGINT &&
               o->code - 128 != SIGHUP;
    return o->code != ls_status_exit_code(LS_IO) && o->code != ls_status_exit_code(LS_HUNG);
}

// 0, 1, 2, 4, … seconds; a full disk is given at least one.
static double delay(const LsPolicy *policy, const LsJobOutcome *o)
{
    int64_t doublings = policy->restarts - 2;
    if (o->end == LS_JOB_EXITED && o->code == ls_status_exit_code(LS_IO))
        doublings++;
    if (doublings < 0)
        return 0;
    double seconds = doublings > 6 ? DELAY_MAX : (double)(1 << doublings);
    return seconds < DELAY_MAX ? seconds : DELAY_MAX;
}

static bool may_be_one_step(const LsPolicy *policy, const LsJobOutcome *o)
{
    return o->step <= policy->failed_step + policy->failed_slack && policy->failed_step <= o->step + o->slack;
}

static LsDecision restart(LsPolicy *policy, const LsJobOutcome *o)
{
    bool itself = failed_by_itself(o);
    if (itself && policy->failed && may_be_one_step(policy, o))
        return (LsDecision){.code = o->code, .why = "failed twice at one step without a new checkpoint"};
    if (policy->restarts >= policy->max_restarts)
        return (LsDecision){.code = o->code, .why = "was restarted --max-restarts times without progress"};
    if (itself) {
        policy->failed = true;
        policy->failed_step = o->step;
        policy->failed_slack = o->slack;
    }
    policy->restarts++;
    return (LsDecision){.again = true, .delay = delay(policy, o)};
}

LsDecision ls_policy_decide(LsPolicy *policy, const LsJobOutcome *o)
{
    int stopped = ls_status_exit_code(LS_STOPPED);
    if (o->durable > policy->durable) {
        policy->durable = o->durable;
        policy->restarts = 0;
        policy->failed = false;
    }
    if (o->end == LS_JOB_EXITED && o->code == 0)
        return (LsDecision){.code = 0};
    if (o->superseded) // two that take the run from each other come nowhere
        return (LsDecision){.code = ls_status_exit_code(LS_IO)};
    if (o->end == LS_JOB_EXITED && o->code == stopped) {
        if (o->asked || (o->final_stop && !o->resizing))
            return (LsDecision){.code = stopped};
        return (LsDecision){.again = true};
    }
    if (o->asked) // whatever it was, nobody waits for more
        return (LsDecision){.code = o->in_step ? o->code : stopped};
    if (o->end == LS_JOB_EXITED && is_final(o->code))
        return (LsDecision){.code = o->code};
    return restart(policy, o);
}
