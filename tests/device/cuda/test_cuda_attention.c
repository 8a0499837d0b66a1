// Who computes attention on the cuda device: cuDNN where it has a plan, else our own kernels; and that both
// are right.
#include "attention_plans.h"
#include "cuda_fixture.h"
#include "op_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

typedef struct Shape {
    size_t windows, window, heads, size;
    LsDtype type;
} Shape;

static const Shape common = {2, 70, 3, 16, LS_BF16};

static void use_library(LsDevice *on, bool library)
{
    ls_attention_plans_allow(ls_cuda(on)->attention, library);
}

static LsDevice *open_with(const char *setting)
{
    LsDevice *opened;
    setenv("EMULATED_CUDNN", setting, 1);
    REQUIRE(open_cuda(LS_PRECISION_FP32, &opened));
    return opened;
}

static void close_with(LsDevice *opened)
{
    ls_device_close(opened);
    unsetenv("EMULATED_CUDNN");
}

// ---- Running --------------------------------------------------------------------------------------------

// Inputs and outputs of both passes, `shift` bytes away from their alignment.
typedef struct Buffers {
    Shape shape;
    LsDevice *on;
    size_t numbers, bytes; // of out
    char *base[5];
    void *qkv, *out, *dout, *dqkv, *scratch;
    float *log_sum;
} Buffers;

static Buffers buffers_of(LsDevice *on, Shape shape, size_t shift)
{
    Buffers b = {.shape = shape, .on = on};
    b.numbers = shape.windows * shape.window * shape.heads * shape.size;
    b.bytes = b.numbers * ls_dtype_size(shape.type);
    const size_t sizes[5] = {3 * b.bytes, b.bytes, b.bytes, 3 * b.bytes,
        ls_attention_scratch(shape.windows, shape.window, shape.heads, shape.size)};
    void **places[5] = {&b.qkv, &b.out, &b.dout, &b.dqkv, &b.scratch};
    for (int i = 0; i < 5; i++) {
        b.base[i] = on_device(on, NULL, sizes[i] + 64);
        *places[i] = b.base[i] + (i < 4 ? shift : 0);
    }
    b.log_sum = on_device(on, NULL, b.numbers / shape.size * sizeof *b.log_sum);
    void *qkv = numbers_on_device(on, 3 * b.numbers, 1, shape.type);
    void *dout = numbers_on_device(on, b.numbers, 2, shape.type);
    REQUIRE(on->ops->copy(on, b.qkv, qkv, 3 * b.bytes));
    REQUIRE(on->ops->copy(on, b.dout, dout, b.bytes));
    REQUIRE(on->ops->synchronize(on));
    on->ops->release(on, qkv);
    on->ops->release(on, dout);
    return b;
}

static void release_buffers(Buffers *b)
{
    for (int i = 0; i < 5; i++)
        b->on->ops->release(b->on, b->base[i]);
    b->on->ops->release(b->on, b->log_sum);
}

static LsStatus forward(const Buffers *b)
{
    const LsAttention args = {.windows = b->shape.windows,
        .window = b->shape.window,
        .heads = b->shape.heads,
        .size = b->shape.size,
        .qkv = b->qkv,
        .out = b->out,
        .log_sum = b->log_sum,
        .type = b->shape.type};
    return b->on->ops->attention(b->on, &args);
}

static LsStatus backward(const Buffers *b)
{
    const LsAttentionBackward args = {.windows = b->shape.windows,
        .window = b->shape.window,
        .heads = b->shape.heads,
        .size = b->shape.size,
        .qkv = b->qkv,
        .out = b->out,
        .dout = b->dout,
        .log_sum = b->log_sum,
        .dqkv = b->dqkv,
        .type = b->shape.type,
        .scratch = b->scratch};
    return b->on->ops->attention_backward(b->on, &args);
}

// out, or with our own kernels' out and log_sum dqkv; for the caller to free.
static void *result_of(LsDevice *on, Shape shape, bool backwards, bool library, size_t shift)
{
    Buffers b = buffers_of(on, shape, shift);
    use_library(on, library && !backwards);
    REQUIRE(forward(&b));
    use_library(on, library);
    if (backwards)
        REQUIRE(backward(&b));
    use_library(on, true);
    size_t bytes = backwards ? 3 * b.bytes : b.bytes;
    void *result = malloc(bytes);
    assert_non_null(result);
    read_back(on, result, backwards ? b.dqkv : b.out, bytes);
    release_buffers(&b);
    return result;
}

