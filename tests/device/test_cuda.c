// The cuda device, on a GPU or the emulated one: what it refuses, memory, streams, markers, graphs, and the
// algorithms of its products.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/device.h"

enum { SKIPPED = 77 };

static LsDevice *device;
static bool emulated;

#define REQUIRE(call) require((call), #call, __LINE__)
static void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

static LsStatus open_cuda(LsPrecision precision, LsDevice **out)
{
    const LsDeviceOptions options = {.kind = LS_DEVICE_CUDA, .precision = precision, .threads = 1};
    return ls_device_open(&options, out);
}

static int open_device(void **unused)
{
    (void)unused;
    REQUIRE(open_cuda(LS_PRECISION_FP32, &device));
    return 0;
}

static int close_device(void **unused)
{
    (void)unused;
    ls_device_close(device);
    device = NULL;
    return 0;
}

// A failure is one line that says this.
static void assert_said(const char *part)
{
    if (!strstr(ls_status_message(), part))
        fail_msg("\"%s\" does not say \"%s\"", ls_status_message(), part);
    assert_null(strchr(ls_status_message(), '\n'));
}

static void *on_device(LsDevice *on, const void *host, size_t bytes)
{
    void *memory;
    REQUIRE(on->ops->allocate(on, bytes, &memory));
    if (host)
        REQUIRE(on->ops->copy_in(on, memory, host, bytes));
    return memory;
}

static void read_back(LsDevice *on, void *host, const void *memory, size_t bytes)
{
    REQUIRE(on->ops->copy_out(on, host, memory, bytes));
    REQUIRE(on->ops->synchronize(on));
}

// Numbers of both signs with full mantissas, the same for the same seed.
static void fill(float *numbers, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = ldexpf((float)(int32_t)seed, -31);
    }
}

// ---- Products -------------------------------------------------------------------------------------------

enum { MOST = 512 }; // the largest dimension here

static size_t packed(uint16_t *to, const float *from, size_t count, LsDtype type)
{
    for (size_t i = 0; i < count && type != LS_F32; i++)
        to[i] = type == LS_BF16 ? ls_f32_to_bf16(from[i]) : ls_f32_to_f16(from[i]);
    if (type == LS_F32)
        memcpy(to, from, count * sizeof(float));
    return count * ls_dtype_size(type);
}

static float number_at(const void *values, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)values)[i];
    uint16_t bits = ((const uint16_t *)values)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

static void *numbers_on_device(LsDevice *on, size_t count, uint32_t seed, LsDtype type)
{
    float *numbers = malloc(count * sizeof *numbers);
    uint16_t *half = malloc(count * sizeof(float));
    assert_true(numbers && half);
    fill(numbers, count, seed);
    void *memory = on_device(on, half, 0);
    on->ops->release(on, memory);
    size_t bytes = packed(half, numbers, count, type);
    memory = on_device(on, half, bytes);
    free(numbers);
    free(half);
    return memory;
}

typedef struct Product {
    size_t m, n, k;
    LsDtype type, output;
    bool bias, keep, accumulate;
    LsActivation activation, backward;
} Product;

// Runs a product of fixed numbers and returns c, for the caller to free.
static void *run_product(LsDevice *on, const Product *p)
{
    size_t size = ls_dtype_size(p->output), count = p->m * p->n;
    void *a = numbers_on_device(on, p->m * p->k, 1, p->type),
         *b = numbers_on_device(on, p->k * p->n, 2, p->type);
    void *bias = numbers_on_device(on, p->n, 3, p->type), *saved = numbers_on_device(on, count, 4, p->output);
    void *c = numbers_on_device(on, count, 5, p->output), *kept = on_device(on, NULL, count * size);
    LsMatmul args = {.m = p->m,
        .n = p->n,
        .k = p->k,
        .a = a,
        .b = b,
        .input_type = p->type,
        .c = c,
        .output_type = p->output,
        .accumulate = p->accumulate,
        .bias = p->bias ? bias : NULL,
        .activation = p->activation,
        .pre_activation = p->keep ? kept : NULL,
        .backward = p->backward,
        .saved = p->backward ? saved : NULL};
    REQUIRE(on->ops->matmul(on, &args));
    void *result = malloc(count * size);
    assert_non_null(result);
    read_back(on, result, c, count * size);
    void *all[] = {a, b, bias, saved, c, kept};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        on->ops->release(on, all[i]);
    return result;
}

