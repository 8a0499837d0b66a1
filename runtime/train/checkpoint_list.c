// Which checkpoints a run has.
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

// ---- What a user names -----------------------------------------------------------------------------------

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
