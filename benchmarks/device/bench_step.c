// Times every op of a training step and compares each with what bounds it.
//
//   bench_step -c CONFIG [--set a.b=v]... [--device cpu|cuda|ref] [--steps N] [--plain] [--processor-time]
//              [--vocabulary N] [--features N] [--classes N] [--json FILE]
//   bench_step -c CONFIG ... --dry --bandwidth GB/S --rate GFLOP/S
//
// Runs steps of one microbatch of the configuration's model on random data: forward, loss, backward, norms,
// decision, optimizer, on one rank. Of each op and shape: calls, time (the sum over calls of each call's
// median over the steps), bytes, FLOPs of products (both as op_work.h counts them), what bounds it, and the
// part of its time that the bound allows. The peaks are measured: a large copy, and the product of `doctor`
// and MFU; they may be given instead. A ratio above 1 is an op whose data was in a cache.
//
// On a GPU the step is one graph with events between the ops; the time of the whole step is that of a graph
// without them. --plain: no graph, where the host may be slower than the GPU. --processor-time: on a busy
// host with runtime.threads 1, the ops' times are the processor's. --dry does nothing and needs no memory: it
// lists the ops of a step with their bounds, for a machine with those peaks.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "samples.h"
#include "step_model.h"
#include "step_table.h"
#include "stopwatch.h"
#include "tap.h"

typedef struct Options {
    LsConfig config;
    LsDataShape shape;
    int steps;
    bool plain, dry, processor_time;
    Peaks peaks; // 0: to be measured
    const char *json;
} Options;

typedef struct Bench {
    Options options;
    LsDevice *device;
    StepModel step;
    Tap tap;
    Stopwatch *watch;
    LsGraph *marked_graph, *graph; // NULL: steps run plainly
    double *seconds;               // [calls]
    Spread whole, marked_step;     // of a step, without marks and with them
} Bench;

// ---- Peaks ----------------------------------------------------------------------------------------------

enum { COPY_BYTES = 1 << 26, COPY_BYTES_DISCRETE = 1 << 28, COPIES = 20 };

static LsStatus time_copies(Stopwatch *watch, LsDevice *device, char *memory, size_t bytes, double *best)
{
    double seconds[COPIES];
    LS_TRY(device->ops->zero(device, memory, 2 * bytes));
    LS_TRY(stopwatch_mark(watch, 0));
    for (size_t i = 0; i < COPIES; i++) {
        LS_TRY(device->ops->copy(device, memory, memory + bytes, bytes));
        LS_TRY(stopwatch_mark(watch, i + 1));
    }
    LS_TRY(device->ops->synchronize(device));
    LS_TRY(stopwatch_read(watch, seconds));
    for (size_t i = 0; i < COPIES; i++)
        *best = i == 0 || seconds[i] < *best ? seconds[i] : *best;
    return LS_OK;
}

// The best of several copies, bytes that are read and bytes that are written.
static LsStatus measure_bandwidth(const Options *options, LsDevice *device, double *bandwidth)
{
    size_t bytes = device->discrete ? COPY_BYTES_DISCRETE : COPY_BYTES;
    char *memory;
    Stopwatch *watch = NULL;
    double best = 0;
    LS_TRY(device->ops->allocate(device, 2 * bytes, (void **)&memory));
    LsStatus status = stopwatch_open(device, COPIES + 1, options->processor_time, &watch);
    if (status == LS_OK)
        status = time_copies(watch, device, memory, bytes, &best);
    stopwatch_close(watch);
    device->ops->release(device, memory);
    *bandwidth = 2.0 * (double)bytes / best;
    return status;
}

static LsStatus measure_peaks(LsDevice *device, Options *options)
{
    if (options->peaks.bandwidth == 0)
        LS_TRY(measure_bandwidth(options, device, &options->peaks.bandwidth));
    return options->peaks.flops == 0 ? ls_device_measure_peak(device, &options->peaks.flops) : LS_OK;
}

// ---- Steps ----------------------------------------------------------------------------------------------

