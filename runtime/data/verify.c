// Reads a whole data set and compares it with every hash: values, chunks, tables, and through them the root.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "dataset_format.h"
#include "image.h"

typedef enum Part { PART_X, PART_Y, PART_FILES, PART_OFFSETS } Part;

// Values arrive in pieces of any length and leave in blocks that are hashed, and in whole rows that are
// checked.
typedef struct Check {
    const LsDataset *dataset;
    const LsStored *stored;
    LsSplit split;
    Part part;
    uint8_t *hashes;   // [blocks][16], as stored
    uint8_t *block;    // LS_BLOCK_BYTES
    uint8_t *deflated; // of a chunk
    uint8_t *rows;     // whole rows: a chunk, or as many as fill about a block
    size_t rows_count;
    size_t filled;      // bytes in `block`
    uint64_t blocks;    // done
    uint64_t chunk_end; // where the last chunk ended in the file
    uint64_t *counts;   // per class
    uint64_t place;     // of encoded images: where the last one began
} Check;

static LsStatus check_block(Check *check)
{
    LsHash128 hash = ls_hash128(check->block, check->filled);
    if (memcmp(hash.bytes, check->hashes + check->blocks * sizeof hash, sizeof hash) != 0)
        return ls_stored_fail_block(check->dataset, check->stored, check->blocks);
    check->blocks++;
    check->filled = 0;
    return LS_OK;
}

static LsStatus hash_bytes(Check *check, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        size_t take = bytes < LS_BLOCK_BYTES - check->filled ? bytes : LS_BLOCK_BYTES - check->filled;
        memcpy(check->block + check->filled, data, take);
        check->filled += take;
        data += take;
        bytes -= take;
        if (check->filled == LS_BLOCK_BYTES)
            LS_TRY(check_block(check));
    }
    return LS_OK;
}

// Images lie one after the other, from the first byte to the last.
static LsStatus check_offsets(Check *check, uint64_t first, size_t rows)
{
    const LsDataset *dataset = check->dataset;
    uint64_t bytes = dataset->x[check->split].rows;
    const uint64_t *offset = (const uint64_t *)check->rows;
    for (size_t i = 0; i < rows; i++) {
        uint64_t row = first + i;
        bool good = row == 0 ? offset[i] == 0
                             : offset[i] > check->place && offset[i] - check->place <= LS_IMAGE_FILE_MAX;
        if (!good || offset[i] > bytes || (row + 1 == check->stored->rows && offset[i] != bytes))
            return LS_FAIL(LS_BAD_DATA,
                "%s: entry %llu of %s is %llu, which is no place; import the data again", dataset->path,
                (unsigned long long)row, check->stored->name, (unsigned long long)offset[i]);
        check->place = offset[i];
    }
    return LS_OK;
}

static LsStatus check_rows(Check *check, uint64_t first, size_t rows)
{
    const LsDatasetInfo *info = &check->dataset->info;
    LsRowNames names = {.path = check->dataset->path, .split = check->split, .first = first};
    if (check->part == PART_FILES)
        return LS_OK;
    if (check->part == PART_OFFSETS)
        return check_offsets(check, first, rows);
    if (check->part == PART_X)
        return ls_rows_check_x(info, &names, check->rows, rows);
    LS_TRY(ls_rows_check_y(info, &names, check->rows, rows));
    for (size_t i = 0; info->classes && i < rows; i++)
        check->counts[((const int32_t *)check->rows)[i]]++;
    return LS_OK;
}

// Chunks lie one after the other, so that no two share bytes.
static LsStatus check_chunk_place(Check *check, uint64_t chunk)
{
    LsChunkEntry entry;
    const LsDataset *dataset = check->dataset;
    LS_TRY(ls_file_read_at(
        dataset->fd, dataset->path, &entry, sizeof entry, check->stored->table + chunk * sizeof entry));
    if (entry.offset < check->chunk_end)
        return LS_FAIL(LS_BAD_DATA, "%s: chunk %llu of %s lies before its predecessor; import the data again",
            dataset->path, (unsigned long long)chunk, check->stored->name);
    check->chunk_end = entry.offset + entry.bytes;
    return LS_OK;
}

