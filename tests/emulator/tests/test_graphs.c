// Captures and graphs of the emulated runtime: what is recorded, what is refused, what a replay does.
#include <pthread.h>

#include "runtime_test.h"

enum { N = 100, BYTES = N * sizeof(float) };

#define TRACE(text) assert_string_equal(trace, text)

static void begin(cudaStream_t stream)
{
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}

static cudaGraphExec_t end(cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    return exec;
}

static enum cudaStreamCaptureStatus status_of(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus status;
    OK(cudaStreamIsCapturing(stream, &status));
    return status;
}

// ---- Replay ---------------------------------------------------------------------------------------------

static void test_a_graph_replays_what_was_recorded(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t stream = new_stream(), other = new_stream();
    OK(enqueue_letter(stream, '0'));
    begin(stream);
    assert_int_equal(status_of(stream), cudaStreamCaptureStatusActive);
    assert_int_equal(status_of(other), cudaStreamCaptureStatusNone);
    OK(enqueue_letter(stream, 'a'));
    OK(enqueue_letter(stream, 'b'));
    cudaGraphExec_t exec = end(stream);
    assert_int_equal(status_of(stream), cudaStreamCaptureStatusNone);
    OK(cudaGraphLaunch(exec, stream));
    OK(enqueue_letter(stream, '1'));
    OK(cudaGraphLaunch(exec, other)); // behind the first launch, also in another stream
    TRACE("");
    OK(cudaStreamSynchronize(other));
    TRACE("0abab");
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaGraphExecDestroy(exec)); // the launch still runs
    OK(cudaStreamSynchronize(stream));
    TRACE("0abab1ab");
    OK(cudaStreamDestroy(stream));
    OK(cudaStreamDestroy(other));
}

static void test_nodes_are_listed(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    cudaEvent_t event = new_event();
    float *device = new_device(N);
    begin(stream);
    OK(enqueue_letter(stream, 'a'));
    OK(cudaMemsetAsync(device, 0, BYTES, stream));
    OK(cudaMemcpyAsync(device, device + 50, 4, cudaMemcpyDeviceToDevice, stream));
    OK(cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal));
    cudaGraph_t graph;
    OK(cudaStreamEndCapture(stream, &graph));
    size_t count = 0;
    OK(cudaGraphGetNodes(graph, NULL, &count));
    assert_int_equal(count, 4);
    cudaGraphNode_t nodes[6];
    count = 6;
    OK(cudaGraphGetNodes(graph, nodes, &count));
    assert_int_equal(count, 4);
    const enum cudaGraphNodeType types[] = {cudaGraphNodeTypeKernel, cudaGraphNodeTypeMemset,
        cudaGraphNodeTypeMemcpy, cudaGraphNodeTypeEventRecord};
    for (size_t i = 0; i < 4; i++) {
        enum cudaGraphNodeType type;
        OK(cudaGraphNodeGetType(nodes[i], &type));
        assert_int_equal(type, types[i]);
    }
    OK(cudaGraphDestroy(graph));
    OK(cudaEventDestroy(event));
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
}

// Contents are read when a replay runs, arguments were taken at the capture.
static void test_copies_happen_at_each_replay(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *in = new_pinned(N), *out = new_pinned(N), *device = new_device(N);
    memset(out, 0, BYTES);
    begin(stream);
    OK(cudaMemcpyAsync(device, in, BYTES, cudaMemcpyHostToDevice, stream));
    OK(enqueue_addition(stream, device, device, N, 1));
    OK(cudaMemcpyAsync(out, device, BYTES, cudaMemcpyDeviceToHost, stream));
    cudaGraphExec_t exec = end(stream);
    assert_true(all_equal(out, N, 0)); // nothing has run and nothing is to be expected
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++)
            in[i] = (float)round;
        OK(cudaGraphLaunch(exec, stream));
        assert_true(all_bytes(out, BYTES, 0xff));
        OK(cudaStreamSynchronize(stream));
        assert_true(all_equal(out, N, (float)round + 1));
    }
    OK(cudaGraphExecDestroy(exec));
    OK(cudaFree(device));
    OK(cudaFreeHost(in));
    OK(cudaFreeHost(out));
    OK(cudaStreamDestroy(stream));
}

static int released;

static bool do_nothing(void *context)
{
    (void)context;
    return true;
}

static void count_release(void *context)
{
    (void)context;
    released++;
}

