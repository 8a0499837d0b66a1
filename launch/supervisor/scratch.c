#include "supervisor/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FORGOTTEN_SECONDS = 3600 }; // a directory without a lock file may be one that is just being made

static const char *const places[] = {"/dev/shm", "/tmp"};
enum { PLACES = sizeof places / sizeof *places };

static void prefix(char text[64])
{
    snprintf(text, 64, "lockstep-%u-", (unsigned)geteuid());
}

// Whether the path is a directory, no link, of this user.
static bool is_ours(const char *path, struct stat *out)
{
    return lstat(path, out) == 0 && S_ISDIR(out->st_mode) && out->st_uid == geteuid();
}

// Opens the lock file and takes the lock; -1 when that fails or somebody else is in the way.
static int hold(const char *path, int kind, int flags)
{
    char name[LS_PATH_MAX];
    if (ls_path_join(name, path, ".lock") != LS_OK)
        return -1;
    int fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd >= 0 && flock(fd, kind | LOCK_NB) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

LsStatus ls_scratch_create(char path[LS_PATH_MAX], int *lock)
{
    char name[64];
    prefix(name);
    for (size_t i = 0; i < PLACES; i++) {
        snprintf(path, LS_PATH_MAX, "%s/%sXXXXXX", places[i], name);
        if (!mkdtemp(path))
            continue;
        *lock = hold(path, LOCK_SH, O_CREAT);
        if (*lock >= 0)
            return LS_OK;
        rmdir(path);
    }
    return LS_FAIL(LS_IO, "cannot create a directory in %s or %s: %s", places[0], places[1], strerror(errno));
}

void ls_scratch_leave(const char *path, int lock)
{
    if (lock < 0)
        return;
    // Atomically from shared to exclusive it cannot go; what is removed here is nobody's in either case.
    bool last = flock(lock, LOCK_EX | LOCK_NB) == 0;
    if (last)
        (void)ls_directory_remove(path);
    close(lock);
}

// ---- A rank's ---------------------------------------------------------------------------------------------

static char joined[LS_PATH_MAX];
static int joined_lock = -1;

void ls_scratch_join(const char *path)
{
    struct stat found;
    char name[64];
    prefix(name);
    const char *last = strrchr(path, '/');
    if (!last || strncmp(last + 1, name, strlen(name)) != 0 || strlen(path) >= sizeof joined)
        return;
    ls_scratch_sweep();
    if ((mkdir(path, 0700) != 0 && errno != EEXIST) || !is_ours(path, &found))
        return;
    joined_lock = hold(path, LOCK_SH, O_CREAT);
    if (joined_lock < 0)
        return;
    snprintf(joined, sizeof joined, "%s", path);
    static const char *const variables[] = {"OMPI_MCA_btl_vader_backing_directory",
        "OMPI_MCA_osc_sm_backing_directory", "OMPI_MCA_osc_rdma_backing_directory"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        setenv(variables[i], path, 0);
}

void ls_scratch_part(void)
{
    ls_scratch_leave(joined, joined_lock);
    joined_lock = -1;
}

// ---- What the dead have left ------------------------------------------------------------------------------

static void sweep_one(const char *path)
{
    struct stat found;
    if (!is_ours(path, &found))
        return;
    int lock = hold(path, LOCK_EX, 0);
    char name[LS_PATH_MAX];
    bool unlocked = lock >= 0;
    if (!unlocked && ls_path_join(name, path, ".lock") == LS_OK && !ls_file_exists(name))
        unlocked = time(NULL) - found.st_mtime > FORGOTTEN_SECONDS;
    if (unlocked)
        (void)ls_directory_remove(path);
    if (lock >= 0)
        close(lock);
}

void ls_scratch_sweep(void)
{
    char name[64], path[LS_PATH_MAX];
    prefix(name);
    for (size_t i = 0; i < PLACES; i++) {
        DIR *directory = opendir(places[i]);
        if (!directory)
            continue;
        struct dirent *entry;
        while ((entry = readdir(directory)) != NULL)
            if (strncmp(entry->d_name, name, strlen(name)) == 0 &&
                ls_path_join(path, places[i], entry->d_name) == LS_OK)
                sweep_one(path);
        closedir(directory);
    }
}
