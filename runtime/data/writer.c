#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "dataset_format.h"
#include "dataset_hdf5.h"
#include "leftovers.h"

enum { DEFLATE_LEVEL = 4 };

// x or y of one split on its way to the file: values gather in a block of LS_BLOCK_BYTES, which is hashed
// and, when the set is contiguous, written; compressed values gather in a chunk besides.
typedef struct Stream {
    LsStored stored;
    uint64_t expected; // bytes in all
    uint64_t done;     // bytes that have left the block
    uint8_t *block;
    size_t block_filled;
    LsHash128 *hashes;
    uint8_t *chunk, *deflated;
    size_t chunk_filled;
    uint64_t chunks_done;
    LsChunkEntry *table;
} Stream;

struct LsWriter {
    char *path, *temporary;
    LsHdf5 *file;
    LsDatasetInfo info; // shape and type alone
    uint64_t appended[LS_SPLITS];
    uint64_t *counts[LS_SPLITS];
    Stream x[LS_SPLITS], y[LS_SPLITS];
    Stream files[LS_SPLITS];   // no rows where the shape has none
    Stream offsets[LS_SPLITS]; // no rows where images are not encoded
    bool committed;
};

static LsStatus no_memory(const LsWriter *writer)
{
    return LS_FAIL(LS_INTERNAL, "%s: out of memory", writer->path);
}

