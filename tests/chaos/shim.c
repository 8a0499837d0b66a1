// What the chaos suite puts between a run and its machine: an LD_PRELOAD library for every process of a run.
//
// - Writes below CHAOS_ROOT can fail (no space, I/O error, short), reads of checkpoints too, on one rank or
//   on all.
// - The wall clock can jump. The monotonic clock goes on, as it does on a real machine.
// - Locks can be granted to everybody, as a network file system does that has lost its lock server.
// - The machine can die: at a chosen write everything stops where it is, and power.py takes back what was
//   not synced. For that each change is recorded in CHAOS_JOURNAL with what was there before.
// - Which training samples the loader takes from the data set is noted, since a row says which one it is.
//
// What the journal models: bytes that were not followed by an fsync of their file, and names that were not
// followed by an fsync of their directory, may be lost; of the names the later ones go first, as in a
// journaling file system. Real syncing is left out, since nothing here is real. What it does not model: a
// disk that lies about an fsync, bytes that rot (faults.py damages files itself), and file systems that lose
// names in any order. Text that goes through stdio (metrics.jsonl, events.jsonl) is known by the growth of
// its file since its last fsync.
//
// session.py maps the same control file; see Control there.
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC visibility push(default) // what is defined here takes the place of the C library's

enum { FD_MAX = 1024, BLOCK = 4096 };

Shim shim = {.ranks = 1};
static bool tracked[FD_MAX], steps_of[FD_MAX];

#define REAL(name)                                                                                           \
    static __typeof__(&name) real_##name;                                                                    \
    if (!real_##name)                                                                                        \
    real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

// ---- Set-up ---------------------------------------------------------------------------------------------

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

// A supervisor's directory in shared memory is to be gone in the end: here it is named.
static void note_scratch(void)
{
    char name[PATH_LIMIT];
    const char *path = getenv("LOCKSTEP_SCRATCH"), *slash = path ? strrchr(path, '/') : NULL;
    if (!slash)
        return;
    snprintf(name, sizeof name, "%s/%s.scratch", shim.journal, slash + 1);
    int link = (int)syscall(SYS_symlinkat, path, AT_FDCWD, name);
    (void)link; // another rank was first
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_CONTROL");
    shim.root = getenv("CHAOS_ROOT");
    shim.journal = getenv("CHAOS_JOURNAL");
    if (!path || !shim.root || !shim.journal)
        return;
    shim.root_size = strlen(shim.root);
    note_scratch();
    shim.rank = number("OMPI_COMM_WORLD_RANK", number("SLURM_PROCID", 0));
    shim.ranks = number("OMPI_COMM_WORLD_SIZE", number("SLURM_NTASKS", 1));
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        syscall(SYS_close, fd);
    if (memory != MAP_FAILED)
        shim.control = memory;
}

static bool ours(const char *path)
{
    return shim.control && path && strncmp(path, shim.root, shim.root_size) == 0 &&
           path[shim.root_size] == '/';
}

// The path with `directory`'s in front when it is relative; both of our own files are given whole.
static const char *whole_path(int directory, const char *path, char out[PATH_LIMIT])
{
    if (!shim.control || !path || path[0] == '/')
        return path;
    char link[64];
    ssize_t size;
    snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
    size = readlink(link, out, PATH_LIMIT - 1);
    if (size <= 0 || (size_t)size + strlen(path) + 2 > PATH_LIMIT)
        return path;
    out[size] = '/';
    strcpy(out + size + 1, path);
    return out;
}

static bool is_tracked(int fd)
{
    return shim.control && fd >= 0 && fd < FD_MAX && tracked[fd];
}

// ---- Faults ---------------------------------------------------------------------------------------------

static void stop_when_dead(void)
{
    while (shim.control && atomic_load(&shim.control->dead))
        usleep(1000);
}

static void sleep_microseconds(int32_t delay)
{
    if (delay > 0)
        usleep((useconds_t)delay);
}

static bool strikes(Fault first, Fault last)
{
    int32_t fault = atomic_load(&shim.control->fault), only = atomic_load(&shim.control->fault_rank);
    if (fault < (int32_t)first || fault > (int32_t)last || (only >= 0 && only != shim.rank))
        return false;
    if (atomic_fetch_sub(&shim.control->fault_skip, 1) > 0 ||
        atomic_fetch_sub(&shim.control->fault_count, 1) <= 0)
        return false;
    atomic_fetch_add(&shim.control->fault_hits, 1);
    return true;
}

// Before every change below the root: the errno with which it fails, 0 for none. *shortened: it writes a
// part.
static int gate(bool *shortened)
{
    stop_when_dead();
    int32_t left = atomic_load(&shim.control->crash_after);
    if (left > 0 && atomic_fetch_sub(&shim.control->crash_after, 1) == 1) {
        atomic_store(&shim.control->dead, 1);
        stop_when_dead();
    }
    if (!strikes(FAULT_SPACE, FAULT_SHORT))
        return 0;
    int32_t fault = atomic_load(&shim.control->fault);
    if (fault == FAULT_SHORT) {
        if (shortened)
            *shortened = true;
        return 0;
    }
    return fault == FAULT_SPACE ? ENOSPC : EIO;
}

static bool refused(void)
{
    int error = gate(NULL);
    if (error)
        errno = error;
    return error != 0;
}

// ---- Files ----------------------------------------------------------------------------------------------

static int opened(int fd, const char *path, int flags, bool existed)
{
    if (fd < 0 || fd >= FD_MAX)
        return fd;
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    tracked[fd] = true;
    const char *slash = strrchr(path, '/');
    steps_of[fd] = writes && slash && strcmp(slash, "/metrics.jsonl") == 0;
    if (writes && existed)
        shim_record_file(KIND_OPEN, fd);
    return fd;
}

static int open_file(int directory, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_LIMIT];
    const char *full = whole_path(directory, path, buffer);
    if (!ours(full))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    bool existed = access(full, F_OK) == 0;
    if ((flags & O_CREAT) && !existed) {
        if (refused())
            return -1;
        shim_record_name(KIND_CREATE, full, NULL, NULL);
    }
    int fd = (int)syscall(SYS_openat, directory, path, flags, mode);
    opened(fd, full, flags, existed);
    if (fd >= 0 && !existed)
        shim_record_file(KIND_OPEN, fd);
    return fd;
}

