// A run's directory: claimed by one attempt at a time, on storage that all hosts see.
//
//   runs/NAME/  config.yaml  env.json  status.json  metrics.jsonl  events.jsonl  log/rank-0000.log
//               checkpoints/step-00001200/  archive/001/ (an earlier run)
//               algorithms.txt (with runtime.autotune)
//               metrics-ahead.jsonl (lines up to a newer checkpoint that could not be read, see metrics.h)
//               attempts/run_id  attempts/000001/ (made by mkdir: whoever makes it owns that number)
//               lock (held by flock while an attempt lives; its text says by whom)
#ifndef LOCKSTEP_TRAIN_RUN_DIR_H
#define LOCKSTEP_TRAIN_RUN_DIR_H

#include <stdint.h>

#include "base/config.h"
#include "base/file.h"
#include "base/json.h"
#include "collectives/comm.h"

typedef struct LsRunDir {
    char path[LS_PATH_MAX];
    char run_id[33]; // random, made with the directory; same for all attempts
    int attempt;     // 1, 2, … within the run
    int lock;        // descriptor on rank 0, -1 elsewhere
    int64_t
        rollback_every; // steps; of checkpoints that are multiples retention keeps the newest, 0: need not
} LsRunDir;

// Collective. Creates or enters the directory and its checkpoints/ and log/, takes the lock (LS_IO "in use by
// process …" when a living attempt holds it), makes the next attempt's number and checks that all ranks see
// the same storage (LS_IO names the host that does not). The path that counts is rank 0's.
LsStatus ls_run_dir_claim(LsRunDir *run, const char *path, LsComm *comm);
void ls_run_dir_release(LsRunDir *run);

// Whether an attempt lives that holds the lock, for who only looks; `by` becomes "process 12 on host" as far
// as the lock's text tells.
bool ls_run_dir_held(const char *run_dir, char *by, size_t size);

// For a command that changes a run without going on with it: takes the lock as the attempt that was there
// last. LS_NO_INPUT when there is no run, LS_IO when a living attempt holds it.
LsStatus ls_run_dir_enter(LsRunDir *run, const char *path);

// True when an attempt with a higher number has claimed the directory: this one must stop without writing.
// Rank 0 only.
bool ls_run_dir_superseded(const LsRunDir *run);

// The same as a status, for what writes: LS_IO "superseded by attempt N". Rank 0 only.
LsStatus ls_run_dir_require_current(const LsRunDir *run);

// The newest attempt that has claimed the run, for who only looks; 0: none, or it cannot be told.
int ls_run_dir_newest_attempt(const char *run_dir);

// Moves what an earlier run left (all but the lock) into archive/NNN/ and starts a new run: new run id,
// attempt 1. Does nothing in a directory that this attempt was the first to claim. Rank 0 only, after the
// claim and before anything in the directory is opened; the other ranks keep the old id and number, which
// nothing of theirs uses.
LsStatus ls_run_dir_archive(LsRunDir *run);

// Replaces config.yaml. Rank 0 only.
LsStatus ls_run_dir_write_config(const LsRunDir *run, const LsConfig *config);

// Replaces env.json: hosts, ranks, versions, fingerprint. Rank 0 only.
LsStatus ls_run_dir_write_env(const LsRunDir *run, const json_t *environment);

#endif
