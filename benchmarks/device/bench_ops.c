// Times the ops of a device and compares them with what bounds them.
//
//   bench_ops [--device cpu|cuda|ref] [--only PART] [--rows N] [--width N] [--elements N] [--window N]
//             [--seconds S] [--quick] [--json FILE]
//
// Of each case: the median time with the 10th and 90th percentile, and GFLOP/s of products or GB/s read and
// written by the others. On a GPU products are compared with the fastest algorithm that the library offers
// (as runtime.autotune finds it), and the others with a copy of as many bytes within the device's memory.
// Both are timed in turn, a ratio is taken within each turn, and its median and spread are reported. --only
// takes the cases whose name has PART; --quick is a try on tiny sizes.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "contender.h"

enum { MOST_SIZES = 4 };

typedef struct Options {
    int kind; // LsDeviceKind
    const char *only, *json;
    double seconds; // for one case
    LsOpSizes sizes[MOST_SIZES];
    size_t size_count;
} Options;

typedef struct Bench {
    const Options *options;
    LsDevice *device, *tuned; // tuned: NULL where there is nothing to choose
    json_t *results;
} Bench;

// ---- Reports --------------------------------------------------------------------------------------------

static json_t *spread_json(const Spread *spread)
{
    return json_pack("{s:o, s:o, s:o}", "median", ls_json_number(spread->median), "p10",
        ls_json_number(spread->low), "p90", ls_json_number(spread->high));
}

typedef struct Result {
    const LsOpCase *op;
    const char *peer; // NULL: none
    Spread seconds, ratio;
    int samples;
} Result;

static LsStatus report(Bench *bench, const Result *result)
{
    char name[200];
    double flops = ls_op_flops(result->op), bytes = ls_op_bytes(result->op);
    double rate = (flops > 0 ? flops : bytes) / result->seconds.median * 1e-9;
    ls_op_name(result->op, name, sizeof name);
    printf("%-86s %10.2f us (%.2f to %.2f) %9.1f %s", name, result->seconds.median * 1e6,
        result->seconds.low * 1e6, result->seconds.high * 1e6, rate, flops > 0 ? "GFLOP/s" : "GB/s");
    json_t *row = json_pack("{s:s, s:o, s:o, s:o, s:i, s:o}", "name", name, "bytes", ls_json_number(bytes),
        "flops", ls_json_number(flops), "seconds", spread_json(&result->seconds), "samples", result->samples,
        flops > 0 ? "gflop_per_second" : "gb_per_second", ls_json_number(rate));
    if (result->peer) {
        printf("  %.3f (%.3f to %.3f) of %s", result->ratio.median, result->ratio.low, result->ratio.high,
            result->peer);
        json_object_set_new(row, "peer", json_string(result->peer));
        json_object_set_new(row, "ratio", spread_json(&result->ratio));
    }
    printf("\n");
    fflush(stdout);
    if (json_array_append_new(bench->results, row) != 0)
        return LS_FAIL(LS_INTERNAL, "no memory for the results");
    return LS_OK;
}

// ---- Measurements ---------------------------------------------------------------------------------------

// `peer` is NULL or open.
static LsStatus measure(Bench *bench, Contender *op, Contender *peer, Result *result)
{
    double samples[2][MOST_SAMPLES], ratios[MOST_SAMPLES];
    Contender *const contenders[2] = {op, peer};
    LS_TRY(contenders_measure(contenders, peer ? 2 : 1, bench->options->seconds, samples, &result->samples));
    for (int s = 0; s < result->samples && peer; s++)
        ratios[s] = samples[1][s] / samples[0][s];
    result->seconds = spread_of(samples[0], result->samples);
    if (peer)
        result->ratio = spread_of(ratios, result->samples);
    return report(bench, result);
}

