// Checkpoints: step-00001200/ with one HDF5 file, written by all ranks at the file offsets of its data sets,
// and manifest.json, written last.
//
// The format knows nothing of ranks: tensors have names and shapes, blocks of LS_BLOCK elements have hashes
// (XXH3-64; a tensor's hash is XXH3-128 over its block hashes in order), the rest of the HDF5 file has one,
// and so has the manifest. A directory without a manifest is not a checkpoint. docs/checkpoints.md has the
// whole format.
#ifndef LOCKSTEP_TRAIN_CHECKPOINT_H
#define LOCKSTEP_TRAIN_CHECKPOINT_H

#include "base/config.h"
#include "base/json.h"
#include "collectives/comm.h"
#include "device/step_control.h"
#include "models/parameters.h"
#include "train/run_dir.h"

// Early stopping and "keep best": a part of the state, since it decides when a run ends.
typedef struct LsBestMetric {
    bool known;
    double value;
    int64_t step;
    int64_t stale; // evaluations since
} LsBestMetric;

// Steps that the guard found wrong: what guard.limit counts.
enum { LS_GUARD_FINDINGS_MAX = 100 };
typedef struct LsGuardHistory {
    int64_t rollbacks;
    int64_t held;                        // entries of `step`
    int64_t step[LS_GUARD_FINDINGS_MAX]; // the newest ones, oldest first
} LsGuardHistory;

// State that is not tensors. Everything here is in `checkpoint hash`, but for what most checkpoints do not
// have: evaluation_due only when it is set, which it never is where a run ends; window, history and count of
// rollbacks only when they are not empty, which they are without guards.
typedef struct LsRunState {
    LsStepControl control;
    uint64_t cursor; // stream position of the next step
    LsBestMetric best;
    bool evaluation_due; // the run was stopped before the evaluation that follows the step: it comes first
    LsSpikeWindow window;
    LsGuardHistory guard;
} LsRunState;

// One kind of per-parameter tensor: "parameters", "optimizer/moment1", "optimizer/moment2", "average". FP32,
// held as this rank's packed shard.
enum { LS_STATE_ARRAYS = 4 }; // at most
#define LS_GROUP_PARAMETERS "parameters"
#define LS_GROUP_AVERAGE "average" // of the parameters over the steps, with optimizer.average
typedef struct LsStateArray {
    const char *group;
    float *shard; // host memory, ls_shard_blocks blocks
} LsStateArray;

typedef struct LsCheckpointContent {
    const LsParameters *parameters;
    const LsBuckets *buckets;
    size_t arrays;
    LsStateArray *array;
    LsRunState *state;
    const LsConfig *config;
    const char *data_root_hash;
    const json_t *data_schema; // copied, so that predict needs no data file; may be NULL
    const char *fingerprint;   // of the device
    const char *algorithms;    // that runtime.autotune chose; NULL or "": none
} LsCheckpointContent;

// Saves to <run>/checkpoints/step-N: temporary name with the incarnation, all ranks write their blocks and
// fsync, agree, rank 0 writes the manifest, renames, fsyncs. Any rank's failure is everybody's LS_IO and
// nothing is left behind. A checkpoint of the same step, which a resume may make again, is replaced. In three
// parts: begin (collective: the file's form) → write (this rank's bytes; no MPI) → commit (collective).
// State, configuration and schema are copied at begin; comm, parameters, buckets and the shards are lent
// until the commit. A run, which saves often, makes the form once and writes in a thread: see save.h and
// saver.h.
typedef struct LsSave LsSave;
LsStatus ls_save_begin(const LsRunDir *run, LsComm *comm, const LsCheckpointContent *content, LsSave **out);
LsStatus ls_save_write(LsSave *save);
LsStatus ls_save_commit(
    LsSave *save, LsStatus written, char path[LS_PATH_MAX]); // consumes the save, also on failure

// A checkpoint opened for reading: its manifest is checked, its tensors are not yet.
typedef struct LsCheckpoint LsCheckpoint;
// LS_NO_INPUT when there is no such directory; LS_CHECKPOINT when it is no checkpoint, or manifest and file
// do not fit each other.
LsStatus ls_checkpoint_open(const char *directory, LsCheckpoint **out);
void ls_checkpoint_close(LsCheckpoint *checkpoint);
const json_t *ls_checkpoint_manifest(const LsCheckpoint *checkpoint);
int64_t ls_checkpoint_step(const LsCheckpoint *checkpoint);
const char *ls_checkpoint_run_id(const LsCheckpoint *checkpoint);
const char *ls_checkpoint_fingerprint(const LsCheckpoint *checkpoint);
const char *ls_checkpoint_algorithms(const LsCheckpoint *checkpoint); // "" if none were chosen
const char *ls_checkpoint_data_hash(const LsCheckpoint *checkpoint);
const json_t *ls_checkpoint_data_schema(const LsCheckpoint *checkpoint); // JSON null if none was given
bool ls_checkpoint_has_group(const LsCheckpoint *checkpoint, const char *group);

