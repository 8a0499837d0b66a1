// One IDX file in memory (the format of LeCun's MNIST files): two zero bytes, a type byte, a byte with the
// number of dimensions, the dimensions as big-endian 32-bit numbers, then the values, big-endian.
#ifndef LOCKSTEP_DATA_IMPORT_IDX_H
#define LOCKSTEP_DATA_IMPORT_IDX_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/dataset.h"

enum { LS_IDX_DIMENSIONS = 5 }; // samples and up to four of a sample

typedef struct LsIdx {
    LsColumnType type; // LS_COLUMN_U8 or LS_COLUMN_F32
    int dimensions;    // at least 1
    size_t shape[LS_IDX_DIMENSIONS];
    size_t bytes; // of values
    void *values; // in host byte order
} LsIdx;

// Reads a plain or gzip file. LS_NO_INPUT, LS_IO, LS_BAD_DATA with the offset of what is wrong. Memory is
// bounded by what the file really holds, not by what its header says.
LsStatus ls_idx_read(const char *path, LsIdx *out);

// The same from memory; `name` stands for the path in messages.
LsStatus ls_idx_parse(const void *data, size_t size, const char *name, LsIdx *out);

// Does the file (plain or gzip) begin as an IDX file does? *idx is set on LS_OK. LS_NO_INPUT, LS_IO.
LsStatus ls_idx_recognize(const char *path, bool *idx);

void ls_idx_free(LsIdx *idx);

#endif
