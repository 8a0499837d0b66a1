#include "train/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

// Values are read as they lie in the file, which is little-endian.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian host needs a conversion here");

enum {
    LENGTH_BYTES = 8,
    PORTION = 1 << 16, // elements that are converted at a time
};

#define METADATA "__metadata__"

struct LsSafetensors {
    char *path;
    int fd;
    json_t *header; // owns the tensors' names and types
    uint64_t start; // of the data in the file
    size_t count;
    LsFileTensor *tensor;        // in the order of the data
    const LsFileTensor **sorted; // by name
};

// The types that the format has, with the bytes of an element. Those of less than a byte are left out.
static const struct {
    const char *name;
    size_t bytes;
} types[] = {{"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I16", 2},
    {"U16", 2}, {"F16", 2}, {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"I64", 8}, {"U64", 8},
    {"F64", 8}, {"C64", 8}};

// Bytes of an element, 0 for a type that does not exist.
static size_t type_bytes(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].bytes;
    return 0;
}

// ---- The header -----------------------------------------------------------------------------------------

static LsStatus fail_tensor(const LsSafetensors *file, const char *name, const char *what)
{
    char quote[LS_QUOTE_SIZE];
    return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s %s", file->path, ls_text_quote(quote, name), what);
}

// A whole number of at least 0.
static bool get_size(const json_t *json, uint64_t *out)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0)
        return false;
    *out = (uint64_t)json_integer_value(json);
    return true;
}

static LsStatus parse_shape(const LsSafetensors *file, const json_t *shape, LsFileTensor *out)
{
    size_t dimensions = json_array_size(shape);
    if (!json_is_array(shape) || dimensions > LS_SAFETENSORS_DIMENSIONS)
        return fail_tensor(file, out->name, "has no shape of at most 8 dimensions");
    out->dimensions = (int)dimensions;
    out->elements = 1;
    for (size_t i = 0; i < dimensions; i++) {
        uint64_t size;
        if (!get_size(json_array_get(shape, i), &size))
            return fail_tensor(file, out->name, "has a shape that is not of whole numbers");
        out->shape[i] = size;
        if (!ls_size_multiply(out->elements, out->shape[i], &out->elements))
            return fail_tensor(file, out->name, "has a shape too large to be one");
    }
    return LS_OK;
}

static LsStatus parse_offsets(
    const LsSafetensors *file, const json_t *offsets, uint64_t data, LsFileTensor *out)
{
    size_t bytes;
    if (json_array_size(offsets) != 2 || !get_size(json_array_get(offsets, 0), &out->begin) ||
        !get_size(json_array_get(offsets, 1), &out->end))
        return fail_tensor(file, out->name, "has no two data_offsets");
    if (out->begin > out->end)
        return fail_tensor(file, out->name, "ends before it begins");
    if (out->end > data)
        return fail_tensor(file, out->name, "reaches past the end of the file, which may be cut off");
    if (!ls_size_multiply(out->elements, type_bytes(out->type), &bytes) || bytes != out->end - out->begin)
        return fail_tensor(file, out->name, "has data_offsets that do not fit its shape and dtype");
    return LS_OK;
}

static LsStatus parse_tensor(
    const LsSafetensors *file, const char *name, const json_t *json, uint64_t data, LsFileTensor *out)
{
    out->name = name;
    if (!json_is_object(json))
        return fail_tensor(file, name, "is no JSON object");
    out->type = json_string_value(json_object_get(json, "dtype"));
    if (!out->type || type_bytes(out->type) == 0)
        return fail_tensor(file, name, "has no dtype that this program knows");
    LS_TRY(parse_shape(file, json_object_get(json, "shape"), out));
    return parse_offsets(file, json_object_get(json, "data_offsets"), data, out);
}

