// Creates what a run needs in order, runs it, and destroys it in reverse.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "guard.h"
#include "train/schedule.h"

// ---- What all ranks must have in common -----------------------------------------------------------------

// LS_CONFIG when `text` differs between ranks; `what` names it.
static LsStatus require_same(LsComm *comm, const char *what, const char *text)
{
    char first[LS_FINGERPRINT_MAX] = "";
    snprintf(first, sizeof first, "%s", text);
    LS_TRY(ls_comm_broadcast(comm, first, sizeof first, 0));
    LsStatus status = LS_OK;
    if (strncmp(first, text, sizeof first - 1) != 0)
        status =
            LS_FAIL(LS_CONFIG, "%s on host %s is \"%s\", but on rank 0 it is \"%s\"; ranks must not differ",
                what, ls_comm_host(comm), text, first);
    return ls_comm_agree(comm, status);
}

// What may differ between hosts: where the data lies and how it is read. Any other option decides bits, or
// what the ranks do together and when.
static bool is_of_host(const LsOption *option)
{
    return option->class_ == LS_CLASS_FREE && strncmp(option->name, "data.", 5) == 0;
}

static LsStatus require_same_config(LsComm *comm, const LsConfig *config)
{
    LsSha256 *sha = ls_sha256_create();
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    for (size_t i = 0; i < count; i++) {
        char value[LS_CONFIG_TEXT];
        ls_option_text(config, &options[i], value, sizeof value);
        if (!is_of_host(&options[i]))
            ls_sha256_update(sha, value, strlen(value) + 1);
    }
    char text[LS_SHA256_TEXT];
    ls_sha256_finish(sha, text);
    return require_same(comm, "the configuration's hash", text);
}

// ---- Parts of the set-up, in order ----------------------------------------------------------------------

static LsStatus open_log(const LsTrainer *t)
{
    char name[64], path[LS_PATH_MAX];
    snprintf(name, sizeof name, "log/rank-%04d.log", ls_comm_rank(t->comm));
    LS_TRY(ls_path_join(path, t->run.path, name));
    return ls_log_open(path);
}

static LsStatus open_run_on_rank_0(LsTrainer *t)
{
    if (ls_comm_rank(t->comm) != 0)
        return LS_OK;
    if (t->options->resume && strcmp(t->options->resume, "never") == 0)
        LS_TRY(ls_run_dir_archive(&t->run));
    LS_TRY(ls_account_open(&t->run, t->begun, t->options->pulse, &t->account));
    return ls_metrics_open(&t->run,
        &(LsMetricsOptions){.quiet = t->options->quiet,
            .tokens_per_sample = t->model->shape.window,
            .account = t->account,
            .pulse = t->options->pulse},
        &t->metrics);
}

static LsStatus open_run(LsTrainer *t)
{
    LS_TRY(ls_run_dir_claim(&t->run, t->options->run_dir, t->comm));
    ls_pulse_attempt(t->options->pulse, t->run.attempt);
    if (t->config->guard.action == LS_GUARD_ROLLBACK)
        t->run.rollback_every = t->config->checkpoint.every;
    LS_TRY(ls_comm_agree(t->comm, open_run_on_rank_0(t)));
    return ls_comm_agree(t->comm, open_log(t));
}

