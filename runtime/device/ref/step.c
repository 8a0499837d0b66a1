// Reference of what ends a step: the decision, and the optimizer pass.
#include <math.h>

#include "ref.h"

static double exchanged_loss(const LsDecideStep *args)
{
    double sum = 0;
    for (size_t lane = 0; lane < args->lanes; lane++)
        sum += args->words[args->lane_index[lane]];
    return sum / args->samples;
}

static double exchanged_squares(const LsDecideStep *args)
{
    double sum = 0;
    for (size_t block = 0; block < args->blocks; block++)
        sum += args->words[args->block_index[block]];
    return sum;
}

// By squaring: unlike the C library's power, the same bits with every version of it. Off by about `exponent`
// units of 2^-53, which is far below float until the power itself is.
static double power(double base, int64_t exponent)
{
    double result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1)
            result *= base;
    return result;
}

LsStatus ls_ref_decide_step(LsDevice *device, const LsDecideStep *args)
{
    (void)device;
    LsStepControl *control = args->control;
    double norm = sqrt(exchanged_squares(args)) / control->loss_scale;
    control->loss = (float)exchanged_loss(args);
    control->gradient_norm = (float)norm;
    control->learning_rate = args->learning_rate;
    control->step += 1;
    control->skip = !isfinite(control->loss) || !isfinite(control->gradient_norm);
    if (control->skip) {
        control->gradient_factor = 0.0f;
        control->skipped_in_row += 1;
        control->good_steps = 0;
        return LS_OK;
    }
    double clip = args->clip_norm > 0 && norm > args->clip_norm ? args->clip_norm / norm : 1.0;
    control->gradient_factor = (float)(clip / control->loss_scale);
    control->updates += 1;
    control->skipped_in_row = 0;
    control->good_steps += 1;
    control->bias_correction1 = (float)(1.0 - power(args->beta1, control->updates));
    control->bias_correction2 = (float)(1.0 - power(args->beta2, control->updates));
    return LS_OK;
}

static void sgd_element(const LsOptimizerStep *args, size_t i, float decay)
{
    float rate = args->control->learning_rate;
    float step = args->gradient[i] * args->control->gradient_factor + decay * args->master[i];
    if (args->moment1) {
        float momentum = args->momentum * args->moment1[i] + step;
        args->moment1[i] = momentum;
        step = args->nesterov ? step + args->momentum * momentum : momentum;
    }
    args->master[i] -= rate * step;
}

static void adamw_element(const LsOptimizerStep *args, size_t i, float decay)
{
    const LsStepControl *control = args->control;
    float gradient = args->gradient[i] * control->gradient_factor;
    float m = args->beta1 * args->moment1[i] + (1.0f - args->beta1) * gradient;
    float v = args->beta2 * args->moment2[i] + (1.0f - args->beta2) * (gradient * gradient);
    float kept = args->master[i] - (control->learning_rate * decay) * args->master[i];
    float direction =
        (m / control->bias_correction1) / (sqrtf(v / control->bias_correction2) + args->epsilon);
    args->moment1[i] = m;
    args->moment2[i] = v;
    args->master[i] = kept - control->learning_rate * direction;
}

LsStatus ls_ref_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    (void)device;
    LS_TRY(ls_require_optimizer_step(args));
    if (args->control->skip)
        return LS_OK;
    for (size_t i = 0; i < args->n; i++) {
        float decay = args->block_decay[i / LS_BLOCK] ? args->weight_decay : 0.0f;
        if (args->kind == LS_OPTIMIZER_ADAMW)
            adamw_element(args, i, decay);
        else
            sgd_element(args, i, decay);
        if (args->weights)
            ls_ref_store(args->weights, args->type, i, args->master[i]);
    }
    return LS_OK;
}
