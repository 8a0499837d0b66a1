// Who computes convolutions on the cuda device: cuDNN where it has a plan, else our own kernels; that both
// are right; and what a recorded graph of them does.
#include "convolution_plans.h"
#include "cuda_fixture.h"
#include "op_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const LsOpKind kinds[] = {
    LS_OP_CONVOLUTION, LS_OP_CONVOLUTION_BACKWARD_DATA, LS_OP_CONVOLUTION_BACKWARD_WEIGHTS};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const LsOpCase common = {.kind = LS_OP_CONVOLUTION,
    .type = LS_BF16,
    .output = LS_BF16,
    .rows = 2,
    .height = 9,
    .width = 7,
    .columns = 16,
    .depth = 24,
    .kernel = 3,
    .stride = 2,
    .padding = 1};

static LsOpCase common_of(LsOpKind kind, LsDtype type)
{
    LsOpCase op = common;
    op.kind = kind;
    op.type = op.output = type;
    return op;
}

static void use_library(LsDevice *on, bool library)
{
    ls_convolution_plans_allow(ls_cuda(on)->convolutions, library);
}

// The results of a case: one buffer, for the caller to free.
static void *result_of(LsDevice *on, const LsOpCase *op, bool library, size_t *bytes)
{
    LsOpRun run;
    void *result = NULL;
    use_library(on, library);
    REQUIRE(ls_op_run_open(op, on, 0, &run));
    REQUIRE(ls_op_call(op, on, run.memory));
    REQUIRE(ls_op_run_read(&run));
    use_library(on, true);
    for (size_t i = 0; i < run.count; i++)
        if (run.result[i]) {
            *bytes = run.buffers[i].count * run.buffers[i].element;
            result = malloc(*bytes);
            assert_non_null(result);
            memcpy(result, run.result[i], *bytes);
        }
    ls_op_run_close(&run);
    assert_non_null(result);
    return result;
}

// Whether asking for the library makes a difference to the bits.
static bool is_library(LsDevice *on, const LsOpCase *op)
{
    size_t bytes;
    void *ours = result_of(on, op, false, &bytes), *asked = result_of(on, op, true, &bytes);
    bool differs = memcmp(ours, asked, bytes) != 0;
    free(ours);
    free(asked);
    return differs;
}

// ---- Who computes ---------------------------------------------------------------------------------------

static LsDevice *open_with(const char *setting)
{
    LsDevice *opened;
    setenv("EMULATED_CUDNN", setting, 1);
    REQUIRE(open_cuda(LS_PRECISION_FP32, &opened));
    return opened;
}

// The stand-in for the library sums in float64, and so has bits of its own in F32.
static void the_library_computes_what_it_has_plans_for(void **unused)
{
    (void)unused;
    static const struct {
        const char *setting;
        bool forward, backward;
    } cases[] = {
        {"all", true, true}, {"missing", false, false}, {"none", false, false}, {"forward", true, false}};
    if (!emulated)
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LsDevice *opened = open_with(cases[i].setting);
        for (size_t k = 0; k < KINDS; k++) {
            LsOpCase op = common_of(kinds[k], LS_F32);
            bool wanted = kinds[k] == LS_OP_CONVOLUTION ? cases[i].forward : cases[i].backward;
            assert_int_equal(is_library(opened, &op), wanted);
        }
        ls_device_close(opened);
        unsetenv("EMULATED_CUDNN");
    }
}

// ---- Results --------------------------------------------------------------------------------------------

static void check_numbers(const LsOpRun *run, size_t i, const double *value, const double *scale)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    char name[200];
    ls_op_name(run->op, name, sizeof name);
    for (size_t e = 0; e < buffer->count; e++) {
        double got = ls_op_number(run->result[i], buffer->type, e);
        double allowed = ls_op_tolerance(run->op, buffer->type, value[e], scale[e]);
        if (!(fabs(got - value[e]) <= allowed))
            fail_msg("%s: %s[%zu] is %.9g, float64 says %.9g, allowed error %.3g", name, buffer->name, e, got,
                value[e], allowed);
    }
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

