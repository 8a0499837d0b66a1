#include "data/dataset.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataset_cache.h"
#include "dataset_format.h"
#include "dataset_hdf5.h"

const char *ls_split_name(LsSplit split)
{
    static const char *const names[LS_SPLITS] = {"train", "validation", "test"};
    return names[split];
}

size_t ls_dataset_x_bytes(const LsDatasetInfo *info)
{
    if (ls_dataset_tokens(info))
        return info->window * sizeof(int32_t);
    return info->features * (info->feature_type == LS_COLUMN_U8 ? 1 : sizeof(float));
}

size_t ls_dataset_y_bytes(const LsDatasetInfo *info)
{
    if (ls_dataset_tokens(info))
        return info->window * sizeof(int32_t);
    return info->classes ? sizeof(int32_t) : info->outputs * sizeof(float);
}

uint64_t ls_stored_blocks(uint64_t rows, size_t row_bytes)
{
    return (rows * row_bytes + LS_BLOCK_BYTES - 1) / LS_BLOCK_BYTES;
}

size_t ls_stored_chunk_rows(size_t row_bytes)
{
    return row_bytes < LS_CHUNK_BYTES ? LS_CHUNK_BYTES / row_bytes : 1;
}

static LsStatus find(LsHdf5 *file, const char *path, const char *name, LsHdf5Set *set)
{
    bool found = false;
    LS_TRY(ls_hdf5_find(file, name, set, &found));
    if (!found)
        return LS_FAIL(
            LS_BAD_DATA, "%s has no %s; is it a data set? Import it with 'lockstep data import'", path, name);
    return LS_OK;
}

static LsStatus read_schema(LsHdf5 *file, LsDataset *dataset)
{
    LsHdf5Set set;
    LS_TRY(find(file, dataset->path, "/schema", &set));
    if (set.type != LS_HDF5_TEXT || set.chunk_rows != 0 || set.bytes > LS_SCHEMA_LIMIT)
        return LS_FAIL(LS_BAD_DATA, "%s: /schema is no plain string of at most %d bytes", dataset->path,
            LS_SCHEMA_LIMIT);
    char *text = malloc(set.bytes);
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: no memory for a schema of %llu bytes", dataset->path,
            (unsigned long long)set.bytes);
    LsStatus status = ls_file_read_at(dataset->fd, dataset->path, text, set.bytes, set.offset);
    if (status == LS_OK)
        status = ls_schema_read(text, set.bytes, dataset->path, dataset);
    free(text);
    return status;
}

// The set that belongs to a set of values: "/train/x" + ".hashes" with `rows` rows of the given type.
static LsStatus find_table(LsHdf5 *file, const LsDataset *dataset, const LsStored *stored, const char *suffix,
    LsHdf5Type type, uint64_t rows, uint64_t *offset)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", stored->name, suffix);
    LsHdf5Set set;
    LS_TRY(find(file, dataset->path, name, &set));
    bool hashes = type == LS_HDF5_U8;
    if (set.type != type || set.chunk_rows != 0 || set.dimensions != (hashes ? 2 : 1) ||
        set.shape[0] != rows || (hashes && set.shape[1] != sizeof(LsHash128)))
        return LS_FAIL(LS_BAD_DATA, "%s: %s does not fit %s", dataset->path, name, stored->name);
    *offset = set.offset;
    return LS_OK;
}

// Finds the values and their tables. `shape` is what the schema says, samples first.
static LsStatus locate(LsHdf5 *file, const LsDataset *dataset, LsHdf5Type type, const uint64_t *shape,
    int dimensions, LsStored *stored)
{
    LsHdf5Set set;
    LS_TRY(find(file, dataset->path, stored->name, &set));
    bool same = set.type == type && set.dimensions == dimensions;
    for (int i = 0; same && i < dimensions; i++)
        same = set.shape[i] == shape[i];
    if (!same)
        return LS_FAIL(LS_BAD_DATA, "%s: %s has not the type and shape that the schema says", dataset->path,
            stored->name);
    size_t bytes;
    if (!ls_size_multiply(shape[0], stored->row_bytes, &bytes))
        return LS_FAIL(LS_BAD_DATA, "%s: %s has an impossible size", dataset->path, stored->name);
    stored->rows = shape[0];
    stored->offset = set.offset;
    stored->blocks = ls_stored_blocks(stored->rows, stored->row_bytes);
    LS_TRY(find_table(file, dataset, stored, "hashes", LS_HDF5_U8, stored->blocks, &stored->hashes));
    if (set.chunk_rows == 0)
        return LS_OK;
    if (set.bytes > LS_CHUNK_BYTES && set.chunk_rows > 1)
        return LS_FAIL(LS_BAD_DATA, "%s: %s has chunks of %llu bytes; they have at most %d", dataset->path,
            stored->name, (unsigned long long)set.bytes, LS_CHUNK_BYTES);
    stored->chunk_rows = set.chunk_rows;
    stored->chunks = (stored->rows + set.chunk_rows - 1) / set.chunk_rows;
    return find_table(file, dataset, stored, "chunks", LS_HDF5_CHUNK, stored->chunks, &stored->table);
}

