// Saving: begin on all ranks, write without MPI, commit on all ranks.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "checkpoint_file.h"

// Numbers go to the file as they lie in memory, and the file is little-endian.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian host needs a conversion here");

struct LsSave {
    const LsRunDir *run;
    LsComm *comm;
    const LsParameters *parameters;
    const LsBuckets *buckets;
    size_t arrays;
    const float **shard;         // [arrays]
    size_t *tensor_of;           // [arrays][parameters]: index in the manifest
    LsManifest manifest;         // json on rank 0 only, without "file" and "tensors"
    char directory[LS_PATH_MAX]; // temporary
    char file[LS_PATH_MAX];      // in it
    char path[LS_PATH_MAX];      // where the directory goes
    size_t shard_blocks;         // of this rank
    uint64_t *mine;              // [arrays][shard_blocks] hashes
    uint64_t *all;               // the same of every rank, rank after rank
    size_t *sizes;               // [ranks] bytes of each rank's part of `all`
};

static bool is_first(const LsSave *save)
{
    return ls_comm_rank(save->comm) == 0;
}

static void save_free(LsSave *save)
{
    free(save->sizes);
    free(save->all);
    free(save->mine);
    ls_manifest_free(&save->manifest);
    free(save->tensor_of);
    free(save->shard);
    free(save);
}

// count * size bytes, at least one.
static LsStatus allocate(size_t count, size_t size, void *out)
{
    size_t bytes;
    if (!ls_size_multiply(count ? count : 1, size, &bytes))
        return LS_FAIL(LS_INTERNAL, "a checkpoint of %zu items is too large", count);
    return ls_memory_allocate(bytes, out);
}

// ---- Begin: the table of tensors ------------------------------------------------------------------------

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

static LsStatus describe_tensors(LsSave *save, const LsCheckpointContent *content)
{
    LsManifest *manifest = &save->manifest;
    const LsParameters *parameters = save->parameters;
    size_t count = save->arrays * parameters->count;
    if (count == 0)
        return LS_FAIL(LS_INTERNAL, "a checkpoint without tensors");
    LS_TRY(allocate(count, sizeof *manifest->tensor, &manifest->tensor));
    LS_TRY(allocate(count, sizeof *save->tensor_of, &save->tensor_of));
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
        save->tensor_of[i] = (size_t)(ls_manifest_find(manifest, path) - manifest->tensor);
    }
    return LS_OK;
}

// Memory for everything that write and commit need.
static LsStatus prepare(LsSave *save, const LsCheckpointContent *content)
{
    uint32_t ranks = (uint32_t)ls_comm_size(save->comm), rank = (uint32_t)ls_comm_rank(save->comm);
    LS_TRY(describe_tensors(save, content));
    save->manifest.step = content->state->control.step;
    save->manifest.state = *content->state;
    if (save->manifest.step < 0)
        return LS_FAIL(LS_INTERNAL, "a checkpoint of step %" PRId64, save->manifest.step);
    LS_TRY(allocate(save->arrays, sizeof *save->shard, &save->shard));
    for (size_t a = 0; a < save->arrays; a++)
        save->shard[a] = content->array[a].shard;
    save->shard_blocks = ls_shard_blocks(save->buckets, ranks, rank);
    LS_TRY(allocate(save->arrays * save->shard_blocks, sizeof *save->mine, &save->mine));
    LS_TRY(allocate(save->arrays * save->buckets->blocks, sizeof *save->all, &save->all));
    LS_TRY(allocate(ranks, sizeof *save->sizes, &save->sizes));
    for (uint32_t r = 0; r < ranks; r++)
        save->sizes[r] = save->arrays * ls_shard_blocks(save->buckets, ranks, r) * sizeof *save->all;
    return LS_OK;
}

// ---- Begin: rank 0 --------------------------------------------------------------------------------------

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

