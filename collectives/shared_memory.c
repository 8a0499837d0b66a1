#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory.h"

// Younger than the headers of some systems.
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { HUGE_PAGE = 2 << 20 };

static LsStatus map_new(int fd, size_t bytes, LsSegment *out)
{
    if (ftruncate(fd, (off_t)bytes) != 0)
        return LS_FAIL(LS_INTERNAL, "cannot make %zu bytes of shared memory: %s", bytes, strerror(errno));
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return LS_FAIL(LS_INTERNAL, "cannot map %zu bytes of shared memory: %s", bytes, strerror(errno));
    *out = (LsSegment){.memory = memory, .bytes = bytes, .fd = fd};
    return LS_OK;
}

// Pages that are not there yet will come from all memory nodes that this process may use, in turn. Where
// that cannot be had, they come from wherever they come.
static void spread(void *memory, size_t bytes)
{
    enum { INTERLEAVE = 3, ALLOWED = 4, NODES = 1024, WORD = 8 * sizeof(unsigned long) }; // of the kernel
    unsigned long nodes[NODES / WORD] = {0};
    if (syscall(SYS_get_mempolicy, NULL, nodes, (unsigned long)NODES, NULL, (unsigned long)ALLOWED) == 0)
        syscall(SYS_mbind, memory, bytes, INTERLEAVE, nodes, (unsigned long)NODES, 0U);
}

// False where there are not enough huge pages set aside. They are taken at once: a page that is missing
// later would end the process.
static bool create_huge(size_t bytes, LsSegmentWriter writer, LsSegment *out)
{
    size_t rounded = ls_round_up(bytes, HUGE_PAGE);
    int fd = memfd_create("lockstep", MFD_CLOEXEC | MFD_HUGETLB);
    if (fd < 0)
        return false;
    if (map_new(fd, rounded, out) == LS_OK) {
        if (writer == LS_SEGMENT_OURS)
            spread(out->memory, rounded);
        if (madvise(out->memory, rounded, MADV_POPULATE_WRITE) == 0)
            return true;
        munmap(out->memory, rounded);
    }
    close(fd);
    *out = (LsSegment){.fd = -1};
    return false;
}

LsStatus ls_segment_create(size_t bytes, LsSegmentWriter writer, LsSegment *out)
{
    if (bytes >= HUGE_PAGE && create_huge(bytes, writer, out))
        return LS_OK;
    int fd = memfd_create("lockstep", MFD_CLOEXEC);
    if (fd < 0)
        return LS_FAIL(LS_UNAVAILABLE, "this system has no memory files: %s", strerror(errno));
    size_t rounded = ls_round_up(bytes ? bytes : 1, (size_t)sysconf(_SC_PAGESIZE));
    LsStatus status = map_new(fd, rounded, out);
    if (status != LS_OK) {
        close(fd);
        return status;
    }
    madvise(out->memory, rounded, MADV_HUGEPAGE); // a hint, which most systems do not take
    return LS_OK;
}

void ls_segment_destroy(LsSegment *segment)
{
    if (!segment->memory)
        return;
    munmap(segment->memory, segment->bytes);
    if (segment->fd >= 0)
        close(segment->fd);
    *segment = (LsSegment){.fd = -1};
}

LsStatus ls_segment_map(
    const LsSegmentAddress *address, LsSegmentAccess access, LsSegment *out, const void **memory)
{
    bool writes = access == LS_SEGMENT_WRITE;
    char path[64];
    struct stat file;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)address->process, (int)address->fd);
    int fd = open(path, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return LS_FAIL(LS_UNAVAILABLE, "cannot open %s: %s", path, strerror(errno));
    LsStatus status = LS_OK;
    if (fstat(fd, &file) != 0 || file.st_dev != address->device || file.st_ino != address->inode)
        status = LS_FAIL(LS_UNAVAILABLE, "%s is another process's", path);
    size_t start = 0, bytes = 0;
    void *mapped = MAP_FAILED;
    if (status == LS_OK) {
        size_t page = (size_t)file.st_blksize; // of what the file consists of
        start = address->offset / page * page;
        bytes = ls_round_up(address->offset + address->bytes, page) - start;
        mapped = mmap(NULL, bytes, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, (off_t)start);
        if (mapped == MAP_FAILED)
            status = LS_FAIL(LS_UNAVAILABLE, "cannot map %s: %s", path, strerror(errno));
    }
    close(fd);
    LS_TRY(status);
    madvise(mapped, bytes, MADV_HUGEPAGE);
    *out = (LsSegment){.memory = mapped, .bytes = bytes, .fd = -1};
    *memory = (const char *)mapped + (address->offset - start);
    return LS_OK;
}
