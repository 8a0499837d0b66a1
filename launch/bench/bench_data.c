// lockstep bench data: how fast the loader brings a run's microbatches when nothing is computed.
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "bench.h"
#include "data/loader.h"
#include "train/trainer.h"

typedef struct Arguments {
    LsBenchInput input;
    int64_t windows, steps;
} Arguments;

typedef struct Bench {
    Arguments arguments;
    LsConfig config;
    LsComm *comm;
    LsDataset *dataset;
    const LsDatasetInfo *info;
    LsLoader *loader;
    size_t microbatches; // of this rank in a step
    double *seconds;     // [tries] of a window
    bool *disturbed;
    size_t windows, undisturbed;
} Bench;

enum { WINDOWS_MAX = 100000 };

static LsStatus prepare(LsInvocation *invocation, Bench *bench)
{
    Arguments *a = &bench->arguments;
    const LsFlag flags[] = {
        {"windows", 'n', LS_FLAG_COUNT, &a->windows, "N", "Undisturbed windows wanted (10).", 1, NULL},
        {"steps", 0, LS_FLAG_COUNT, &a->steps, "N", "Steps' batches that make one window (50).", 1, NULL},
    };
    LS_TRY(ls_bench_read(invocation, LS_FLAG_TABLE(flags), &a->input, &bench->config));
    if (invocation->helped)
        return LS_OK;
    if (a->windows > WINDOWS_MAX || a->steps > WINDOWS_MAX)
        return LS_FAIL(LS_USAGE, "-n and --steps take at most %d", WINDOWS_MAX);
    return LS_OK;
}

// ---- Measuring ------------------------------------------------------------------------------------------

static LsStatus open_loader(Bench *bench)
{
    const LsConfig *config = &bench->config;
    LsLaneShare share;
    size_t most = (size_t)bench->arguments.windows * LS_BENCH_TRIES;
    LS_TRY(ls_memory_allocate(most * sizeof *bench->seconds, (void **)&bench->seconds));
    LS_TRY(ls_memory_allocate(most * sizeof *bench->disturbed, (void **)&bench->disturbed));
    LS_TRY(ls_lane_share((uint32_t)config->train.lanes, (uint32_t)ls_comm_size(bench->comm),
        (uint32_t)ls_comm_rank(bench->comm), &share));
    LS_TRY(ls_train_open_data(config, &bench->dataset));
    bench->info = ls_dataset_info(bench->dataset);
    bench->microbatches = share.count * (size_t)config->train.accumulation;
    LsLoaderOptions options = {.seed = (uint64_t)config->train.seed,
        .batch = (size_t)config->train.batch,
        .lanes = (size_t)config->train.lanes,
        .first_lane = share.first,
        .lane_count = share.count,
        .accumulation = (size_t)config->train.accumulation,
        .workers = (int)config->data.workers,
        .prefetch = (int)config->data.prefetch + 1, // one is being looked at
        .augmentation = ls_augmentation_of(config)};
    return ls_loader_create(bench->dataset, &options, &bench->loader);
}

static LsStatus take_steps(Bench *bench, int64_t steps)
{
    const LsHostBatch *batch;
    for (size_t i = 0; i < (size_t)steps * bench->microbatches; i++) {
        LS_TRY(ls_loader_next(bench->loader, &batch, NULL));
        ls_loader_return(bench->loader, batch);
    }
    return LS_OK;
}

static LsStatus take_window(Bench *bench, LsWindow *window)
{
    LsProbe before = ls_bench_probe();
    double start = ls_clock_seconds();
    LS_TRY(take_steps(bench, bench->arguments.steps));
    window->seconds = ls_clock_seconds() - start;
    LsProbe after = ls_bench_probe();
    window->disturbed = ls_bench_disturbed(&before, &after, window->seconds);
    return LS_OK;
}

