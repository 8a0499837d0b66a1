// What all saves of a run have in common: which tensors there are, where they lie in the file, and the bytes
// of the file's HDF5 structure, which are the same each time. Made once, at set-up; from then on a save
// begins without HDF5 and without a word from another rank.
#ifndef LOCKSTEP_TRAIN_SAVE_FORM_H
#define LOCKSTEP_TRAIN_SAVE_FORM_H

#include "manifest.h"

typedef struct LsSaveForm {
    LsRunDir run;                   // as rank 0 knows it, without the lock
    const LsParameters *parameters; // lent, as is the next
    const LsBuckets *buckets;
    uint32_t ranks, rank;
    size_t arrays;
    size_t shard_blocks; // of this rank
    // The table of tensors with offsets and hash of the structure, without state. On rank 0 it has places for
    // the block hashes, which one commit at a time fills, and in `json` what every manifest of the run says.
    LsManifest manifest;
    size_t *tensor_of; // [arrays][parameters]: index in the table
    char *structure;   // rank 0: every byte of the file that is not a tensor's, in order
} LsSaveForm;

// Collective. Of `content` the state and the shards are not looked at; configuration, schema and texts are
// copied. Rank 0 lets HDF5 make a file that takes no room, in a hidden directory of the run's checkpoints
// that is gone when this returns. LS_IO on all ranks when it cannot.
LsStatus ls_save_form_create(
    const LsRunDir *run, LsComm *comm, const LsCheckpointContent *content, LsSaveForm **out);
void ls_save_form_destroy(LsSaveForm *form); // NULL is fine

// <run>/checkpoints/.KIND-step-…-<run id>-<attempt>: no two attempts have the same.
LsStatus ls_save_temporary_path(const LsRunDir *run, const char *kind, int64_t step, char path[LS_PATH_MAX]);

// Rank 0: calls `visit` for every range of the file that is not a tensor's, with its bytes and its place in
// the file, until one fails.
typedef LsStatus LsSaveGap(void *context, char *bytes, size_t size, uint64_t offset);
LsStatus ls_save_form_each_gap(const LsSaveForm *form, LsSaveGap *visit, void *context);

// Sets space aside for the file where the file system can; elsewhere writing finds out.
LsStatus ls_save_reserve(int fd, const char *path, uint64_t size);

// count * size bytes, at least one.
LsStatus ls_save_allocate(size_t count, size_t size, void *out);

#endif
