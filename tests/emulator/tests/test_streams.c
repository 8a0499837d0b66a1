// Streams and events of the emulated runtime: work runs at the last legal moment, or with a seed at any.
#include "runtime_test.h"

enum { N = 100, BYTES = N * sizeof(float) };

#define TRACE(text) assert_string_equal(trace, text)

// ---- The last legal moment ------------------------------------------------------------------------------

static void test_nothing_runs_before_somebody_waits(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t half = new_event();
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(half, a));
    OK(enqueue_letter(a, '2'));
    OK(enqueue_letter(b, 'x'));
    TRACE("");
    OK(cudaEventSynchronize(half));
    TRACE("1"); // and no more than that
    OK(cudaStreamSynchronize(b));
    TRACE("1x");
    OK(cudaDeviceSynchronize());
    TRACE("1x2");
    OK(cudaEventDestroy(half));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

static void test_a_wait_forces_what_it_needs(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(event, a));
    OK(enqueue_letter(a, '2'));
    OK(enqueue_letter(b, 'x'));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'y'));
    OK(cudaStreamSynchronize(b));
    TRACE("x1y");
    OK(cudaStreamSynchronize(a));
    TRACE("x1y2");
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

static void test_a_wait_binds_to_the_newest_record(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    OK(cudaStreamWaitEvent(b, event, 0)); // never recorded: no wait
    OK(enqueue_letter(b, 'x'));
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(a, '2'));
    OK(cudaEventRecord(event, a)); // after the call: does not change what b waits for
    OK(enqueue_letter(b, 'y'));
    OK(cudaStreamSynchronize(b));
    TRACE("x1y");
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'z'));
    OK(cudaStreamSynchronize(b));
    TRACE("x1y2z");
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

static void test_handles_may_die_before_their_work(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    OK(enqueue_letter(a, '1'));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'x'));
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    cudaStream_t c = new_stream(); // must not take over what b waits for
    OK(enqueue_letter(c, 'c'));
    OK(cudaStreamSynchronize(b));
    TRACE("1x");
    OK(enqueue_letter(b, 'y'));
    OK(cudaStreamDestroy(b));
    OK(cudaDeviceSynchronize());
    assert_int_equal(strlen(trace), 4);
    OK(cudaStreamDestroy(c));
}

// ---- The legacy stream ----------------------------------------------------------------------------------

static void test_legacy_stream_waits_for_blocking_streams(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t blocking = new_blocking_stream(), other = new_stream();
    OK(enqueue_letter(blocking, 'b'));
    OK(enqueue_letter(other, 'n'));
    OK(enqueue_letter(NULL, 'L'));
    OK(enqueue_letter(blocking, 'c'));
    OK(cudaStreamSynchronize(blocking));
    TRACE("bLc"); // and the blocking stream for it
    OK(enqueue_letter(blocking, 'd'));
    OK(cudaStreamSynchronize(cudaStreamLegacy));
    TRACE("bLcd");
    float *device = new_device(1), host;
    OK(enqueue_letter(blocking, 'e'));
    OK(cudaMemcpy(&host, device, sizeof host, cudaMemcpyDeviceToHost));
    TRACE("bLcde");
    OK(cudaFree(device)); // waits for the whole device
    TRACE("bLcden");
    OK(cudaStreamDestroy(blocking));
    OK(cudaStreamDestroy(other));
}

// The synchronous copy does not wait for a stream that does not block: the result is what a GPU may show.
static void test_synchronous_copy_misses_other_streams(void **state)
{
    (void)state;
    cudaStream_t stream = new_stream();
    float *device = new_device(N), host[N];
    OK(cudaMemsetAsync(device, 0, BYTES, stream));
    OK(cudaMemcpy(host, device, BYTES, cudaMemcpyDeviceToHost));
    assert_true(all_bytes(host, BYTES, 0xff));
    OK(cudaStreamSynchronize(stream));
    OK(cudaMemcpy(host, device, BYTES, cudaMemcpyDeviceToHost));
    assert_true(all_equal(host, N, 0));
    OK(cudaFree(device));
    OK(cudaStreamDestroy(stream));
}

