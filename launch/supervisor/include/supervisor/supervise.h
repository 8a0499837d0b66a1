// The supervisor: starts a job of ranks, watches it, and starts it again until it is done or there is no
// sense in it.
#ifndef LOCKSTEP_SUPERVISOR_SUPERVISE_H
#define LOCKSTEP_SUPERVISOR_SUPERVISE_H

#include <stdint.h>

#include "base/status.h"

typedef struct LsSuperviseOptions {
    int64_t ranks;        // at most
    int64_t min_ranks;    // with fewer slots it waits
    int64_t max_restarts; // without progress, which is a newer durable checkpoint
    const char *hostfile; // of these two one at most; none: this host
    const char *discover;
    const char *probe;
    int launcher;  // LsLauncher: 0 mpirun, 1 srun
    double grace;  // seconds from asking the job to stop to killing it
    double settle; // seconds that new slots must have been there before the job is stopped to use them
    const char *interface; // NULL: the loopback
    const char *launcher_arguments;
    const char *program;    // of the ranks: this program
    char *const *arguments; // its arguments, NULL-terminated
    const char *run_dir;    // where these lead
    int64_t batch;          // samples of a step
} LsSuperviseOptions;

// LS_OK: the job is done. LS_STOPPED: this process was asked to stop (TERM, INT, USR1, USR2), and the job
// saved. Otherwise what the job's last failure was, with its sentence.
LsStatus ls_supervise(const LsSuperviseOptions *options);

#endif