static LsStatus check_shape(const char *path, const LsWriterShape *shape, LsDatasetInfo *info)
{
    size_t features = 1, bytes;
    bool good = shape->feature_dimensions >= 1 && shape->feature_dimensions <= 4 &&
                (shape->feature_type == LS_COLUMN_U8 || shape->feature_type == LS_COLUMN_F32);
    for (int i = 0; good && i < shape->feature_dimensions; i++)
        good = shape->feature_shape[i] > 0 &&
               ls_size_multiply(features, shape->feature_shape[i], &features) &&
               features <= LS_ROW_BYTES_LIMIT / sizeof(float);
    for (LsSplit split = LS_TRAIN; good && split < LS_SPLITS; split++)
        good = ls_size_multiply(features * sizeof(float), shape->samples[split], &bytes) &&
               bytes <= SIZE_MAX / 4;
    if (!good)
        return LS_FAIL(LS_BAD_DATA, "%s: samples have an impossible shape", path);
    if (shape->outputs < 1 || shape->outputs > LS_OUTPUTS_LIMIT)
        return LS_FAIL(LS_BAD_DATA, "%s: %zu %s; there must be 1 to %d", path, shape->outputs,
            shape->classes ? "classes" : "targets", LS_OUTPUTS_LIMIT);
    if (shape->samples[LS_TRAIN] == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: there are no training samples", path);
    *info = (LsDatasetInfo){.features = features,
        .feature_dimensions = shape->feature_dimensions,
        .feature_type = shape->feature_type,
        .encoded = shape->encoded,
        .classes = shape->classes,
        .outputs = shape->outputs};
    memcpy(info->feature_shape, shape->feature_shape, sizeof info->feature_shape);
    if (shape->encoded && (!ls_dataset_encodable(info) || shape->compress || !shape->files))
        return LS_FAIL(LS_INTERNAL, "%s: samples of this shape cannot be encoded images", path);
    memcpy(info->samples, shape->samples, sizeof info->samples);
    return LS_OK;
}

static LsStatus check_tokens(const char *path, const LsWriterShape *shape, LsDatasetInfo *info)
{
    bool good = shape->vocabulary <= INT32_MAX &&
                (shape->feature_type == LS_COLUMN_U32 ||
                    (shape->feature_type == LS_COLUMN_U16 && shape->vocabulary <= UINT16_MAX + 1));
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        good = good && shape->samples[split] <= SIZE_MAX / 16;
    if (!good)
        return LS_FAIL(LS_BAD_DATA, "%s: tokens have an impossible vocabulary or number", path);
    if (shape->samples[LS_TRAIN] == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: there are no training tokens", path);
    *info = (LsDatasetInfo){.feature_type = shape->feature_type, .vocabulary = shape->vocabulary};
    memcpy(info->samples, shape->samples, sizeof info->samples);
    return LS_OK;
}

static LsStatus create_unclaimed(LsWriter *writer)
{
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return LS_FAIL(LS_IO, "cannot draw a temporary name for %s: %s", writer->path, strerror(errno));
    if (asprintf(&writer->temporary, "%s.tmp-%016llx", writer->path, (unsigned long long)random) < 0) {
        writer->temporary = NULL;
        return no_memory(writer);
    }
    return ls_hdf5_create(writer->temporary, &writer->file);
}

// Between creation and claim, another import of the same output may take the file for a leftover.
static LsStatus create_temporary(LsWriter *writer)
{
    ls_leftovers_remove(writer->path);
    LS_TRY(create_unclaimed(writer));
    while (!ls_leftovers_claim(ls_hdf5_descriptor(writer->file))) {
        ls_hdf5_close(writer->file);
        writer->file = NULL;
        free(writer->temporary);
        writer->temporary = NULL;
        LS_TRY(create_unclaimed(writer));
    }
    return LS_OK;
}

static LsStatus add_table(LsWriter *writer, const Stream *stream, const char *suffix, LsHdf5Set *set)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", stream->stored.name, suffix);
    return ls_hdf5_add(writer->file, name, set);
}

// Creates the set and its tables in the file, and the buffers. The set's type and shape are given.
static LsStatus open_stream(LsWriter *writer, LsHdf5Set *set, size_t row_bytes, Stream *stream)
{
    LsStored *stored = &stream->stored;
    stored->rows = set->shape[0];
    stored->row_bytes = row_bytes;
    stored->chunk_rows = set->chunk_rows;
    stored->blocks = ls_stored_blocks(stored->rows, row_bytes);
    stream->expected = stored->rows * row_bytes;
    LS_TRY(ls_hdf5_add(writer->file, stored->name, set));
    stored->offset = set->offset;
    LsHdf5Set hashes = {.type = LS_HDF5_U8, .dimensions = 2, .shape = {stored->blocks, sizeof(LsHash128)}};
    LS_TRY(add_table(writer, stream, "hashes", &hashes));
    stored->hashes = hashes.offset;
    stream->block = malloc(stream->expected < LS_BLOCK_BYTES ? stream->expected : LS_BLOCK_BYTES);
    stream->hashes = calloc(stored->blocks, sizeof *stream->hashes);
    if (stream->block == NULL || stream->hashes == NULL)
        return no_memory(writer);
    if (stored->chunk_rows == 0)
        return LS_OK;
    stored->chunks = (stored->rows + stored->chunk_rows - 1) / stored->chunk_rows;
    LsHdf5Set table = {.type = LS_HDF5_CHUNK, .dimensions = 1, .shape = {stored->chunks}};
    LS_TRY(add_table(writer, stream, "chunks", &table));
    stored->table = table.offset;
    stream->chunk = calloc(stored->chunk_rows, row_bytes);
    stream->deflated = malloc(ls_stored_deflated_bytes(stored));
    stream->table = calloc(stored->chunks, sizeof *stream->table);
    if (stream->chunk == NULL || stream->deflated == NULL || stream->table == NULL)
        return no_memory(writer);
    return LS_OK;
}

static LsStatus open_tokens(LsWriter *writer, LsSplit split, bool compress)
{
    const LsDatasetInfo *info = &writer->info;
    Stream *tokens = &writer->x[split];
    size_t token_bytes = ls_token_bytes(info), chunk = ls_stored_chunk_rows(token_bytes);
    snprintf(tokens->stored.name, sizeof tokens->stored.name, "/%s/tokens", ls_split_name(split));
    LsHdf5Set set = {.type = info->feature_type == LS_COLUMN_U16 ? LS_HDF5_U16 : LS_HDF5_U32,
        .dimensions = 1,
        .shape = {info->samples[split]}};
    if (compress)
        set.chunk_rows = chunk < info->samples[split] ? chunk : info->samples[split];
    return open_stream(writer, &set, token_bytes, tokens);
}

static LsStatus open_files(LsWriter *writer, LsSplit split)
{
    Stream *files = &writer->files[split];
    snprintf(files->stored.name, sizeof files->stored.name, "/%s/files", ls_split_name(split));
    LsHdf5Set set = {
        .type = LS_HDF5_U8, .dimensions = 2, .shape = {writer->info.samples[split], sizeof(LsHash128)}};
    return open_stream(writer, &set, sizeof(LsHash128), files);
}

static LsStatus open_encoded(LsWriter *writer, LsSplit split, uint64_t bytes)
{
    Stream *x = &writer->x[split], *offsets = &writer->offsets[split];
    snprintf(x->stored.name, sizeof x->stored.name, "/%s/encoded", ls_split_name(split));
    snprintf(offsets->stored.name, sizeof offsets->stored.name, "/%s/offsets", ls_split_name(split));
    LsHdf5Set set = {.type = LS_HDF5_U8, .dimensions = 1, .shape = {bytes}};
    LsHdf5Set places = {.type = LS_HDF5_U64, .dimensions = 1, .shape = {writer->info.samples[split] + 1}};
    LS_TRY(open_stream(writer, &set, 1, x));
    return open_stream(writer, &places, sizeof(uint64_t), offsets);
}

static LsStatus open_x(LsWriter *writer, LsSplit split, bool compress)
{
    const LsDatasetInfo *info = &writer->info;
    Stream *x = &writer->x[split];
    snprintf(x->stored.name, sizeof x->stored.name, "/%s/x", ls_split_name(split));
    size_t row_bytes = ls_dataset_x_bytes(info);
    LsHdf5Set set = {.type = info->feature_type == LS_COLUMN_U8 ? LS_HDF5_U8 : LS_HDF5_F32,
        .dimensions = info->feature_dimensions + 1,
        .shape = {info->samples[split]},
        .chunk_rows = compress ? ls_stored_chunk_rows(row_bytes) : 0};
    if (set.chunk_rows > info->samples[split])
        set.chunk_rows = info->samples[split]; // HDF5 wants no chunk larger than its set
    for (int i = 0; i < info->feature_dimensions; i++)
        set.shape[i + 1] = info->feature_shape[i];
    return open_stream(writer, &set, row_bytes, x);
}

static LsStatus open_split(LsWriter *writer, LsSplit split, const LsWriterShape *shape)
{
    const LsDatasetInfo *info = &writer->info;
    Stream *y = &writer->y[split];
    LS_TRY(shape->encoded ? open_encoded(writer, split, shape->encoded_bytes[split])
                          : open_x(writer, split, shape->compress));
    snprintf(y->stored.name, sizeof y->stored.name, "/%s/y", ls_split_name(split));
    LsHdf5Set targets = {.type = info->classes ? LS_HDF5_I32 : LS_HDF5_F32,
        .dimensions = info->classes ? 1 : 2,
        .shape = {info->samples[split], info->outputs}};
    LS_TRY(open_stream(writer, &targets, ls_dataset_y_bytes(info), y));
    if (shape->files)
        LS_TRY(open_files(writer, split));
    if (!info->classes)
        return LS_OK;
    writer->counts[split] = calloc(info->outputs, sizeof(uint64_t));
    return writer->counts[split] == NULL ? no_memory(writer) : LS_OK;
}

// Asks the file system for the room that contiguous values take. Where it cannot reserve, writing will tell.
static LsStatus reserve(const LsWriter *writer)
{
    uint64_t end = 0;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        for (int i = 0; i < 4; i++) {
            const Stream *all[4] = {
                &writer->x[split], &writer->y[split], &writer->files[split], &writer->offsets[split]};
            const Stream *stream = all[i];
            uint64_t stream_end =
                stream->stored.chunk_rows > 0 ? 0 : stream->stored.offset + stream->expected;
            end = stream_end > end ? stream_end : end;
        }
    if (end == 0 || fallocate(ls_hdf5_descriptor(writer->file), FALLOC_FL_KEEP_SIZE, 0, (off_t)end) == 0 ||
        (errno != ENOSPC && errno != EFBIG && errno != EDQUOT))
        return LS_OK;
    return LS_FAIL(
        LS_IO, "no room for %llu bytes at %s: %s", (unsigned long long)end, writer->path, strerror(errno));
}

LsStatus ls_writer_begin(const char *path, const LsWriterShape *shape, LsWriter **out)
{
    LsDatasetInfo info;
    char target[LS_PATH_MAX];
    LS_TRY(shape->vocabulary > 0 ? check_tokens(path, shape, &info) : check_shape(path, shape, &info));
    LS_TRY(ls_file_target(path, target));
    LsWriter *writer = calloc(1, sizeof *writer);
    char *copy = strdup(target);
    if (writer == NULL || copy == NULL) {
        free(writer);
        free(copy);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    }
    writer->path = copy;
    writer->info = info;
    LsStatus status = create_temporary(writer);
    for (LsSplit split = LS_TRAIN; status == LS_OK && split < LS_SPLITS; split++)
        if (info.samples[split] > 0)
            status = shape->vocabulary > 0 ? open_tokens(writer, split, shape->compress)
                                           : open_split(writer, split, shape);
    if (status == LS_OK)
        status = reserve(writer);
    if (status != LS_OK) {
        ls_writer_destroy(writer);
        return status;
    }
    *out = writer;
    return LS_OK;
}

static LsStatus end_block(LsWriter *writer, Stream *stream)
{
    stream->hashes[stream->done / LS_BLOCK_BYTES] = ls_hash128(stream->block, stream->block_filled);
    if (stream->stored.chunk_rows == 0)
        LS_TRY(ls_file_write_at(ls_hdf5_descriptor(writer->file), writer->temporary, stream->block,
            stream->block_filled, stream->stored.offset + stream->done));
    stream->done += stream->block_filled;
    stream->block_filled = 0;
    return LS_OK;
}

// The last chunk is as long as the others, its rest zero, because HDF5 wants it so.
static LsStatus end_chunk(LsWriter *writer, Stream *stream)
{
    LsStored *stored = &stream->stored;
    size_t bytes = stored->chunk_rows * stored->row_bytes;
    memset(stream->chunk + stream->chunk_filled, 0, bytes - stream->chunk_filled);
    uLongf deflated = ls_stored_deflated_bytes(stored);
    if (compress2(stream->deflated, &deflated, stream->chunk, bytes, DEFLATE_LEVEL) != Z_OK)
        return LS_FAIL(LS_INTERNAL, "%s: zlib cannot deflate", writer->path);
    LsChunkEntry *entry = &stream->table[stream->chunks_done];
    LS_TRY(ls_hdf5_write_chunk(writer->file, stored->name, stream->chunks_done * stored->chunk_rows,
        stream->deflated, deflated, &entry->offset));
    LsHash128 hash = ls_hash128(stream->deflated, deflated);
    entry->bytes = deflated;
    memcpy(entry->hash, hash.bytes, sizeof entry->hash);
    stream->chunks_done++;
    stream->chunk_filled = 0;
    return LS_OK;
}

// Copies as much as the buffer takes; returns how much.
static size_t fill(uint8_t *buffer, size_t *filled, size_t capacity, const uint8_t *data, size_t bytes)
{
    size_t take = bytes < capacity - *filled ? bytes : capacity - *filled;
    memcpy(buffer + *filled, data, take);
    *filled += take;
    return take;
}

static LsStatus append(LsWriter *writer, Stream *stream, const uint8_t *data, size_t bytes)
{
    size_t chunk_bytes = stream->stored.chunk_rows * stream->stored.row_bytes;
    for (size_t i = 0; chunk_bytes > 0 && i < bytes;) {
        i += fill(stream->chunk, &stream->chunk_filled, chunk_bytes, data + i, bytes - i);
        if (stream->chunk_filled == chunk_bytes)
            LS_TRY(end_chunk(writer, stream));
    }
    for (size_t i = 0; i < bytes;) {
        i += fill(stream->block, &stream->block_filled, LS_BLOCK_BYTES, data + i, bytes - i);
        if (stream->block_filled == LS_BLOCK_BYTES)
            LS_TRY(end_block(writer, stream));
    }
    return LS_OK;
}

static LsStatus check_room(const LsWriter *writer, LsSplit split, size_t rows)
{
    size_t all = writer->info.samples[split];
    if (rows > all - writer->appended[split])
        return LS_FAIL(
            LS_INTERNAL, "%s: more than %zu rows for split %s", writer->path, all, ls_split_name(split));
    return LS_OK;
}

// The labels or targets of rows whose x is there.
static LsStatus append_y(LsWriter *writer, LsSplit split, const void *y, size_t rows)
{
    const LsDatasetInfo *info = &writer->info;
    LsRowNames names = {.path = writer->path, .split = split, .first = writer->appended[split]};
    LS_TRY(ls_rows_check_y(info, &names, y, rows));
    for (size_t i = 0; info->classes && i < rows; i++)
        writer->counts[split][((const int32_t *)y)[i]]++;
    LS_TRY(append(writer, &writer->y[split], y, rows * ls_dataset_y_bytes(info)));
    writer->appended[split] += rows;
    return LS_OK;
}

LsStatus ls_writer_append(LsWriter *writer, LsSplit split, const void *x, const void *y, size_t rows)
{
    const LsDatasetInfo *info = &writer->info;
    LS_TRY(check_room(writer, split, rows));
    if (rows == 0)
        return LS_OK;
    LsRowNames names = {.path = writer->path, .split = split, .first = writer->appended[split]};
    LS_TRY(ls_rows_check_x(info, &names, x, rows));
    if (ls_dataset_tokens(info)) {
        LS_TRY(append(writer, &writer->x[split], x, rows * ls_token_bytes(info)));
        writer->appended[split] += rows;
        return LS_OK;
    }
    LS_TRY(append(writer, &writer->x[split], x, rows * ls_dataset_x_bytes(info)));
    return append_y(writer, split, y, rows);
}

static uint64_t filled(const Stream *stream)
{
    return stream->done + stream->block_filled;
}

LsStatus ls_writer_append_encoded(
    LsWriter *writer, LsSplit split, const uint8_t *image, size_t size, const void *y)
{
    Stream *x = &writer->x[split];
    uint64_t place = filled(x);
    LS_TRY(check_room(writer, split, 1));
    if (!writer->info.encoded || size == 0 || size > x->expected - place)
        return LS_FAIL(LS_INTERNAL, "%s: %zu encoded bytes behind %llu of %llu in split %s", writer->path,
            size, (unsigned long long)place, (unsigned long long)x->expected, ls_split_name(split));
    LS_TRY(append(writer, &writer->offsets[split], (const uint8_t *)&place, sizeof place));
    LS_TRY(append(writer, x, image, size));
    return append_y(writer, split, y, 1);
}

LsStatus ls_writer_append_files(LsWriter *writer, LsSplit split, const LsHash128 *hashes, size_t count)
{
    Stream *files = &writer->files[split];
    if (count * sizeof *hashes > files->expected - filled(files))
        return LS_FAIL(LS_INTERNAL, "%s: more hashes of files than rows in split %s", writer->path,
            ls_split_name(split));
    return append(writer, files, (const uint8_t *)hashes, count * sizeof *hashes);
}

// Writes what is left in the buffers, then the tables.
static LsStatus end_stream(LsWriter *writer, Stream *stream)
{
    int fd = ls_hdf5_descriptor(writer->file);
    const LsStored *stored = &stream->stored;
    if (stream->chunk_filled > 0)
        LS_TRY(end_chunk(writer, stream));
    if (stream->block_filled > 0)
        LS_TRY(end_block(writer, stream));
    if (stored->chunk_rows > 0)
        LS_TRY(ls_file_write_at(
            fd, writer->temporary, stream->table, stored->chunks * sizeof *stream->table, stored->table));
    size_t bytes = stored->blocks * sizeof *stream->hashes;
    stream->stored.hashes_hash = ls_hash128(stream->hashes, bytes);
    return ls_file_write_at(fd, writer->temporary, stream->hashes, bytes, stored->hashes);
}

// One split's entry of the schema; NULL when memory is short.
static json_t *describe_split(const LsWriter *writer, LsSplit split)
{
    const Stream *x = &writer->x[split], *offsets = &writer->offsets[split];
    bool encoded = writer->info.encoded;
    char x_hash[LS_HASH128_TEXT], y_hash[LS_HASH128_TEXT];
    ls_hash128_text(x->stored.hashes_hash, x_hash);
    if (ls_dataset_tokens(&writer->info))
        return json_pack(
            "{s:I, s:s}", "tokens", (json_int_t)writer->info.samples[split], "tokens_hash", x_hash);
    ls_hash128_text(writer->y[split].stored.hashes_hash, y_hash);
    json_t *entry = json_pack("{s:I, s:s, s:s}", "samples", (json_int_t)writer->info.samples[split],
        encoded ? "encoded_hash" : "x_hash", x_hash, "y_hash", y_hash);
    if (entry != NULL && encoded) {
        ls_hash128_text(offsets->stored.hashes_hash, x_hash);
        json_object_set_new(entry, "offsets_hash", json_string(x_hash));
        json_object_set_new(entry, "encoded_bytes", json_integer((json_int_t)x->expected));
    }
    if (entry != NULL && writer->files[split].stored.rows > 0) {
        ls_hash128_text(writer->files[split].stored.hashes_hash, x_hash);
        json_object_set_new(entry, "files_hash", json_string(x_hash));
    }
    if (entry == NULL || !writer->info.classes)
        return entry;
    json_t *counts = json_array();
    for (size_t i = 0; i < writer->info.outputs; i++)
        json_array_append_new(counts, json_integer((json_int_t)writer->counts[split][i]));
    json_object_set_new(entry, "counts", counts);
    return entry;
}

// Adds the writer's keys and the root hash to the schema.
static LsStatus complete_schema(const LsWriter *writer, json_t *schema)
{
    const LsDatasetInfo *info = &writer->info;
    json_t *splits = json_object();
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (info->samples[split] > 0)
            json_object_set_new(splits, ls_split_name(split), describe_split(writer, split));
    json_object_set_new(schema, "format", json_integer(LS_DATASET_FORMAT));
    ls_schema_describe(info, schema);
    json_object_set_new(schema, "splits", splits);
    LsHash128 hash;
    char text[LS_HASH128_TEXT];
    LS_TRY(ls_schema_hash(schema, &hash));
    ls_hash128_text(hash, text);
    return json_object_set_new(schema, "root_hash", json_string(text)) == 0 ? LS_OK : no_memory(writer);
}

// The schema is checked as a reader will check it, so that no importer can write a file that does not open.
static LsStatus write_schema(LsWriter *writer, json_t *schema)
{
    LS_TRY(complete_schema(writer, schema));
    char *text = ls_json_canonical(schema);
    if (text == NULL)
        return no_memory(writer);
    LsDataset check = {0};
    LsHdf5Set set = {.type = LS_HDF5_TEXT, .shape = {strlen(text)}};
    LsStatus status = ls_schema_read(text, set.shape[0], writer->path, &check);
    ls_schema_release(&check);
    if (status == LS_OK && set.shape[0] > LS_SCHEMA_LIMIT)
        status = LS_FAIL(LS_BAD_DATA,
            "%s: the schema has %llu bytes, more than %d; are there categories that should be "
            "ignored?",
            writer->path, (unsigned long long)set.shape[0], LS_SCHEMA_LIMIT);
    if (status == LS_OK)
        status = ls_hdf5_add(writer->file, "/schema", &set);
    if (status == LS_OK)
        status = ls_file_write_at(
            ls_hdf5_descriptor(writer->file), writer->temporary, text, set.bytes, set.offset);
    free(text);
    return status;
}

static LsStatus sync_directory(const char *path)
{
    char directory[LS_PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return ls_directory_sync(".");
    snprintf(directory, sizeof directory, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    return ls_directory_sync(directory);
}

static LsStatus publish(LsWriter *writer)
{
    struct stat information;
    int fd = ls_hdf5_descriptor(writer->file);
    LS_TRY(ls_hdf5_finish(writer->file));
    // Gives back what was reserved beyond the end.
    if (fstat(fd, &information) != 0 || ftruncate(fd, information.st_size) != 0 || fsync(fd) != 0)
        return LS_FAIL(LS_IO, "cannot sync %s: %s", writer->temporary, strerror(errno));
    if (rename(writer->temporary, writer->path) != 0)
        return LS_FAIL(LS_IO, "cannot replace %s: %s", writer->path, strerror(errno));
    writer->committed = true;
    return sync_directory(writer->path);
}

// The offsets end with the end of the last image.
static LsStatus end_offsets(LsWriter *writer, LsSplit split)
{
    const Stream *x = &writer->x[split];
    if (x->done != x->expected)
        return LS_FAIL(LS_INTERNAL, "%s: %llu of %llu encoded bytes of split %s", writer->path,
            (unsigned long long)x->done, (unsigned long long)x->expected, ls_split_name(split));
    LS_TRY(append(writer, &writer->offsets[split], (const uint8_t *)&x->done, sizeof x->done));
    return end_stream(writer, &writer->offsets[split]);
}

LsStatus ls_writer_commit(LsWriter *writer, json_t *schema)
{
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        if (writer->appended[split] != writer->info.samples[split])
            return LS_FAIL(LS_INTERNAL, "%s: %llu of %zu rows of split %s", writer->path,
                (unsigned long long)writer->appended[split], writer->info.samples[split],
                ls_split_name(split));
        if (writer->appended[split] == 0)
            continue;
        LS_TRY(end_stream(writer, &writer->x[split]));
        if (!ls_dataset_tokens(&writer->info))
            LS_TRY(end_stream(writer, &writer->y[split]));
        if (writer->files[split].stored.rows > 0)
            LS_TRY(end_stream(writer, &writer->files[split]));
        if (writer->info.encoded)
            LS_TRY(end_offsets(writer, split));
    }
    LS_TRY(write_schema(writer, schema));
    return publish(writer);
}

static void release_stream(Stream *stream)
{
    free(stream->block);
    free(stream->hashes);
    free(stream->chunk);
    free(stream->deflated);
    free(stream->table);
}

void ls_writer_destroy(LsWriter *writer)
{
    if (writer == NULL)
        return;
    ls_hdf5_close(writer->file);
    if (writer->temporary != NULL && !writer->committed)
        unlink(writer->temporary);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        release_stream(&writer->x[split]);
        release_stream(&writer->y[split]);
        release_stream(&writer->files[split]);
        release_stream(&writer->offsets[split]);
        free(writer->counts[split]);
    }
    free(writer->temporary);
    free(writer->path);
    free(writer);
}
