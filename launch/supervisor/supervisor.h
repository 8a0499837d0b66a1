// The supervisor's state, and the parts that supervise.c, elastic.c and run.c share.
#ifndef LOCKSTEP_SUPERVISOR_SUPERVISOR_H
#define LOCKSTEP_SUPERVISOR_SUPERVISOR_H

#include <poll.h>
#include <signal.h>

#include "job.h"
#include "listener.h"
#include "look.h"
#include "policy.h"
#include "record.h"
#include "supervisor/supervise.h"

typedef struct LsSupervisor {
    const LsSuperviseOptions *options;
    LsListener listener;
    LsRecord record;
    LsPolicy policy;
    int signals; // descriptor
    sigset_t signals_before;
    struct pollfd *polled; // owned
    size_t polled_capacity;
    double woke; // clock: the newest return from poll

    bool elastic; // hosts come from a list
    LsHosts hosts;
    LsLook look;
    bool looked;      // at least once, with success
    double next_look; // clock
    double grown;     // clock: when the job was last stopped for more ranks

    double asked;   // clock: when we were asked to stop; 0: not
    bool impatient; // and again
    bool entered;   // --resume has had its effect: later launches go on from the newest checkpoint

    // Of the launch under way.
    LsJob job;
    LsWatch watch;
    int ranks;
    double begun;    // clock
    double resizing; // clock: when we asked it to stop, to go on with other ranks; 0: not
    bool forwarded;  // the request to stop has been sent
    LsFinding finding;
    double found; // clock: of the finding
} LsSupervisor;

// Sleeps until something arrives or a tick has passed, and takes what arrived.
void ls_supervisor_wait(LsSupervisor *supervisor);

// Launches the job on `ranks` ranks, watches it to its end, and says how it ended. No rank lives afterwards.
LsStatus ls_supervisor_launch(LsSupervisor *supervisor, int ranks, LsJobOutcome *out);

// While a job runs: looks at the hosts now and then, and asks the job to stop when it could go on with more
// ranks or is about to lose a host.
void ls_supervisor_look_at_hosts(LsSupervisor *supervisor, double now);

// How many ranks the next launch has; waits until there are enough, or until asked to stop (*ranks is 0
// then).
LsStatus ls_supervisor_choose_ranks(LsSupervisor *supervisor, int *ranks);

// After a launch that went wrong: remembers on which host.
void ls_supervisor_blame_host(LsSupervisor *supervisor);

// After a launch that was stopped: leaves out the hosts that go away. True when no other launch should
// follow, because of that or because the run as a whole was asked to stop.
bool ls_supervisor_take_leave(LsSupervisor *supervisor);

// Whether a launch repeated with the same --resume could do harm: a checkpoint of this attempt is durable.
bool ls_supervisor_has_entered(const LsSupervisor *supervisor);

// Launch after launch, to the end.
LsStatus ls_supervisor_run(LsSupervisor *supervisor);

#endif
