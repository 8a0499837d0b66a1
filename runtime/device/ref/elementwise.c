// Reference ops that work on each element by itself.
#include <math.h>

#include "ref.h"

LsStatus ls_ref_cast(LsDevice *device, const LsCast *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("cast", args->from_type));
    LS_TRY(ls_require_float_type("cast", args->to_type));
    for (size_t i = 0; i < args->n; i++)
        ls_ref_store(args->to, args->to_type, i, ls_ref_load(args->from, args->from_type, i));
    return LS_OK;
}

LsStatus ls_ref_normalize(LsDevice *device, const LsNormalize *args)
{
    (void)device;
    LS_TRY(ls_require_normalize(args));
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < args->columns; c++) {
            size_t i = r * args->columns + c;
            size_t feature = c % args->period;
            float x = args->x_type == LS_U8 ? ((const uint8_t *)args->x)[i] : ((const float *)args->x)[i];
            ls_ref_store(args->y, args->y_type, i, (x - args->shift[feature]) * args->scale[feature]);
        }
    return LS_OK;
}

// d/dx of x s(2u), s the sigmoid, 2u = 2 sqrt(2/pi) (x + 0.044715 x^3).
static double gelu_derivative(double x)
{
    const double scale = 1.5957691216057307, cubic = 0.044715;
    double gate = 1.0 / (1.0 + exp(-scale * (x + cubic * x * x * x)));
    double slope = scale * (1.0 + 3.0 * cubic * x * x);
    return gate + x * gate * (1.0 - gate) * slope;
}

LsStatus ls_ref_activation_backward(LsDevice *device, const LsActivationBackward *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("activation_backward", args->type));
    for (size_t i = 0; i < args->n; i++) {
        float saved = ls_ref_load(args->saved, args->type, i);
        float dy = ls_ref_load(args->dy, args->type, i);
        float dx = dy;
        if (args->activation == LS_RELU)
            dx = saved <= 0.0f ? 0.0f : dy; // NaN goes through
        else if (args->activation == LS_GELU)
            dx = (float)(dy * gelu_derivative(saved));
        ls_ref_store(args->dx, args->type, i, dx);
    }
    return LS_OK;
}

LsStatus ls_ref_dropout(LsDevice *device, const LsDropout *given)
{
    (void)device;
    LsDropout sampled, *args = &sampled;
    LS_TRY(ls_require_float_type("dropout", given->type));
    LS_TRY(ls_dropout_by_sample(given, &sampled));
    LsRngKey key = ls_rng_key(args->seed, args->purpose);
    uint32_t threshold = ls_dropout_threshold(args->rate);
    float factor = ls_dropout_factor(args->rate);
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < args->columns; c++) {
            size_t i = r * args->columns + c;
            bool keep = ls_rng_u32(key, args->positions[r], c) >= threshold;
            ls_ref_store(args->y, args->type, i, keep ? ls_ref_load(args->x, args->type, i) * factor : 0.0f);
        }
    return LS_OK;
}

LsStatus ls_ref_add(LsDevice *device, const LsAdd *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("add", args->type));
    for (size_t i = 0; i < args->n; i++)
        ls_ref_store(args->y, args->type, i,
            ls_ref_load(args->a, args->type, i) + ls_ref_load(args->b, args->type, i));
    return LS_OK;
}
