// The strict device itself: its memory, and opening it for an op.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "strict_state.h"

// Appends a zeroed element to a growing array.
LsStatus ls_strict_append(void **array, size_t *count, size_t element)
{
    char *larger = realloc(*array, (*count + 1) * element);
    if (!larger)
        return LS_FAIL(LS_INTERNAL, "strict device: no memory left");
    memset(larger + *count * element, 0, element);
    *array = larger;
    *count += 1;
    return LS_OK;
}

// ---- Memory ---------------------------------------------------------------------------------------------

static LsStatus strict_allocate(LsDevice *device, size_t bytes, void **out)
{
    StrictDevice *strict = (StrictDevice *)device;
    size_t inside = ls_round_up(bytes ? bytes : 1, LS_ALIGNMENT);
    size_t map_bytes = ls_round_up(inside, strict->page) + 2 * strict->page;
    char *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return LS_FAIL(LS_INTERNAL, "strict device: cannot map %zu bytes", map_bytes);
    memset(map, 0xFF, map_bytes);
    LsStatus status =
        ls_strict_append((void **)&strict->allocations, &strict->allocation_count, sizeof(Allocation));
    if (status != LS_OK || mprotect(map, map_bytes, PROT_NONE) != 0) {
        munmap(map, map_bytes);
        return status != LS_OK ? status : LS_FAIL(LS_INTERNAL, "strict device: cannot close memory");
    }
    char *memory = map + map_bytes - strict->page - inside;
    strict->allocations[strict->allocation_count - 1] =
        (Allocation){.map = map, .map_bytes = map_bytes, .memory = memory, .bytes = bytes};
    *out = memory;
    return LS_OK;
}

// Releasing what was never allocated, or twice, ends the test: there is no status to return.
static void strict_release(LsDevice *device, void *memory)
{
    StrictDevice *strict = (StrictDevice *)device;
    if (!memory)
        return;
    for (size_t i = 0; i < strict->allocation_count; i++)
        if (strict->allocations[i].memory == memory) {
            strict->allocations[i].memory = NULL;
            return;
        }
    abort();
}

static LsStatus strict_allocate_host(LsDevice *device, size_t bytes, void **out)
{
    StrictDevice *strict = (StrictDevice *)device;
    void *memory;
    LS_TRY(ls_memory_allocate(bytes, &memory));
    LsStatus status = ls_strict_append((void **)&strict->host, &strict->host_count, sizeof(HostMemory));
    if (status != LS_OK) {
        free(memory);
        return status;
    }
    memset(memory, 0xFF, bytes);
    strict->host[strict->host_count - 1] = (HostMemory){memory, bytes};
    *out = memory;
    return LS_OK;
}

static void strict_release_host(LsDevice *device, void *memory)
{
    StrictDevice *strict = (StrictDevice *)device;
    for (size_t i = 0; i < strict->host_count; i++)
        if (strict->host[i].memory == memory)
            strict->host[i] = (HostMemory){0};
    free(memory);
}

bool ls_strict_is_pinned(const StrictDevice *strict, const char *memory)
{
    for (size_t i = 0; i < strict->host_count; i++)
        if (memory >= strict->host[i].memory && memory < strict->host[i].memory + strict->host[i].bytes)
            return true;
    return false;
}

// The allocation, living or released, whose pages or guards hold the address.
static Allocation *find(const StrictDevice *strict, const void *address)
{
    const char *byte = address;
    for (size_t i = 0; i < strict->allocation_count; i++) {
        Allocation *allocation = &strict->allocations[i];
        if (byte >= allocation->map && byte < allocation->map + allocation->map_bytes)
            return allocation;
    }
    return NULL;
}

// ---- Opening memory for an op ---------------------------------------------------------------------------

static LsStatus check_device(const StrictDevice *strict, const char *op, const Span *span)
{
    const Allocation *allocation = find(strict, span->memory);
    if (!allocation)
        return LS_FAIL(LS_INTERNAL, "%s: %s is not device memory", op, span->name);
    if (!allocation->memory)
        return LS_FAIL(LS_INTERNAL, "%s: %s was released", op, span->name);
    const char *begin = span->memory, *end = allocation->memory + allocation->bytes;
    if (begin < allocation->memory || begin > end || span->bytes > (size_t)(end - begin))
        return LS_FAIL(LS_INTERNAL, "%s: %s needs %zu bytes and leaves its allocation of %zu", op, span->name,
            span->bytes, allocation->bytes);
    return LS_OK;
}