static bool same_bits(const Product *p, const void *one, const void *other)
{
    return memcmp(one, other, p->m * p->n * ls_dtype_size(p->output)) == 0;
}

// ---- Opening --------------------------------------------------------------------------------------------

// In a process of its own, where there is no GPU.
static int without_gpu(void)
{
    LsDevice *none = NULL;
    char text[256];
    int usable = -1;
    ls_device_gpus(text, sizeof text, &usable);
    bool refused = open_cuda(LS_PRECISION_AUTO, &none) == LS_UNAVAILABLE && !none;
    bool told = strstr(ls_status_message(), "GPU") && strstr(ls_status_message(), "cpu or auto") &&
                !strchr(ls_status_message(), '\n');
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
    assert_null(strstr(ls_status_message(), "--dry-run"));
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
                          : refusal == 4 ? ops->marker_wait(device, marker)
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

// ---- Algorithms -----------------------------------------------------------------------------------------

static const Product deep = {.m = 24, .n = 16, .k = MOST, .type = LS_F32, .output = LS_F32};

static LsDevice *open_with(const char *name, const char *value)
{
    LsDevice *opened;
    setenv(name, value, 1);
    REQUIRE(open_cuda(LS_PRECISION_FP32, &opened));
    unsetenv(name);
    return opened;
}

static char *choices_of(LsDevice *on)
{
    char *text;
    REQUIRE(on->ops->choices(on, &text));
    return text;
}

static void a_shape_keeps_its_bits(void **unused)
{
    (void)unused;
    void *first = run_product(device, &deep);
    for (size_t n = 1; n < 100; n++) { // more kinds than the table starts with
        const Product other = {.m = 2, .n = n, .k = 3, .type = LS_F32, .output = LS_F32};
        free(run_product(device, &other));
    }
    for (int i = 0; i < 5; i++) {
        void *again = run_product(device, &deep);
        assert_true(same_bits(&deep, first, again));
        free(again);
    }
    char *text = choices_of(device), *line = text;
    size_t lines = 0;
    for (; (line = strchr(line, '\n')); line++)
        lines++;
    assert_true(lines >= 100);
    free(text);
    free(first);
}

// Rank 0 measures, the others take its choices, and so does who resumes.
static void what_was_measured_is_taken_over(void **unused)
{
    (void)unused;
    char *empty = choices_of(device);
    assert_string_equal(empty, "");
    free(empty);
    void *untuned = run_product(device, &deep);
    for (int fastest = 0; fastest < 4; fastest++) {
        char number[2] = {(char)('0' + fastest), 0};
        LsDevice *tuner = open_with("EMULATED_CUBLASLT_FASTEST", number), *taker;
        tuner->ops->tune(tuner, true);
        void *tuned = run_product(tuner, &deep);
        if (emulated) // where every algorithm has bits of its own
            assert_int_equal(same_bits(&deep, untuned, tuned), fastest == 0);
        tuner->ops->tune(tuner, false);
        void *kept = run_product(tuner, &deep);
        assert_true(same_bits(&deep, tuned, kept));
        char *text = choices_of(tuner), *same;
        REQUIRE(open_cuda(LS_PRECISION_FP32, &taker));
        free(run_product(taker, &deep)); // a choice comes before what the device chose
        REQUIRE(taker->ops->choose(taker, text));
        void *taken = run_product(taker, &deep);
        assert_true(same_bits(&deep, tuned, taken));
        same = choices_of(taker);
        assert_string_equal(text, same);
        free(text), free(same), free(tuned), free(kept), free(taken);
        ls_device_close(tuner);
        ls_device_close(taker);
    }
    free(untuned);
}

// What is measured runs many times and is added once.
static void measuring_adds_nothing(void **unused)
{
    (void)unused;
    Product sum = deep;
    sum.accumulate = true;
    void *untuned = run_product(device, &sum);
    LsDevice *tuner = open_with("EMULATED_CUBLASLT_FASTEST", "0");
    tuner->ops->tune(tuner, true);
    float *tuned = run_product(tuner, &sum);
    for (size_t i = 0; i < sum.m * sum.n;
         i++) // other algorithms round otherwise, 512 times 2^-24 of 512 at most
        assert_true(fabsf(tuned[i] - ((float *)untuned)[i]) <= 0.01f);
    free(untuned);
    free(tuned);
    ls_device_close(tuner);
}

static void texts_that_are_no_choices_are_told(void **unused)
{
    (void)unused;
    void *first = run_product(device, &deep);
    char *text = choices_of(device);
    char *digit = text + strlen(text) - 129; // a line ends with the 128 digits of an algorithm
    char kept = *digit;
    REQUIRE(device->ops->choose(device, ""));
    *digit = 'x';
    assert_int_equal(device->ops->choose(device, text), LS_BAD_DATA);
    *digit = kept;
    assert_int_equal(device->ops->choose(device, "nothing"), LS_BAD_DATA);
    char other[1200];
    snprintf(other, sizeof other, "cuBLASLt-0.1%s", text); // of another version
    digit[20] = digit[20] == '0' ? '7' : '0';
    REQUIRE(device->ops->choose(device, other));
    void *same = run_product(device, &deep);
    assert_true(same_bits(&deep, first, same));
    free(same);
    if (emulated) { // the stand-in knows that this is none of its algorithms, and another is taken
        memset(digit, '5', 16);
        REQUIRE(device->ops->choose(device, text));
        same = run_product(device, &deep);
        assert_true(same_bits(&deep, first, same));
        free(same);
    }
    free(text);
    free(first);
}

// ---- Epilogues ------------------------------------------------------------------------------------------

// Rows of 8, 12 and 16 elements have more of the library's epilogues than those of 6, 5 and 3 have.
static const size_t widths[] = {16, 12, 8, 6, 5, 3};
static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};

