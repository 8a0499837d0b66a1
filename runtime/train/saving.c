// How a run saves itself. See saving.h.
#include "saving.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer_state.h"

// A rank that waits for its disk says so to the others this often.
static const double ROUND_SECONDS = 0.25;

static size_t slot_of(const LsTrainer *t, uint64_t number)
{
    return (size_t)(number % t->saving.slots);
}

static bool is_first(const LsTrainer *t)
{
    return ls_comm_rank(t->comm) == 0;
}

static uint64_t in_flight(const LsTrainer *t)
{
    return t->saving.begun - t->saving.gathered;
}

// The others learn of it from this rank's next vote.
static void keep_failure(LsTrainer *t, LsStatus status)
{
    if (status == LS_OK || t->failed != LS_OK)
        return;
    t->failed = status;
    snprintf(t->failure, sizeof t->failure, "%s", ls_status_message());
}

// ---- Set-up and end -------------------------------------------------------------------------------------

static LsStatus create_markers(LsTrainer *t)
{
    const LsDeviceOps *ops = t->device->ops;
    LS_TRY(ops->marker_create(t->device, &t->saving.stable));
    for (size_t i = 0; i < t->saving.slots; i++)
        LS_TRY(ops->marker_create(t->device, &t->saving.copied[i]));
    return LS_OK;
}

static LsStatus create_saver(LsTrainer *t)
{
    LsSaverOptions options = {.form = t->saving.form,
        .slots = t->saving.slots,
        .metrics = t->metrics,
        .keep_last = t->config->checkpoint.keep_last,
        .keep_every = t->config->checkpoint.keep_every,
        .pieces = t->arenas.pieces};
    for (size_t i = 0; i < t->saving.slots; i++)
        options.piece[i] = t->arenas.piece[i];
    LS_TRY(create_markers(t));
    LS_TRY(ls_saver_create(&options, &t->saving.saver));
    return is_first(t) ? ls_checkpoint_remove_unfinished(&t->run) : LS_OK;
}

LsStatus ls_saving_create(LsTrainer *t)
{
    const LsConfig *config = t->config;
    LsCheckpointContent content = {
        .parameters = &t->model->parameters,
        .buckets = &t->buckets,
        .arrays = t->arenas.arrays,
        .array = t->arenas.array,
        .config = config,
        .data_root_hash = t->info->root_hash,
        .data_schema = t->info->schema,
        .fingerprint = t->fingerprint,
        .algorithms = t->algorithms,
    };
    t->saving.slots = t->arenas.sets;
    LS_TRY(ls_save_form_create(&t->run, t->comm, &content, &t->saving.form));
    double fixed = config->checkpoint.policy == LS_SAVE_TIME ? config->checkpoint.interval : 0;
    ls_save_pace_start(&t->saving.pace, fixed, config->checkpoint.mtbf * 3600, ls_clock_seconds());
    return ls_comm_agree(t->comm, create_saver(t));
}

static LsStatus report_checkpoints(LsTrainer *t);

// Rank 0, when no rank writes any more.
static void close_saves(LsTrainer *t)
{
    char message[LS_FAILURE_MAX]; // why the run ends is the better sentence
    snprintf(message, sizeof message, "%s", ls_status_message());
    (void)report_checkpoints(t);
    // Other ranks may have begun a save that failed to begin here.
    (void)ls_checkpoint_remove_own(&t->run);
    ls_status_adopt(LS_OK, message);
}

void ls_saving_destroy(LsTrainer *t)
{
    LsSaving *saving = &t->saving;
    if (saving->saver) {
        ls_saver_end(saving->saver);
        if (in_flight(t) > 0)
            (void)ls_comm_barrier(t->comm);
        if (is_first(t))
            close_saves(t);
    }
    ls_saver_destroy(saving->saver);
    for (size_t i = saving->slots; i-- > 0;)
        t->device->ops->marker_destroy(t->device, saving->copied[i]);
    t->device->ops->marker_destroy(t->device, saving->stable);
    ls_save_form_destroy(saving->form);
    *saving = (LsSaving){0};
}

// ---- What this rank knows -------------------------------------------------------------------------------

// The device's copies that are complete go to the thread.
static LsStatus pass_on_copies(LsTrainer *t)
{
    for (uint64_t n = t->saving.gathered; n < t->saving.begun; n++) {
        bool reached = false;
        if (ls_saver_state(t->saving.saver, slot_of(t, n)) != LS_SLOT_BEGUN)
            continue;
        LS_TRY(t->device->ops->marker_reached(t->device, t->saving.copied[slot_of(t, n)], &reached));
        if (reached)
            ls_saver_ready(t->saving.saver, slot_of(t, n));
    }
    return LS_OK;
}

