// Events of the emulated GPU: places in streams.
#include "runtime.h"

#include <stdlib.h>

static cudaEvent_t free_first, free_last; // memory of destroyed events, the longest dead first

bool ls_event_valid(cudaEvent_t event)
{
    return event && event->state == EVENT_ALIVE;
}

static void set_stream(cudaEvent_t event, cudaStream_t stream)
{
    if (stream)
        stream->references++;
    if (event->stream)
        event->stream->references--;
    event->stream = stream;
}

void ls_event_release(cudaEvent_t event)
{
    if (--event->references)
        return;
    set_stream(event, NULL);
    free(event->frontier);
    event->frontier = NULL;
    event->next = NULL;
    if (free_last)
        free_last->next = event;
    else
        free_first = event;
    free_last = event;
}

void ls_event_record(cudaEvent_t event, cudaStream_t stream)
{
    event->captured = 0;
    if (!(event->flags & cudaEventDisableTiming))
        ls_stream_push(stream, &(Item){.kind = ITEM_RECORD, .event = event});
    set_stream(event, stream);
    event->position = stream->queued;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess &&
        (!event || (flags & ~(unsigned)(cudaEventBlockingSync | cudaEventDisableTiming))))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        cudaEvent_t created = free_first;
        if (created) {
            free_first = created->next;
            if (!free_first)
                free_last = NULL;
        } else {
            created = ls_runtime_allocate(NULL, sizeof *created);
        }
        *created = (struct CUevent_st){.state = EVENT_ALIVE, .references = 1, .flags = flags};
        *event = created;
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !ls_event_valid(event))
        error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess) {
        event->state = 0;
        ls_event_release(event);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned int flags)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    bool external = flags == cudaEventRecordExternal;
    if (error == cudaSuccess)
        error = !stream || !ls_event_valid(event) ? cudaErrorInvalidResourceHandle
                : flags && !external              ? cudaErrorInvalidValue
                                                  : ls_capture_forbid_legacy(stream);
    if (error == cudaSuccess && stream->capture)
        error = ls_capture_record(stream, event, external);
    else if (error == cudaSuccess && external)
        error = cudaErrorInvalidValue; // has a meaning in a capture only
    else if (error == cudaSuccess) {
        ls_stream_order_legacy(stream);
        ls_event_record(event, stream);
        ls_run_wander();
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

static cudaError_t may_wait(cudaEvent_t event)
{
    if (!ls_event_valid(event))
        return cudaErrorInvalidResourceHandle;
    return ls_capture_forbid_event(event);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = may_wait(event);
    if (error == cudaSuccess && event->stream && !ls_run_query(event->stream, event->position))
        error = cudaErrorNotReady;
    return ls_runtime_leave(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = may_wait(event);
    if (error == cudaSuccess && event->stream)
        ls_run_until(event->stream, event->position);
    return ls_runtime_leave(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !ms)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess && (!ls_event_valid(start) || !ls_event_valid(end) || !start->stream ||
                                    !end->stream || ((start->flags | end->flags) & cudaEventDisableTiming)))
        error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess && (start->stream->done < start->position || end->stream->done < end->position))
        error = cudaErrorNotReady;
    if (error == cudaSuccess)
        *ms = (float)(1e3 * (end->seconds - start->seconds));
    return ls_runtime_leave(error);
}
