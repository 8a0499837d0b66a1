// Reading a manifest. All of it is distrusted: it may be damaged, cut off, or made to harm.
#include "manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"

// The text ends with the checksum of everything before it:   ,\n "checksum": "<SHA-256>"\n}\n
#define CHECKSUM_BEFORE ",\n \"checksum\": \""
#define CHECKSUM_AFTER "\"\n}\n"
enum {
    CHECKSUM_TAIL = sizeof CHECKSUM_BEFORE - 1 + LS_SHA256_TEXT - 1 + sizeof CHECKSUM_AFTER - 1,
};

static void text_checksum(const char *text, size_t size, char tail[CHECKSUM_TAIL + 1])
{
    char digest[LS_SHA256_TEXT];
    LsSha256 *sha = ls_sha256_create();
    ls_sha256_update(sha, text, size);
    ls_sha256_finish(sha, digest);
    snprintf(tail, CHECKSUM_TAIL + 1, CHECKSUM_BEFORE "%s" CHECKSUM_AFTER, digest);
}

char *ls_manifest_text(const json_t *json, size_t *size)
{
    static const char object_end[] = "\n}";
    char *object = json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (object == NULL)
        return NULL;
    size_t head = strlen(object) - strlen(object_end);
    char *text = realloc(object, head + CHECKSUM_TAIL + 1);
    if (text == NULL) {
        free(object);
        return NULL;
    }
    text_checksum(text, head, text + head);
    *size = head + CHECKSUM_TAIL;
    return text;
}

// ---- Names and shapes -----------------------------------------------------------------------------------

// One part of a path: no '/', and no dot in front, so neither "." nor "..".
static bool is_part(const char *text, size_t size)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    if (size == 0 || text[0] == '.')
        return false;
    for (size_t i = 0; i < size; i++)
        if (text[i] == '\0' || strchr(allowed, text[i]) == NULL)
            return false;
    return true;
}

bool ls_tensor_path(const char *group, const char *name, char path[LS_TENSOR_PATH])
{
    size_t group_size = strlen(group), name_size = strlen(name);
    if (group_size >= LS_NAME_MAX || name_size >= LS_NAME_MAX || !is_part(name, name_size))
        return false;
    for (const char *part = group;; part++) {
        size_t size = strcspn(part, "/");
        if (!is_part(part, size))
            return false;
        part += size;
        if (*part == '\0')
            break;
    }
    snprintf(path, LS_TENSOR_PATH, "%s/%s", group, name);
    return true;
}

bool ls_manifest_measure(LsManifestTensor *tensor)
{
    if (tensor->dimensions < 1 || tensor->dimensions > LS_DIMENSIONS_MAX)
        return false;
    size_t elements = 1, bytes;
    for (int i = 0; i < tensor->dimensions; i++)
        if (tensor->shape[i] == 0 || !ls_size_multiply(elements, tensor->shape[i], &elements))
            return false;
    if (!ls_size_multiply(elements, sizeof(float), &bytes) || bytes > INT64_MAX)
        return false;
    tensor->elements = elements;
    tensor->blocks = elements / LS_BLOCK + (elements % LS_BLOCK != 0);
    return true;
}

// ---- Members --------------------------------------------------------------------------------------------

static LsStatus fail_member(const char *name, const char *member)
{
    return LS_FAIL(LS_CHECKPOINT, "%s: %s is missing or not valid", name, member);
}

// A whole number from `minimum` on.
static bool get_integer(const json_t *json, const char *key, int64_t minimum, int64_t *out)
{
    json_t *value = json_object_get(json, key);
    if (!json_is_integer(value) || json_integer_value(value) < minimum)
        return false;
    *out = (int64_t)json_integer_value(value);
    return true;
}

// `digits` lower-case hexadecimal digits.
static bool get_hexadecimal(const json_t *json, const char *key, size_t digits, const char **out)
{
    const json_t *value = json_object_get(json, key);
    const char *text = json_string_value(value);
    if (text == NULL || json_string_length(value) != digits || strspn(text, "0123456789abcdef") != digits)
        return false;
    *out = text;
    return true;
}

static LsStatus parse_identity(const json_t *json, const char *name, LsManifest *out)
{
    int64_t version, attempt, block, world_size;
    const char *format = json_string_value(json_object_get(json, "format"));
    if (format == NULL || strcmp(format, "lockstep checkpoint") != 0)
        return LS_FAIL(LS_CHECKPOINT, "%s: not the manifest of a Lockstep checkpoint", name);
    if (!get_integer(json, "version", 1, &version))
        return fail_member(name, "version");
    if (version != LS_MANIFEST_VERSION)
        return LS_FAIL(LS_CHECKPOINT,
            "%s: format version %" PRId64
            " where this program reads version %d; use the program that wrote it",
            name, version, LS_MANIFEST_VERSION);
    const char *run_id;
    if (!get_hexadecimal(json, "run_id", 32, &run_id))
        return fail_member(name, "run_id");
    memcpy(out->run_id, run_id, sizeof out->run_id);
    if (!get_integer(json, "attempt", 1, &attempt) || attempt > INT32_MAX)
        return fail_member(name, "attempt");
    out->attempt = (int)attempt;
    if (!get_integer(json, "step", 0, &out->step))
        return fail_member(name, "step");
    if (!get_integer(json, "world_size", 1, &world_size))
        return fail_member(name, "world_size");
    if (!get_integer(json, "block", 1, &block) || block != LS_BLOCK)
        return fail_member(name, "block");
    return LS_OK;
}

