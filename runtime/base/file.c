#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

LsStatus ls_file_fail(const char *action, const char *path)
{
    int reason = errno;
    return LS_FAIL(
        reason == ENOENT ? LS_NO_INPUT : LS_IO, "cannot %s %s: %s", action, path, strerror(reason));
}

// As ls_file_fail, for what is written: a directory that is not there is no missing input.
static LsStatus fail_write(const char *action, const char *path)
{
    int reason = errno;
    return LS_FAIL(LS_IO, "cannot %s %s: %s", action, path, strerror(reason));
}

LsStatus ls_path_join(char path[LS_PATH_MAX], const char *directory, const char *name)
{
    size_t length = strlen(directory);
    const char *slash = length == 0 || directory[length - 1] == '/' ? "" : "/";
    if (length + strlen(slash) + strlen(name) >= LS_PATH_MAX)
        return LS_FAIL(LS_CONFIG, "the path %.60s…/%.60s is longer than %d bytes; use a shorter one",
            directory, name, LS_PATH_MAX - 1);
    memmove(path, directory, length + 1); // `path` and `directory` may be the same
    strcat(path, slash);
    strcat(path, name);
    return LS_OK;
}

bool ls_file_exists(const char *path)
{
    struct stat information;
    return stat(path, &information) == 0;
}

bool ls_directory_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// Reads until the end of the file or until there is more than `limit`. Sizes are found by reading, since a
// pipe has none and a file may grow.
static LsStatus read_all(int fd, const char *path, size_t limit, char **data, size_t *size)
{
    struct stat information;
    if (fstat(fd, &information) != 0)
        return ls_file_fail("examine", path);
    size_t capacity = 4096;
    if (information.st_size > 0 && (uint64_t)information.st_size <= limit)
        capacity = (size_t)information.st_size + 2; // room for a byte that shows the end, and the NUL
    char *buffer = malloc(capacity);
    size_t used = 0;
    LsStatus status = LS_OK;
    while (buffer != NULL) {
        ssize_t got = read(fd, buffer + used, capacity - 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = ls_file_fail("read", path);
        else if ((used += (size_t)got) > limit)
            status =
                LS_FAIL(LS_BAD_DATA, "%s is larger than the %zu bytes that are allowed for it", path, limit);
        if (got <= 0 || status != LS_OK)
            break;
        if (used == capacity - 1) {
            char *larger = realloc(buffer, capacity *= 2);
            if (larger == NULL)
                free(buffer);
            buffer = larger;
        }
    }
    if (buffer == NULL)
        return LS_FAIL(LS_INTERNAL, "cannot read %s: out of memory", path);
    if (status != LS_OK) {
        free(buffer);
        return status;
    }
    buffer[used] = '\0';
    *data = buffer;
    *size = used;
    return LS_OK;
}

LsStatus ls_file_read(const char *path, size_t limit, char **data, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ls_file_fail("open", path);
    LsStatus status = read_all(fd, path, limit, data, size);
    close(fd);
    return status;
}

LsStatus ls_file_target(const char *path, char target[LS_PATH_MAX])
{
    struct stat information;
    // A file would take the place of what is there: of /dev/null, where one may write there.
    if (stat(path, &information) == 0 && !S_ISREG(information.st_mode))
        return LS_FAIL(LS_IO, "cannot write %s: it is a directory, a device or a pipe", path);
    // /dev/stdout is a link to a file where output goes to one.
    char *followed =
        lstat(path, &information) == 0 && S_ISLNK(information.st_mode) ? realpath(path, NULL) : NULL;
    int length = snprintf(target, LS_PATH_MAX, "%s", followed ? followed : path);
    free(followed);
    if (length >= LS_PATH_MAX)
        return LS_FAIL(LS_IO, "cannot write %.60s…: the path is too long", path);
    return LS_OK;
}

LsStatus ls_file_begin(const char *path, LsFileWrite *out)
{
    uint64_t random;
    LS_TRY(ls_file_target(path, out->path));
    path = out->path;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_write("draw a temporary name for", path);
    int length =
        snprintf(out->temporary, sizeof out->temporary, "%s.tmp-%016llx", path, (unsigned long long)random);
    if (length >= LS_PATH_MAX)
        return LS_FAIL(LS_IO, "cannot write %.60s…: the path is too long", path);
    out->fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out->fd < 0)
        return fail_write("create", out->temporary);
    return LS_OK;
}

