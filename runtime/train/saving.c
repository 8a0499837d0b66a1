// When and how a run saves itself.

#include "base/clock.h"
#include "trainer_state.h"

static LsStatus write_checkpoint(LsTrainer *t, char path[LS_PATH_MAX])
{
    LsCheckpointContent content = {
        .parameters = &t->model->parameters,
        .buckets = &t->buckets,
        .arrays = t->arenas.arrays,
        .array = t->arenas.array,
        .state = &t->state,
        .config = t->config,
        .data_root_hash = t->info->root_hash,
        .data_schema = t->info->schema,
        .fingerprint = t->fingerprint,
        .algorithms = t->algorithms,
    };
    LsSave *save = NULL;
    LS_TRY(ls_comm_drain(t->comm));
    LS_TRY(ls_comm_agree(t->comm, ls_arenas_snapshot(&t->arenas)));
    LS_TRY(ls_save_begin(&t->run, t->comm, &content, &save));
    LsStatus written = ls_save_write(save);
    if (written == LS_OK)
        written = ls_metrics_sync(t->metrics);
    return ls_save_commit(save, written, path);
}

LsStatus ls_trainer_save(LsTrainer *t)
{
    char path[LS_PATH_MAX];
    double start = ls_clock_seconds();
    ls_trace_begin(t->trace, "checkpoint");
    LsStatus status = write_checkpoint(t, path);
    ls_trace_end(t->trace);
    LS_TRY(status);
    t->saved_step = t->state.control.step;
    if (ls_comm_rank(t->comm) == 0) {
        int64_t best = t->config->checkpoint.keep_best && t->state.best.known ? t->state.best.step : -1;
        status = ls_checkpoint_retain(
            &t->run, t->config->checkpoint.keep_last, t->config->checkpoint.keep_every, best);
        if (status == LS_OK)
            status = ls_metrics_event(t->metrics, "checkpoint", t->saved_step,
                json_pack("{s:s, s:f}", "path", path, "seconds", ls_clock_seconds() - start));
        if (status == LS_OK)
            status = ls_trainer_status(t, "running", "");
    }
    return ls_comm_agree(t->comm, status);
}
