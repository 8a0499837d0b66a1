// Training for the sake of its times: a run in a folder of its own that is removed afterwards, looked at
// window by window. Private to the benchmarks of whole steps.
#ifndef LOCKSTEP_LAUNCH_REHEARSAL_H
#define LOCKSTEP_LAUNCH_REHEARSAL_H

#include "bench.h"

// Means per step over a window; the same on all ranks.
typedef struct LsStepWindow {
    int64_t step;      // its last one
    double seconds;    // of the slowest rank
    double data;       // waiting for the loader, mean over the ranks
    double comm;       // exposed communication, mean over the ranks
    double least_comm; // of the rank that waited least: what is not waiting for slower ranks
    bool disturbed;
} LsStepWindow;

typedef struct LsRehearsalOptions {
    LsComm *comm;
    const LsConfig *config; // of the user; what a rehearsal needs otherwise is put over a copy of it
    LsDevice *device;       // lent; NULL: the configuration's
    const char *folder;     // for the run; NULL: TMPDIR or /tmp
    int64_t warm_up;        // steps before the first window, a multiple of `every`
    int64_t every;          // steps of a window
    int64_t wanted;         // windows that are not disturbed; up to LS_BENCH_TRIES times as many are tried
    int64_t save_every;     // steps, 0: no checkpoints
    bool fixed;             // ends after `wanted` windows, disturbed or not
    bool profiled;          // writes profile/ into the run's directory
    // Behind each step of the warm-up, where windows have one step; NULL: nobody wants to know.
    void (*warmed)(void *context, int64_t step);
    void *context;
} LsRehearsalOptions;

typedef struct LsRehearsal {
    char run_dir[LS_PATH_MAX]; // the same on all ranks
    char folder[LS_PATH_MAX];  // in which it is
    LsComm *comm;
    LsStepWindow *window;
    size_t windows, undisturbed;
    double mfu_seconds; // MFU times the step it is of: the least time of a step's products; 0: not known
} LsRehearsal;

// Collective. Ended by ls_rehearsal_end, which removes the folder, also after a failure.
LsStatus ls_rehearse(const LsRehearsalOptions *options, LsRehearsal *out);
void ls_rehearsal_end(LsRehearsal *rehearsal);

// The spread of one of a window's numbers (offset in LsStepWindow).
LsStatus ls_rehearsal_spread(const LsRehearsal *rehearsal, size_t offset, LsSpread *out);

#endif