static void test_contexts_are_released_once(void **state)
{
    (void)state;
    const LsEmulatedWork work = {"work", do_nothing, count_release, NULL};
    cudaStream_t stream = new_stream();
    released = 0;
    OK(ls_emulator_enqueue(stream, &work));
    OK(cudaStreamSynchronize(stream));
    assert_int_equal(released, 1);
    begin(stream);
    OK(ls_emulator_enqueue(stream, &work));
    cudaGraphExec_t exec = end(stream);
    for (int i = 0; i < 3; i++)
        OK(cudaGraphLaunch(exec, stream));
    OK(cudaStreamSynchronize(stream));
    assert_int_equal(released, 1);
    OK(cudaGraphExecDestroy(exec));
    assert_int_equal(released, 2);
    OK(cudaStreamDestroy(stream));
    FAILS(ls_emulator_enqueue(stream, &work), cudaErrorInvalidResourceHandle);
    assert_int_equal(released, 3); // the context goes with a refused call as well
}

// ---- Several streams ------------------------------------------------------------------------------------

static void test_other_streams_join_by_events(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t fork_event = new_event(), join_event = new_event();
    begin(a);
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(fork_event, a));
    OK(enqueue_letter(a, '2'));
    OK(cudaStreamWaitEvent(b, fork_event, 0));
    assert_int_equal(status_of(b), cudaStreamCaptureStatusActive);
    OK(enqueue_letter(b, 'x'));
    OK(cudaEventRecord(join_event, b));
    OK(cudaStreamWaitEvent(a, join_event, 0));
    OK(enqueue_letter(a, '3'));
    cudaGraphExec_t exec = end(a);
    assert_int_equal(status_of(b), cudaStreamCaptureStatusNone);
    OK(cudaGraphLaunch(exec, a));
    OK(cudaStreamSynchronize(a));
    TRACE("12x3"); // x as late as is legal
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(fork_event));
    OK(cudaEventDestroy(join_event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

// Two chains that do not wait for each other: with seeds, every interleaving is seen and no other order.
static void test_seeds_reorder_what_is_independent(void **state)
{
    (void)state;
    bool seen_first = false, seen_last = false;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        cudaStream_t a = new_stream(), b = new_stream();
        cudaEvent_t event = new_event();
        ls_emulator_seed(seed);
        begin(a);
        OK(cudaEventRecord(event, a));
        OK(cudaStreamWaitEvent(b, event, 0));
        OK(enqueue_letter(a, '1'));
        OK(enqueue_letter(a, '2'));
        OK(enqueue_letter(b, 'x'));
        OK(cudaEventRecord(event, b));
        OK(cudaStreamWaitEvent(a, event, 0));
        OK(enqueue_letter(a, '3'));
        cudaGraphExec_t exec = end(a);
        clear_trace();
        OK(cudaGraphLaunch(exec, a));
        OK(cudaStreamSynchronize(a));
        assert_int_equal(trace[3], '3');
        assert_true(strchr(trace, '1') < strchr(trace, '2'));
        seen_first = seen_first || trace[0] == 'x';
        seen_last = seen_last || trace[2] == 'x';
        OK(cudaGraphExecDestroy(exec));
        OK(cudaEventDestroy(event));
        OK(cudaStreamDestroy(a));
        OK(cudaStreamDestroy(b));
    }
    ls_emulator_seed(0);
    assert_true(seen_first && seen_last);
}

static void test_a_fork_must_be_joined(void **state)
{
    (void)state;
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    cudaGraph_t graph = (cudaGraph_t)&graph;
    begin(a);
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'x'));
    FAILS(cudaStreamEndCapture(b, &graph), cudaErrorStreamCaptureUnmatched);
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    begin(a);
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'x'));
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
    assert_null(graph);
    assert_int_equal(status_of(a), cudaStreamCaptureStatusNone);
    assert_int_equal(status_of(b), cudaStreamCaptureStatusNone);
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorIllegalState);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

// ---- Events inside and outside --------------------------------------------------------------------------

