// What the benchmarks share: windows of time, the probe that tells which of them were disturbed, the spread
// over the others, and the report.
#ifndef LOCKSTEP_LAUNCH_BENCH_H
#define LOCKSTEP_LAUNCH_BENCH_H

#include <stdint.h>

#include "../command.h"
#include "base/json.h"

// ---- Disturbances ---------------------------------------------------------------------------------------
//
// A processor that is taken away (by another process, by the machine underneath a virtual one) shows as a gap
// between two readings of a counter that runs on: the processor's time-stamp counter, or the clock where
// there is none. A probe reads it over and over for a millisecond and adds the gaps up. One lies before and
// one behind each window, and the kernel's account says how long this thread was ready to run within it
// and had no processor. Time that the machine underneath takes away in the middle of a window and at no
// other moment is not seen.

typedef struct LsProbe {
    double waited; // seconds that this thread was kept waiting for a processor, by the kernel's account
    double stolen; // part of the probe's time that lies in gaps
} LsProbe;

LsProbe ls_bench_probe(void);

// Whether the window of `seconds` between two probes was disturbed.
bool ls_bench_disturbed(const LsProbe *before, const LsProbe *after, double seconds);

// A window as one rank saw it, and then as all did: the slowest one's time, disturbed when one was.
typedef struct LsWindow {
    double seconds;
    bool disturbed;
} LsWindow;
LsStatus ls_bench_slowest(LsComm *comm, LsWindow *window); // collective

// The same number of bytes of host memory from every rank, rank after rank, in memory that the caller frees;
// collective.
LsStatus ls_bench_gather(LsComm *comm, const void *mine, size_t bytes, void **all);

// The sum over the ranks; collective.
LsStatus ls_bench_total(LsComm *comm, size_t mine, size_t *out);

// Times as many windows as were asked for, at most, are tried to find undisturbed ones.
enum { LS_BENCH_TRIES = 3 };

// ---- Spread ---------------------------------------------------------------------------------------------

typedef struct LsSpread {
    double median, lowest, highest;
    size_t counted, discarded;
    bool disturbed; // every window was, so all are counted
} LsSpread;

// Over the values that are not disturbed, or over all when all are. count: at least 1.
LsStatus ls_bench_spread(const double *values, const bool *disturbed, size_t count, LsSpread *out);

// {"median", "lowest", "highest", "windows", "discarded", "disturbed"}, each of the first three times
// `scale`.
json_t *ls_bench_spread_json(const LsSpread *spread, double scale);

// ---- Input ----------------------------------------------------------------------------------------------

// What every benchmark of a training configuration takes.
typedef struct LsBenchInput {
    const char *file, *json; // json: NULL: none
    LsTextList settings;
} LsBenchInput;

// Reads -c FILE, --set and --json, beside the benchmark's `own` flags, and the configuration, validated.
// LS_USAGE without -c. After --help only invocation->helped is set.
LsStatus ls_bench_read(
    LsInvocation *invocation, const LsFlag *own, size_t count, LsBenchInput *input, LsConfig *config);

// ---- Report ---------------------------------------------------------------------------------------------

// {"benchmark", "version", "time", "command", "machine": {…}}: what every report begins with. comm and device
// may be NULL. NULL without memory.
json_t *ls_bench_report(const LsInvocation *invocation, LsDevice *device);

// Writes it as FILE (NULL: nowhere), and takes it.
LsStatus ls_bench_report_write(json_t *report, const char *path);

// A new folder for what a benchmark needs meanwhile, in `place` (NULL: TMPDIR or /tmp). It also goes when
// this process is killed (sweeper.h).
LsStatus ls_bench_folder(const char *place, char folder[LS_PATH_MAX]);

// Removes it and keeps the thread's newest failure; one to remove it is a warning.
void ls_bench_folder_remove(const char *folder);

// A size as nccl-tests has it: 4096, 4K, 25M, 1G (of 1024). LS_USAGE names the option.
LsStatus ls_bench_size(const char *option, const char *text, size_t *out);

// ---- The benchmarks -------------------------------------------------------------------------------------

LsStatus ls_bench_collective(LsInvocation *invocation, LsLibraryCall call);
LsStatus ls_bench_step(LsInvocation *invocation);
LsStatus ls_bench_scaling(LsInvocation *invocation);
LsStatus ls_bench_data(LsInvocation *invocation);
LsStatus ls_bench_checkpoint(LsInvocation *invocation);

#endif
