#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "import_idx.h"

enum { PIECE = 64 << 10, FIRST_ALLOCATION = 1 << 20, GZIP_WINDOW = 15 + 16, TYPE_U8 = 0x08, TYPE_F32 = 0x0D };

// Bytes of a file or of memory, inflated when they begin as gzip does.
typedef struct Source {
    const char *name;
    int fd; // -1: memory, all of it in z.next_in
    uint8_t *piece;
    z_stream z; // next_in and avail_in serve plain input too
    bool gzip;
    bool between;    // of gzip members: the input may end here
    uint64_t offset; // of decoded bytes
} Source;

static LsStatus refill(Source *source)
{
    if (source->z.avail_in > 0 || source->fd < 0)
        return LS_OK;
    ssize_t got;
    do
        got = read(source->fd, source->piece, PIECE);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return ls_file_fail("read", source->name);
    source->z.next_in = source->piece;
    source->z.avail_in = (uInt)got;
    return LS_OK;
}

static LsStatus source_start(Source *source)
{
    LS_TRY(refill(source));
    source->gzip = source->z.avail_in >= 2 && source->z.next_in[0] == 0x1f && source->z.next_in[1] == 0x8b;
    if (source->gzip && inflateInit2(&source->z, GZIP_WINDOW) != Z_OK)
        return LS_FAIL(LS_INTERNAL, "%s: zlib cannot start: out of memory", source->name);
    return LS_OK;
}

