// Captures of the emulated GPU: what streams are given while they record goes to a graph. The rules and the
// errors are CUDA's; whatever breaks a rule invalidates the captures that it conflicts with.
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

struct Capture {
    Capture *next;
    uint64_t id;
    GraphBody *body;
    cudaStream_t origin;
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
};

static Capture *captures; // under way
static uint64_t last_id;
static _Thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static Capture *find(uint64_t id)
{
    Capture *capture = captures;
    while (capture && capture->id != id)
        capture = capture->next;
    return capture;
}

static cudaError_t invalidate(Capture *capture, cudaError_t error)
{
    capture->invalid = true;
    return error;
}

// ---- Frontiers ------------------------------------------------------------------------------------------

static void set_frontier(uint32_t **frontier, size_t *count, const uint32_t *nodes, size_t node_count)
{
    uint32_t *copy = NULL;
    if (node_count) {
        copy = ls_runtime_allocate(NULL, node_count * sizeof *copy);
        memcpy(copy, nodes, node_count * sizeof *copy);
    }
    free(*frontier);
    *frontier = copy;
    *count = node_count;
}

static void join_frontier(cudaStream_t stream, const uint32_t *nodes, size_t count)
{
    size_t all = stream->frontier_count + count;
    if (!all)
        return;
    stream->frontier = ls_runtime_allocate(stream->frontier, all * sizeof *nodes);
    for (size_t i = 0; i < count; i++) {
        size_t j = 0;
        while (j < stream->frontier_count && stream->frontier[j] != nodes[i])
            j++;
        if (j == stream->frontier_count)
            stream->frontier[stream->frontier_count++] = nodes[i];
    }
}

static void add_node(cudaStream_t stream, NodeKind kind, const Job *job, cudaEvent_t event)
{
    uint32_t node =
        ls_graph_body_add(stream->capture->body, kind, job, event, stream->frontier, stream->frontier_count);
    set_frontier(&stream->frontier, &stream->frontier_count, &node, 1);
}

// ---- What a capturing stream is given -------------------------------------------------------------------

cudaError_t ls_capture_add(cudaStream_t stream, const Job *job)
{
    if (stream->capture->invalid) {
        job->work.release(job->work.context);
        return cudaErrorStreamCaptureInvalidated;
    }
    add_node(stream, NODE_JOB, job, NULL);
    return cudaSuccess;
}

cudaError_t ls_capture_record(cudaStream_t stream, cudaEvent_t event, bool external)
{
    if (stream->capture->invalid)
        return cudaErrorStreamCaptureInvalidated;
    if (external) {
        add_node(stream, NODE_RECORD, NULL, event);
        return cudaSuccess;
    }
    event->captured = stream->capture->id;
    set_frontier(&event->frontier, &event->frontier_count, stream->frontier, stream->frontier_count);
    return cudaSuccess;
}

cudaError_t ls_capture_wait(cudaStream_t stream, cudaEvent_t event, bool external)
{
    Capture *of_stream = stream->capture;
    if (of_stream && of_stream->invalid)
        return cudaErrorStreamCaptureInvalidated;
    if (of_stream && external) {
        add_node(stream, NODE_WAIT, NULL, event);
        return cudaSuccess;
    }
    if (!event->captured) // the event is outside: a graph cannot wait for work that is not in it
        return invalidate(of_stream, cudaErrorStreamCaptureIsolation);
    Capture *of_event = find(event->captured);
    if (!of_event) // the capture is over, and nothing outside can wait for what was recorded in it
        return of_stream ? invalidate(of_stream, cudaErrorStreamCaptureIsolation) : cudaErrorCapturedEvent;
    if (of_event->invalid)
        return cudaErrorStreamCaptureInvalidated;
    if (stream->legacy)
        return invalidate(of_event, cudaErrorStreamCaptureImplicit);
    if (of_stream && of_stream != of_event) {
        of_stream->invalid = true;
        return invalidate(of_event, cudaErrorStreamCaptureMerge);
    }
    stream->capture = of_event;
    join_frontier(stream, event->frontier, event->frontier_count);
    return cudaSuccess;
}

// ---- What is forbidden meanwhile ------------------------------------------------------------------------

cudaError_t ls_capture_forbid_unsafe(void)
{
    if (!captures || thread_mode == cudaStreamCaptureModeRelaxed)
        return cudaSuccess;
    cudaError_t error = cudaSuccess;
    for (Capture *capture = captures; capture; capture = capture->next) {
        bool own = pthread_equal(capture->thread, pthread_self());
        bool conflicts =
            own ? capture->mode != cudaStreamCaptureModeRelaxed
                : thread_mode == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal;
        if (conflicts)
            error = invalidate(capture, cudaErrorStreamCaptureUnsupported);
    }
    return error;
}