static LsStatus parse_file(const json_t *json, const char *name, LsManifest *out)
{
    const char *file = json_string_value(json_object_get(json, "name")), *hash;
    int64_t size;
    if (file == NULL || strcmp(file, LS_STATE_NAME) != 0)
        return fail_member(name, "file.name");
    if (!get_integer(json, "size", 1, &size))
        return fail_member(name, "file.size");
    if (!get_hexadecimal(json, "structure_hash", LS_SHA256_TEXT - 1, &hash))
        return fail_member(name, "file.structure_hash");
    out->file_size = (uint64_t)size;
    memcpy(out->structure_hash, hash, LS_SHA256_TEXT);
    return LS_OK;
}

static LsStatus parse_provenance(const json_t *json, const char *name)
{
    const json_t *config = json_object_get(json, "config"), *data = json_object_get(json, "data");
    const char *key;
    json_t *value;
    if (!json_is_object(config))
        return fail_member(name, "config");
    json_object_foreach((json_t *)config, key, value)
    {
        if (strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.") != strlen(key) || !json_is_string(value))
            return LS_FAIL(LS_CHECKPOINT, "%s: a member of config is not valid", name);
    }
    if (!json_is_string(json_object_get(data, "root_hash")))
        return fail_member(name, "data.root_hash");
    json_t *schema = json_object_get(data, "schema");
    if (!json_is_object(schema) && !json_is_null(schema))
        return fail_member(name, "data.schema");
    if (!json_is_string(json_object_get(json, "fingerprint")))
        return fail_member(name, "fingerprint");
    const json_t *algorithms = json_object_get(json, "algorithms");
    if (algorithms && !json_is_string(algorithms))
        return fail_member(name, "algorithms");
    return LS_OK;
}

// ---- Tensors --------------------------------------------------------------------------------------------

static bool parse_shape(const json_t *json, LsManifestTensor *out)
{
    size_t dimensions = json_array_size(json);
    if (dimensions < 1 || dimensions > LS_DIMENSIONS_MAX)
        return false;
    out->dimensions = (int)dimensions;
    for (size_t i = 0; i < dimensions; i++) {
        json_t *size = json_array_get(json, i);
        if (!json_is_integer(size) || json_integer_value(size) < 1)
            return false;
        out->shape[i] = (size_t)json_integer_value(size);
    }
    return ls_manifest_measure(out);
}

// One hash from its digits, which were checked.
static uint64_t parse_hash64(const char *digits)
{
    char text[LS_HASH64_TEXT] = "";
    memcpy(text, digits, LS_HASH64_DIGITS);
    return strtoull(text, NULL, 16);
}

// The block hashes, and whether the tensor's hash is theirs.
static LsStatus parse_hashes(const json_t *json, const char *name, LsManifestTensor *out)
{
    size_t digits, bytes;
    const char *text, *whole;
    if (!ls_size_multiply(out->blocks, LS_HASH64_DIGITS, &digits) ||
        !get_hexadecimal(json, "blocks", digits, &text) ||
        !get_hexadecimal(json, "hash", LS_HASH128_TEXT - 1, &whole))
        return LS_FAIL(LS_CHECKPOINT, "%s: the hashes of tensor %s are not valid", name, out->path);
    if (!ls_size_multiply(out->blocks, sizeof *out->block_hash, &bytes))
        return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s is too large", name, out->path);
    LS_TRY(ls_memory_allocate(bytes, (void **)&out->block_hash));
    for (size_t i = 0; i < out->blocks; i++)
        out->block_hash[i] = parse_hash64(text + i * LS_HASH64_DIGITS);
    LsHash128 stated, found;
    LS_TRY(ls_tensor_hash(out, &found));
    if (!ls_hash128_parse(whole, &stated) || !ls_hash128_equal(stated, found))
        return LS_FAIL(
            LS_CHECKPOINT, "%s: the hash of tensor %s is not that of its block hashes", name, out->path);
    return LS_OK;
}

static LsStatus parse_tensor(const json_t *json, const char *name, size_t index, LsManifestTensor *out)
{
    const char *group = json_string_value(json_object_get(json, "group"));
    const char *tensor = json_string_value(json_object_get(json, "name"));
    const char *type = json_string_value(json_object_get(json, "dtype"));
    if (group == NULL || tensor == NULL || !ls_tensor_path(group, tensor, out->path))
        return LS_FAIL(LS_CHECKPOINT, "%s: group or name of tensor %zu is missing or not valid", name, index);
    out->name = out->path + strlen(group) + 1;
    if (type == NULL || strcmp(type, "float32") != 0)
        return LS_FAIL(LS_CHECKPOINT, "%s: tensor %s is not of type float32", name, out->path);
    if (!parse_shape(json_object_get(json, "shape"), out))
        return LS_FAIL(LS_CHECKPOINT, "%s: the shape of tensor %s is not valid", name, out->path);
    int64_t offset;
    if (!get_integer(json, "offset", 0, &offset))
        return LS_FAIL(LS_CHECKPOINT, "%s: the offset of tensor %s is not valid", name, out->path);
    out->offset = (uint64_t)offset;
    return parse_hashes(json, name, out);
}

static LsStatus parse_tensors(const json_t *json, const char *name, LsManifest *out)
{
    size_t count = json_array_size(json), bytes;
    if (count == 0 || !ls_size_multiply(count, sizeof *out->tensor, &bytes))
        return fail_member(name, "tensors");
    LS_TRY(ls_memory_allocate(bytes, (void **)&out->tensor));
    out->tensors = count;
    for (size_t i = 0; i < count; i++) {
        LS_TRY(parse_tensor(json_array_get(json, i), name, i, &out->tensor[i]));
        if (i > 0 && strcmp(out->tensor[i - 1].path, out->tensor[i].path) >= 0)
            return LS_FAIL(
                LS_CHECKPOINT, "%s: tensor %s is there twice or out of order", name, out->tensor[i].path);
    }
    return ls_manifest_arrange(out, name);
}

// ---- The whole ------------------------------------------------------------------------------------------

static LsStatus parse_all(json_t *json, const char *name, LsManifest *out)
{
    LS_TRY(parse_identity(json, name, out));
    LS_TRY(parse_file(json_object_get(json, "file"), name, out));
    LS_TRY(ls_state_parse(json_object_get(json, "state"), name, &out->state));
    if (out->state.control.step != out->step)
        return LS_FAIL(LS_CHECKPOINT, "%s: its step is %" PRId64 " and the step of its state %" PRId64, name,
            out->step, out->state.control.step);
    LS_TRY(parse_provenance(json, name));
    return parse_tensors(json_object_get(json, "tensors"), name, out);
}

LsStatus ls_manifest_from_json(json_t *json, const char *name, LsManifest *out)
{
    LsManifest manifest;
    memset(&manifest, 0, sizeof manifest);
    manifest.json = json_incref(json);
    LsStatus status = parse_all(json, name, &manifest);
    if (status != LS_OK) {
        ls_manifest_free(&manifest);
        return status;
    }
    *out = manifest;
    return LS_OK;
}

LsStatus ls_manifest_parse(const char *text, size_t size, const char *name, LsManifest *out)
{
    char tail[CHECKSUM_TAIL + 1];
    if (size >= CHECKSUM_TAIL)
        text_checksum(text, size - CHECKSUM_TAIL, tail);
    if (size < CHECKSUM_TAIL || memcmp(text + size - CHECKSUM_TAIL, tail, CHECKSUM_TAIL) != 0)
        return LS_FAIL(LS_CHECKPOINT,
            "%s: its checksum does not match: it is damaged or cut off; use another checkpoint", name);
    json_error_t error;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        return LS_FAIL(
            LS_CHECKPOINT, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column, error.text);
    LsStatus status = ls_manifest_from_json(json, name, out);
    json_decref(json);
    return status;
}

LsStatus ls_manifest_read(const char *path, LsManifest *out)
{
    struct stat information;
    if (stat(path, &information) != 0)
        return errno == ENOENT ? LS_FAIL(LS_CHECKPOINT,
                                     "%s is missing: no checkpoint, or one that was not finished", path)
                               : LS_FAIL(LS_IO, "cannot examine %s: %s", path, strerror(errno));
    if (!S_ISREG(information.st_mode))
        return LS_FAIL(LS_CHECKPOINT, "%s is not a file", path);
    char *text;
    size_t size;
    LsStatus status = ls_file_read(path, LS_MANIFEST_LIMIT, &text, &size);
    if (status == LS_BAD_DATA || status == LS_NO_INPUT)
        return ls_status_adopt(LS_CHECKPOINT, ls_status_message());
    LS_TRY(status);
    status = ls_manifest_parse(text, size, path, out);
    free(text);
    return status;
}

void ls_manifest_free(LsManifest *manifest)
{
    for (size_t i = 0; i < manifest->tensors; i++)
        free(manifest->tensor[i].block_hash);
    free(manifest->tensor);
    free(manifest->by_offset);
    json_decref(manifest->json);
    memset(manifest, 0, sizeof *manifest);
}
