#include "events.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>

#include "base/memory.h"

struct Events {
    cudaStream_t stream;
    size_t count;
    cudaEvent_t event[];
};

static LsStatus check(cudaError_t error, const char *doing)
{
    return error == cudaSuccess ? LS_OK : LS_FAIL(LS_INTERNAL, "%s: %s", doing, cudaGetErrorString(error));
}

LsStatus events_open(void *stream, size_t count, Events **out)
{
    Events *events;
    LS_TRY(ls_memory_allocate(sizeof *events + count * sizeof *events->event, (void **)&events));
    events->stream = stream;
    for (; events->count < count; events->count++) {
        LsStatus status = check(cudaEventCreate(&events->event[events->count]), "creating an event");
        if (status != LS_OK) {
            events_close(events);
            return status;
        }
    }
    *out = events;
    return LS_OK;
}

void events_close(Events *events)
{
    if (!events)
        return;
    for (size_t i = 0; i < events->count; i++)
        cudaEventDestroy(events->event[i]);
    free(events);
}

// In a graph, an event that is looked at outside of it is a node of its own kind.
LsStatus events_record(Events *events, size_t i)
{
    enum cudaStreamCaptureStatus capture;
    LS_TRY(check(cudaStreamIsCapturing(events->stream, &capture), "asking a stream whether it records"));
    return check(capture == cudaStreamCaptureStatusActive
                     ? cudaEventRecordWithFlags(events->event[i], events->stream, cudaEventRecordExternal)
                     : cudaEventRecord(events->event[i], events->stream),
        "recording an event");
}

LsStatus events_elapsed(const Events *events, size_t from, size_t to, double *seconds)
{
    float milliseconds;
    LS_TRY(
        check(cudaEventElapsedTime(&milliseconds, events->event[from], events->event[to]), "reading events"));
    *seconds = (double)milliseconds * 1e-3;
    return LS_OK;
}
