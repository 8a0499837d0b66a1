// What the run does about numbers that are wrong.

#include "guard.h"

#include <math.h>

#include "base/json.h"
#include "guard_state.h"
#include "trainer_state.h"

// Gradients that overflowed while the loss did not, at a scale that can still fall, are what the search for
// the scale is made of; it ends after as many steps as the scale has halves.
static bool searches_scale(const LsTrainer *t, float loss_scale)
{
    return ls_trainer_scales_loss(t) && isfinite(t->state.control.loss) && loss_scale > 1;
}

static double number(float value)
{
    return isnan(value) ? NAN : (double)value; // without a sign
}

static json_t *describe(const LsTrainer *t, float loss_scale)
{
    const LsStepControl *control = &t->state.control;
    bool spike = control->skip == LS_SKIP_SPIKE;
    json_t *details = json_pack("{s:s, s:o, s:o, s:o}", "reason", spike ? "spike" : "not finite", "loss",
        ls_json_number((double)control->loss), "grad_norm", ls_json_number((double)control->gradient_norm),
        "loss_scale", ls_json_number((double)loss_scale));
    if (spike) {
        json_object_set_new(details, "loss_score", ls_json_number((double)t->scores[0]));
        json_object_set_new(details, "grad_norm_score", ls_json_number((double)t->scores[1]));
    }
    return details;
}

static LsStatus fail_not_finite(const LsTrainer *t, float loss_scale)
{
    const LsStepControl *control = &t->state.control;
    // A scale that is kept, by train.loss_scale_growth 0, may be what overflows.
    bool kept = t->device->precision == LS_PRECISION_FP16 && t->config->train.loss_scale_growth == 0 &&
                isfinite(control->loss) && loss_scale > 1;
    return LS_FAIL(LS_DIVERGED,
        "training diverged: loss %g, gradient norm %g at step %lld after %d skipped steps; %s",
        number(control->loss), number(control->gradient_norm), (long long)control->step,
        control->skipped_in_row,
        kept ? "lower train.loss_scale or let train.loss_scale_growth adapt it"
             : "lower optimizer.lr or set optimizer.clip_norm");
}

LsStatus ls_guard_count(LsTrainer *t, LsGuardHistory *history, const char *what)
{
    const LsStepControl *control = &t->state.control;
    long long count = ls_guard_history_add(history, control->step, LS_GUARD_SPAN);
    if (count < t->config->guard.limit)
        return LS_OK;
    return LS_FAIL(LS_DIVERGED,
        "training diverged: %lld %s%s within %d steps (guard.limit), the newest at step %lld with loss %g "
        "and "
        "gradient norm %g; lower optimizer.lr, set optimizer.clip_norm, or look at the data there",
        count, what, count == 1 ? "" : "s", LS_GUARD_SPAN, (long long)control->step, number(control->loss),
        number(control->gradient_norm));
}

LsStatus ls_trainer_guard(LsTrainer *t, float loss_scale)
{
    const LsStepControl *control = &t->state.control;
    bool spike = control->skip == LS_SKIP_SPIKE, goes_back = t->config->guard.action == LS_GUARD_ROLLBACK;
    if (t->check.differed)
        return ls_check_settle(t);
    if (!control->skip)
        return LS_OK;
    LS_TRY(
        ls_comm_agree(t->comm, ls_metrics_event(t->metrics, "skip", control->step, describe(t, loss_scale))));
    if (spike && goes_back)
        return ls_trainer_roll_back(t);
    if (spike)
        LS_TRY(ls_guard_count(t, &t->state.guard, "spike"));
    if (control->skipped_in_row <= t->config->train.max_skipped || searches_scale(t, loss_scale))
        return LS_OK;
    if (goes_back)
        return ls_trainer_roll_back(t);
    return fail_not_finite(t, loss_scale);
}
