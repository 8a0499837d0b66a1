// lockstep bench step: what a training step takes, and of what.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "phases.h"
#include "roofline.h"

typedef struct Arguments {
    LsBenchInput input;
    const char *folder;
    int64_t steps, warm_up, every;
} Arguments;

typedef struct Bench {
    Arguments arguments;
    LsConfig config;
    LsComm *comm;
    LsDevice *device;
    Tap tap;
    LsRoofline roofline;
    LsRehearsal rehearsal;
} Bench;

enum { WARM_UP = 3, WINDOW_DISCRETE = 10, STEPS_MAX = 10000 };

// ---- Arguments ------------------------------------------------------------------------------------------

static LsStatus prepare(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    const LsFlag flags[] = {
        {"windows", 'n', LS_FLAG_COUNT, &a->steps, "N", "Undisturbed windows wanted (20).", 1, NULL},
        {"warm-up", 'w', LS_FLAG_COUNT, &a->warm_up, "N", "Windows before that, which do not count (3).", 2,
            NULL},
        {"every", 0, LS_FLAG_COUNT, &a->every, "K",
            "Steps of a window: 1 on processors, 10 on GPUs, which else would wait for the host.", 1, NULL},
        {"folder", 0, LS_FLAG_TEXT, &a->folder, "DIR",
            "Where the run has its directory meanwhile, seen by all hosts (TMPDIR or /tmp).", 0, NULL},
    };
    LS_TRY(ls_bench_read(invocation, LS_FLAG_TABLE(flags), &a->input, &bench->config));
    if (invocation->helped)
        return LS_OK;
    if (a->steps > STEPS_MAX || a->warm_up > STEPS_MAX || a->every > STEPS_MAX)
        return LS_FAIL(LS_USAGE, "-n, -w and --every take at most %d", STEPS_MAX);
    return LS_OK;
}

// ---- Measuring ------------------------------------------------------------------------------------------

// The last step of the warm-up is listed.
static void list_step(void *context, int64_t step)
{
    Bench *bench = context;
    int64_t last = bench->arguments.warm_up * bench->arguments.every;
    if (step >= last - 1) // marking nothing, it cannot fail
        (void)tap_pass(&bench->tap, step == last - 1 ? TAP_LIST : TAP_OFF, NULL, NULL);
}

static LsRehearsalOptions rehearsal_options(Bench *bench)
{
    const Arguments *a = &bench->arguments;
    return (LsRehearsalOptions){.comm = bench->comm,
        .config = &bench->config,
        .device = bench->device,
        .folder = a->folder,
        .warm_up = a->warm_up * a->every,
        .every = a->every,
        .wanted = a->steps,
        .profiled = true};
}

// A graph that is replayed hides its ops: they are listed in two steps of a rehearsal without graphs.
static LsStatus list_without_graphs(Bench *bench)
{
    LsConfig config = bench->config;
    LsRehearsal rehearsal;
    config.runtime.graphs = false;
    LsRehearsalOptions options = rehearsal_options(bench);
    options.config = &config;
    options.warm_up = bench->arguments.warm_up * bench->arguments.every;
    options.every = 1;
    options.wanted = 1;
    options.profiled = false;
    options.warmed = list_step;
    options.context = bench;
    LsStatus status = ls_rehearse(&options, &rehearsal);
    ls_rehearsal_end(&rehearsal);
    return status;
}

static LsStatus measure(Bench *bench)
{
    LsComm *comm = bench->comm;
    LS_TRY(ls_comm_agree(
        comm, ls_device_open_configured(&bench->config, ls_comm_local_rank(comm), 0, &bench->device)));
    LS_TRY(ls_comm_barrier(comm)); // the ranks of a host measure at the same time: they share its memory
    LS_TRY(ls_comm_agree(comm, ls_roofline_measure(bench->device, &bench->roofline)));
    if (bench->arguments.every == 0)
        bench->arguments.every = bench->device->discrete ? WINDOW_DISCRETE : 1;
    tap_attach(&bench->tap, bench->device, false);
    bool graphs = bench->config.runtime.graphs && bench->device->ops->capture_begin;
    if (graphs || bench->arguments.every > 1)
        LS_TRY(list_without_graphs(bench));
    LsRehearsalOptions options = rehearsal_options(bench);
    if (!graphs && bench->arguments.every == 1) {
        options.warmed = list_step;
        options.context = bench;
    }
    LS_TRY(ls_rehearse(&options, &bench->rehearsal));
    ls_roofline_add_up(&bench->tap, &bench->roofline);
    return LS_OK;
}

