// Convolutions of the cpu device leave what lies behind their scratch memory alone, and do not read it:
// oneDNN 2.6.3 does both on AVX2 where windows of one element pass elements over and channels are not whole
// registers.
//
// The linker puts ls_cpu_memory_grow() of this file in the place of the device's (--wrap).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cpu/memory.h"
#include "op_cases.h"

enum { GUARD = 1 << 16, MOST = 8 };

// All of the memory that the device under test has grown, each with a guard behind it.
static struct {
    const LsCpuMemory *memory[MOST];
    size_t count;
} grown;

LsStatus __wrap_ls_cpu_memory_grow(LsCpuMemory *memory, size_t bytes);

// As the device's, but for the guard and what is in the memory: words of all ones are NaN.
LsStatus __wrap_ls_cpu_memory_grow(LsCpuMemory *memory, size_t bytes)
{
    void *larger;
    size_t known = 0;
    if (bytes <= memory->bytes)
        return LS_OK;
    LS_TRY(ls_memory_allocate(bytes + GUARD, &larger));
    memset(larger, 0xff, bytes + GUARD);
    free(memory->memory);
    *memory = (LsCpuMemory){larger, bytes};
    while (known < grown.count && grown.memory[known] != memory)
        known++;
    assert_true(known < MOST);
    grown.memory[known] = memory;
    grown.count += known == grown.count;
    return LS_OK;
}

static void check_guards(const char *name)
{
    for (size_t i = 0; i < grown.count; i++) {
        const LsCpuMemory *memory = grown.memory[i];
        for (size_t b = 0; b < GUARD; b++)
            if ((unsigned char)memory->memory[memory->bytes + b] != 0xff)
                fail_msg(
                    "%s: byte %zu behind %zu bytes of scratch memory has changed", name, b, memory->bytes);
    }
}

static void open_device(int kind, LsDevice **out)
{
    LsDeviceOptions options = {
        .kind = kind, .precision = LS_PRECISION_FP32, .threads = 1, .isa = LS_ISA_AVX2};
    LsStatus status = ls_device_open(&options, out);
    if (status == LS_UNAVAILABLE) {
        printf("skipped: %s\n", ls_status_message());
        skip();
    }
    assert_int_equal(status, LS_OK);
}

static void compute(LsDevice *device, const LsOpCase *op, LsOpRun *run)
{
    assert_int_equal(ls_op_run_open(op, device, 0, run), LS_OK);
    assert_int_equal(ls_op_call(op, device, run->memory), LS_OK);
    assert_int_equal(ls_op_run_read(run), LS_OK);
}

static void compare(const LsOpRun *run, const LsOpRun *expected, const char *name)
{
    for (size_t i = 0; i < run->count; i++)
        for (size_t j = 0; run->result[i] && j < run->buffers[i].count; j++) {
            float got = ((const float *)run->result[i])[j], wanted = ((const float *)expected->result[i])[j];
            // Sums of at most 432 products of numbers up to 4: as many roundings of up to 6,912, to 2^-24.
            if (!(fabsf(got - wanted) <= 0.2f))
                fail_msg("%s: result %zu is %g, not %g", name, j, (double)got, (double)wanted);
        }
}

// On a device that has no memory of earlier, larger convolutions.
static void check_case(const LsOpCase *op)
{
    LsDevice *cpu, *ref;
    LsOpRun run, expected;
    char name[200];
    grown.count = 0;
    open_device(LS_DEVICE_CPU, &cpu);
    open_device(LS_DEVICE_REF, &ref);
    compute(cpu, op, &run);
    assert_true(grown.count > 0); // the device's memory is ours
    compute(ref, op, &expected);
    ls_op_name(op, name, sizeof name);
    check_guards(name);
    compare(&run, &expected, name);
    ls_op_run_close(&run);
    ls_op_run_close(&expected);
    ls_device_close(cpu);
    ls_device_close(ref);
}

static void check_window(size_t kernel, size_t stride, size_t in, size_t out)
{
    LsOpCase op = {.type = LS_F32,
        .output = LS_F32,
        .rows = 3,
        .height = 12,
        .width = 12,
        .kernel = kernel,
        .stride = stride,
        .padding = (kernel - 1) / 2,
        .columns = in,
        .depth = out};
    for (int kind = LS_OP_CONVOLUTION; kind <= LS_OP_CONVOLUTION_BACKWARD_WEIGHTS; kind++) {
        op.kind = (LsOpKind)kind;
        check_case(&op);
    }
}

// A shortcut's windows, those of blocks, and channels below, between and at multiples of a register's eight.
static void convolutions_keep_to_their_memory(void **unused)
{
    (void)unused;
    static const size_t channels[][2] = {
        {1, 17}, {2, 3}, {3, 65}, {4, 1}, {5, 8}, {6, 13}, {33, 17}, {12, 20}, {16, 32}};
    for (size_t c = 0; c < sizeof channels / sizeof *channels; c++) {
        check_window(1, 2, channels[c][0], channels[c][1]);
        check_window(1, 3, channels[c][0], channels[c][1]);
        check_window(1, 1, channels[c][0], channels[c][1]);
        check_window(3, 2, channels[c][0], channels[c][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(convolutions_keep_to_their_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