// Whether asking for the library makes a difference to the bits.
static bool is_library(LsDevice *on, Shape shape, bool backwards)
{
    void *ours = result_of(on, shape, backwards, false, 0), *asked = result_of(on, shape, backwards, true, 0);
    size_t bytes = shape.windows * shape.window * shape.heads * shape.size * ls_dtype_size(shape.type);
    bool differs = memcmp(ours, asked, (backwards ? 3 : 1) * bytes) != 0;
    free(ours);
    free(asked);
    return differs;
}

// ---- Who computes ---------------------------------------------------------------------------------------

static void the_shape_decides(void **unused)
{
    (void)unused;
    if (!emulated) // whose library has bits of its own, and kernels for all that it is asked for
        skip();
    static const struct {
        Shape shape;
        bool library;
    } cases[] = {{{2, 70, 3, 16, LS_BF16}, true}, {{2, 70, 3, 16, LS_F16}, true},
        {{1, 5, 1, 128, LS_BF16}, true}, {{2, 70, 3, 16, LS_F32}, false}, {{2, 70, 3, 17, LS_BF16}, false},
        {{2, 70, 1, 136, LS_BF16}, false}, {{2, 1, 3, 16, LS_BF16}, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int backwards = 0; backwards < 2; backwards++)
            assert_int_equal(is_library(device, cases[i].shape, backwards), cases[i].library);
}

// Not even one window's scores fit in the workspace; nothing is touched.
static void long_windows_are_not_the_librarys(void **unused)
{
    (void)unused;
    const LsAttentionKind kind = {1, 8192, 3, 64, LS_BF16, true}; // 3 × 8192 × 8192 × 2 bytes
    bool done = true;
    REQUIRE(ls_attention_by_library(ls_cuda(device)->attention, &kind, &(LsAttentionBuffers){0}, &done));
    assert_false(done);
}

static void without_the_library_our_kernels_work(void **unused)
{
    (void)unused;
    char text[512];
    if (!emulated)
        skip();
    LsDevice *missing = open_with("missing");
    assert_false(is_library(missing, common, false));
    assert_false(is_library(missing, common, true));
    ls_device_fingerprint(missing, text, sizeof text);
    assert_non_null(strstr(text, "no cuDNN"));
    ls_device_gpu_libraries(text, sizeof text);
    assert_non_null(strstr(text, "no cuDNN ("));
    close_with(missing);
    ls_device_fingerprint(device, text, sizeof text);
    assert_non_null(strstr(text, "emulated cuDNN 1"));
    LsDevice *none = open_with("none");
    assert_false(is_library(none, common, false));
    assert_false(is_library(none, common, true));
    close_with(none);
    LsDevice *half = open_with("forward");
    assert_true(is_library(half, common, false));
    assert_false(is_library(half, common, true));
    close_with(half);
}

// Generation asks for the newest row alone.
static void one_row_is_not_the_librarys(void **unused)
{
    (void)unused;
    Buffers b = buffers_of(device, common, 0);
    void *one = malloc(b.bytes), *other = malloc(b.bytes);
    LsAttention args = {.windows = common.windows,
        .window = common.window,
        .heads = common.heads,
        .size = common.size,
        .first = common.window - 1,
        .qkv = b.qkv,
        .out = b.out,
        .log_sum = b.log_sum,
        .type = common.type};
    REQUIRE(device->ops->zero(device, b.out, b.bytes));
    REQUIRE(device->ops->attention(device, &args));
    read_back(device, one, b.out, b.bytes);
    use_library(device, false);
    REQUIRE(device->ops->attention(device, &args));
    read_back(device, other, b.out, b.bytes);
    use_library(device, true);
    assert_memory_equal(one, other, b.bytes);
    free(one);
    free(other);
    release_buffers(&b);
}

// ---- Results --------------------------------------------------------------------------------------------

static void check_numbers(const LsOpRun *run, size_t i, const double *value, const double *scale)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    double errors = 0, values = 0;
    char name[200];
    ls_op_name(run->op, name, sizeof name);
    for (size_t e = 0; e < buffer->count; e++) {
        double got = ls_op_number(run->result[i], buffer->type, e);
        double allowed = ls_op_tolerance(run->op, buffer->type, value[e], scale[e]);
        errors += (got - value[e]) * (got - value[e]);
        values += value[e] * value[e];
        if (!(fabs(got - value[e]) <= allowed))
            fail_msg("%s: %s[%zu] is %.9g, float64 says %.9g, allowed error %.3g", name, buffer->name, e, got,
                value[e], allowed);
    }
    printf("%s: %s has a relative error of %.2g\n", name, buffer->name, sqrt(errors / values));
}

