// Reference batch normalisation, forward and backward.
#include <math.h>

#include "ref.h"

static double value_at(const void *array, LsDtype type, size_t channels, size_t place, size_t channel)
{
    return ls_ref_load(array, type, place * channels + channel);
}

static double rstd_of(double variance)
{
    return 1.0 / sqrt(variance + (double)LS_BATCH_NORM_EPSILON);
}

static void measure(const LsBatchNorm *args, size_t c, double *mean, double *variance)
{
    double sum = 0, squares = 0;
    for (size_t p = 0; p < args->places; p++)
        sum += value_at(args->x, args->type, args->channels, p, c);
    *mean = sum / (double)args->places;
    for (size_t p = 0; p < args->places; p++) {
        double distance = value_at(args->x, args->type, args->channels, p, c) - *mean;
        squares += distance * distance;
    }
    *variance = squares / (double)args->places;
}

static void normalize_channel(const LsBatchNorm *args, size_t c)
{
    LsDtype type = args->type;
    double mean, variance;
    if (args->running) {
        mean = ls_ref_load(args->running, type, 2 * c);
        variance = ls_running_variance(ls_ref_load(args->running, type, 2 * c + 1));
    } else {
        measure(args, c, &mean, &variance);
        args->mean[c] = (float)mean;
        args->variance[c] = (float)variance;
    }
    double gamma = ls_ref_load(args->gamma, type, c), beta = ls_ref_load(args->beta, type, c);
    double rstd = rstd_of(variance);
    for (size_t p = 0; p < args->places; p++) {
        double y = (value_at(args->x, type, args->channels, p, c) - mean) * rstd * gamma + beta;
        if (args->residual)
            y += value_at(args->residual, type, args->channels, p, c);
        if (args->activation == LS_RELU && y < 0)
            y = 0;
        ls_ref_store(args->y, type, p * args->channels + c, (float)y);
    }
}

LsStatus ls_ref_batch_norm(LsDevice *device, const LsBatchNorm *args)
{
    (void)device;
    LS_TRY(ls_require_batch_norm("batch_norm", args->places, args->channels, args->activation, args->type));
    for (size_t c = 0; c < args->channels; c++)
        normalize_channel(args, c);
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// The gradient of what is before the activation.
static double gradient_at(const LsBatchNormBackward *args, size_t p, size_t c)
{
    double g = value_at(args->dy, args->type, args->channels, p, c);
    if (args->other)
        g += value_at(args->other, args->type, args->channels, p, c);
    if (args->activation == LS_RELU && value_at(args->y, args->type, args->channels, p, c) <= 0)
        return 0;
    return g;
}

static void add_statistics(const LsBatchNormBackward *args, size_t c)
{
    double mean = args->mean[c], distance = mean - ls_ref_load(args->running, args->type, 2 * c);
    double square = args->variance[c] + distance * distance;
    float *to = args->statistics + 2 * c;
    to[0] = (float)((args->accumulate ? to[0] : 0) + args->statistics_weight * distance);
    to[1] = (float)((args->accumulate ? to[1] : 0) + args->statistics_weight * square);
}

static void backward_channel(const LsBatchNormBackward *args, size_t c)
{
    double n = (double)args->places, sum = 0, along = 0, rstd = rstd_of(args->variance[c]);
    for (size_t p = 0; p < args->places; p++) {
        double normal = (value_at(args->x, args->type, args->channels, p, c) - args->mean[c]) * rstd;
        double g = gradient_at(args, p, c);
        sum += g;
        along += g * normal;
    }
    args->dgamma[c] = (float)((args->accumulate ? args->dgamma[c] : 0) + along);
    args->dbeta[c] = (float)((args->accumulate ? args->dbeta[c] : 0) + sum);
    double factor = rstd * ls_ref_load(args->gamma, args->type, c);
    for (size_t p = 0; p < args->places; p++) {
        size_t i = p * args->channels + c;
        double normal = (ls_ref_load(args->x, args->type, i) - args->mean[c]) * rstd;
        double g = gradient_at(args, p, c); // before what it is made of may be overwritten
        if (args->dresidual)
            ls_ref_store(args->dresidual, args->type, i, (float)g);
        ls_ref_store(args->dx, args->type, i, (float)(factor * (g - sum / n - normal * along / n)));
    }
}

LsStatus ls_ref_batch_norm_backward(LsDevice *device, const LsBatchNormBackward *args)
{
    (void)device;
    LS_TRY(ls_require_batch_norm(
        "batch_norm_backward", args->places, args->channels, args->activation, args->type));
    for (size_t c = 0; c < args->channels; c++) {
        backward_channel(args, c);
        if (args->statistics)
            add_statistics(args, c);
    }
    return LS_OK;
}
