// Why a rank asks to stop, and what the run does about it.

#include "base/clock.h"
#include "trainer_state.h"

uint32_t ls_trainer_asks_to_stop(const LsTrainer *t)
{
    if (t->options->stop_signal && *t->options->stop_signal)
        return LS_STOP_SIGNAL;
    return t->deadline > 0 && ls_clock_seconds() >= t->deadline ? LS_STOP_TIME : LS_STOP_NONE;
}

LsStatus ls_trainer_stop(LsTrainer *t, uint32_t stop)
{
    const char *why = stop == LS_STOP_TIME ? "train.max_time is over" : "asked to stop by a signal";
    LS_TRY(ls_comm_agree(t->comm,
        ls_metrics_event(t->metrics, "preempt", t->state.control.step, json_pack("{s:s}", "reason", why))));
    return LS_FAIL(LS_STOPPED, "%s: checkpoint of step %lld is durable, run again to go on", why,
        (long long)t->state.control.step);
}