// ---- Queries and work that waits for others -------------------------------------------------------------

static void test_polling_comes_to_an_end(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream();
    cudaEvent_t event = new_event();
    OK(cudaEventQuery(event)); // never recorded
    OK(enqueue_letter(a, '1'));
    OK(enqueue_late_letter(a, '2', 2));
    OK(cudaEventRecord(event, a));
    OK(enqueue_letter(a, '3'));
    FAILS(cudaEventQuery(event), cudaErrorNotReady);
    TRACE("1");
    FAILS(cudaEventQuery(event), cudaErrorNotReady);
    OK(cudaEventQuery(event));
    TRACE("12");
    OK(cudaStreamQuery(a));
    TRACE("123");
    OK(enqueue_late_letter(a, '4', 1));
    FAILS(cudaStreamQuery(a), cudaErrorNotReady);
    OK(cudaStreamQuery(a));
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
}

static void test_synchronize_waits_for_other_processes(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event = new_event();
    OK(enqueue_late_letter(a, '1', 1000));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(enqueue_letter(b, 'x'));
    FAILS(cudaStreamQuery(b), cudaErrorNotReady);
    TRACE("");
    OK(cudaStreamSynchronize(b));
    TRACE("1x");
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

static int peer_has_run;

static bool run_peer(void *context)
{
    (void)context;
    peer_has_run = 1;
    return true;
}

static bool wait_for_peer(void *context)
{
    (void)context;
    return peer_has_run;
}

static void release_nothing(void *context)
{
    (void)context;
}

// Another process may need what another stream of this one does: a GPU would do it meanwhile.
static void test_a_long_wait_lets_other_streams_go_on(void **state)
{
    (void)state;
    cudaStream_t a = new_stream(), b = new_stream();
    const LsEmulatedWork waits = {"waits", wait_for_peer, release_nothing, NULL};
    const LsEmulatedWork peer = {"peer", run_peer, release_nothing, NULL};
    peer_has_run = 0;
    OK(ls_emulator_enqueue(a, &waits));
    OK(ls_emulator_enqueue(b, &peer));
    OK(cudaStreamSynchronize(a));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
    clear_trace();
    cudaStream_t c = new_stream();
    OK(enqueue_letter(c, 'c'));
    ls_emulator_progress(); // the same while the host polls for something else
    TRACE("c");
    OK(cudaStreamDestroy(c));
}

// ---- Host functions and time ----------------------------------------------------------------------------

static void append(void *data)
{
    strcat(trace, data);
}

static void test_host_functions_run_in_order(void **state)
{
    (void)state;
    clear_trace();
    cudaStream_t a = new_stream();
    OK(enqueue_letter(a, '1'));
    OK(cudaLaunchHostFunc(a, append, "host"));
    OK(enqueue_letter(a, '2'));
    TRACE("");
    OK(cudaStreamSynchronize(a));
    TRACE("1host2");
    FAILS(cudaLaunchHostFunc(a, NULL, NULL), cudaErrorInvalidValue);
    OK(cudaStreamDestroy(a));
}

static void nap(void *data)
{
    (void)data;
    usleep(20000);
    ls_emulator_spend(3600);
}

static void test_elapsed_time_is_that_of_the_work(void **state)
{
    (void)state;
    cudaStream_t a = new_stream();
    cudaEvent_t start, end, untimed = new_event();
    float ms = -1;
    OK(cudaEventCreate(&start));
    OK(cudaEventCreate(&end));
    FAILS(cudaEventElapsedTime(&ms, start, end), cudaErrorInvalidResourceHandle); // never recorded
    OK(cudaEventRecord(start, a));
    OK(cudaLaunchHostFunc(a, nap, NULL));
    OK(cudaEventRecord(end, a));
    FAILS(cudaEventElapsedTime(&ms, start, end), cudaErrorNotReady);
    OK(cudaEventSynchronize(end));
    OK(cudaEventElapsedTime(&ms, start, end));
    assert_true(ms >= 3600020);
    OK(cudaEventRecord(untimed, a));
    FAILS(cudaEventElapsedTime(&ms, start, untimed), cudaErrorInvalidResourceHandle);
    OK(cudaEventDestroy(start));
    OK(cudaEventDestroy(end));
    OK(cudaEventDestroy(untimed));
    OK(cudaStreamDestroy(a));
}

// ---- Wrong arguments ------------------------------------------------------------------------------------

static void test_wrong_handles_are_refused(void **state)
{
    (void)state;
    cudaStream_t a = new_stream(), gone = new_stream();
    cudaEvent_t event = new_event(), dead = new_event();
    OK(cudaStreamDestroy(gone));
    OK(cudaEventDestroy(dead));
    FAILS(cudaStreamDestroy(gone), cudaErrorInvalidResourceHandle);
    FAILS(cudaStreamSynchronize(gone), cudaErrorInvalidResourceHandle);
    FAILS(enqueue_letter(gone, 'g'), cudaErrorInvalidResourceHandle);
    FAILS(cudaEventRecord(dead, a), cudaErrorInvalidResourceHandle);
    FAILS(cudaEventRecord(NULL, a), cudaErrorInvalidResourceHandle);
    FAILS(cudaEventDestroy(dead), cudaErrorInvalidResourceHandle);
    FAILS(cudaStreamWaitEvent(a, dead, 0), cudaErrorInvalidResourceHandle);
    FAILS(cudaStreamDestroy(NULL), cudaErrorInvalidResourceHandle);
    FAILS(cudaStreamCreateWithFlags(&gone, 8), cudaErrorInvalidValue);
    FAILS(cudaEventCreateWithFlags(&dead, 64), cudaErrorInvalidValue);
    // External records and waits exist in captures only.
    FAILS(cudaEventRecordWithFlags(event, a, cudaEventRecordExternal), cudaErrorInvalidValue);
    FAILS(cudaStreamWaitEvent(a, event, cudaEventWaitExternal), cudaErrorInvalidValue);
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(a));
}

