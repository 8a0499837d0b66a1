// Every op case on every device: against float64, reference against cpu, and on the strict device.
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

typedef struct State {
    LsOpCase *cases;
    size_t count;
    LsDevice *ref, *cpu, *strict;
} State;

static State state;

#define REQUIRE(call) require((call), #call, __LINE__)
static void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

static int open_devices(void **unused)
{
    (void)unused;
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = LS_PRECISION_BF16, .threads = 1};
    REQUIRE(ls_op_cases(&state.cases, &state.count));
    REQUIRE(ls_device_open(&options, &state.ref));
    options.kind = LS_DEVICE_CPU;
    options.precision = LS_PRECISION_FP32;
    if (ls_device_open(&options, &state.cpu) != LS_OK)
        printf("no cpu device: %s\n", ls_status_message());
    REQUIRE(ls_strict_device_open(LS_PRECISION_BF16, &state.strict));
    return 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    ls_device_close(state.ref);
    ls_device_close(state.cpu);
    ls_device_close(state.strict);
    free(state.cases);
    return 0;
}

// BF16 products need AVX-512.
static bool runs_on_cpu(const LsOpCase *op)
{
    if (!state.cpu)
        return false;
    char text[256];
    ls_device_fingerprint(state.cpu, text, sizeof text);
    return op->kind != LS_OP_MATMUL || op->type == LS_F32 || strstr(text, " avx2,") == NULL;
}

// How far a result may be from float64: the op's units of float32 rounding, and for a BF16 result half a unit
// in the last of its 8 bits, 2^-8 of the value; twice where the value before GELU (slope up to 1.13) is
// rounded as well, of which `scale` bounds the size.
static double tolerance(const LsOpCase *op, LsDtype type, double value, double scale)
{
    double allowed = ls_op_units(op) * 0x1p-24 * scale + 0x1p-126;
    if (type == LS_BF16)
        allowed += 0x1p-8 * (fabs(value) + allowed);
    if (type == LS_BF16 && op->keep)
        allowed += 1.13 * 0x1p-8 * scale;
    return allowed;
}

static void check_buffer(const LsOpRun *run, size_t i, const double *value, const double *scale)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    for (size_t e = 0; e < buffer->count; e++) {
        double got = ls_op_number(run->result[i], buffer->type, e);
        double allowed = tolerance(run->op, buffer->type, value[e], scale[e]);
        if (fabs(got - value[e]) <= allowed)
            continue;
        char name[160];
        ls_op_name(run->op, name, sizeof name);
        fail_msg("%s on %s: %s[%zu] is %.9g, float64 says %.9g, allowed error %.3g", name,
            run->device->ops->name, buffer->name, e, got, value[e], allowed);
    }
}

static void check_against_float64(const LsOpCase *op, LsDevice *device)
{
    LsOpRun run;
    REQUIRE(ls_op_run_open(op, device, 0, &run));
    REQUIRE(ls_op_call(op, device, run.memory));
    REQUIRE(ls_op_run_read(&run));
    double *value[LS_OP_BUFFERS] = {0}, *scale[LS_OP_BUFFERS] = {0};
    for (size_t i = 0; i < run.count; i++) {
        value[i] = calloc(run.buffers[i].count + 1, sizeof *value[i]);
        scale[i] = calloc(run.buffers[i].count + 1, sizeof *scale[i]);
    }
    ls_op_expect(op, run.image, value, scale);
    for (size_t i = 0; i < run.count; i++)
        if (run.result[i])
            check_buffer(&run, i, value[i], scale[i]);
    for (size_t i = 0; i < run.count; i++) {
        free(value[i]);
        free(scale[i]);
    }
    ls_op_run_close(&run);
}

static void ref_matches_float64(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < state.count; i++)
        if (!state.cases[i].large)
            check_against_float64(&state.cases[i], state.ref);
}

static void cpu_matches_float64(void **unused)
{
    (void)unused;
    if (!state.cpu)
        skip();
    for (size_t i = 0; i < state.count; i++)
        if (!state.cases[i].large && runs_on_cpu(&state.cases[i]))
            check_against_float64(&state.cases[i], state.cpu);
}

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
            char name[160];
            ls_op_name(op, name, sizeof name);
            fail_msg("%s: %s differs between %s shifted by %zu and %s shifted by %zu", name,
                a.buffers[i].name, one->ops->name, one_shift, other->ops->name, other_shift);
        }
    ls_op_run_close(&a);
    ls_op_run_close(&b);
}

static void exact_ops_have_the_same_bits(void **unused)
{
    (void)unused;
    if (!state.cpu)
        skip();
    for (size_t i = 0; i < state.count; i++)
        if (ls_op_is_exact(&state.cases[i]) && !state.cases[i].large)
            check_same_bits(&state.cases[i], state.ref, 0, state.cpu, 0);
}

static void strict_has_the_bits_of_ref(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < state.count; i++)
        if (!state.cases[i].large)
            check_same_bits(&state.cases[i], state.ref, 0, state.strict, 1);
}

// A buffer at any alignment of its elements gives the same bits, and so does a second run.
static void alignment_does_not_change_bits(void **unused)
{
    (void)unused;
    if (!state.cpu)
        skip();
    for (size_t i = 0; i < state.count; i++) {
        const LsOpCase *op = &state.cases[i];
        // Of the large cases products alone, in which oneDNN cuts the depth into blocks.
        if (!runs_on_cpu(op) || (op->large && op->kind != LS_OP_MATMUL))
            continue;
        check_same_bits(op, state.cpu, 0, state.cpu, 1);
        if (op->large)
            continue;
        check_same_bits(op, state.cpu, 0, state.cpu, 0);
        check_same_bits(op, state.cpu, 0, state.cpu, 18);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_matches_float64),
        cmocka_unit_test(cpu_matches_float64),
        cmocka_unit_test(exact_ops_have_the_same_bits),
        cmocka_unit_test(strict_has_the_bits_of_ref),
        cmocka_unit_test(alignment_does_not_change_bits),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
