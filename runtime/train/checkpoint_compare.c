// Checkpoints for people: one hash, what is in one, how two differ.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint_file.h"

static LsStatus allocate_portion(float **out)
{
    return ls_memory_allocate(LS_PORTION * LS_BLOCK * sizeof(float), (void **)out);
}

static void shape_text(const LsManifestTensor *tensor, char text[128])
{
    size_t used = (size_t)snprintf(text, 128, "[");
    for (int i = 0; i < tensor->dimensions; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%zu", i ? ", " : "", tensor->shape[i]);
    snprintf(text + used, 128 - used, "]");
}

// ---- The hash -------------------------------------------------------------------------------------------

// Little-endian.
static void hash_number(LsSha256 *sha, uint64_t number)
{
    uint8_t bytes[8];
    for (int b = 0; b < 8; b++)
        bytes[b] = (uint8_t)(number >> (8 * b));
    ls_sha256_update(sha, bytes, sizeof bytes);
}

static void hash_text(LsSha256 *sha, const char *text)
{
    hash_number(sha, strlen(text));
    ls_sha256_update(sha, text, strlen(text));
}

static LsStatus hash_tensor(
    const LsCheckpoint *checkpoint, const LsManifestTensor *tensor, float *buffer, LsSha256 *sha)
{
    hash_text(sha, tensor->path);
    hash_text(sha, "float32");
    hash_number(sha, (uint64_t)tensor->dimensions);
    for (int i = 0; i < tensor->dimensions; i++)
        hash_number(sha, tensor->shape[i]);
    for (size_t block = 0; block < tensor->blocks; block += LS_PORTION) {
        size_t portion = tensor->blocks - block < LS_PORTION ? tensor->blocks - block : LS_PORTION;
        LS_TRY(ls_checkpoint_read_blocks(checkpoint, tensor, block, portion, buffer));
        ls_sha256_update(sha, buffer, ls_block_elements(tensor->elements, block, portion) * sizeof(float));
    }
    return LS_OK;
}

LsStatus ls_checkpoint_hash(const LsCheckpoint *checkpoint, char text[65])
{
    float *buffer;
    LS_TRY(allocate_portion(&buffer));
    LsSha256 *sha = ls_sha256_create();
    hash_text(sha, "lockstep checkpoint");
    hash_number(sha, checkpoint->manifest.tensors);
    LsStatus status = LS_OK;
    for (size_t i = 0; i < checkpoint->manifest.tensors && status == LS_OK; i++)
        status = hash_tensor(checkpoint, &checkpoint->manifest.tensor[i], buffer, sha);
    ls_state_hash(&checkpoint->manifest.state, sha);
    char digest[LS_SHA256_TEXT];
    ls_sha256_finish(sha, digest);
    free(buffer);
    if (status == LS_OK)
        memcpy(text, digest, sizeof digest);
    return status;
}

// ---- Info -----------------------------------------------------------------------------------------------

static void print_members(const json_t *json, FILE *out)
{
    static const char *const keys[] = {"run_id", "attempt", "step", "saved_at", "world_size", "fingerprint"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(json, keys[i]);
        if (json_is_integer(value))
            fprintf(out, "%-20s %lld\n", keys[i], (long long)json_integer_value(value));
        else if (json_is_string(value))
            fprintf(out, "%-20s %s\n", keys[i], json_string_value(value));
    }
}

LsStatus ls_checkpoint_info(const LsCheckpoint *checkpoint, FILE *out)
{
    const LsManifest *manifest = &checkpoint->manifest;
    fprintf(out, "%-20s %s\n", "checkpoint", checkpoint->directory);
    print_members(manifest->json, out);
    fprintf(out, "%-20s %s\n", "data", ls_checkpoint_data_hash(checkpoint));
    fprintf(out, "%-20s %.1f MiB\n", "file", (double)manifest->file_size / (1024.0 * 1024));
    fprintf(out, "state\n");
    ls_state_print(&manifest->state, out);
    fprintf(out, "config\n");
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(manifest->json, "config"), key, value)
    {
        fprintf(out, "  %-28s %s\n", key, json_string_value(value));
    }
    fprintf(out, "tensors\n");
    size_t elements = 0;
    for (size_t i = 0; i < manifest->tensors; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[i];
        char shape[128];
        shape_text(tensor, shape);
        fprintf(out, "  %-48s float32 %s\n", tensor->path, shape);
        elements += tensor->elements;
    }
    fprintf(out, "%zu tensors, %zu numbers\n", manifest->tensors, elements);
    return LS_OK;
}

// ---- Diff -----------------------------------------------------------------------------------------------

typedef struct Difference {
    size_t elements; // whose bits differ
    double largest;  // absolute difference of those that are numbers
    bool not_finite; // some are not
} Difference;