// ---- A pipeline, with its events and without ------------------------------------------------------------

typedef struct Pipeline {
    cudaStream_t copy, compute, communication;
    cudaEvent_t copied, computed, sent, read;
    float *host_in, *host_out, *in, *sum, *out;
} Pipeline;

static void open_pipeline(Pipeline *p)
{
    *p = (Pipeline){new_stream(), new_stream(), new_stream(), new_event(), new_event(), new_event(),
        new_event(), new_pinned(N), new_pinned(N), new_device(N), new_device(N), new_device(N)};
}

static void close_pipeline(Pipeline *p)
{
    cudaStream_t streams[] = {p->copy, p->compute, p->communication};
    cudaEvent_t events[] = {p->copied, p->computed, p->sent, p->read};
    float *device[] = {p->in, p->sum, p->out};
    for (size_t i = 0; i < 3; i++)
        OK(cudaFree(device[i]));
    for (size_t i = 0; i < 3; i++)
        OK(cudaStreamDestroy(streams[i]));
    for (size_t i = 0; i < 4; i++)
        OK(cudaEventDestroy(events[i]));
    OK(cudaFreeHost(p->host_in));
    OK(cudaFreeHost(p->host_out));
}

static void wait_unless(bool missing, cudaStream_t stream, cudaEvent_t event)
{
    if (!missing)
        OK(cudaStreamWaitEvent(stream, event, 0));
}