// All members that are known now; "file" and "tensors" follow at the commit.
static LsStatus describe(LsSave *save, const LsCheckpointContent *content)
{
    json_t *json = json_object(), *config = json_object();
    char now[32];
    ls_clock_utc(now, sizeof now);
    save->manifest.json = json;
    json_object_set_new(json, "format", json_string("lockstep checkpoint"));
    json_object_set_new(json, "version", json_integer(LS_MANIFEST_VERSION));
    json_object_set_new(json, "run_id", json_string(save->run->run_id));
    json_object_set_new(json, "attempt", json_integer(save->run->attempt));
    json_object_set_new(json, "step", json_integer(save->manifest.step));
    json_object_set_new(json, "saved_at", json_string(now));
    json_object_set_new(json, "world_size", json_integer(ls_comm_size(save->comm)));
    json_object_set_new(json, "fingerprint", json_string(content->fingerprint ? content->fingerprint : ""));
    if (content->algorithms && *content->algorithms)
        json_object_set_new(json, "algorithms", json_string(content->algorithms));
    json_object_set_new(json, "block", json_integer(LS_BLOCK));
    json_object_set_new(json, "state", ls_state_json(content->state));
    json_object_set_new(json, "config", config);
    json_object_set_new(json, "data", data_json(content));
    return config_json(content->config, config);
}