static LsStatus measure_with_copy(Bench *bench, Contender *op, Result *result)
{
    LsDevice *device = bench->device;
    // A copy reads and writes each byte.
    Contender copy = {.device = device, .bytes = (size_t)(ls_op_bytes(result->op) / 2)};
    LsStatus status = device->ops->allocate(device, copy.bytes, &copy.to);
    if (status == LS_OK)
        status = device->ops->allocate(device, copy.bytes, &copy.from);
    if (status == LS_OK)
        status = device->ops->zero(device, copy.from, copy.bytes);
    if (status == LS_OK)
        status = contender_open(&copy);
    result->peer = "a copy";
    if (status == LS_OK)
        status = measure(bench, op, &copy, result);
    contender_close(&copy);
    device->ops->release(device, copy.to);
    device->ops->release(device, copy.from);
    return status;
}

static LsStatus measure_with_tuned(Bench *bench, Contender *op, Result *result)
{
    LsOpRun run;
    Contender tuned = {.device = bench->tuned, .run = &run};
    LsStatus status = ls_op_run_open(result->op, bench->tuned, 0, &run);
    if (status == LS_OK)
        status = contender_open(&tuned);
    result->peer = "the fastest algorithm";
    if (status == LS_OK)
        status = measure(bench, op, &tuned, result);
    contender_close(&tuned);
    ls_op_run_close(&run);
    return status;
}

static LsStatus measure_case(Bench *bench, const LsOpCase *op)
{
    LsOpRun run;
    Result result = {.op = op};
    Contender contender = {.device = bench->device, .run = &run};
    LsStatus status = ls_op_run_open(op, bench->device, 0, &run);
    if (status == LS_OK)
        status = contender_open(&contender);
    if (status == LS_OK && op->kind == LS_OP_MATMUL && bench->tuned)
        status = measure_with_tuned(bench, &contender, &result);
    // The decision is bound by waiting for memory, not by its bandwidth.
    else if (status == LS_OK && bench->device->discrete && ls_op_flops(op) == 0 &&
             op->kind != LS_OP_DECIDE_STEP)
        status = measure_with_copy(bench, &contender, &result);
    else if (status == LS_OK)
        status = measure(bench, &contender, NULL, &result);
    contender_close(&contender);
    ls_op_run_close(&run);
    return status == LS_UNSUPPORTED ? LS_OK : status; // the cpu device has no float16
}

static LsStatus measure_sizes(Bench *bench, const LsOpSizes *sizes)
{
    LsOpCase *cases;
    size_t count;
    LS_TRY(ls_op_speed_cases(sizes, &cases, &count));
    LsStatus status = LS_OK;
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        char name[200];
        ls_op_name(&cases[i], name, sizeof name);
        if (strstr(name, bench->options->only))
            status = measure_case(bench, &cases[i]);
    }
    free(cases);
    return status;
}

// ---- The program ----------------------------------------------------------------------------------------

static LsStatus open_devices(Bench *bench)
{
    LsDeviceOptions options = {.kind = bench->options->kind, .threads = 1};
    LS_TRY(ls_device_open(&options, &bench->device));
    if (!bench->device->discrete)
        return LS_OK;
    LS_TRY(ls_device_open(&options, &bench->tuned));
    bench->tuned->ops->tune(bench->tuned, true);
    return LS_OK;
}

static LsStatus add_choices(json_t *file, const char *key, const LsDevice *device)
{
    char *choices;
    LS_TRY(device->ops->choices(device, &choices));
    json_object_set_new(file, key, json_string(choices));
    free(choices);
    return LS_OK;
}

static LsStatus write_results(const Bench *bench, const char *device)
{
    json_t *file = json_pack("{s:s, s:O}", "device", device, "ops", bench->results);
    if (!file)
        return LS_FAIL(LS_INTERNAL, "no memory for the results");
    LsStatus status = LS_OK;
    if (bench->tuned) {
        status = add_choices(file, "algorithms", bench->device);
        if (status == LS_OK)
            status = add_choices(file, "fastest_algorithms", bench->tuned);
    }
    if (status == LS_OK)
        status = ls_json_write(bench->options->json, file);
    json_decref(file);
    return status;
}

