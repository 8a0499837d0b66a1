// What the source files of checkpoints share beside the manifest. Private to them.
#ifndef LOCKSTEP_TRAIN_CHECKPOINT_FILE_H
#define LOCKSTEP_TRAIN_CHECKPOINT_FILE_H

#include "manifest.h"

// Numbers are read, written and hashed in portions of this many blocks (1 MiB), so that what one pass brings
// into the cache the next still finds there.
enum { LS_PORTION = 64 };

struct LsCheckpoint {
    char directory[LS_PATH_MAX];
    char file[LS_PATH_MAX]; // of the numbers
    int fd;                 // of it
    int direct;             // the same past the page cache; -1: none
    LsManifest manifest;
};

// From now on whole pages are read into page-aligned memory past the page cache, where the file system can:
// from the disk itself, and without the processor time of a copy.
enum { LS_PAGE = 4096 };
void ls_checkpoint_read_directly(LsCheckpoint *checkpoint);

// Reads blocks [first, first + count) of a tensor to `out`; their hashes are checked. Behind the tensor's
// last element `out` is left alone.
LsStatus ls_checkpoint_read_blocks(
    const LsCheckpoint *checkpoint, const LsManifestTensor *tensor, size_t first, size_t count, float *out);

// Elements of a tensor's blocks [first, first + count), the last of which may be partly filled.
size_t ls_block_elements(size_t elements, size_t first, size_t count);

// A range of the flat buffer that lies in one tensor.
typedef struct LsBlockRun {
    size_t index;        // of the tensor in the table
    size_t first, count; // its blocks
    size_t stored;       // of them: those in front have elements and are in the file, the rest is padding
} LsBlockRun;

// The run that starts at flat block `block` and ends with its tensor or at `end`.
LsBlockRun ls_block_run(const LsParameters *parameters, size_t block, size_t end);

#endif
