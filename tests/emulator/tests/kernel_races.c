// Runs every op case on the emulated device with kernels that the race checker watches: a race, or an access
// outside live memory, aborts with a line that names kernel and threads. What the ops compute is tested
// elsewhere.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulator.h"
#include "op_cases.h"

#define REQUIRE(call) require((call), #call, __LINE__)
static void require(LsStatus status, const char *call, int line)
{
    if (status != LS_OK)
        fail_msg("line %d: %s: %s", line, call, ls_status_message());
}

static char running[256]; // the case, for whoever reads of a fault

static void name_case(int number)
{
    ssize_t written = write(STDERR_FILENO, running, strlen(running));
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

static void run_case(const LsOpCase *op, LsDevice *device, size_t shift)
{
    LsOpRun run;
    ls_op_name(op, running, sizeof running - 1);
    running[strlen(running)] = '\n';
    REQUIRE(ls_op_run_open(op, device, shift, &run));
    REQUIRE(ls_op_call(op, device, run.memory));
    REQUIRE(ls_op_run_read(&run));
    ls_op_run_close(&run);
    memset(running, 0, sizeof running);
}

static void run_cases(LsOpCase *cases, size_t count, LsDevice *device)
{
    for (size_t i = 0; i < count; i++)
        for (size_t shift = 0; shift < 2 && !cases[i].large; shift++)
            run_case(&cases[i], device, shift * (1 + i % 31)); // as test_ops moves buffers
    free(cases);
}

static void no_kernel_has_a_race(void **unused)
{
    (void)unused;
    LsDevice *device;
    LsDeviceOptions options = {.kind = LS_DEVICE_CUDA, .precision = LS_PRECISION_BF16, .threads = 1};
    REQUIRE(ls_device_open(&options, &device));
    signal(SIGABRT, name_case);
    LsOpCase *cases;
    size_t count;
    REQUIRE(ls_op_cases(&cases, &count));
    run_cases(cases, count, device);
    REQUIRE(ls_op_random_cases(ls_op_fresh_seed(), 1, &cases, &count));
    run_cases(cases, count, device);
    ls_device_close(device);
    assert_true(ls_emulator_accesses() > count); // the kernels that ran were those that tell
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_kernel_has_a_race)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
