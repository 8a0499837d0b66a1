// The strict device's state, and what its three files share: memory and the device itself (strict_device.c),
// copies, streams and markers (strict_copies.c), ops (strict_ops.c).
#ifndef LOCKSTEP_TESTS_STRICT_STATE_H
#define LOCKSTEP_TESTS_STRICT_STATE_H

#include "strict_device.h"

typedef struct Allocation {
    char *map; // one guard page, pages, one guard page
    size_t map_bytes;
    char *memory; // what the caller has, NULL once it is released
    size_t bytes;
} Allocation;

// How far each stream is known to have come: number of copies enqueued in it.
typedef struct Progress {
    uint64_t copies[LS_STREAMS];
} Progress;

struct LsMarker {
    bool recorded, asked;
    Progress progress;
};

// A copy that the host may not yet rely on.
typedef struct Pending {
    char *host;
    void *snapshot; // what arrives (copy_out), or what was there (copy_in)
    size_t bytes;
    bool arrives;
    LsStream stream;
    uint64_t number; // in its stream
} Pending;

typedef struct HostMemory {
    char *memory;
    size_t bytes;
} HostMemory;

typedef struct StrictDevice {
    LsDevice base;
    LsDeviceOps ops;
    LsDevice *inner;
    size_t page;
    Allocation *allocations;
    size_t allocation_count;
    HostMemory *host;
    size_t host_count;
    Pending *pending;
    size_t pending_count;
    LsMarker **markers;
    size_t marker_count;
    LsStream stream;              // selected
    Progress streams[LS_STREAMS]; // what each has waited for, and its own copies
} StrictDevice;

// Appends a zeroed element to a growing array.
LsStatus ls_strict_append(void **array, size_t *count, size_t element);

// Whether the address is in living memory from allocate_host.
bool ls_strict_is_pinned(const StrictDevice *strict, const char *memory);

// A piece of device memory that an op reads or writes.
typedef struct Span {
    const char *name;
    const void *memory; // NULL: an optional argument that is not given
    size_t bytes;
    bool written;
} Span;

// Checks every span before it opens any. Closed again by ls_strict_close_spans.
LsStatus ls_strict_open_spans(const StrictDevice *strict, const char *op, size_t count, const Span *spans);
void ls_strict_close_spans(const StrictDevice *strict, size_t count, const Span *spans);

// LS_INTERNAL if an argument that is read on the host is device memory.
LsStatus ls_strict_check_host(
    const StrictDevice *strict, const char *op, const char *name, const void *memory);

// Put their functions into the table.
void ls_strict_add_copies(LsDeviceOps *ops);
void ls_strict_add_ops(LsDeviceOps *ops);

#define COUNT(array) (sizeof(array) / sizeof *(array))

// Runs one op of the inner device with exactly the spans open.
#define RUN_SPANS(device, op, count, spans, args)                                                            \
    do {                                                                                                     \
        StrictDevice *strict_ = (StrictDevice *)(device);                                                    \
        LS_TRY(ls_strict_open_spans(strict_, #op, count, spans));                                            \
        LsStatus status_ = strict_->inner->ops->op(strict_->inner, args);                                    \
        ls_strict_close_spans(strict_, count, spans);                                                        \
        return status_;                                                                                      \
    } while (0)
#define RUN(device, op, spans, args) RUN_SPANS(device, op, COUNT(spans), spans, args)

static inline size_t ls_strict_bytes(LsDtype type, size_t count)
{
    return ls_dtype_size(type) * count;
}

void ls_strict_add_image_ops(LsDeviceOps *ops);

#endif
