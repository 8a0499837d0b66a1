// What may ask a run to stop, behind one object. The trainer looks at it once a step and gives the answer to
// the other ranks with its votes; all stop after the same step.
//
//   signal   SIGUSR1, SIGUSR2, SIGTERM or SIGINT
//   time     train.max_time is over, or stop.margin seconds are left of Slurm's time limit
//            (SLURM_JOB_END_TIME in the environment, in seconds since 1970)
//   file     the file RUN/stop exists: looked at every second by a thread of rank 0
//   notice   the cloud says that the machine goes away (stop.notices): asked every second by a thread of one
//            rank of each host. A service that fails is a warning, and never the end of training.
//
// Neither thread makes an MPI call.
#ifndef LOCKSTEP_TRAIN_STOP_H
#define LOCKSTEP_TRAIN_STOP_H

#include "base/config.h"
#include "base/json.h"
#include "train/trainer.h"

// Of several reasons in one step the largest counts.
typedef enum LsStopReason {
    LS_STOP_NONE,
    LS_STOP_TIME,
    LS_STOP_FILE,
    LS_STOP_SIGNAL,
    LS_STOP_NOTICE
} LsStopReason;

enum { LS_STOP_TEXT = 256 };

typedef struct LsStopWatch LsStopWatch;

typedef struct LsStopOptions {
    const LsConfig *config;     // lent
    const LsStopSignal *signal; // lent; NULL: none
    const char *run_dir;
    double begun; // clock at which the attempt began
    bool first;   // rank 0
    bool asks;    // the rank of its host that asks for notices
} LsStopOptions;

// Starts the threads that the options need. LS_UNAVAILABLE: stop.notices in a build without libcurl.
LsStatus ls_stop_create(const LsStopOptions *options, LsStopWatch **out);
void ls_stop_destroy(LsStopWatch *watch); // accepts NULL; ends the threads at once

// A few loads and, with a time limit, a look at the clock.
LsStopReason ls_stop_asked(const LsStopWatch *watch);

// Whether SIGCONT has come since the last call: mpirun sends it a second before SIGTERM, but so does a shell
// that continues a job. It is time for a checkpoint, and not to stop.
bool ls_stop_hinted(LsStopWatch *watch);

// What asked, for people, and when. Valid when ls_stop_asked is not LS_STOP_NONE.
typedef struct LsStopRequest {
    uint32_t reason;         // LsStopReason
    double seconds;          // since it asked
    char text[LS_STOP_TEXT]; // "asked to stop by SIGUSR1"
} LsStopRequest;
void ls_stop_request(const LsStopWatch *watch, LsStopRequest *out);

// The request has been obeyed, or there is nothing left to stop: removes the stop file. Rank 0 only.
LsStatus ls_stop_obeyed(const LsStopWatch *watch);

// "signal", "time", "file", "notice".
const char *ls_stop_name(LsStopReason reason);

#endif