static LsStatus check_metadata(const LsSafetensors *file)
{
    const char *key;
    json_t *value, *metadata = json_object_get(file->header, METADATA);
    bool good = !metadata || json_is_object(metadata);
    json_object_foreach(metadata, key, value)
    {
        good = good && json_is_string(value);
    }
    return good ? LS_OK : LS_FAIL(LS_CHECKPOINT, "%s: " METADATA " is not an object of strings", file->path);
}

static int compare_places(const void *left, const void *right)
{
    const LsFileTensor *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int compare_names(const void *left, const void *right)
{
    return strcmp((*(const LsFileTensor *const *)left)->name, (*(const LsFileTensor *const *)right)->name);
}

// Every byte of the data is one tensor's.
static LsStatus check_places(const LsSafetensors *file, uint64_t data)
{
    uint64_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const LsFileTensor *tensor = &file->tensor[i];
        if (tensor->begin < end)
            return fail_tensor(file, tensor->name, "overlaps another one");
        if (tensor->begin > end)
            return fail_tensor(file, tensor->name, "is behind bytes that belong to no tensor");
        end = tensor->end;
    }
    if (end != data)
        return LS_FAIL(LS_CHECKPOINT, "%s: %llu bytes behind the last tensor belong to none", file->path,
            (unsigned long long)(data - end));
    return LS_OK;
}

static LsStatus parse_tensors(LsSafetensors *file, uint64_t data)
{
    const char *name;
    json_t *value;
    size_t most = json_object_size(file->header), bytes;
    if (!ls_size_multiply(most + 1, sizeof *file->tensor, &bytes)) // one more: never nothing
        return LS_FAIL(LS_CHECKPOINT, "%s: %zu tensors are too many", file->path, most);
    LS_TRY(ls_memory_allocate(bytes, (void **)&file->tensor));
    LS_TRY(ls_memory_allocate((most + 1) * sizeof *file->sorted, (void **)&file->sorted));
    json_object_foreach(file->header, name, value)
    {
        if (strcmp(name, METADATA) != 0)
            LS_TRY(parse_tensor(file, name, value, data, &file->tensor[file->count++]));
    }
    qsort(file->tensor, file->count, sizeof *file->tensor, compare_places);
    for (size_t i = 0; i < file->count; i++)
        file->sorted[i] = &file->tensor[i];
    qsort(file->sorted, file->count, sizeof *file->sorted, compare_names);
    return check_places(file, data);
}

static LsStatus parse_header(LsSafetensors *file, const char *text, size_t size, uint64_t data)
{
    json_error_t error;
    if (size == 0 || text[0] != '{')
        return LS_FAIL(
            LS_CHECKPOINT, "%s: its header does not begin with {: no safetensors file", file->path);
    file->header = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!file->header) {
        char quote[LS_QUOTE_SIZE]; // the parser's sentence quotes the input
        return LS_FAIL(LS_CHECKPOINT, "%s: its header is not valid JSON at byte %d: %s", file->path,
            error.position, ls_text_quote(quote, error.text));
    }
    LS_TRY(check_metadata(file));
    return parse_tensors(file, data);
}

// ---- Opening --------------------------------------------------------------------------------------------

// What the file ends before is its own fault, not the input's of this program.
static LsStatus read_at(const LsSafetensors *file, void *out, size_t bytes, uint64_t offset)
{
    LsStatus status = ls_file_read_at(file->fd, file->path, out, bytes, offset);
    return status == LS_BAD_DATA ? ls_status_adopt(LS_CHECKPOINT, ls_status_message()) : status;
}

static LsStatus open_file(LsSafetensors *file, uint64_t *size)
{
    struct stat information;
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO would wait for a writer
    if (file->fd < 0 || fstat(file->fd, &information) != 0)
        return ls_file_fail("open", file->path);
    if (!S_ISREG(information.st_mode))
        return LS_FAIL(LS_CHECKPOINT, "%s is not a file", file->path);
    *size = (uint64_t)information.st_size;
    return LS_OK;
}

