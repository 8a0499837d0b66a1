// What the run does about numbers that are wrong.

#include <math.h>

#include "trainer_state.h"

// Gradients that overflowed while the loss did not, at a scale that can still fall, are what the search for
// the scale is made of; it ends after as many steps as the scale has halves.
static bool searches_scale(const LsTrainer *t, float loss_scale)
{
    return ls_trainer_scales_loss(t) && isfinite(t->state.control.loss) && loss_scale > 1;
}

// A skipped step is an event; too many in a row end the run. loss_scale: the one that the step was computed
// with.
LsStatus ls_trainer_guard(LsTrainer *t, float loss_scale)
{
    const LsStepControl *control = &t->state.control;
    if (!control->skip)
        return LS_OK;
    LS_TRY(
        ls_comm_agree(t->comm, ls_metrics_event(t->metrics, "skip", control->step,
                                   json_pack("{s:o, s:o, s:o}", "loss", ls_json_number((double)control->loss),
                                       "grad_norm", ls_json_number((double)control->gradient_norm),
                                       "loss_scale", ls_json_number((double)loss_scale)))));
    if (control->skipped_in_row <= t->config->train.max_skipped || searches_scale(t, loss_scale))
        return LS_OK;
    // A scale that is kept, by train.loss_scale_growth 0, may be what overflows.
    bool kept = t->device->precision == LS_PRECISION_FP16 && t->config->train.loss_scale_growth == 0 &&
                isfinite(control->loss) && loss_scale > 1;
    double loss = isnan(control->loss) ? NAN : (double)control->loss; // without a sign
    double norm = isnan(control->gradient_norm) ? NAN : (double)control->gradient_norm;
    return LS_FAIL(LS_DIVERGED,
        "training diverged: loss %g, gradient norm %g at step %lld after %d skipped steps; %s", loss, norm,
        (long long)control->step, control->skipped_in_row,
        kept ? "lower train.loss_scale or let train.loss_scale_growth adapt it"
             : "lower optimizer.lr or set optimizer.clip_norm");
}