LsStatus ls_train_open_data(const LsConfig *config, LsDataset **out)
{
    if (config->data.path[0] == '\0')
        return LS_FAIL(
            LS_CONFIG, "data.path is not set: it names the data set file that `lockstep data import` wrote");
    LsDataset *dataset = NULL;
    LS_TRY(ls_dataset_open(config->data.path, &dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    LsStatus status = ls_dataset_select(dataset, config->data.where);
    if (status == LS_OK && info->vocabulary > 0)
        status = ls_dataset_set_window(dataset, (size_t)config->model.context);
    if (status == LS_OK && info->samples[LS_TRAIN] == 0)
        status = LS_FAIL(LS_BAD_DATA, "%s has no training samples", config->data.path);
    LsAugmentation augmentation = ls_augmentation_of(config);
    if (status == LS_OK)
        status = ls_augmentation_check(&augmentation, info);
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}

static LsStatus open_data(LsTrainer *t)
{
    LS_TRY(ls_train_open_data(t->config, &t->dataset));
    t->info = ls_dataset_info(t->dataset);
    return LS_OK;
}

// Evaluations during training look at the validation split, or at the test split when there is no other; a
// part of it when that is enough.
static LsStatus choose_evaluation(LsTrainer *t)
{
    t->watched = t->info->samples[LS_VALIDATION] > 0 ? LS_VALIDATION : LS_TEST;
    size_t samples = t->info->samples[t->watched];
    size_t quick = (size_t)t->config->eval.quick_samples;
    bool wanted = t->config->eval.every > 0 || t->config->train.early_stopping > 0;
    if (wanted && samples == 0)
        return LS_FAIL(LS_CONFIG, "eval.every is set, but %s has neither a validation nor a test split",
            t->config->data.path);
    if (quick == 0 || quick >= samples)
        return LS_OK;
    LS_TRY(ls_memory_allocate(quick * sizeof *t->quick, (void **)&t->quick));
    t->quick_count = quick;
    return ls_evaluate_choose(t->dataset, t->watched, (uint64_t)t->config->train.seed, quick, t->quick);
}

static LsStatus cut_lanes(LsTrainer *t)
{
    ls_rounds_free(&t->rounds);
    ls_plan_free(&t->plan);
    return ls_cut_lanes(t->config, (uint32_t)ls_comm_size(t->comm), (uint32_t)ls_comm_rank(t->comm),
        ls_comm_hosts(t->comm), &t->plan, &t->rounds);
}

// Where the samples' shape and the batch lead: the largest number of rows that the model is given at a time.
static LsStatus shape_batches(LsTrainer *t)
{
    const LsConfig *config = t->config;
    LS_TRY(ls_data_shape(config, t->info, &t->shape));
    t->microbatch = (size_t)(config->train.batch / (config->train.lanes * config->train.accumulation));
    t->block = ls_evaluation_rows(config, &t->shape);
    t->rows = t->microbatch > t->block ? t->microbatch : t->block;
    return cut_lanes(t);
}

// What the run will allocate in this precision at most, from a model without a device: what ranks can read in
// place is not known yet.
static LsStatus plan_memory(LsTrainer *t, LsPrecision precision, bool discrete)
{
    LsModel *sizes = NULL;
    LsBuckets buckets = {0};
    LsWindow window = {0};
    LsConfig sized = *t->config;
    sized.runtime.precision = precision;
    LS_TRY(ls_model_create(&sized, &t->shape, NULL, t->rows, &sizes));
    LsStatus status = ls_cut_model(t->config, sizes, t->config->collectives.bucket_mb, &buckets, &window);
    LsMemoryQuestion question = {.config = t->config,
        .info = t->info,
        .model = sizes,
        .cut = {&t->plan, &buckets, &window, &t->rounds},
        .type = ls_precision_type(precision),
        .discrete = discrete};
    if (status == LS_OK)
        status = ls_memory_plan(&question, &t->memory);
    ls_window_free(&window);
    ls_buckets_free(&buckets);
    ls_model_destroy(sizes);
    return status;
}

// Of all that decides bits: the device, and what decodes the data.
static LsStatus take_fingerprint(LsTrainer *t)
{
    char decoder[LS_DECODER_TEXT];
    ls_device_fingerprint(t->device, t->fingerprint, sizeof t->fingerprint);
    LS_TRY(ls_dataset_decoder(t->dataset, decoder));
    size_t length = strlen(t->fingerprint);
    if (decoder[0] != '\0')
        snprintf(t->fingerprint + length, sizeof t->fingerprint - length, ", %s", decoder);
    return LS_OK;
}

// The estimate is made as for a GPU, which alone asks for it while it is opened, and again for the device
// that it has become.
static LsStatus open_device(LsTrainer *t)
{
    LS_TRY(shape_batches(t));
    LS_TRY(plan_memory(t, (LsPrecision)t->config->runtime.precision, true));
    t->device = t->options->device;
    if (!t->device)
        LS_TRY(
            ls_device_open_configured(t->config, ls_comm_local_rank(t->comm), t->memory.device, &t->device));
    LS_TRY(take_fingerprint(t));
    LS_TRY(plan_memory(t, t->device->precision, t->device->discrete));
    t->device->expected_bytes = t->memory.device;
    // A run can do without its peak: measuring takes memory that the run itself may not need.
    if (ls_device_peak(t->device, &t->peak_flops, NULL) != LS_OK)
        ls_warn("mfu will be missing: %s", ls_status_message());
    return LS_OK;
}

static LsStatus attach_device(LsTrainer *t)
{
    LS_TRY(ls_comm_attach(t->comm, t->device, t->config->collectives.backend));
    t->attached = true;
    return ls_comm_agree(t->comm, cut_lanes(t)); // what ranks read in place is known now
}

// Ranks have equal machines, and a neighbour's work can only lower a measurement: the best one counts.
static LsStatus share_peak(LsTrainer *t)
{
    size_t ranks = (size_t)ls_comm_size(t->comm);
    double *peaks = NULL;
    size_t *sizes = NULL;
    LS_TRY(ls_memory_allocate(ranks * (sizeof *peaks + sizeof *sizes), (void **)&peaks));
    sizes = (size_t *)(peaks + ranks);
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = sizeof *peaks;
    LsStatus status = ls_comm_all_gather(t->comm, &t->peak_flops, peaks, sizes);
    for (size_t r = 0; r < ranks && status == LS_OK; r++)
        t->peak_flops = peaks[r] > t->peak_flops ? peaks[r] : t->peak_flops;
    free(peaks);
    return status;
}

static LsStatus build_model(LsTrainer *t)
{
    const LsConfig *config = t->config;
    LS_TRY(ls_model_create(config, &t->shape, t->device, t->rows, &t->model));
    LS_TRY(ls_device_batch_create(t->device, t->info, &t->shape, t->microbatch,
        ls_feed_sets(t->device->discrete) + (config->guard.recompute_every > 0), &t->batch));
    return ls_feed_create(t->comm, t->batch, t->device, &t->feed);
}

static LsStatus cut_model(LsTrainer *t)
{
    LS_TRY(ls_cut_model(t->config, t->model, t->bucket_mb, &t->buckets, &t->window));
    if (t->window.regions > 0)
        t->model->places = &t->window.places;
    return LS_OK;
}

// What the ops of a step take, all in one call: sums of squares of this rank's shard, and updates. What is
// frozen is left out: its sums of squares in the exchange are zero from the beginning and stay so.
static LsStatus list_pieces(LsTrainer *t)
{
    const LsArenas *arenas = &t->arenas;
    LS_TRY(ls_memory_allocate((2 * arenas->runs + 1) * sizeof *t->square, (void **)&t->square));
    LS_TRY(ls_memory_allocate((arenas->updates + 1) * sizeof *t->update, (void **)&t->update));
    for (size_t r = 0; r < arenas->runs; r++) {
        LsRunView run = ls_arenas_run(arenas, &arenas->run[r]);
        if (arenas->run[r].frozen)
            continue;
        if (t->trust.ratio)
            t->square[t->squares++] = (LsSquaresPiece){.n = run.elements,
                .x = run.master,
                .sums = ls_exchange_weight_squares(&t->exchange, arenas->run[r].packed)};
        t->square[t->squares++] = (LsSquaresPiece){.n = run.elements,
            .x = run.gradient,
            .block_kind = run.kind,
            .sums = ls_exchange_block_squares(&t->exchange, arenas->run[r].packed)};
    }
    for (size_t u = 0; u < arenas->updates; u++) {
        LsRunView run = ls_arenas_run(arenas, &arenas->update[u]);
        if (!arenas->update[u].frozen)
            t->update[t->updates++] = (LsOptimizerPiece){.n = run.elements,
                .master = run.master,
                .gradient = run.gradient,
                .moment1 = run.moment1,
                .moment2 = run.moment2,
                .weights = run.weights,
                .block_kind = run.kind,
                .average = run.average,
                .block_ratio = t->trust.ratio ? t->trust.ratio + arenas->update[u].flat : NULL};
    }
    return LS_OK;
}

static LsStatus create_outcomes(LsDevice *device, LsOutcomes *outcomes)
{
    void *memory = NULL;
    LS_TRY(device->ops->allocate(device, sizeof *outcomes->device, &memory));
    outcomes->device = memory;
    LS_TRY(device->ops->allocate_host(device, LS_STEPS_IN_FLIGHT * sizeof *outcomes->host, &memory));
    outcomes->host = memory;
    for (size_t i = 0; i < LS_STEPS_IN_FLIGHT; i++)
        LS_TRY(device->ops->marker_create(device, &outcomes->arrived[i]));
    return LS_OK;
}

static void destroy_outcomes(LsDevice *device, LsOutcomes *outcomes)
{
    for (size_t i = LS_STEPS_IN_FLIGHT; i-- > 0;)
        device->ops->marker_destroy(device, outcomes->arrived[i]);
    if (outcomes->host)
        device->ops->release_host(device, outcomes->host);
    device->ops->release(device, outcomes->device);
}

static bool wants_progress(const LsTrainer *t)
{
    int progress = t->config->collectives.progress, threads = (int)t->config->runtime.threads;
    return progress == LS_PROGRESS_ON ||
           (progress == LS_PROGRESS_AUTO && ls_comm_core_is_free(t->comm, threads));
}

LsStatus ls_trainer_create_reducer(LsTrainer *t)
{
    if (t->rounds.rounds == 0)
        return ls_reducer_create(t->comm,
            &(LsReducerOptions){.plan = &t->plan,
                .buckets = &t->buckets,
                .slot = t->arenas.gradient,
                .rounded = t->arenas.subtrees > 0 ? t->arenas.rounded : NULL,
                .result = t->arenas.subtrees > 0 ? t->arenas.gradient[0] : NULL,
                .reduction = t->config->collectives.reduction,
                .progress = wants_progress(t),
                .meets = true}, // in the small exchange, and when buckets are tried out at a barrier
            &t->reducer);
    LS_TRY(ls_memory_allocate(t->buckets.count * sizeof *t->bucket_gradient, (void **)&t->bucket_gradient));
    for (size_t b = 0; b < t->buckets.count; b++)
        t->bucket_gradient[b] = t->arenas.gradient[0] + ls_window_place(&t->window, &t->buckets, b);
    return ls_sharder_create(t->comm,
        &(LsSharderOptions){.rounds = &t->rounds,
            .buckets = &t->buckets,
            .gradient = t->bucket_gradient,
            .sum = t->arenas.sum,
            .rounded = ls_cut_rounded(t->config)},
        &t->sharder);
}

static LsStatus prepare_steps(LsTrainer *t)
{
    const LsConfig *config = t->config;
    LsCut cut = {&t->plan, &t->buckets, &t->window, &t->rounds};
    // What is collective begins when all ranks have come so far.
    LS_TRY(ls_comm_agree(t->comm, ls_arenas_create(config, t->comm, t->model, &cut, &t->arenas)));
    LS_TRY(ls_comm_agree(t->comm, ls_trainer_create_reducer(t)));
    LS_TRY(ls_exchange_create(t->comm, t->device, &t->plan, &t->buckets, config->guard.recompute_every > 0,
        config->optimizer.kind == LS_OPTIMIZER_LARS, &t->exchange));
    LS_TRY(ls_trust_create(t));
    LS_TRY(ls_check_create(t));
    LS_TRY(ls_pace_create(t));
    LS_TRY(list_pieces(t));
    LS_TRY(create_outcomes(t->device, &t->outcomes));
    LS_TRY(ls_evaluator_create(&(LsEvaluatorOptions){.comm = t->comm,
                                   .device = t->device,
                                   .model = t->model,
                                   .dataset = t->dataset,
                                   .batch = t->block,
                                   .pulse = t->options->pulse},
        &t->evaluator));
    return t->device->ops->allocate(t->device, sizeof *t->lane_loss, (void **)&t->lane_loss);
}

static LsStatus host_memory_allocate(void *context, size_t bytes, void **out)
{
    LsDevice *device = context;
    return device->ops->allocate_host(device, bytes, out);
}

static void host_memory_release(void *context, void *memory)
{
    LsDevice *device = context;
    device->ops->release_host(device, memory);
}

LsLoaderOptions ls_trainer_loader_options(LsTrainer *t)
{
    const LsConfig *config = t->config;
    return (LsLoaderOptions){
        .seed = (uint64_t)config->train.seed,
        .cursor = t->state.cursor,
        .batch = (size_t)config->train.batch,
        .lanes = (size_t)config->train.lanes,
        .first_lane = t->plan.share.first,
        .lane_count = t->plan.share.count,
        .lane_stride = t->plan.share.stride,
        .accumulation = (size_t)config->train.accumulation,
        .workers = (int)config->data.workers,
        .prefetch = (int)(config->data.prefetch + (int64_t)t->feed.sets), // it may hold so many
        .memory = {.allocate = host_memory_allocate, .release = host_memory_release, .context = t->device},
        .augmentation = ls_augmentation_of(config),
    };
}

LsStatus ls_trainer_start_loader(LsTrainer *t)
{
    LsLoaderOptions options = ls_trainer_loader_options(t);
    ls_feed_forget(&t->feed);
    ls_loader_destroy(t->loader);
    t->loader = NULL;
    LS_TRY(ls_loader_create(t->dataset, &options, &t->loader));
    t->feed.loader = t->loader;
    return LS_OK;
}

static LsStatus write_environment(const LsTrainer *t)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    bool thread = t->reducer && ls_reducer_has_thread(t->reducer);
    json_t *environment = json_pack("{s:s, s:i, s:s, s:b, s:f, s:s, s:s, s:f}", "host", host, "world_size",
        ls_comm_size(t->comm), "communicator", ls_comm_name(t->comm), "progress_thread", thread, "bucket_mb",
        t->bucket_mb, "fingerprint", t->fingerprint, "data_root_hash", t->info->root_hash,
        "peak_flops_per_rank", t->peak_flops);
    LsStatus status = ls_run_dir_write_env(&t->run, environment);
    json_decref(environment);
    return status;
}

// Rank 0: what the run's time has gone to, as an event and a line. A failure to write it is none of the
// attempt.
static void report_goodput(LsTrainer *t)
{
    if (!t->metrics)
        return;
    char message[LS_FAILURE_MAX];
    snprintf(message, sizeof message, "%s", ls_status_message());
    LsGoodput g;
    ls_account_goodput(t->account, &g);
    (void)ls_metrics_event(t->metrics, "goodput", t->state.control.step, ls_goodput_json(&g));
    ls_info("goodput %.1f %%: %.1f s of %.1f s in steps that counted; lost to start %.1f, checkpoints %.1f, "
            "evaluation %.1f, steps made again %.1f, restarts %.1f, hangs %.1f (%d attempt%s)",
        100 * g.ratio, g.steps, g.wall, g.start, g.checkpoint, g.evaluate, g.redo, g.restart, g.hang,
        g.attempts, g.attempts == 1 ? "" : "s");
    ls_status_adopt(LS_OK, message);
}

// From here on the directory speaks of this attempt. One that was refused before leaves configuration and
// status as they were.
static LsStatus enter_run(LsTrainer *t)
{
    t->entered = true;
    if (ls_comm_rank(t->comm) != 0)
        return LS_OK;
    int64_t warmup = t->config->schedule.warmup_steps;
    if (warmup >= t->total_steps)
        ls_warn(
            "schedule.warmup_steps is %lld, and the run ends after %lld steps: its learning rate only rises",
            (long long)warmup, (long long)t->total_steps);
    LS_TRY(ls_run_dir_write_config(&t->run, t->config));
    LS_TRY(write_environment(t));
    LS_TRY(ls_trainer_report_buckets(t));
    if (t->run.attempt > 1) // the ones before may have been killed
        report_goodput(t);
    return ls_trainer_status(t, "running", "");
}

// Every part that may fail on some ranks only is followed by an agreement, so that all ranks end together.
static LsStatus set_up(LsTrainer *t)
{
    LsComm *comm = t->comm;
    LS_TRY(ls_comm_agree(comm, ls_config_validate(t->config)));
    if (ls_comm_size(comm) > t->config->train.lanes)
        return LS_FAIL(LS_CONFIG,
            "%d ranks cannot share train.lanes = %lld lanes: start at most %lld ranks or raise train.lanes",
            ls_comm_size(comm), (long long)t->config->train.lanes, (long long)t->config->train.lanes);
    LS_TRY(require_same_config(comm, t->config));
    LS_TRY(ls_comm_agree(comm, open_data(t)));
    LS_TRY(require_same(comm, "the data set's root hash", t->info->root_hash));
    LS_TRY(ls_comm_agree(comm, choose_evaluation(t)));
    LS_TRY(ls_comm_agree(comm, open_device(t)));
    LS_TRY(attach_device(t));
    LS_TRY(share_peak(t));
    if (t->config->collectives.reduction == LS_REDUCTION_EXACT)
        LS_TRY(require_same(comm, "the machine's fingerprint", t->fingerprint));
    LS_TRY(ls_comm_agree(comm, build_model(t)));
    LS_TRY(ls_trainer_size_buckets(t));
    LS_TRY(ls_comm_agree(comm, cut_model(t)));
    LS_TRY(ls_comm_agree(comm, prepare_steps(t)));
    t->total_steps = ls_schedule_steps(t->config, t->info->samples[LS_TRAIN]);
    LS_TRY(open_run(t));
    if (t->options->profile_steps > 0)
        LS_TRY(
            ls_comm_agree(comm, ls_trace_create(ls_comm_rank(comm), t->options->profile_steps, &t->trace)));
    LS_TRY(ls_trainer_resume(t));
    LS_TRY(ls_trainer_tune(t));
    LS_TRY(ls_comm_agree(comm, enter_run(t)));
    LS_TRY(ls_saving_create(t));
    LS_TRY(ls_comm_agree(comm, ls_trainer_watch(t)));
    return ls_comm_agree(comm, ls_trainer_start_loader(t));
}

// What the device still works on is waited for before any memory of it goes away, and saves that did not
// become checkpoints go with their files.
static void settle(LsTrainer *t)
{
    LsDevice *device = t->device;
    if (!device)
        return;
    ls_trainer_at(t, LS_PHASE_SAVE); // as long as the storage takes
    if (t->attached)
        (void)ls_comm_drain(t->comm);
    (void)device->ops->synchronize(device);
    ls_saving_destroy(t);
}

static void release_device(LsTrainer *t)
{
    LsDevice *device = t->device;
    if (!device)
        return;
    settle(t);
    ls_trainer_forget_graphs(t);
    ls_feed_destroy(&t->feed);
    ls_loader_destroy(t->loader);
    ls_pace_destroy(t);
    ls_check_destroy(t);
    device->ops->release(device, t->lane_loss);
    ls_evaluator_destroy(t->evaluator);
    destroy_outcomes(device, &t->outcomes);
    ls_trust_destroy(t);
    ls_exchange_destroy(&t->exchange);
    ls_sharder_destroy(t->sharder);
    ls_reducer_destroy(t->reducer);
    ls_arenas_destroy(&t->arenas);
    ls_device_batch_destroy(t->batch);
    ls_model_destroy(t->model);
    if (t->attached)
        ls_comm_detach(t->comm);
    if (device != t->options->device)
        ls_device_close(device);
}

static void tear_down(LsTrainer *t)
{
    ls_stop_destroy(t->stop);
    release_device(t);
    ls_trace_destroy(t->trace);
    free(t->algorithms);
    free(t->update);
    free(t->square);
    free(t->bucket_gradient);
    ls_window_free(&t->window);
    ls_buckets_free(&t->buckets);
    ls_rounds_free(&t->rounds);
    ls_plan_free(&t->plan);
    free(t->quick);
    ls_dataset_close(t->dataset);
    ls_metrics_close(t->metrics);
    ls_account_close(t->account);
    ls_log_close();
    ls_run_dir_release(&t->run);
}

// ---- The end --------------------------------------------------------------------------------------------

static const char *state_name(LsStatus status)
{
    switch (status) {
    case LS_STOPPED:
        return "preempted";
    case LS_DIVERGED:
        return "diverged";
    default:
        return "failed";
    }
}

LsStatus ls_train(const LsTrainOptions *options)
{
    LsTrainer trainer = {
        .options = options,
        .config = options->config,
        .comm = options->comm,
        .run.lock = -1,
        .saved_step = -1,
        .begun = ls_clock_seconds(),
    };
    LsStatus status = set_up(&trainer);
    if (status == LS_OK)
        status = ls_trainer_run(&trainer);
    if (status != LS_OK && trainer.entered) {
        // Writing the status may fail as well; what counts is the first sentence.
        char message[1024];
        snprintf(message, sizeof message, "%s", ls_status_message());
        settle(&trainer); // on a full disk that is the room for the status
        ls_trainer_status(&trainer, state_name(status), message);
        ls_status_adopt(status, message);
    }
    if (trainer.entered)
        report_goodput(&trainer);
    tear_down(&trainer);
    return status;
}
