// --dry-run: what a run would do on a number of ranks, from the plan alone.

#include <stdlib.h>

#include "base/memory.h"
#include "train/schedule.h"
#include "trainer_state.h"

typedef struct DryRun {
    const LsConfig *config;
    LsDataset *dataset;
    const LsDatasetInfo *info;
    LsModel *model;
    LsBuckets buckets;
    LsWindow window;
    LsDtype type;
    bool gpu;
    LsHostMap hosts; // count 0: not known
} DryRun;

static double mebibytes(size_t bytes)
{
    return (double)bytes / (1024.0 * 1024.0);
}

// Sets the precision that `auto` stands for. A run on GPUs is planned for without one.
static LsStatus choose_device(DryRun *dry, LsConfig *config)
{
    char gpus[256];
    int usable = 0;
    if (config->runtime.device == LS_DEVICE_AUTO)
        ls_device_gpus(gpus, sizeof gpus, &usable);
    dry->gpu = config->runtime.device == LS_DEVICE_CUDA || usable > 0;
    if (!dry->gpu) {
        LsDevice *device = NULL;
        LS_TRY(ls_device_open_configured(config, 0, 0, &device));
        config->runtime.precision = device->precision;
        ls_device_close(device);
    }
    dry->type = ls_precision_type((LsPrecision)config->runtime.precision);
    return LS_OK;
}

// As ranks are numbered: host by host.
static LsStatus list_hosts(DryRun *dry, uint32_t ranks, uint32_t each)
{
    if (each == 0)
        return LS_OK;
    uint32_t count = ranks / each + (ranks % each != 0);
    LS_TRY(ls_memory_allocate((count + 1) * sizeof *dry->hosts.first, (void **)&dry->hosts.first));
    for (uint32_t h = 0; h < count; h++)
        dry->hosts.first[h] = h * each;
    dry->hosts.first[count] = ranks;
    dry->hosts.count = count;
    // As the communicator chooses where nothing is in the way.
    int backend = dry->config->collectives.backend;
    bool shares = backend == LS_COMM_AUTO || backend == LS_COMM_SHARED;
    dry->hosts.in_place = !dry->gpu && shares && count < ranks;
    return LS_OK;
}

static LsStatus set_up(DryRun *dry, LsConfig *config)
{
    dry->config = config;
    LS_TRY(ls_config_validate(config));
    LS_TRY(ls_train_open_data(config, &dry->dataset));
    dry->info = ls_dataset_info(dry->dataset);
    LS_TRY(choose_device(dry, config));
    LsDataShape shape;
    LS_TRY(ls_data_shape(config, dry->info, &shape));
    int64_t microbatch = config->train.batch / (config->train.lanes * config->train.accumulation);
    size_t block = ls_evaluation_rows(config, &shape);
    size_t rows = (size_t)microbatch > block ? (size_t)microbatch : block;
    LS_TRY(ls_model_create(config, &shape, NULL, rows, &dry->model));
    return ls_cut_model(config, dry->model, config->collectives.bucket_mb, &dry->buckets, &dry->window);
}

static void print_run(const DryRun *dry, int ranks, FILE *out)
{
    const LsConfig *config = dry->config;
    double samples = (double)dry->info->samples[LS_TRAIN];
    double steps = (double)ls_schedule_steps(config, dry->info->samples[LS_TRAIN]);
    const LsParameters *parameters = &dry->model->parameters;
    size_t frozen = 0;
    for (size_t i = 0; i < parameters->count; i++)
        frozen += parameters->list[i].frozen ? parameters->list[i].elements : 0;
    fprintf(out, "model        %s, %zu parameters in %zu tensors, %.3g FLOP per sample\n",
        dry->model->ops->name, ls_parameters_elements(parameters), parameters->count,
        dry->model->flops_per_sample);
    if (frozen > 0)
        fprintf(out, "frozen       %zu parameters\n", frozen);
    size_t window = dry->model->shape.window;
    fprintf(out, "data         %s: %.0f training samples of %zu %s\n", config->data.path, samples,
        window ? window : dry->info->features, window ? "tokens" : "values");
    fprintf(out, "steps        %.0f (%.2f epochs)\n", steps, steps * (double)config->train.batch / samples);
    int64_t rows = config->train.batch / (config->train.lanes * config->train.accumulation);
    fprintf(out, "batch        %lld = %lld lanes x %lld microbatches x %lld", (long long)config->train.batch,
        (long long)config->train.lanes, (long long)config->train.accumulation, (long long)rows);
    if (window)
        fprintf(out, " windows: %lld rows per product\n", (long long)rows * (long long)window);
    else
        fprintf(out, " rows per product\n");
    fprintf(out, "precision    %s, buckets: %zu\n", ls_dtype_name(dry->type), dry->buckets.count);
    fprintf(out, "device       %s\n", dry->gpu ? "one GPU for each rank" : "CPU");
    if (dry->window.regions > 0)
        fprintf(out, "rounds       lanes are dealt like cards: rank 0 has the lanes 0, %d, %d, ...\n", ranks,
            2 * ranks);
    if (dry->hosts.count > 0)
        fprintf(out, "hosts        %u with up to %u ranks each%s\n", dry->hosts.count, dry->hosts.first[1],
            dry->hosts.in_place ? ", which share memory" : "");
    fprintf(out, "ranks        %d\n\n", ranks);
}

