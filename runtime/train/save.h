// One save: this rank's numbers written and hashed, and on rank 0 the manifest and the name that make a
// checkpoint of them. Nothing here talks to another rank. Private to the layer; train/checkpoint.h has the
// same in three collective calls.
#ifndef LOCKSTEP_TRAIN_SAVE_H
#define LOCKSTEP_TRAIN_SAVE_H

#include <stdatomic.h>

#include "save_form.h"

struct LsSave {
    const LsSaveForm *form; // lent
    LsSaveForm *owned;      // NULL, or the form that ends with the save
    LsComm *comm;           // lent, for the collective calls; NULL without them
    LsRunState state;
    char saved_at[32];
    const float *shard[LS_STATE_ARRAYS]; // lent; host memory
    char directory[LS_PATH_MAX];         // temporary
    char file[LS_PATH_MAX];              // in it
    char path[LS_PATH_MAX];              // where the directory goes
    uint64_t *mine;                      // [arrays][shard_blocks] hashes
    uint64_t *all;                       // the same of every rank, rank after rank
    size_t *sizes;                       // [ranks] bytes of each rank's part of `all`
    // What the write asks for between portions of some MiB: whether to go on. NULL: it goes on.
    LsStatus (*pause)(void *context);
    void *context;
    atomic_size_t written; // blocks so far, of arrays * shard_blocks
    double write_seconds;  // that the write took here, with its sync; valid when it is done
};

// Allocates what every save of the form needs; ls_save_close releases it. A save is used any number of times:
// opened, written, and put in its place or discarded.
LsStatus ls_save_create(const LsSaveForm *form, LsSave **out);
void ls_save_close(LsSave *save); // NULL is fine

// Names state and numbers; the state is copied, the numbers are lent until the write is done.
LsStatus ls_save_open(LsSave *save, const LsRunState *state, const LsStateArray *array);

// ls_save_write is in train/checkpoint.h: makes directory and file where another rank has not, writes the
// blocks of this rank, on rank 0 the structure too, and syncs the file. Any thread.

// Rank 0, when everyone has written and `all` is filled: writes the manifest, checks that no newer attempt
// has taken over the run, renames, syncs. Any thread, one at a time for all saves of a form.
LsStatus ls_save_put(LsSave *save);

// Removes the temporary directory. Every rank has ended its write.
LsStatus ls_save_discard(const LsSave *save);

#endif
