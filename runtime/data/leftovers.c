// A lock tells a living writer from a dead one: the kernel releases it however the writer ends. Where the
// file system has no locks, nothing is removed.
#include "leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static bool is_temporary(const char *name, const char *base)
{
    static const char mark[] = ".tmp-";
    enum { DIGITS = 16 };
    size_t length = strlen(base);
    if (strncmp(name, base, length) != 0 || strncmp(name + length, mark, sizeof mark - 1) != 0)
        return false;
    const char *digits = name + length + sizeof mark - 1;
    return strlen(digits) == DIGITS && strspn(digits, "0123456789abcdef") == DIGITS;
}

bool ls_leftovers_claim(int fd)
{
    struct stat information;
    flock(fd, LOCK_EX); // waits for no longer than somebody takes to remove it
    return fstat(fd, &information) != 0 || information.st_nlink > 0;
}

static void remove_unlocked(int directory, const char *name)
{
    int fd = openat(directory, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(directory, name, 0);
    close(fd);
}

void ls_leftovers_remove(const char *path)
{
    char parent[LS_PATH_MAX] = ".";
    const char *slash = strrchr(path, '/'), *base = slash == NULL ? path : slash + 1;
    size_t length = slash == path ? 1 : slash == NULL ? 0 : (size_t)(slash - path);
    if (length >= sizeof parent)
        return;
    if (length > 0) {
        memcpy(parent, path, length);
        parent[length] = '\0';
    }
    DIR *directory = opendir(parent);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (is_temporary(entry->d_name, base))
            remove_unlocked(dirfd(directory), entry->d_name);
    closedir(directory);
}
