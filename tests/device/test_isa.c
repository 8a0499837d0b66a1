// The loops give the same bits on every instruction set; each set runs in a process of its own, since oneDNN
// accepts a limit once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "op_cases.h"

// What a child reports: whether the device opened, and a hash over the results of the cases.
typedef struct Report {
    LsStatus status;
    LsPrecision precision;
    char fingerprint[256];
    uint64_t loops;    // of every op but matmul and attention
    uint64_t products; // of those in F32 and F16
} Report;

static uint64_t run_case(const LsOpCase *op, LsDevice *device, uint64_t hash)
{
    LsOpRun run;
    if (ls_op_run_open(op, device, 0, &run) != LS_OK || ls_op_call(op, device, run.memory) != LS_OK ||
        ls_op_run_read(&run) != LS_OK)
        abort();
    for (size_t i = 0; i < run.count; i++)
        if (run.result[i]) {
            uint64_t words[2] = {
                hash, ls_hash64(run.result[i], run.buffers[i].count * run.buffers[i].element)};
            hash = ls_hash64(words, sizeof words);
        }
    ls_op_run_close(&run);
    return hash;
}

static void run_cases(LsDevice *device, Report *report)
{
    LsOpCase *cases;
    size_t count;
    if (ls_op_cases(&cases, &count) != LS_OK)
        abort();
    for (size_t i = 0; i < count; i++) {
        if (cases[i].large)
            continue;
        // GELU without the value before it is computed by oneDNN.
        if (!ls_op_multiplies(&cases[i]))
            report->loops = run_case(&cases[i], device, report->loops);
        else if (cases[i].type != LS_BF16)
            report->products = run_case(&cases[i], device, report->products);
    }
    free(cases);
}

static Report report_of(int isa, int precision, int threads)
{
    int ends[2];
    Report report;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        LsDevice *device;
        LsDeviceOptions options = {
            .kind = LS_DEVICE_CPU, .precision = precision, .threads = threads, .isa = isa};
        memset(&report, 0, sizeof report);
        report.status = ls_device_open(&options, &device);
        if (report.status == LS_OK) {
            report.precision = device->precision;
            ls_device_fingerprint(device, report.fingerprint, sizeof report.fingerprint);
            run_cases(device, &report);
            ls_device_close(device);
        } else {
            snprintf(report.fingerprint, sizeof report.fingerprint, "%s", ls_status_message());
        }
        _exit(write(ends[1], &report, sizeof report) != sizeof report);
    }
    int status;
    close(ends[1]); // so that a child that dies ends the read
    assert_int_equal(read(ends[0], &report, sizeof report), sizeof report);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(ends[0]);
    return report;
}

static void loops_have_the_same_bits_on_every_isa(void **unused)
{
    (void)unused;
    Report lowest = report_of(LS_ISA_AVX2, LS_PRECISION_AUTO, 1);
    if (lowest.status == LS_UNAVAILABLE)
        skip();
    assert_int_equal(lowest.status, LS_OK);
    assert_int_equal(lowest.precision, LS_PRECISION_FP32);
    assert_non_null(strstr(lowest.fingerprint, " avx2,"));
    for (int isa = LS_ISA_AVX512; isa <= LS_ISA_AMX; isa++) {
        Report higher = report_of(isa, LS_PRECISION_AUTO, 1);
        if (higher.status == LS_UNAVAILABLE) {
            printf("%s\n", higher.fingerprint);
            continue;
        }
        assert_int_equal(higher.status, LS_OK);
        assert_true(higher.loops == lowest.loops);
        assert_int_equal(higher.precision, isa >= LS_ISA_AVX512_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32);
        assert_string_not_equal(higher.fingerprint, lowest.fingerprint);
    }
}

static void a_limit_gives_the_bits_of_that_isa(void **unused)
{
    (void)unused;
    Report one = report_of(LS_ISA_AVX2, LS_PRECISION_FP32, 1);
    Report again = report_of(LS_ISA_AVX2, LS_PRECISION_FP32, 1);
    if (one.status == LS_UNAVAILABLE)
        skip();
    assert_true(one.products == again.products);
    assert_string_equal(one.fingerprint, again.fingerprint);
}

static void avx2_has_no_bf16(void **unused)
{
    (void)unused;
    Report report = report_of(LS_ISA_AVX2, LS_PRECISION_BF16, 1);
    assert_int_equal(report.status, LS_UNAVAILABLE);
    assert_non_null(strstr(report.fingerprint, "set ")); // says what to do
}

static void threads_are_in_the_fingerprint(void **unused)
{
    (void)unused;
    Report two = report_of(LS_ISA_AVX2, LS_PRECISION_FP32, 2);
    if (two.status == LS_UNAVAILABLE)
        skip();
    Report one = report_of(LS_ISA_AVX2, LS_PRECISION_FP32, 1);
    assert_non_null(strstr(two.fingerprint, "threads 2"));
    assert_true(two.loops == one.loops); // our own loops run on the calling thread
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_have_the_same_bits_on_every_isa),
        cmocka_unit_test(a_limit_gives_the_bits_of_that_isa),
        cmocka_unit_test(avx2_has_no_bf16),
        cmocka_unit_test(threads_are_in_the_fingerprint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