static void test_external_records_are_made_anew_by_each_launch(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t half = new_event();
    begin(a);
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecordWithFlags(half, a, cudaEventRecordExternal));
    OK(enqueue_letter(a, '2'));
    cudaGraphExec_t exec = end(a);
    OK(cudaStreamWaitEvent(b, half, 0)); // not recorded before the first launch
    OK(enqueue_letter(b, 'x'));
    OK(cudaStreamSynchronize(b));
    TRACE("x");
    OK(cudaGraphLaunch(exec, a));
    OK(cudaStreamWaitEvent(b, half, 0));
    OK(enqueue_letter(b, 'y'));
    OK(cudaStreamSynchronize(b));
    TRACE("x1y"); // half of the graph and no more
    OK(cudaGraphLaunch(exec, a));
    OK(cudaEventSynchronize(half));
    TRACE("x1y21");
    OK(cudaStreamSynchronize(a));
    TRACE("x1y212");
    OK(cudaGraphLaunch(exec, a));
    OK(cudaEventDestroy(half)); // the graph keeps what it needs
    OK(cudaGraphLaunch(exec, a));
    OK(cudaStreamSynchronize(a));
    TRACE("x1y2121212");
    OK(cudaGraphExecDestroy(exec));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

// Gradients of two ranges, the first handed over while the second is computed: without the wait, the other
// stream sees NaN.
static void test_a_missing_wait_for_a_graph_shows(void **state)
{
    (void)state;
    for (int waits = 0; waits < 2; waits++) {
        cudaStream_t compute = new_stream(), communication = new_stream();
        cudaEvent_t event = new_event();
        float *gradients = new_device(N), *input = new_device(N), *out = new_pinned(N);
        OK(cudaMemset(input, 0, BYTES));
        OK(cudaDeviceSynchronize());
        begin(compute);
        OK(enqueue_addition(compute, gradients, input, N, 1));
        OK(cudaEventRecordWithFlags(event, compute, cudaEventRecordExternal));
        cudaGraphExec_t exec = end(compute);
        OK(cudaGraphLaunch(exec, compute));
        if (waits)
            OK(cudaStreamWaitEvent(communication, event, 0));
        OK(cudaMemcpyAsync(out, gradients, BYTES, cudaMemcpyDeviceToHost, communication));
        OK(cudaStreamSynchronize(communication));
        assert_true(waits ? all_equal(out, N, 1) : all_bytes(out, BYTES, 0xff));
        OK(cudaDeviceSynchronize());
        OK(cudaGraphExecDestroy(exec));
        OK(cudaFree(gradients));
        OK(cudaFree(input));
        OK(cudaFreeHost(out));
        OK(cudaEventDestroy(event));
        OK(cudaStreamDestroy(compute));
        OK(cudaStreamDestroy(communication));
    }
}

static void test_external_waits_bind_at_each_launch(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    begin(a);
    OK(cudaStreamWaitEvent(a, event, cudaEventWaitExternal));
    OK(enqueue_letter(a, '1'));
    cudaGraphExec_t exec = end(a);
    OK(enqueue_letter(b, 'x'));
    OK(cudaEventRecord(event, b));
    OK(cudaGraphLaunch(exec, a));
    OK(enqueue_letter(b, 'y'));
    OK(cudaEventRecord(event, b)); // after the launch
    OK(cudaStreamSynchronize(a));
    TRACE("x1");
    OK(cudaGraphLaunch(exec, a));
    OK(cudaStreamSynchronize(a));
    TRACE("x1y1");
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

static void test_captured_events_mean_nothing_outside(void **state)
{
    (void)state;
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t inside = new_event(), outside = new_event();
    begin(a);
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(inside, a));
    cudaGraphExec_t exec = end(a);
    OK(cudaGraphLaunch(exec, a));
    FAILS(cudaStreamWaitEvent(b, inside, 0), cudaErrorCapturedEvent);
    FAILS(cudaEventSynchronize(inside), cudaErrorCapturedEvent);
    FAILS(cudaEventQuery(inside), cudaErrorCapturedEvent);
    OK(cudaEventRecord(inside, b)); // an ordinary event again
    OK(cudaEventSynchronize(inside));
    OK(cudaEventRecord(outside, b));
    cudaGraph_t graph;
    begin(a);
    FAILS(cudaStreamWaitEvent(a, outside, 0), cudaErrorStreamCaptureIsolation);
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
    begin(a);
    begin(b);
    OK(cudaEventRecord(inside, a));
    FAILS(cudaStreamWaitEvent(b, inside, 0), cudaErrorStreamCaptureMerge);
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureInvalidated);
    FAILS(cudaStreamEndCapture(b, &graph), cudaErrorStreamCaptureInvalidated);
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(inside));
    OK(cudaEventDestroy(outside));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

// ---- What a capture forbids -----------------------------------------------------------------------------

