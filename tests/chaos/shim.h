// What the parts of the shim share. See shim.c.
#ifndef LOCKSTEP_CHAOS_SHIM_H
#define LOCKSTEP_CHAOS_SHIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#pragma GCC visibility push(hidden) // only what takes the C library's place is seen from outside

enum { PATH_LIMIT = 4096 };

typedef enum Fault { FAULT_NONE, FAULT_SPACE, FAULT_IO, FAULT_SHORT, FAULT_SYNC, FAULT_READ } Fault;

// Shared by all processes of a session. Little-endian, in this order; session.py writes it.
typedef struct Control {
    _Atomic int64_t clock_offset; // nanoseconds
    _Atomic int64_t sequence;     // of records
    _Atomic int32_t fault;
    _Atomic int32_t fault_rank;  // -1: any
    _Atomic int32_t fault_skip;  // operations of its class that still succeed
    _Atomic int32_t fault_count; // operations that fail then
    _Atomic int32_t fault_hits;  // those that have failed
    _Atomic int32_t step_delay;  // microseconds of a step, on rank 0
    _Atomic int32_t sync_delay;  // microseconds of an fsync
    _Atomic int32_t write_delay; // microseconds of a write at an offset
    _Atomic int32_t lock_lies;   // locks are granted to everybody
    _Atomic int32_t crash_after; // writes until the machine dies; 0: never
    _Atomic int32_t dead;        // it has died: whoever wants to change anything stops there
} Control;

typedef enum Kind {
    KIND_OPEN = 1, // a file opened for writing, and its size then
    KIND_WRITE,    // bytes: what was there before
    KIND_SIZE,     // its size changed; bytes: what was cut off
    KIND_SYNC,     // a file (and its size) or a directory is durable
    KIND_CREATE,   // names, from here on; `inode` is the directory's
    KIND_MKDIR,
    KIND_UNLINK, // a link to the file is kept in the journal under the record's number
    KIND_RMDIR,
    KIND_RENAME, // as KIND_UNLINK for what was replaced
    KIND_EXCHANGE
} Kind;

typedef struct Record {
    int64_t sequence;
    int32_t kind, path_size, other_size, padding;
    int64_t inode, offset, size, bytes;
} Record;

typedef struct Shim {
    Control *control; // NULL: this process is none of a session
    const char *root, *journal;
    size_t root_size;
    int rank, ranks, attempt;
} Shim;

extern Shim shim;

// ---- The journal: shim_journal.c ------------------------------------------------------------------------

int64_t shim_next_number(void);
void shim_record(Record *r, const char *path, const char *other, const void *bytes);

// A change of names, recorded before it happens: taking back what did not happen does nothing. `replaced`:
// what is to be kept for that, NULL: nothing.
void shim_record_name(Kind kind, const char *path, const char *other, const char *replaced);
void shim_record_file(Kind kind, int fd);

// What is at [offset, offset + size) of the file now, as far as there is something. Freed by the caller.
void *shim_read_before(int fd, off_t offset, size_t size, int64_t *got);

#pragma GCC visibility pop
#endif
