// Rows by index. Values are read at their file offsets with pread: it needs no lock between threads, and a
// file cut short under us is an error and not a signal, as it would be with a mapping.
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataset_cache.h"

struct LsReader {
    const LsDataset *dataset;
    LsSplit split;
    uint8_t *deflated, *rows; // of one chunk; NULL when x is contiguous
    uint64_t chunk;           // that `rows` holds; UINT64_MAX: none
};

size_t ls_stored_deflated_bytes(const LsStored *stored)
{
    return compressBound(stored->chunk_rows * stored->row_bytes);
}

LsStatus ls_stored_read_chunk(
    const LsDataset *dataset, const LsStored *stored, uint64_t chunk, uint8_t *deflated, uint8_t *rows)
{
    LsChunkEntry entry;
    LS_TRY(ls_file_read_at(
        dataset->fd, dataset->path, &entry, sizeof entry, stored->table + chunk * sizeof entry));
    const char *what = NULL;
    LsHash128 hash = {{0}};
    if (entry.bytes == 0 || entry.bytes > ls_stored_deflated_bytes(stored) || entry.offset > dataset->size ||
        entry.bytes > dataset->size - entry.offset)
        what = "has an impossible place";
    else
        LS_TRY(ls_file_read_at(dataset->fd, dataset->path, deflated, entry.bytes, entry.offset));
    if (what == NULL)
        hash = ls_hash128(deflated, entry.bytes);
    if (what == NULL && memcmp(hash.bytes, entry.hash, sizeof entry.hash) != 0)
        what = "does not match its hash";
    uLongf size = stored->chunk_rows * stored->row_bytes;
    uLongf expected = size;
    if (what == NULL && (uncompress(rows, &size, deflated, entry.bytes) != Z_OK || size != expected))
        what = "cannot be inflated";
    if (what != NULL)
        return LS_FAIL(LS_BAD_DATA, "%s: chunk %llu of %s %s; import the data again", dataset->path,
            (unsigned long long)chunk, stored->name, what);
    return LS_OK;
}

LsStatus ls_stored_fail_block(const LsDataset *dataset, const LsStored *stored, uint64_t block)
{
    return LS_FAIL(LS_BAD_DATA, "%s: block %llu of %s does not match its hash; import the data again",
        dataset->path, (unsigned long long)block, stored->name);
}

LsStatus ls_reader_create(const LsDataset *dataset, LsSplit split, LsReader **out)
{
    const LsStored *x = &dataset->x[split];
    if (dataset->fd < 0)
        return LS_FAIL(LS_INTERNAL, "%s: a schema alone has no rows", dataset->path);
    if (dataset->info.samples[split] == 0)
        return LS_FAIL(
            LS_BAD_DATA, "%s has no %s split; import the data with one", dataset->path, ls_split_name(split));
    LsReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    *reader = (LsReader){.dataset = dataset, .split = split, .chunk = UINT64_MAX};
    if (x->chunk_rows > 0) {
        reader->deflated = malloc(ls_stored_deflated_bytes(x));
        reader->rows = malloc(x->chunk_rows * x->row_bytes);
        if (reader->deflated == NULL || reader->rows == NULL) {
            ls_reader_destroy(reader);
            return LS_FAIL(LS_INTERNAL, "%s: no memory for a chunk", dataset->path);
        }
    }
    *out = reader;
    return LS_OK;
}

void ls_reader_destroy(LsReader *reader)
{
    if (reader == NULL)
        return;
    free(reader->deflated);
    free(reader->rows);
    free(reader);
}

// How many of the samples from the first on follow each other in the file.
static size_t run_length(const uint64_t *samples, size_t count)
{
    size_t run = 1;
    while (run < count && samples[run] == samples[0] + run)
        run++;
    return run;
}

static LsStatus read_contiguous(
    const LsDataset *dataset, const LsStored *stored, const uint64_t *samples, size_t count, uint8_t *out)
{
    for (size_t i = 0, run; i < count; i += run) {
        run = run_length(samples + i, count - i);
        LS_TRY(ls_file_read_at(dataset->fd, dataset->path, out + i * stored->row_bytes,
            run * stored->row_bytes, stored->offset + samples[i] * stored->row_bytes));
    }
    return LS_OK;
}