static void ends_invalidated(cudaStream_t stream)
{
    cudaGraph_t graph = (cudaGraph_t)&graph;
    assert_int_equal(status_of(stream), cudaStreamCaptureStatusInvalidated);
    FAILS(enqueue_letter(stream, '!'), cudaErrorStreamCaptureInvalidated);
    FAILS(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    assert_int_equal(status_of(stream), cudaStreamCaptureStatusNone);
    clear_trace();
    OK(enqueue_letter(stream, 's')); // the stream is usable again
    OK(cudaStreamSynchronize(stream));
    TRACE("s");
}

static void test_waiting_invalidates_a_capture(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    begin(stream);
    FAILS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaErrorIllegalState);
    FAILS(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    begin(stream);
    FAILS(cudaStreamQuery(stream), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    begin(stream);
    FAILS(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    cudaEvent_t event = new_event();
    begin(stream);
    OK(cudaEventRecord(event, stream));
    FAILS(cudaEventSynchronize(event), cudaErrorCapturedEvent);
    ends_invalidated(stream);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(stream));
}

static void test_unsafe_calls_invalidate_a_capture(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *device = new_device(N), host[N];
    void *memory = NULL;
    begin(stream);
    FAILS(cudaMalloc(&memory, 1), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    begin(stream);
    FAILS(cudaFree(device), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    begin(stream);
    FAILS(cudaMemcpy(host, device, BYTES, cudaMemcpyDeviceToHost), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    begin(stream);
    FAILS(cudaMallocAsync(&memory, 8, stream), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    // Relaxed captures, and threads that ask for it, may.
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    OK(cudaMalloc(&memory, 1));
    OK(cudaFree(memory));
    OK(cudaGraphExecDestroy(end(stream)));
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    begin(stream);
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    OK(cudaMalloc(&memory, 1));
    OK(cudaFree(memory));
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, cudaStreamCaptureModeRelaxed);
    OK(cudaGraphExecDestroy(end(stream)));
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
}

static void test_legacy_stream_and_captures(void **state)
{
    (void)state;
    cudaStream_t stream = new_blocking_stream();
    enum cudaStreamCaptureStatus status;
    float *device = new_device(N);
    FAILS(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    FAILS(cudaStreamIsCapturing(NULL, &status), cudaErrorStreamCaptureImplicit);
    assert_int_equal(status_of(stream), cudaStreamCaptureStatusActive);
    FAILS(cudaMemsetAsync(device, 0, BYTES, NULL), cudaErrorStreamCaptureImplicit);
    ends_invalidated(stream);
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
}

static void *allocate_in_thread(void *data)
{
    (void)data;
    void *memory;
    cudaError_t error = cudaMalloc(&memory, 1);
    if (error == cudaSuccess)
        cudaFree(memory);
    return (void *)(intptr_t)error;
}

static void *end_in_thread(void *stream)
{
    cudaGraph_t graph;
    return (void *)(intptr_t)cudaStreamEndCapture(stream, &graph);
}

static cudaError_t in_thread(void *(*body)(void *), void *data)
{
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, body, data), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    return (cudaError_t)(intptr_t)result;
}

static void test_captures_and_other_threads(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    begin(stream);
    OK(in_thread(allocate_in_thread, NULL)); // the capture is the other thread's own affair
    FAILS(in_thread(end_in_thread, stream), cudaErrorStreamCaptureWrongThread);
    OK(cudaGraphExecDestroy(end(stream)));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    FAILS(in_thread(allocate_in_thread, NULL), cudaErrorStreamCaptureUnsupported);
    ends_invalidated(stream);
    OK(cudaStreamDestroy(stream));
}

int main(void)
{
    setenv("EMULATED_GPU_SEED", "0", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_graph_replays_what_was_recorded),
        cmocka_unit_test(test_nodes_are_listed),
        cmocka_unit_test(test_copies_happen_at_each_replay),
        cmocka_unit_test(test_contexts_are_released_once),
        cmocka_unit_test(test_other_streams_join_by_events),
        cmocka_unit_test(test_seeds_reorder_what_is_independent),
        cmocka_unit_test(test_a_fork_must_be_joined),
        cmocka_unit_test(test_external_records_are_made_anew_by_each_launch),
        cmocka_unit_test(test_a_missing_wait_for_a_graph_shows),
        cmocka_unit_test(test_external_waits_bind_at_each_launch),
        cmocka_unit_test(test_captured_events_mean_nothing_outside),
        cmocka_unit_test(test_waiting_invalidates_a_capture),
        cmocka_unit_test(test_unsafe_calls_invalidate_a_capture),
        cmocka_unit_test(test_legacy_stream_and_captures),
        cmocka_unit_test(test_captures_and_other_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