static LsStatus locate_tokens(LsHdf5 *file, LsDataset *dataset, LsSplit split)
{
    const LsDatasetInfo *info = &dataset->info;
    LsStored *stored = &dataset->x[split];
    snprintf(stored->name, sizeof stored->name, "/%s/tokens", ls_split_name(split));
    stored->row_bytes = ls_token_bytes(info);
    uint64_t shape[1] = {info->token_counts[split]};
    LsHdf5Type type = info->feature_type == LS_COLUMN_U16 ? LS_HDF5_U16 : LS_HDF5_U32;
    return locate(file, dataset, type, shape, 1, stored);
}

// One that is never compressed.
static LsStatus locate_contiguous(LsHdf5 *file, LsDataset *dataset, LsHdf5Type type, const uint64_t *shape,
    int dimensions, LsStored *stored)
{
    LS_TRY(locate(file, dataset, type, shape, dimensions, stored));
    if (stored->chunk_rows != 0)
        return LS_FAIL(LS_BAD_DATA, "%s: %s is chunked; it is contiguous", dataset->path, stored->name);
    return LS_OK;
}

static LsStatus locate_files(LsHdf5 *file, LsDataset *dataset, LsSplit split)
{
    LsStored *files = &dataset->files[split];
    snprintf(files->name, sizeof files->name, "/%s/files", ls_split_name(split));
    uint64_t shape[2] = {dataset->info.samples[split], sizeof(LsHash128)};
    return locate_contiguous(file, dataset, LS_HDF5_U8, shape, 2, files);
}

// How many bytes there are is from the schema.
static LsStatus locate_encoded(LsHdf5 *file, LsDataset *dataset, LsSplit split)
{
    LsStored *x = &dataset->x[split], *offsets = &dataset->offsets[split];
    snprintf(x->name, sizeof x->name, "/%s/encoded", ls_split_name(split));
    snprintf(offsets->name, sizeof offsets->name, "/%s/offsets", ls_split_name(split));
    x->row_bytes = 1;
    offsets->row_bytes = sizeof(uint64_t);
    uint64_t bytes[1] = {x->rows}, places[1] = {dataset->info.samples[split] + 1};
    LS_TRY(locate_contiguous(file, dataset, LS_HDF5_U8, bytes, 1, x));
    return locate_contiguous(file, dataset, LS_HDF5_U64, places, 1, offsets);
}

static LsStatus locate_x(LsHdf5 *file, LsDataset *dataset, LsSplit split)
{
    const LsDatasetInfo *info = &dataset->info;
    LsStored *x = &dataset->x[split];
    snprintf(x->name, sizeof x->name, "/%s/x", ls_split_name(split));
    x->row_bytes = ls_dataset_x_bytes(info);
    uint64_t shape[LS_HDF5_DIMENSIONS] = {info->samples[split]};
    for (int i = 0; i < info->feature_dimensions; i++)
        shape[i + 1] = info->feature_shape[i];
    LsHdf5Type type = info->feature_type == LS_COLUMN_U8 ? LS_HDF5_U8 : LS_HDF5_F32;
    return locate(file, dataset, type, shape, info->feature_dimensions + 1, x);
}

static LsStatus locate_split(LsHdf5 *file, LsDataset *dataset, LsSplit split)
{
    const LsDatasetInfo *info = &dataset->info;
    LsStored *y = &dataset->y[split];
    snprintf(y->name, sizeof y->name, "/%s/y", ls_split_name(split));
    y->row_bytes = ls_dataset_y_bytes(info);
    LS_TRY(info->encoded ? locate_encoded(file, dataset, split) : locate_x(file, dataset, split));
    uint64_t targets[2] = {info->samples[split], info->outputs};
    LS_TRY(locate_contiguous(
        file, dataset, info->classes ? LS_HDF5_I32 : LS_HDF5_F32, targets, info->classes ? 1 : 2, y));
    return dataset->files[split].row_bytes > 0 ? locate_files(file, dataset, split) : LS_OK;
}

