// The cuda device, on a GPU or the emulated one: what it refuses, memory, streams, markers and graphs.
#include "cuda/cuda_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// ---- Opening --------------------------------------------------------------------------------------------

// In a process of its own, where there is no GPU.
static int without_gpu(void)
{
    LsDevice *none = NULL;
    char text[256];
    int usable = -1;
    ls_device_gpus(text, sizeof text, &usable);
    bool refused = open_cuda(LS_PRECISION_AUTO, &none) == LS_UNAVAILABLE && !none;
    bool told = strstr(ls_status_message(), "runtime.device cuda") &&
                strstr(ls_status_message(), "cpu or auto") && !strchr(ls_status_message(), '\n');
    printf("%s\n%s\n", text, ls_status_message());
    if (emulated)
        told = told && strstr(ls_status_message(), "no NVIDIA driver");
    const LsDeviceOptions automatic = {.kind = LS_DEVICE_AUTO, .threads = 1};
    bool falls_back = ls_device_open(&automatic, &none) != LS_OK || strcmp(none->ops->name, "cpu") == 0;
    ls_device_close(none);
    return usable == 0 && refused && told && falls_back ? 0 : 1;
}

static void a_machine_without_gpu_is_told(void **unused)
{
    (void)unused;
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("CUDA_VISIBLE_DEVICES", "", 1);
        setenv("EMULATED_GPUS", "0", 1);
        execl("/proc/self/exe", "test_cuda", emulated ? "--without-emulated-gpu" : "--without-gpu",
            (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_device_says_what_it_is(void **unused)
{
    (void)unused;
    char one[512], other[512];
    LsDevice *second;
    ls_device_identity(device, one, sizeof one);
    assert_int_equal(strlen(one), 40);
    assert_memory_equal(one, "GPU-", 4);
    REQUIRE(open_cuda(LS_PRECISION_AUTO, &second));
    assert_int_equal(second->precision, LS_PRECISION_BF16);
    assert_int_equal(ls_device_compute_type(second), LS_BF16);
    assert_true(second->discrete);
    ls_device_identity(second, other, sizeof other);
    assert_string_equal(one, other);
    ls_device_fingerprint(device, one, sizeof one);
    ls_device_fingerprint(second, other, sizeof other);
    assert_string_not_equal(one, other);
    assert_non_null(strstr(one, "cuBLASLt"));
    assert_non_null(strstr(one, "SMs"));
    ls_device_close(second);
    const LsDeviceOptions automatic = {.kind = LS_DEVICE_AUTO, .threads = 1};
    REQUIRE(ls_device_open(&automatic, &second));
    assert_string_equal(second->ops->name, "cuda");
    ls_device_close(second);
}

// A rank beyond the number of GPUs takes one that another rank has.
static void ranks_take_gpus_in_turn(void **unused)
{
    (void)unused;
    int usable;
    char text[512], first[64], other[64];
    ls_device_gpus(text, sizeof text, &usable);
    assert_true(usable > 0);
    ls_device_identity(device, first, sizeof first);
    for (int rank = 0; rank <= usable; rank++) {
        LsDevice *taken;
        const LsDeviceOptions options = {.kind = LS_DEVICE_CUDA, .threads = 1, .local_rank = rank};
        REQUIRE(ls_device_open(&options, &taken));
        ls_device_identity(taken, other, sizeof other);
        assert_int_equal(strcmp(first, other) == 0, rank % usable == 0);
        ls_device_close(taken);
    }
}

static void the_peak_is_measured(void **unused)
{
    (void)unused;
    double flops = 0;
    REQUIRE(ls_device_measure_peak(device, &flops));
    assert_true(isfinite(flops) && flops > 0);
    // A GPU does not multiply faster than its data sheet says.
    double peak = 0;
    bool sheet;
    REQUIRE(ls_device_peak(device, &peak, &sheet));
    assert_true(isfinite(peak) && peak > 0);
    assert_true(!sheet || flops < 1.05 * peak); // clocks may pass the boost clock by a little
}

// ---- Memory ---------------------------------------------------------------------------------------------

static void what_does_not_fit_is_one_line(void **unused)
{
    (void)unused;
    void *memory = NULL;
    size_t terabyte = (size_t)1 << 40;
    assert_int_equal(device->ops->allocate(device, terabyte, &memory), LS_UNAVAILABLE);
    assert_null(memory);
    assert_said("out of memory on GPU 0");
    assert_said("1024.00 GiB asked for");
    assert_said(" free of ");
    assert_null(strstr(ls_status_message(), "the run needs")); // nobody has said
    device->expected_bytes = (size_t)3 << 30;
    assert_int_equal(device->ops->allocate(device, terabyte, &memory), LS_UNAVAILABLE);
    assert_said("the run needs about 3.00 GiB");
    assert_said("--dry-run");
    REQUIRE(device->ops->allocate(device, 16, &memory)); // and the device is none the worse
    device->ops->release(device, memory);
}

static void host_memory_is_read_before_the_call_returns(void **unused)
{
    (void)unused;
    float host[1000], back[1000], wanted[1000];
    fill(wanted, 1000, 7);
    memcpy(host, wanted, sizeof host);
    void *memory = on_device(device, host, sizeof host);
    memset(host, 0, sizeof host);
    read_back(device, back, memory, sizeof back);
    assert_memory_equal(back, wanted, sizeof back);
    device->ops->release(device, memory);
}

// A batch that comes in pinned memory and a result that is read late, without the host waiting in between.
static void pinned_memory_is_copied_behind_the_hosts_back(void **unused)
{
    (void)unused;
    enum { COUNT = 5000 };
    const LsDeviceOps *ops = device->ops;
    float *in, *out;
    LsMarker *arrived, *done;
    bool reached;
    REQUIRE(ops->allocate_host(device, COUNT * sizeof *in, (void **)&in));
    REQUIRE(ops->allocate_host(device, COUNT * sizeof *out, (void **)&out));
    REQUIRE(ops->marker_create(device, &arrived));
    REQUIRE(ops->marker_create(device, &done));
    REQUIRE(ops->marker_reached(device, done, &reached));
    assert_true(reached); // never recorded
    REQUIRE(ops->marker_synchronize(device, done));
    REQUIRE(ops->marker_wait(device, done));
    float *x = on_device(device, NULL, COUNT * sizeof *x), *y = on_device(device, NULL, COUNT * sizeof *y);
    for (uint32_t step = 0; step < 3; step++) {
        fill(in, COUNT, step);
        ops->select_stream(device, LS_STREAM_COPY);
        REQUIRE(ops->copy_in(device, x, in, COUNT * sizeof *in));
        REQUIRE(ops->marker_record(device, arrived));
        ops->select_stream(device, LS_STREAM_COMPUTE);
        REQUIRE(ops->marker_wait(device, arrived));
        REQUIRE(ops->add(device, &(LsAdd){.n = COUNT, .a = x, .b = x, .y = y, .type = LS_F32}));
        REQUIRE(ops->marker_record(device, arrived));
        ops->select_stream(device, LS_STREAM_COPY);
        REQUIRE(ops->marker_wait(device, arrived));
        REQUIRE(ops->copy_out(device, out, y, COUNT * sizeof *out));
        REQUIRE(ops->marker_record(device, done));
        ops->select_stream(device, LS_STREAM_COMPUTE);
        REQUIRE(ops->marker_synchronize(device, done));
        REQUIRE(ops->marker_reached(device, done, &reached));
        assert_true(reached);
        for (size_t i = 0; i < COUNT; i++)
            assert_true(out[i] == 2 * in[i]);
    }
    ops->marker_destroy(device, arrived);
    ops->marker_destroy(device, done);
    ops->marker_destroy(device, NULL);
    ops->release(device, x);
    ops->release(device, y);
    ops->release_host(device, in);
    ops->release_host(device, out);
}

// ---- Graphs ---------------------------------------------------------------------------------------------

enum { EDGE = 32 };

// y = x x + x, in the stream or the graph that is recorded.
static void enqueue_work(float *x, float *square, float *y)
{
    const LsMatmul product = {.m = EDGE,
        .n = EDGE,
        .k = EDGE,
        .a = x,
        .b = x,
        .input_type = LS_F32,
        .c = square,
        .output_type = LS_F32};
    REQUIRE(device->ops->matmul(device, &product));
    REQUIRE(
        device->ops->add(device, &(LsAdd){.n = EDGE * EDGE, .a = square, .b = x, .y = y, .type = LS_F32}));
}

static void a_graph_is_replayed_with_new_contents(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    enum { BYTES = EDGE * EDGE * sizeof(float) };
    float host[EDGE * EDGE], wanted[EDGE * EDGE], *late;
    float *x = on_device(device, NULL, BYTES), *square = on_device(device, NULL, BYTES),
          *y = on_device(device, NULL, BYTES);
    LsGraph *graph;
    LsMarker *final;
    REQUIRE(ops->allocate_host(device, BYTES, (void **)&late));
    REQUIRE(ops->marker_create(device, &final));
    fill(host, EDGE * EDGE, 1);
    REQUIRE(ops->copy_in(device, x, host, BYTES));
    enqueue_work(x, square, y); // what was not run before cannot be recorded
    REQUIRE(ops->capture_begin(device));
    enqueue_work(x, square, y);
    REQUIRE(ops->marker_record(device, final));
    REQUIRE(ops->zero(device, square, BYTES));
    REQUIRE(ops->capture_end(device, &graph));
    assert_non_null(graph);
    for (uint32_t turn = 2; turn < 5; turn++) {
        fill(host, EDGE * EDGE, turn);
        REQUIRE(ops->copy_in(device, x, host, BYTES));
        enqueue_work(x, square, y);
        read_back(device, wanted, y, BYTES);
        REQUIRE(ops->zero(device, y, BYTES));
        REQUIRE(ops->graph_launch(device, graph));
        ops->select_stream(device, LS_STREAM_COMMUNICATION);
        REQUIRE(ops->marker_wait(device, final)); // of this launch
        REQUIRE(ops->copy_out(device, late, y, BYTES));
        ops->select_stream(device, LS_STREAM_COMPUTE);
        REQUIRE(ops->synchronize(device));
        assert_memory_equal(late, wanted, BYTES);
        read_back(device, wanted, square, BYTES);
        for (size_t i = 0; i < EDGE * EDGE; i++)
            assert_true(wanted[i] == 0);
    }
    ops->graph_destroy(device, graph);
    ops->graph_destroy(device, NULL);
    ops->marker_destroy(device, final);
    ops->release_host(device, late);
    ops->release(device, x);
    ops->release(device, square);
    ops->release(device, y);
}

// Work long enough that whoever does not wait for it is early.
static void enqueue_long_work(const float *x, float *y, size_t edge)
{
    const LsMatmul product = {
        .m = edge, .n = edge, .k = edge, .a = x, .b = x, .input_type = LS_F32, .c = y, .output_type = LS_F32};
    for (int i = 0; i < 4; i++)
        REQUIRE(device->ops->matmul(device, &product));
}

// The graph of one turn: long work, *value to *stage, the marker, long work.
static LsGraph *record_turn(
    const float *x, float *y, size_t edge, const float *value, float *stage, LsMarker *final)
{
    LsGraph *graph;
    enqueue_long_work(x, y, edge);
    REQUIRE(device->ops->capture_begin(device));
    enqueue_long_work(x, y, edge);
    REQUIRE(device->ops->copy(device, stage, value, sizeof *stage));
    REQUIRE(device->ops->marker_record(device, final));
    enqueue_long_work(x, y, edge);
    REQUIRE(device->ops->capture_end(device, &graph));
    assert_non_null(graph);
    return graph;
}

// Another stream that waits for the marker inside a graph gets this launch's value, launch after launch,
// while the host never waits: what buckets of gradients rely on.
static void other_streams_wait_for_markers_in_graphs(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    const size_t turns = emulated ? 25 : 1000, edge = emulated ? 16 : 512;
    float *x = numbers_on_device(device, edge * edge, 1, LS_F32),
          *y = on_device(device, NULL, edge * edge * sizeof *y);
    float *value = on_device(device, NULL, sizeof *value), *stage = on_device(device, NULL, sizeof *stage);
    float *sent, *got;
    LsMarker *final, *taken;
    REQUIRE(ops->allocate_host(device, turns * sizeof *sent, (void **)&sent));
    REQUIRE(ops->allocate_host(device, turns * sizeof *got, (void **)&got));
    REQUIRE(ops->marker_create(device, &final));
    REQUIRE(ops->marker_create(device, &taken));
    LsGraph *graph = record_turn(x, y, edge, value, stage, final);
    for (size_t turn = 0; turn < turns; turn++) {
        sent[turn] = (float)turn + 0.5f;
        REQUIRE(ops->copy_in(device, value, &sent[turn], sizeof *sent));
        REQUIRE(ops->graph_launch(device, graph));
        ops->select_stream(device, LS_STREAM_COMMUNICATION);
        REQUIRE(ops->marker_wait(device, final));
        REQUIRE(ops->copy_out(device, &got[turn], stage, sizeof *got));
        REQUIRE(ops->marker_record(device, taken));
        ops->select_stream(device, LS_STREAM_COMPUTE);
        REQUIRE(ops->marker_wait(device, taken));
    }
    REQUIRE(ops->synchronize(device));
    assert_memory_equal(got, sent, turns * sizeof *sent);
    ops->graph_destroy(device, graph);
    ops->marker_destroy(device, taken);
    ops->marker_destroy(device, final);
    ops->release_host(device, got);
    ops->release_host(device, sent);
    ops->release(device, stage);
    ops->release(device, value);
    ops->release(device, y);
    ops->release(device, x);
}

// The other way round: what follows the wait in a graph sees what another stream has brought for this launch,
// what comes before it does not wait. So weights come while a recorded forward pass runs.
static void graphs_wait_for_markers_of_other_streams(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    const size_t turns = emulated ? 25 : 1000;
    float *value = on_device(device, NULL, sizeof *value), *stage = on_device(device, NULL, sizeof *stage);
    float *sent, *got;
    LsMarker *brought;
    LsGraph *graph;
    REQUIRE(ops->allocate_host(device, turns * sizeof *sent, (void **)&sent));
    REQUIRE(ops->allocate_host(device, turns * sizeof *got, (void **)&got));
    REQUIRE(ops->marker_create(device, &brought));
    REQUIRE(ops->copy(device, stage, value, sizeof *stage)); // its shape has run
    REQUIRE(ops->capture_begin(device));
    REQUIRE(ops->marker_wait(device, brought));
    REQUIRE(ops->copy(device, stage, value, sizeof *stage));
    REQUIRE(ops->capture_end(device, &graph));
    assert_non_null(graph);
    LsMarker *taken;
    REQUIRE(ops->marker_create(device, &taken));
    for (size_t turn = 0; turn < turns; turn++) {
        sent[turn] = (float)turn + 0.5f;
        ops->select_stream(device, LS_STREAM_COMMUNICATION);
        REQUIRE(ops->marker_wait(device, taken));
        REQUIRE(ops->copy_in(device, value, &sent[turn], sizeof *sent));
        REQUIRE(ops->marker_record(device, brought));
        ops->select_stream(device, LS_STREAM_COMPUTE);
        REQUIRE(ops->graph_launch(device, graph));
        REQUIRE(ops->copy_out(device, &got[turn], stage, sizeof *got));
        REQUIRE(ops->marker_record(device, taken));
    }
    REQUIRE(ops->synchronize(device));
    assert_memory_equal(got, sent, turns * sizeof *sent);
    ops->graph_destroy(device, graph);
    ops->marker_destroy(device, taken);
    ops->marker_destroy(device, brought);
    ops->release_host(device, got);
    ops->release_host(device, sent);
    ops->release(device, stage);
    ops->release(device, value);
}

// What cannot be recorded is refused, the graph with a hole in it is not made, and the device goes on.
static void a_graph_has_no_holes(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    float host[64] = {0}, *x = on_device(device, host, sizeof host);
    void *memory;
    LsMarker *marker;
    LsGraph *graph;
    REQUIRE(ops->marker_create(device, &marker));
    const LsMatmul fresh = {
        .m = 3, .n = 5, .k = 1, .a = x, .b = x, .input_type = LS_F32, .c = x + 16, .output_type = LS_F32};
    for (int refusal = 0; refusal < 6; refusal++) {
        REQUIRE(ops->capture_begin(device));
        LsStatus status = refusal == 0   ? ops->matmul(device, &fresh)
                          : refusal == 1 ? ops->allocate(device, 16, &memory)
                          : refusal == 2 ? ops->copy_in(device, x, host, sizeof host)
                          : refusal == 3 ? ops->synchronize(device)
                          : refusal == 4 ? ops->marker_synchronize(device, marker)
                                         : ops->capture_begin(device);
        assert_int_equal(status, LS_INTERNAL);
        assert_said("recorded in a graph");
        graph = (LsGraph *)&fresh;
        REQUIRE(ops->capture_end(device, &graph));
        assert_null(graph);
        REQUIRE(ops->synchronize(device));
    }
    assert_int_equal(ops->capture_end(device, &graph), LS_INTERNAL);
    REQUIRE(ops->capture_begin(device));
    REQUIRE(ops->add(device, &(LsAdd){.n = 64, .a = x, .b = x, .y = x, .type = LS_F32}));
    ops->capture_abandon(device);
    ops->capture_abandon(device);
    read_back(device, host, x, sizeof host);
    assert_true(host[0] == 0);
    REQUIRE(ops->matmul(device, &fresh));
    ops->marker_destroy(device, marker);
    ops->release(device, x);
}

static void products_stay_on_the_compute_stream(void **unused)
{
    (void)unused;
    float *x = on_device(device, NULL, 64 * sizeof *x);
    const LsMatmul product = {
        .m = 1, .n = 1, .k = 1, .a = x, .b = x, .input_type = LS_F32, .c = x + 16, .output_type = LS_F32};
    device->ops->select_stream(device, LS_STREAM_COPY);
    assert_int_equal(device->ops->matmul(device, &product), LS_INTERNAL);
    assert_said("compute stream");
    device->ops->select_stream(device, LS_STREAM_COMPUTE);
    device->ops->release(device, x);
}

static void gpu_failures_are_explained(void **unused)
{
    (void)unused;
    float *x = on_device(device, NULL, 64);
    const LsMatmul half = {.m = 1, .n = 1, .k = 1, .a = x, .b = x, .input_type = LS_I32, .c = x};
    assert_int_equal(device->ops->matmul(device, &half), LS_UNSUPPORTED);
    assert_said("int32");
    const LsCast cast = {.n = 1, .from = x, .from_type = LS_U8, .to = x, .to_type = LS_F32};
    assert_int_equal(device->ops->cast(device, &cast), LS_UNSUPPORTED);
    device->ops->release(device, x);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strncmp(argv[1], "--without-", 10) == 0) {
        emulated = strcmp(argv[1], "--without-emulated-gpu") == 0;
        return without_gpu();
    }
    if (!find_cuda()) // what a machine without a GPU says can be tested on one
        return emulated || without_gpu() != 0 ? 1 : SKIPPED;
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_machine_without_gpu_is_told),
        TEST(a_device_says_what_it_is),
        TEST(ranks_take_gpus_in_turn),
        TEST(the_peak_is_measured),
        TEST(what_does_not_fit_is_one_line),
        TEST(host_memory_is_read_before_the_call_returns),
        TEST(pinned_memory_is_copied_behind_the_hosts_back),
        TEST(a_graph_is_replayed_with_new_contents),
        TEST(other_streams_wait_for_markers_in_graphs),
        TEST(graphs_wait_for_markers_of_other_streams),
        TEST(a_graph_has_no_holes),
        TEST(products_stay_on_the_compute_stream),
        TEST(gpu_failures_are_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
