// Memory of the emulated GPU: one region of addresses, apart from host memory and closed to the host except
// while work runs. New memory is full of 0xFF, a NaN in every float type.
//
// Allocations follow each other in the region and no address is used twice, so that a pointer to freed memory
// points to nothing. Behind each allocation is a guard: the address sanitizer knows it to the byte, and
// without that its bytes are checked when the allocation is freed.
#include "runtime.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "address_sanitizer.h"

enum { ALIGNMENT = 256, GUARD = 256, PAGE = 4096, FRESH = 0xff, GUARDED = 0xa5, PINNED_ALIGNMENT = 4096 };
static const size_t huge_page = (size_t)2 << 20;
static const size_t region_bytes = (size_t)1 << 40;

typedef struct Allocation {
    char *base;
    size_t bytes;
    size_t span; // with the guard
    int device;
    bool pending; // by cudaMallocAsync, until its place in the stream is reached
    bool dying;   // by cudaFreeAsync, likewise
} Allocation;

typedef struct Table { // sorted by base
    Allocation *all;
    size_t count, capacity;
} Table;

typedef struct Pages {
    char *from, *to;
} Pages;

static char *region;
static size_t used; // bytes of the region that were ever allocated
static Table device_table, pinned_table;
static Pages *opened; // the pages of all live allocations, neighbours joined
static size_t opened_count, opened_capacity;
static unsigned open_depth;

// ---- Tables ---------------------------------------------------------------------------------------------

