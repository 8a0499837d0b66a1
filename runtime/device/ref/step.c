// Reference of what ends a step: the decision, the optimizer pass, and the fingerprint that decisions use.
#include <math.h>
#include <string.h>

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

static LsVotes exchanged_votes(const LsDecideStep *args)
{
    uint32_t largest[LS_VOTE_WORDS] = {0};
    for (size_t rank = 0; rank < args->ranks; rank++)
        for (size_t i = 0; i < LS_VOTE_WORDS; i++) {
            uint32_t vote = ls_f32_to_bits(args->words[rank * args->rank_words + i]);
            largest[i] = vote > largest[i] ? vote : largest[i];
        }
    LsVotes votes;
    memcpy(&votes, largest, sizeof votes);
    return votes;
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

static const float LEAST_SCALE = 1.0f, MOST_SCALE = 0x1p24f;

static void skip_step(const LsDecideStep *args, LsStepControl *control)
{
    control->skipped_in_row += 1;
    control->good_steps = 0;
    if (args->growth_interval > 0)
        control->loss_scale = fmaxf(control->loss_scale * 0.5f, LEAST_SCALE);
}

static void accept_step(const LsDecideStep *args, LsStepControl *control, double norm)
{
    double clip = args->clip_norm > 0 && norm > args->clip_norm ? args->clip_norm / norm : 1.0;
    control->gradient_factor = (float)(clip / control->loss_scale);
    control->updates += 1;
    control->skipped_in_row = 0;
    control->bias_correction1 = (float)(1.0 - power(args->beta1, control->updates));
    control->bias_correction2 = (float)(1.0 - power(args->beta2, control->updates));
    control->good_steps += 1;
    if (args->growth_interval > 0 && control->good_steps >= args->growth_interval) {
        control->loss_scale = fminf(control->loss_scale * 2.0f, MOST_SCALE);
        control->good_steps = 0;
    }
}

// ---- Spikes ---------------------------------------------------------------------------------------------

typedef struct Scale {
    double median, unit; // what is measured from, and in
} Scale;

// The mean of the middle two, or twice the middle one; `values` are put in order.
static double median(double *values, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        double value = values[i];
        size_t place = i;
        for (; place > 0 && values[place - 1] > value; place--)
            values[place] = values[place - 1];
        values[place] = value;
    }
    return (values[(n - 1) / 2] + values[n / 2]) * 0.5;
}

static Scale scale_of(const LsDecideStep *args, const float *ring)
{
    double values[LS_SPIKE_WINDOW_MAX] = {0};
    size_t n = (size_t)args->window, next = (size_t)args->outcome->window.next;
    for (size_t i = 0; i < n; i++)
        values[i] = (double)ring[(next + LS_SPIKE_WINDOW_MAX - 1 - i) % LS_SPIKE_WINDOW_MAX];
    double middle = median(values, n);
    for (size_t i = 0; i < n; i++)
        values[i] = fabs(values[i] - middle);
    double unit = median(values, n) * 1.4826;
    return (Scale){middle, fmax(unit, fmax(fabs(middle) * 0.01, 1e-6))};
}

// Scores the step, whose loss and norm control has; whether it is a spike.
static bool is_spike(const LsDecideStep *args)
{
    LsStepOutcome *outcome = args->outcome;
    if (args->spike <= 0)
        return false;
    outcome->loss_score = outcome->gradient_norm_score = 0;
    if (outcome->window.held < args->window)
        return false;
    Scale loss = scale_of(args, outcome->window.loss);
    Scale norm = scale_of(args, outcome->window.gradient_norm);
    outcome->loss_score = (float)((outcome->control.loss - loss.median) / loss.unit);
    outcome->gradient_norm_score = (float)((outcome->control.gradient_norm - norm.median) / norm.unit);
    return outcome->loss_score > args->spike || outcome->gradient_norm_score > args->spike;
}

static void remember_step(const LsDecideStep *args)
{
    LsSpikeWindow *window = &args->outcome->window;
    if (args->spike <= 0)
        return;
    window->loss[window->next] = args->outcome->control.loss;
    window->gradient_norm[window->next] = args->outcome->control.gradient_norm;
    window->next = (window->next + 1) % LS_SPIKE_WINDOW_MAX;
    window->held += window->held < LS_SPIKE_WINDOW_MAX;
}

// ---- The decision ---------------------------------------------------------------------------------------

static bool lane_differs(const LsDecideStep *args)
{
    bool differs = false;
    for (size_t i = 0; i < args->check_words; i++)
        differs = differs || ls_f32_to_bits(args->words[args->first_check + i]) !=
                                 ls_f32_to_bits(args->words[args->second_check + i]);
    return differs;
}

