// lockstep bench allreduce, reduce_scatter, all_gather: sizes from -b to -e, the contenders in turn.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "collective.h"
#include "device/tensor.h"

typedef struct Arguments {
    const char *config, *begin, *end, *backend, *json;
    LsTextList settings;
    int64_t factor, iterations, warm_up, windows, lanes;
    bool unchecked;
    int only; // LsContender, LS_CONTENDERS: all
} Arguments;

typedef struct Bench {
    Arguments arguments;
    LsConfig config;
    size_t begin, end; // bytes
    LsCollectiveOptions options;
    LsDevice *device; // owned
    json_t *rows;
    size_t wrong; // results, in all
    bool speaks;
} Bench;

// In the reduction, for each byte that a ring's reduce-scatter of FP32 numbers sends.
typedef struct Sent {
    double in_all;  // of the busiest rank
    double between; // of the busiest host to others; 0: there are none
    int levels;     // of the plan
} Sent;

// What one contender did at one size.
typedef struct Series {
    double *seconds; // [windows] of one call
    bool *disturbed; // [windows]
    size_t windows, undisturbed;
    size_t wrong; // results, of all ranks
} Series;

static const struct {
    const char *reduction, *memory;
} names[LS_CONTENDERS] = {
    [LS_CONTENDER_EXACT] = {"exact", "communicator"},
    [LS_CONTENDER_COPIED] = {"exact", "copied in"},
    [LS_CONTENDER_FAST] = {"fast", "communicator"},
    [LS_CONTENDER_LIBRARY] = {"library", "ordinary"},
};

static const char *const words[] = {"exact", "copied", "fast", "library", "all", NULL};

// ---- Arguments ------------------------------------------------------------------------------------------

static LsStatus read_arguments(LsInvocation *invocation, Arguments *a)
{
    const LsFlag flags[] = {
        {"begin", 'b', LS_FLAG_TEXT, &a->begin, "SIZE", "Smallest message, in bytes or with K, M, G (4K).", 0,
            NULL},
        {"end", 'e', LS_FLAG_TEXT, &a->end, "SIZE", "Largest message (16M).", 0, NULL},
        {"factor", 'f', LS_FLAG_COUNT, &a->factor, "N", "Each message is so many times the one before (4).",
            2, NULL},
        {"iterations", 'n', LS_FLAG_COUNT, &a->iterations, "N",
            "Calls in a row that make one window of time (20).", 1, NULL},
        {"warm-up", 'w', LS_FLAG_COUNT, &a->warm_up, "N", "Calls before that, which do not count (5).", 0,
            NULL},
        {"windows", 0, LS_FLAG_COUNT, &a->windows, "N",
            "Windows of each contender, in turn; the median counts (7).", 1, NULL},
        {"lanes", 0, LS_FLAG_COUNT, &a->lanes, "L",
            "Lanes that are added up, a power of two; by default as few as the ranks need.", 1, NULL},
        {"backend", 0, LS_FLAG_TEXT, &a->backend, "NAME", "What carries the memory: collectives.backend.", 0,
            NULL},
        {"only", 0, LS_FLAG_CHOICE, &a->only, "NAME",
            "exact, copied (exact, copied in), fast, library, or all (default).", 0, words},
        {"no-check", 0, LS_FLAG_SWITCH, &a->unchecked, NULL, "Leaves out the check of every result.", 0,
            NULL},
        {"config", 'c', LS_FLAG_TEXT, &a->config, "FILE",
            "Configuration whose runtime and collectives sections count.", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
        {"json", 0, LS_FLAG_TEXT, &a->json, "FILE", "Writes the results as JSON.", 0, NULL},
    };
    *a = (Arguments){.begin = "4K",
        .end = "16M",
        .factor = 4,
        .iterations = 20,
        .warm_up = 5,
        .windows = 7,
        .only = LS_CONTENDERS};
    return ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0);
}

