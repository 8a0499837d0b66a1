// Which checkpoints a run has, and which of them it keeps.
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "manifest.h"

enum { DIGITS_MIN = 8, DIGITS_MAX = 18 };

void ls_checkpoint_path(char path[LS_PATH_MAX], const char *run, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoints/step-%08" PRId64, step);
    // A path that does not fit names no file, and whoever opens it says so.
    if (ls_path_join(path, run, name) != LS_OK)
        path[0] = '\0';
}

// The step of a directory's name, -1 for another name. Only the name that the step has: no more zeros.
static int64_t step_of(const char *name)
{
    static const char prefix[] = "step-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t count = strlen(digits);
    if (count < DIGITS_MIN || count > DIGITS_MAX || strspn(digits, "0123456789") != count ||
        (count > DIGITS_MIN && digits[0] == '0'))
        return -1;
    return strtoll(digits, NULL, 10);
}

static LsStatus open_checkpoints(const char *run, char path[LS_PATH_MAX], DIR **out)
{
    LS_TRY(ls_path_join(path, run, "checkpoints"));
    *out = opendir(path);
    if (*out == NULL && errno != ENOENT)
        return LS_FAIL(LS_IO, "cannot list %s: %s", path, strerror(errno));
    return LS_OK;
}

static int compare_steps(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static bool append_step(int64_t step, int64_t **steps, size_t *count, size_t *capacity)
{
    if (*count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 16;
        int64_t *larger = realloc(*steps, *capacity * sizeof **steps);
        if (larger == NULL)
            return false;
        *steps = larger;
    }
    (*steps)[(*count)++] = step;
    return true;
}

static LsStatus list_directories(const char *run, bool with_manifest, int64_t **steps, size_t *count)
{
    char path[LS_PATH_MAX], manifest[LS_PATH_MAX];
    DIR *directory;
    LS_TRY(open_checkpoints(run, path, &directory));
    int64_t *list = NULL;
    size_t used = 0, capacity = 0;
    struct dirent *entry;
    LsStatus status = LS_OK;
    while (status == LS_OK && directory != NULL && (entry = readdir(directory)) != NULL) {
        int64_t step = step_of(entry->d_name);
        if (step < 0)
            continue;
        status = ls_path_join(manifest, path, entry->d_name);
        if (status == LS_OK)
            status = ls_path_join(manifest, manifest, LS_MANIFEST_NAME);
        bool wanted = status == LS_OK && (!with_manifest || ls_file_exists(manifest));
        if (wanted && !append_step(step, &list, &used, &capacity))
            status = LS_FAIL(LS_INTERNAL, "out of memory listing %s", path);
    }
    if (directory != NULL)
        closedir(directory);
    if (status != LS_OK) {
        free(list);
        return status;
    }
    if (used > 0)
        qsort(list, used, sizeof *list, compare_steps);
    *steps = list;
    *count = used;
    return LS_OK;
}

LsStatus ls_checkpoint_list(const char *run, int64_t **steps, size_t *count)
{
    return list_directories(run, true, steps, count);
}

LsStatus ls_checkpoint_list_claimed(const char *run, int64_t **steps, size_t *count)
{
    return list_directories(run, false, steps, count);
}

// ---- Retention ------------------------------------------------------------------------------------------

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

// Whether a directory is the unfinished work of an attempt before this one: ".…-<run id>-<attempt>". This
// attempt's own may be in use.
static bool is_stale(const LsRunDir *run, const char *name)
{
    const char *dash = strrchr(name, '-');
    if (name[0] != '.' || dash == NULL || dash - name < 34 || dash[-33] != '-')
        return false;
    size_t digits = strlen(dash + 1);
    if (strspn(dash - 32, "0123456789abcdef") != 32 || digits < 6 || digits > 9 ||
        strspn(dash + 1, "0123456789") != digits)
        return false;
    return strncmp(dash - 32, run->run_id, 32) != 0 || atoi(dash + 1) < run->attempt;
}

static LsStatus remove_stale(const LsRunDir *run)
{
    char path[LS_PATH_MAX], stale[LS_PATH_MAX];
    DIR *directory;
    LS_TRY(open_checkpoints(run->path, path, &directory));
    LsStatus status = LS_OK;
    struct dirent *entry;
    while (status == LS_OK && directory != NULL && (entry = readdir(directory)) != NULL) {
        if (!is_stale(run, entry->d_name))
            continue;
        status = ls_path_join(stale, path, entry->d_name);
        if (status == LS_OK)
            status = ls_directory_remove(stale);
    }
    if (directory != NULL)
        closedir(directory);
    return status;
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

LsStatus ls_checkpoint_retain(const LsRunDir *run, int64_t keep_last, int64_t keep_every, int64_t best_step)
{
    // The newest is what a resume wants, the one before it what it falls back to.
    size_t last = keep_last > 2 ? (size_t)keep_last : 2;
    int64_t *steps;
    size_t count;
    LS_TRY(ls_run_dir_require_current(run));
    LS_TRY(ls_checkpoint_list(run->path, &steps, &count));
    LsStatus status = LS_OK;
    int64_t target = -1;
    if (run->rollback_every > 0)
        target = ls_checkpoint_before(steps, count, INT64_MAX, run->rollback_every);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        bool kept = steps[i] == target || count - i <= last ||
                    (keep_every > 0 && steps[i] % keep_every == 0) || steps[i] == best_step;
        if (!kept)
            status = remove_checkpoint(run, steps[i]);
    }
    free(steps);
    LS_TRY(status);
    return remove_stale(run);
}

LsStatus ls_checkpoint_find(const char *named, char path[LS_PATH_MAX])
{
    char probe[LS_PATH_MAX];
    LS_TRY(ls_path_join(probe, named, "manifest.json"));
    bool checkpoint = ls_file_exists(probe);
    LS_TRY(ls_path_join(probe, named, "checkpoints"));
    if (checkpoint || !ls_file_exists(probe)) {
        if (strlen(named) >= LS_PATH_MAX)
            return LS_FAIL(LS_NO_INPUT, "%.64s…: the path is too long", named);
        strcpy(path, named);
        return LS_OK;
    }
    int64_t *steps = NULL;
    size_t count = 0;
    LS_TRY(ls_checkpoint_list(named, &steps, &count));
    if (count == 0)
        return LS_FAIL(LS_NO_INPUT, "%s: the run has no checkpoint yet", named);
    ls_checkpoint_path(path, named, steps[count - 1]);
    free(steps);
    return LS_OK;
}
