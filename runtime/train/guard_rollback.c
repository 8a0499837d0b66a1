// Back to the checkpoint before a bad step, and past the data that led to it.

#include <stdlib.h>

#include "base/log.h"
#include "guard.h"

// Every save that was begun is a checkpoint then, no other thread adds or removes one, and nothing uses the
// host's copies.
static LsStatus make_idle(LsTrainer *t)
{
    LS_TRY(ls_trainer_save_wait(t));
    LS_TRY(ls_trainer_save_tidy(t));
    LS_TRY(ls_comm_drain(t->comm));
    return ls_comm_agree(t->comm, t->device->ops->synchronize(t->device));
}

// The target and what else could serve: rank 0's list counts.
static LsStatus find_target(LsTrainer *t, int64_t bad, int64_t *out)
{
    int64_t *steps = NULL;
    size_t count = 0;
    LsStatus status = LS_OK;
    if (ls_comm_rank(t->comm) == 0) {
        status = ls_checkpoint_list(t->run.path, &steps, &count);
        *out = ls_checkpoint_before(steps, count, bad, t->config->checkpoint.every);
        if (status == LS_OK && *out < 0)
            status = LS_FAIL(LS_CHECKPOINT, "%s: no checkpoint before step %lld is left to go back to",
                t->run.path, (long long)bad);
        free(steps);
    }
    LS_TRY(ls_comm_agree(t->comm, status));
    return ls_comm_broadcast(t->comm, out, sizeof *out, 0);
}

// What lies after `step` is of a past that is about to change.
static LsStatus forget_after(LsTrainer *t, int64_t step)
{
    if (ls_comm_rank(t->comm) != 0)
        return LS_OK;
    LS_TRY(ls_checkpoint_remove_after(&t->run, step));
    return ls_metrics_rewind(t->metrics, step, step);
}

static LsStatus report(LsTrainer *t, int64_t bad, int64_t to, uint64_t passed)
{
    if (ls_comm_rank(t->comm) != 0)
        return LS_OK;
    ls_warn("step %lld went wrong: back to step %lld, and past the %llu samples up to it", (long long)bad,
        (long long)to, (unsigned long long)passed);
    return ls_metrics_event(t->metrics, "rollback", bad,
        json_pack("{s:I, s:I, s:I, s:I}", "to", (json_int_t)to, "passed_samples", (json_int_t)passed,
            "cursor", (json_int_t)t->state.cursor, "rollbacks", (json_int_t)t->state.guard.rollbacks));
}

// Goes on from the state that has been read.
static LsStatus take_up(LsTrainer *t)
{
    LS_TRY(ls_arenas_restore(&t->arenas));
    LS_TRY(ls_comm_agree(t->comm, ls_trainer_upload_state(t)));
    LS_TRY(ls_comm_agree(t->comm, ls_trainer_start_loader(t)));
    t->saved_step = t->state.control.step;
    t->went_back = true;
    return LS_OK;
}

LsStatus ls_trainer_roll_back(LsTrainer *t)
{
    int64_t bad = t->state.control.step, to = -1;
    uint64_t cursor = t->state.cursor;
    LsGuardHistory history = t->state.guard;
    LS_TRY(ls_guard_count(t, &history, "rollback"));
    history.rollbacks++;
    LS_TRY(make_idle(t));
    LS_TRY(find_target(t, bad, &to));
    LS_TRY(ls_trainer_reread(t, to));
    bool exact = t->state.control.step == to;
    uint64_t passed = cursor - t->state.cursor;
    if (exact) {
        t->state.cursor = cursor;
        t->state.guard = history;
    }
    LS_TRY(ls_comm_agree(t->comm, forget_after(t, t->state.control.step)));
    LS_TRY(take_up(t));
    return exact ? ls_comm_agree(t->comm, report(t, bad, to, passed)) : LS_OK;
}
