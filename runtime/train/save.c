// Saving: what a rank writes, and how rank 0 makes a checkpoint of it.
#include "save.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "checkpoint_file.h"

// Numbers go to the file as they lie in memory, and the file is little-endian.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian host needs a conversion here");

enum {
    // Large enough for a disk to reach its speed with one write at a time, small enough to be interrupted.
    SAVE_PORTION = 256, // blocks: 4 MiB
};

void ls_save_close(LsSave *save)
{
    if (save == NULL)
        return;
    free(save->sizes);
    free(save->all);
    free(save->mine);
    ls_save_form_destroy(save->owned);
    free(save);
}

static LsStatus allocate_hashes(LsSave *save)
{
    const LsSaveForm *form = save->form;
    LS_TRY(ls_save_allocate(form->arrays * form->shard_blocks, sizeof *save->mine, &save->mine));
    LS_TRY(ls_save_allocate(form->arrays * form->buckets->blocks, sizeof *save->all, &save->all));
    LS_TRY(ls_save_allocate(form->ranks, sizeof *save->sizes, &save->sizes));
    for (uint32_t r = 0; r < form->ranks; r++)
        save->sizes[r] = form->arrays * ls_shard_blocks(form->buckets, form->ranks, r) * sizeof *save->all;
    return LS_OK;
}

LsStatus ls_save_create(const LsSaveForm *form, LsSave **out)
{
    LsSave *save = NULL;
    LS_TRY(ls_save_allocate(1, sizeof *save, &save));
    save->form = form;
    LsStatus status = allocate_hashes(save);
    if (status != LS_OK) {
        ls_save_close(save);
        return status;
    }
    *out = save;
    return LS_OK;
}

LsStatus ls_save_open(LsSave *save, const LsRunState *state, const LsStateArray *array)
{
    int64_t step = state->control.step;
    if (step < 0)
        return LS_FAIL(LS_INTERNAL, "a checkpoint of step %" PRId64, step);
    save->state = *state;
    for (size_t a = 0; a < save->form->arrays; a++)
        save->shard[a] = array[a].shard;
    atomic_store(&save->written, 0);
    ls_clock_utc(save->saved_at, sizeof save->saved_at);
    LS_TRY(ls_save_temporary_path(&save->form->run, "saving", step, save->directory));
    LS_TRY(ls_path_join(save->file, save->directory, LS_STATE_NAME));
    ls_checkpoint_path(save->path, save->form->run.path, step);
    return LS_OK;
}

// ---- Write ----------------------------------------------------------------------------------------------

// The file, opened twice: whole pages go past the page cache, so that a save takes neither its memory nor the
// processor time of copying to it, and what the disk can do is what it does. The rest goes the usual way, and
// everything does where the file system knows no other.
typedef struct Output {
    const char *path;
    int direct, buffered; // -1: none
} Output;

// Whether the file system refuses this way of writing, and not these bytes.
static bool refuses_direct(int error)
{
    return error == EINVAL || error == EOPNOTSUPP || error == EFAULT;
}

static LsStatus write_direct(Output *out, const char *from, size_t *bytes, uint64_t offset)
{
    size_t done = 0;
    while (done < *bytes) {
        ssize_t got = pwrite(out->direct, from + done, *bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && !refuses_direct(errno))
            return LS_FAIL(LS_IO, "cannot write %s at byte %llu: %s", out->path,
                (unsigned long long)(offset + done), strerror(errno));
        // A part of a page, which a nearly full disk may take, is written again with all that follows.
        size_t whole = got > 0 ? (size_t)got / LS_PAGE * LS_PAGE : 0;
        if (whole == 0) {
            close(out->direct);
            out->direct = -1;
            break;
        }
        done += whole;
    }
    *bytes = done;
    return LS_OK;
}

static LsStatus put(Output *out, const void *from, size_t bytes, uint64_t offset)
{
    size_t direct = 0;
    if (out->direct >= 0 && (uintptr_t)from % LS_PAGE == 0 && offset % LS_PAGE == 0) {
        direct = bytes / LS_PAGE * LS_PAGE;
        LS_TRY(write_direct(out, from, &direct, offset));
    }
    if (direct == bytes)
        return LS_OK;
    return ls_file_write_at(
        out->buffered, out->path, (const char *)from + direct, bytes - direct, offset + direct);
}

