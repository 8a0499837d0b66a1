// Rows by index. Values are read at their file offsets with pread: it needs no lock between threads, and a
// file cut short under us is an error and not a signal, as it would be with a mapping.
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataset_cache.h"
#include "encoded.h"

struct LsReader {
    const LsDataset *dataset;
    LsSplit split;
    uint8_t *deflated, *rows; // of one chunk; NULL when x is contiguous
    uint64_t chunk;           // that `rows` holds; UINT64_MAX: none
    uint8_t *window;          // a sample's tokens as stored, and the one that follows; NULL when not tokens
    LsImageBytes encoded;     // of the last encoded image
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
    if (!ls_dataset_has(&dataset->info, split))
        return LS_FAIL(
            LS_BAD_DATA, "%s has no %s split; import the data with one", dataset->path, ls_split_name(split));
    bool tokens = ls_dataset_tokens(&dataset->info);
    if (tokens && dataset->info.window == 0)
        return LS_FAIL(LS_INTERNAL, "%s: tokens are read before the window is set", dataset->path);
    LsReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    *reader = (LsReader){.dataset = dataset, .split = split, .chunk = UINT64_MAX};
    LsStatus status = LS_OK;
    if (tokens)
        status = ls_memory_allocate((dataset->info.window + 1) * x->row_bytes, (void **)&reader->window);
    if (status == LS_OK && x->chunk_rows > 0) {
        reader->deflated = malloc(ls_stored_deflated_bytes(x));
        reader->rows = malloc(x->chunk_rows * x->row_bytes);
        if (reader->deflated == NULL || reader->rows == NULL)
            status = LS_FAIL(LS_INTERNAL, "%s: no memory for a chunk", dataset->path);
    }
    if (status != LS_OK) {
        ls_reader_destroy(reader);
        return status;
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
    free(reader->window);
    free(reader->encoded.data);
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

static LsStatus read_contiguous(const LsDataset *dataset, const LsStored *stored, uint64_t first,
    const uint64_t *samples, size_t count, uint8_t *out)
{
    for (size_t i = 0, run; i < count; i += run) {
        run = run_length(samples + i, count - i);
        LS_TRY(ls_file_read_at(dataset->fd, dataset->path, out + i * stored->row_bytes,
            run * stored->row_bytes, stored->offset + (first + samples[i]) * stored->row_bytes));
    }
    return LS_OK;
}

static LsStatus load_chunk(LsReader *reader, const LsStored *stored, uint64_t chunk)
{
    if (chunk == reader->chunk)
        return LS_OK;
    reader->chunk = UINT64_MAX; // what a failure leaves behind is no chunk
    LS_TRY(ls_stored_read_chunk(reader->dataset, stored, chunk, reader->deflated, reader->rows));
    reader->chunk = chunk;
    return LS_OK;
}

static LsStatus read_chunked(LsReader *reader, const LsStored *stored, uint64_t first,
    const uint64_t *samples, size_t count, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t row = first + samples[i];
        LS_TRY(load_chunk(reader, stored, row / stored->chunk_rows));
        memcpy(out + i * stored->row_bytes, reader->rows + row % stored->chunk_rows * stored->row_bytes,
            stored->row_bytes);
    }
    return LS_OK;
}

static LsStatus read_rows(LsReader *reader, const LsStored *stored, LsCache *cache, const uint64_t *samples,
    size_t count, uint8_t *out)
{
    uint64_t first = reader->dataset->first[reader->split];
    if (cache == NULL && stored->chunk_rows > 0)
        return read_chunked(reader, stored, first, samples, count, out);
    if (cache == NULL)
        return read_contiguous(reader->dataset, stored, first, samples, count, out);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = NULL;
        LS_TRY(ls_cache_rows(reader->dataset, stored, cache, first + samples[i], 1, reader->deflated, &row));
        memcpy(out + i * stored->row_bytes, row, stored->row_bytes);
    }
    return LS_OK;
}

// Finds `count` tokens from `first` on as they are stored: in memory, or read into the reader's window.
static LsStatus find_tokens(LsReader *reader, uint64_t first, size_t count, const uint8_t **out)
{
    const LsDataset *dataset = reader->dataset;
    const LsStored *stored = &dataset->x[reader->split];
    LsCache *cache = dataset->x_cache[reader->split];
    if (cache != NULL)
        return ls_cache_rows(dataset, stored, cache, first, count, reader->deflated, out);
    *out = reader->window;
    if (stored->chunk_rows == 0)
        return ls_file_read_at(dataset->fd, dataset->path, reader->window, count * stored->row_bytes,
            stored->offset + first * stored->row_bytes);
    for (size_t done = 0, take; done < count; done += take) {
        uint64_t place = (first + done) % stored->chunk_rows;
        take = count - done < stored->chunk_rows - place ? count - done : stored->chunk_rows - place;
        LS_TRY(load_chunk(reader, stored, (first + done) / stored->chunk_rows));
        memcpy(reader->window + done * stored->row_bytes, reader->rows + place * stored->row_bytes,
            take * stored->row_bytes);
    }
    return LS_OK;
}

static void widen_tokens(LsColumnType type, const void *tokens, size_t first, size_t count, int32_t *out)
{
    const uint16_t *narrow = tokens;
    const uint32_t *wide = tokens;
    for (size_t i = 0; i < count; i++)
        out[i] = type == LS_COLUMN_U16 ? narrow[first + i] : (int32_t)wide[first + i];
}