static void check_nan(LsDevice *on, size_t n, LsDtype type, LsDtype output, LsActivation activation, int mode)
{
    enum { M = 4, K = 8 };
    float a[M * K], one[K * 16];
    uint16_t half[2 * K * 16];
    fill(a, M * K, 1);
    a[K] = NAN; // all of c's second row
    for (size_t i = 0; i < K * n; i++)
        one[i] = 1;
    size_t bytes = M * n * ls_dtype_size(output), used = packed(half, a, M * K, type);
    void *left = on_device(on, half, used);
    used = packed(half, one, K * n, type);
    void *right = on_device(on, half, used);
    used = packed(half, one, M * n, output);
    void *saved = on_device(on, half, used); // where ReLU's derivative is 1
    void *c = on_device(on, NULL, bytes), *kept = on_device(on, NULL, bytes);
    LsMatmul args = {
        .m = M, .n = n, .k = K, .a = left, .b = right, .input_type = type, .c = c, .output_type = output};
    if (mode == 2) {
        args.backward = activation;
        args.saved = saved;
    } else {
        args.activation = activation;
        args.bias = right;
        args.pre_activation = mode == 1 ? kept : NULL;
    }
    REQUIRE(on->ops->matmul(on, &args));
    float result[2 * M * 16];
    read_back(on, result, c, bytes);
    for (size_t i = 0; i < M * n; i++)
        if ((isnan(number_at(result, output, i)) != 0) != (i / n == 1))
            fail_msg("%s, %s to %s, width %zu, mode %d: element %zu is %g",
                activation == LS_RELU ? "ReLU" : "GELU", ls_dtype_name(type), ls_dtype_name(output), n, mode,
                i, number_at(result, output, i));
    void *all[] = {left, right, saved, c, kept};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        on->ops->release(on, all[i]);
}