// ---- Results --------------------------------------------------------------------------------------------

typedef struct Results {
    LsSpread seconds, data, comm, least_comm;
    double samples, tokens; // a second; tokens: 0 where the samples are no sequences
    double mfu;             // below 0: not known
    double bound;           // seconds of the roofline, of the rank with most to do
    json_t *phases;
} Results;

static LsStatus find_bound(Bench *bench, double *bound)
{
    double *all = NULL;
    LS_TRY(ls_bench_gather(bench->comm, &bench->roofline.seconds, sizeof *all, (void **)&all));
    *bound = 0;
    for (int r = 0; r < ls_comm_size(bench->comm); r++)
        *bound = all[r] > *bound ? all[r] : *bound;
    free(all);
    return LS_OK;
}

static LsStatus find_results(Bench *bench, Results *r)
{
    const LsRehearsal *rehearsal = &bench->rehearsal;
    const Arguments *a = &bench->arguments;
    LS_TRY(ls_rehearsal_spread(rehearsal, offsetof(LsStepWindow, seconds), &r->seconds));
    LS_TRY(ls_rehearsal_spread(rehearsal, offsetof(LsStepWindow, data), &r->data));
    LS_TRY(ls_rehearsal_spread(rehearsal, offsetof(LsStepWindow, comm), &r->comm));
    LS_TRY(ls_rehearsal_spread(rehearsal, offsetof(LsStepWindow, least_comm), &r->least_comm));
    r->samples = (double)bench->config.train.batch / r->seconds.median;
    r->tokens =
        bench->config.model.kind == LS_MODEL_GPT ? r->samples * (double)bench->config.model.context : 0;
    r->mfu = rehearsal->mfu_seconds > 0 ? rehearsal->mfu_seconds / r->seconds.median : -1;
    return ls_comm_rank(bench->comm) == 0
               ? ls_phases_read(rehearsal, a->warm_up * a->every, a->every, &r->phases)
               : LS_OK;
}

static void print_times(const char *name, const LsSpread *spread, double whole)
{
    printf("  %-12s %10.3f ms  (%.3f to %.3f) %6.1f %%\n", name, spread->median * 1e3, spread->lowest * 1e3,
        spread->highest * 1e3, 100 * spread->median / whole);
}

static void print_phases(const json_t *phases, double whole)
{
    size_t i;
    const json_t *phase;
    printf("phases of rank 0, as its host sees them\n");
    json_array_foreach(phases, i, phase)
    {
        const json_t *seconds = json_object_get(phase, "seconds");
        LsSpread spread = {.median = json_number_value(json_object_get(seconds, "median")),
            .lowest = json_number_value(json_object_get(seconds, "lowest")),
            .highest = json_number_value(json_object_get(seconds, "highest"))};
        print_times(json_string_value(json_object_get(phase, "name")), &spread, whole);
    }
}