// The op cases' own tolerances; the library alone may round the gradient of filters. Rows, sides, channels,
// window: on both sides of our kernels' tiles (64) and of their depth (16), several slices of places (128),
// and on a GPU the shapes of models, which take an emulated one too long.
static void both_are_right(void **unused)
{
    (void)unused;
    static const size_t shapes[][8] = {{2, 9, 7, 16, 24, 3, 2, 1}, {1, 12, 13, 3, 66, 7, 2, 3},
        {3, 8, 8, 65, 10, 1, 1, 0}, {2, 5, 6, 1, 5, 5, 3, 4}, {4, 10, 9, 8, 8, 3, 1, 1},
        {32, 56, 56, 64, 64, 3, 1, 1}, {16, 14, 14, 256, 512, 1, 2, 0}};
    for (size_t i = 0; i < (emulated ? 5 : 7); i++)
        for (int type = LS_F32; type <= LS_F16; type++)
            for (size_t k = 0; k < 2 * KINDS; k++)
                for (int library = 0; library < 2; library++) {
                    const size_t *s = shapes[i];
                    LsOpCase op = common_of(kinds[k % KINDS], (LsDtype)type);
                    op.rows = s[0], op.height = s[1], op.width = s[2], op.columns = s[3], op.depth = s[4];
                    op.kernel = s[5], op.stride = s[6], op.padding = s[7];
                    op.accumulate = k >= KINDS && op.kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
                    op.rounded = library && op.kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS && type != LS_F32;
                    use_library(device, library);
                    check_case(&op);
                    use_library(device, true);
                }
}

static void the_same_bits_every_time(void **unused)
{
    (void)unused;
    LsDevice *second;
    REQUIRE(open_cuda(LS_PRECISION_FP32, &second));
    for (size_t k = 0; k < 2 * KINDS; k++) {
        LsOpCase op = common_of(kinds[k % KINDS], LS_BF16), other = op;
        size_t bytes;
        other.height += 4;
        void *first = result_of(device, &op, k < KINDS, &bytes);
        for (int i = 0; i < (emulated ? 2 : 20); i++) {
            size_t unused_bytes;
            free(result_of(device, &other, k < KINDS, &unused_bytes));
            void *again = result_of(i % 2 ? second : device, &op, k < KINDS, &bytes);
            assert_memory_equal(first, again, bytes);
            free(again);
        }
        free(first);
    }
    ls_device_close(second);
}

// ---- Graphs and streams ---------------------------------------------------------------------------------

static void check_replay(const LsOpCase *op)
{
    LsOpRun run;
    LsGraph *graph;
    size_t bytes;
    REQUIRE(ls_op_run_open(op, device, 0, &run));
    REQUIRE(device->ops->capture_begin(device));
    assert_int_equal(ls_op_call(op, device, run.memory), LS_INTERNAL); // a plan is made
    assert_said("for the first time cannot be recorded in a graph");
    REQUIRE(device->ops->capture_end(device, &graph));
    assert_null(graph);
    void *plain = result_of(device, op, true, &bytes);
    REQUIRE(device->ops->capture_begin(device));
    REQUIRE(ls_op_call(op, device, run.memory));
    REQUIRE(device->ops->capture_end(device, &graph));
    assert_non_null(graph);
    for (int replay = 0; replay < 2; replay++) {
        REQUIRE(ls_op_run_restore(&run));
        REQUIRE(device->ops->graph_launch(device, graph));
        REQUIRE(ls_op_run_read(&run));
        for (size_t i = 0; i < run.count; i++)
            if (run.result[i])
                assert_memory_equal(plain, run.result[i], bytes);
    }
    device->ops->graph_destroy(device, graph);
    free(plain);
    ls_op_run_close(&run);
}

static void graphs_are_replayed(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < KINDS; k++) {
        LsOpCase op = common_of(kinds[k], LS_BF16);
        op.accumulate = kinds[k] == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
        check_replay(&op);
    }
}

static void convolutions_stay_on_the_compute_stream(void **unused)
{
    (void)unused;
    for (size_t k = 0; k < KINDS; k++) {
        LsOpCase op = common_of(kinds[k], LS_BF16);
        LsOpRun run;
        REQUIRE(ls_op_run_open(&op, device, 0, &run));
        device->ops->select_stream(device, LS_STREAM_COPY);
        assert_int_equal(ls_op_call(&op, device, run.memory), LS_INTERNAL);
        assert_said("compute stream");
        device->ops->select_stream(device, LS_STREAM_COMPUTE);
        ls_op_run_close(&run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            the_library_computes_what_it_has_plans_for, open_device, close_device),
        cmocka_unit_test_setup_teardown(both_are_right, open_device, close_device),
        cmocka_unit_test_setup_teardown(the_same_bits_every_time, open_device, close_device),
        cmocka_unit_test_setup_teardown(graphs_are_replayed, open_device, close_device),
        cmocka_unit_test_setup_teardown(convolutions_stay_on_the_compute_stream, open_device, close_device),
    };
    unsetenv("EMULATED_CUDNN");
    if (!find_cuda())
        return SKIPPED;
    ls_log_configure(LS_LOG_DEBUG, 0, 1); // says which shapes are the library's
    return cmocka_run_group_tests(tests, NULL, NULL);
}