// NaN goes through every activation and derivative, whatever the library's do.
static void nan_goes_through(void **unused)
{
    (void)unused;
    static const char *const hides[] = {"0", "1", "2"};
    for (size_t h = 0; h < (emulated ? 3 : 1); h++) {
        LsDevice *on = open_with("EMULATED_CUBLASLT_HIDES_NAN", hides[h]);
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (size_t t = 0; t < 6; t++)
                for (int activation = LS_RELU; activation <= LS_GELU; activation++)
                    for (int mode = 0; mode < 3; mode++)
                        check_nan(on, widths[w], types[t % 3], t < 3 ? types[t % 3] : LS_F32,
                            (LsActivation)activation, mode);
        ls_device_close(on);
    }
}

// The two ways of computing a product agree: in bits for ReLU, whose argument is rounded to the same number;
// for GELU up to that rounding (2^-8 or 2^-11 of numbers below 8, slopes up to 1.13) and the result's.
static void library_and_kernels_agree(void **unused)
{
    (void)unused;
    if (!emulated)
        skip(); // the library cannot be told to refuse
    LsDevice *composed;
    setenv("EMULATED_CUBLASLT_ROUGH_GELU", "1", 1);
    composed = open_with("EMULATED_CUBLASLT_HIDES_NAN", "2");
    unsetenv("EMULATED_CUBLASLT_ROUGH_GELU");
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int variant = 0; variant < 24; variant++) {
            bool backward = variant % 4 == 3;
            LsActivation activation = variant / 4 % 2 ? LS_GELU : LS_RELU;
            Product p = {.m = 9,
                .n = widths[w],
                .k = 20,
                .type = types[variant / 8],
                .output = types[variant / 8],
                .bias = variant % 4 == 1,
                .keep = variant % 4 == 2,
                .activation = backward ? LS_IDENTITY : activation,
                .backward = backward ? activation : LS_IDENTITY};
            void *one = run_product(device, &p), *other = run_product(composed, &p);
            double unit = p.type == LS_F32 ? 0x1p-21 : p.type == LS_BF16 ? 0x1p-8 : 0x1p-11;
            for (size_t i = 0; i < p.m * p.n; i++) {
                double x = number_at(one, p.output, i), y = number_at(other, p.output, i);
                double allowed = activation == LS_RELU ? 0 : unit * (1.13 * 8 + fabs(x));
                if (!(fabs(x - y) <= allowed))
                    fail_msg("variant %d, width %zu: element %zu is %g and %g", variant, p.n, i, x, y);
            }
            free(one);
            free(other);
        }
    ls_device_close(composed);
}

// Which of the ways is taken is seen in the choices, so that neither is tested in vain.
static void every_route_is_taken(void **unused)
{
    (void)unused;
    if (!emulated)
        skip();
    Product p = {
        .m = 4, .n = 8, .k = 8, .type = LS_BF16, .output = LS_BF16, .bias = true, .activation = LS_RELU};
    static const char *const routes[] = {" fused:", " stored:", " wide:"};
    static const size_t n[] = {8, 6, 5};
    for (int r = 0; r < 3; r++) {
        LsDevice *on;
        REQUIRE(open_cuda(LS_PRECISION_BF16, &on));
        p.n = n[r];
        free(run_product(on, &p));
        char *text = choices_of(on);
        if (!strstr(text, routes[r]))
            fail_msg("%zu columns: %s is no%s", n[r], text, routes[r]);
        free(text);
        ls_device_close(on);
    }
}

