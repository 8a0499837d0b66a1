// Streams of the emulated GPU: queues of work that runs when somebody has to wait for it (runtime_run.c).
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

static cudaStream_t streams;
static cudaStream_t legacy[MAX_DEVICES];

static cudaStream_t create(bool is_legacy, bool blocking, int priority)
{
    cudaStream_t stream = streams;
    while (stream && (stream->state == STREAM_ALIVE || stream->references || stream->done < stream->queued))
        stream = stream->next;
    if (!stream) {
        stream = ls_runtime_allocate(NULL, sizeof *stream);
        *stream = (struct CUstream_st){.next = streams};
        streams = stream;
    }
    *stream = (struct CUstream_st){.next = stream->next,
        .state = STREAM_ALIVE,
        .device = ls_runtime_device(),
        .priority = priority,
        .legacy = is_legacy,
        .blocking = blocking};
    return stream;
}

cudaStream_t ls_streams(void)
{
    return streams;
}

cudaStream_t ls_legacy_stream(void)
{
    int device = ls_runtime_device();
    if (!legacy[device])
        legacy[device] = create(true, false, 0);
    return legacy[device];
}

cudaStream_t ls_stream_find(cudaStream_t handle)
{
    if (!ls_runtime_devices())
        return NULL;
    if (!handle || handle == cudaStreamLegacy)
        return ls_legacy_stream();
    return handle->state == STREAM_ALIVE ? handle : NULL;
}

// ---- Enqueueing -----------------------------------------------------------------------------------------

void ls_stream_wait_for(cudaStream_t stream, cudaStream_t on, uint64_t until)
{
    if (on == stream || on->done >= until)
        return;
    ls_stream_push(stream, &(Item){.kind = ITEM_WAIT, .on = on, .until = until});
}

void ls_stream_order_legacy(cudaStream_t stream)
{
    if (stream->blocking && legacy[stream->device]) {
        cudaStream_t on = legacy[stream->device];
        if (on->queued > stream->after_legacy)
            ls_stream_wait_for(stream, on, on->queued);
        stream->after_legacy = on->queued;
    }
    if (!stream->legacy)
        return;
    for (cudaStream_t other = streams; other; other = other->next) {
        if (!other->blocking || other->device != stream->device)
            continue;
        if (other->queued > other->legacy_after)
            ls_stream_wait_for(stream, other, other->queued);
        other->legacy_after = other->queued;
    }
}

cudaError_t ls_stream_add(cudaStream_t stream, const Job *job)
{
    cudaError_t error = ls_capture_forbid_legacy(stream);
    if (error == cudaSuccess && stream->capture)
        return ls_capture_add(stream, job);
    if (error != cudaSuccess) {
        job->work.release(job->work.context);
        return error;
    }
    ls_stream_order_legacy(stream);
    ls_stream_push(stream, &(Item){.kind = ITEM_WORK, .job = *job});
    ls_run_wander();
    return cudaSuccess;
}

cudaError_t ls_emulator_enqueue(cudaStream_t handle, const LsEmulatedWork *work)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess && !stream)
        error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess)
        error = ls_stream_add(stream, &(Job){.work = *work, .type = cudaGraphNodeTypeKernel});
    else
        work->release(work->context);
    return ls_runtime_leave(error);
}

typedef struct HostFunction {
    cudaHostFn_t function;
    void *data;
} HostFunction;

static bool call_host(void *context)
{
    const HostFunction *call = context;
    ls_memory_suspend();
    call->function(call->data);
    ls_memory_resume();
    return true;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t fn, void *userData)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = !fn ? cudaErrorInvalidValue : stream ? cudaSuccess : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess) {
        HostFunction *call = ls_runtime_allocate(NULL, sizeof *call);
        *call = (HostFunction){fn, userData};
        Job job = {.work = {"host function", call_host, free, call}, .type = cudaGraphNodeTypeHost};
        error = ls_stream_add(stream, &job);
    }
    return ls_runtime_leave(error);
}

// ---- Life -----------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *pStream, unsigned int flags, int priority)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!pStream || (flags & ~(unsigned)cudaStreamNonBlocking)))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        int greatest;
        cudaDeviceGetStreamPriorityRange(NULL, &greatest);
        priority = priority > 0 ? 0 : priority < greatest ? greatest : priority;
        *pStream = create(false, !(flags & cudaStreamNonBlocking), priority);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(pStream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *pStream)
{
    return cudaStreamCreateWithPriority(pStream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamGetPriority(cudaStream_t hStream, int *priority)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(hStream);
    if (error == cudaSuccess)
        error = !priority ? cudaErrorInvalidValue : stream ? cudaSuccess : cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess)
        *priority = stream->priority;
    return ls_runtime_leave(error);
}

// What is enqueued still runs when somebody waits for it.
cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess && (!stream || stream->legacy))
        error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && stream->capture)
        error = ls_capture_forbid_waiting(stream);
    if (error == cudaSuccess)
        stream->state = 0;
    return ls_runtime_leave(error);
}

// ---- Waiting --------------------------------------------------------------------------------------------

static cudaError_t may_wait(cudaStream_t stream)
{
    if (!stream)
        return cudaErrorInvalidResourceHandle;
    cudaError_t error = ls_capture_forbid_legacy(stream);
    if (error == cudaSuccess && stream->capture)
        error = ls_capture_forbid_waiting(stream);
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = may_wait(stream);
    if (error == cudaSuccess) {
        if (stream->legacy)
            ls_stream_order_legacy(stream);
        ls_run_until(stream, stream->queued);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = may_wait(stream);
    if (error == cudaSuccess) {
        if (stream->legacy)
            ls_stream_order_legacy(stream);
        error = ls_run_query(stream, stream->queued) ? cudaSuccess : cudaErrorNotReady;
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = ls_capture_forbid_waiting(NULL);
    if (error == cudaSuccess)
        ls_run_all();
    return ls_runtime_leave(error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int flags)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    bool external = flags == cudaEventWaitExternal;
    if (error == cudaSuccess)
        error = !stream || !ls_event_valid(event) ? cudaErrorInvalidResourceHandle
                : flags && !external              ? cudaErrorInvalidValue
                                                  : ls_capture_forbid_legacy(stream);
    if (error == cudaSuccess && (stream->capture || event->captured))
        error = ls_capture_wait(stream, event, external);
    else if (error == cudaSuccess && external)
        error = cudaErrorInvalidValue; // has a meaning in a capture only
    else if (error == cudaSuccess && event->stream) {
        ls_stream_order_legacy(stream);
        ls_stream_wait_for(stream, event->stream, event->position);
        ls_run_wander();
    }
    return ls_runtime_leave(error);
}