cudaError_t ls_capture_forbid_legacy(cudaStream_t stream)
{
    if (!captures || !stream->legacy)
        return cudaSuccess;
    cudaError_t error = cudaSuccess;
    for (cudaStream_t other = ls_streams(); other; other = other->next)
        if (other->capture && other->blocking && other->device == stream->device)
            error = invalidate(other->capture, cudaErrorStreamCaptureImplicit);
    return error;
}

cudaError_t ls_capture_forbid_waiting(cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;
    for (Capture *capture = captures; capture; capture = capture->next)
        if (!stream || stream->capture == capture)
            error = invalidate(capture, cudaErrorStreamCaptureUnsupported);
    return error;
}

cudaError_t ls_capture_forbid_event(cudaEvent_t event)
{
    if (!event->captured)
        return ls_capture_forbid_unsafe();
    Capture *capture = find(event->captured);
    return capture ? invalidate(capture, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
}

// ---- Beginning and ending -------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = (unsigned)mode > cudaStreamCaptureModeRelaxed ? cudaErrorInvalidValue
                : !stream                                     ? cudaErrorInvalidResourceHandle
                : stream->legacy                              ? cudaErrorStreamCaptureUnsupported
                : stream->capture                             ? cudaErrorIllegalState
                                                              : cudaSuccess;
    if (error == cudaSuccess) {
        Capture *capture = ls_runtime_allocate(NULL, sizeof *capture);
        *capture = (Capture){.next = captures,
            .id = ++last_id,
            .body = ls_graph_body_create(),
            .origin = stream,
            .mode = mode,
            .thread = pthread_self()};
        captures = capture;
        stream->capture = capture;
    }
    return ls_runtime_leave(error);
}

static void take_out(Capture *capture)
{
    Capture **link = &captures;
    while (*link != capture)
        link = &(*link)->next;
    *link = capture->next;
    for (cudaStream_t stream = ls_streams(); stream; stream = stream->next)
        if (stream->capture == capture) {
            stream->capture = NULL;
            set_frontier(&stream->frontier, &stream->frontier_count, NULL, 0);
        }
}

// Whether the origin has waited for all that was captured in other streams.
static bool joined(const GraphBody *body)
{
    uint32_t *order = ls_runtime_allocate(NULL, (body->count + 1) * sizeof *order);
    size_t reached = ls_graph_latest_order(body, order);
    free(order);
    return reached == body->count;
}

static cudaError_t end(Capture *capture, cudaGraph_t *graph)
{
    GraphBody *body = capture->body;
    set_frontier(&body->last, &body->last_count, capture->origin->frontier, capture->origin->frontier_count);
    bool invalid = capture->invalid;
    take_out(capture);
    free(capture);
    cudaError_t error = invalid         ? cudaErrorStreamCaptureInvalidated
                        : !joined(body) ? cudaErrorStreamCaptureUnjoined
                                        : cudaSuccess;
    *graph = NULL;
    if (error == cudaSuccess)
        *graph = ls_graph_create(body);
    else
        ls_graph_body_release(body);
    return error;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *pGraph)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    Capture *capture = stream ? stream->capture : NULL;
    if (error == cudaSuccess)
        error = !pGraph                     ? cudaErrorInvalidValue
                : !stream                   ? cudaErrorInvalidResourceHandle
                : !capture                  ? cudaErrorIllegalState
                : capture->origin != stream ? invalidate(capture, cudaErrorStreamCaptureUnmatched)
                                            : cudaSuccess;
    if (error == cudaSuccess && capture->mode != cudaStreamCaptureModeRelaxed &&
        !pthread_equal(capture->thread, pthread_self()))
        error = cudaErrorStreamCaptureWrongThread;
    if (error == cudaSuccess)
        error = end(capture, pGraph);
    return ls_runtime_leave(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *pCaptureStatus)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = !pCaptureStatus ? cudaErrorInvalidValue
                : !stream       ? cudaErrorInvalidResourceHandle
                                : cudaSuccess;
    if (error == cudaSuccess && stream->legacy)
        for (cudaStream_t other = ls_streams(); other; other = other->next)
            if (other->capture && other->blocking)
                error = cudaErrorStreamCaptureImplicit;
    if (error == cudaSuccess)
        *pCaptureStatus = !stream->capture           ? cudaStreamCaptureStatusNone
                          : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                                     : cudaStreamCaptureStatusActive;
    return ls_runtime_leave(error);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    if (!mode || (unsigned)*mode > cudaStreamCaptureModeRelaxed)
        return ls_emulator_result(cudaErrorInvalidValue);
    enum cudaStreamCaptureMode old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return cudaSuccess;
}
