// Writing a safetensors file: the same content makes the same bytes.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "train/safetensors.h"

// Values go to the file as they lie in memory, and the file is little-endian.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian host needs a conversion here");

enum { LENGTH_BYTES = 8, ALIGNMENT = 8 };

typedef struct Output {
    const LsSafetensorsContent *content;
    const char *path;
    LsFileWrite file;
    size_t *order;    // [count] indexes of the tensors, by name
    size_t *elements; // [count] in that order
    char *header;     // with its length in front
    size_t header_bytes;
    float *values; // of the largest tensor
} Output;

static size_t element_bytes(const Output *output)
{
    return ls_dtype_size(output->content->type);
}

static const char *type_name(LsDtype type)
{
    return type == LS_F32 ? "F32" : type == LS_F16 ? "F16" : "BF16";
}

// ---- The header -----------------------------------------------------------------------------------------

static LsStatus sort_tensors(Output *output)
{
    const LsSafetensorsContent *content = output->content;
    LS_TRY(ls_memory_allocate((content->count + 1) * sizeof *output->order, (void **)&output->order));
    LS_TRY(ls_memory_allocate((content->count + 1) * sizeof *output->elements, (void **)&output->elements));
    for (size_t i = 0; i < content->count; i++) { // insertion: a model has hundreds of tensors
        size_t place = i;
        for (; place > 0; place--) {
            size_t before = output->order[place - 1];
            if (strcmp(content->tensor[before].name, content->tensor[i].name) <= 0)
                break;
            output->order[place] = before;
        }
        output->order[place] = i;
    }
    return LS_OK;
}

// One tensor's entry, which begins at *end; moves *end behind it.
static json_t *describe_tensor(const Output *output, size_t place, uint64_t *end)
{
    const LsFileTensor *tensor = &output->content->tensor[output->order[place]];
    json_t *shape = json_array();
    for (int d = 0; d < tensor->dimensions; d++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
    uint64_t begin = *end;
    *end += output->elements[place] * element_bytes(output);
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(output->content->type), "shape", shape,
        "data_offsets", (json_int_t)begin, (json_int_t)*end);
}

// Counts elements, largest tensor included; everything together must be addressable.
static LsStatus measure(Output *output, size_t *largest)
{
    size_t total = 0;
    *largest = 1;
    for (size_t i = 0; i < output->content->count; i++) {
        const LsFileTensor *tensor = &output->content->tensor[output->order[i]];
        size_t elements = 1;
        for (int d = 0; d < tensor->dimensions; d++)
            if (!ls_size_multiply(elements, tensor->shape[d], &elements))
                return LS_FAIL(LS_INTERNAL, "tensor %s is too large", tensor->name);
        output->elements[i] = elements;
        *largest = elements > *largest ? elements : *largest;
        if (!ls_size_add(total, elements, &total) || total > INT64_MAX / sizeof(float))
            return LS_FAIL(LS_INTERNAL, "tensor %s makes the file too large", tensor->name);
    }
    return LS_OK;
}

static LsStatus frame_header(Output *output, const char *text)
{
    size_t length = strlen(text), padded = ls_round_up(length, ALIGNMENT);
    if (padded > LS_SAFETENSORS_HEADER)
        return LS_FAIL(LS_BAD_DATA, "%s: a header of %zu bytes is longer than the format allows (%d)",
            output->path, padded, LS_SAFETENSORS_HEADER);
    output->header_bytes = LENGTH_BYTES + padded;
    LS_TRY(ls_memory_allocate(output->header_bytes, (void **)&output->header));
    uint64_t number = padded;
    memcpy(output->header, &number, sizeof number);
    memcpy(output->header + LENGTH_BYTES, text, length);
    memset(output->header + LENGTH_BYTES + length, ' ', padded - length);
    return LS_OK;
}

static LsStatus make_header(Output *output)
{
    const LsSafetensorsContent *content = output->content;
    json_t *header = json_object();
    uint64_t end = 0;
    bool good = header != NULL;
    for (size_t i = 0; good && i < content->count; i++) {
        const char *name = content->tensor[output->order[i]].name;
        good = json_object_set_new(header, name, describe_tensor(output, i, &end)) == 0;
    }
    if (good && content->metadata)
        good = json_object_set(header, "__metadata__", (json_t *)content->metadata) == 0;
    char *text = good ? ls_json_canonical(header) : NULL;
    json_decref(header);
    if (!text)
        return LS_FAIL(LS_INTERNAL, "%s: its header cannot be written as JSON", output->path);
    LsStatus status = frame_header(output, text);
    free(text);
    return status;
}

// ---- The data -------------------------------------------------------------------------------------------

// Rounds in place: what is written never overtakes what is read.
static LsStatus narrow(const Output *output, const LsFileTensor *tensor, size_t count)
{
    LsDtype type = output->content->type;
    unsigned char *to = (unsigned char *)output->values;
    for (size_t i = 0; type != LS_F32 && i < count; i++) {
        float value = output->values[i];
        uint16_t bits = type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
        if (type == LS_F16 && isfinite(value) && !isfinite(ls_f16_to_f32(bits)))
            return LS_FAIL(LS_BAD_DATA,
                "%s: element %zu of tensor %s is %g, which f16 cannot hold; use bf16 or f32", output->path, i,
                tensor->name, (double)value);
        memcpy(to + i * sizeof bits, &bits, sizeof bits);
    }
    return LS_OK;
}

static LsStatus write_all(Output *output)
{
    const LsSafetensorsContent *content = output->content;
    LsFileWrite *file = &output->file;
    LS_TRY(ls_file_write_at(file->fd, file->temporary, output->header, output->header_bytes, 0));
    uint64_t place = output->header_bytes;
    for (size_t i = 0; i < content->count; i++) {
        size_t index = output->order[i], bytes = output->elements[i] * element_bytes(output);
        LS_TRY(content->values(content->context, index, output->values));
        LS_TRY(narrow(output, &content->tensor[index], output->elements[i]));
        LS_TRY(ls_file_write_at(file->fd, file->temporary, output->values, bytes, place));
        place += bytes;
    }
    return LS_OK;
}

static LsStatus write_file(Output *output)
{
    size_t largest;
    LS_TRY(sort_tensors(output));
    LS_TRY(measure(output, &largest));
    LS_TRY(make_header(output));
    LS_TRY(ls_memory_allocate(largest * sizeof(float), (void **)&output->values));
    LS_TRY(ls_file_begin(output->path, &output->file));
    return ls_file_finish(&output->file, write_all(output));
}

LsStatus ls_safetensors_write(const char *path, const LsSafetensorsContent *content)
{
    Output output = {.content = content, .path = path};
    LsStatus status = write_file(&output);
    free(output.values);
    free(output.header);
    free(output.elements);
    free(output.order);
    return status;
}