LsStatus ls_strict_check_host(
    const StrictDevice *strict, const char *op, const char *name, const void *memory)
{
    if (memory && find(strict, memory))
        return LS_FAIL(LS_INTERNAL, "%s: %s is device memory where host memory is expected", op, name);
    return LS_OK;
}

void ls_strict_close_spans(const StrictDevice *strict, size_t count, const Span *spans)
{
    for (size_t i = 0; i < count; i++) {
        Allocation *allocation = spans[i].memory ? find(strict, spans[i].memory) : NULL;
        if (allocation)
            mprotect(allocation->map, allocation->map_bytes, PROT_NONE);
    }
}

// Checks every span before it opens any. Written ones are opened last, since several spans may share an
// allocation. The guard pages stay closed.
LsStatus ls_strict_open_spans(const StrictDevice *strict, const char *op, size_t count, const Span *spans)
{
    for (size_t i = 0; i < count; i++)
        if (spans[i].memory)
            LS_TRY(check_device(strict, op, &spans[i]));
    for (int written = 0; written < 2; written++)
        for (size_t i = 0; i < count; i++) {
            if (!spans[i].memory || spans[i].written != (written == 1))
                continue;
            Allocation *allocation = find(strict, spans[i].memory);
            int access = written ? PROT_READ | PROT_WRITE : PROT_READ;
            if (mprotect(allocation->map + strict->page, allocation->map_bytes - 2 * strict->page, access)) {
                ls_strict_close_spans(strict, count, spans);
                return LS_FAIL(LS_INTERNAL, "strict device: cannot open memory for %s", op);
            }
        }
    return LS_OK;
}

// ---- The device -----------------------------------------------------------------------------------------

static void strict_close(LsDevice *device)
{
    StrictDevice *strict = (StrictDevice *)device;
    for (size_t i = 0; i < strict->allocation_count; i++)
        munmap(strict->allocations[i].map, strict->allocations[i].map_bytes);
    for (size_t i = 0; i < strict->pending_count; i++)
        free(strict->pending[i].snapshot);
    free(strict->allocations);
    for (size_t i = 0; i < strict->marker_count; i++)
        free(strict->markers[i]);
    free(strict->markers);
    free(strict->host);
    free(strict->pending);
    ls_device_close(strict->inner);
    free(strict);
}

static void strict_fingerprint(const LsDevice *device, char *text, size_t size)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    strict->inner->ops->fingerprint(strict->inner, text, size);
}

static void strict_identity(const LsDevice *device, char *text, size_t size)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    strict->inner->ops->identity(strict->inner, text, size);
}

static void strict_tune(LsDevice *device, bool on)
{
    StrictDevice *strict = (StrictDevice *)device;
    strict->inner->ops->tune(strict->inner, on);
}

static LsStatus strict_choices(const LsDevice *device, char **out)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    return strict->inner->ops->choices(strict->inner, out);
}

static LsStatus strict_choose(LsDevice *device, const char *choices)
{
    StrictDevice *strict = (StrictDevice *)device;
    return strict->inner->ops->choose(strict->inner, choices);
}

static void *strict_native_stream(LsDevice *device, LsStream stream)
{
    StrictDevice *strict = (StrictDevice *)device;
    return strict->inner->ops->native_stream(strict->inner, stream);
}

static const LsDeviceOps own_ops = {
    .name = "strict",
    .close = strict_close,
    .fingerprint = strict_fingerprint,
    .identity = strict_identity,
    .allocate = strict_allocate,
    .release = strict_release,
    .allocate_host = strict_allocate_host,
    .release_host = strict_release_host,
    .tune = strict_tune,
    .choices = strict_choices,
    .choose = strict_choose,
    .native_stream = strict_native_stream,
};

LsStatus ls_strict_device_open(int precision, LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = precision, .threads = 1};
    StrictDevice *strict;
    LS_TRY(ls_memory_allocate(sizeof *strict, (void **)&strict));
    LsStatus status = ls_device_open(&options, &strict->inner);
    if (status != LS_OK) {
        free(strict);
        return status;
    }
    strict->ops = own_ops;
    ls_strict_add_copies(&strict->ops);
    ls_strict_add_ops(&strict->ops);
    strict->base = (LsDevice){.ops = &strict->ops, .precision = strict->inner->precision, .discrete = true};
    strict->page = (size_t)sysconf(_SC_PAGESIZE);
    *out = &strict->base;
    return LS_OK;
}