static void compare(const float *a, const float *b, size_t count, Difference *out)
{
    if (memcmp(a, b, count * sizeof *a) == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) == 0)
            continue;
        double difference = fabs((double)a[i] - (double)b[i]);
        out->elements++;
        if (!isfinite(difference))
            out->not_finite = true;
        else if (difference > out->largest)
            out->largest = difference;
    }
}

static LsStatus compare_tensors(const LsCheckpoint *a, const LsManifestTensor *left, const LsCheckpoint *b,
    const LsManifestTensor *right, Difference *out)
{
    float *x, *y;
    LS_TRY(allocate_portion(&x));
    LsStatus status = allocate_portion(&y);
    if (status != LS_OK)
        goto free_x;
    for (size_t block = 0; block < left->blocks && status == LS_OK; block += LS_PORTION) {
        size_t portion = left->blocks - block < LS_PORTION ? left->blocks - block : LS_PORTION;
        status = ls_checkpoint_read_blocks(a, left, block, portion, x);
        if (status == LS_OK)
            status = ls_checkpoint_read_blocks(b, right, block, portion, y);
        if (status == LS_OK)
            compare(x, y, ls_block_elements(left->elements, block, portion), out);
    }
    free(y);
free_x:
    free(x);
    return status;
}

// Prints how a tensor of both differs, if it does.
static LsStatus diff_tensor(const LsCheckpoint *a, const LsManifestTensor *left, const LsCheckpoint *b,
    const LsManifestTensor *right, FILE *out, bool *equal)
{
    char shape[128], other[128];
    shape_text(left, shape);
    shape_text(right, other);
    *equal = false;
    if (strcmp(shape, other) != 0) {
        fprintf(out, "%-48s shape %s != %s\n", left->path, shape, other);
        return LS_OK;
    }
    Difference difference = {0};
    LS_TRY(compare_tensors(a, left, b, right, &difference));
    *equal = difference.elements == 0;
    if (*equal)
        fprintf(out, "%-48s equal\n", left->path);
    else
        fprintf(out, "%-48s %zu of %zu differ, largest absolute difference %.9g%s\n", left->path,
            difference.elements, left->elements, difference.largest,
            difference.not_finite ? ", and some are not finite" : "");
    return LS_OK;
}

// Walks both tables, which are in the order of their paths, like a merge.
static LsStatus diff_tensors(const LsCheckpoint *a, const LsCheckpoint *b, FILE *out, size_t *differing)
{
    const LsManifest *left = &a->manifest, *right = &b->manifest;
    for (size_t i = 0, j = 0; i < left->tensors || j < right->tensors;) {
        int order = i == left->tensors    ? 1
                    : j == right->tensors ? -1
                                          : strcmp(left->tensor[i].path, right->tensor[j].path);
        bool equal = false;
        if (order < 0)
            fprintf(out, "%-48s only in the first\n", left->tensor[i].path);
        else if (order > 0)
            fprintf(out, "%-48s only in the second\n", right->tensor[j].path);
        else
            LS_TRY(diff_tensor(a, &left->tensor[i], b, &right->tensor[j], out, &equal));
        *differing += !equal;
        i += order <= 0;
        j += order >= 0;
    }
    return LS_OK;
}

static void diff_text(const char *what, const char *name, const char *a, const char *b, FILE *out)
{
    a = a ? a : "(none)";
    b = b ? b : "(none)";
    if (strcmp(a, b) != 0)
        fprintf(out, "%s %-*s %s != %s\n", what, (int)(46 - strlen(what)), name, a, b);
}

static void diff_config(const json_t *a, const json_t *b, FILE *out)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)a, key, value)
    {
        diff_text("config", key, json_string_value(value), json_string_value(json_object_get(b, key)), out);
    }
    json_object_foreach((json_t *)b, key, value)
    {
        if (json_object_get(a, key) == NULL)
            diff_text("config", key, NULL, json_string_value(value), out);
    }
}

LsStatus ls_checkpoint_diff(const LsCheckpoint *a, const LsCheckpoint *b, FILE *out, bool *equal)
{
    size_t tensors = 0;
    LS_TRY(diff_tensors(a, b, out, &tensors));
    size_t members = ls_state_diff(&a->manifest.state, &b->manifest.state, out);
    diff_config(
        json_object_get(a->manifest.json, "config"), json_object_get(b->manifest.json, "config"), out);
    diff_text("data", "root_hash", ls_checkpoint_data_hash(a), ls_checkpoint_data_hash(b), out);
    diff_text("machine", "fingerprint", ls_checkpoint_fingerprint(a), ls_checkpoint_fingerprint(b), out);
    *equal = tensors == 0 && members == 0;
    if (*equal)
        fprintf(out, "equal: the same tensors and state, bit for bit\n");
    else
        fprintf(out, "different: %zu tensors and %zu members of the state\n", tensors, members);
    return LS_OK;
}
