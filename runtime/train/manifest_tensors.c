// The table of tensors in a manifest: finding, arranging in the file, hashing, writing down.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "manifest.h"

enum { PIECE = 1 << 16 };

static int compare_path(const void *path, const void *tensor)
{
    return strcmp(path, ((const LsManifestTensor *)tensor)->path);
}

const LsManifestTensor *ls_manifest_find(const LsManifest *manifest, const char *path)
{
    return bsearch(path, manifest->tensor, manifest->tensors, sizeof *manifest->tensor, compare_path);
}

static int compare_offset(const void *a, const void *b, void *tensors)
{
    const LsManifestTensor *tensor = tensors;
    const LsManifestTensor *left = &tensor[*(const size_t *)a], *right = &tensor[*(const size_t *)b];
    return (left->offset > right->offset) - (left->offset < right->offset);
}

LsStatus ls_manifest_arrange(LsManifest *manifest, const char *name)
{
    size_t bytes;
    if (!ls_size_multiply(manifest->tensors, sizeof *manifest->by_offset, &bytes))
        return LS_FAIL(LS_CHECKPOINT, "%s: too many tensors", name);
    LS_TRY(ls_memory_allocate(bytes, (void **)&manifest->by_offset));
    for (size_t i = 0; i < manifest->tensors; i++)
        manifest->by_offset[i] = i;
    qsort_r(manifest->by_offset, manifest->tensors, sizeof *manifest->by_offset, compare_offset,
        manifest->tensor);
    uint64_t free_from = 0;
    for (size_t i = 0; i < manifest->tensors; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[manifest->by_offset[i]];
        // Neither sum overflows: elements were measured to be at most INT64_MAX bytes.
        uint64_t size = (uint64_t)tensor->elements * sizeof(float);
        if (tensor->offset > manifest->file_size || size > manifest->file_size - tensor->offset)
            return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s lies outside of the file", name, tensor->path);
        if (tensor->offset < free_from)
            return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s overlaps another one", name, tensor->path);
        free_from = tensor->offset + size;
    }
    return LS_OK;
}

static LsStatus hash_range(LsSha256 *sha, int fd, const char *path, uint64_t from, uint64_t to)
{
    char piece[PIECE];
    while (from < to) {
        size_t size = to - from < sizeof piece ? (size_t)(to - from) : sizeof piece;
        LS_TRY(ls_file_read_at(fd, path, piece, size, from));
        ls_sha256_update(sha, piece, size);
        from += size;
    }
    return LS_OK;
}

LsStatus ls_manifest_structure_hash(
    const LsManifest *manifest, int fd, const char *path, char text[LS_SHA256_TEXT])
{
    LsSha256 *sha = ls_sha256_create();
    LsStatus status = LS_OK;
    uint64_t from = 0;
    for (size_t i = 0; i < manifest->tensors && status == LS_OK; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[manifest->by_offset[i]];
        status = hash_range(sha, fd, path, from, tensor->offset);
        from = tensor->offset + (uint64_t)tensor->elements * sizeof(float);
    }
    if (status == LS_OK)
        status = hash_range(sha, fd, path, from, manifest->file_size);
    char digest[LS_SHA256_TEXT];
    ls_sha256_finish(sha, digest);
    if (status == LS_OK)
        memcpy(text, digest, sizeof digest);
    return status;
}

LsStatus ls_tensor_hash(const LsManifestTensor *tensor, LsHash128 *out)
{
    uint8_t *bytes;
    LS_TRY(ls_memory_allocate(tensor->blocks * sizeof(uint64_t), (void **)&bytes));
    for (size_t i = 0; i < tensor->blocks; i++)
        for (int b = 0; b < 8; b++)
            bytes[8 * i + (size_t)b] = (uint8_t)(tensor->block_hash[i] >> (56 - 8 * b));
    *out = ls_hash128(bytes, tensor->blocks * sizeof(uint64_t));
    free(bytes);
    return LS_OK;
}

// All block hashes as one string: a line of the manifest, not thousands.
static json_t *block_hashes_json(const LsManifestTensor *tensor)
{
    static const char digits[] = "0123456789abcdef";
    size_t size = tensor->blocks * LS_HASH64_DIGITS;
    char *text = malloc(size);
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < size; i++)
        text[i] = digits[tensor->block_hash[i / 16] >> (60 - 4 * (i % 16)) & 15];
    json_t *json = json_stringn(text, size);
    free(text);
    return json;
}

static json_t *tensor_json(const LsManifestTensor *tensor)
{
    LsHash128 hash;
    char text[LS_HASH128_TEXT];
    json_t *blocks = block_hashes_json(tensor);
    if (blocks == NULL || ls_tensor_hash(tensor, &hash) != LS_OK) {
        json_decref(blocks);
        return NULL;
    }
    ls_hash128_text(hash, text);
    json_t *json = json_object(), *shape = json_array();
    for (int i = 0; i < tensor->dimensions; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    json_object_set_new(json, "group", json_stringn(tensor->path, (size_t)(tensor->name - tensor->path) - 1));
    json_object_set_new(json, "name", json_string(tensor->name));
    json_object_set_new(json, "dtype", json_string("float32"));
    json_object_set_new(json, "shape", shape);
    json_object_set_new(json, "offset", json_integer((json_int_t)tensor->offset));
    json_object_set_new(json, "hash", json_string(text));
    json_object_set_new(json, "blocks", blocks);
    return json;
}

json_t *ls_manifest_tensors_json(const LsManifest *manifest)
{
    json_t *list = json_array();
    for (size_t i = 0; i < manifest->tensors; i++) {
        if (json_array_append_new(list, tensor_json(&manifest->tensor[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}