// Takes a descriptor of its own, so that HDF5 has closed the file before the first row is read.
static LsStatus take_descriptor(const LsHdf5 *file, LsDataset *dataset)
{
    struct stat information;
    dataset->fd = fcntl(ls_hdf5_descriptor(file), F_DUPFD_CLOEXEC, 0);
    if (dataset->fd < 0 || fstat(dataset->fd, &information) != 0)
        return ls_file_fail("open", dataset->path);
    dataset->size = (uint64_t)information.st_size;
    return LS_OK;
}

static LsStatus open_parts(LsHdf5 *file, LsDataset *dataset)
{
    LS_TRY(take_descriptor(file, dataset));
    LS_TRY(read_schema(file, dataset));
    if (!ls_dataset_has(&dataset->info, LS_TRAIN))
        return LS_FAIL(
            LS_BAD_DATA, "%s: the schema has no training data; import the data again", dataset->path);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (ls_dataset_has(&dataset->info, split))
            LS_TRY(ls_dataset_tokens(&dataset->info) ? locate_tokens(file, dataset, split)
                                                     : locate_split(file, dataset, split));
    return LS_OK;
}

// Prepares to keep these values of all splits in memory, if they fit into what is left of the limit.
static LsStatus create_caches(const LsStored *stored, size_t *left, LsCache **caches)
{
    uint64_t bytes = 0;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        // Rows have at most LS_ROW_BYTES_LIMIT bytes, so that the product does not overflow.
        if (stored[split].rows > *left || stored[split].rows * stored[split].row_bytes > *left - bytes)
            return LS_OK;
        bytes += stored[split].rows * stored[split].row_bytes;
    }
    *left -= bytes;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (stored[split].rows > 0)
            LS_TRY(ls_cache_create(&stored[split], &caches[split]));
    return LS_OK;
}

LsStatus ls_dataset_open(const char *path, LsDataset **out)
{
    return ls_dataset_open_cached(path, LS_CACHE_LIMIT, out);
}

LsStatus ls_dataset_open_cached(const char *path, size_t cache_limit, LsDataset **out)
{
    LsDataset *dataset = calloc(1, sizeof *dataset);
    char *copy = strdup(path);
    if (dataset == NULL || copy == NULL) {
        free(dataset);
        free(copy);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    }
    dataset->path = copy;
    dataset->fd = -1;
    LsHdf5 *file = NULL;
    LsStatus status = ls_hdf5_open(path, &file);
    if (status == LS_OK)
        status = open_parts(file, dataset);
    ls_hdf5_close(file);
    if (status == LS_OK) // labels first: they are few bytes a row, and a system call saved
        status = create_caches(dataset->y, &cache_limit, dataset->y_cache);
    if (status == LS_OK && !dataset->info.encoded) // decoding takes a thousand times as long as the call
        status = create_caches(dataset->x, &cache_limit, dataset->x_cache);
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}

void ls_dataset_close(LsDataset *dataset)
{
    if (dataset == NULL)
        return;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        ls_cache_destroy(dataset->x_cache[split]);
        ls_cache_destroy(dataset->y_cache[split]);
    }
    ls_schema_release(dataset);
    if (dataset->fd >= 0)
        close(dataset->fd);
    free(dataset->path);
    free(dataset);
}

const LsDatasetInfo *ls_dataset_info(const LsDataset *dataset)
{
    return &dataset->info;
}

const char *ls_dataset_path(const LsDataset *dataset)
{
    return dataset->path;
}

LsStatus ls_dataset_read_files(const LsDataset *dataset, LsSplit split, LsHash128 **out)
{
    const LsStored *files = &dataset->files[split];
    *out = NULL;
    if (files->row_bytes == 0)
        return LS_OK;
    size_t bytes = files->rows * sizeof(LsHash128);
    LsHash128 *hashes = malloc(bytes);
    if (hashes == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", dataset->path);
    LsStatus status = ls_file_read_at(dataset->fd, dataset->path, hashes, bytes, files->offset);
    if (status != LS_OK) {
        free(hashes);
        return status;
    }
    *out = hashes;
    return LS_OK;
}