static void empty_products_leave_bias_and_activation(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    float bias[3] = {-1, 2, 3}, c[6], sums[4] = {9, 9, 9, 9};
    float *b = on_device(device, bias, sizeof bias), *out = on_device(device, NULL, sizeof c);
    float *kept = on_device(device, NULL, sizeof c), *db = on_device(device, sums, sizeof sums);
    LsMatmul args = {.m = 2,
        .n = 3,
        .input_type = LS_F32,
        .c = out,
        .output_type = LS_F32,
        .bias = b,
        .activation = LS_RELU,
        .pre_activation = kept};
    REQUIRE(ops->matmul(device, &args));
    read_back(device, c, out, sizeof c);
    for (int i = 0; i < 6; i++)
        assert_true(c[i] == (bias[i % 3] < 0 ? 0 : bias[i % 3]));
    read_back(device, c, kept, sizeof c);
    for (int i = 0; i < 6; i++)
        assert_true(c[i] == bias[i % 3]);
    args = (LsMatmul){
        .m = 4, .input_type = LS_F32, .output_type = LS_F32, .transpose_a = true, .bias_gradient = db};
    REQUIRE(ops->matmul(device, &args)); // no columns, no depth: sums of nothing
    read_back(device, sums, db, sizeof sums);
    for (int i = 0; i < 4; i++)
        assert_true(sums[i] == 0);
    void *all[] = {b, out, kept, db};
    for (int i = 0; i < 4; i++)
        ops->release(device, all[i]);
}

// A bias gradient beside whatever else a product does is the separate op's, in the bits that the library's
// way and ours have in common: sums of whole numbers.
static void bias_gradients_come_with_any_product(void **unused)
{
    (void)unused;
    const LsDeviceOps *ops = device->ops;
    enum { K = 6, M = 8, N = 8 };
    float a[K * M], sums[M], wanted[M];
    uint16_t half[2 * K * M];
    for (int i = 0; i < K * M; i++)
        a[i] = (float)(i * 5 % 11 - 5);
    for (int variant = 0; variant < 3 * 8; variant++) {
        LsDtype type = types[variant / 8];
        bool accumulate = variant % 8 == 1, bias = variant & 2, backward = variant % 8 == 4;
        size_t m = variant % 8 == 5 ? M - 1 : M; // which the stand-in's epilogue does not do
        void *left = on_device(device, half, packed(half, a, K * m, type));
        void *right = numbers_on_device(device, K * N, 2, type),
             *c = numbers_on_device(device, M * N, 3, type);
        void *saved = numbers_on_device(device, M * N, 4, type);
        for (size_t i = 0; i < M; i++)
            sums[i] = wanted[i] = accumulate ? (float)i : 0;
        for (size_t i = 0; i < K * m; i++)
            wanted[i % m] += a[i];
        float *db = on_device(device, sums, sizeof sums);
        const LsMatmul args = {.m = m,
            .n = N,
            .k = K,
            .transpose_a = true,
            .a = left,
            .b = right,
            .input_type = type,
            .c = c,
            .output_type = type,
            .accumulate = accumulate,
            .bias = bias ? right : NULL,
            .activation = bias ? LS_RELU : LS_IDENTITY,
            .backward = backward ? LS_GELU : LS_IDENTITY,
            .saved = saved,
            .bias_gradient = db};
        REQUIRE(ops->matmul(device, &args));
        read_back(device, sums, db, sizeof sums);
        assert_memory_equal(sums, wanted, sizeof sums);
        void *all[] = {left, right, c, saved, db};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            ops->release(device, all[i]);
    }
    char *text = choices_of(device);
    if (emulated)
        assert_non_null(strstr(text, ",bias0,act0,pre0,back0,db1 fused:"));
    assert_non_null(strstr(text, ",db1 stored:"));
    free(text);
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
    char libraries[128];
    ls_device_gpu_libraries(libraries, sizeof libraries);
    emulated = strstr(libraries, "emulated") != NULL;
    if (open_cuda(LS_PRECISION_FP32, &device) != LS_OK) {
        printf("skipped: %s\n", ls_status_message());
        return emulated ? 1 : SKIPPED;
    }
    close_device(NULL);
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
        TEST(a_graph_has_no_holes),
        TEST(products_stay_on_the_compute_stream),
        TEST(a_shape_keeps_its_bits),
        TEST(what_was_measured_is_taken_over),
        TEST(measuring_adds_nothing),
        TEST(texts_that_are_no_choices_are_told),
        TEST(nan_goes_through),
        TEST(library_and_kernels_agree),
        TEST(every_route_is_taken),
        TEST(empty_products_leave_bias_and_activation),
        TEST(bias_gradients_come_with_any_product),
        TEST(gpu_failures_are_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