enum { COUNT_MAX = 1000000 };

static LsStatus check_arguments(const Arguments *a, Bench *bench)
{
    LS_TRY(ls_bench_size("-b", a->begin, &bench->begin));
    LS_TRY(ls_bench_size("-e", a->end, &bench->end));
    if (bench->begin % sizeof(float) != 0)
        return LS_FAIL(LS_USAGE, "-b %s: messages are of 4-byte numbers", a->begin);
    bool reduces = bench->options.call != LS_LIBRARY_ALL_GATHER;
    if (!reduces && (a->only == LS_CONTENDER_FAST || a->only == LS_CONTENDER_COPIED))
        return LS_FAIL(LS_USAGE, "--only %s: all_gather has exact and library alone", words[a->only]);
    if (bench->end < bench->begin)
        return LS_FAIL(LS_USAGE, "-e %s is below -b %s", a->end, a->begin);
    if (a->iterations > COUNT_MAX || a->windows > COUNT_MAX || a->warm_up > COUNT_MAX)
        return LS_FAIL(LS_USAGE, "-n, -w and --windows take at most %d", COUNT_MAX);
    return LS_OK;
}

static LsStatus prepare(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    LS_TRY(read_arguments(invocation, a));
    if (invocation->helped)
        return LS_OK;
    LS_TRY(check_arguments(a, bench));
    LS_TRY(ls_launch_configure(a->config, &a->settings, &bench->config));
    return a->backend ? ls_config_set(&bench->config, "collectives.backend", a->backend, "--backend") : LS_OK;
}

static LsStatus choose_lanes(Bench *bench)
{
    int64_t lanes = bench->arguments.lanes, ranks = ls_comm_size(bench->options.comm);
    if (lanes == 0)
        for (lanes = 1; lanes < ranks;)
            lanes *= 2;
    if (lanes > LS_LANES_MAX)
        return LS_FAIL(LS_CONFIG, "--lanes %lld: at most %d", (long long)lanes, LS_LANES_MAX);
    LsLaneShare share;
    bench->options.lanes = (uint32_t)lanes;
    return ls_lane_share((uint32_t)lanes, (uint32_t)ranks, 0, &share);
}

// ---- Windows --------------------------------------------------------------------------------------------

static LsStatus run_window(Bench *bench, LsCollective *c, LsContender contender, LsWindow *out)
{
    LS_TRY(ls_collective_fill(c, contender));
    LsProbe before = ls_bench_probe();
    LS_TRY(ls_comm_barrier(bench->options.comm));
    double start = ls_clock_seconds();
    for (int64_t i = 0; i < bench->arguments.iterations; i++)
        LS_TRY(ls_collective_run(c, contender));
    LS_TRY(ls_collective_wait(c));
    double seconds = ls_clock_seconds() - start;
    LsProbe after = ls_bench_probe();
    *out = (LsWindow){seconds, ls_bench_disturbed(&before, &after, seconds)};
    return LS_OK;
}

// In the middle of collective calls a failure cannot be told to the others: it ends the job.
static void require(Bench *bench, LsStatus status)
{
    if (status != LS_OK)
        ls_comm_abort(bench->options.comm, status, ls_status_message());
}

// The slowest rank's time counts.
static void add_window(Bench *bench, LsCollective *c, LsContender contender, Series *series)
{
    LsWindow window = {0};
    require(bench, run_window(bench, c, contender, &window));
    require(bench, ls_bench_slowest(bench->options.comm, &window));
    series->seconds[series->windows] = window.seconds / (double)bench->arguments.iterations;
    series->disturbed[series->windows] = window.disturbed;
    series->windows++;
    series->undisturbed += !window.disturbed;
}

static void check_results(Bench *bench, LsCollective *c, LsContender contender, Series *series)
{
    size_t mine = 0;
    require(bench, ls_collective_fill(c, contender));
    require(bench, ls_comm_barrier(bench->options.comm));
    require(bench, ls_collective_run(c, contender));
    require(bench, ls_collective_check(c, contender, &mine));
    require(bench, ls_bench_total(bench->options.comm, mine, &series->wrong));
}