static LsStatus put_mark(void *watch, size_t i)
{
    return stopwatch_mark(watch, i);
}

static LsStatus pass(Bench *bench, TapMode mode)
{
    LS_TRY(tap_pass(&bench->tap, mode, put_mark, bench->watch));
    LsStatus status = step_model_run(&bench->step);
    LS_TRY(tap_pass(&bench->tap, TAP_OFF, NULL, NULL));
    return status;
}

// The first pass builds kernels and, with runtime.autotune, chooses algorithms; its calls are listed.
static LsStatus warm_up(Bench *bench)
{
    LsDevice *device = bench->device;
    device->ops->tune(device, bench->options.config.runtime.autotune);
    LsStatus status = pass(bench, TAP_LIST);
    device->ops->tune(device, false);
    LS_TRY(status);
    if (bench->options.dry)
        return LS_OK;
    LS_TRY(device->ops->synchronize(device));
    LS_TRY(stopwatch_open(device, bench->tap.count + 1, bench->options.processor_time, &bench->watch));
    LS_TRY(pass(bench, TAP_MARK));
    return device->ops->synchronize(device);
}

static LsStatus record(Bench *bench, bool marked, LsGraph **out)
{
    LsDevice *device = bench->device;
    LS_TRY(device->ops->capture_begin(device));
    LsStatus status = pass(bench, marked ? TAP_MARK : TAP_OFF);
    if (status != LS_OK) {
        device->ops->capture_abandon(device);
        return status;
    }
    return device->ops->capture_end(device, out);
}

static LsStatus run_step(Bench *bench, bool marked)
{
    LsDevice *device = bench->device;
    LsGraph *graph = marked ? bench->marked_graph : bench->graph;
    LS_TRY(graph ? device->ops->graph_launch(device, graph) : pass(bench, marked ? TAP_MARK : TAP_OFF));
    return device->ops->synchronize(device);
}

// Each call's median over the steps.
static void take_medians(Bench *bench, const double *samples)
{
    size_t calls = bench->tap.count, steps = (size_t)bench->options.steps;
    double one[MOST_SAMPLES];
    for (size_t c = 0; c < calls; c++) {
        for (size_t s = 0; s < steps; s++)
            one[s] = samples[s * calls + c];
        bench->seconds[c] = spread_of(one, bench->options.steps).median;
    }
}

static LsStatus time_step(Bench *bench, bool marked, double *seconds)
{
    double start = ls_clock_seconds();
    LS_TRY(run_step(bench, marked));
    *seconds = ls_clock_seconds() - start;
    return LS_OK;
}

static LsStatus measure_steps(Bench *bench, double *samples)
{
    double whole[MOST_SAMPLES], marked[MOST_SAMPLES];
    for (int s = 0; s < bench->options.steps; s++) {
        LS_TRY(time_step(bench, true, &marked[s]));
        LS_TRY(stopwatch_read(bench->watch, samples + (size_t)s * bench->tap.count));
        LS_TRY(time_step(bench, false, &whole[s]));
    }
    take_medians(bench, samples);
    bench->whole = spread_of(whole, bench->options.steps);
    bench->marked_step = spread_of(marked, bench->options.steps);
    return LS_OK;
}

static LsStatus measure(Bench *bench)
{
    LsDevice *device = bench->device;
    if (device->ops->capture_begin && !bench->options.plain) {
        LS_TRY(record(bench, true, &bench->marked_graph));
        LS_TRY(record(bench, false, &bench->graph));
    }
    LS_TRY(run_step(bench, true)); // brings the graphs to the GPU
    LS_TRY(run_step(bench, false));
    double *samples;
    size_t calls = bench->tap.count;
    LS_TRY(ls_memory_allocate(calls * sizeof *bench->seconds, (void **)&bench->seconds));
    LS_TRY(ls_memory_allocate((size_t)bench->options.steps * calls * sizeof *samples, (void **)&samples));
    LsStatus status = measure_steps(bench, samples);
    free(samples);
    return status;
}