static LsStatus report_interval(LsTrainer *t, int64_t step)
{
    const LsSavePace *pace = &t->saving.pace;
    ls_info(
        "a checkpoint costs %.3f s of training: with a failure every %g hours there will be one every %.1f s",
        pace->cost, t->config->checkpoint.mtbf, pace->interval);
    return ls_metrics_event(t->metrics, "checkpoint", step,
        json_pack("{s:f, s:f, s:f}", "interval_seconds", pace->interval, "cost_seconds", pace->cost,
            "mtbf_hours", t->config->checkpoint.mtbf));
}

// Rank 0: a save has become a checkpoint.
static LsStatus report_checkpoint(LsTrainer *t, size_t slot)
{
    LsSaving *saving = &t->saving;
    double seconds = ls_clock_seconds() - saving->start[slot];
    const LsSave *save = ls_saver_save(saving->saver, slot);
    t->saved_step = saving->step[slot];
    LS_TRY(ls_metrics_event(t->metrics, "checkpoint", t->saved_step,
        json_pack("{s:s, s:f, s:f, s:f}", "path", save->path, "seconds", seconds, "write_seconds",
            save->write_seconds, "stall_seconds", saving->stalled - saving->told)));
    saving->told = saving->stalled;
    if (ls_save_pace_end(&saving->pace, seconds) && t->config->checkpoint.policy == LS_SAVE_AUTO)
        LS_TRY(report_interval(t, t->saved_step));
    return ls_trainer_status(t, "running", "");
}

static LsStatus report_checkpoints(LsTrainer *t)
{
    LsSaving *saving = &t->saving;
    while (is_first(t) && saving->reported < saving->gathered) {
        size_t slot = slot_of(t, saving->reported);
        if (ls_saver_state(saving->saver, slot) != LS_SLOT_PUT)
            break;
        LS_TRY(report_checkpoint(t, slot));
        saving->reported++;
        ls_saver_release(saving->saver, slot);
    }
    return LS_OK;
}

// Takes over what the thread and the device have done. Returns how many of the newest saves are not durable
// here.
static uint32_t look(LsTrainer *t)
{
    keep_failure(t, pass_on_copies(t));
    keep_failure(t, ls_saver_failure(t->saving.saver));
    keep_failure(t, report_checkpoints(t));
    uint64_t n = t->saving.gathered;
    while (n < t->saving.begun && ls_saver_state(t->saving.saver, slot_of(t, n)) == LS_SLOT_WRITTEN)
        n++;
    return (uint32_t)(t->saving.begun - n);
}

void ls_trainer_save_vote(LsTrainer *t, LsVotes *votes)
{
    votes->unsaved = look(t);
    bool due = is_first(t) && t->config->checkpoint.policy != LS_SAVE_STEPS &&
               ls_save_pace_due(&t->saving.pace, ls_clock_seconds());
    votes->save = due || (t->stop && ls_stop_hinted(t->stop));
}

LsStatus ls_trainer_save_learn(LsTrainer *t, uint32_t unsaved)
{
    LsSaving *saving = &t->saving;
    for (uint64_t durable = saving->begun - unsaved; saving->gathered < durable; saving->gathered++) {
        size_t slot = slot_of(t, saving->gathered);
        LsSave *save = ls_saver_save(saving->saver, slot);
        LS_TRY(ls_comm_all_gather(t->comm, save->mine, save->all, save->sizes));
        ls_saver_gathered(saving->saver, slot);
        if (!is_first(t))
            t->saved_step = saving->step[slot];
    }
    return LS_OK;
}

void ls_trainer_save_step(LsTrainer *t)
{
    ls_save_pace_step(&t->saving.pace, ls_clock_seconds(), in_flight(t) > 0);
}

// ---- Rounds outside of steps ----------------------------------------------------------------------------

// What a rank says in one of them, and the largest of all.
typedef struct Round {
    uint32_t unsaved;
    uint32_t busy;    // rank 0: a checkpoint is being put in its place
    uint32_t tidying; // rank 0: old ones are being removed
    uint32_t failed;
    uint32_t behind; // of the oldest save less than half is written
} Round;