static void warm_up(Bench *bench, LsCollective *c, LsContender contender)
{
    require(bench, ls_collective_fill(c, contender));
    for (int64_t i = 0; i < bench->arguments.warm_up; i++)
        require(bench, ls_collective_run(c, contender));
    require(bench, ls_collective_wait(c));
}

static bool has(const Bench *bench, const LsCollective *c, int contender)
{
    int only = bench->arguments.only;
    return (only == LS_CONTENDERS || only == contender) && ls_collective_has(c, (LsContender)contender);
}

// The contenders take turns, so that all see the same neighbours.
static void run_contenders(Bench *bench, LsCollective *c, Series *series)
{
    size_t wanted = (size_t)bench->arguments.windows;
    for (int k = 0; k < LS_CONTENDERS; k++) {
        if (!has(bench, c, k))
            continue;
        if (!bench->arguments.unchecked)
            check_results(bench, c, (LsContender)k, &series[k]);
        warm_up(bench, c, (LsContender)k);
    }
    for (size_t round = 0; round < wanted * LS_BENCH_TRIES; round++)
        for (int k = 0; k < LS_CONTENDERS; k++)
            if (has(bench, c, k) && series[k].undisturbed < wanted)
                add_window(bench, c, (LsContender)k, &series[k]);
}

// ---- Results --------------------------------------------------------------------------------------------

// What a link carries of each byte where the algorithm is the best there is, as nccl-tests counts it.
static double bus_factor(LsLibraryCall call, int ranks)
{
    double share = (double)(ranks - 1) / ranks;
    return call == LS_LIBRARY_ALL_REDUCE ? 2 * share : share;
}

static const char *wire_name(const Bench *bench)
{
    return ls_dtype_name(bench->options.rounded ? LS_BF16 : LS_F32);
}

static void print_head(const Bench *bench, const Sent *sent)
{
    const LsCollectiveOptions *o = &bench->options;
    const LsHostMap *hosts = ls_comm_hosts(o->comm);
    printf("# %d ranks, %d of them on %s; %s; %u lanes: the busiest rank sends %.2f times a ring's bytes\n",
        ls_comm_size(o->comm), ls_comm_local_size(o->comm), ls_comm_host(o->comm), ls_comm_name(o->comm),
        o->lanes, sent->in_all);
    if (o->rounded)
        printf("# the exact sum is one of %s numbers, which travel as such; what a ring sends is float32\n",
            wire_name(bench));
    if (sent->between > 0)
        printf("# %u hosts, %s: the busiest sends %.2f times a ring's bytes to the others\n", hosts->count,
            sent->levels > 1 ? "two levels" : "one level", sent->between);
    printf("# %lld calls a window, %lld windows of each in turn; GB/s of 10^9 bytes; wrong: results of all "
           "ranks\n",
        (long long)bench->arguments.iterations, (long long)bench->arguments.windows);
    printf("#%11s  %-8s %-13s %11s  %-23s %8s %8s %7s %9s %9s\n", "bytes", "by", "memory", "us",
        "(lowest to highest)", "algbw", "busbw", "wrong", "x library", "discarded");
}

typedef struct Row {
    size_t bytes;
    LsContender contender;
    LsSpread spread;
    size_t wrong;
    double library; // seconds; NAN: it took no part
} Row;