#define OPEN_MODE(flags, mode)                                                                               \
    mode_t mode = 0;                                                                                         \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                   \
        va_list list;                                                                                        \
        va_start(list, flags);                                                                               \
        mode = va_arg(list, mode_t);                                                                         \
        va_end(list);                                                                                        \
    }

int open(const char *path, int flags, ...)
{
    OPEN_MODE(flags, mode)
    return open_file(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    OPEN_MODE(flags, mode)
    return open_file(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    OPEN_MODE(flags, mode)
    return open_file(directory, path, flags, mode);
}

int close(int fd)
{
    REAL(close);
    if (fd >= 0 && fd < FD_MAX)
        tracked[fd] = steps_of[fd] = false;
    return real_close(fd);
}

int fclose(FILE *file)
{
    REAL(fclose);
    int fd = fileno(file);
    if (fd >= 0 && fd < FD_MAX)
        tracked[fd] = steps_of[fd] = false;
    return real_fclose(file);
}

// A third of it, which past the page cache has to be whole blocks.
static size_t shorter(int fd, size_t size)
{
    size_t part = size / 3 + 1;
    if (!(fcntl(fd, F_GETFL) & O_DIRECT))
        return part;
    return part < BLOCK ? size : part / BLOCK * BLOCK;
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset)
{
    bool shortened = false;
    stop_when_dead();
    sleep_microseconds(atomic_load(&shim.control->write_delay));
    int error = gate(&shortened), before_error = errno;
    if (error)
        return errno = error, -1;
    if (shortened && size > 1)
        size = shorter(fd, size);
    struct stat information = {0};
    fstat(fd, &information);
    int64_t got;
    void *before = shim_read_before(fd, offset, size, &got);
    errno = before_error;
    ssize_t written = syscall(SYS_pwrite64, fd, data, size, offset);
    int after_error = errno;
    Record r = {.sequence = shim_next_number(),
        .kind = KIND_WRITE,
        .inode = (int64_t)information.st_ino,
        .offset = offset,
        .size = written,
        .bytes = got};
    if (written > 0)
        shim_record(&r, NULL, NULL, before);
    free(before);
    errno = after_error;
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return is_tracked(fd) ? write_at(fd, data, size, offset) : syscall(SYS_pwrite64, fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    return pwrite(fd, data, size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    if (is_tracked(fd) && strikes(FAULT_READ, FAULT_READ))
        return errno = EIO, -1;
    return syscall(SYS_pread64, fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset)
{
    return pread(fd, data, size, offset);
}

static int change_size(int fd, off_t size, int (*change)(int, off_t))
{
    if (refused())
        return -1;
    struct stat information = {0};
    fstat(fd, &information);
    int64_t got = 0;
    size_t cut = size < information.st_size ? (size_t)(information.st_size - size) : 0;
    void *before = cut > 0 ? shim_read_before(fd, size, cut, &got) : NULL;
    Record r = {.sequence = shim_next_number(),
        .kind = KIND_SIZE,
        .inode = (int64_t)information.st_ino,
        .offset = size,
        .size = (int64_t)information.st_size,
        .bytes = got};
    if (size != information.st_size)
        shim_record(&r, NULL, NULL, before);
    free(before);
    return change(fd, size);
}

static int truncate_now(int fd, off_t size)
{
    return (int)syscall(SYS_ftruncate, fd, size);
}

int ftruncate(int fd, off_t size)
{
    return is_tracked(fd) ? change_size(fd, size, truncate_now) : truncate_now(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    if (is_tracked(fd) && refused())
        return -1;
    return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

int fsync(int fd)
{
    if (!is_tracked(fd))
        return (int)syscall(SYS_fsync, fd);
    stop_when_dead();
    sleep_microseconds(atomic_load(&shim.control->sync_delay));
    stop_when_dead();
    if (strikes(FAULT_SYNC, FAULT_SYNC))
        return errno = EIO, -1;
    shim_record_file(KIND_SYNC, fd);
    return 0;
}

int fdatasync(int fd)
{
    return is_tracked(fd) ? fsync(fd) : (int)syscall(SYS_fdatasync, fd);
}

// stdio's own writes pass by the library: what it is asked to flush is looked at instead.
int fflush(FILE *file)
{
    REAL(fflush);
    int fd = file ? fileno(file) : -1;
    if (!is_tracked(fd))
        return real_fflush(file);
    if (refused())
        return EOF;
    int result = real_fflush(file);
    if (steps_of[fd])
        sleep_microseconds(atomic_load(&shim.control->step_delay));
    return result;
}

int flock(int fd, int operation)
{
    if (is_tracked(fd) && atomic_load(&shim.control->lock_lies))
        return 0;
    return (int)syscall(SYS_flock, fd, operation);
}

// ---- Names ----------------------------------------------------------------------------------------------

// The attempt that this process has just claimed, or 0.
static int claimed_attempt(const char *path)
{
    const char *slash = strrchr(path, '/');
    static const char folder[] = "/attempts";
    size_t length = slash ? (size_t)(slash - path) : 0, size = sizeof folder - 1;
    if (length < size || strncmp(slash - size, folder, size) != 0)
        return 0;
    return atoi(slash + 1);
}

int mkdir(const char *path, mode_t mode)
{
    char buffer[PATH_LIMIT];
    const char *full = whole_path(AT_FDCWD, path, buffer);
    bool makes = ours(full) && access(full, F_OK) != 0;
    if (makes && refused())
        return -1;
    if (makes)
        shim_record_name(KIND_MKDIR, full, NULL, NULL);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (makes && result == 0 && claimed_attempt(full) > 0)
        shim.attempt = claimed_attempt(full);
    return result;
}

static int remove_name(int directory, const char *path, int flags)
{
    char buffer[PATH_LIMIT];
    struct stat information;
    const char *full = whole_path(directory, path, buffer);
    if (ours(full) && lstat(full, &information) == 0) {
        stop_when_dead();
        bool folder = (flags & AT_REMOVEDIR) != 0;
        if (folder == S_ISDIR(information.st_mode)) // else it will be refused
            shim_record_name(folder ? KIND_RMDIR : KIND_UNLINK, full, NULL, folder ? NULL : full);
    }
    return (int)syscall(SYS_unlinkat, directory, path, flags);
}

int unlink(const char *path)
{
    return remove_name(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return remove_name(AT_FDCWD, path, AT_REMOVEDIR);
}

int unlinkat(int directory, const char *path, int flags)
{
    return remove_name(directory, path, flags);
}

int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags)
{
    char from_buffer[PATH_LIMIT], to_buffer[PATH_LIMIT];
    const char *source = whole_path(from_directory, from, from_buffer);
    const char *target = whole_path(to_directory, to, to_buffer);
    if (ours(source)) {
        if (refused())
            return -1;
        struct stat information;
        bool replaces = lstat(target, &information) == 0;
        bool exchanges = (flags & RENAME_EXCHANGE) != 0;
        // A directory that is not empty stays, and the caller finds another way.
        if (exchanges)
            shim_record_name(KIND_EXCHANGE, source, target, NULL);
        else if (!replaces || !S_ISDIR(information.st_mode))
            shim_record_name(KIND_RENAME, source, target, replaces ? target : NULL);
    }
    return (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}
