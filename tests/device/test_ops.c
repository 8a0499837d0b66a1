// Every op case on every device: against float64, bits against the reference, and at every alignment. The
// cuda device, real or emulated, is among them where it opens.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op_cases.h"
#include "strict_device.h"

typedef struct Cases {
    LsOpCase *cases;
    size_t count;
} Cases;

enum { ROUNDS = 4, SHIFTS = 16 };

static struct {
    Cases fixed, random;
    LsDevice *ref, *cpu, *strict, *cuda;
} state;

#define REQUIRE(call) require((call), #call, __LINE__)
static void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

static LsDevice *open_if_there(int kind)
{
    LsDevice *device = NULL;
    LsDeviceOptions options = {.kind = kind, .precision = LS_PRECISION_FP32, .threads = 1};
    if (ls_device_open(&options, &device) != LS_OK)
        printf("skipped: %s\n", ls_status_message());
    return device;
}

static int open_devices(void **unused)
{
    (void)unused;
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_BF16, .threads = 1};
    REQUIRE(ls_op_cases(&state.fixed.cases, &state.fixed.count));
    REQUIRE(ls_op_random_cases(ls_op_fresh_seed(), ROUNDS, &state.random.cases, &state.random.count));
    REQUIRE(ls_device_open(&options, &state.ref));
    REQUIRE(ls_strict_device_open(LS_PRECISION_BF16, &state.strict));
    state.cpu = open_if_there(LS_DEVICE_CPU);
    state.cuda = open_if_there(LS_DEVICE_CUDA);
    return 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    ls_device_close(state.ref);
    ls_device_close(state.cpu);
    ls_device_close(state.strict);
    ls_device_close(state.cuda);
    free(state.fixed.cases);
    free(state.random.cases);
    return 0;
}

// Not every backend has the ops of images. The cpu device has no products in BF16 without AVX-512.
static bool runs_on(const LsOpCase *op, const LsDevice *device)
{
    if (ls_op_is_image(op) && !device->ops->convolution)
        return false;
    if (device != state.cpu)
        return true;
    char text[256];
    ls_device_fingerprint(device, text, sizeof text);
    return !ls_op_multiplies(op) || op->type != LS_BF16 || !strstr(text, " avx2,");
}

typedef void Check(const LsOpCase *op, LsDevice *device, size_t shift);

// Runs the check on the cases of a list, each at another alignment when `shifted`.
static void on_cases(const Cases *list, Check *check, LsDevice *device, bool shifted)
{
    if (!device)
        skip();
    for (size_t i = 0; i < list->count; i++) {
        const LsOpCase *op = &list->cases[i];
        // By turns the same shift for all buffers and different ones.
        size_t shift = shifted ? 1 + i % (2 * SHIFTS - 1) : 0;
        if (!op->large && runs_on(op, device))
            check(op, device, shift);
    }
}

static void on_all(Check *check, LsDevice *device, bool shifted)
{
    on_cases(&state.fixed, check, device, shifted);
    on_cases(&state.random, check, device, shifted);
}

// ---- Against float64 ------------------------------------------------------------------------------------

static void fail_buffer(const LsOpRun *run, size_t i, const char *what)
{
    char name[200];
    ls_op_name(run->op, name, sizeof name);
    fail_msg("%s (seed %llu) on %s: %s%s", name, (unsigned long long)run->op->seed, run->device->ops->name,
        run->buffers[i].name, what);
}

enum { MANY = 64 }; // elements over which errors average out

static void check_numbers(const LsOpRun *run, size_t i, const double *value, const double *scale)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    char what[200];
    double errors = 0, values = 0;
    for (size_t e = 0; e < buffer->count; e++) {
        double got = ls_op_number(run->result[i], buffer->type, e);
        double allowed = ls_op_tolerance(run->op, buffer->type, value[e], scale[e]);
        errors += (got - value[e]) * (got - value[e]);
        values += value[e] * value[e];
        if (fabs(got - value[e]) <= allowed)
            continue;
        snprintf(what, sizeof what, "[%zu] is %.9g, float64 says %.9g, allowed error %.3g", e, got, value[e],
            allowed);
        fail_buffer(run, i, what);
    }
    double bound = ls_op_relative_bound(run->op->rounded ? LS_BF16 : buffer->type);
    if (buffer->count >= MANY && !(errors <= bound * bound * values)) {
        snprintf(what, sizeof what, " has a relative error of %.3g; the bound is %.3g", sqrt(errors / values),
            bound);
        fail_buffer(run, i, what);
    }
}