static void print_row(const Bench *bench, const Row *row)
{
    char range[64], wrong[24];
    const LsSpread *spread = &row->spread;
    double algbw = (double)row->bytes / spread->median * 1e-9;
    snprintf(range, sizeof range, "(%.1f to %.1f)", spread->lowest * 1e6, spread->highest * 1e6);
    snprintf(wrong, sizeof wrong, "%zu", row->wrong);
    printf("%12zu  %-8s %-13s %11.1f  %-23s %8.2f %8.2f %7s %9.2f %8zu%s\n", row->bytes,
        names[row->contender].reduction, names[row->contender].memory, spread->median * 1e6, range, algbw,
        algbw * bus_factor(bench->options.call, ls_comm_size(bench->options.comm)),
        bench->arguments.unchecked ? "-" : wrong, row->library / spread->median, spread->discarded,
        spread->disturbed ? "!" : "");
    fflush(stdout);
}

static json_t *describe_row(const Bench *bench, const Row *row)
{
    double algbw = (double)row->bytes / row->spread.median * 1e-9;
    double factor = bus_factor(bench->options.call, ls_comm_size(bench->options.comm));
    return json_pack("{s:I, s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "bytes", (json_int_t)row->bytes,
        "elements", (json_int_t)(row->bytes / sizeof(float)), "by", names[row->contender].reduction, "memory",
        names[row->contender].memory, "seconds", ls_bench_spread_json(&row->spread, 1), "algbw",
        ls_json_number(algbw), "busbw", ls_json_number(algbw * factor), "wrong",
        bench->arguments.unchecked ? json_null() : json_integer((json_int_t)row->wrong), "times_library",
        ls_json_number(row->library / row->spread.median));
}

static LsStatus report_size(Bench *bench, size_t bytes, const Series *series)
{
    LsSpread library = {.median = NAN};
    const Series *its = &series[LS_CONTENDER_LIBRARY];
    if (its->windows > 0)
        LS_TRY(ls_bench_spread(its->seconds, its->disturbed, its->windows, &library));
    for (int k = 0; k < LS_CONTENDERS; k++) {
        if (series[k].windows == 0)
            continue;
        Row row = {
            .bytes = bytes, .contender = (LsContender)k, .wrong = series[k].wrong, .library = library.median};
        LS_TRY(ls_bench_spread(series[k].seconds, series[k].disturbed, series[k].windows, &row.spread));
        bench->wrong += series[k].wrong;
        if (!bench->speaks)
            continue;
        print_row(bench, &row);
        json_array_append_new(bench->rows, describe_row(bench, &row));
    }
    return LS_OK;
}

// ---- The sweep ------------------------------------------------------------------------------------------

static LsStatus run_size(Bench *bench, size_t bytes)
{
    LsCollective c;
    Series series[LS_CONTENDERS] = {{0}};
    size_t most = (size_t)bench->arguments.windows * LS_BENCH_TRIES;
    LsStatus status = LS_OK;
    for (int k = 0; k < LS_CONTENDERS && status == LS_OK; k++) {
        status = ls_memory_allocate(most * sizeof(double), (void **)&series[k].seconds);
        if (status == LS_OK)
            status = ls_memory_allocate(most * sizeof(bool), (void **)&series[k].disturbed);
    }
    status = ls_comm_agree(bench->options.comm, status);
    if (status == LS_OK)
        status = ls_collective_create(&bench->options, bytes, &c);
    if (status == LS_OK) {
        run_contenders(bench, &c, series);
        ls_collective_destroy(&c);
        status = report_size(bench, bytes, series);
    }
    for (int k = 0; k < LS_CONTENDERS; k++) {
        free(series[k].seconds);
        free(series[k].disturbed);
    }
    return status;
}

