// All that touches HDF5: where the sets of a file lie, and creating them. Values never pass through the
// library: they are read and written at the sets' file offsets.
//
// Files are in the format of HDF5 1.10 (H5F_LIBVER_V110), whose metadata carries checksums, so that a damaged
// header is an error of the library and not a wild value.
#ifndef LOCKSTEP_DATA_DATASET_HDF5_H
#define LOCKSTEP_DATA_DATASET_HDF5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_HDF5_DIMENSIONS = 5 };

typedef enum LsHdf5Type {
    LS_HDF5_U8,
    LS_HDF5_F32,
    LS_HDF5_I32,
    LS_HDF5_U16,
    LS_HDF5_U32,
    LS_HDF5_U64,
    LS_HDF5_CHUNK, // {offset u64, bytes u64, hash u8[16]}
    LS_HDF5_TEXT   // one string of shape[0] bytes; the set itself is scalar
} LsHdf5Type;

typedef struct LsHdf5Set {
    LsHdf5Type type;
    int dimensions;
    uint64_t shape[LS_HDF5_DIMENSIONS];
    uint64_t chunk_rows; // rows (first dimension) of a deflated chunk; 0: contiguous
    uint64_t offset;     // of the values in the file, when contiguous
    uint64_t bytes;      // of all values; of a chunk when chunked
} LsHdf5Set;

typedef struct LsHdf5 LsHdf5;

// Opens for reading. LS_NO_INPUT, LS_IO, or LS_BAD_DATA when the file is no sound HDF5.
LsStatus ls_hdf5_open(const char *path, LsHdf5 **out);

// Describes the set `name`; *found is false when there is none (out is untouched). LS_BAD_DATA when the set
// is not as we write them: little-endian of a type above, contiguous within the file, or chunked by whole
// rows with deflate alone.
LsStatus ls_hdf5_find(LsHdf5 *file, const char *name, LsHdf5Set *out, bool *found);

// Creates a file that must not exist yet. LS_IO.
LsStatus ls_hdf5_create(const char *path, LsHdf5 **out);

// Creates a set of the given type, shape and chunk_rows, groups included; sets offset and bytes. LS_IO.
LsStatus ls_hdf5_add(LsHdf5 *file, const char *name, LsHdf5Set *set);

// Writes one deflated chunk that starts at `row` of set `name`, and says where it lies. LS_IO.
LsStatus ls_hdf5_write_chunk(
    LsHdf5 *file, const char *name, uint64_t row, const void *data, size_t bytes, uint64_t *offset);

// The descriptor to read or write values with; belongs to `file`.
int ls_hdf5_descriptor(const LsHdf5 *file);

// Writes what the library holds back and closes it; the descriptor stays open. LS_IO.
LsStatus ls_hdf5_finish(LsHdf5 *file);

// Closes all and frees; a file that was created but not finished is given up and worth nothing. Accepts NULL.
void ls_hdf5_close(LsHdf5 *file);

#endif