static LsStatus read_chunked(
    LsReader *reader, const LsStored *stored, const uint64_t *samples, size_t count, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t chunk = samples[i] / stored->chunk_rows;
        if (chunk != reader->chunk) {
            reader->chunk = UINT64_MAX; // what a failure leaves behind is no chunk
            LS_TRY(ls_stored_read_chunk(reader->dataset, stored, chunk, reader->deflated, reader->rows));
            reader->chunk = chunk;
        }
        memcpy(out + i * stored->row_bytes,
            reader->rows + samples[i] % stored->chunk_rows * stored->row_bytes, stored->row_bytes);
    }
    return LS_OK;
}

static LsStatus read_file(
    LsReader *reader, const LsStored *stored, const uint64_t *samples, size_t count, uint8_t *out)
{
    if (stored->chunk_rows > 0)
        return read_chunked(reader, stored, samples, count, out);
    return read_contiguous(reader->dataset, stored, samples, count, out);
}

static LsStatus read_rows(LsReader *reader, const LsStored *stored, LsCache *cache, const uint64_t *samples,
    size_t count, uint8_t *out)
{
    if (cache == NULL)
        return read_file(reader, stored, samples, count, out);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = NULL;
        LS_TRY(ls_cache_row(reader->dataset, stored, cache, samples[i], reader->deflated, &row));
        memcpy(out + i * stored->row_bytes, row, stored->row_bytes);
    }
    return LS_OK;
}

LsStatus ls_reader_read(LsReader *reader, const uint64_t *samples, size_t count, void *x, void *y)
{
    const LsDataset *dataset = reader->dataset;
    const LsDatasetInfo *info = &dataset->info;
    for (size_t i = 0; i < count; i++)
        if (samples[i] >= info->samples[reader->split])
            return LS_FAIL(LS_INTERNAL, "%s: sample %llu of %zu in split %s", dataset->path,
                (unsigned long long)samples[i], info->samples[reader->split], ls_split_name(reader->split));
    LsRowNames names = {.path = dataset->path, .split = reader->split, .samples = samples};
    LsSplit split = reader->split;
    LS_TRY(read_rows(reader, &dataset->x[split], dataset->x_cache[split], samples, count, x));
    LS_TRY(ls_rows_check_x(info, &names, x, count));
    if (y == NULL)
        return LS_OK;
    LS_TRY(read_rows(reader, &dataset->y[split], dataset->y_cache[split], samples, count, y));
    return ls_rows_check_y(info, &names, y, count);
}

// The first value that is NaN or infinite (all bits of the exponent set), or `count`. Looks at whole pieces
// without branches first, so that the compiler vectorises what nearly always finds nothing.
static size_t find_nonfinite(const float *values, size_t count)
{
    enum { PIECE = 4096 };
    for (size_t start = 0; start < count; start += PIECE) {
        size_t end = count - start < PIECE ? count : start + PIECE;
        uint32_t found = 0;
        for (size_t i = start; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            found |= (bits & 0x7f800000u) == 0x7f800000u;
        }
        for (size_t i = start; found && i < end; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            if ((bits & 0x7f800000u) == 0x7f800000u)
                return i;
        }
    }
    return count;
}

static uint64_t row_name(const LsRowNames *names, size_t row)
{
    return names->samples != NULL ? names->samples[row] : names->first + row;
}

static LsStatus check_finite(
    const LsRowNames *names, const float *values, size_t rows, size_t width, const char *what)
{
    size_t found = find_nonfinite(values, rows * width);
    if (found == rows * width)
        return LS_OK;
    return LS_FAIL(LS_BAD_DATA,
        "%s: %s sample %llu has a NaN or an infinity in %s %zu; clean the input and import it again",
        names->path, ls_split_name(names->split), (unsigned long long)row_name(names, found / width), what,
        found % width);
}

LsStatus ls_rows_check_x(const LsDatasetInfo *info, const LsRowNames *names, const void *x, size_t rows)
{
    if (info->feature_type == LS_COLUMN_U8)
        return LS_OK;
    return check_finite(names, x, rows, info->features, "feature");
}

LsStatus ls_rows_check_y(const LsDatasetInfo *info, const LsRowNames *names, const void *y, size_t rows)
{
    if (!info->classes)
        return check_finite(names, y, rows, info->outputs, "target");
    const int32_t *labels = y;
    for (size_t i = 0; i < rows; i++)
        if (labels[i] < 0 || (size_t)labels[i] >= info->outputs)
            return LS_FAIL(LS_BAD_DATA,
                "%s: %s sample %llu has label %d, which is not below the %zu classes; correct the "
                "input and import it again",
                names->path, ls_split_name(names->split), (unsigned long long)row_name(names, i),
                (int)labels[i], info->outputs);
    return LS_OK;
}