static void check_result(const LsOpRun *run)
{
    double *value[LS_OP_BUFFERS] = {0}, *scale[LS_OP_BUFFERS] = {0};
    for (size_t i = 0; i < run->count; i++) {
        value[i] = calloc(run->buffers[i].count + 1, sizeof *value[i]);
        scale[i] = calloc(run->buffers[i].count + 1, sizeof *scale[i]);
        assert_true(value[i] && scale[i]);
    }
    ls_op_expect(run->op, run->image, value, scale);
    for (size_t i = 0; i < run->count; i++)
        if (run->result[i])
            check_numbers(run, i, value[i], scale[i]);
    for (size_t i = 0; i < run->count; i++) {
        free(value[i]);
        free(scale[i]);
    }
}

static void check_against_float64(const LsOpCase *op, LsDevice *device, size_t shift)
{
    LsOpRun run;
    char what[300] = ": ";
    REQUIRE(ls_op_run_open(op, device, shift, &run));
    REQUIRE(ls_op_call(op, device, run.memory));
    REQUIRE(ls_op_run_read(&run));
    if (op->kind != LS_OP_DECIDE_STEP)
        check_result(&run);
    else if (!ls_op_check_outcome(op, run.image, run.result[3], what + 2, sizeof what - 2))
        fail_buffer(&run, 3, what);
    ls_op_run_close(&run);
}

static void ref_matches_float64(void **unused)
{
    (void)unused;
    on_all(check_against_float64, state.ref, false);
}

static void cpu_matches_float64(void **unused)
{
    (void)unused;
    on_all(check_against_float64, state.cpu, true);
}

// A GPU's library leaves the gradient of filters in the type that it multiplies.
static void check_on_cuda(const LsOpCase *op, LsDevice *device, size_t shift)
{
    LsOpCase on_cuda = *op;
    on_cuda.rounded |= op->kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS && op->type != LS_F32;
    check_against_float64(&on_cuda, device, shift);
}

static void cuda_matches_float64(void **unused)
{
    (void)unused;
    on_cases(&state.fixed, check_on_cuda, state.cuda, false);
    on_cases(&state.random, check_on_cuda, state.cuda, true);
}

// ---- Bits -----------------------------------------------------------------------------------------------

// Runs the case on both and compares bits.
static void check_same_bits(
    const LsOpCase *op, LsDevice *one, size_t one_shift, LsDevice *other, size_t other_shift)
{
    LsOpRun a, b;
    REQUIRE(ls_op_run_open(op, one, one_shift, &a));
    REQUIRE(ls_op_run_open(op, other, other_shift, &b));
    REQUIRE(ls_op_call(op, one, a.memory));
    REQUIRE(ls_op_call(op, other, b.memory));
    REQUIRE(ls_op_run_read(&a));
    REQUIRE(ls_op_run_read(&b));
    for (size_t i = 0; i < a.count; i++)
        if (a.result[i] && memcmp(a.result[i], b.result[i], a.buffers[i].count * a.buffers[i].element)) {
            char what[200];
            snprintf(what, sizeof what, " shifted by %zu differs from %s shifted by %zu", one_shift,
                other->ops->name, other_shift);
            fail_buffer(&a, i, what);
        }
    ls_op_run_close(&a);
    ls_op_run_close(&b);
}

static void check_bits_of_ref(const LsOpCase *op, LsDevice *device, size_t shift)
{
    if (ls_op_is_exact(op) || device == state.strict)
        check_same_bits(op, device, shift, state.ref, 0);
}

static void exact_ops_have_the_bits_of_ref_on_cpu(void **unused)
{
    (void)unused;
    on_all(check_bits_of_ref, state.cpu, false);
}