LsStatus ls_ref_decide_step(LsDevice *device, const LsDecideStep *args)
{
    (void)device;
    LsStepControl *control = &args->outcome->control;
    args->outcome->votes = exchanged_votes(args);
    bool failed = args->outcome->votes.error != LS_OK;
    if (!failed && lane_differs(args)) {
        control->skip = LS_SKIP_WRONG;
        return LS_OK;
    }
    double norm = sqrt(exchanged_squares(args)) / control->loss_scale;
    control->loss = (float)exchanged_loss(args);
    control->gradient_norm = (float)norm;
    control->learning_rate = args->learning_rate;
    control->step += 1;
    bool finite = isfinite(control->loss) && isfinite(control->gradient_norm);
    bool spike = !failed && finite && is_spike(args);
    control->skip = failed || !finite ? LS_SKIP_NOT_FINITE : spike ? LS_SKIP_SPIKE : LS_SKIP_NONE;
    if (control->skip)
        control->gradient_factor = 0.0f;
    if (failed) // says nothing about the gradients
        return LS_OK;
    if (!finite) {
        skip_step(args, control);
    } else if (spike) { // says nothing about the loss scale
        control->skipped_in_row += 1;
    } else {
        accept_step(args, control, norm);
        remember_step(args);
    }
    return LS_OK;
}

// ---- Trust ratios ---------------------------------------------------------------------------------------

static double norm_of(const LsTrustRatios *args, const uint32_t *index, size_t tensor)
{
    double sum = 0;
    for (size_t block = args->first[tensor]; block < args->first[tensor + 1]; block++)
        sum += args->words[index[block]];
    return sqrt(sum);
}

static float ratio_of(const LsTrustRatios *args, size_t tensor)
{
    double weight = norm_of(args, args->weight_index, tensor);
    double gradient = norm_of(args, args->gradient_index, tensor) * args->control->gradient_factor;
    if (!args->adapts[tensor] || weight == 0 || gradient == 0)
        return 1;
    return (float)(args->trust * weight / (gradient + args->weight_decay * weight + args->epsilon));
}

LsStatus ls_ref_trust_ratios(LsDevice *device, const LsTrustRatios *args)
{
    (void)device;
    for (size_t t = 0; t < args->tensors && !args->control->skip; t++) {
        float ratio = ratio_of(args, t);
        for (size_t block = args->first[t]; block < args->first[t + 1]; block++)
            args->ratio[block] = ratio;
    }
    return LS_OK;
}

// ---- The optimizer --------------------------------------------------------------------------------------

static void sgd_element(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t i, float decay)
{
    float rate = args->control->learning_rate;
    float ratio = piece->block_ratio ? piece->block_ratio[i / LS_BLOCK] : 1.0f;
    float step = ratio * (piece->gradient[i] * args->control->gradient_factor + decay * piece->master[i]);
    if (piece->moment1) {
        float momentum = args->momentum * piece->moment1[i] + step;
        piece->moment1[i] = momentum;
        step = args->nesterov ? step + args->momentum * momentum : momentum;
    }
    piece->master[i] -= rate * step;
}

static void adamw_element(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t i, float decay)
{
    const LsStepControl *control = args->control;
    float gradient = piece->gradient[i] * control->gradient_factor;
    float m = args->beta1 * piece->moment1[i] + (1.0f - args->beta1) * gradient;
    float v = args->beta2 * piece->moment2[i] + (1.0f - args->beta2) * (gradient * gradient);
    float kept = piece->master[i] - (control->learning_rate * decay) * piece->master[i];
    float direction =
        (m / control->bias_correction1) / (sqrtf(v / control->bias_correction2) + args->epsilon);
    piece->moment1[i] = m;
    piece->moment2[i] = v;
    piece->master[i] = kept - control->learning_rate * direction;
}

// Element i is a mean, the next one its variance.
static void statistics_pair(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t i)
{
    float rate = args->statistics_rate, kept = 1.0f - rate, difference = piece->gradient[i];
    float read = piece->weights ? ls_ref_load(piece->weights, args->type, i) : piece->master[i];
    float variance = fmaxf(0.0f, piece->gradient[i + 1] - difference * difference);
    piece->master[i] = kept * piece->master[i] + rate * (read + difference);
    piece->master[i + 1] = kept * piece->master[i + 1] + rate * variance;
}

static void step_element(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t i)
{
    LsBlockKind kind = piece->block_kind[i / LS_BLOCK];
    float decay = kind == LS_KIND_DECAYED ? args->weight_decay : 0.0f;
    if (kind == LS_KIND_STATISTICS) {
        if (i % 2 == 0)
            statistics_pair(args, piece, i);
    } else if (args->kind == LS_OPTIMIZER_ADAMW) {
        adamw_element(args, piece, i, decay);
    } else {
        sgd_element(args, piece, i, decay);
    }
}

static void step_piece(const LsOptimizerStep *args, const LsOptimizerPiece *piece)
{
    for (size_t i = 0; i < piece->n; i++)
        step_element(args, piece, i);
    for (size_t i = 0; i < piece->n; i++) {
        if (piece->weights)
            ls_ref_store(piece->weights, args->type, i, piece->master[i]);
        if (piece->average)
            piece->average[i] += args->average_rate * (piece->master[i] - piece->average[i]);
    }
}

LsStatus ls_ref_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    (void)device;
    LS_TRY(ls_require_optimizer_step(args));
    for (size_t p = 0; p < args->count && !args->control->skip; p++)
        step_piece(args, &args->piece[p]);
    return LS_OK;
}

// ---- Fingerprints ---------------------------------------------------------------------------------------

LsStatus ls_ref_fingerprint_bits(LsDevice *device, const LsFingerprint *args)
{
    (void)device;
    uint64_t sum = 0;
    for (size_t i = 0; i < args->n; i++)
        sum += ls_mix_bits(args->first + i, ls_f32_to_bits(args->x[i]));
    *args->sum += sum;
    return LS_OK;
}
