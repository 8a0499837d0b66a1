// The wall clock, and the ledger of samples. See shim.c.
#include "shim.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#pragma GCC visibility push(default) // what is defined here takes the place of the C library's

enum { ROW_BYTES = 44, ROWS_MAX = 1 << 16, HEADER = 4096 };

// A file of rows: a header of 4,096 bytes, then the numbers of the samples.
typedef struct Rows {
    _Atomic uint32_t count;
    int32_t rank, size, attempt;
    int64_t started; // monotonic nanoseconds
    char job[64];
} Rows;

static Rows *_Atomic rows;
static pthread_mutex_t rows_lock = PTHREAD_MUTEX_INITIALIZER;

// ---- The wall clock -------------------------------------------------------------------------------------

int clock_gettime(clockid_t clock, struct timespec *out)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, out);
    if (result == 0 && shim.control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = atomic_load(&shim.control->clock_offset);
        out->tv_sec += offset / 1000000000;
        out->tv_nsec += offset % 1000000000;
        if (out->tv_nsec < 0) {
            out->tv_nsec += 1000000000;
            out->tv_sec--;
        }
        out->tv_sec += out->tv_nsec / 1000000000;
        out->tv_nsec %= 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

// ---- Samples --------------------------------------------------------------------------------------------

// Mapped, so that what was noted survives a kill.
static Rows *create_rows(void)
{
    char name[PATH_LIMIT];
    const char *job = getenv("PMIX_NAMESPACE"), *launch = getenv("CHAOS_LAUNCH");
    snprintf(name, sizeof name, "%s/%d.rows", shim.journal, (int)getpid());
    size_t size = HEADER + ROWS_MAX * sizeof(uint32_t);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || syscall(SYS_ftruncate, fd, size) != 0)
        abort();
    Rows *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (made == MAP_FAILED)
        abort();
    syscall(SYS_close, fd);
    made->rank = shim.rank;
    made->size = shim.ranks;
    made->attempt = shim.attempt;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    made->started = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    snprintf(made->job, sizeof made->job, "%s %s", launch ? launch : "", job ? job : "");
    return made;
}

static void note_row(const unsigned char *row)
{
    pthread_mutex_lock(&rows_lock);
    if (!rows)
        rows = create_rows();
    uint32_t *list = (uint32_t *)((char *)rows + HEADER);
    uint32_t count = atomic_load(&rows->count);
    if (count == ROWS_MAX)
        abort();
    list[count] = (uint32_t)row[4] | (uint32_t)row[5] << 8;
    atomic_store(&rows->count, count + 1);
    pthread_mutex_unlock(&rows_lock);
}

// A row of the training split begins with four bytes that nothing else begins with, then says which one it
// is.
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    const unsigned char *row = from;
    if (size == ROW_BYTES && shim.control && row[0] == 0xc5 && row[1] == 0x5c && row[2] == 0xa3 &&
        row[3] == 0x3a)
        note_row(row);
    return memmove(to, from, size);
}
