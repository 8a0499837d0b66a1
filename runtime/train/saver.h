// The thread of a rank that makes its saves durable while training goes on. It copies numbers out of live
// memory, writes and syncs them, and on rank 0 puts finished checkpoints in their place and removes old ones.
// It makes no MPI call and no call of the device, and it leaves the rank's core.
//
// A save goes through its slot: begun → (numbers copied) → written here → (main threads: hashes gathered) →
// on rank 0 put in its place → free. Slots are used in turn, and saves are written in the order in which they
// were begun. Every function is for the main thread.
#ifndef LOCKSTEP_TRAIN_SAVER_H
#define LOCKSTEP_TRAIN_SAVER_H

#include "save.h"
#include "train/metrics.h"

enum { LS_SAVES_MAX = 2 }; // in flight

// Numbers to be copied, in pieces that several threads may share.
typedef struct LsCopyPiece {
    const float *from;
    float *to;
    size_t elements;
} LsCopyPiece;

typedef enum LsSlotState {
    LS_SLOT_FREE,
    LS_SLOT_BEGUN, // the device copies its numbers
    LS_SLOT_READY, // numbers are there, or can be copied from live memory: to be written
    LS_SLOT_WRITING,
    LS_SLOT_WRITTEN,  // durable here
    LS_SLOT_GATHERED, // rank 0: all hashes are there, to be put in its place
    LS_SLOT_PUTTING,
    LS_SLOT_PUT,       // rank 0: it is a checkpoint
    LS_SLOT_ABANDONED, // rank 0: what was written is to be removed
    LS_SLOT_FAILED,
} LsSlotState;

typedef struct LsSaverOptions {
    const LsSaveForm *form; // lent, as are the metrics
    size_t slots;           // at most LS_SAVES_MAX
    LsMetrics *metrics;     // rank 0: synced before each manifest
    int64_t keep_last, keep_every;
    // For each slot the pieces that make its copy from live host memory; NULL: the device copies. Lent.
    const LsCopyPiece *piece[LS_SAVES_MAX];
    size_t pieces;
} LsSaverOptions;

typedef struct LsSaver LsSaver;
LsStatus ls_saver_create(const LsSaverOptions *options, LsSaver **out); // starts the thread

// Ends the thread, which puts gathered saves in their place first: what is not durable then will never be.
// Nothing is removed, since other ranks may still write.
void ls_saver_end(LsSaver *saver);
void ls_saver_destroy(LsSaver *saver); // ends it first; NULL is fine

LsSlotState ls_saver_state(LsSaver *saver, size_t slot);
size_t ls_saver_blocks_written(LsSaver *saver, size_t slot);
LsSave *ls_saver_save(LsSaver *saver, size_t slot); // its hashes, once it is written; its path

// Begins a save in a free slot; `best` is the step that retention keeps for its evaluation, -1: none. Without
// pieces it waits for ls_saver_ready; with pieces the thread begins to copy at once.
LsStatus ls_saver_begin(
    LsSaver *saver, size_t slot, const LsRunState *state, const LsStateArray *array, int64_t best);

// The device has copied the numbers.
void ls_saver_ready(LsSaver *saver, size_t slot);

// Helps copying what the thread has not yet taken, and returns when the copy is complete: the live numbers
// may change. At once for a slot that is not being copied.
void ls_saver_finish_copy(LsSaver *saver, size_t slot);

// Rank 0: `all` of the save is filled. Elsewhere the slot becomes free.
void ls_saver_gathered(LsSaver *saver, size_t slot);

// Takes the slot of a checkpoint that was put in its place: it becomes free.
void ls_saver_release(LsSaver *saver, size_t slot);

// Stops writing, waits until the thread has left the slot, and frees it. Its numbers were copied. Rank 0
// removes the files with ls_saver_remove when all ranks have done this.
void ls_saver_abandon(LsSaver *saver, size_t slot);
void ls_saver_remove(LsSaver *saver, size_t slot); // rank 0: in the thread; the slot is free when it is done

// Waits until something has changed since the last such call that it returned from, or for that time.
void ls_saver_wait(LsSaver *saver, double seconds);

// Rank 0: whether checkpoints wait to be removed.
bool ls_saver_tidying(LsSaver *saver);

// What the main thread waits for comes before the removal of old checkpoints, and what is being verified for
// it is left alone for now; but a run that always waits for a slot must not fill the disk with them.
typedef enum LsHurry { LS_HURRY_NONE, LS_HURRY_SLOT, LS_HURRY_END } LsHurry;
void ls_saver_hurry(LsSaver *saver, LsHurry hurry);

// Why a slot has failed, or LS_OK. The sentence becomes this thread's message.
LsStatus ls_saver_failure(LsSaver *saver);

#endif
