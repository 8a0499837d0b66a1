#include "rehearsal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "train/metrics.h"
#include "train/trainer.h"

typedef struct Observation {
    const LsRehearsalOptions *options;
    LsRehearsal *rehearsal;
    LsProbe before;
    size_t most; // windows
} Observation;

// ---- Windows --------------------------------------------------------------------------------------------

// What a rank says of its window.
typedef struct Seen {
    double seconds, data, comm;
    bool disturbed;
} Seen;

static LsStatus combine(LsComm *comm, const Seen *mine, LsStepWindow *window)
{
    size_t ranks = (size_t)ls_comm_size(comm);
    Seen *all = NULL;
    LS_TRY(ls_bench_gather(comm, mine, sizeof *mine, (void **)&all));
    for (size_t r = 0; r < ranks; r++) {
        window->seconds = all[r].seconds > window->seconds ? all[r].seconds : window->seconds;
        window->data += all[r].data / (double)ranks;
        window->comm += all[r].comm / (double)ranks;
        window->least_comm = r == 0 || all[r].comm < window->least_comm ? all[r].comm : window->least_comm;
        window->disturbed |= all[r].disturbed;
    }
    free(all);
    return LS_OK;
}

static LsStatus add_window(Observation *o, const LsStepRecord *record)
{
    LsRehearsal *rehearsal = o->rehearsal;
    LsProbe after = ls_bench_probe();
    double seconds = record->step_seconds * (double)o->options->every;
    Seen mine;
    memset(&mine, 0, sizeof mine);
    mine.seconds = record->step_seconds;
    mine.data = record->data_seconds;
    mine.comm = record->comm_seconds;
    mine.disturbed = ls_bench_disturbed(&o->before, &after, seconds);
    LsStepWindow window = {.step = record->step};
    LS_TRY(combine(o->options->comm, &mine, &window));
    rehearsal->window[rehearsal->windows++] = window;
    rehearsal->undisturbed += !window.disturbed;
    if (record->mfu > 0) // of the time that rank 0 measured
        rehearsal->mfu_seconds = record->mfu * record->step_seconds;
    return LS_OK;
}

// The first windows are warm-up; all ranks come to the same conclusion.
static bool look(void *context, const LsStepRecord *record)
{
    Observation *o = context;
    const LsRehearsalOptions *options = o->options;
    if (record->step <= options->warm_up) {
        if (options->warmed)
            options->warmed(options->context, record->step);
    } else {
        LsStatus status = add_window(o, record);
        if (status != LS_OK)
            ls_comm_abort(options->comm, status, ls_status_message());
    }
    o->before = ls_bench_probe();
    return o->rehearsal->windows < o->most &&
           (options->fixed || o->rehearsal->undisturbed < (size_t)options->wanted);
}

// ---- The run --------------------------------------------------------------------------------------------

static void configure(const LsRehearsalOptions *options, int64_t steps, LsConfig *config)
{
    *config = *options->config;
    config->train.max_steps = steps;
    config->train.max_epochs = 0;
    config->train.max_time = 0;
    config->train.early_stopping = 0;
    config->checkpoint.policy = LS_SAVE_STEPS;
    config->checkpoint.every = options->save_every;
    config->checkpoint.keep_best = false;
    config->eval.every = 0;
    config->schedule.kind = LS_SCHEDULE_CONSTANT;
    config->schedule.warmup_steps = 0;
    config->schedule.decay_steps = 0;
    config->stop.margin = 0;
    config->stop.notices = LS_NOTICE_NONE;
    config->guard.action = LS_GUARD_SKIP;
}

// Rank 0 makes the folder, all learn its name.
static LsStatus make_folder(const LsRehearsalOptions *options, LsRehearsal *rehearsal)
{
    LsStatus status = LS_OK;
    if (ls_comm_rank(options->comm) == 0)
        status = ls_bench_folder(options->folder, rehearsal->folder);
    LS_TRY(ls_comm_agree(options->comm, status));
    LS_TRY(ls_comm_broadcast(options->comm, rehearsal->folder, sizeof rehearsal->folder, 0));
    return ls_path_join(rehearsal->run_dir, rehearsal->folder, "run");
}

static LsStatus train(const LsRehearsalOptions *options, LsRehearsal *rehearsal, size_t most)
{
    Observation observation = {.options = options, .rehearsal = rehearsal, .most = most};
    LsStepObserver observer = {.every = options->every, .look = look, .context = &observation};
    int64_t steps = options->warm_up + (int64_t)most * options->every;
    LsConfig config;
    configure(options, steps, &config);
    LS_TRY(make_folder(options, rehearsal));
    ls_log_configure(LS_LOG_WARN, ls_comm_rank(options->comm), ls_comm_size(options->comm));
    return ls_train(&(LsTrainOptions){.config = &config,
        .run_dir = rehearsal->run_dir,
        .resume = "never",
        .profile_steps = options->profiled ? (int)steps : 0,
        .comm = options->comm,
        .device = options->device,
        .quiet = true,
        .observer = &observer});
}

LsStatus ls_rehearse(const LsRehearsalOptions *options, LsRehearsal *out)
{
    *out = (LsRehearsal){.comm = options->comm};
    size_t most = (size_t)options->wanted * (options->fixed ? 1 : LS_BENCH_TRIES);
    LsStatus status = ls_memory_allocate((most ? most : 1) * sizeof *out->window, (void **)&out->window);
    LS_TRY(ls_comm_agree(options->comm, status));
    return train(options, out, most);
}

void ls_rehearsal_end(LsRehearsal *rehearsal)
{
    if (!rehearsal->comm)
        return;
    if (rehearsal->folder[0] && ls_comm_rank(rehearsal->comm) == 0)
        ls_bench_folder_remove(rehearsal->folder);
    free(rehearsal->window);
    *rehearsal = (LsRehearsal){0};
}

LsStatus ls_rehearsal_spread(const LsRehearsal *rehearsal, size_t offset, LsSpread *out)
{
    double *values = NULL;
    bool *disturbed = NULL;
    size_t count = rehearsal->windows;
    LsStatus status = ls_memory_allocate(count * sizeof *values, (void **)&values);
    if (status == LS_OK)
        status = ls_memory_allocate(count * sizeof *disturbed, (void **)&disturbed);
    for (size_t i = 0; status == LS_OK && i < count; i++) {
        memcpy(&values[i], (const char *)&rehearsal->window[i] + offset, sizeof *values);
        disturbed[i] = rehearsal->window[i].disturbed;
    }
    if (status == LS_OK)
        status = ls_bench_spread(values, disturbed, count, out);
    free(disturbed);
    free(values);
    return status;
}
