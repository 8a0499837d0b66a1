// Memory that the processes of one machine share: each has segments of its own, and maps the others' to read.
//
// A segment is a memory file without a name, which the others open through the owner's /proc/PID/fd: nothing
// is left behind however a process ends, and the size of /dev/shm (64 MiB in many containers) does not bound
// it. Private to this layer.
#ifndef LOCKSTEP_COLLECTIVES_SHARED_MEMORY_H
#define LOCKSTEP_COLLECTIVES_SHARED_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct LsSegment {
    void *memory; // page-aligned; zeroed when new
    size_t bytes;
    int fd;
} LsSegment;

// What another process needs to find memory in a segment. fd < 0: there is none.
typedef struct LsSegmentAddress {
    int32_t process, fd;
    uint64_t offset, bytes; // of the memory in its segment
    uint64_t device, inode; // of the file: another PID namespace may have other files under the same numbers
} LsSegmentAddress;

// Where there are several memory nodes, a page lies on that of the process which first writes it. Huge pages
// are taken when a segment is made: they lie on the maker's node, or in turn on all nodes.
typedef enum LsSegmentWriter {
    LS_SEGMENT_MINE, // written by its maker
    LS_SEGMENT_OURS  // by several processes, a part by each
} LsSegmentWriter;

// In huge pages where the system has some set aside, else in pages that it may make huge. LS_INTERNAL when
// memory is short, LS_UNAVAILABLE where the system has no such files.
LsStatus ls_segment_create(size_t bytes, LsSegmentWriter writer, LsSegment *out);
void ls_segment_destroy(LsSegment *segment); // a zeroed one is fine

typedef enum LsSegmentAccess { LS_SEGMENT_READ, LS_SEGMENT_WRITE } LsSegmentAccess;

// Maps what the address names. *out covers whole pages, *memory is the place asked for.
// LS_UNAVAILABLE where this process cannot reach the other one's: another machine, container or user.
LsStatus ls_segment_map(
    const LsSegmentAddress *address, LsSegmentAccess access, LsSegment *out, const void **memory);

#endif