static void check_case(const LsOpCase *op)
{
    LsOpRun run;
    double *value[LS_OP_BUFFERS] = {0}, *scale[LS_OP_BUFFERS] = {0};
    REQUIRE(ls_op_run_open(op, device, 0, &run));
    REQUIRE(ls_op_call(op, device, run.memory));
    REQUIRE(ls_op_run_read(&run));
    for (size_t i = 0; i < run.count; i++) {
        value[i] = calloc(run.buffers[i].count + 1, sizeof *value[i]);
        scale[i] = calloc(run.buffers[i].count + 1, sizeof *scale[i]);
        assert_true(value[i] && scale[i]);
    }
    ls_op_expect(op, run.image, value, scale);
    for (size_t i = 0; i < run.count; i++) {
        if (run.result[i])
            check_numbers(&run, i, value[i], scale[i]);
        free(value[i]);
        free(scale[i]);
    }
    ls_op_run_close(&run);
}

// The op cases' own tolerances. On a GPU also the shapes of models, which take an emulated one too long.
static void both_are_right(void **unused)
{
    (void)unused;
    static const size_t shapes[][4] = {
        {2, 70, 3, 16}, {1, 130, 2, 64}, {2, 65, 1, 80}, {2, 256, 4, 64}, {1, 1024, 2, 128}};
    for (size_t i = 0; i < (emulated ? 3 : 5); i++)
        for (int type = LS_BF16; type <= LS_F16; type++)
            for (int kind = LS_OP_ATTENTION; kind <= LS_OP_ATTENTION_BACKWARD; kind++)
                for (int library = 0; library < 2; library++) {
                    LsOpCase op = {.kind = (LsOpKind)kind, .type = (LsDtype)type, .output = (LsDtype)type};
                    op.rows = shapes[i][0] * shapes[i][1], op.window = shapes[i][1];
                    op.heads = shapes[i][2], op.columns = shapes[i][3];
                    use_library(device, library);
                    check_case(&op);
                    use_library(device, true);
                }
}

static void where_buffers_lie_makes_no_difference(void **unused)
{
    (void)unused;
    size_t bytes = common.windows * common.window * common.heads * common.size * 2;
    for (int backwards = 0; backwards < 2; backwards++) {
        void *aligned = result_of(device, common, backwards, true, 0);
        for (size_t shift = 2; shift < 16; shift += 4) {
            void *shifted = result_of(device, common, backwards, true, shift);
            assert_memory_equal(aligned, shifted, backwards ? 3 * bytes : bytes);
            free(shifted);
        }
        free(aligned);
    }
}

// A pass over more windows than the workspace is enough for: the same bits as over each half of them, in no
// more memory than is said beforehand.
static void windows_are_computed_a_few_at_once(void **unused)
{
    (void)unused;
    const Shape all = {96, 2, 100, 8, LS_BF16}; // 96 × 100 × 128 × 128 × 2 bytes of workspace
    Shape half = all;
    half.windows /= 2;
    Buffers b = buffers_of(device, all, 0);
    size_t bytes = 3 * b.bytes;
    char *whole = malloc(bytes), *halves = malloc(bytes);
    assert_true(whole && halves);
    REQUIRE(forward(&b));
    REQUIRE(backward(&b));
    read_back(device, whole, b.dqkv, bytes);
    assert_in_range(ls_cuda(device)->scratch->bytes, 1,
        ls_attention_library_bytes(all.windows, all.window, all.heads, all.size, all.type));
    REQUIRE(device->ops->zero(device, b.dqkv, bytes));
    for (size_t i = 0; i < 2; i++) {
        Buffers part = b;
        part.shape = half;
        part.qkv = (char *)b.qkv + i * bytes / 2;
        part.out = (char *)b.out + i * b.bytes / 2;
        part.dout = (char *)b.dout + i * b.bytes / 2;
        part.dqkv = (char *)b.dqkv + i * bytes / 2;
        part.log_sum = b.log_sum + i * half.windows * half.heads * half.window;
        REQUIRE(backward(&part));
    }
    read_back(device, halves, b.dqkv, bytes);
    assert_memory_equal(whole, halves, bytes);
    free(whole);
    free(halves);
    release_buffers(&b);
}

