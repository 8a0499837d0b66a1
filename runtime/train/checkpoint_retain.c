// Which checkpoints a run keeps, and the removal of the others.
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoint_file.h"
#include "verified.h"

// ---- Whether a checkpoint is whole ----------------------------------------------------------------------

// What tells the directory of a step from one that took its place.
static bool identify(const char *path, struct stat *out)
{
    char manifest[LS_PATH_MAX];
    return ls_path_join(manifest, path, LS_MANIFEST_NAME) == LS_OK && stat(manifest, out) == 0;
}

static LsVerdict verdict_on(LsStatus failure)
{
    bool damaged = failure == LS_CHECKPOINT || failure == LS_NO_INPUT;
    return damaged ? LS_VERDICT_DAMAGED : LS_VERDICT_UNREADABLE;
}

static LsVerdict read_blocks(
    const LsCheckpoint *checkpoint, float *buffer, bool (*pause)(void *context), void *context)
{
    const LsManifest *manifest = &checkpoint->manifest;
    for (size_t i = 0; i < manifest->tensors; i++) {
        const LsManifestTensor *tensor = &manifest->tensor[i];
        for (size_t block = 0; block < tensor->blocks; block += LS_PORTION) {
            size_t left = tensor->blocks - block, portion = left < LS_PORTION ? left : LS_PORTION;
            LsStatus status = ls_checkpoint_read_blocks(checkpoint, tensor, block, portion, buffer);
            if (status != LS_OK)
                return verdict_on(status);
            if (pause && !pause(context))
                return LS_VERDICT_LATER;
        }
    }
    return LS_VERDICT_GOOD;
}

static LsVerdict read_all(const char *path, bool (*pause)(void *context), void *context)
{
    LsCheckpoint *checkpoint = NULL;
    char *memory = NULL;
    LsStatus status = ls_checkpoint_open(path, &checkpoint);
    if (status != LS_OK)
        return verdict_on(status);
    LsVerdict verdict = LS_VERDICT_UNREADABLE;
    ls_checkpoint_read_directly(checkpoint);
    if (ls_memory_allocate(LS_PORTION * LS_BLOCK * sizeof(float) + LS_PAGE, (void **)&memory) == LS_OK) {
        char *page = memory + (LS_PAGE - (uintptr_t)memory % LS_PAGE) % LS_PAGE;
        verdict = read_blocks(checkpoint, (float *)(void *)page, pause, context);
    }
    free(memory);
    ls_checkpoint_close(checkpoint);
    return verdict;
}

LsVerdict ls_verified_check(
    LsVerified *verified, const char *run, int64_t step, bool (*pause)(void *context), void *context)
{
    char path[LS_PATH_MAX];
    struct stat found;
    ls_checkpoint_path(path, run, step);
    if (!identify(path, &found))
        return LS_VERDICT_DAMAGED;
    for (size_t i = 0; i < LS_VERIFIED_MAX; i++) {
        const LsVerifiedStep *known = &verified->step[i];
        if (known->verdict != LS_VERDICT_LATER && known->step == step && known->inode == found.st_ino &&
            known->time.tv_sec == found.st_mtim.tv_sec && known->time.tv_nsec == found.st_mtim.tv_nsec)
            return known->verdict;
    }
    LsVerdict verdict = read_all(path, pause, context);
    if (verdict == LS_VERDICT_GOOD || verdict == LS_VERDICT_DAMAGED)
        verified->step[verified->next++ % LS_VERIFIED_MAX] =
            (LsVerifiedStep){.step = step, .inode = found.st_ino, .time = found.st_mtim, .verdict = verdict};
    return verdict;
}

// ---- Removal --------------------------------------------------------------------------------------------

// Moves a checkpoint out of the way before it is removed file by file: nobody ever sees half of one.
static LsStatus remove_checkpoint(const LsRunDir *run, int64_t step)
{
    char path[LS_PATH_MAX], doomed[LS_PATH_MAX], name[128];
    ls_checkpoint_path(path, run->path, step);
    snprintf(name, sizeof name, "checkpoints/.removing-step-%08" PRId64 "-%s-%06d", step, run->run_id,
        run->attempt);
    LS_TRY(ls_path_join(doomed, run->path, name));
    LS_TRY(ls_directory_remove(doomed));
    if (rename(path, doomed) != 0)
        return LS_FAIL(LS_IO, "cannot remove %s: %s", path, strerror(errno));
    return ls_directory_remove(doomed);
}

// The attempt whose unfinished work a directory is, ".…-<run id>-<attempt>"; 0: it is none.
static int attempt_of(const char *name)
{
    const char *dash = strrchr(name, '-');
    if (name[0] != '.' || dash == NULL || dash - name < 34 || dash[-33] != '-')
        return 0;
    size_t digits = strlen(dash + 1);
    if (strspn(dash - 32, "0123456789abcdef") != 32 || digits < 6 || digits > 9 ||
        strspn(dash + 1, "0123456789") != digits)
        return 0;
    return atoi(dash + 1);
}

static bool is_of_run(const LsRunDir *run, const char *name)
{
    return strncmp(strrchr(name, '-') - 32, run->run_id, 32) == 0;
}

