// The journal of changes below the root, with what was there before each. See shim.c.
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int journal_fd = -1;

int64_t shim_next_number(void)
{
    return atomic_fetch_add(&shim.control->sequence, 1) + 1;
}

void shim_record(Record *r, const char *path, const char *other, const void *bytes)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (journal_fd < 0) {
        char name[PATH_LIMIT];
        snprintf(name, sizeof name, "%s/%d.journal", shim.journal, (int)getpid());
        journal_fd =
            (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
    r->path_size = path ? (int32_t)strlen(path) : 0;
    r->other_size = other ? (int32_t)strlen(other) : 0;
    struct iovec part[] = {{r, sizeof *r}, {(void *)path, (size_t)r->path_size},
        {(void *)other, (size_t)r->other_size}, {(void *)bytes, (size_t)r->bytes}};
    syscall(SYS_writev, journal_fd, part, 4);
    pthread_mutex_unlock(&lock);
}

static int64_t parent_inode(const char *path)
{
    char parent[PATH_LIMIT];
    struct stat information;
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash)
        return 0;
    *slash = '\0';
    return stat(parent, &information) == 0 ? (int64_t)information.st_ino : 0;
}

void shim_record_name(Kind kind, const char *path, const char *other, const char *replaced)
{
    Record r = {
        .sequence = shim_next_number(), .kind = (int32_t)kind, .inode = parent_inode(other ? other : path)};
    if (replaced) {
        char kept[PATH_LIMIT];
        snprintf(kept, sizeof kept, "%s/%lld.kept", shim.journal, (long long)r.sequence);
        syscall(SYS_linkat, AT_FDCWD, replaced, AT_FDCWD, kept, 0);
    }
    shim_record(&r, path, other, NULL);
}

void shim_record_file(Kind kind, int fd)
{
    struct stat information;
    if (fstat(fd, &information) != 0)
        return;
    Record r = {.sequence = shim_next_number(),
        .kind = (int32_t)kind,
        .inode = (int64_t)information.st_ino,
        .size = (int64_t)information.st_size};
    shim_record(&r, NULL, NULL, NULL);
}

void *shim_read_before(int fd, off_t offset, size_t size, int64_t *got)
{
    char link[64];
    void *bytes = malloc(size ? size : 1);
    *got = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd); // it may be open for writing only
    int reader = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    if (bytes && reader >= 0) {
        ssize_t length = syscall(SYS_pread64, reader, bytes, size, offset);
        *got = length > 0 ? length : 0;
    }
    if (reader >= 0)
        syscall(SYS_close, reader);
    return bytes;
}
