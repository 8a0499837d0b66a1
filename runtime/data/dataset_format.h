// The inside of a data set, shared by reader, verifier and writer.
#ifndef LOCKSTEP_DATA_DATASET_FORMAT_H
#define LOCKSTEP_DATA_DATASET_FORMAT_H

#include "data/dataset.h"

enum {
    LS_DATASET_FORMAT = 1,      // version of the format
    LS_BLOCK_BYTES = 1 << 20,   // of values under one hash
    LS_CHUNK_BYTES = 16 << 10,  // of values in a chunk, at least a row: what one random row costs to inflate
    LS_SCHEMA_LIMIT = 64 << 20, // bytes of schema text
    LS_CACHE_LIMIT = 256 << 20, // bytes of values that a data set keeps in memory
    LS_OUTPUTS_LIMIT = 1 << 20, // classes or targets
    LS_ROW_BYTES_LIMIT = 1 << 30, // of x or y
};

// One entry of the chunk table, as it lies in the file (little-endian).
typedef struct LsChunkEntry {
    uint64_t offset, bytes; // of the deflated chunk
    uint8_t hash[16];       // XXH3-128 of the deflated bytes
} LsChunkEntry;

// Where the rows of x or y of one split lie. Tokens are an x whose rows are single tokens, encoded images one
// whose rows are single bytes.
typedef struct LsStored {
    char name[32]; // "/train/x"
    uint64_t rows;
    size_t row_bytes;
    uint64_t offset;         // of row 0; contiguous only
    size_t chunk_rows;       // 0: contiguous
    uint64_t table, chunks;  // offset and length of the chunk table
    uint64_t hashes, blocks; // offset and length of the array of block hashes
    LsHash128 hashes_hash;   // of that array, from the schema
} LsStored;

typedef struct LsCache LsCache; // dataset_cache.h

struct LsDataset {
    char *path;
    int fd;
    uint64_t size; // of the file
    LsDatasetInfo info;
    json_t *schema;
    float *normalize; // shift, then scale
    LsStored x[LS_SPLITS], y[LS_SPLITS];
    LsStored files[LS_SPLITS];   // of images: the hash of each one's file; row_bytes 0: there are none
    LsStored offsets[LS_SPLITS]; // of encoded images: [samples + 1], where each begins in x
    uint64_t first[LS_SPLITS];   // row of the file that is sample 0: of the partition that was chosen
    LsCache *x_cache[LS_SPLITS], *y_cache[LS_SPLITS]; // NULL: not kept in memory
    uint64_t *counts[LS_SPLITS];                      // per class, from the schema; NULL when not classes
};

// ls_dataset_open with another limit than LS_CACHE_LIMIT; 0 keeps nothing in memory.
LsStatus ls_dataset_open_cached(const char *path, size_t cache_limit, LsDataset **out);

// Checks a schema's text and fills everything of `dataset` that it decides: schema, normalize, counts and
// info. `name` stands for the path in messages. LS_BAD_DATA.
LsStatus ls_schema_read(const char *text, size_t size, const char *name, LsDataset *dataset);
void ls_schema_release(LsDataset *dataset);

// Adds what a schema says of type and shape of the samples: the keys that ls_schema_read makes the same info
// of.
void ls_schema_describe(const LsDatasetInfo *info, json_t *schema);

// XXH3-128 of the canonical text without root_hash. LS_INTERNAL when memory is short.
LsStatus ls_schema_hash(const json_t *schema, LsHash128 *out);

static inline bool ls_dataset_tokens(const LsDatasetInfo *info)
{
    return info->vocabulary > 0;
}

// Whether the data set has a split.
static inline bool ls_dataset_has(const LsDatasetInfo *info, LsSplit split)
{
    return ls_dataset_tokens(info) ? info->token_counts[split] > 0 : info->samples[split] > 0;
}

// Bytes of one token as it is stored.
static inline size_t ls_token_bytes(const LsDatasetInfo *info)
{
    return info->feature_type == LS_COLUMN_U16 ? sizeof(uint16_t) : sizeof(uint32_t);
}

// Whether samples can be encoded images: bytes, grey or RGB.
static inline bool ls_dataset_encodable(const LsDatasetInfo *info)
{
    bool grey = info->feature_dimensions == 2,
         colour = info->feature_dimensions == 3 && info->feature_shape[2] == 3;
    return info->feature_type == LS_COLUMN_U8 && (grey || colour);
}

// Bytes of one sample as it is read: those of its row in the file, but for tokens and encoded images.
size_t ls_dataset_x_bytes(const LsDatasetInfo *info);
size_t ls_dataset_y_bytes(const LsDatasetInfo *info);

// The hashes of a split's files, [samples], freed by the caller; NULL when there are none. LS_BAD_DATA,
// LS_IO.
LsStatus ls_dataset_read_files(const LsDataset *dataset, LsSplit split, LsHash128 **out);

// Number of blocks of LS_BLOCK_BYTES in `rows` rows; and of rows in a chunk.
uint64_t ls_stored_blocks(uint64_t rows, size_t row_bytes);
size_t ls_stored_chunk_rows(size_t row_bytes);

// Reads the table entry of a chunk and the chunk's deflated bytes, checks bounds and hash, and inflates
// chunk_rows rows. `deflated` has room for ls_stored_deflated_bytes.
LsStatus ls_stored_read_chunk(
    const LsDataset *dataset, const LsStored *stored, uint64_t chunk, uint8_t *deflated, uint8_t *rows);
size_t ls_stored_deflated_bytes(const LsStored *stored);

// LS_BAD_DATA: the block differs from its hash.
LsStatus ls_stored_fail_block(const LsDataset *dataset, const LsStored *stored, uint64_t block);

// Checks rows as they were read: labels below the classes, tokens (as stored, each a row) below the
// vocabulary, targets and features finite. `first` and `samples` name the row: first + samples[i], or first +
// i when samples is NULL. LS_BAD_DATA.
typedef struct LsRowNames {
    const char *path;
    LsSplit split;
    const uint64_t *samples;
    uint64_t first;
} LsRowNames;
LsStatus ls_rows_check_x(const LsDatasetInfo *info, const LsRowNames *names, const void *x, size_t rows);
LsStatus ls_rows_check_y(const LsDatasetInfo *info, const LsRowNames *names, const void *y, size_t rows);

#endif
