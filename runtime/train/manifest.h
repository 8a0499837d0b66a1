// The manifest of a checkpoint: what is in its file, where, with which hashes, and the state beside the
// tensors. Private to the checkpoint's source files and their tests.
#ifndef LOCKSTEP_TRAIN_MANIFEST_H
#define LOCKSTEP_TRAIN_MANIFEST_H

#include "base/hash.h"
#include "train/checkpoint.h"

#define LS_MANIFEST_NAME "manifest.json"
#define LS_STATE_NAME "state.h5"

enum {
    LS_MANIFEST_VERSION = 1,
    LS_TENSOR_PATH = 2 * LS_NAME_MAX,       // "group/name" and the NUL
    LS_MANIFEST_LIMIT = 1024 * 1024 * 1024, // bytes; the block hashes of 275 billion numbers
    LS_HASH64_DIGITS = LS_HASH64_TEXT - 1,
};

// One tensor of the file: float32, little-endian, contiguous.
typedef struct LsManifestTensor {
    char path[LS_TENSOR_PATH]; // "optimizer/moment1/layers.0.weight", its place in the HDF5 file
    const char *name;          // the part of `path` behind the group
    int dimensions;
    size_t shape[LS_DIMENSIONS_MAX];
    size_t elements, blocks;
    uint64_t offset;      // of its first byte in the file
    uint64_t *block_hash; // [blocks], owned; NULL until they are known
} LsManifestTensor;

typedef struct LsManifest {
    char run_id[33];
    int attempt;
    int64_t step;
    uint64_t file_size;
    char structure_hash[LS_SHA256_TEXT]; // over every byte of the file that is not a tensor's
    size_t tensors;
    LsManifestTensor *tensor; // [tensors], owned, in the order of their paths
    size_t *by_offset;        // [tensors], owned: the same in the order of the file
    LsRunState state;
    json_t *json; // owned: all of it, as read
} LsManifest;

// Reads and checks a manifest: its checksum first, then every member. LS_CHECKPOINT with what is wrong.
LsStatus ls_manifest_read(const char *path, LsManifest *out);

// The same of a text; `name` stands for the file in messages.
LsStatus ls_manifest_parse(const char *text, size_t size, const char *name, LsManifest *out);

// The same of a JSON value (borrowed), without a checksum.
LsStatus ls_manifest_from_json(json_t *json, const char *name, LsManifest *out);

void ls_manifest_free(LsManifest *manifest);

// A tensor's path from group and name: both of letters, digits, '_', '-' and '.', parts of the group divided
// by '/', no part that begins with a dot. False for anything else, and for what is too long.
bool ls_tensor_path(const char *group, const char *name, char path[LS_TENSOR_PATH]);

// Sets tensor[i].elements and blocks from its shape; false for a shape that no tensor has.
bool ls_manifest_measure(LsManifestTensor *tensor);

// NULL if there is none.
const LsManifestTensor *ls_manifest_find(const LsManifest *manifest, const char *path);

// Sets by_offset and checks that tensors lie within the file and apart from each other.
LsStatus ls_manifest_arrange(LsManifest *manifest, const char *name);

// Reads every byte of the file outside the tensors.
LsStatus ls_manifest_structure_hash(
    const LsManifest *manifest, int fd, const char *path, char text[LS_SHA256_TEXT]);

// XXH3-128 over the block hashes, each as eight bytes, most significant first.
LsStatus ls_tensor_hash(const LsManifestTensor *tensor, LsHash128 *out);

// The text of a manifest: the object, with its checksum as the last member. NULL when memory is short.
char *ls_manifest_text(const json_t *json, size_t *size);

// The member "tensors" from the table of tensors. NULL when memory is short.
json_t *ls_manifest_tensors_json(const LsManifest *manifest);

// ---- State (checkpoint_state.c) -------------------------------------------------------------------------

json_t *ls_state_json(const LsRunState *state);
LsStatus ls_state_parse(const json_t *json, const char *name, LsRunState *out);
void ls_state_hash(const LsRunState *state, LsSha256 *sha);
void ls_state_print(const LsRunState *state, FILE *out);

// Prints the members that differ and returns how many do.
size_t ls_state_diff(const LsRunState *a, const LsRunState *b, FILE *out);

// ---- The HDF5 file (checkpoint_h5.c) --------------------------------------------------------------------

// Creates the file with a data set for each tensor of the manifest, space allocated and not written, and
// closes it. Sets each tensor's offset. LS_IO.
LsStatus ls_state_file_create(const char *path, LsManifest *manifest);

#endif