static void print_results(const Bench *bench, const Results *r)
{
    const LsRoofline *roof = &bench->roofline;
    printf("step of %lld samples on %d ranks: %.3f ms (%.3f to %.3f), %zu windows of %lld, %zu disturbed "
           "ones discarded%s\n",
        (long long)bench->config.train.batch, ls_comm_size(bench->comm), r->seconds.median * 1e3,
        r->seconds.lowest * 1e3, r->seconds.highest * 1e3, r->seconds.counted,
        (long long)bench->arguments.every, r->seconds.discarded,
        r->seconds.disturbed ? "; all were disturbed" : "");
    if (r->tokens > 0)
        printf("%.1f tokens/s, ", r->tokens);
    printf("%.1f samples/s", r->samples);
    if (r->mfu >= 0)
        printf(", MFU %.1f %%", 100 * r->mfu);
    printf("\nroofline %.3f ms, %.2f of the step: %zu ops of %.3f GB and %.1f GFLOP at %.1f GB/s and %.1f "
           "GFLOP/s\n",
        r->bound * 1e3, r->bound / r->seconds.median, roof->ops, roof->bytes * 1e-9, roof->products * 1e-9,
        roof->bandwidth * 1e-9, roof->flops * 1e-9);
    printf("waiting, mean over the ranks\n");
    print_times("for data", &r->data, r->seconds.median);
    print_times("for ranks", &r->comm, r->seconds.median);
    print_times("  at least", &r->least_comm, r->seconds.median);
    print_phases(r->phases, r->seconds.median);
}

static json_t *describe_config(const LsConfig *config, const LsDevice *device)
{
    json_t *object = json_object();
    static const char *const names[] = {"model.kind", "train.batch", "train.lanes", "train.accumulation",
        "optimizer.kind", "optimizer.shard", "collectives.reduction", "collectives.bucket_mb"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[LS_CONFIG_TEXT];
        ls_option_text(config, ls_option_find(names[i]), text, sizeof text);
        json_object_set_new(object, names[i], json_string(text));
    }
    json_object_set_new(object, "precision", json_string(ls_dtype_name(ls_device_compute_type(device))));
    return object;
}

static json_t *describe_results(LsInvocation *invocation, Bench *bench, const Results *r)
{
    const LsRoofline *roof = &bench->roofline;
    json_t *report = ls_bench_report(invocation, bench->device);
    if (!report)
        return NULL;
    json_object_update_new(
        report, json_pack("{s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O}", "config",
                    describe_config(&bench->config, bench->device), "steps_of_a_window",
                    (json_int_t)bench->arguments.every, "step_seconds", ls_bench_spread_json(&r->seconds, 1),
                    "data_seconds", ls_bench_spread_json(&r->data, 1), "comm_seconds",
                    ls_bench_spread_json(&r->comm, 1), "least_comm_seconds",
                    ls_bench_spread_json(&r->least_comm, 1), "samples_per_second", ls_json_number(r->samples),
                    "tokens_per_second", r->tokens > 0 ? ls_json_number(r->tokens) : json_null(), "mfu",
                    r->mfu >= 0 ? ls_json_number(r->mfu) : json_null(), "phases", r->phases));
    json_object_set_new(report, "roofline",
        json_pack("{s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "seconds", ls_json_number(r->bound), "ratio",
            ls_json_number(r->bound / r->seconds.median), "bandwidth", ls_json_number(roof->bandwidth),
            "flops_per_second", ls_json_number(roof->flops), "ops", (json_int_t)roof->ops, "bytes",
            ls_json_number(roof->bytes), "flops", ls_json_number(roof->products)));
    return report;
}

static LsStatus report(LsInvocation *invocation, Bench *bench)
{
    Results results = {0};
    LS_TRY(ls_comm_agree(bench->comm, find_results(bench, &results)));
    LS_TRY(find_bound(bench, &results.bound));
    LsStatus status = LS_OK;
    if (ls_comm_rank(bench->comm) == 0) {
        print_results(bench, &results);
        status =
            ls_bench_report_write(describe_results(invocation, bench, &results), bench->arguments.input.json);
    }
    json_decref(results.phases);
    return ls_comm_agree(bench->comm, status);
}

LsStatus ls_bench_step(LsInvocation *invocation)
{
    Bench bench = {.arguments = {.steps = 20, .warm_up = WARM_UP}};
    LsStatus prepared = prepare(invocation, &bench);
    if (invocation->helped)
        return LS_OK;
    LS_TRY(ls_invocation_join(invocation, prepared, &bench.config));
    bench.comm = invocation->comm;
    LsStatus status = measure(&bench);
    if (status == LS_OK)
        status = report(invocation, &bench);
    ls_rehearsal_end(&bench.rehearsal);
    tap_detach(&bench.tap);
    ls_device_close(bench.device);
    return status;
}
