// One launch of the job: the launcher's process, its arguments and environment, what it prints.
#ifndef LOCKSTEP_SUPERVISOR_JOB_H
#define LOCKSTEP_SUPERVISOR_JOB_H

#include <stdint.h>
#include <sys/types.h>

#include "base/file.h"
#include "hosts.h"

enum { LS_SENTENCE_MAX = 4096 };

typedef enum LsLauncher { LS_LAUNCHER_MPIRUN, LS_LAUNCHER_SRUN } LsLauncher;

typedef struct LsJobOptions {
    int launcher; // LsLauncher
    int ranks;
    const LsHosts *hosts;   // NULL: this host, or what the launcher knows by itself
    double now;             // hosts that are usable then
    bool allocated;         // by a resource manager, which tells the launcher where; then without hosts
    const char *extra;      // arguments for the launcher, as a shell would take them apart; NULL: none
    const char *program;    // of the ranks
    char *const *arguments; // its arguments, NULL-terminated
    const char *resume;     // appended as --resume; NULL: nothing
    const char *supervisor; // address for the ranks
    const uint8_t *key;     // [LS_PULSE_KEY]
    uint32_t incarnation;
} LsJobOptions;

typedef struct LsJob {
    pid_t pid;  // of the launcher and of its process group; 0: none
    int errors; // read end of a pipe: the launcher's standard error
    char scratch[LS_PATH_MAX];
    int scratch_lock;
    char line[LS_SENTENCE_MAX]; // an unfinished one
    size_t used;
    char sentence[LS_SENTENCE_MAX]; // the newest failure that a rank stated, "" if none
} LsJob;

// Starts it in a process group of its own that is killed when this process dies. LS_UNAVAILABLE: the launcher
// is not installed. On failure nothing is left.
LsStatus ls_job_start(const LsJobOptions *options, LsJob *out);

// Passes on what the ranks print to standard error, but for the sentence of a failure, which is kept. Never
// blocks.
void ls_job_read(LsJob *job);

void ls_job_signal(const LsJob *job, int number); // to the launcher
void ls_job_kill(const LsJob *job);               // SIGKILL to its process group

// Once the launcher has been waited for: prints the rest, closes, removes the shared memory.
void ls_job_end(LsJob *job);

#endif