// fallocate, where the file system can; elsewhere writing finds out.
static LsStatus take_space(const LsSave *save, int fd, uint64_t size)
{
    if (fallocate(fd, 0, 0, (off_t)size) == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
        return LS_OK;
    return LS_FAIL(LS_IO, "cannot reserve %llu bytes for %s: %s; free space or keep fewer checkpoints",
        (unsigned long long)size, save->file, strerror(errno));
}

// HDF5 leaves its memory in disorder when it cannot finish a file, so whether there is space is asked without
// it: with a file that is a little larger, and is removed again.
static LsStatus probe_space(const LsSave *save)
{
    enum { STRUCTURE = 1 << 20, STRUCTURE_OF_TENSOR = 1 << 14 };
    uint64_t size = STRUCTURE;
    for (size_t i = 0; i < save->manifest.tensors; i++)
        size += save->manifest.tensor[i].elements * sizeof(float) + STRUCTURE_OF_TENSOR;
    int fd = open(save->file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot create %s: %s", save->file, strerror(errno));
    LsStatus status = take_space(save, fd, size);
    close(fd);
    if (unlink(save->file) != 0 && status == LS_OK)
        status = LS_FAIL(LS_IO, "cannot remove %s: %s", save->file, strerror(errno));
    return status;
}

// Space is taken before anyone writes, so that a full disk is found here and not half-way.
static LsStatus reserve(LsSave *save)
{
    int fd = open(save->file, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot open %s: %s", save->file, strerror(errno));
    struct stat information;
    LsStatus status = LS_OK;
    if (fstat(fd, &information) != 0)
        status = LS_FAIL(LS_IO, "cannot examine %s: %s", save->file, strerror(errno));
    else
        status = take_space(save, fd, (uint64_t)information.st_size);
    if (status == LS_OK) {
        save->manifest.file_size = (uint64_t)information.st_size;
        status = ls_manifest_arrange(&save->manifest, save->file);
    }
    if (status == LS_OK)
        status = ls_manifest_structure_hash(&save->manifest, fd, save->file, save->manifest.structure_hash);
    close(fd);
    return status;
}

static LsStatus temporary_path(const LsSave *save, const char *kind, char path[LS_PATH_MAX])
{
    char name[128];
    snprintf(name, sizeof name, "checkpoints/.%s-step-%08" PRId64 "-%s-%06d", kind, save->manifest.step,
        save->run->run_id, save->run->attempt);
    return ls_path_join(path, save->run->path, name);
}

static LsStatus create(LsSave *save, const LsCheckpointContent *content)
{
    LS_TRY(ls_run_dir_require_current(save->run));
    LS_TRY(temporary_path(save, "saving", save->directory));
    LS_TRY(ls_path_join(save->file, save->directory, LS_STATE_NAME));
    LS_TRY(describe(save, content));
    LS_TRY(ls_directory_remove(save->directory)); // left by a save that could not clean up
    LS_TRY(ls_directory_create(save->directory));
    LS_TRY(probe_space(save));
    LS_TRY(ls_state_file_create(save->file, &save->manifest));
    return reserve(save);
}

// Removes what was written, and keeps the sentence of the failure that this is about.
static void discard(const LsSave *save)
{
    char message[1024];
    if (!is_first(save) || save->directory[0] == '\0')
        return;
    snprintf(message, sizeof message, "%s", ls_status_message());
    (void)ls_directory_remove(save->directory);
    ls_status_adopt(LS_IO, message);
}

static LsStatus share_offsets(LsSave *save)
{
    LS_TRY(ls_comm_broadcast(save->comm, save->file, sizeof save->file, 0));
    uint64_t *offsets;
    LS_TRY(allocate(save->manifest.tensors, sizeof *offsets, &offsets));
    for (size_t i = 0; i < save->manifest.tensors; i++)
        offsets[i] = save->manifest.tensor[i].offset;
    LsStatus status = ls_comm_broadcast(save->comm, offsets, save->manifest.tensors * sizeof *offsets, 0);
    for (size_t i = 0; i < save->manifest.tensors && status == LS_OK; i++)
        save->manifest.tensor[i].offset = offsets[i];
    free(offsets);
    return status;
}

LsStatus ls_save_begin(const LsRunDir *run, LsComm *comm, const LsCheckpointContent *content, LsSave **out)
{
    LsSave *save = calloc(1, sizeof *save);
    if (save == NULL) {
        ls_comm_agree(comm, LS_FAIL(LS_INTERNAL, "out of memory beginning a checkpoint"));
        return LS_INTERNAL;
    }
    save->run = run;
    save->comm = comm;
    save->parameters = content->parameters;
    save->buckets = content->buckets;
    save->arrays = content->arrays;
    LsStatus status = prepare(save, content);
    ls_checkpoint_path(save->path, run->path, save->manifest.step);
    if (is_first(save) && status == LS_OK)
        status = create(save, content);
    status = ls_comm_agree(comm, status);
    if (status == LS_OK)
        status = share_offsets(save);
    if (status != LS_OK) {
        discard(save);
        save_free(save);
        return status;
    }
    *out = save;
    return LS_OK;
}

// ---- Write ----------------------------------------------------------------------------------------------

// Hashes and writes a run of one tensor's blocks. Only the tensor's own elements are in the file.
static LsStatus write_run(const LsSave *save, int fd, const LsManifestTensor *tensor, LsBlockRun run,
    const float *from, uint64_t *hash)
{
    while (run.stored > 0) {
        size_t portion = run.stored < LS_PORTION ? run.stored : LS_PORTION;
        for (size_t i = 0; i < portion; i++)
            hash[i] = ls_hash64(
                from + i * LS_BLOCK, ls_block_elements(tensor->elements, run.first + i, 1) * sizeof(float));
        size_t bytes = ls_block_elements(tensor->elements, run.first, portion) * sizeof(float);
        uint64_t offset = tensor->offset + (uint64_t)run.first * LS_BLOCK * sizeof(float);
        LS_TRY(ls_file_write_at(fd, save->file, from, bytes, offset));
        run.first += portion;
        run.stored -= portion;
        from += portion * LS_BLOCK;
        hash += portion;
    }
    return LS_OK;
}

// Array a: the packed shard is the bucket pieces one behind the other, and so are the hashes.
static LsStatus write_array(LsSave *save, int fd, size_t a)
{
    uint32_t ranks = (uint32_t)ls_comm_size(save->comm), rank = (uint32_t)ls_comm_rank(save->comm);
    const float *from = save->shard[a];
    uint64_t *hash = save->mine + a * save->shard_blocks;
    for (size_t b = 0; b < save->buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(save->buckets, b, ranks, rank);
        for (size_t block = piece.first, end = piece.first + piece.count; block < end;) {
            LsBlockRun run = ls_block_run(save->parameters, block, end);
            const LsManifestTensor *tensor =
                &save->manifest.tensor[save->tensor_of[a * save->parameters->count + run.index]];
            LS_TRY(write_run(save, fd, tensor, run, from, hash));
            block += run.count;
            from += run.count * LS_BLOCK;
            hash += run.count;
        }
    }
    return LS_OK;
}

LsStatus ls_save_write(LsSave *save)
{
    // For writing only: a page is then never read first, and written back as a whole over another host's
    // part.
    int fd = open(save->file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot open %s: %s", save->file, strerror(errno));
    LsStatus status = LS_OK;
    for (size_t a = 0; a < save->arrays && status == LS_OK; a++)
        status = write_array(save, fd, a);
    if (status == LS_OK && fsync(fd) != 0)
        status = LS_FAIL(LS_IO, "cannot sync %s: %s", save->file, strerror(errno));
    if (close(fd) != 0 && status == LS_OK)
        status = LS_FAIL(LS_IO, "cannot close %s: %s", save->file, strerror(errno));
    return status;
}

// ---- Commit ---------------------------------------------------------------------------------------------

// The hashes of one rank's piece of array a, from the order of its shard to that of the tensors.
static const uint64_t *place_hashes(LsSave *save, size_t a, uint32_t rank, const uint64_t *from)
{
    uint32_t ranks = (uint32_t)ls_comm_size(save->comm);
    for (size_t b = 0; b < save->buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(save->buckets, b, ranks, rank);
        for (size_t block = piece.first, end = piece.first + piece.count; block < end;) {
            LsBlockRun run = ls_block_run(save->parameters, block, end);
            size_t index = save->tensor_of[a * save->parameters->count + run.index];
            memcpy(save->manifest.tensor[index].block_hash + run.first, from, run.stored * sizeof *from);
            from += run.count;
            block += run.count;
        }
    }
    return from;
}

static LsStatus collect_hashes(LsSave *save)
{
    for (size_t i = 0; i < save->manifest.tensors; i++) {
        LsManifestTensor *tensor = &save->manifest.tensor[i];
        LS_TRY(allocate(tensor->blocks, sizeof *tensor->block_hash, &tensor->block_hash));
    }
    const uint64_t *from = save->all;
    for (int rank = 0; rank < ls_comm_size(save->comm); rank++)
        for (size_t a = 0; a < save->arrays; a++)
            from = place_hashes(save, a, (uint32_t)rank, from);
    return LS_OK;
}

static LsStatus write_manifest(LsSave *save)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, save->directory, LS_MANIFEST_NAME));
    json_t *file = json_object(), *tensors = ls_manifest_tensors_json(&save->manifest);
    json_object_set_new(file, "name", json_string(LS_STATE_NAME));
    json_object_set_new(file, "size", json_integer((json_int_t)save->manifest.file_size));
    json_object_set_new(file, "structure_hash", json_string(save->manifest.structure_hash));
    json_object_set_new(save->manifest.json, "file", file);
    size_t size;
    char *text = NULL;
    if (tensors != NULL && json_object_set_new(save->manifest.json, "tensors", tensors) == 0)
        text = ls_manifest_text(save->manifest.json, &size);
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory writing %s", path);
    LsStatus status = ls_file_replace(path, text, size);
    free(text);
    return status;
}

// Puts the finished directory in its place. A checkpoint that is there already is of the same step, made by
// the attempt from which this one resumed, perhaps damaged since: the new one takes its place.
static LsStatus put_in_place(const LsSave *save)
{
    char parent[LS_PATH_MAX], old[LS_PATH_MAX];
    LS_TRY(ls_path_join(parent, save->run->path, "checkpoints"));
    LS_TRY(temporary_path(save, "replaced", old));
    bool replaced = false;
    if (rename(save->directory, save->path) != 0) {
        if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR)
            return LS_FAIL(LS_IO, "cannot rename %s: %s", save->directory, strerror(errno));
        replaced = true;
        LS_TRY(ls_directory_remove(old));
        // The exchange has no moment without a checkpoint; where the file system cannot do it, there is one
        // between two renames, and an older checkpoint serves.
        if (renameat2(AT_FDCWD, save->directory, AT_FDCWD, save->path, RENAME_EXCHANGE) == 0)
            memcpy(old, save->directory, sizeof old);
        else if (rename(save->path, old) != 0 || rename(save->directory, save->path) != 0)
            return LS_FAIL(LS_IO, "cannot replace %s: %s", save->path, strerror(errno));
    }
    LS_TRY(ls_directory_sync(parent));
    // The checkpoint is durable; what it replaced is removed now, or by a later attempt.
    if (replaced)
        (void)ls_directory_remove(old);
    return LS_OK;
}

static LsStatus commit(LsSave *save)
{
    LS_TRY(collect_hashes(save));
    LS_TRY(write_manifest(save));
    LS_TRY(ls_run_dir_require_current(save->run));
    return put_in_place(save);
}

LsStatus ls_save_commit(LsSave *save, LsStatus written, char path[LS_PATH_MAX])
{
    LsStatus status = ls_comm_agree(save->comm, written);
    if (status == LS_OK)
        status = ls_comm_all_gather(save->comm, save->mine, save->all, save->sizes);
    if (status == LS_OK)
        status = ls_comm_agree(save->comm, is_first(save) ? commit(save) : LS_OK);
    if (status == LS_OK)
        memcpy(path, save->path, sizeof save->path);
    else
        discard(save);
    save_free(save);
    return status;
}