static LsStatus run_bench(Bench *bench)
{
    char text[512];
    LS_TRY(open_devices(bench));
    ls_device_fingerprint(bench->device, text, sizeof text);
    printf("%s\n", text);
    for (size_t i = 0; i < bench->options->size_count; i++)
        LS_TRY(measure_sizes(bench, &bench->options->sizes[i]));
    return bench->options->json ? write_results(bench, text) : LS_OK;
}

// Sizes at which the device is busy: a GPU needs vectors that do not fit into its caches.
static void default_sizes(Options *options, bool quick)
{
    static const LsOpSizes cuda[] = {
        {256, 1024, 0, 0}, {1024, 1024, 0, 0}, {4096, 4096, 0, 0}, {0, 1024, 1 << 26, 0}};
    static const LsOpSizes cpu[] = {
        {256, 1024, 0, 0}, {0, 1024, 1 << 20, 0}, {2048, 384, 0, 256}, {2048, 768, 0, 1024}};
    static const LsOpSizes tiny[] = {{32, 64, 2 * LS_BLOCK, 16}};
    bool small = quick || options->kind == LS_DEVICE_REF;
    bool gpu = options->kind == LS_DEVICE_CUDA;
    const LsOpSizes *sizes = small ? tiny : gpu ? cuda : cpu;
    options->size_count = small ? sizeof tiny / sizeof *tiny
                          : gpu ? sizeof cuda / sizeof *cuda
                                : sizeof cpu / sizeof *cpu;
    memcpy(options->sizes, sizes, options->size_count * sizeof *sizes);
    if (quick)
        options->seconds = 0;
}

static int kind_of(const char *name)
{
    return strcmp(name, "cuda") == 0  ? LS_DEVICE_CUDA
           : strcmp(name, "ref") == 0 ? LS_DEVICE_REF
           : strcmp(name, "cpu") == 0 ? LS_DEVICE_CPU
                                      : -1;
}

static LsStatus read_options(int argc, char **argv, Options *options)
{
    static const struct option list[] = {{"device", required_argument, NULL, 'd'},
        {"only", required_argument, NULL, 'o'}, {"rows", required_argument, NULL, 'r'},
        {"width", required_argument, NULL, 'w'}, {"elements", required_argument, NULL, 'e'},
        {"window", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
        {"quick", no_argument, NULL, 'q'}, {"json", required_argument, NULL, 'j'}, {0}};
    LsOpSizes own = {0};
    bool quick = false;
    for (int option; (option = getopt_long(argc, argv, "", list, NULL)) != -1;)
        switch (option) {
        case 'd':
            options->kind = kind_of(optarg);
            break;
        case 'o':
            options->only = optarg;
            break;
        case 'r':
            own.rows = strtoull(optarg, NULL, 10);
            break;
        case 'w':
            own.width = strtoull(optarg, NULL, 10);
            break;
        case 'e':
            own.elements = strtoull(optarg, NULL, 10);
            break;
        case 't':
            own.window = strtoull(optarg, NULL, 10);
            break;
        case 's':
            options->seconds = strtod(optarg, NULL);
            break;
        case 'q':
            quick = true;
            break;
        case 'j':
            options->json = optarg;
            break;
        default:
            return LS_FAIL(LS_USAGE, "unknown option; see the head of bench_ops.c");
        }
    if (options->kind < 0 || optind < argc)
        return LS_FAIL(LS_USAGE, "--device is cpu, cuda or ref, and there are no other arguments");
    default_sizes(options, quick);
    if (own.rows || own.elements) {
        own.width = own.width ? own.width : 1024;
        options->sizes[0] = own;
        options->size_count = 1;
    }
    return LS_OK;
}

int main(int argc, char **argv)
{
    Options options = {.kind = LS_DEVICE_CPU, .only = "", .seconds = 0.3};
    Bench bench = {.options = &options, .results = json_array()};
    LsStatus status = read_options(argc, argv, &options);
    if (status == LS_OK)
        status = run_bench(&bench);
    if (status != LS_OK)
        fprintf(stderr, "bench_ops: %s\n", ls_status_message());
    ls_device_close(bench.device);
    ls_device_close(bench.tuned);
    json_decref(bench.results);
    return ls_status_exit_code(status);
}