// The batches that are ahead when a window begins are as many as when it ends.
static LsStatus measure(Bench *bench)
{
    size_t wanted = (size_t)bench->arguments.windows, most = wanted * LS_BENCH_TRIES;
    LS_TRY(ls_comm_agree(bench->comm, open_loader(bench)));
    LS_TRY(ls_comm_agree(bench->comm, take_steps(bench, bench->arguments.steps)));
    while (bench->windows < most && bench->undisturbed < wanted) {
        LsWindow window = {0};
        LS_TRY(ls_comm_barrier(bench->comm));
        LS_TRY(ls_comm_agree(bench->comm, take_window(bench, &window)));
        LS_TRY(ls_bench_slowest(bench->comm, &window));
        bench->seconds[bench->windows] = window.seconds / (double)bench->arguments.steps;
        bench->disturbed[bench->windows++] = window.disturbed;
        bench->undisturbed += !window.disturbed;
    }
    return LS_OK;
}

// ---- Results --------------------------------------------------------------------------------------------

static double bytes_of_sample(const LsDatasetInfo *info)
{
    if (info->window)
        return (double)info->window * 2 * sizeof(int32_t);
    size_t value = info->feature_type == LS_COLUMN_U8 ? 1 : sizeof(float);
    size_t label = info->classes ? sizeof(int32_t) : info->outputs * sizeof(float);
    return (double)(info->features * value + label);
}

static LsStatus report(LsInvocation *invocation, Bench *bench)
{
    LsSpread spread;
    LS_TRY(ls_bench_spread(bench->seconds, bench->disturbed, bench->windows, &spread));
    if (ls_comm_rank(bench->comm) != 0)
        return LS_OK;
    const LsConfig *config = &bench->config;
    double samples = (double)config->train.batch / spread.median,
           bytes = samples * bytes_of_sample(bench->info);
    double tokens = samples * (double)bench->info->window;
    printf("batches of %lld samples for %d ranks, %lld workers each: %.3f ms a batch (%.3f to %.3f), %zu "
           "windows of %lld, %zu disturbed ones discarded%s\n",
        (long long)config->train.batch, ls_comm_size(bench->comm), (long long)config->data.workers,
        spread.median * 1e3, spread.lowest * 1e3, spread.highest * 1e3, spread.counted,
        (long long)bench->arguments.steps, spread.discarded, spread.disturbed ? "; all were disturbed" : "");
    printf("%.0f samples/s, %.1f MB/s", samples, bytes * 1e-6);
    if (bench->info->window)
        printf(", %.0f tokens/s", tokens);
    putchar('\n');
    json_t *object = ls_bench_report(invocation, NULL);
    if (object)
        json_object_update_new(object,
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "data", config->data.path, "batch",
                (json_int_t)config->train.batch, "workers", (json_int_t)config->data.workers, "prefetch",
                (json_int_t)config->data.prefetch, "steps_of_a_window", (json_int_t)bench->arguments.steps,
                "batch_seconds", ls_bench_spread_json(&spread, 1), "samples_per_second",
                ls_json_number(samples), "bytes_per_second", ls_json_number(bytes), "tokens_per_second",
                bench->info->window ? ls_json_number(tokens) : json_null()));
    return ls_bench_report_write(object, bench->arguments.input.json);
}

LsStatus ls_bench_data(LsInvocation *invocation)
{
    Bench bench = {.arguments = {.windows = 10, .steps = 50}};
    LsStatus prepared = prepare(invocation, &bench);
    if (invocation->helped)
        return LS_OK;
    LS_TRY(ls_invocation_join(invocation, prepared, &bench.config));
    bench.comm = invocation->comm;
    LsStatus status = measure(&bench);
    if (status == LS_OK)
        status = ls_comm_agree(bench.comm, report(invocation, &bench));
    ls_loader_destroy(bench.loader);
    ls_dataset_close(bench.dataset);
    free(bench.disturbed);
    free(bench.seconds);
    return status;
}