static LsStatus read_rows(Check *check, uint64_t first, size_t rows)
{
    const LsStored *stored = check->stored;
    const LsDataset *dataset = check->dataset;
    if (stored->chunk_rows == 0)
        return ls_file_read_at(dataset->fd, dataset->path, check->rows, rows * stored->row_bytes,
            stored->offset + first * stored->row_bytes);
    uint64_t chunk = first / stored->chunk_rows;
    LS_TRY(ls_stored_read_chunk(dataset, stored, chunk, check->deflated, check->rows));
    return check_chunk_place(check, chunk);
}

static LsStatus check_values(Check *check)
{
    const LsStored *stored = check->stored;
    const LsDataset *dataset = check->dataset;
    size_t bytes = stored->blocks * sizeof(LsHash128);
    LS_TRY(ls_file_read_at(dataset->fd, dataset->path, check->hashes, bytes, stored->hashes));
    if (!ls_hash128_equal(ls_hash128(check->hashes, bytes), stored->hashes_hash))
        return LS_FAIL(LS_BAD_DATA,
            "%s: the block hashes of %s do not match the schema; import the data again", dataset->path,
            stored->name);
    for (uint64_t first = 0; first < stored->rows; first += check->rows_count) {
        uint64_t left = stored->rows - first;
        size_t rows = left < check->rows_count ? left : check->rows_count;
        LS_TRY(read_rows(check, first, rows));
        LS_TRY(hash_bytes(check, check->rows, rows * stored->row_bytes));
        LS_TRY(check_rows(check, first, rows));
    }
    return check->filled > 0 ? check_block(check) : LS_OK;
}

static LsStatus compare_counts(const Check *check)
{
    const LsDataset *dataset = check->dataset;
    for (size_t i = 0; i < dataset->info.outputs; i++)
        if (check->counts[i] != dataset->counts[check->split][i])
            return LS_FAIL(LS_BAD_DATA,
                "%s: class %zu comes %llu times in %s, the schema says %llu; import the data again",
                dataset->path, i, (unsigned long long)check->counts[i], ls_split_name(check->split),
                (unsigned long long)dataset->counts[check->split][i]);
    return LS_OK;
}

static LsStatus verify_stored(const LsDataset *dataset, LsSplit split, Part part)
{
    const LsStored *parts[] = {[PART_X] = &dataset->x[split],
        [PART_Y] = &dataset->y[split],
        [PART_FILES] = &dataset->files[split],
        [PART_OFFSETS] = &dataset->offsets[split]};
    const LsStored *stored = parts[part];
    bool count = part == PART_Y && dataset->info.classes;
    Check check = {.dataset = dataset, .stored = stored, .split = split, .part = part};
    check.rows_count = stored->chunk_rows > 0                ? stored->chunk_rows
                       : stored->row_bytes >= LS_BLOCK_BYTES ? 1
                                                             : LS_BLOCK_BYTES / stored->row_bytes;
    check.hashes = malloc(stored->blocks * sizeof(LsHash128));
    check.block = malloc(LS_BLOCK_BYTES);
    check.rows = malloc(check.rows_count * stored->row_bytes);
    check.deflated = malloc(stored->chunk_rows > 0 ? ls_stored_deflated_bytes(stored) : 1);
    check.counts = calloc(count ? dataset->info.outputs : 1, sizeof *check.counts);
    LsStatus status;
    if (check.hashes == NULL || check.block == NULL || check.rows == NULL || check.deflated == NULL ||
        check.counts == NULL)
        status = LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    else
        status = check_values(&check);
    if (status == LS_OK && count)
        status = compare_counts(&check);
    free(check.counts);
    free(check.deflated);
    free(check.rows);
    free(check.block);
    free(check.hashes);
    return status;
}

LsStatus ls_dataset_verify(const LsDataset *dataset)
{
    if (dataset->fd < 0)
        return LS_FAIL(LS_INTERNAL, "%s: a schema alone has no rows", dataset->path);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        if (!ls_dataset_has(&dataset->info, split))
            continue;
        LS_TRY(verify_stored(dataset, split, PART_X));
        if (!ls_dataset_tokens(&dataset->info))
            LS_TRY(verify_stored(dataset, split, PART_Y));
        if (dataset->files[split].row_bytes > 0)
            LS_TRY(verify_stored(dataset, split, PART_FILES));
        if (dataset->info.encoded)
            LS_TRY(verify_stored(dataset, split, PART_OFFSETS));
    }
    return LS_OK;
}
