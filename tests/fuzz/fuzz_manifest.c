// fuzz: train
// Manifests of checkpoints: whatever the bytes, they are refused in one line, or all that the reader relies
// on holds and the manifest is written and read back unchanged.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../runtime/train/manifest.h"
#include "require.h"

static void check_refused(LsStatus status)
{
    require(status == LS_CHECKPOINT);
    require(strncmp(ls_status_message(), "m:", 2) == 0);
    require(strchr(ls_status_message(), '\n') == NULL);
}

// Offsets within the file, memory for every block, names that lead nowhere else.
static void check_accepted(const LsManifest *manifest)
{
    uint64_t end = 0;
    require(manifest->tensors > 0 && manifest->step >= 0);
    for (size_t i = 0; i < manifest->tensors; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[manifest->by_offset[i]];
        require(tensor->offset >= end);
        end = tensor->offset + tensor->elements * sizeof(float);
        require(end > tensor->offset && end <= manifest->file_size);
        volatile uint64_t mixed = 0;
        for (size_t b = 0; b < tensor->blocks; b++)
            mixed ^= tensor->block_hash[b];
        (void)mixed; // reading them is the check: they must be there
        require(tensor->blocks * LS_BLOCK >= tensor->elements);
        require(ls_manifest_find(manifest, tensor->path) == tensor);
        require(tensor->path[0] != '/' && strstr(tensor->path, "/.") == NULL);
    }
}

static void check_written(const LsManifest *manifest)
{
    size_t size;
    LsManifest back;
    char *text = ls_manifest_text(manifest->json, &size);
    require(text != NULL);
    LsStatus status = ls_manifest_parse(text, size, "m", &back);
    free(text);
    // A member "checksum" of the input's own is then there twice, and that is refused.
    if (json_object_get(manifest->json, "checksum") != NULL) {
        check_refused(status);
        return;
    }
    require(status == LS_OK);
    require(json_object_del(back.json, "checksum") == 0);
    require(json_equal(back.json, manifest->json));
    ls_manifest_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    LsManifest manifest;
    LsStatus status = ls_manifest_parse((const char *)data, size, "m", &manifest);
    if (status == LS_OK) {
        check_accepted(&manifest);
        ls_manifest_free(&manifest);
    } else {
        check_refused(status);
    }
    // Past the checksum, which no mutation hits.
    json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL)
        return 0;
    status = ls_manifest_from_json(json, "m", &manifest);
    json_decref(json);
    if (status != LS_OK) {
        check_refused(status);
        return 0;
    }
    check_accepted(&manifest);
    check_written(&manifest);
    ls_manifest_free(&manifest);
    return 0;
}
