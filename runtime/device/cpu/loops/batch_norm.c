// Batch normalisation, forward and backward. Places are worked on in runs that the caches hold, within a run
// channel by channel: so one pass over memory is enough for a run's mean and its squares around that, and
// what belongs to a channel stays in registers. Runs are combined by the formulas of Chan, Golub and LeVeque
// (1979), in order.
#include "parts.h"
#include "vectors.h"

enum {
    RUN = 64, // places
    SUMS = 4  // side by side, which hides the latency of an addition
};

// Makes a call for the channels from c on, WIDTH of them: a constant but for the last ones, so that no
// element asks whether its lanes are all there.
#define FOR_LANES(channels, call)                                                                            \
    for (size_t c = 0; c < (channels); c += LANES) {                                                         \
        if ((channels)-c >= LANES) {                                                                         \
            const size_t WIDTH = LANES;                                                                      \
            call;                                                                                            \
        } else {                                                                                             \
            const size_t WIDTH = (channels)-c;                                                               \
            call;                                                                                            \
        }                                                                                                    \
    }

static size_t run_at(size_t first, size_t places)
{
    return places - first < RUN ? places - first : RUN;
}

// Sum over a run's places of x - shift, or of its square.
ALWAYS_INLINE FloatLanes sum_run(const LsBatchNorm *args, size_t first, size_t count, size_t c, size_t lanes,
    FloatLanes shift, bool squares, LsDtype type)
{
    size_t channels = args->channels, p = 0;
    FloatLanes sums[SUMS] = {0};
    for (; p + SUMS <= count; p += SUMS)
        for (size_t s = 0; s < SUMS; s++) {
            FloatLanes x = load_some(args->x, type, (first + p + s) * channels + c, lanes, 0) - shift;
            sums[s] += squares ? x * x : x;
        }
    for (; p < count; p++) {
        FloatLanes x = load_some(args->x, type, (first + p) * channels + c, lanes, 0) - shift;
        sums[0] += squares ? x * x : x;
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Adds a run to mean and squares (sums of squared distances) of the `first` places before it. part: of the
// run in all places so far; weight: of the distance between both means in the squares.
ALWAYS_INLINE void measure_lanes(const LsBatchNorm *args, float *mean, float *squares, size_t first,
    size_t count, size_t c, size_t lanes, LsDtype type)
{
    float part = (float)((double)count / (double)(first + count));
    float weight = (float)((double)first * (double)count / (double)(first + count));
    FloatLanes here = sum_run(args, first, count, c, lanes, (FloatLanes){0}, false, type) / (float)count;
    FloatLanes square = sum_run(args, first, count, c, lanes, here, true, type);
    FloatLanes before = first > 0 ? load_some(mean, LS_F32, c, lanes, 0) : (FloatLanes){0};
    FloatLanes distance = here - before;
    if (first > 0)
        square += load_some(squares, LS_F32, c, lanes, 0) + distance * distance * weight;
    store_some(mean, LS_F32, c, lanes, before + distance * part);
    store_some(squares, LS_F32, c, lanes, square);
}

// Mean and variance of the channels, to args->mean and args->variance.
ALWAYS_INLINE void measure(const LsBatchNorm *args, LsDtype type)
{
    for (size_t first = 0; first < args->places; first += RUN) {
        size_t count = run_at(first, args->places);
        FOR_LANES(
            args->channels, measure_lanes(args, args->mean, args->variance, first, count, c, WIDTH, type))
    }
    for (size_t c = 0; c < args->channels; c++)
        args->variance[c] /= (float)args->places;
}

// What normalisation subtracts and multiplies by, to the scratch memory.
ALWAYS_INLINE void prepare(const LsBatchNorm *args, float *mean, float *scale, LsDtype type)
{
    for (size_t c = 0; c < args->channels; c++) {
        float variance =
            args->running ? ls_running_variance(load(args->running, type, 2 * c + 1)) : args->variance[c];
        float rstd = 1.0f / __builtin_sqrtf(variance + LS_BATCH_NORM_EPSILON);
        mean[c] = args->running ? load(args->running, type, 2 * c) : args->mean[c];
        scale[c] = rstd * load(args->gamma, type, c);
    }
}

ALWAYS_INLINE void normalize_lanes(const LsBatchNorm *args, const float *mean, const float *scale,
    size_t first, size_t c, size_t lanes, LsDtype type)
{
    size_t channels = args->channels, count = run_at(first, args->places);
    FloatLanes shift = load_some(mean, LS_F32, c, lanes, 0), factor = load_some(scale, LS_F32, c, lanes, 0);
    FloatLanes beta = load_some(args->beta, type, c, lanes, 0);
    for (size_t p = first; p < first + count; p++) {
        size_t i = p * channels + c;
        FloatLanes y = fused_multiply_add(load_some(args->x, type, i, lanes, 0) - shift, factor, beta);
        if (args->residual)
            y += load_some(args->residual, type, i, lanes, 0);
        if (args->activation == LS_RELU)
            y = larger((FloatLanes){0}, y); // NaN stays
        store_some(args->y, type, i, lanes, y);
    }
}

// The arguments are copied so that the compiler knows them unchanged by what is stored.
ALWAYS_INLINE void normalize_all(const LsBatchNorm *given, LsDtype type)
{
    const LsBatchNorm args = *given;
    float *mean = args.scratch, *scale = mean + args.channels;
    if (!args.running)
        measure(&args, type);
    prepare(&args, mean, scale, type);
    for (size_t first = 0; first < args.places; first += RUN)
        FOR_LANES(args.channels, normalize_lanes(&args, mean, scale, first, c, WIDTH, type))
}

LsStatus LOOPS(batch_norm)(LsDevice *device, const LsBatchNorm *args)
{
    (void)device;
    LS_TRY(ls_require_batch_norm("batch_norm", args->places, args->channels, args->activation, args->type));
    WITH_TYPE(args->type, normalize_all(args, TYPE));
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// The gradient before the activation.
ALWAYS_INLINE FloatLanes gradient_at(const LsBatchNormBackward *args, size_t i, size_t lanes, LsDtype type)
{
    FloatLanes g = load_some(args->dy, type, i, lanes, 0);
    if (args->other)
        g += load_some(args->other, type, i, lanes, 0);
    if (args->activation == LS_RELU)
        g = pass_above_zero(load_some(args->y, type, i, lanes, 0), g);
    return g;
}

// Adds a run's sums of g and of g × (x - mean) to those of the channels.
ALWAYS_INLINE void sum_lanes_of(const LsBatchNormBackward *args, float *sum, float *along, size_t first,
    size_t c, size_t lanes, LsDtype type)
{
    size_t channels = args->channels, count = run_at(first, args->places);
    FloatLanes mean = load_some(args->mean, LS_F32, c, lanes, 0), sums = {0}, alongs = {0};
    for (size_t p = first; p < first + count; p++) {
        size_t i = p * channels + c;
        FloatLanes g = gradient_at(args, i, lanes, type);
        if (args->dresidual)
            store_some(args->dresidual, type, i, lanes, g);
        sums += g;
        alongs = fused_multiply_add(g, load_some(args->x, type, i, lanes, 0) - mean, alongs);
    }
    store_some(sum, LS_F32, c, lanes, load_some(sum, LS_F32, c, lanes, 0) + sums);
    store_some(along, LS_F32, c, lanes, load_some(along, LS_F32, c, lanes, 0) + alongs);
}

// dgamma, dbeta and the statistics. What the inputs' gradients subtract takes the place of the sums: the mean
// of g, and the factor of x - mean in it.
ALWAYS_INLINE void finish_channels(
    const LsBatchNormBackward *args, float *sum, float *along, float *factor, LsDtype type)
{
    float n = (float)args->places;
    for (size_t c = 0; c < args->channels; c++) {
        float rstd = 1.0f / __builtin_sqrtf(args->variance[c] + LS_BATCH_NORM_EPSILON);
        float normal = along[c] * rstd;
        args->dgamma[c] = (args->accumulate ? args->dgamma[c] : 0.0f) + normal;
        args->dbeta[c] = (args->accumulate ? args->dbeta[c] : 0.0f) + sum[c];
        factor[c] = rstd * load(args->gamma, type, c);
        sum[c] /= n;
        along[c] = normal / n * rstd;
    }
    for (size_t c = 0; c < args->channels && args->statistics; c++) {
        float distance = args->mean[c] - load(args->running, type, 2 * c);
        float square = __builtin_fmaf(distance, distance, args->variance[c]);
        float *to = args->statistics + 2 * c;
        to[0] = (args->accumulate ? to[0] : 0.0f) + args->statistics_weight * distance;
        to[1] = (args->accumulate ? to[1] : 0.0f) + args->statistics_weight * square;
    }
}

ALWAYS_INLINE void input_lanes(const LsBatchNormBackward *args, const float *sum, const float *along,
    const float *factor, size_t first, size_t c, size_t lanes, LsDtype type)
{
    size_t channels = args->channels, count = run_at(first, args->places);
    FloatLanes mean = load_some(args->mean, LS_F32, c, lanes, 0);
    FloatLanes shift = load_some(sum, LS_F32, c, lanes, 0), slope = load_some(along, LS_F32, c, lanes, 0);
    FloatLanes scale = load_some(factor, LS_F32, c, lanes, 0);
    for (size_t p = first; p < first + count; p++) {
        size_t i = p * channels + c;
        FloatLanes g = args->dresidual ? load_some(args->dresidual, type, i, lanes, 0)
                                       : gradient_at(args, i, lanes, type);
        FloatLanes distance = load_some(args->x, type, i, lanes, 0) - mean;
        store_some(args->dx, type, i, lanes, scale * (fused_multiply_add(-distance, slope, g) - shift));
    }
}

ALWAYS_INLINE void backward_all(const LsBatchNormBackward *given, LsDtype type)
{
    const LsBatchNormBackward args = *given;
    float *sum = args.scratch, *along = sum + args.channels, *factor = along + args.channels;
    memset(sum, 0, 2 * args.channels * sizeof *sum);
    for (size_t first = 0; first < args.places; first += RUN)
        FOR_LANES(args.channels, sum_lanes_of(&args, sum, along, first, c, WIDTH, type))
    finish_channels(&args, sum, along, factor, type);
    for (size_t first = 0; first < args.places; first += RUN)
        FOR_LANES(args.channels, input_lanes(&args, sum, along, factor, first, c, WIDTH, type))
}

LsStatus LOOPS(batch_norm_backward)(LsDevice *device, const LsBatchNormBackward *args)
{
    (void)device;
    LS_TRY(ls_require_batch_norm(
        "batch_norm_backward", args->places, args->channels, args->activation, args->type));
    WITH_TYPE(args->type, backward_all(args, TYPE));
    return LS_OK;
}
