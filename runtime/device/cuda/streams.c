// Streams, markers (events) and graphs.
#include "cuda.h"

#include <stdlib.h>

#include "base/memory.h"

struct LsMarker {
    cudaEvent_t event;
};

struct LsGraph {
    cudaGraphExec_t executable;
};

LsStatus ls_cuda_open_streams(LsCudaDevice *cuda)
{
    int least = 0, greatest = 0;
    LS_TRY(ls_cuda_check(
        cuda, cudaDeviceGetStreamPriorityRange(&least, &greatest), "reading the range of priorities"));
    for (int i = 0; i < LS_STREAMS; i++) {
        // Exchanges are short and others wait for them; they go first where the GPU has a choice.
        int priority = i == LS_STREAM_COMMUNICATION ? greatest : least;
        LS_TRY(ls_cuda_check(cuda,
            cudaStreamCreateWithPriority(&cuda->streams[i], cudaStreamNonBlocking, priority),
            "creating a stream"));
    }
    return LS_OK;
}

void ls_cuda_close_streams(LsCudaDevice *cuda)
{
    for (int i = 0; i < LS_STREAMS; i++)
        if (cuda->streams[i])
            cudaStreamDestroy(cuda->streams[i]);
}

LsStatus ls_cuda_require_no_capture(LsCudaDevice *cuda, const char *what)
{
    if (!cuda->capturing)
        return LS_OK;
    cuda->capture_failed = true;
    return LS_FAIL(LS_INTERNAL, "%s cannot be recorded in a graph", what);
}

LsStatus ls_cuda_require_compute(LsCudaDevice *cuda, const char *what)
{
    if (cuda->selected == LS_STREAM_COMPUTE)
        return LS_OK;
    return LS_FAIL(LS_INTERNAL, "%s runs on the compute stream, whose scratch memory it uses", what);
}

LsStatus ls_cuda_synchronize(LsDevice *device)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_cuda_require_no_capture(cuda, "waiting for the GPU"));
    for (int i = 0; i < LS_STREAMS; i++)
        LS_TRY(ls_cuda_check(cuda, cudaStreamSynchronize(cuda->streams[i]), "waiting for a stream"));
    return LS_OK;
}

void ls_cuda_select_stream(LsDevice *device, LsStream stream)
{
    ls_cuda(device)->selected = stream;
}

void *ls_cuda_native_stream(LsDevice *device, LsStream stream)
{
    return ls_cuda(device)->streams[stream];
}

// ---- Markers --------------------------------------------------------------------------------------------

LsStatus ls_cuda_marker_create(LsDevice *device, LsMarker **out)
{
    LsMarker *marker;
    LS_TRY(ls_memory_allocate(sizeof *marker, (void **)&marker));
    LsStatus status = ls_cuda_check(ls_cuda(device),
        cudaEventCreateWithFlags(&marker->event, cudaEventDisableTiming), "creating an event");
    if (status != LS_OK) {
        free(marker);
        return status;
    }
    *out = marker;
    return LS_OK;
}

void ls_cuda_marker_destroy(LsDevice *device, LsMarker *marker)
{
    (void)device;
    if (!marker)
        return;
    cudaEventDestroy(marker->event);
    free(marker);
}

LsStatus ls_cuda_marker_record(LsDevice *device, LsMarker *marker)
{
    LsCudaDevice *cuda = ls_cuda(device);
    // In a graph, a record that others outside of it see is a node of its own kind.
    bool recorded = cuda->capturing && cuda->selected == LS_STREAM_COMPUTE;
    cudaError_t error =
        recorded ? cudaEventRecordWithFlags(marker->event, ls_cuda_stream(cuda), cudaEventRecordExternal)
                 : cudaEventRecord(marker->event, ls_cuda_stream(cuda));
    return ls_cuda_check(cuda, error, "recording an event");
}