// ---- Report ---------------------------------------------------------------------------------------------

static double samples_of(const Bench *bench, double per_second)
{
    size_t window = bench->step.model->shape.window;
    return (double)bench->step.batch.rows * (double)(window ? window : 1) * per_second;
}

static LsStatus write_json(const Bench *bench, const char *device, const StepTable *table)
{
    const Peaks *peaks = &bench->options.peaks;
    json_t *rows = step_table_json(table);
    if (!rows)
        return LS_FAIL(LS_INTERNAL, "no memory for the results");
    json_t *file = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "device", device, "bandwidth",
        ls_json_number(peaks->bandwidth), "flops_per_second", ls_json_number(peaks->flops), "step_seconds",
        ls_json_number(bench->whole.median), "samples", ls_json_number(samples_of(bench, 1)), "model_flops",
        ls_json_number(bench->step.model->flops_per_sample * (double)bench->step.batch.rows),
        "activation_bytes", ls_json_number((double)bench->step.model->activation_bytes), "ops", rows);
    if (!file)
        return LS_FAIL(LS_INTERNAL, "no memory for the results");
    LsStatus status = ls_json_write(bench->options.json, file);
    json_decref(file);
    return status;
}

static void print_head(const Bench *bench, const char *device)
{
    const LsModel *model = bench->step.model;
    const Peaks *peaks = &bench->options.peaks;
    printf("%s\n%s of %zu parameters, %zu samples, %.1f MiB of activations; %.1f GB/s, %.1f GFLOP/s\n",
        device, model->ops->name, ls_parameters_elements(&model->parameters), bench->step.batch.rows,
        (double)model->activation_bytes / (1024 * 1024), peaks->bandwidth * 1e-9, peaks->flops * 1e-9);
}

static void print_step(const Bench *bench, const StepTable *table)
{
    const LsModel *model = bench->step.model;
    const Spread *time = &bench->whole;
    double flops = model->flops_per_sample * (double)bench->step.batch.rows;
    const char *unit = model->shape.window ? "tokens" : "samples";
    double step = bench->options.dry ? table->total.bound : time->median;
    if (!bench->options.dry)
        printf("step %.3f ms (%.3f to %.3f), with marks %.3f ms; ", time->median * 1e3, time->low * 1e3,
            time->high * 1e3, bench->marked_step.median * 1e3);
    printf("%s%.0f %s/s, %.1f%% of the product peak\n", bench->options.dry ? "at most " : "",
        samples_of(bench, 1 / step), unit, 100 * flops / step / bench->options.peaks.flops);
}

static LsStatus report(Bench *bench)
{
    char device[512] = "nothing was run";
    StepTable table;
    if (!bench->options.dry)
        ls_device_fingerprint(bench->device, device, sizeof device);
    LS_TRY(step_table_make(bench->tap.call, bench->tap.count, bench->seconds, &bench->options.peaks, &table));
    print_head(bench, device);
    step_table_print(&table);
    print_step(bench, &table);
    LsStatus status = bench->options.json ? write_json(bench, device, &table) : LS_OK;
    step_table_free(&table);
    return status;
}

// ---- The program ----------------------------------------------------------------------------------------

static LsStatus run_bench(Bench *bench)
{
    Options *options = &bench->options;
    LS_TRY(ls_device_open_configured(&options->config, 0, 0, &bench->device));
    if (!options->dry)
        LS_TRY(measure_peaks(bench->device, options));
    tap_attach(&bench->tap, bench->device, options->dry);
    LS_TRY(step_model_open(&options->config, &options->shape, bench->device, &bench->step));
    LS_TRY(warm_up(bench));
    if (!options->dry)
        LS_TRY(measure(bench));
    return report(bench);
}

static void close_bench(Bench *bench)
{
    LsDevice *device = bench->device;
    if (device && device->ops->graph_destroy) {
        device->ops->graph_destroy(device, bench->marked_graph);
        device->ops->graph_destroy(device, bench->graph);
    }
    stopwatch_close(bench->watch);
    step_model_close(&bench->step);
    tap_detach(&bench->tap);
    free(bench->seconds);
    ls_device_close(device);
}