static LsStatus source_open(const char *path, Source *source)
{
    *source = (Source){.name = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (source->fd < 0)
        return ls_file_fail("open", path);
    source->piece = malloc(PIECE);
    LsStatus status =
        source->piece == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", path) : source_start(source);
    if (status != LS_OK) {
        free(source->piece);
        close(source->fd);
    }
    return status;
}

static void source_close(Source *source)
{
    if (source->gzip)
        inflateEnd(&source->z);
    free(source->piece);
    if (source->fd >= 0)
        close(source->fd);
}

// Inflates into z.next_out until it is full or the input ends after a whole member.
static LsStatus inflate_some(Source *source, bool *end)
{
    LS_TRY(refill(source));
    if (source->z.avail_in == 0) {
        if (!source->between)
            return LS_FAIL(LS_BAD_DATA,
                "%s: the gzip data ends in the middle, after %llu bytes of content; is the file "
                "truncated?",
                source->name, (unsigned long long)(source->offset + source->z.total_out));
        *end = true;
        return LS_OK;
    }
    bool was_between = source->between;
    source->between = false;
    int result = inflate(&source->z, Z_NO_FLUSH);
    if (result == Z_STREAM_END) {
        source->between = true;
        inflateReset(&source->z); // members follow each other; what is none is an error of the next call
    } else if (result == Z_MEM_ERROR) {
        return LS_FAIL(LS_INTERNAL, "%s: zlib is out of memory", source->name);
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return LS_FAIL(LS_BAD_DATA, "%s: %s (%s)", source->name,
            was_between ? "something else follows the gzip data" : "the gzip data is damaged",
            source->z.msg == NULL ? "zlib" : source->z.msg);
    }
    return LS_OK;
}

// Reads up to `bytes` decoded bytes; fewer only at the end.
static LsStatus source_read(Source *source, void *out, size_t bytes, size_t *got)
{
    size_t done = 0;
    bool end = false;
    while (done < bytes && !end) {
        size_t want = bytes - done < 1u << 30 ? bytes - done : 1u << 30;
        if (source->gzip) {
            source->z.next_out = (uint8_t *)out + done;
            source->z.avail_out = (uInt)want;
            LS_TRY(inflate_some(source, &end));
            done += want - source->z.avail_out;
            continue;
        }
        LS_TRY(refill(source));
        size_t take = want < source->z.avail_in ? want : source->z.avail_in;
        end = take == 0;
        memcpy((uint8_t *)out + done, source->z.next_in, take);
        source->z.next_in += take;
        source->z.avail_in -= (uInt)take;
        done += take;
    }
    source->offset += done;
    *got = done;
    return LS_OK;
}

static const char *type_name(uint8_t type)
{
    switch (type) {
    case 0x09:
        return "signed bytes";
    case 0x0B:
        return "int16";
    case 0x0C:
        return "int32";
    case 0x0E:
        return "float64";
    default:
        return "no IDX type";
    }
}

static LsStatus read_header(Source *source, LsIdx *idx)
{
    uint8_t head[4], shape[LS_IDX_DIMENSIONS * 4];
    size_t got;
    LS_TRY(source_read(source, head, sizeof head, &got));
    if (got < sizeof head || head[0] != 0 || head[1] != 0)
        return LS_FAIL(LS_BAD_DATA,
            "%s: offset 0: not an IDX file (it must begin with two zero bytes, a type and a number of "
            "dimensions)",
            source->name);
    if (head[2] != TYPE_U8 && head[2] != TYPE_F32)
        return LS_FAIL(LS_BAD_DATA,
            "%s: offset 2: type 0x%02X (%s); only unsigned bytes (0x08) and float32 (0x0D) are "
            "imported",
            source->name, head[2], type_name(head[2]));
    if (head[3] < 1 || head[3] > LS_IDX_DIMENSIONS)
        return LS_FAIL(LS_BAD_DATA, "%s: offset 3: %d dimensions; there must be 1 to %d", source->name,
            head[3], LS_IDX_DIMENSIONS);
    idx->type = head[2] == TYPE_U8 ? LS_COLUMN_U8 : LS_COLUMN_F32;
    idx->dimensions = head[3];
    idx->bytes = idx->type == LS_COLUMN_U8 ? 1 : sizeof(float);
    size_t bytes = (size_t)idx->dimensions * 4;
    LS_TRY(source_read(source, shape, bytes, &got));
    if (got < bytes)
        return LS_FAIL(LS_BAD_DATA, "%s: offset %zu: the file ends within its header", source->name, 4 + got);
    for (int i = 0; i < idx->dimensions; i++) {
        const uint8_t *d = shape + 4 * i;
        idx->shape[i] = (size_t)d[0] << 24 | (size_t)d[1] << 16 | (size_t)d[2] << 8 | d[3];
        if (idx->shape[i] == 0 || !ls_size_multiply(idx->bytes, idx->shape[i], &idx->bytes))
            return LS_FAIL(LS_BAD_DATA, "%s: offset %d: dimension %d is %zu, which is impossible",
                source->name, 4 + 4 * i, i, idx->shape[i]);
    }
    return LS_OK;
}

// Memory grows with what is really there, at most to twice that, so that a header cannot ask for terabytes.
static LsStatus read_values(Source *source, LsIdx *idx)
{
    size_t capacity = 0, filled = 0;
    uint64_t start = source->offset;
    while (filled < idx->bytes) {
        capacity = capacity == 0 ? FIRST_ALLOCATION : 2 * capacity;
        capacity = capacity < idx->bytes ? capacity : idx->bytes;
        void *larger = realloc(idx->values, capacity);
        if (larger == NULL)
            return LS_FAIL(LS_INTERNAL, "%s: no memory for %zu bytes", source->name, capacity);
        idx->values = larger;
        size_t got;
        LS_TRY(source_read(source, (uint8_t *)idx->values + filled, capacity - filled, &got));
        filled += got;
        if (filled < capacity)
            return LS_FAIL(LS_BAD_DATA,
                "%s: offset %llu: the file ends, but its header promises %zu bytes of values; is it "
                "truncated?",
                source->name, (unsigned long long)(start + filled), idx->bytes);
    }
    uint8_t more;
    size_t got;
    LS_TRY(source_read(source, &more, 1, &got));
    if (got > 0)
        return LS_FAIL(LS_BAD_DATA, "%s: offset %llu: there are more bytes than the header promises",
            source->name, (unsigned long long)(start + filled));
    return LS_OK;
}

static void to_host_order(LsIdx *idx)
{
    uint8_t *bytes = idx->values;
    for (size_t i = 0; idx->type == LS_COLUMN_F32 && i < idx->bytes; i += 4) {
        uint8_t *b = bytes + i;
        uint32_t value = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        memcpy(b, &value, sizeof value);
    }
}

// Here, because whoever meets the value later knows neither its file nor its offset.
static LsStatus check_finite(const char *name, const LsIdx *idx)
{
    const float *values = idx->values;
    size_t header = 4 + 4 * (size_t)idx->dimensions, count = idx->bytes / sizeof *values;
    for (size_t i = 0; idx->type == LS_COLUMN_F32 && i < count; i++)
        if (!isfinite(values[i]))
            return LS_FAIL(LS_BAD_DATA, "%s: offset %zu: the value is %g; clean the input", name,
                header + i * sizeof *values, (double)values[i]);
    return LS_OK;
}

static LsStatus read_all(Source *source, LsIdx *out)
{
    LsIdx idx = {0};
    LsStatus status = read_header(source, &idx);
    if (status == LS_OK)
        status = read_values(source, &idx);
    if (status == LS_OK) {
        to_host_order(&idx);
        status = check_finite(source->name, &idx);
    }
    if (status != LS_OK) {
        free(idx.values);
        return status;
    }
    *out = idx;
    return LS_OK;
}

LsStatus ls_idx_read(const char *path, LsIdx *out)
{
    Source source;
    LS_TRY(source_open(path, &source));
    LsStatus status = read_all(&source, out);
    source_close(&source);
    return status;
}

LsStatus ls_idx_parse(const void *data, size_t size, const char *name, LsIdx *out)
{
    if (size > UINT32_MAX)
        return LS_FAIL(LS_BAD_DATA, "%s: %zu bytes are too many to read from memory", name, size);
    Source source = {.name = name, .fd = -1};
    source.z.next_in = (Bytef *)data;
    source.z.avail_in = (uInt)size;
    LsStatus status = source_start(&source);
    if (status == LS_OK)
        status = read_all(&source, out);
    source_close(&source);
    return status;
}

LsStatus ls_idx_recognize(const char *path, bool *idx)
{
    Source source;
    uint8_t head[4];
    size_t got = 0;
    LS_TRY(source_open(path, &source));
    LsStatus status = source_read(&source, head, sizeof head, &got);
    source_close(&source);
    if (status == LS_BAD_DATA) { // damaged gzip is for whoever reads it to report
        *idx = false;
        return LS_OK;
    }
    LS_TRY(status);
    *idx = got == sizeof head && head[0] == 0 && head[1] == 0 && head[2] >= 0x08 && head[2] <= 0x0E &&
           head[3] >= 1;
    return LS_OK;
}

void ls_idx_free(LsIdx *idx)
{
    free(idx->values);
    *idx = (LsIdx){0};
}