static Round largest(Round a, const Round *b)
{
    a.unsaved = b->unsaved > a.unsaved ? b->unsaved : a.unsaved;
    a.busy |= b->busy;
    a.tidying |= b->tidying;
    a.failed |= b->failed;
    a.behind |= b->behind;
    return a;
}

static LsStatus share(LsTrainer *t, const Round *mine, Round *all)
{
    size_t ranks = (size_t)ls_comm_size(t->comm);
    size_t *sizes = NULL; // comes first: its alignment is the stricter one
    LS_TRY(ls_memory_allocate(ranks * (sizeof(Round) + sizeof *sizes), (void **)&sizes));
    Round *rounds = (Round *)(void *)(sizes + ranks);
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = sizeof *rounds;
    LsStatus status = ls_comm_all_gather(t->comm, mine, rounds, sizes);
    *all = (Round){0};
    for (size_t r = 0; r < ranks && status == LS_OK; r++)
        *all = largest(*all, &rounds[r]);
    free(sizes);
    return status;
}

static bool is_behind(const LsTrainer *t)
{
    if (in_flight(t) == 0)
        return false;
    const LsSaveForm *form = t->saving.form;
    size_t written = ls_saver_blocks_written(t->saving.saver, slot_of(t, t->saving.gathered));
    return 2 * written < form->arrays * form->shard_blocks;
}

// Tells all ranks what is the case here and learns what is there.
static LsStatus run_round(LsTrainer *t, Round *all)
{
    Round mine = {.unsaved = look(t), .failed = t->failed != LS_OK, .behind = is_behind(t)};
    mine.busy = is_first(t) && t->saving.reported < t->saving.gathered;
    mine.tidying = is_first(t) && ls_saver_tidying(t->saving.saver);
    LS_TRY(share(t, &mine, all));
    LS_TRY(ls_trainer_save_learn(t, all->unsaved));
    if (!all->failed)
        return LS_OK;
    if (t->failed != LS_OK)
        ls_status_adopt(t->failed, t->failure);
    return ls_comm_agree(t->comm, t->failed);
}

// This rank has something to wait for, or is the one that the others wait for.
static void wait_here(LsTrainer *t)
{
    bool unwritten = look(t) > 0;
    bool putting = is_first(t) && t->saving.reported < t->saving.gathered;
    if (unwritten || putting || (is_first(t) && ls_saver_tidying(t->saving.saver)))
        ls_saver_wait(t->saving.saver, ROUND_SECONDS);
}

static LsStatus finish_copies(LsTrainer *t)
{
    LsSaving *saving = &t->saving;
    for (uint64_t n = saving->gathered; n < saving->begun; n++) {
        size_t slot = slot_of(t, n);
        ls_saver_finish_copy(saving->saver, slot);
        if (ls_saver_state(saving->saver, slot) == LS_SLOT_BEGUN)
            LS_TRY(ls_comm_wait_marker(t->comm, saving->copied[slot], "the copy of the state"));
    }
    saving->copying = false;
    return LS_OK;
}

// Until at most `left` saves are in flight; for none, until they are checkpoints.
static LsStatus wait_until(LsTrainer *t, uint64_t left)
{
    if (in_flight(t) <= left && left > 0)
        return LS_OK;
    ls_saver_hurry(t->saving.saver, left > 0 ? LS_HURRY_SLOT : LS_HURRY_END);
    keep_failure(t, finish_copies(t));
    for (bool done = false; !done;) {
        Round all;
        bool gathered = in_flight(t) == 0; // so that rank 0 says of all of them whether it is done
        LS_TRY(run_round(t, &all));
        done = left > 0 ? in_flight(t) <= left : gathered && !all.busy;
        if (!done)
            wait_here(t);
    }
    ls_saver_hurry(t->saving.saver, LS_HURRY_NONE);
    return LS_OK;
}

// ---- Saving ---------------------------------------------------------------------------------------------

// On the device's own stream for it: batches do not wait behind the state.
static LsStatus enqueue_copy(LsTrainer *t, size_t slot)
{
    LsDevice *device = t->device;
    LS_TRY(device->ops->marker_record(device, t->saving.stable));
    device->ops->select_stream(device, LS_STREAM_STATE);
    LsStatus status = device->ops->marker_wait(device, t->saving.stable);
    if (status == LS_OK)
        status = ls_arenas_snapshot(&t->arenas, slot);
    if (status == LS_OK)
        status = device->ops->marker_record(device, t->saving.copied[slot]);
    device->ops->select_stream(device, LS_STREAM_COMPUTE);
    return status;
}

