// Opening a checkpoint and reading its numbers, every one of them checked.
#include "train/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "checkpoint_file.h"

// ---- Blocks ---------------------------------------------------------------------------------------------

size_t ls_block_elements(size_t elements, size_t first, size_t count)
{
    size_t rest = elements - first * LS_BLOCK;
    return rest / LS_BLOCK < count ? rest : count * LS_BLOCK;
}

LsBlockRun ls_block_run(const LsParameters *parameters, size_t block, size_t end)
{
    // The last tensor that starts at or before the block; tensors lie one behind the other.
    size_t low = 0, high = parameters->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (parameters->list[middle].offset / LS_BLOCK <= block)
            low = middle;
        else
            high = middle;
    }
    const LsParameter *parameter = &parameters->list[low];
    size_t start = parameter->offset / LS_BLOCK, first = block - start;
    size_t stop = start + (parameter->reserved + LS_BLOCK - 1) / LS_BLOCK;
    size_t own = (parameter->elements + LS_BLOCK - 1) / LS_BLOCK;
    size_t count = (stop < end ? stop : end) - block, left = first < own ? own - first : 0;
    return (LsBlockRun){low, first, count, count < left ? count : left};
}

void ls_checkpoint_read_directly(LsCheckpoint *checkpoint)
{
    if (checkpoint->direct < 0)
        checkpoint->direct = open(checkpoint->file, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

// As many of the bytes as can be read past the page cache; the others are read the usual way, which also says
// what is wrong.
static size_t read_pages(int fd, char *out, size_t bytes, uint64_t offset)
{
    if (fd < 0 || (uintptr_t)out % LS_PAGE != 0 || offset % LS_PAGE != 0)
        return 0;
    size_t whole = bytes / LS_PAGE * LS_PAGE, done = 0;
    while (done < whole) {
        ssize_t got = pread(fd, out + done, whole - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < LS_PAGE)
            break;
        done += (size_t)got / LS_PAGE * LS_PAGE;
    }
    return done;
}

static LsStatus read_bytes(const LsCheckpoint *checkpoint, void *out, size_t bytes, uint64_t offset)
{
    size_t done = read_pages(checkpoint->direct, out, bytes, offset);
    return ls_file_read_at(checkpoint->fd, checkpoint->file, (char *)out + done, bytes - done, offset + done);
}

LsStatus ls_checkpoint_read_blocks(
    const LsCheckpoint *checkpoint, const LsManifestTensor *tensor, size_t first, size_t count, float *out)
{
    while (count > 0) {
        size_t portion = count < LS_PORTION ? count : LS_PORTION;
        size_t bytes = ls_block_elements(tensor->elements, first, portion) * sizeof(float);
        uint64_t offset = tensor->offset + (uint64_t)first * LS_BLOCK * sizeof(float);
        LsStatus status = read_bytes(checkpoint, out, bytes, offset);
        if (status == LS_BAD_DATA) // cut off since it was opened
            return ls_status_adopt(LS_CHECKPOINT, ls_status_message());
        LS_TRY(status);
        for (size_t i = 0; i < portion; i++) {
            size_t size = ls_block_elements(tensor->elements, first + i, 1) * sizeof(float);
            if (ls_hash64(out + i * LS_BLOCK, size) != tensor->block_hash[first + i])
                return LS_FAIL(LS_CHECKPOINT,
                    "%s: tensor %s, block %zu of %zu: its bytes are not those that were saved; use another "
                    "checkpoint",
                    checkpoint->file, tensor->path, first + i, tensor->blocks);
        }
        first += portion;
        count -= portion;
        out += portion * LS_BLOCK;
    }
    return LS_OK;
}

// ---- Opening --------------------------------------------------------------------------------------------

static LsStatus check_directory(const char *directory)
{
    struct stat information;
    if (stat(directory, &information) != 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? LS_FAIL(LS_NO_INPUT, "there is no checkpoint directory %s", directory)
                   : LS_FAIL(LS_IO, "cannot examine %s: %s", directory, strerror(errno));
    if (!S_ISDIR(information.st_mode))
        return LS_FAIL(LS_CHECKPOINT, "%s is not a checkpoint: a checkpoint is a directory", directory);
    return LS_OK;
}

// A directory that is called after a step must be of that step: files put there from another one would
// otherwise be resumed at the wrong place.
static LsStatus check_name(const LsCheckpoint *checkpoint)
{
    static const char prefix[] = "step-";
    const char *directory = checkpoint->directory;
    size_t end = strlen(directory);
    while (end > 0 && directory[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && directory[start - 1] != '/')
        start--;
    char expected[32], base[32];
    snprintf(expected, sizeof expected, "step-%08" PRId64, checkpoint->manifest.step);
    snprintf(base, sizeof base, "%.*s", (int)(end - start < 31 ? end - start : 31), directory + start);
    bool named = strncmp(base, prefix, sizeof prefix - 1) == 0 &&
                 strspn(base + sizeof prefix - 1, "0123456789") == strlen(base + sizeof prefix - 1);
    if (named && strcmp(base, expected) != 0)
        return LS_FAIL(
            LS_CHECKPOINT, "%s holds step %" PRId64 ", not its own", directory, checkpoint->manifest.step);
    return LS_OK;
}

static LsStatus open_file(LsCheckpoint *checkpoint)
{
    // Without O_NONBLOCK a FIFO of that name would wait for a writer for ever.
    checkpoint->fd = open(checkpoint->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (checkpoint->fd < 0)
        return LS_FAIL(
            errno == ENOENT ? LS_CHECKPOINT : LS_IO, "cannot open %s: %s", checkpoint->file, strerror(errno));
    struct stat information;
    if (fstat(checkpoint->fd, &information) != 0)
        return LS_FAIL(LS_IO, "cannot examine %s: %s", checkpoint->file, strerror(errno));
    if (!S_ISREG(information.st_mode))
        return LS_FAIL(LS_CHECKPOINT, "%s is not a file", checkpoint->file);
    if ((uint64_t)information.st_size != checkpoint->manifest.file_size)
        return LS_FAIL(LS_CHECKPOINT,
            "%s has %lld bytes where its manifest says %llu; it is damaged: use another checkpoint",
            checkpoint->file, (long long)information.st_size,
            (unsigned long long)checkpoint->manifest.file_size);
    char hash[LS_SHA256_TEXT];
    LsStatus status =
        ls_manifest_structure_hash(&checkpoint->manifest, checkpoint->fd, checkpoint->file, hash);
    if (status == LS_BAD_DATA)
        return ls_status_adopt(LS_CHECKPOINT, ls_status_message());
    LS_TRY(status);
    if (strcmp(hash, checkpoint->manifest.structure_hash) != 0)
        return LS_FAIL(LS_CHECKPOINT,
            "%s: its HDF5 structure is not the one that was saved; use another checkpoint", checkpoint->file);
    return LS_OK;
}

static LsStatus open_all(LsCheckpoint *checkpoint, const char *directory)
{
    char manifest[LS_PATH_MAX];
    LS_TRY(check_directory(directory));
    LS_TRY(ls_path_join(manifest, directory, LS_MANIFEST_NAME));
    LS_TRY(ls_path_join(checkpoint->file, directory, LS_STATE_NAME));
    snprintf(checkpoint->directory, sizeof checkpoint->directory, "%s", directory);
    LS_TRY(ls_manifest_read(manifest, &checkpoint->manifest));
    LS_TRY(check_name(checkpoint));
    return open_file(checkpoint);
}

LsStatus ls_checkpoint_open(const char *directory, LsCheckpoint **out)
{
    LsCheckpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (checkpoint == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory opening %s", directory);
    checkpoint->fd = checkpoint->direct = -1;
    LsStatus status = open_all(checkpoint, directory);
    if (status != LS_OK) {
        ls_checkpoint_close(checkpoint);
        return status;
    }
    *out = checkpoint;
    return LS_OK;
}

void ls_checkpoint_close(LsCheckpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    if (checkpoint->direct >= 0)
        close(checkpoint->direct);
    if (checkpoint->fd >= 0)
        close(checkpoint->fd);
    ls_manifest_free(&checkpoint->manifest);
    free(checkpoint);
}

// ---- What it says ---------------------------------------------------------------------------------------

const json_t *ls_checkpoint_manifest(const LsCheckpoint *checkpoint)
{
    return checkpoint->manifest.json;
}

int64_t ls_checkpoint_step(const LsCheckpoint *checkpoint)
{
    return checkpoint->manifest.step;
}

const char *ls_checkpoint_run_id(const LsCheckpoint *checkpoint)
{
    return checkpoint->manifest.run_id;
}

const char *ls_checkpoint_algorithms(const LsCheckpoint *checkpoint)
{
    const char *text = json_string_value(json_object_get(checkpoint->manifest.json, "algorithms"));
    return text ? text : "";
}

const char *ls_checkpoint_fingerprint(const LsCheckpoint *checkpoint)
{
    return json_string_value(json_object_get(checkpoint->manifest.json, "fingerprint"));
}

static json_t *data_member(const LsCheckpoint *checkpoint, const char *key)
{
    return json_object_get(json_object_get(checkpoint->manifest.json, "data"), key);
}

const char *ls_checkpoint_data_hash(const LsCheckpoint *checkpoint)
{
    return json_string_value(data_member(checkpoint, "root_hash"));
}

const json_t *ls_checkpoint_data_schema(const LsCheckpoint *checkpoint)
{
    return data_member(checkpoint, "schema");
}

// Whether the tensor's path is the group's: the group, a slash and the name.
static bool in_group(const LsManifestTensor *tensor, const char *group)
{
    size_t size = (size_t)(tensor->name - tensor->path) - 1;
    return strlen(group) == size && strncmp(tensor->path, group, size) == 0;
}

bool ls_checkpoint_has_group(const LsCheckpoint *checkpoint, const char *group)
{
    for (size_t i = 0; i < checkpoint->manifest.tensors; i++)
        if (in_group(&checkpoint->manifest.tensor[i], group))
            return true;
    return false;
}

const char *ls_checkpoint_model_group(const LsCheckpoint *checkpoint, bool averaged)
{
    return averaged && ls_checkpoint_has_group(checkpoint, LS_GROUP_AVERAGE) ? LS_GROUP_AVERAGE
                                                                             : LS_GROUP_PARAMETERS;
}

LsStatus ls_checkpoint_config(const LsCheckpoint *checkpoint, LsConfig *config)
{
    char origin[LS_PATH_MAX + 64];
    snprintf(origin, sizeof origin, "%s/" LS_MANIFEST_NAME, checkpoint->directory);
    LsConfig *read = malloc(sizeof *read);
    if (read == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory reading %s", origin);
    ls_config_defaults(read);
    LsStatus status = LS_OK;
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(checkpoint->manifest.json, "config"), name, value)
    {
        if (status == LS_OK)
            status = ls_config_set(read, name, json_string_value(value), origin);
    }
    if (status == LS_OK)
        *config = *read;
    free(read);
    return status == LS_OK ? LS_OK : ls_status_adopt(LS_CHECKPOINT, ls_status_message());
}

LsStatus ls_checkpoint_state(const LsCheckpoint *checkpoint, LsRunState *state)
{
    *state = checkpoint->manifest.state;
    return LS_OK;
}

// ---- Fit to a model -------------------------------------------------------------------------------------

static bool same_shape(const LsManifestTensor *tensor, const LsParameter *parameter)
{
    bool same = tensor->dimensions == parameter->dimensions;
    for (int i = 0; same && i < tensor->dimensions; i++)
        same = tensor->shape[i] == parameter->shape[i];
    return same;
}

static void shape_text(const size_t *shape, int dimensions, char text[128])
{
    size_t used = 0;
    for (int i = 0; i < dimensions; i++)
        used += (size_t)snprintf(text + used, 128 - used, "%s%zu", i ? " x " : "", shape[i]);
}

static LsStatus fail_shape(
    const LsCheckpoint *checkpoint, const LsManifestTensor *tensor, const LsParameter *parameter)
{
    char theirs[128], ours[128];
    shape_text(tensor->shape, tensor->dimensions, theirs);
    shape_text(parameter->shape, parameter->dimensions, ours);
    return LS_FAIL(LS_CHECKPOINT,
        "%s: tensor %s is %s and the model's is %s: it is a checkpoint of another model",
        checkpoint->directory, tensor->path, theirs, ours);
}

// The tensor of that group and parameter, with the parameter's shape.
static LsStatus find_tensor(const LsCheckpoint *checkpoint, const char *group, const LsParameter *parameter,
    const LsManifestTensor **out)
{
    char path[LS_TENSOR_PATH];
    const LsManifestTensor *tensor = NULL;
    if (ls_tensor_path(group, parameter->name, path))
        tensor = ls_manifest_find(&checkpoint->manifest, path);
    if (tensor == NULL)
        return LS_FAIL(LS_CHECKPOINT, "%s has no tensor %s/%s: it is a checkpoint of another model",
            checkpoint->directory, group, parameter->name);
    if (!same_shape(tensor, parameter))
        return fail_shape(checkpoint, tensor, parameter);
    *out = tensor;
    return LS_OK;
}

LsStatus ls_checkpoint_matches(const LsCheckpoint *checkpoint, const LsParameters *parameters)
{
    const LsManifestTensor *tensor;
    for (size_t i = 0; i < parameters->count; i++)
        LS_TRY(find_tensor(checkpoint, LS_GROUP_PARAMETERS, &parameters->list[i], &tensor));
    for (size_t i = 0; i < checkpoint->manifest.tensors; i++) {
        tensor = &checkpoint->manifest.tensor[i];
        const LsParameter *parameter = ls_parameters_find(parameters, tensor->name);
        if (parameter == NULL)
            return LS_FAIL(LS_CHECKPOINT,
                "%s has a tensor %s, which the model has not: it is a checkpoint of another model",
                checkpoint->directory, tensor->path);
        if (!same_shape(tensor, parameter))
            return fail_shape(checkpoint, tensor, parameter);
    }
    return LS_OK;
}

// ---- Numbers --------------------------------------------------------------------------------------------

LsStatus ls_checkpoint_read(const LsCheckpoint *checkpoint, const LsParameters *parameters, const char *group,
    size_t first, size_t count, float *out)
{
    if (first > parameters->blocks || count > parameters->blocks - first)
        return LS_FAIL(
            LS_INTERNAL, "blocks %zu and %zu more of a buffer of %zu", first, count, parameters->blocks);
    for (size_t block = first, end = first + count; block < end;) {
        LsBlockRun run = ls_block_run(parameters, block, end);
        const LsManifestTensor *tensor;
        LS_TRY(find_tensor(checkpoint, group, &parameters->list[run.index], &tensor));
        float *to = out + (block - first) * LS_BLOCK;
        LS_TRY(ls_checkpoint_read_blocks(checkpoint, tensor, run.first, run.stored, to));
        size_t valid = run.stored ? ls_block_elements(tensor->elements, run.first, run.stored) : 0;
        memset(to + valid, 0, (run.count * LS_BLOCK - valid) * sizeof(float));
        block += run.count;
    }
    return LS_OK;
}

// Reads this rank's part of all blocks, counted over the tensors one after the other.
static LsStatus verify_part(const LsCheckpoint *checkpoint, int rank, int ranks)
{
    const LsManifest *manifest = &checkpoint->manifest;
    size_t total = 0, start = 0;
    for (size_t i = 0; i < manifest->tensors; i++)
        total += manifest->tensor[i].blocks;
    LsBlockRange mine = ls_piece(total, (uint32_t)ranks, (uint32_t)rank);
    float *buffer;
    LS_TRY(ls_memory_allocate(LS_PORTION * LS_BLOCK * sizeof(float), (void **)&buffer));
    LsStatus status = LS_OK;
    for (size_t i = 0; i < manifest->tensors && status == LS_OK; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[i];
        size_t block = mine.first > start ? mine.first - start : 0;
        size_t end = mine.first + mine.count > start ? mine.first + mine.count - start : 0;
        end = end < tensor->blocks ? end : tensor->blocks;
        for (; block < end && status == LS_OK; block += LS_PORTION) {
            size_t portion = end - block < LS_PORTION ? end - block : LS_PORTION;
            status = ls_checkpoint_read_blocks(checkpoint, tensor, block, portion, buffer);
        }
        start += tensor->blocks;
    }
    free(buffer);
    return status;
}

LsStatus ls_checkpoint_verify(const LsCheckpoint *checkpoint, LsComm *comm)
{
    if (comm == NULL)
        return verify_part(checkpoint, 0, 1);
    return ls_comm_agree(comm, verify_part(checkpoint, ls_comm_rank(comm), ls_comm_size(comm)));
}