static void the_same_bits_every_time(void **unused)
{
    (void)unused;
    const Shape other = {1, 300, 2, 8, LS_BF16},
                shape = emulated ? common : (Shape){4, 1024, 12, 64, LS_BF16};
    size_t bytes = shape.windows * shape.window * shape.heads * shape.size * 2;
    LsDevice *second;
    REQUIRE(open_cuda(LS_PRECISION_FP32, &second));
    for (int backwards = 0; backwards < 2; backwards++) {
        void *first = result_of(device, shape, backwards, true, 0);
        for (int i = 0; i < (emulated ? 3 : 20); i++) {
            free(result_of(device, other, backwards, true, 0));
            void *again = result_of(i % 2 ? second : device, shape, backwards, true, 0);
            assert_memory_equal(first, again, backwards ? 3 * bytes : bytes);
            free(again);
        }
        free(first);
    }
    ls_device_close(second);
}

// ---- Graphs and streams ---------------------------------------------------------------------------------

static void a_graph_is_replayed(void **unused)
{
    (void)unused;
    Buffers b = buffers_of(device, common, 0);
    void *plain = malloc(3 * b.bytes), *replayed = malloc(3 * b.bytes);
    LsGraph *graph;
    assert_true(plain && replayed);
    REQUIRE(device->ops->capture_begin(device));
    assert_int_equal(forward(&b), LS_INTERNAL); // a plan is made
    assert_said("for the first time cannot be recorded in a graph");
    REQUIRE(device->ops->capture_end(device, &graph));
    assert_null(graph);
    REQUIRE(forward(&b));
    REQUIRE(backward(&b));
    REQUIRE(device->ops->capture_begin(device));
    REQUIRE(forward(&b));
    REQUIRE(backward(&b));
    REQUIRE(device->ops->capture_end(device, &graph));
    assert_non_null(graph);
    for (uint32_t seed = 5; seed < 8; seed++) {
        void *qkv = numbers_on_device(device, 3 * b.numbers, seed, common.type);
        REQUIRE(device->ops->copy(device, b.qkv, qkv, 3 * b.bytes));
        REQUIRE(forward(&b));
        REQUIRE(backward(&b));
        read_back(device, plain, b.dqkv, 3 * b.bytes);
        REQUIRE(device->ops->zero(device, b.out, b.bytes));
        REQUIRE(device->ops->zero(device, b.dqkv, 3 * b.bytes));
        REQUIRE(device->ops->graph_launch(device, graph));
        read_back(device, replayed, b.dqkv, 3 * b.bytes);
        assert_memory_equal(plain, replayed, 3 * b.bytes);
        device->ops->release(device, qkv);
    }
    device->ops->graph_destroy(device, graph);
    free(plain);
    free(replayed);
    release_buffers(&b);
}

static void attention_stays_on_the_compute_stream(void **unused)
{
    (void)unused;
    Buffers b = buffers_of(device, common, 0);
    device->ops->select_stream(device, LS_STREAM_COPY);
    assert_int_equal(forward(&b), LS_INTERNAL);
    assert_said("compute stream");
    assert_int_equal(backward(&b), LS_INTERNAL);
    device->ops->select_stream(device, LS_STREAM_COMPUTE);
    release_buffers(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_shape_decides, open_device, close_device),
        cmocka_unit_test_setup_teardown(long_windows_are_not_the_librarys, open_device, close_device),
        cmocka_unit_test_setup_teardown(without_the_library_our_kernels_work, open_device, close_device),
        cmocka_unit_test_setup_teardown(one_row_is_not_the_librarys, open_device, close_device),
        cmocka_unit_test_setup_teardown(both_are_right, open_device, close_device),
        cmocka_unit_test_setup_teardown(where_buffers_lie_makes_no_difference, open_device, close_device),
        cmocka_unit_test_setup_teardown(windows_are_computed_a_few_at_once, open_device, close_device),
        cmocka_unit_test_setup_teardown(the_same_bits_every_time, open_device, close_device),
        cmocka_unit_test_setup_teardown(a_graph_is_replayed, open_device, close_device),
        cmocka_unit_test_setup_teardown(attention_stays_on_the_compute_stream, open_device, close_device),
    };
    unsetenv("EMULATED_CUDNN");
    if (!find_cuda())
        return SKIPPED;
    ls_log_configure(LS_LOG_DEBUG, 0, 1); // says which shapes are the library's
    return cmocka_run_group_tests(tests, NULL, NULL);
}