// The group that is the checkpoint's model: averaged weights, where they are wanted (eval.average) and there,
// else the parameters.
const char *ls_checkpoint_model_group(const LsCheckpoint *checkpoint, bool averaged);
LsStatus ls_checkpoint_config(const LsCheckpoint *checkpoint, LsConfig *config);
LsStatus ls_checkpoint_state(const LsCheckpoint *checkpoint, LsRunState *state);

// Checks every block of every tensor (each rank a part when comm is given, collective). LS_CHECKPOINT names
// the tensor and block.
LsStatus ls_checkpoint_verify(const LsCheckpoint *checkpoint, LsComm *comm);

// LS_CHECKPOINT when the tensors are not those of the table, by name and shape.
LsStatus ls_checkpoint_matches(const LsCheckpoint *checkpoint, const LsParameters *parameters);

// Reads blocks [first, first + count) of the flat buffer of group `group` to host memory, hashes checked,
// padding as zeros.
LsStatus ls_checkpoint_read(const LsCheckpoint *checkpoint, const LsParameters *parameters, const char *group,
    size_t first, size_t count, float *out);

// One SHA-256 over every tensor's name, type, shape and bytes in name order and over the run state; nothing
// in it depends on the number of ranks. Block hashes are checked on the way.
LsStatus ls_checkpoint_hash(const LsCheckpoint *checkpoint, char text[65]);

// What a person wants to know of a checkpoint, and of how two differ: for each tensor the number of elements
// whose bits differ and the largest absolute difference, then the state and the configuration. *equal: same
// tensors, same state.
LsStatus ls_checkpoint_info(const LsCheckpoint *checkpoint, FILE *out);
LsStatus ls_checkpoint_diff(const LsCheckpoint *a, const LsCheckpoint *b, FILE *out, bool *equal);

// The mean of the checkpoints' parameters, each number added up in double and rounded once. LS_CHECKPOINT
// when one of them is of another model or damaged.
typedef struct LsAverage {
    size_t count; // at least 1
    LsCheckpoint *const *checkpoint;
    const LsParameters *parameters;
    float *out; // flat, parameters->blocks blocks
} LsAverage;
LsStatus ls_checkpoint_average(const LsAverage *average);

// Steps of the run's checkpoint directories with a manifest, ascending, in *steps (freed by the caller).
LsStatus ls_checkpoint_list(const char *run, int64_t **steps, size_t *count);

// The same with the directories that lost their manifest: a run that has only such is damaged, not new.
LsStatus ls_checkpoint_list_claimed(const char *run, int64_t **steps, size_t *count);

void ls_checkpoint_path(char path[LS_PATH_MAX], const char *run, int64_t step);

// A checkpoint's directory from what the user named: itself, or the newest checkpoint of a run's directory.
// LS_NO_INPUT when a run has none yet; whether a checkpoint is there is seen when it is opened.
LsStatus ls_checkpoint_find(const char *named, char path[LS_PATH_MAX]);

typedef enum LsVerdict {
    LS_VERDICT_LATER, // there was no time to find out
    LS_VERDICT_GOOD,
    LS_VERDICT_DAMAGED,
    LS_VERDICT_UNREADABLE // now; it may be whole, so it stays and counts for none
} LsVerdict;

typedef struct LsRetention {
    int64_t keep_last, keep_every; // keep_every 0: none for its number
    int64_t best_step;             // -1: none
    bool dry_run;                  // removes nothing
    // Whether a checkpoint is whole; LATER: it could not be found out now. NULL: it is read.
    LsVerdict (*check)(void *context, int64_t step);
    void (*removed)(void *context, int64_t step); // NULL: nobody is told
    void *context;
} LsRetention;

// Applies retention: keeps the last keep_last, multiples of keep_every, best_step, the newest two, the one
// that a rollback would go back to (run->rollback_every), and in any case the newest two that are whole;
// removes the others and what earlier attempts left unfinished. Nothing is read while nothing is to be
// removed. *complete: false when `check` had no time, and nothing was removed. Rank 0, any thread.
LsStatus ls_checkpoint_retain(const LsRunDir *run, const LsRetention *retention, bool *complete);

// Removes what earlier attempts left unfinished; this attempt's own may be in use. Rank 0.
LsStatus ls_checkpoint_remove_unfinished(const LsRunDir *run);

// Removes what this attempt itself has left unfinished, when no rank writes any more. Rank 0.
LsStatus ls_checkpoint_remove_own(const LsRunDir *run);

// Of these steps, ascending, the newest multiple of `every` below `limit`, or the first one when there is no
// multiple and it is below; -1: none.
int64_t ls_checkpoint_before(const int64_t *steps, size_t count, int64_t limit, int64_t every);

// Removes the run's checkpoints past `step`. Rank 0.
LsStatus ls_checkpoint_remove_after(const LsRunDir *run, int64_t step);

#endif
