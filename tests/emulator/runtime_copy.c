// Copies and fills of the emulated GPU. Host memory is read and written when the copy runs, except that
// pageable memory is read at the call, as CUDA stages it.
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

typedef struct Copy {
    char *to;
    const char *from;
    size_t bytes;
    bool to_device, from_device;
    int value; // of a fill, which has no from
    char staged[];
} Copy;

static const char *name_of(const Copy *copy)
{
    static const char *const names[2][2] = {{"a copy from host to host", "a copy from host to device"},
        {"a copy from device to host", "a copy from device to device"}};
    return !copy->from ? "a fill" : names[copy->from_device][copy->to_device];
}

static void check(const Copy *copy, bool running)
{
    const char *name = name_of(copy);
    if (copy->to_device)
        ls_memory_require(name, copy->to, copy->bytes, running);
    else
        ls_memory_require_host(name, copy->to, copy->bytes);
    if (copy->from_device)
        ls_memory_require(name, copy->from, copy->bytes, running);
    else if (copy->from)
        ls_memory_require_host(name, copy->from, copy->bytes);
}

static bool run(void *context)
{
    const Copy *copy = context;
    check(copy, true);
    if (copy->from)
        memmove(copy->to, copy->from, copy->bytes);
    else
        memset(copy->to, copy->value, copy->bytes);
    return true;
}

static cudaError_t add(cudaStream_t stream, const Copy *wanted)
{
    bool stages = wanted->from && !wanted->from_device && !stream->capture &&
                  !ls_memory_is_pinned(wanted->from, wanted->bytes);
    Copy *copy = ls_runtime_allocate(NULL, sizeof *copy + (stages ? wanted->bytes : 0));
    *copy = *wanted;
    if (stages)
        copy->from = memcpy(copy->staged, wanted->from, wanted->bytes);
    Job job = {.work = {name_of(wanted), run, free, copy},
        .type = wanted->from ? cudaGraphNodeTypeMemcpy : cudaGraphNodeTypeMemset};
    job.writes_host = !wanted->to_device;
    if (job.writes_host || (wanted->from && !wanted->from_device && !stages)) {
        job.host = job.writes_host ? wanted->to : (char *)wanted->from;
        job.host_bytes = wanted->bytes;
    }
    return ls_stream_add(stream, &job);
}

static cudaError_t describe(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, Copy *copy)
{
    if ((unsigned)kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (count && (!dst || !src))
        return cudaErrorInvalidValue;
    *copy = (Copy){.to = dst, .from = src, .bytes = count};
    copy->to_device = kind == cudaMemcpyDefault
                          ? ls_memory_is_device(dst)
                          : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    copy->from_device = kind == cudaMemcpyDefault
                            ? ls_memory_is_device(src)
                            : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (count)
        check(copy, false);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(
    void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    Copy copy;
    if (error == cudaSuccess)
        error = stream ? describe(dst, src, count, kind, &copy) : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && count)
        error = add(stream, &copy);
    // Between host and host the call waits.
    if (error == cudaSuccess && count && !copy.to_device && !copy.from_device && !stream->capture)
        ls_run_until(stream, stream->queued);
    return ls_runtime_leave(error);
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = !stream            ? cudaErrorInvalidResourceHandle
                : count && !devPtr ? cudaErrorInvalidValue
                                   : cudaSuccess;
    if (error == cudaSuccess && count) {
        Copy fill = {.to = devPtr, .bytes = count, .to_device = true, .value = value};
        check(&fill, false);
        error = add(stream, &fill);
    }
    return ls_runtime_leave(error);
}

// The host waits where its own memory takes part, but for the end of a copy that was staged.
cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind)
{
    cudaError_t error = ls_runtime_enter();
    Copy copy;
    if (error == cudaSuccess)
        error = ls_capture_forbid_legacy(ls_legacy_stream());
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    if (error == cudaSuccess)
        error = describe(dst, src, count, kind, &copy);
    if (error == cudaSuccess && count) {
        cudaStream_t stream = ls_legacy_stream();
        bool staged = !copy.from_device && copy.to_device && !ls_memory_is_pinned(src, count);
        ls_stream_order_legacy(stream);
        if (staged)
            ls_run_until(stream, stream->queued);
        error = add(stream, &copy);
        if (!staged && (!copy.from_device || !copy.to_device))
            ls_run_until(stream, stream->queued);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaMemset(void *devPtr, int value, size_t count)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = ls_capture_forbid_unsafe();
    ls_runtime_leave(error);
    return error == cudaSuccess ? cudaMemsetAsync(devPtr, value, count, NULL) : error;
}