// A ring passes ranks - 1 pieces from host to host.
static LsStatus find_sent(Bench *bench, Sent *sent)
{
    const LsHostMap *hosts = ls_comm_hosts(bench->options.comm);
    uint32_t ranks = (uint32_t)ls_comm_size(bench->options.comm);
    *sent = (Sent){.in_all = 1, .levels = 1};
    size_t between = 0; // pieces of this host
    for (uint32_t r = 0; bench->options.call != LS_LIBRARY_ALL_GATHER && r < ranks; r++) {
        LsPlan plan;
        LS_TRY(ls_collective_plan(&bench->options, r, &plan));
        double ratio = ls_plan_send_ratio(&plan);
        sent->in_all = ratio > sent->in_all ? ratio : sent->in_all;
        sent->levels = plan.host.count > 0 && plan.phases > 1 ? 2 : 1;
        if (hosts && hosts->count > 1) {
            uint32_t host = ls_host_of(hosts, r);
            between = (hosts->first[host] == r ? 0 : between) + ls_plan_pieces_between(&plan, hosts);
            double times = (double)between / (ranks - 1);
            sent->between = times > sent->between ? times : sent->between;
        }
        ls_plan_free(&plan);
    }
    if (bench->options.rounded) {
        sent->in_all /= 2;
        sent->between /= 2;
    }
    return LS_OK;
}

static LsStatus sweep(Bench *bench, LsInvocation *invocation)
{
    Sent sent;
    LS_TRY(find_sent(bench, &sent));
    if (bench->speaks)
        print_head(bench, &sent);
    bench->rows = json_array();
    LsStatus status = LS_OK;
    for (size_t bytes = bench->begin; status == LS_OK && bytes <= bench->end;) {
        status = run_size(bench, bytes);
        if (!ls_size_multiply(bytes, (size_t)bench->arguments.factor, &bytes))
            break;
    }
    if (status == LS_OK && bench->speaks) {
        json_t *report = ls_bench_report(invocation, bench->device);
        if (report)
            json_object_update_new(
                report, json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:I, s:I, s:O}", "backend",
                            ls_comm_name(bench->options.comm), "wire", wire_name(bench), "lanes",
                            (int)bench->options.lanes, "sent_ratio", ls_json_number(sent.in_all),
                            "sent_ratio_between_hosts", ls_json_number(sent.between), "levels",
                            json_integer(sent.levels), "iterations", (json_int_t)bench->arguments.iterations,
                            "warm_up", (json_int_t)bench->arguments.warm_up, "rows", bench->rows));
        status = ls_bench_report_write(report, bench->arguments.json);
    }
    json_decref(bench->rows);
    return ls_comm_agree(bench->options.comm, status);
}

static LsStatus attach(Bench *bench, LsComm *comm)
{
    const LsConfig *config = &bench->config;
    LsStatus status = ls_device_open_configured(config, ls_comm_local_rank(comm), 0, &bench->device);
    LS_TRY(ls_comm_agree(comm, status));
    bench->options.comm = comm;
    bench->options.device = bench->device;
    bench->options.bucket_bytes = ls_bucket_bytes(config->collectives.bucket_mb);
    LS_TRY(choose_lanes(bench));
    bool adds = bench->options.call != LS_LIBRARY_ALL_GATHER && bench->options.lanes > 1;
    bench->options.rounded = adds && config->collectives.wire == LS_WIRE_BF16;
    LS_TRY(ls_comm_attach(comm, bench->device, config->collectives.backend));
    if (config->collectives.backend != LS_COMM_MPI)
        bench->options.hosts = ls_comm_hosts(comm);
    return LS_OK;
}

LsStatus ls_bench_collective(LsInvocation *invocation, LsLibraryCall call)
{
    Bench bench = {.options = {.call = call}};
    LsStatus prepared = prepare(invocation, &bench);
    if (invocation->helped)
        return LS_OK;
    LS_TRY(ls_invocation_join(invocation, prepared, &bench.config));
    bench.speaks = ls_invocation_speaks(invocation);
    LsStatus status = attach(&bench, invocation->comm);
    if (status == LS_OK) {
        status = sweep(&bench, invocation);
        ls_comm_detach(invocation->comm);
    }
    ls_device_close(bench.device);
    LS_TRY(status);
    if (bench.wrong > 0)
        return LS_FAIL(LS_INTERNAL, "%zu results were wrong", bench.wrong);
    return LS_OK;
}