// fsync of the directory that holds `path`.
static LsStatus sync_parent(const char *path)
{
    char parent[LS_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        return ls_directory_sync(".");
    slash[slash == parent ? 1 : 0] = '\0';
    return ls_directory_sync(parent);
}

LsStatus ls_file_finish(LsFileWrite *file, LsStatus written)
{
    if (written == LS_OK && fsync(file->fd) != 0)
        written = fail_write("sync", file->temporary);
    if (close(file->fd) != 0 && written == LS_OK)
        written = fail_write("close", file->temporary);
    if (written == LS_OK && rename(file->temporary, file->path) != 0)
        written = fail_write("replace", file->path);
    if (written != LS_OK) {
        unlink(file->temporary);
        return written;
    }
    return sync_parent(file->path);
}

LsStatus ls_file_replace(const char *path, const void *data, size_t size)
{
    LsFileWrite file;
    LS_TRY(ls_file_begin(path, &file));
    return ls_file_finish(&file, ls_file_write_at(file.fd, file.temporary, data, size, 0));
}

LsStatus ls_file_read_at(int fd, const char *path, void *data, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, (char *)data + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return LS_FAIL(LS_IO, "cannot read %s at byte %llu: %s", path,
                (unsigned long long)(offset + done), strerror(errno));
        if (got == 0)
            return LS_FAIL(LS_BAD_DATA,
                "%s ends at byte %llu, where %zu more bytes should follow; it is truncated", path,
                (unsigned long long)(offset + done), size - done);
        done += (size_t)got;
    }
    return LS_OK;
}

LsStatus ls_file_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t put = pwrite(fd, (const char *)data + done, size - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return LS_FAIL(LS_IO, "cannot write %s at byte %llu: %s", path,
                (unsigned long long)(offset + done), put < 0 ? strerror(errno) : "nothing was written");
        done += (size_t)put;
    }
    return LS_OK;
}

LsStatus ls_directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_write("open", path);
    LsStatus status = LS_OK;
    // Some network file systems cannot sync a directory; they say so, and a rename on them is durable.
    if (fsync(fd) != 0 && errno != EINVAL)
        status = fail_write("sync", path);
    close(fd);
    return status;
}

LsStatus ls_directory_create(const char *path)
{
    char part[LS_PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part)
        return LS_FAIL(LS_IO, "cannot create the directory \"%.60s\": the path is empty or too long", path);
    memcpy(part, path, length + 1);
    for (size_t end = 1; end <= length; end++) {
        if (part[end] != '/' && part[end] != '\0')
            continue;
        part[end] = '\0';
        if (mkdir(part, 0777) != 0) {
            // Another rank may make the same directory at the same time: what counts is that it is there.
            int reason = errno;
            struct stat information;
            bool there = stat(part, &information) == 0 && S_ISDIR(information.st_mode);
            errno = reason;
            if (!there)
                return fail_write("create the directory", part);
        }
        part[end] = end == length ? '\0' : '/';
    }
    return LS_OK;
}

// Removes `name` in the open directory `parent`, and all in it. Works on descriptors, so that a directory
// exchanged for a symbolic link meanwhile is not entered.
static LsStatus remove_entry(int parent, const char *name, const char *shown)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return LS_OK;
    if (errno != EISDIR && errno != EPERM)
        return fail_write("remove", shown);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        LsStatus status = fail_write("open", shown);
        if (fd >= 0)
            close(fd);
        return status;
    }
    LsStatus status = LS_OK;
    struct dirent *entry;
    while (status == LS_OK && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        status = remove_entry(dirfd(directory), entry->d_name, shown);
    }
    closedir(directory);
    if (status == LS_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        status = fail_write("remove", shown);
    return status;
}

LsStatus ls_directory_remove(const char *path)
{
    char bare[LS_PATH_MAX]; // without a slash at its end, which would make the kernel follow a link
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length >= sizeof bare)
        return LS_FAIL(LS_IO, "cannot remove the directory %.60s…: the path is too long", path);
    memcpy(bare, path, length);
    bare[length] = '\0';

    struct stat information;
    if (lstat(bare, &information) != 0)
        return errno == ENOENT ? LS_OK : fail_write("examine", bare);
    if (!S_ISDIR(information.st_mode))
        return LS_FAIL(LS_IO, "cannot remove the directory %s: it is not a directory", bare);
    return remove_entry(AT_FDCWD, bare, bare);
}