// Hashes and writes a run of one tensor's blocks. Only the tensor's own elements are in the file.
static LsStatus write_run(LsSave *save, Output *out, const LsManifestTensor *tensor, LsBlockRun run,
    const float *from, uint64_t *hash)
{
    while (run.stored > 0) {
        size_t portion = run.stored < SAVE_PORTION ? run.stored : SAVE_PORTION;
        for (size_t i = 0; i < portion; i++)
            hash[i] = ls_hash64(
                from + i * LS_BLOCK, ls_block_elements(tensor->elements, run.first + i, 1) * sizeof(float));
        size_t bytes = ls_block_elements(tensor->elements, run.first, portion) * sizeof(float);
        uint64_t offset = tensor->offset + (uint64_t)run.first * LS_BLOCK * sizeof(float);
        LS_TRY(put(out, from, bytes, offset));
        run.first += portion;
        run.stored -= portion;
        from += portion * LS_BLOCK;
        hash += portion;
        atomic_fetch_add(&save->written, portion);
        if (save->pause)
            LS_TRY(save->pause(save->context));
    }
    return LS_OK;
}

// Array a: the packed shard is the bucket pieces one behind the other, and so are the hashes.
static LsStatus write_array(LsSave *save, Output *out, size_t a)
{
    const LsSaveForm *form = save->form;
    const float *from = save->shard[a];
    uint64_t *hash = save->mine + a * form->shard_blocks;
    for (size_t b = 0; b < form->buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(form->buckets, b, form->ranks, form->rank);
        for (size_t block = piece.first, end = piece.first + piece.count; block < end;) {
            LsBlockRun run = ls_block_run(form->parameters, block, end);
            const LsManifestTensor *tensor =
                &form->manifest.tensor[form->tensor_of[a * form->parameters->count + run.index]];
            LS_TRY(write_run(save, out, tensor, run, from, hash));
            block += run.count;
            from += run.count * LS_BLOCK;
            hash += run.count;
        }
    }
    return LS_OK;
}

static LsStatus write_gap(void *context, char *bytes, size_t size, uint64_t offset)
{
    const Output *out = context;
    return ls_file_write_at(out->buffered, out->path, bytes, size, offset);
}

static LsStatus write_all(LsSave *save, Output *out)
{
    if (save->form->rank == 0) {
        LS_TRY(ls_save_reserve(out->buffered, save->file, save->form->manifest.file_size));
        LS_TRY(ls_save_form_each_gap(save->form, write_gap, out));
    }
    for (size_t a = 0; a < save->form->arrays; a++)
        LS_TRY(write_array(save, out, a));
    return fsync(out->buffered) == 0 ? LS_OK
                                     : LS_FAIL(LS_IO, "cannot sync %s: %s", save->file, strerror(errno));
}