// Into row `row` of x and y.
static LsStatus read_window(LsReader *reader, uint64_t first, size_t row, int32_t *x, int32_t *y)
{
    const LsDatasetInfo *info = &reader->dataset->info;
    const uint8_t *tokens = NULL;
    LsRowNames names = {.path = reader->dataset->path, .split = reader->split, .first = first};
    LS_TRY(find_tokens(reader, first, info->window + 1, &tokens));
    LS_TRY(ls_rows_check_x(info, &names, tokens, info->window + 1));
    widen_tokens(info->feature_type, tokens, 0, info->window, x + row * info->window);
    if (y != NULL)
        widen_tokens(info->feature_type, tokens, 1, info->window, y + row * info->window);
    return LS_OK;
}

LsStatus ls_reader_read_windows(LsReader *reader, const uint64_t *firsts, size_t count, void *x, void *y)
{
    const LsDatasetInfo *info = &reader->dataset->info;
    size_t tokens = info->token_counts[reader->split];
    for (size_t i = 0; i < count; i++) {
        if (tokens <= info->window || firsts[i] >= tokens - info->window)
            return LS_FAIL(LS_INTERNAL, "%s: a window from token %llu of %zu in split %s",
                reader->dataset->path, (unsigned long long)firsts[i], tokens, ls_split_name(reader->split));
        LS_TRY(read_window(reader, firsts[i], i, x, y));
    }
    return LS_OK;
}

static LsStatus check_samples(const LsReader *reader, const uint64_t *samples, size_t count)
{
    const LsDataset *dataset = reader->dataset;
    size_t all = dataset->info.samples[reader->split];
    for (size_t i = 0; i < count; i++)
        if (samples[i] >= all)
            return LS_FAIL(LS_INTERNAL, "%s: sample %llu of %zu in split %s", dataset->path,
                (unsigned long long)samples[i], all, ls_split_name(reader->split));
    return LS_OK;
}

LsStatus ls_reader_encoded(LsReader *reader, uint64_t sample, const LsImageBytes **out)
{
    const LsDataset *dataset = reader->dataset;
    LS_TRY(check_samples(reader, &sample, 1));
    LS_TRY(ls_encoded_read(dataset, reader->split, dataset->first[reader->split] + sample, &reader->encoded));
    *out = &reader->encoded;
    return LS_OK;
}

LsStatus ls_reader_image(LsReader *reader, uint64_t sample, LsImage *out)
{
    const LsDataset *dataset = reader->dataset;
    LS_TRY(check_samples(reader, &sample, 1));
    return ls_encoded_decode(
        dataset, reader->split, dataset->first[reader->split] + sample, &reader->encoded, out);
}

static LsStatus read_encoded(LsReader *reader, const uint64_t *samples, size_t count, uint8_t *out)
{
    const LsDatasetInfo *info = &reader->dataset->info;
    for (size_t i = 0; i < count; i++, out += info->features) {
        LsImage image = {0};
        LS_TRY(ls_reader_image(reader, samples[i], &image));
        LsStatus status = ls_image_resize(&image, info->feature_shape[0], info->feature_shape[1], out);
        free(image.pixels);
        LS_TRY(status);
    }
    return LS_OK;
}

static LsStatus read_x(LsReader *reader, const LsRowNames *names, size_t count, void *x)
{
    const LsDataset *dataset = reader->dataset;
    LsSplit split = reader->split;
    if (dataset->info.encoded)
        return read_encoded(reader, names->samples, count, x);
    LS_TRY(read_rows(reader, &dataset->x[split], dataset->x_cache[split], names->samples, count, x));
    return ls_rows_check_x(&dataset->info, names, x, count);
}

LsStatus ls_reader_read(LsReader *reader, const uint64_t *samples, size_t count, void *x, void *y)
{
    const LsDataset *dataset = reader->dataset;
    const LsDatasetInfo *info = &dataset->info;
    LsSplit split = reader->split;
    LS_TRY(check_samples(reader, samples, count));
    if (ls_dataset_tokens(info)) {
        for (size_t i = 0; i < count; i++)
            LS_TRY(read_window(reader, samples[i] * info->window, i, x, y));
        return LS_OK;
    }
    LsRowNames names = {
        .path = dataset->path, .split = split, .samples = samples, .first = dataset->first[split]};
    if (x != NULL)
        LS_TRY(read_x(reader, &names, count, x));
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
    return names->first + (names->samples != NULL ? names->samples[row] : row);
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

static uint32_t stored_token(const LsDatasetInfo *info, const void *tokens, size_t i)
{
    return info->feature_type == LS_COLUMN_U16 ? ((const uint16_t *)tokens)[i]
                                               : ((const uint32_t *)tokens)[i];
}

static LsStatus check_tokens(
    const LsDatasetInfo *info, const LsRowNames *names, const void *tokens, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (stored_token(info, tokens, i) >= info->vocabulary)
            return LS_FAIL(LS_BAD_DATA,
                "%s: %s token %llu is %u, which is not below the vocabulary of %zu; correct the input and "
                "import it again",
                names->path, ls_split_name(names->split), (unsigned long long)row_name(names, i),
                stored_token(info, tokens, i), info->vocabulary);
    return LS_OK;
}

LsStatus ls_rows_check_x(const LsDatasetInfo *info, const LsRowNames *names, const void *x, size_t rows)
{
    if (ls_dataset_tokens(info))
        return check_tokens(info, names, x, rows);
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
