// Which windows of time were disturbed, and the spread over those that were not.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "bench.h"

#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#endif

static const double PROBE_SECONDS = 1e-3;
// Interrupts that the kernel handles for itself are shorter, a turn of another process is longer.
static const double GAP_SECONDS = 30e-6;
static const double STOLEN_PART = 0.02; // of a probe
static const double WAITED_PART = 0.01; // of a window
// The kernel's account is read outside of the window, so it also has what was lost around it.
static const double WAITED_SECONDS = 20e-6;

// ---- The counter ----------------------------------------------------------------------------------------

static uint64_t read_counter(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __rdtsc();
#else
    return (uint64_t)(ls_clock_seconds() * 1e9);
#endif
}

// Seconds that one unit of the counter takes, measured against the clock by the probe itself.
static double spin(double seconds, uint64_t gap, uint64_t *counted, uint64_t *in_gaps)
{
    double start = ls_clock_seconds(), now = start;
    uint64_t first = read_counter(), last = first;
    *in_gaps = 0;
    while (now - start < seconds) {
        for (int i = 0; i < 64; i++) {
            uint64_t next = read_counter();
            if (gap > 0 && next - last > gap)
                *in_gaps += next - last;
            last = next;
        }
        now = ls_clock_seconds();
    }
    *counted = last - first;
    return *counted > 0 ? (now - start) / (double)*counted : 0;
}

// ---- The kernel's account -------------------------------------------------------------------------------

static double read_waited(void)
{
    unsigned long long ran, waited;
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    if (!file)
        return 0;
    bool read = fscanf(file, "%llu %llu", &ran, &waited) == 2;
    fclose(file);
    return read ? (double)waited * 1e-9 : 0;
}

LsProbe ls_bench_probe(void)
{
    static double unit; // seconds of the counter's unit
    uint64_t counted, in_gaps;
    if (unit == 0)
        unit = spin(PROBE_SECONDS, 0, &counted, &in_gaps);
    spin(PROBE_SECONDS, unit > 0 ? (uint64_t)(GAP_SECONDS / unit) : 0, &counted, &in_gaps);
    return (LsProbe){.waited = read_waited(), .stolen = counted > 0 ? (double)in_gaps / (double)counted : 0};
}

bool ls_bench_disturbed(const LsProbe *before, const LsProbe *after, double seconds)
{
    return before->stolen > STOLEN_PART || after->stolen > STOLEN_PART ||
           after->waited - before->waited > WAITED_PART * seconds + WAITED_SECONDS;
}

// ---- All ranks ------------------------------------------------------------------------------------------

LsStatus ls_bench_gather(LsComm *comm, const void *mine, size_t bytes, void **all)
{
    size_t ranks = (size_t)ls_comm_size(comm), *sizes;
    LS_TRY(ls_memory_allocate(ranks * sizeof *sizes, (void **)&sizes));
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = bytes;
    LsStatus status = ls_memory_allocate(ranks * bytes, all);
    if (status == LS_OK)
        status = ls_comm_all_gather(comm, mine, *all, sizes);
    free(sizes);
    return status;
}

LsStatus ls_bench_slowest(LsComm *comm, LsWindow *window)
{
    LsWindow *all = NULL;
    LsStatus status = ls_bench_gather(comm, window, sizeof *window, (void **)&all);
    for (int r = 0; status == LS_OK && r < ls_comm_size(comm); r++) {
        window->seconds = all[r].seconds > window->seconds ? all[r].seconds : window->seconds;
        window->disturbed |= all[r].disturbed;
    }
    free(all);
    return status;
}

LsStatus ls_bench_total(LsComm *comm, size_t mine, size_t *out)
{
    size_t *all = NULL, total = 0;
    LsStatus status = ls_bench_gather(comm, &mine, sizeof mine, (void **)&all);
    for (int r = 0; status == LS_OK && r < ls_comm_size(comm); r++)
        total += all[r];
    free(all);
    *out = total;
    return status;
}

// ---- Spread ---------------------------------------------------------------------------------------------

static int compare_numbers(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

LsStatus ls_bench_spread(const double *values, const bool *disturbed, size_t count, LsSpread *out)
{
    double *sorted;
    size_t kept = 0;
    LS_TRY(ls_memory_allocate(count * sizeof *sorted, (void **)&sorted));
    for (size_t i = 0; i < count; i++)
        if (!disturbed || !disturbed[i])
            sorted[kept++] = values[i];
    LsSpread spread = {.counted = kept, .discarded = count - kept, .disturbed = kept == 0};
    if (kept == 0) {
        memcpy(sorted, values, count * sizeof *sorted);
        spread.counted = kept = count;
        spread.discarded = 0;
    }
    qsort(sorted, kept, sizeof *sorted, compare_numbers);
    spread.lowest = sorted[0];
    spread.highest = sorted[kept - 1];
    spread.median = kept % 2 ? sorted[kept / 2] : (sorted[kept / 2 - 1] + sorted[kept / 2]) / 2;
    free(sorted);
    *out = spread;
    return LS_OK;
}

json_t *ls_bench_spread_json(const LsSpread *spread, double scale)
{
    return json_pack("{s:o, s:o, s:o, s:I, s:I, s:b}", "median", ls_json_number(spread->median * scale),
        "lowest", ls_json_number(spread->lowest * scale), "highest", ls_json_number(spread->highest * scale),
        "windows", (json_int_t)spread->counted, "discarded", (json_int_t)spread->discarded, "disturbed",
        spread->disturbed);
}