static void exact_ops_have_the_bits_of_ref_on_cuda(void **unused)
{
    (void)unused;
    on_all(check_bits_of_ref, state.cuda, true);
}

static void strict_has_the_bits_of_ref(void **unused)
{
    (void)unused;
    on_all(check_bits_of_ref, state.strict, true);
}

static void check_alignment(const LsOpCase *op, LsDevice *device, size_t shift)
{
    // A GPU's library may choose another algorithm for operands that are not aligned.
    bool same = device == state.cuda && op->kind == LS_OP_MATMUL;
    check_same_bits(op, device, same ? shift : 0, device, shift);
}

// A buffer at any alignment of its elements gives the same bits, and so does a second run.
static void alignment_does_not_change_bits_on_cpu(void **unused)
{
    (void)unused;
    on_all(check_alignment, state.cpu, true);
    on_cases(&state.fixed, check_alignment, state.cpu, false);
    // Large products, in which oneDNN cuts the depth into blocks.
    for (size_t i = 0; i < state.fixed.count; i++)
        if (state.fixed.cases[i].large && runs_on(&state.fixed.cases[i], state.cpu))
            check_same_bits(&state.fixed.cases[i], state.cpu, 0, state.cpu, 1);
}

static void alignment_does_not_change_bits_on_cuda(void **unused)
{
    (void)unused;
    on_all(check_alignment, state.cuda, true);
}

// ---- Products with a backward pass in them --------------------------------------------------------------

// The same through separate ops.
static void call_separately(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsOpCase product = *op;
    product.backward = LS_IDENTITY;
    product.bias_gradient = false;
    void *plain[LS_OP_BUFFERS] = {b[0], b[1], b[2], b[3], b[4]};
    REQUIRE(ls_op_call(&product, device, plain));
    if (op->backward != LS_IDENTITY)
        REQUIRE(device->ops->activation_backward(device, &(LsActivationBackward){.n = op->rows * op->columns,
                                                             .activation = op->backward,
                                                             .saved = b[5],
                                                             .dy = b[3],
                                                             .dx = b[3],
                                                             .type = op->output}));
    if (op->bias_gradient)
        REQUIRE(device->ops->bias_gradient(device, &(LsBiasGradient){.rows = op->depth,
                                                       .columns = op->rows,
                                                       .dy = b[0],
                                                       .type = op->type,
                                                       .db = b[6],
                                                       .accumulate = op->accumulate}));
}

static void check_fused(const LsOpCase *op, LsDevice *device, size_t shift)
{
    LsOpRun fused, separate;
    if (op->kind != LS_OP_MATMUL || (op->backward == LS_IDENTITY && !op->bias_gradient))
        return;
    REQUIRE(ls_op_run_open(op, device, shift, &fused));
    REQUIRE(ls_op_run_open(op, device, 0, &separate));
    REQUIRE(ls_op_call(op, device, fused.memory));
    call_separately(op, device, separate.memory);
    REQUIRE(ls_op_run_read(&fused));
    REQUIRE(ls_op_run_read(&separate));
    for (size_t i = 0; i < fused.count; i++)
        if (fused.result[i] &&
            memcmp(fused.result[i], separate.result[i], fused.buffers[i].count * fused.buffers[i].element))
            fail_buffer(&fused, i, " differs from that of separate ops");
    ls_op_run_close(&fused);
    ls_op_run_close(&separate);
}

static void fused_products_have_the_bits_of_separate_ops(void **unused)
{
    (void)unused;
    on_all(check_fused, state.ref, false);
    if (state.cpu)
        on_all(check_fused, state.cpu, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_matches_float64),
        cmocka_unit_test(cpu_matches_float64),
        cmocka_unit_test(cuda_matches_float64),
        cmocka_unit_test(exact_ops_have_the_bits_of_ref_on_cpu),
        cmocka_unit_test(exact_ops_have_the_bits_of_ref_on_cuda),
        cmocka_unit_test(strict_has_the_bits_of_ref),
        cmocka_unit_test(alignment_does_not_change_bits_on_cpu),
        cmocka_unit_test(alignment_does_not_change_bits_on_cuda),
        cmocka_unit_test(fused_products_have_the_bits_of_separate_ops),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
