// The form of a run's checkpoints. See save_form.h.
#include "save_form.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

LsStatus ls_save_allocate(size_t count, size_t size, void *out)
{
    size_t bytes;
    if (!ls_size_multiply(count ? count : 1, size, &bytes))
        return LS_FAIL(LS_INTERNAL, "a checkpoint of %zu items is too large", count);
    return ls_memory_allocate(bytes, out);
}

LsStatus ls_save_temporary_path(const LsRunDir *run, const char *kind, int64_t step, char path[LS_PATH_MAX])
{
    char name[128];
    snprintf(name, sizeof name, "checkpoints/.%s-step-%08" PRId64 "-%s-%06d", kind, step, run->run_id,
        run->attempt);
    return ls_path_join(path, run->path, name);
}

LsStatus ls_save_reserve(int fd, const char *path, uint64_t size)
{
    int error;
    do // a process that is stopped and continued is interrupted, too
        error = fallocate(fd, 0, 0, (off_t)size) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == 0 || error == EOPNOTSUPP || error == ENOSYS)
        return LS_OK;
    return LS_FAIL(LS_IO, "cannot reserve %llu bytes for %s: %s; free space or keep fewer checkpoints",
        (unsigned long long)size, path, strerror(error));
}

void ls_save_form_destroy(LsSaveForm *form)
{
    if (form == NULL)
        return;
    free(form->structure);
    free(form->tensor_of);
    ls_manifest_free(&form->manifest);
    free(form);
}

// ---- The table of tensors -------------------------------------------------------------------------------

static LsStatus describe_tensor(const char *group, const LsParameter *parameter, LsManifestTensor *out)
{
    if (!ls_tensor_path(group, parameter->name, out->path))
        return LS_FAIL(LS_INTERNAL, "%s/%s is no name for a tensor", group, parameter->name);
    out->dimensions = parameter->dimensions;
    for (int i = 0; i < parameter->dimensions && i < LS_DIMENSIONS_MAX; i++)
        out->shape[i] = parameter->shape[i];
    if (!ls_manifest_measure(out) || out->elements != parameter->elements)
        return LS_FAIL(LS_INTERNAL, "tensor %s has no valid shape", out->path);
    return LS_OK;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const LsManifestTensor *)a)->path, ((const LsManifestTensor *)b)->path);
}

static LsStatus describe_tensors(LsSaveForm *form, const LsCheckpointContent *content)
{
    LsManifest *manifest = &form->manifest;
    const LsParameters *parameters = form->parameters;
    size_t count = form->arrays * parameters->count;
    if (count == 0 || form->arrays > LS_STATE_ARRAYS)
        return LS_FAIL(LS_INTERNAL, "a checkpoint of %zu tensors in %zu groups", count, form->arrays);
    LS_TRY(ls_save_allocate(count, sizeof *manifest->tensor, &manifest->tensor));
    LS_TRY(ls_save_allocate(count, sizeof *form->tensor_of, &form->tensor_of));
    manifest->tensors = count;
    for (size_t i = 0; i < count; i++)
        LS_TRY(describe_tensor(content->array[i / parameters->count].group,
            &parameters->list[i % parameters->count], &manifest->tensor[i]));
    qsort(manifest->tensor, count, sizeof *manifest->tensor, compare_tensors);
    for (size_t i = 0; i < count; i++) {
        LsManifestTensor *tensor = &manifest->tensor[i];
        if (i > 0 && compare_tensors(tensor - 1, tensor) == 0)
            return LS_FAIL(LS_INTERNAL, "two tensors %s", tensor->path);
        tensor->name = strrchr(tensor->path, '/') + 1;
    }
    for (size_t i = 0; i < count; i++) {
        char path[LS_TENSOR_PATH];
        ls_tensor_path(
            content->array[i / parameters->count].group, parameters->list[i % parameters->count].name, path);
        form->tensor_of[i] = (size_t)(ls_manifest_find(manifest, path) - manifest->tensor);
    }
    return LS_OK;
}

// ---- What every manifest of the run says ----------------------------------------------------------------

