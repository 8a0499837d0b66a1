// The optimizer pass, block by block: weights that were just written are in the cache when they are rounded.
// Operations and their order are those of the reference, so both give the same bits.
#include "lanes.h"
#include "parts.h"

static float ratio_of(const LsOptimizerPiece *piece, size_t first)
{
    return piece->block_ratio ? piece->block_ratio[first / LS_BLOCK] : 1.0f;
}

static void sgd_block(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first, float decay)
{
    float rate = args->control->learning_rate, factor = args->control->gradient_factor;
    float ratio = ratio_of(piece, first);
    float *restrict master = piece->master + first;
    const float *restrict gradient = piece->gradient + first;
    for (size_t i = 0; i < LS_BLOCK; i++)
        master[i] -= rate * (ratio * (gradient[i] * factor + decay * master[i]));
}

ALWAYS_INLINE void momentum_block(
    const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first, float decay, bool nesterov)
{
    float rate = args->control->learning_rate, factor = args->control->gradient_factor;
    float momentum = args->momentum, ratio = ratio_of(piece, first);
    float *restrict master = piece->master + first, *restrict moment = piece->moment1 + first;
    const float *restrict gradient = piece->gradient + first;
    for (size_t i = 0; i < LS_BLOCK; i++) {
        float step = ratio * (gradient[i] * factor + decay * master[i]);
        float m = momentum * moment[i] + step;
        moment[i] = m;
        master[i] -= rate * (nesterov ? step + momentum * m : m);
    }
}

static void adamw_block(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first, float decay)
{
    const LsStepControl *control = args->control;
    float rate = control->learning_rate, factor = control->gradient_factor;
    float correction1 = control->bias_correction1, correction2 = control->bias_correction2;
    float beta1 = args->beta1, beta2 = args->beta2, epsilon = args->epsilon;
    float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2, shrink = rate * decay;
    float *restrict master = piece->master + first;
    float *restrict moment1 = piece->moment1 + first, *restrict moment2 = piece->moment2 + first;
    const float *restrict gradient = piece->gradient + first;
    for (size_t i = 0; i < LS_BLOCK; i++) {
        float g = gradient[i] * factor;
        float m = beta1 * moment1[i] + rest1 * g;
        float v = beta2 * moment2[i] + rest2 * (g * g);
        float kept = master[i] - shrink * master[i];
        float direction = (m / correction1) / (__builtin_sqrtf(v / correction2) + epsilon);
        moment1[i] = m;
        moment2[i] = v;
        master[i] = kept - rate * direction;
    }
}

static LsStatus statistics_block(
    LsDevice *device, const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first)
{
    float rate = args->statistics_rate, kept = 1.0f - rate;
    float *restrict master = piece->master + first;
    const float *restrict gradient = piece->gradient + first;
    const char *weights = piece->weights ? piece->weights : (const void *)piece->master;
    LsDtype type = piece->weights ? args->type : LS_F32;
    float read[LS_BLOCK]; // as the model has read them
    LS_TRY(LOOPS(cast)(device, &(LsCast){.n = LS_BLOCK,
                                   .from = weights + first * ls_dtype_size(type),
                                   .from_type = type,
                                   .to = read,
                                   .to_type = LS_F32}));
    for (size_t i = 0; i < LS_BLOCK; i += 2) {
        float difference = gradient[i], variance = gradient[i + 1] - difference * difference;
        master[i] = kept * master[i] + rate * (read[i] + difference);
        master[i + 1] = kept * master[i + 1] + rate * (variance > 0.0f ? variance : 0.0f);
    }
    return LS_OK;
}

static LsStatus step_block(
    LsDevice *device, const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first)
{
    LsBlockKind kind = piece->block_kind[first / LS_BLOCK];
    float decay = kind == LS_KIND_DECAYED ? args->weight_decay : 0.0f;
    if (kind == LS_KIND_STATISTICS)
        return statistics_block(device, args, piece, first);
    if (args->kind == LS_OPTIMIZER_ADAMW)
        adamw_block(args, piece, first, decay);
    else if (!piece->moment1)
        sgd_block(args, piece, first, decay);
    else if (args->nesterov)
        momentum_block(args, piece, first, decay, true);
    else
        momentum_block(args, piece, first, decay, false);
    return LS_OK;
}

static void average_block(const LsOptimizerStep *args, const LsOptimizerPiece *piece, size_t first)
{
    float rate = args->average_rate;
    const float *restrict master = piece->master + first;
    float *restrict average = piece->average + first;
    for (size_t i = 0; i < LS_BLOCK; i++)
        average[i] += rate * (master[i] - average[i]);
}

static LsStatus step_piece(LsDevice *device, const LsOptimizerStep *args, const LsOptimizerPiece *piece)
{
    for (size_t first = 0; first < piece->n; first += LS_BLOCK) {
        LS_TRY(step_block(device, args, piece, first));
        if (piece->average)
            average_block(args, piece, first);
        if (!piece->weights)
            continue;
        LsCast rounded = {.n = LS_BLOCK,
            .from = piece->master + first,
            .from_type = LS_F32,
            .to = (char *)piece->weights + first * ls_dtype_size(args->type),
            .to_type = args->type};
        LS_TRY(LOOPS(cast)(device, &rounded));
    }
    return LS_OK;
}

LsStatus LOOPS(optimizer_step)(LsDevice *device, const LsOptimizerStep *args)
{
    LS_TRY(ls_require_optimizer_step(args));
    for (size_t p = 0; p < args->count && !args->control->skip; p++)
        LS_TRY(step_piece(device, args, &args->piece[p]));
    return LS_OK;
}