// How many allocations begin at or before an address.
static size_t count_until(const Table *table, const char *address)
{
    size_t low = 0, high = table->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->all[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The allocation that holds all these bytes, or NULL.
static Allocation *find(const Table *table, const void *address, size_t bytes)
{
    const char *from = address;
    size_t index = count_until(table, from);
    if (!index)
        return NULL;
    Allocation *allocation = &table->all[index - 1];
    size_t offset = (size_t)(from - allocation->base);
    return offset <= allocation->bytes && bytes <= allocation->bytes - offset ? allocation : NULL;
}

static void insert(Table *table, const Allocation *allocation)
{
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? 2 * table->capacity : 64;
        table->all = ls_runtime_allocate(table->all, table->capacity * sizeof *table->all);
    }
    size_t index = count_until(table, allocation->base);
    memmove(&table->all[index + 1], &table->all[index], (table->count - index) * sizeof *table->all);
    table->all[index] = *allocation;
    table->count++;
}

static void take_out(Table *table, Allocation *allocation)
{
    size_t index = (size_t)(allocation - table->all);
    table->count--;
    memmove(&table->all[index], &table->all[index + 1], (table->count - index) * sizeof *table->all);
}

// ---- Opening and closing --------------------------------------------------------------------------------

static char *round_down(const char *address, size_t unit)
{
    return region + (size_t)(address - region) / unit * unit;
}

static char *round_up(const char *address, size_t unit)
{
    return round_down(address + unit - 1, unit);
}

// Opens or closes what lies between two addresses. A part of a large page would make small ones of it.
static void protect(const char *from, const char *to, int protection)
{
    for (size_t i = 0; i < opened_count; i++) {
        char *first = opened[i].from > from ? opened[i].from : (char *)from;
        char *last = opened[i].to < to ? opened[i].to : (char *)to;
        if (first < last && mprotect(first, (size_t)(last - first), protection) != 0)
            ls_emulator_fault("device memory cannot be opened or closed (vm.max_map_count?)");
    }
}

static void protect_all(int protection)
{
    if (region)
        protect(region, region + region_bytes, protection);
}

static void list_pages(void)
{
    opened_count = 0;
    for (size_t i = 0; i < device_table.count; i++) {
        const Allocation *a = &device_table.all[i];
        char *from = round_down(a->base, PAGE), *to = round_up(a->base + a->span, PAGE);
        if (a->base + a->span == region + used) // nothing was freed there
            to = round_up(to, huge_page);
        if (opened_count && from <= opened[opened_count - 1].to) {
            opened[opened_count - 1].to = to;
            continue;
        }
        if (opened_count == opened_capacity) {
            opened_capacity = opened_capacity ? 2 * opened_capacity : 64;
            opened = ls_runtime_allocate(opened, opened_capacity * sizeof *opened);
        }
        opened[opened_count++] = (Pages){from, to};
    }
}

void ls_memory_open(void)
{
    if (open_depth++ == 0)
        protect_all(PROT_READ | PROT_WRITE);
}

void ls_memory_close(void)
{
    if (--open_depth == 0)
        protect_all(PROT_NONE);
}

void ls_memory_suspend(void)
{
    if (open_depth)
        protect_all(PROT_NONE);
}

void ls_memory_resume(void)
{
    if (open_depth)
        protect_all(PROT_READ | PROT_WRITE);
}

// ---- What is where --------------------------------------------------------------------------------------

bool ls_memory_is_device(const void *address)
{
    const char *at = address;
    return region && at >= region && at < region + region_bytes;
}

bool ls_memory_is_pinned(const void *address, size_t bytes)
{
    return find(&pinned_table, address, bytes) != NULL;
}

bool ls_emulator_owns(const void *address, size_t bytes)
{
    if (!ls_memory_is_device(address))
        return ls_memory_is_pinned(address, bytes);
    const Allocation *allocation = find(&device_table, address, bytes);
    return allocation && !allocation->pending;
}

static void refuse(const char *what, const void *address, size_t bytes)
{
    const char *at = address;
    if (!ls_memory_is_device(address))
        ls_emulator_fault("%s: %zu bytes at %p are host memory, not device memory", what, bytes, address);
    size_t index = count_until(&device_table, at);
    const Allocation *before = index ? &device_table.all[index - 1] : NULL;
    if (before && at < before->base + before->span)
        ls_emulator_fault("%s: %zu bytes at %p reach beyond an allocation of %zu bytes, from its byte %zd on",
            what, bytes, address, before->bytes, at - before->base);
    ls_emulator_fault(
        "%s: %zu bytes at %p are in no living allocation of device memory (freed?)", what, bytes, address);
}

void ls_memory_require(const char *what, const void *address, size_t bytes, bool running)
{
    const Allocation *allocation = ls_memory_is_device(address) ? find(&device_table, address, bytes) : NULL;
    if (!allocation)
        refuse(what, address, bytes);
    if (running && allocation->pending)
        ls_emulator_fault(
            "%s: %zu bytes at %p are used before their cudaMallocAsync is reached", what, bytes, address);
}

void ls_memory_require_host(const char *what, const void *address, size_t bytes)
{
    if (ls_memory_is_device(address))
        ls_emulator_fault("%s: %zu bytes at %p are device memory, not host memory", what, bytes, address);
}

// ---- Device memory --------------------------------------------------------------------------------------

static void reserve_region(void)
{
    char *memory =
        mmap(NULL, region_bytes + huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        ls_emulator_fault("no range of addresses for device memory (a limit on virtual memory?)");
    region = memory + (huge_page - (uintptr_t)memory % huge_page) % huge_page;
    // Few and large pages make opening and closing cheap.
    madvise(region, region_bytes, MADV_HUGEPAGE);
    madvise(region, region_bytes, MADV_DONTDUMP);
}

static size_t used_bytes(int device)
{
    size_t bytes = 0;
    for (size_t i = 0; i < device_table.count; i++)
        if (device_table.all[i].device == device)
            bytes += device_table.all[i].bytes;
    return bytes;
}

static cudaError_t allocate(size_t bytes, bool pending, void **out)
{
    int device = ls_runtime_device();
    if (bytes > ls_runtime_device_bytes() - used_bytes(device))
        return cudaErrorMemoryAllocation;
    if (!region)
        reserve_region();
    size_t span = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GUARD;
    if (span > region_bytes - used)
        return cudaErrorMemoryAllocation;
    char *base = region + used;
    used += span;
    Allocation allocation = {
        .base = base, .bytes = bytes, .span = span, .device = device, .pending = pending};
    insert(&device_table, &allocation);
    list_pages();
    const char *from = round_down(base, huge_page), *to = round_up(base + span, huge_page);
    protect(from, to, PROT_READ | PROT_WRITE); // also when the rest is open
    __asan_unpoison_memory_region(base, span);
    memset(base, FRESH, bytes);
    memset(base + bytes, GUARDED, span - bytes);
    size_t usable = pending ? 0 : bytes;
    __asan_poison_memory_region(base + usable, (size_t)(to - base) - usable);
    if (!open_depth)
        protect(from, to, PROT_NONE);
    *out = base;
    return cudaSuccess;
}

static void check_guard(const Allocation *allocation)
{
    __asan_unpoison_memory_region(allocation->base, allocation->span);
    for (size_t i = allocation->bytes; i < allocation->span; i++)
        if ((unsigned char)allocation->base[i] != GUARDED)
            ls_emulator_fault("something wrote %zu bytes beyond the end of an allocation of %zu bytes at %p",
                i - allocation->bytes, allocation->bytes, (void *)allocation->base);
}

static void fill_fresh(char *from, const char *to)
{
    if (from < to)
        memset(from, FRESH, (size_t)(to - from));
}

// Gives back pages that no neighbour uses and leaves 0xFF in the rest.
static void release(Allocation *allocation)
{
    size_t index = (size_t)(allocation - device_table.all);
    char *base = allocation->base, *end = base + allocation->span;
    ls_memory_open();
    check_guard(allocation);
    const Allocation *before = index ? allocation - 1 : NULL;
    const Allocation *behind = index + 1 < device_table.count ? allocation + 1 : NULL;
    char *from = round_down(base, PAGE), *to = round_up(end, behind ? PAGE : huge_page);
    if (before && from < round_up(before->base + before->span, PAGE))
        from = round_up(before->base + before->span, PAGE);
    if (behind && to > round_down(behind->base, PAGE))
        to = round_down(behind->base, PAGE);
    take_out(&device_table, allocation);
    list_pages();
    if (from < to) {
        madvise(from, (size_t)(to - from), MADV_DONTNEED);
        if (mprotect(from, (size_t)(to - from), PROT_NONE) != 0)
            ls_emulator_fault("device memory cannot be closed (vm.max_map_count?)");
    } else {
        from = to = end;
    }
    fill_fresh(base, from < end ? from : end); // what shares a page with a neighbour stays open
    fill_fresh(to, end);
    __asan_poison_memory_region(base, (size_t)(end - base));
    ls_memory_close();
}

cudaError_t cudaMalloc(void **devPtr, size_t size)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !devPtr)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    if (error == cudaSuccess && size)
        error = allocate(size, false, devPtr);
    else if (error == cudaSuccess)
        *devPtr = NULL;
    return ls_runtime_leave(error);
}

