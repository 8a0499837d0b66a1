// Files: whole reads, writes that are either complete or not there, directories.
#ifndef LOCKSTEP_BASE_FILE_H
#define LOCKSTEP_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_PATH_MAX = 4096 };

// Joins with '/' into `path`; LS_CONFIG if it does not fit LS_PATH_MAX.
LsStatus ls_path_join(char path[LS_PATH_MAX], const char *directory, const char *name);

bool ls_file_exists(const char *path);
bool ls_directory_exists(const char *path);

// Reads a whole file into a fresh NUL-terminated buffer that the caller frees. LS_NO_INPUT if it is missing,
// LS_BAD_DATA if it is larger than `limit`, LS_IO otherwise.
LsStatus ls_file_read(const char *path, size_t limit, char **data, size_t *size);

// Replaces a file atomically: temporary name beside it, write, fsync, rename, fsync of the directory.
// LS_IO on failure, and then the old file is as it was; links stay, and what is no regular file is never
// replaced.
LsStatus ls_file_replace(const char *path, const void *data, size_t size);

// What a new file at `path` takes the place of: where links at `path` lead, else `path` itself. LS_IO when
// that is a directory, a device or a pipe, which no file may replace.
LsStatus ls_file_target(const char *path, char target[LS_PATH_MAX]);

// The same for a file that is written in parts, with ls_file_write_at, under a name that no other process on
// any host uses. ls_file_finish puts it in its place when `written` is LS_OK; otherwise it removes it and
// returns `written`.
typedef struct LsFileWrite {
    char path[LS_PATH_MAX]; // where links lead
    char temporary[LS_PATH_MAX];
    int fd;
} LsFileWrite;
LsStatus ls_file_begin(const char *path, LsFileWrite *out);
LsStatus ls_file_finish(LsFileWrite *file, LsStatus written);

// pread and pwrite of exactly `size` bytes; a short or failed transfer is LS_IO (reading past the end of the
// file is LS_BAD_DATA) and names the path and the offset.
LsStatus ls_file_read_at(int fd, const char *path, void *data, size_t size, uint64_t offset);
LsStatus ls_file_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset);

// fsync of a directory, so that a rename in it lasts.
LsStatus ls_directory_sync(const char *path);

// mkdir -p.
LsStatus ls_directory_create(const char *path);

// Removes a directory and all in it; a missing one is fine. Never follows symbolic links:
// those inside are unlinked, and a `path` that is one itself is refused.
LsStatus ls_directory_remove(const char *path);

// Turns errno into LS_NO_INPUT (ENOENT) or LS_IO and a sentence: "cannot <action> <path>: <reason>".
LsStatus ls_file_fail(const char *action, const char *path);

#endif