// Every option as text, which ls_config_set reads back.
static LsStatus config_json(const LsConfig *config, json_t *out)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        char text[LS_PATH_MAX];
        ls_option_text(config, &options[i], text, sizeof text);
        if (json_object_set_new(out, options[i].name, json_string(text)) != 0)
            return LS_FAIL(LS_CONFIG, "%s: the value is not valid UTF-8", options[i].name);
    }
    return LS_OK;
}

static json_t *data_json(const LsCheckpointContent *content)
{
    json_t *data = json_object();
    const char *hash = content->data_root_hash ? content->data_root_hash : "";
    json_object_set_new(data, "root_hash", json_string(hash));
    json_object_set_new(
        data, "schema", content->data_schema ? json_deep_copy(content->data_schema) : json_null());
    return data;
}

// Members in the order in which a manifest has them; a save fills in those that are null here.
static LsStatus describe(LsSaveForm *form, const LsCheckpointContent *content)
{
    json_t *json = json_object(), *config = json_object();
    form->manifest.json = json;
    json_object_set_new(json, "format", json_string("lockstep checkpoint"));
    json_object_set_new(json, "version", json_integer(LS_MANIFEST_VERSION));
    json_object_set_new(json, "run_id", json_string(form->run.run_id));
    json_object_set_new(json, "attempt", json_integer(form->run.attempt));
    json_object_set_new(json, "step", json_null());
    json_object_set_new(json, "saved_at", json_null());
    json_object_set_new(json, "world_size", json_integer((json_int_t)form->ranks));
    json_object_set_new(json, "fingerprint", json_string(content->fingerprint ? content->fingerprint : ""));
    if (content->algorithms && *content->algorithms)
        json_object_set_new(json, "algorithms", json_string(content->algorithms));
    json_object_set_new(json, "block", json_integer(LS_BLOCK));
    json_object_set_new(json, "state", json_null());
    json_object_set_new(json, "config", config);
    json_object_set_new(json, "data", data_json(content));
    return config_json(content->config, config);
}

// ---- The structure --------------------------------------------------------------------------------------

// HDF5 leaves its memory in disorder when it cannot finish a file, so whether there is space for a structure
// is asked without it: with a file that is a little larger, and is removed again.
static LsStatus probe_space(const LsManifest *manifest, const char *file)
{
    enum { STRUCTURE = 1 << 18, STRUCTURE_OF_TENSOR = 1 << 14 };
    uint64_t size = STRUCTURE + (uint64_t)manifest->tensors * STRUCTURE_OF_TENSOR;
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot create %s: %s", file, strerror(errno));
    LsStatus status = ls_save_reserve(fd, file, size);
    close(fd);
    if (unlink(file) != 0 && status == LS_OK)
        status = LS_FAIL(LS_IO, "cannot remove %s: %s", file, strerror(errno));
    return status;
}

// Bytes between tensor i - 1 and tensor i in the file's order; i = tensors: behind the last one.
static uint64_t gap_before(const LsManifest *manifest, size_t i, uint64_t *from)
{
    *from = 0;
    if (i > 0) {
        const LsManifestTensor *before = &manifest->tensor[manifest->by_offset[i - 1]];
        *from = before->offset + (uint64_t)before->elements * sizeof(float);
    }
    uint64_t to =
        i < manifest->tensors ? manifest->tensor[manifest->by_offset[i]].offset : manifest->file_size;
    return to - *from;
}

LsStatus ls_save_form_each_gap(const LsSaveForm *form, LsSaveGap *visit, void *context)
{
    size_t place = 0;
    for (size_t i = 0; i <= form->manifest.tensors; i++) {
        uint64_t from;
        size_t size = (size_t)gap_before(&form->manifest, i, &from);
        if (size > 0)
            LS_TRY(visit(context, form->structure + place, size, from));
        place += size;
    }
    return LS_OK;
}

typedef struct Source {
    int fd;
    const char *path;
} Source;

static LsStatus read_gap(void *context, char *bytes, size_t size, uint64_t offset)
{
    const Source *source = context;
    return ls_file_read_at(source->fd, source->path, bytes, size, offset);
}