static LsStatus read_header(LsSafetensors *file)
{
    uint64_t size = 0, length = 0;
    LS_TRY(open_file(file, &size));
    if (size < LENGTH_BYTES)
        return LS_FAIL(
            LS_CHECKPOINT, "%s: %llu bytes are no safetensors file", file->path, (unsigned long long)size);
    LS_TRY(read_at(file, &length, sizeof length, 0));
    if (length > LS_SAFETENSORS_HEADER || length > size - LENGTH_BYTES)
        return LS_FAIL(LS_CHECKPOINT,
            "%s: it says that its header has %llu bytes, with %llu in the file and %d allowed: it is cut "
            "off, or no safetensors file",
            file->path, (unsigned long long)length, (unsigned long long)(size - LENGTH_BYTES),
            LS_SAFETENSORS_HEADER);
    file->start = LENGTH_BYTES + length;
    char *text = NULL;
    LS_TRY(ls_memory_allocate(length + 1, (void **)&text));
    LsStatus status = read_at(file, text, length, LENGTH_BYTES);
    if (status == LS_OK)
        status = parse_header(file, text, length, size - file->start);
    free(text);
    return status;
}

LsStatus ls_safetensors_open(const char *path, LsSafetensors **out)
{
    LsSafetensors *file = NULL;
    LS_TRY(ls_memory_allocate(sizeof *file, (void **)&file));
    file->fd = -1;
    file->path = strdup(path);
    LsStatus status = file->path ? read_header(file) : LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    if (status != LS_OK) {
        ls_safetensors_close(file);
        return status;
    }
    *out = file;
    return LS_OK;
}

void ls_safetensors_close(LsSafetensors *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    free(file->sorted);
    free(file->tensor);
    json_decref(file->header);
    free(file->path);
    free(file);
}

// ---- What it holds --------------------------------------------------------------------------------------

const char *ls_safetensors_path(const LsSafetensors *file)
{
    return file->path;
}

const LsFileTensor *ls_safetensors_list(const LsSafetensors *file, size_t *count)
{
    *count = file->count;
    return file->tensor;
}

const LsFileTensor *ls_safetensors_find(const LsSafetensors *file, const char *name)
{
    const LsFileTensor key = {.name = name}, *pointer = &key;
    const LsFileTensor **found =
        bsearch(&pointer, file->sorted, file->count, sizeof *file->sorted, compare_names);
    return found ? *found : NULL;
}

const char *ls_safetensors_metadata(const LsSafetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, METADATA), key));
}

// Widens `count` numbers that lie at the end of out, so that none is overwritten before it is read.
static void widen(bool bf16, size_t count, float *out)
{
    const unsigned char *from = (const unsigned char *)(out + count) - count * sizeof(uint16_t);
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, from + i * sizeof bits, sizeof bits);
        out[i] = bf16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
    }
}

LsStatus ls_safetensors_read(
    const LsSafetensors *file, const LsFileTensor *tensor, size_t first, size_t count, float *out)
{
    bool f32 = strcmp(tensor->type, "F32") == 0, bf16 = strcmp(tensor->type, "BF16") == 0;
    if (!f32 && !bf16 && strcmp(tensor->type, "F16") != 0)
        return fail_tensor(file, tensor->name, "is not of dtype F32, F16 or BF16");
    if (first > tensor->elements || count > tensor->elements - first)
        return LS_FAIL(LS_INTERNAL, "%s: elements %zu and %zu more of a tensor of %zu", file->path, first,
            count, tensor->elements);
    size_t bytes = f32 ? sizeof(float) : sizeof(uint16_t);
    for (size_t done = 0, part; done < count; done += part) {
        part = count - done < PORTION ? count - done : PORTION;
        unsigned char *place = (unsigned char *)(out + done + part) - part * bytes;
        LS_TRY(read_at(file, place, part * bytes, file->start + tensor->begin + (first + done) * bytes));
        if (!f32)
            widen(bf16, part, out + done);
    }
    return LS_OK;
}