static LsStatus set(LsConfig *config, char *assignment)
{
    char *equals = strchr(assignment, '=');
    if (!equals)
        return LS_FAIL(LS_USAGE, "--set %s: expected section.key=value", assignment);
    *equals = '\0';
    return ls_config_set(config, assignment, equals + 1, "--set");
}

static LsStatus check(Options *options, bool configured, const char *left_over)
{
    if (left_over || !configured)
        return LS_FAIL(
            LS_USAGE, "-c CONFIG is needed, and there are no other arguments; see the head of bench_step.c");
    if (options->steps < 1 || options->steps > MOST_SAMPLES)
        return LS_FAIL(LS_USAGE, "--steps is from 1 to %d", MOST_SAMPLES);
    if (options->dry && (options->peaks.bandwidth <= 0 || options->peaks.flops <= 0))
        return LS_FAIL(LS_USAGE, "--dry needs --bandwidth and --rate, the peaks of the machine it is about");
    if (options->dry)
        LS_TRY(ls_config_set(&options->config, "runtime.device", "cpu", "--dry"));
    if (options->config.model.kind == LS_MODEL_GPT)
        options->shape = (LsDataShape){
            .window = (size_t)options->config.model.context, .vocabulary = options->shape.vocabulary};
    return ls_config_validate(&options->config);
}

static LsStatus read_options(int argc, char **argv, Options *options)
{
    static const struct option list[] = {{"config", required_argument, NULL, 'c'},
        {"set", required_argument, NULL, 's'}, {"device", required_argument, NULL, 'd'},
        {"vocabulary", required_argument, NULL, 'v'}, {"features", required_argument, NULL, 'f'},
        {"classes", required_argument, NULL, 'k'}, {"steps", required_argument, NULL, 'n'},
        {"bandwidth", required_argument, NULL, 'b'}, {"rate", required_argument, NULL, 'r'},
        {"json", required_argument, NULL, 'j'}, {"plain", no_argument, NULL, 'p'},
        {"dry", no_argument, NULL, 'y'}, {"processor-time", no_argument, NULL, 't'}, {0}};
    bool configured = false;
    for (int option; (option = getopt_long(argc, argv, "c:", list, NULL)) != -1;)
        switch (option) {
        case 'c':
            LS_TRY(ls_config_read_yaml(&options->config, optarg));
            configured = true;
            break;
        case 's':
            LS_TRY(set(&options->config, optarg));
            break;
        case 'd':
            LS_TRY(ls_config_set(&options->config, "runtime.device", optarg, "--device"));
            break;
        case 'v':
            options->shape.vocabulary = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            options->shape.features = strtoull(optarg, NULL, 10);
            break;
        case 'k':
            options->shape.outputs = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            options->steps = (int)strtol(optarg, NULL, 10);
            break;
        case 'b':
            options->peaks.bandwidth = strtod(optarg, NULL) * 1e9;
            break;
        case 'r':
            options->peaks.flops = strtod(optarg, NULL) * 1e9;
            break;
        case 'j':
            options->json = optarg;
            break;
        case 'p':
            options->plain = true;
            break;
        case 't':
            options->processor_time = true;
            break;
        case 'y':
            options->dry = true;
            break;
        default:
            return LS_FAIL(LS_USAGE, "unknown option; see the head of bench_step.c");
        }
    return check(options, configured, argv[optind]);
}

int main(int argc, char **argv)
{
    Bench bench = {
        .options = {
            .shape = {.features = 128, .outputs = 10, .classes = true, .vocabulary = 50257}, .steps = 10}};
    ls_config_defaults(&bench.options.config);
    LsStatus status = read_options(argc, argv, &bench.options);
    if (status == LS_OK)
        status = run_bench(&bench);
    if (status != LS_OK)
        fprintf(stderr, "bench_step: %s\n", ls_status_message());
    close_bench(&bench);
    return ls_status_exit_code(status);
}