// The live allocation that begins here.
static Allocation *beginning_at(const Table *table, const void *address)
{
    Allocation *allocation = find(table, address, 0);
    return allocation && allocation->base == address && !allocation->dying ? allocation : NULL;
}

// Waits for the device, as the library does.
cudaError_t cudaFree(void *devPtr)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    if (error == cudaSuccess && devPtr) {
        ls_run_all();
        Allocation *allocation = beginning_at(&device_table, devPtr);
        if (allocation)
            release(allocation);
        else
            error = cudaErrorInvalidValue;
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!free || !total))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        *total = ls_runtime_device_bytes();
        *free = *total - used_bytes(ls_runtime_device());
    }
    return ls_runtime_leave(error);
}

// ---- Memory in stream order -----------------------------------------------------------------------------

static bool come_alive(void *context)
{
    Allocation *allocation = find(&device_table, context, 0);
    allocation->pending = false;
    __asan_unpoison_memory_region(allocation->base, allocation->bytes);
    return true;
}

static bool die(void *context)
{
    ls_memory_require("cudaFreeAsync", context, 1, true);
    release(find(&device_table, context, 0));
    return true;
}

static void keep(void *context)
{
    (void)context;
}

static cudaError_t add_memory_job(
    cudaStream_t stream, const char *name, bool (*advance)(void *), void *memory)
{
    if (stream->capture)
        return ls_capture_forbid_waiting(stream); // nodes that allocate are not emulated
    Job job = {.work = {.name = name, .advance = advance, .release = keep, .context = memory}};
    return ls_stream_add(stream, &job);
}

cudaError_t cudaMallocAsync(void **devPtr, size_t size, cudaStream_t hStream)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(hStream);
    if (error == cudaSuccess)
        error = !devPtr || !size ? cudaErrorInvalidValue
                : stream         ? cudaSuccess
                                 : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && stream->capture)
        error = ls_capture_forbid_waiting(stream);
    void *memory;
    if (error == cudaSuccess)
        error = allocate(size, true, &memory);
    if (error == cudaSuccess)
        error = add_memory_job(stream, "cudaMallocAsync", come_alive, memory);
    if (error == cudaSuccess)
        *devPtr = memory;
    return ls_runtime_leave(error);
}

cudaError_t cudaFreeAsync(void *devPtr, cudaStream_t hStream)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(hStream);
    if (error == cudaSuccess && !stream)
        error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && devPtr) {
        Allocation *allocation = beginning_at(&device_table, devPtr);
        if (allocation)
            allocation->dying = !stream->capture;
        error = allocation ? add_memory_job(stream, "cudaFreeAsync", die, devPtr) : cudaErrorInvalidValue;
    }
    return ls_runtime_leave(error);
}

// ---- Pinned host memory ---------------------------------------------------------------------------------

cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int flags)
{
    const unsigned known = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!pHost || (flags & ~known)))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    if (error == cudaSuccess) {
        *pHost = NULL;
        if (size && posix_memalign(pHost, PINNED_ALIGNMENT, size) != 0)
            error = cudaErrorMemoryAllocation;
    }
    if (error == cudaSuccess && size) {
        memset(*pHost, FRESH, size);
        Allocation allocation = {.base = *pHost, .bytes = size, .device = ls_runtime_device()};
        insert(&pinned_table, &allocation);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaMallocHost(void **ptr, size_t size)
{
    return cudaHostAlloc(ptr, size, cudaHostAllocDefault);
}

// Waits for the device, as the library does.
cudaError_t cudaFreeHost(void *ptr)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    if (error == cudaSuccess && ptr) {
        ls_run_all();
        Allocation *allocation = beginning_at(&pinned_table, ptr);
        if (allocation) {
            take_out(&pinned_table, allocation);
            free(ptr);
        } else {
            error = cudaErrorInvalidValue;
        }
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !attributes)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        const Allocation *on_device = find(&device_table, ptr, 1), *pinned = find(&pinned_table, ptr, 1);
        const Allocation *found = on_device ? on_device : pinned;
        *attributes = (struct cudaPointerAttributes){
            .type = on_device ? cudaMemoryTypeDevice
                    : pinned  ? cudaMemoryTypeHost
                              : cudaMemoryTypeUnregistered,
            .device = found ? found->device : -2,
            .devicePointer = found ? (void *)ptr : NULL,
            .hostPointer = on_device ? NULL : (void *)ptr,
        };
    }
    return ls_runtime_leave(error);
}
