// safetensors files (Hugging Face): how weights travel between programs.
//
// A file is the header's length (8 bytes, little-endian), the header (JSON: tensor name → dtype, shape and
// data_offsets, and "__metadata__" with texts), and the data: tensors in row-major order, little-endian, one
// behind the other without gaps. A file comes from anywhere, so all of it is distrusted: nothing is allocated
// from a number before the bytes that it promises are known to be there. What is wrong is LS_CHECKPOINT and
// names the file and the tensor.
#ifndef LOCKSTEP_TRAIN_SAFETENSORS_H
#define LOCKSTEP_TRAIN_SAFETENSORS_H

#include "base/json.h"
#include "device/tensor.h"

enum {
    LS_SAFETENSORS_HEADER = 100 * 1000 * 1000, // bytes at most, the format's own limit
    LS_SAFETENSORS_DIMENSIONS = 8,
};

// A tensor of a file.
typedef struct LsFileTensor {
    const char *name, *type; // "F32"; owned by the file
    int dimensions;          // 0: a scalar
    size_t shape[LS_SAFETENSORS_DIMENSIONS];
    size_t elements;
    uint64_t begin, end; // bytes of the data
} LsFileTensor;

typedef struct LsSafetensors LsSafetensors;

// Reads and checks the header; values are read later. LS_NO_INPUT, LS_IO or LS_CHECKPOINT.
LsStatus ls_safetensors_open(const char *path, LsSafetensors **out);
void ls_safetensors_close(LsSafetensors *file);
const char *ls_safetensors_path(const LsSafetensors *file);

// All tensors, in the order of the data.
const LsFileTensor *ls_safetensors_list(const LsSafetensors *file, size_t *count);
const LsFileTensor *ls_safetensors_find(const LsSafetensors *file, const char *name); // or NULL

// The text that the metadata has under the key, or NULL.
const char *ls_safetensors_metadata(const LsSafetensors *file, const char *key);

// Reads elements [first, first + count) of a tensor of type F32, F16 or BF16, which all become F32 without
// rounding; any other type is LS_CHECKPOINT.
LsStatus ls_safetensors_read(
    const LsSafetensors *file, const LsFileTensor *tensor, size_t first, size_t count, float *out);

// ---- Writing --------------------------------------------------------------------------------------------

typedef struct LsSafetensorsContent {
    LsDtype type; // of all tensors: F32, F16 or BF16
    size_t count;
    const LsFileTensor *tensor; // [count] names, dimensions and shapes; the rest is not read
    const json_t *metadata;     // an object of texts, or NULL
    // Writes all values of one tensor to `out`.
    LsStatus (*values)(void *context, size_t index, float *out);
    void *context;
} LsSafetensorsContent;

// Writes a file atomically and durably, in the one form that its content has: tensors by name, header with
// sorted keys and filled up with spaces to a multiple of 8. Values are rounded to nearest even. LS_IO;
// LS_BAD_DATA names the tensor with a number that F16 cannot hold.
LsStatus ls_safetensors_write(const char *path, const LsSafetensorsContent *content);

#endif