static bool is_stale(const LsRunDir *run, const char *name)
{
    int attempt = attempt_of(name);
    return attempt > 0 && (!is_of_run(run, name) || attempt < run->attempt);
}

static bool is_own(const LsRunDir *run, const char *name)
{
    return attempt_of(name) == run->attempt && is_of_run(run, name);
}

static LsStatus remove_unfinished(const LsRunDir *run, bool (*chosen)(const LsRunDir *run, const char *name))
{
    char path[LS_PATH_MAX], unfinished[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, run->path, "checkpoints"));
    DIR *directory = opendir(path);
    if (directory == NULL && errno != ENOENT)
        return LS_FAIL(LS_IO, "cannot list %s: %s", path, strerror(errno));
    LsStatus status = LS_OK;
    struct dirent *entry;
    while (status == LS_OK && directory != NULL && (entry = readdir(directory)) != NULL) {
        if (!chosen(run, entry->d_name))
            continue;
        status = ls_path_join(unfinished, path, entry->d_name);
        if (status == LS_OK)
            status = ls_directory_remove(unfinished);
    }
    if (directory != NULL)
        closedir(directory);
    return status;
}

LsStatus ls_checkpoint_remove_unfinished(const LsRunDir *run)
{
    return remove_unfinished(run, is_stale);
}

LsStatus ls_checkpoint_remove_own(const LsRunDir *run)
{
    return remove_unfinished(run, is_own);
}

// ---- Retention ------------------------------------------------------------------------------------------

static LsVerdict check(const LsRunDir *run, const LsRetention *retention, int64_t step)
{
    if (retention->check)
        return retention->check(retention->context, step);
    LsVerified none = {0};
    return ls_verified_check(&none, run->path, step, NULL, NULL);
}

// What the options ask for, before anything is read. Returns how many they let go.
static size_t choose(
    const LsRunDir *run, const LsRetention *retention, const int64_t *step, size_t count, bool *kept)
{
    size_t last = retention->keep_last > 2 ? (size_t)retention->keep_last : 2, leaving = 0;
    int64_t target = -1; // of a rollback
    if (run->rollback_every > 0)
        target = ls_checkpoint_before(step, count, INT64_MAX, run->rollback_every);
    for (size_t i = 0; i < count; i++) {
        kept[i] = count - i <= last || step[i] == retention->best_step || step[i] == target ||
                  (retention->keep_every > 0 && step[i] % retention->keep_every == 0);
        leaving += !kept[i];
    }
    return leaving;
}

// The newest two that are whole stay in any case: the newest is what a resume wants, the other one what it
// falls back to. False: there was no time to find them.
static bool keep_two_good(
    const LsRunDir *run, const LsRetention *retention, const int64_t *step, size_t count, bool *kept)
{
    int good = 0;
    for (size_t i = count; i-- > 0 && good < 2;) {
        LsVerdict verdict = check(run, retention, step[i]);
        if (verdict == LS_VERDICT_LATER)
            return false;
        good += verdict == LS_VERDICT_GOOD;
        kept[i] |= verdict != LS_VERDICT_DAMAGED;
    }
    return true;
}

static LsStatus remove_others(
    const LsRunDir *run, const LsRetention *retention, const int64_t *step, size_t count, const bool *kept)
{
    // Reading checkpoints may have taken long; a newer attempt chooses what it keeps.
    LS_TRY(ls_run_dir_require_current(run));
    for (size_t i = 0; i < count; i++) {
        if (kept[i])
            continue;
        if (!retention->dry_run)
            LS_TRY(remove_checkpoint(run, step[i]));
        if (retention->removed)
            retention->removed(retention->context, step[i]);
    }
    return LS_OK;
}

int64_t ls_checkpoint_before(const int64_t *steps, size_t count, int64_t limit, int64_t every)
{
    for (size_t i = count; every > 0 && i-- > 0;)
        if (steps[i] < limit && steps[i] % every == 0)
            return steps[i];
    return count > 0 && steps[0] < limit ? steps[0] : -1;
}

LsStatus ls_checkpoint_remove_after(const LsRunDir *run, int64_t step)
{
    int64_t *steps;
    size_t count;
    LS_TRY(ls_run_dir_require_current(run));
    LS_TRY(ls_checkpoint_list(run->path, &steps, &count));
    LsStatus status = LS_OK;
    for (size_t i = count; i-- > 0 && status == LS_OK && steps[i] > step;)
        status = remove_checkpoint(run, steps[i]);
    free(steps);
    return status;
}

LsStatus ls_checkpoint_retain(const LsRunDir *run, const LsRetention *retention, bool *complete)
{
    int64_t *steps = NULL;
    size_t count = 0;
    bool *kept = NULL;
    *complete = true;
    LS_TRY(ls_run_dir_require_current(run));
    LS_TRY(ls_checkpoint_list(run->path, &steps, &count));
    LsStatus status = ls_memory_allocate(count + 1, (void **)&kept);
    if (status == LS_OK && choose(run, retention, steps, count, kept) > 0) {
        *complete = keep_two_good(run, retention, steps, count, kept);
        if (*complete)
            status = remove_others(run, retention, steps, count, kept);
    }
    free(kept);
    free(steps);
    if (status == LS_OK && !retention->dry_run)
        status = ls_checkpoint_remove_unfinished(run);
    return status;
}