LsStatus ls_cuda_marker_wait(LsDevice *device, LsMarker *marker)
{
    LsCudaDevice *cuda = ls_cuda(device);
    // In a graph, so is a wait for what others record outside of it.
    bool recorded = cuda->capturing && cuda->selected == LS_STREAM_COMPUTE;
    unsigned flags = recorded ? cudaEventWaitExternal : cudaEventWaitDefault;
    return ls_cuda_check(
        cuda, cudaStreamWaitEvent(ls_cuda_stream(cuda), marker->event, flags), "waiting for an event");
}

LsStatus ls_cuda_marker_reached(LsDevice *device, LsMarker *marker, bool *reached)
{
    cudaError_t error = cudaEventQuery(marker->event);
    if (error == cudaErrorNotReady) {
        cudaGetLastError();
        *reached = false;
        return LS_OK;
    }
    LS_TRY(ls_cuda_check(ls_cuda(device), error, "work before an event"));
    *reached = true;
    return LS_OK;
}

LsStatus ls_cuda_marker_synchronize(LsDevice *device, LsMarker *marker)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_cuda_require_no_capture(cuda, "waiting for a marker"));
    return ls_cuda_check(cuda, cudaEventSynchronize(marker->event), "work before an event");
}

// ---- Graphs ---------------------------------------------------------------------------------------------

LsStatus ls_cuda_capture_begin(LsDevice *device)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_cuda_require_no_capture(cuda, "another recording"));
    LS_TRY(ls_cuda_require_compute(cuda, "recording a graph"));
    LS_TRY(ls_cuda_check(cuda,
        cudaStreamBeginCapture(cuda->streams[LS_STREAM_COMPUTE], cudaStreamCaptureModeThreadLocal),
        "beginning to record a graph"));
    cuda->capturing = true;
    cuda->capture_failed = false;
    return LS_OK;
}

static LsStatus instantiate(LsCudaDevice *cuda, cudaGraph_t recorded, LsGraph **out)
{
    LsGraph *graph;
    LS_TRY(ls_memory_allocate(sizeof *graph, (void **)&graph));
    LsStatus status = ls_cuda_check(
        cuda, cudaGraphInstantiate(&graph->executable, recorded, 0), "making a recorded graph executable");
    if (status != LS_OK) {
        free(graph);
        return status;
    }
    *out = graph;
    return LS_OK;
}

LsStatus ls_cuda_capture_end(LsDevice *device, LsGraph **out)
{
    LsCudaDevice *cuda = ls_cuda(device);
    cudaGraph_t recorded = NULL;
    *out = NULL;
    if (!cuda->capturing)
        return LS_FAIL(LS_INTERNAL, "no graph is being recorded");
    bool failed = cuda->capture_failed;
    cuda->capturing = false;
    cudaError_t error = cudaStreamEndCapture(cuda->streams[LS_STREAM_COMPUTE], &recorded);
    LsStatus status = LS_OK;
    if (failed)
        cudaGetLastError(); // what failed in between has been reported
    else
        status = ls_cuda_check(cuda, error, "recording a graph");
    if (status == LS_OK && !failed)
        status = instantiate(cuda, recorded, out);
    if (recorded)
        cudaGraphDestroy(recorded);
    return status;
}

void ls_cuda_capture_abandon(LsDevice *device)
{
    LsCudaDevice *cuda = ls_cuda(device);
    cudaGraph_t recorded = NULL;
    if (!cuda->capturing)
        return;
    cuda->capturing = false;
    cudaStreamEndCapture(cuda->streams[LS_STREAM_COMPUTE], &recorded);
    cudaGetLastError(); // that an invalid recording ends is no failure
    if (recorded)
        cudaGraphDestroy(recorded);
}

LsStatus ls_cuda_graph_launch(LsDevice *device, LsGraph *graph)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_cuda_require_no_capture(cuda, "launching another graph"));
    return ls_cuda_check(
        cuda, cudaGraphLaunch(graph->executable, cuda->streams[LS_STREAM_COMPUTE]), "launching a graph");
}

void ls_cuda_graph_destroy(LsDevice *device, LsGraph *graph)
{
    (void)device;
    if (!graph)
        return;
    cudaGraphExecDestroy(graph->executable);
    free(graph);
}
