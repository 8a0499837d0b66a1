// Times every large op case on a device: bench_ops [cpu|ref] [fp32|bf16] [part of a case's name].
//
// Prints for each case the median time, the spread (from the 10th to the 90th percentile as a part of the
// median) and GFLOP/s for products or GB/s of memory read and written for the others.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "op_cases.h"

enum { MOST_RUNS = 200, FEWEST_RUNS = 3 };
static const double SECONDS = 0.3; // for one case

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static LsStatus time_runs(const LsOpRun *run, double *seconds, int *count)
{
    LsDevice *device = run->device;
    LS_TRY(ls_op_call(run->op, device, run->memory)); // builds kernels, touches memory
    LS_TRY(device->ops->synchronize(device));
    double begin = ls_clock_seconds(), last = begin;
    for (*count = 0; *count < MOST_RUNS && (*count < FEWEST_RUNS || last - begin < SECONDS); ++*count) {
        double start = ls_clock_seconds();
        LS_TRY(ls_op_call(run->op, device, run->memory));
        LS_TRY(device->ops->synchronize(device));
        last = ls_clock_seconds();
        seconds[*count] = last - start;
    }
    return LS_OK;
}

static LsStatus bench(const LsOpCase *op, LsDevice *device)
{
    char name[160];
    double seconds[MOST_RUNS];
    int count = 0;
    LsOpRun run;
    ls_op_name(op, name, sizeof name);
    LsStatus status = ls_op_run_open(op, device, 0, &run);
    if (status == LS_OK)
        status = time_runs(&run, seconds, &count);
    ls_op_run_close(&run);
    if (status == LS_UNSUPPORTED) {
        printf("%-78s unsupported\n", name);
        return LS_OK;
    }
    LS_TRY(status);
    qsort(seconds, (size_t)count, sizeof *seconds, by_value);
    double median = seconds[count / 2], spread = (seconds[count * 9 / 10] - seconds[count / 10]) / median;
    double flops = ls_op_flops(op);
    printf("%-78s %10.1f us  +-%4.0f%%  %8.1f %s\n", name, median * 1e6, 100 * spread,
        (flops > 0 ? flops : ls_op_bytes(op)) / median * 1e-9, flops > 0 ? "GFLOP/s" : "GB/s");
    fflush(stdout);
    return LS_OK;
}

static LsStatus bench_all(const LsDeviceOptions *options, const char *part)
{
    LsDevice *device;
    LS_TRY(ls_device_open(options, &device));
    char text[256];
    double peak = 0;
    ls_device_fingerprint(device, text, sizeof text);
    LsOpCase *cases = NULL;
    size_t count = 0;
    LsStatus status = ls_op_cases(&cases, &count);
    if (status == LS_OK && options->kind != LS_DEVICE_REF)
        status = ls_device_measure_peak(device, &peak);
    if (status == LS_OK)
        printf("%s\n", text);
    if (peak > 0) // ref is too slow to be asked
        printf("peak %.1f GFLOP/s\n", peak * 1e-9);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        ls_op_name(&cases[i], text, sizeof text);
        if (cases[i].large && strstr(text, part))
            status = bench(&cases[i], device);
    }
    free(cases);
    ls_device_close(device);
    return status;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "cpu", *precision = argc > 2 ? argv[2] : "auto";
    LsDeviceOptions options = {.kind = strcmp(kind, "ref") == 0 ? LS_DEVICE_REF : LS_DEVICE_CPU,
        .precision = strcmp(precision, "fp32") == 0   ? LS_PRECISION_FP32
                     : strcmp(precision, "bf16") == 0 ? LS_PRECISION_BF16
                                                      : LS_PRECISION_AUTO,
        .threads = 1};
    LsStatus status = bench_all(&options, argc > 3 ? argv[3] : "");
    if (status != LS_OK)
        fprintf(stderr, "bench_ops: %s\n", ls_status_message());
    return ls_status_exit_code(status);
}