static LsStatus read_structure(LsSaveForm *form, const char *file)
{
    LsManifest *manifest = &form->manifest;
    Source source = {.fd = open(file, O_RDONLY | O_CLOEXEC), .path = file};
    struct stat information;
    LsStatus status = LS_OK;
    if (source.fd < 0)
        return LS_FAIL(LS_IO, "cannot open %s: %s", file, strerror(errno));
    if (fstat(source.fd, &information) != 0)
        status = LS_FAIL(LS_IO, "cannot examine %s: %s", file, strerror(errno));
    else
        manifest->file_size = (uint64_t)information.st_size;
    if (status == LS_OK)
        status = ls_manifest_arrange(manifest, file);
    size_t bytes = 0;
    for (size_t i = 0; i <= manifest->tensors && status == LS_OK; i++) {
        uint64_t from;
        bytes += (size_t)gap_before(manifest, i, &from);
    }
    if (status == LS_OK)
        status = ls_save_allocate(bytes, 1, &form->structure);
    if (status == LS_OK)
        status = ls_save_form_each_gap(form, read_gap, &source);
    if (status == LS_OK)
        status = ls_manifest_structure_hash(manifest, source.fd, file, manifest->structure_hash);
    close(source.fd);
    return status;
}

static LsStatus make_structure(LsSaveForm *form)
{
    char directory[LS_PATH_MAX], file[LS_PATH_MAX], message[1024];
    LS_TRY(ls_save_temporary_path(&form->run, "structure", 0, directory));
    LS_TRY(ls_path_join(file, directory, LS_STATE_NAME));
    LS_TRY(ls_directory_remove(directory));
    LS_TRY(ls_directory_create(directory));
    LsStatus status = probe_space(&form->manifest, file);
    if (status == LS_OK)
        status = ls_state_file_create(file, &form->manifest);
    if (status == LS_OK)
        status = read_structure(form, file);
    if (status == LS_OK)
        return ls_directory_remove(directory);
    snprintf(message, sizeof message, "%s", ls_status_message());
    (void)ls_directory_remove(directory);
    return ls_status_adopt(status, message);
}

// ---- All of it ------------------------------------------------------------------------------------------

// Rank 0's part.
static LsStatus create_first(LsSaveForm *form, const LsCheckpointContent *content)
{
    LS_TRY(ls_run_dir_require_current(&form->run));
    LS_TRY(describe(form, content));
    for (size_t i = 0; i < form->manifest.tensors; i++) {
        LsManifestTensor *tensor = &form->manifest.tensor[i];
        LS_TRY(ls_save_allocate(tensor->blocks, sizeof *tensor->block_hash, &tensor->block_hash));
    }
    return make_structure(form);
}

static LsStatus share_offsets(LsSaveForm *form, LsComm *comm)
{
    size_t count = form->manifest.tensors;
    uint64_t *offsets = NULL;
    LsStatus status = ls_comm_agree(comm, ls_save_allocate(count, sizeof *offsets, &offsets));
    for (size_t i = 0; i < count && status == LS_OK; i++)
        offsets[i] = form->manifest.tensor[i].offset;
    if (status == LS_OK)
        status = ls_comm_broadcast(comm, offsets, count * sizeof *offsets, 0);
    for (size_t i = 0; i < count && status == LS_OK; i++)
        form->manifest.tensor[i].offset = offsets[i];
    free(offsets);
    return status;
}

LsStatus ls_save_form_create(
    const LsRunDir *run, LsComm *comm, const LsCheckpointContent *content, LsSaveForm **out)
{
    LsSaveForm *form = NULL;
    LsRunDir known = *run; // a run that was archived has another name on rank 0
    LsStatus status = ls_comm_agree(comm, ls_save_allocate(1, sizeof *form, &form));
    if (status == LS_OK)
        status = ls_comm_broadcast(comm, &known, sizeof known, 0);
    if (status != LS_OK) {
        free(form);
        return status;
    }
    known.lock = -1;
    form->run = known;
    form->parameters = content->parameters;
    form->buckets = content->buckets;
    form->ranks = (uint32_t)ls_comm_size(comm);
    form->rank = (uint32_t)ls_comm_rank(comm);
    form->arrays = content->arrays;
    form->shard_blocks = ls_shard_blocks(form->buckets, form->ranks, form->rank);
    status = describe_tensors(form, content);
    if (status == LS_OK && form->rank == 0)
        status = create_first(form, content);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK)
        status = share_offsets(form, comm);
    if (status != LS_OK) {
        ls_save_form_destroy(form);
        return status;
    }
    *out = form;
    return LS_OK;
}