static LsStatus begin_here(LsTrainer *t, size_t slot)
{
    LsSaving *saving = &t->saving;
    // Elsewhere it is free; on rank 0 the checkpoint before may still be on its way to its place.
    while (ls_saver_state(saving->saver, slot) != LS_SLOT_FREE) {
        LS_TRY(ls_saver_failure(saving->saver));
        LS_TRY(report_checkpoints(t));
        if (ls_saver_state(saving->saver, slot) != LS_SLOT_FREE)
            ls_saver_wait(saving->saver, ROUND_SECONDS);
    }
    int64_t best = t->config->checkpoint.keep_best && t->state.best.known ? t->state.best.step : -1;
    LS_TRY(ls_saver_begin(saving->saver, slot, &t->state, t->arenas.set[slot], best));
    return t->device->discrete ? enqueue_copy(t, slot) : LS_OK;
}

static LsStatus begin(LsTrainer *t)
{
    LsSaving *saving = &t->saving;
    LS_TRY(wait_until(t, saving->slots - 1));
    size_t slot = slot_of(t, saving->begun);
    double now = ls_clock_seconds();
    keep_failure(t, begin_here(t, slot));
    saving->step[slot] = t->state.control.step;
    saving->start[slot] = now;
    saving->copying = true;
    saving->wanted = false;
    saving->begun++;
    ls_save_pace_begin(&saving->pace, now);
    return LS_OK;
}

LsStatus ls_trainer_save_begin(LsTrainer *t)
{
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "checkpoint");
    LsStatus status = begin(t);
    ls_trace_end(t->trace);
    t->saving.stalled += ls_clock_seconds() - start;
    return status;
}

LsStatus ls_trainer_save_copied(LsTrainer *t)
{
    LsSaving *saving = &t->saving;
    if (!saving->copying)
        return LS_OK;
    size_t slot = slot_of(t, saving->begun - 1);
    double start = ls_clock_seconds();
    saving->copying = false;
    if (t->device->discrete)
        return t->device->ops->marker_wait(t->device, saving->copied[slot]);
    ls_trace_begin(t->trace, "checkpoint");
    ls_account_spend(t->account, LS_ACCOUNT_CHECKPOINT);
    ls_saver_finish_copy(saving->saver, slot);
    ls_account_spend(t->account, LS_ACCOUNT_STEP);
    ls_trace_end(t->trace);
    saving->stalled += ls_clock_seconds() - start;
    return LS_OK;
}

LsStatus ls_trainer_save_wait(LsTrainer *t)
{
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "checkpoint");
    LsStatus status = wait_until(t, 0);
    ls_trace_end(t->trace);
    t->saving.stalled += ls_clock_seconds() - start;
    ls_save_pace_skip(&t->saving.pace);
    return status;
}

LsStatus ls_trainer_save(LsTrainer *t)
{
    LS_TRY(ls_trainer_save_begin(t));
    return ls_trainer_save_wait(t);
}

// Gives up the newest saves down to number `first`.
static LsStatus abandon(LsTrainer *t, uint64_t first)
{
    LsSaving *saving = &t->saving;
    for (uint64_t n = first; n < saving->begun; n++)
        ls_saver_abandon(saving->saver, slot_of(t, n));
    LS_TRY(ls_comm_barrier(t->comm)); // nobody writes to them any more
    for (uint64_t n = first; n < saving->begun && is_first(t); n++)
        ls_saver_remove(saving->saver, slot_of(t, n));
    saving->begun = first;
    return LS_OK;
}

LsStatus ls_trainer_save_clear(LsTrainer *t)
{
    if (in_flight(t) == 0)
        return LS_OK;
    Round all;
    ls_saver_hurry(t->saving.saver, LS_HURRY_END);
    keep_failure(t, finish_copies(t));
    uint64_t oldest;
    do { // what the ranks say is about the oldest one
        oldest = t->saving.gathered;
        LS_TRY(run_round(t, &all));
    } while (t->saving.gathered > oldest && in_flight(t) > 0);
    if (in_flight(t) == 0)
        return LS_OK;
    return abandon(t, t->saving.gathered + (all.behind ? 0 : 1));
}

LsStatus ls_trainer_save_tidy(LsTrainer *t)
{
    Round all;
    for (;;) {
        LS_TRY(run_round(t, &all));
        if (!all.tidying)
            return LS_OK;
        wait_here(t);
    }
}
