// How a run saves itself without standing still. Every function is for the main thread of every rank.
//
//   begin   after a step: the state is copied at once; the numbers are copied while the next forward and
//           backward run, by the device behind the optimizer pass, or by the saver's thread out of live
//           memory
//   copied  before the next optimizer pass: what it would overwrite is safe
//   vote    in each step's exchange: how many of the newest saves are not durable on this rank
//   learn   from the votes of all: what is durable everywhere is handed to rank 0's thread, with its hashes
//   wait    until all that was begun is durable, outside of steps
//
// begun and gathered are alike on all ranks at any place in the program, so every rank decides alike what to
// do next. What fails on a rank (a full disk, a newer attempt) is kept in trainer->failed, which its next
// vote carries, or the next wait: all ranks end with its sentence. What every rank has written by then still
// becomes a checkpoint.
#ifndef LOCKSTEP_TRAIN_SAVING_H
#define LOCKSTEP_TRAIN_SAVING_H

#include "save_pace.h"
#include "saver.h"

typedef struct LsTrainer LsTrainer;

typedef struct LsSaving {
    LsSaveForm *form;
    LsSaver *saver;
    size_t slots;      // saves that may be in flight
    uint64_t begun;    // saves of this attempt
    uint64_t gathered; // of them: durable on every rank, hashes gathered
    uint64_t reported; // of them, on rank 0: checkpoints, with event and status
    int64_t step[LS_SAVES_MAX];
    double start[LS_SAVES_MAX];     // clock when it began
    LsMarker *stable;               // the optimizer pass before the copy
    LsMarker *copied[LS_SAVES_MAX]; // the device's copy of a slot
    bool copying;                   // the newest save's numbers must not be overwritten yet
    bool wanted;                    // the ranks have voted for a save
    double stalled;                 // seconds that training has waited for saves, in this attempt
    double told;                    // of them: those that events have told of
    LsSavePace pace;                // rank 0, unless the policy is steps
} LsSaving;

// Collective; comes when state, fingerprint and algorithms are known. Rank 0 removes what earlier attempts
// left unfinished.
LsStatus ls_saving_create(LsTrainer *trainer);

// Ends the thread; saves that are not durable on all ranks are gone when this returns. Collective, comes
// before the arenas and the device go; a trainer without saving is fine.
void ls_saving_destroy(LsTrainer *trainer);

// Begins a save of the state as it is; never twice of one step while the first is in flight. Waits when as
// many as may be are in flight. Collective.
LsStatus ls_trainer_save_begin(LsTrainer *trainer);

LsStatus ls_trainer_save_copied(LsTrainer *trainer);

// Fills in `unsaved`, and `save` when the clock says so or SIGCONT hints at a stop; a failed save goes to
// trainer->failed.
void ls_trainer_save_vote(LsTrainer *trainer, LsVotes *votes);

// Collective where hashes are to be gathered; all ranks pass the same votes.
LsStatus ls_trainer_save_learn(LsTrainer *trainer, uint32_t unsaved);

// A step has ended, for the pace of saves.
void ls_trainer_save_step(LsTrainer *trainer);

// Waits until every save that was begun is a checkpoint; then nothing of the state is being copied either.
// Collective; no rank waits long for another within one message, however slow the storage.
LsStatus ls_trainer_save_wait(LsTrainer *trainer);

// Begin and wait: what the end, a stop and a rollback want.
LsStatus ls_trainer_save(LsTrainer *trainer);

// Before the save of a stop: a save of which less than half is written on some rank would only delay it, and
// is given up; one that is further finishes. Collective.
LsStatus ls_trainer_save_clear(LsTrainer *trainer);

// At the end: waits until old checkpoints are removed. Collective.
LsStatus ls_trainer_save_tidy(LsTrainer *trainer);

#endif