LsStatus ls_save_write(LsSave *save)
{
    double start = ls_clock_seconds();
    // Whichever rank comes first makes the directory; its name is this attempt's own.
    if (mkdir(save->directory, 0777) != 0 && errno != EEXIST)
        return LS_FAIL(LS_IO, "cannot create %s: %s", save->directory, strerror(errno));
    // For writing only: a page is then never read first, and written back as a whole over another host's
    // part.
    Output out = {.path = save->file, .direct = -1};
    out.buffered = open(save->file, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (out.buffered < 0)
        return LS_FAIL(LS_IO, "cannot open %s: %s", save->file, strerror(errno));
    out.direct = open(save->file, O_WRONLY | O_DIRECT | O_CLOEXEC);
    LsStatus status = write_all(save, &out);
    if (out.direct >= 0)
        close(out.direct);
    if (close(out.buffered) != 0 && status == LS_OK)
        status = LS_FAIL(LS_IO, "cannot close %s: %s", save->file, strerror(errno));
    save->write_seconds = ls_clock_seconds() - start;
    return status;
}

// ---- The checkpoint -------------------------------------------------------------------------------------

// The hashes of one rank's piece of array a, from the order of its shard to that of the tensors.
static const uint64_t *place_hashes(const LsSaveForm *form, size_t a, uint32_t rank, const uint64_t *from)
{
    for (size_t b = 0; b < form->buckets->count; b++) {
        LsBlockRange piece = ls_bucket_piece(form->buckets, b, form->ranks, rank);
        for (size_t block = piece.first, end = piece.first + piece.count; block < end;) {
            LsBlockRun run = ls_block_run(form->parameters, block, end);
            size_t index = form->tensor_of[a * form->parameters->count + run.index];
            memcpy(form->manifest.tensor[index].block_hash + run.first, from, run.stored * sizeof *from);
            from += run.count;
            block += run.count;
        }
    }
    return from;
}

static void collect_hashes(const LsSave *save)
{
    const uint64_t *from = save->all;
    for (uint32_t rank = 0; rank < save->form->ranks; rank++)
        for (size_t a = 0; a < save->form->arrays; a++)
            from = place_hashes(save->form, a, rank, from);
}

static json_t *file_json(const LsManifest *manifest)
{
    json_t *file = json_object();
    json_object_set_new(file, "name", json_string(LS_STATE_NAME));
    json_object_set_new(file, "size", json_integer((json_int_t)manifest->file_size));
    json_object_set_new(file, "structure_hash", json_string(manifest->structure_hash));
    return file;
}

static LsStatus write_manifest(const LsSave *save)
{
    const LsManifest *manifest = &save->form->manifest;
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, save->directory, LS_MANIFEST_NAME));
    json_t *json = manifest->json, *tensors = ls_manifest_tensors_json(manifest);
    json_object_set_new(json, "step", json_integer((json_int_t)save->state.control.step));
    json_object_set_new(json, "saved_at", json_string(save->saved_at));
    json_object_set_new(json, "state", ls_state_json(&save->state));
    json_object_set_new(json, "file", file_json(manifest));
    size_t size;
    char *text = NULL;
    if (tensors != NULL && json_object_set_new(json, "tensors", tensors) == 0)
        text = ls_manifest_text(json, &size);
    json_object_del(json, "tensors"); // large, and of no use any more
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
    const LsRunDir *run = &save->form->run;
    char parent[LS_PATH_MAX], old[LS_PATH_MAX];
    LS_TRY(ls_path_join(parent, run->path, "checkpoints"));
    LS_TRY(ls_save_temporary_path(run, "replaced", save->state.control.step, old));
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

LsStatus ls_save_put(LsSave *save)
{
    collect_hashes(save);
    LS_TRY(write_manifest(save));
    LS_TRY(ls_run_dir_require_current(&save->form->run));
    return put_in_place(save);
}

LsStatus ls_save_discard(const LsSave *save)
{
    return save->directory[0] ? ls_directory_remove(save->directory) : LS_OK;
}

// ---- In three collective calls --------------------------------------------------------------------------

LsStatus ls_save_begin(const LsRunDir *run, LsComm *comm, const LsCheckpointContent *content, LsSave **out)
{
    LsSaveForm *form = NULL;
    LsSave *save = NULL;
    LS_TRY(ls_save_form_create(run, comm, content, &form));
    LsStatus status = ls_save_create(form, &save);
    if (status == LS_OK)
        status = ls_save_open(save, content->state, content->array);
    status = ls_comm_agree(comm, status);
    if (status != LS_OK) {
        ls_save_close(save);
        ls_save_form_destroy(form);
        return status;
    }
    save->owned = form;
    save->comm = comm;
    *out = save;
    return LS_OK;
}

LsStatus ls_save_commit(LsSave *save, LsStatus written, char path[LS_PATH_MAX])
{
    bool first = save->form->rank == 0;
    LsStatus status = ls_comm_agree(save->comm, written);
    if (status == LS_OK)
        status = ls_comm_all_gather(save->comm, save->mine, save->all, save->sizes);
    if (status == LS_OK)
        status = ls_comm_agree(save->comm, first ? ls_save_put(save) : LS_OK);
    if (status == LS_OK) {
        memcpy(path, save->path, sizeof save->path);
    } else if (first) {
        // The sentence that counts is that of the failure.
        char message[1024];
        snprintf(message, sizeof message, "%s", ls_status_message());
        (void)ls_save_discard(save);
        ls_status_adopt(status, message);
    }
    ls_save_close(save);
    return status;
}
