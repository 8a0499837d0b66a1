// Memory of the GPU and of the host beside it, and copies between them.
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

// "1.50 GiB", or "64.0 MiB" where the former would have no digits to show.
typedef struct SizeText {
    char text[32];
} SizeText;

static SizeText size_text(size_t bytes)
{
    const double mib = 1 << 20;
    SizeText size;
    if (bytes < (size_t)1 << 30)
        snprintf(size.text, sizeof size.text, "%.1f MiB", (double)bytes / mib);
    else
        snprintf(size.text, sizeof size.text, "%.2f GiB", (double)bytes / (1024 * mib));
    return size;
}

// One line that says by how much it did not fit.
static LsStatus refuse_allocation(LsCudaDevice *cuda, size_t bytes)
{
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        total = cuda->properties.totalGlobalMem;
    char expected[96] = "lockstep train --dry-run prints what a run needs";
    if (cuda->base.expected_bytes)
        snprintf(expected, sizeof expected, "the run needs about %s, --dry-run lists it",
            size_text(cuda->base.expected_bytes).text);
    return LS_FAIL(LS_UNAVAILABLE, "out of memory on GPU %d (%s): %s asked for, %s free of %s; %s",
        cuda->index, cuda->properties.name, size_text(bytes).text, size_text(free_bytes).text,
        size_text(total).text, expected);
}

LsStatus ls_cuda_allocate(LsDevice *device, size_t bytes, void **out)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_cuda_require_no_capture(cuda, "an allocation"));
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation)
        return refuse_allocation(cuda, bytes);
    LS_TRY(ls_cuda_check(cuda, error, "an allocation"));
    *out = memory;
    return LS_OK;
}

void ls_cuda_release(LsDevice *device, void *memory)
{
    (void)device;
    if (memory)
        cudaFree(memory);
}

LsStatus ls_cuda_allocate_host(LsDevice *device, size_t bytes, void **out)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LsPinned *pinned;
    LS_TRY(ls_memory_allocate(sizeof *pinned, (void **)&pinned));
    void *memory = NULL;
    cudaError_t error = cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocPortable);
    if (error != cudaSuccess) {
        free(pinned);
        cudaGetLastError();
        return LS_FAIL(LS_UNAVAILABLE,
            "no %s of pinned host memory for GPU %d: %s (%s); a container may limit locked memory",
            size_text(bytes).text, cuda->index, cudaGetErrorString(error), cudaGetErrorName(error));
    }
    *pinned = (LsPinned){.next = cuda->pinned, .memory = memory, .bytes = bytes};
    cuda->pinned = pinned;
    *out = memory;
    return LS_OK;
}

void ls_cuda_release_host(LsDevice *device, void *memory)
{
    for (LsPinned **link = &ls_cuda(device)->pinned; memory && *link; link = &(*link)->next)
        if ((*link)->memory == memory) {
            LsPinned *found = *link;
            *link = found->next;
            cudaFreeHost(memory);
            free(found);
            return;
        }
}

static bool is_pinned(const LsCudaDevice *cuda, const void *memory, size_t bytes)
{
    const char *from = memory;
    for (const LsPinned *p = cuda->pinned; p; p = p->next)
        if (from >= p->memory && from + bytes <= p->memory + p->bytes)
            return true;
    return false;
}

// A graph would read the host's memory when it is replayed; pinned memory is meant for that, other memory was
// promised to be read before the call returns.
LsStatus ls_cuda_copy_in(LsDevice *device, void *to, const void *host_from, size_t bytes)
{
    LsCudaDevice *cuda = ls_cuda(device);
    bool pinned = is_pinned(cuda, host_from, bytes);
    if (!pinned)
        LS_TRY(ls_cuda_require_no_capture(cuda, "a copy from host memory that is not pinned"));
    if (bytes == 0)
        return LS_OK;
    LS_TRY(ls_cuda_check(cuda,
        cudaMemcpyAsync(to, host_from, bytes, cudaMemcpyHostToDevice, ls_cuda_stream(cuda)),
        "a copy to the GPU"));
    // Memory that is not pinned may be read after the call, where the GPU itself reaches all of the host's.
    return pinned ? LS_OK
                  : ls_cuda_check(cuda, cudaStreamSynchronize(ls_cuda_stream(cuda)), "a copy to the GPU");
}

LsStatus ls_cuda_copy_out(LsDevice *device, void *host_to, const void *from, size_t bytes)
{
    LsCudaDevice *cuda = ls_cuda(device);
    if (!is_pinned(cuda, host_to, bytes))
        LS_TRY(ls_cuda_require_no_capture(cuda, "a copy to host memory that is not pinned"));
    if (bytes == 0)
        return LS_OK;
    return ls_cuda_check(cuda,
        cudaMemcpyAsync(host_to, from, bytes, cudaMemcpyDeviceToHost, ls_cuda_stream(cuda)),
        "a copy from the GPU");
}

LsStatus ls_cuda_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    LsCudaDevice *cuda = ls_cuda(device);
    if (bytes == 0 || to == from)
        return LS_OK;
    return ls_cuda_check(cuda,
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ls_cuda_stream(cuda)),
        "a copy on the GPU");
}

LsStatus ls_cuda_zero(LsDevice *device, void *to, size_t bytes)
{
    LsCudaDevice *cuda = ls_cuda(device);
    if (bytes == 0)
        return LS_OK;
    return ls_cuda_check(cuda, cudaMemsetAsync(to, 0, bytes, ls_cuda_stream(cuda)), "zeroing memory");
}

// From the stream-ordered pool: a shape that comes late makes room without stopping the streams, as
// cudaMalloc may.
static LsStatus allocate_in_order(LsCudaDevice *cuda, size_t bytes, void **out)
{
    LS_TRY(ls_cuda_require_no_capture(cuda, "an allocation"));
    cudaError_t error = cudaMallocAsync(out, bytes, cuda->streams[LS_STREAM_COMPUTE]);
    return error == cudaErrorMemoryAllocation ? refuse_allocation(cuda, bytes)
                                              : ls_cuda_check(cuda, error, "an allocation");
}

LsStatus ls_cuda_scratch(LsCudaDevice *cuda, size_t bytes, void **out)
{
    if (!cuda->scratch || cuda->scratch->bytes < bytes) {
        LsScratch *scratch;
        LS_TRY(ls_memory_allocate(sizeof *scratch, (void **)&scratch));
        // Twice what there was, so that growing shapes leave less behind than they use.
        size_t least = cuda->scratch ? 2 * cuda->scratch->bytes : 0;
        *scratch = (LsScratch){.next = cuda->scratch, .bytes = bytes > least ? bytes : least};
        LsStatus status = allocate_in_order(cuda, scratch->bytes, &scratch->memory);
        if (status != LS_OK) {
            free(scratch);
            return status;
        }
        cuda->scratch = scratch;
    }
    *out = cuda->scratch->memory;
    return LS_OK;
}

void ls_cuda_release_all(LsCudaDevice *cuda)
{
    while (cuda->scratch) {
        LsScratch *first = cuda->scratch;
        cuda->scratch = first->next;
        cudaFreeAsync(first->memory, cuda->streams[LS_STREAM_COMPUTE]);
        free(first);
    }
    while (cuda->pinned)
        ls_cuda_release_host(&cuda->base, cuda->pinned->memory);
}