// Three steps of: copy a batch in, add 1, add that to a sum in another stream; then copy the sum out.
// `missing` is the number of the wait that the program forgets, 0: none. Returns whether the sum was right.
static bool run_pipeline(int missing)
{
    Pipeline p;
    open_pipeline(&p);
    OK(cudaMemsetAsync(p.out, 0, BYTES, p.communication));
    for (int step = 0; step < 3; step++) {
        if (missing != 1)
            OK(cudaEventSynchronize(p.copied)); // before the batch is overwritten
        for (size_t i = 0; i < N; i++)
            p.host_in[i] = (float)(step + 1) * 10;
        wait_unless(missing == 2, p.copy, p.computed); // before `in` is overwritten
        OK(cudaMemcpyAsync(p.in, p.host_in, BYTES, cudaMemcpyHostToDevice, p.copy));
        OK(cudaEventRecord(p.copied, p.copy));
        wait_unless(missing == 3, p.compute, p.copied);
        wait_unless(missing == 4, p.compute, p.sent); // before `sum` is overwritten
        OK(enqueue_addition(p.compute, p.sum, p.in, N, 1));
        OK(cudaEventRecord(p.computed, p.compute));
        wait_unless(missing == 5, p.communication, p.computed);
        OK(enqueue(p.communication, (Addition){p.out, p.sum, N, 0, true}));
        OK(cudaEventRecord(p.sent, p.communication));
    }
    OK(cudaMemcpyAsync(p.host_out, p.out, BYTES, cudaMemcpyDeviceToHost, p.communication));
    OK(cudaEventRecord(p.read, p.communication));
    if (missing != 6)
        OK(cudaEventSynchronize(p.read));
    bool right = all_equal(p.host_out, N, 10 + 20 + 30 + 3);
    OK(cudaDeviceSynchronize());
    close_pipeline(&p);
    return right;
}

static void test_a_right_program_is_right_at_any_pace(void **state)
{
    (void)state;
    assert_true(run_pipeline(0));
    for (uint64_t seed = 1; seed <= 200; seed++) {
        ls_emulator_seed(seed);
        if (!run_pipeline(0))
            fail_msg("seed %d", (int)seed);
    }
    ls_emulator_seed(0);
}

// Each forgotten wait shows at the latest pace or at one of a few random ones.
static void test_each_missing_wait_shows(void **state)
{
    (void)state;
    for (int missing = 1; missing <= 6; missing++) {
        bool shown = !run_pipeline(missing);
        for (uint64_t seed = 1; seed <= 200 && !shown; seed++) {
            ls_emulator_seed(seed);
            shown = !run_pipeline(missing);
        }
        ls_emulator_seed(0);
        if (!shown)
            fail_msg("nobody saw that wait %d is missing", missing);
    }
    // These show at the latest pace: what the device was never given is NaN, and so is what the host was not.
    assert_false(run_pipeline(1));
    assert_false(run_pipeline(3));
    assert_false(run_pipeline(5));
    assert_false(run_pipeline(6));
}

int main(void)
{
    setenv("EMULATED_GPU_SEED", "0", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_runs_before_somebody_waits),
        cmocka_unit_test(test_a_wait_forces_what_it_needs),
        cmocka_unit_test(test_a_wait_binds_to_the_newest_record),
        cmocka_unit_test(test_handles_may_die_before_their_work),
        cmocka_unit_test(test_legacy_stream_waits_for_blocking_streams),
        cmocka_unit_test(test_synchronous_copy_misses_other_streams),
        cmocka_unit_test(test_polling_comes_to_an_end),
        cmocka_unit_test(test_synchronize_waits_for_other_processes),
        cmocka_unit_test(test_a_long_wait_lets_other_streams_go_on),
        cmocka_unit_test(test_host_functions_run_in_order),
        cmocka_unit_test(test_elapsed_time_is_that_of_the_work),
        cmocka_unit_test(test_wrong_handles_are_refused),
        cmocka_unit_test(test_a_right_program_is_right_at_any_pace),
        cmocka_unit_test(test_each_missing_wait_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