// What the busiest rank does: lanes to compute, bytes of sums to send.
typedef struct Busiest {
    uint32_t lanes;
    size_t sent;
} Busiest;

static void print_row(const LsPlan *plan, const LsRounds *rounds, const LsMemoryPlan *memory, FILE *out)
{
    const size_t columns[] = {memory->weights, memory->gradients, memory->optimizer, memory->staging,
        memory->activations, memory->batches, memory->workspace, memory->device, memory->host};
    bool kept = rounds->rounds == 0; // else every lane is sent
    const LsLaneShare *share = &plan->share;
    fprintf(out, "%4u  %4u-%-4u %8u %9.2f", plan->rank, share->first,
        share->first + (share->count - 1) * share->stride, kept ? share->subtrees : share->count,
        kept ? ls_plan_send_ratio(plan) : (double)share->count);
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
        fprintf(out, " %9.1f", mebibytes(columns[c]));
    fputc('\n', out);
}

static LsStatus print_rank(const DryRun *dry, uint32_t ranks, uint32_t rank, Busiest *busiest, FILE *out)
{
    LsPlan plan;
    LsRounds rounds;
    const LsHostMap *hosts = dry->hosts.count > 0 ? &dry->hosts : NULL;
    LS_TRY(ls_cut_lanes(dry->config, ranks, rank, hosts, &plan, &rounds));
    LsMemoryPlan memory;
    bool common = dry->hosts.in_place && dry->config->optimizer.shard != LS_SHARD_NONE;
    LsStatus status =
        ls_memory_plan(&(LsMemoryQuestion){.config = dry->config,
                           .info = dry->info,
                           .model = dry->model,
                           .cut = {&plan, &dry->buckets, &dry->window, &rounds},
                           .type = dry->type,
                           .discrete = dry->gpu,
                           .in_place = dry->hosts.in_place,
                           .borrows = common && dry->hosts.first[ls_host_of(hosts, rank)] != rank},
            &memory);
    if (status == LS_OK)
        print_row(&plan, &rounds, &memory, out);
    busiest->lanes = plan.share.count > busiest->lanes ? plan.share.count : busiest->lanes;
    busiest->sent = memory.sent > busiest->sent ? memory.sent : busiest->sent;
    ls_rounds_free(&rounds);
    ls_plan_free(&plan);
    return status;
}

static LsStatus print_ranks(const DryRun *dry, uint32_t ranks, FILE *out)
{
    uint32_t lanes = (uint32_t)dry->config->train.lanes;
    Busiest busiest = {0};
    fprintf(out,
        "rank  lanes     subtrees sent/ring   weights gradients optimizer   staging  activat.   "
        "batches workspace %9s      host  (MiB)\n",
        dry->gpu ? "GPU" : "device");
    for (uint32_t r = 0; r < ranks; r++)
        LS_TRY(print_rank(dry, ranks, r, &busiest, out));
    bool in_place = dry->hosts.in_place && dry->config->optimizer.shard != LS_SHARD_STATE_GRADIENTS &&
                    dry->config->collectives.reduction == LS_REDUCTION_EXACT;
    if (in_place && dry->hosts.count == 1)
        fputs("\nsums         read in place: none are sent", out);
    else
        fprintf(out, "\nsums         %s the busiest rank sends %.1f MiB of %s gradients a step",
            in_place ? "read in place inside a host; between hosts" : "as messages", mebibytes(busiest.sent),
            ls_dtype_name(ls_cut_rounded(dry->config) ? LS_BF16 : LS_F32));
    fprintf(out, "\nbalance      %.0f%%: the busiest rank computes %u of %u lanes, an even share is %.2f\n",
        100.0 * lanes / ((double)busiest.lanes * ranks), busiest.lanes, lanes, (double)lanes / ranks);
    return LS_OK;
}

LsStatus ls_train_dry_run(const LsConfig *config, int ranks, int ranks_per_host, FILE *out)
{
    DryRun dry = {0};
    LsConfig chosen = *config;
    LsStatus status = LS_OK;
    if (ranks < 1 || ranks > config->train.lanes)
        return LS_FAIL(LS_CONFIG, "%d ranks cannot share train.lanes = %lld lanes: plan for 1 to %lld ranks",
            ranks, (long long)config->train.lanes, (long long)config->train.lanes);
    status = set_up(&dry, &chosen);
    if (status == LS_OK)
        status = list_hosts(&dry, (uint32_t)ranks, (uint32_t)ranks_per_host);
    if (status == LS_OK) {
        print_run(&dry, ranks, out);
        status = print_ranks(&dry, (uint32_t)ranks, out);
    }
    free(dry.hosts.first);
    ls_window_free(&dry.window);
    ls_buckets_free(&dry.buckets);
    ls_model_destroy(dry.model);
    ls_dataset_close(dry.dataset);
    return status;
}
