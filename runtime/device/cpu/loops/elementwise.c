// Loops that work on each element by itself.
#include "parts.h"
#include "philox.h"
#include "vectors.h"

// In whole vectors, whose conversions take one instruction each: products in F16 wait for this.
ALWAYS_INLINE void cast(const LsCast *args, LsDtype from_type, LsDtype to_type)
{
    size_t i = 0;
    for (; i + LANES <= args->n; i += LANES)
        store_lanes(args->to, to_type, i, load_lanes(args->from, from_type, i));
    for (; i < args->n; i++)
        store(args->to, to_type, i, load(args->from, from_type, i));
}

ALWAYS_INLINE void cast_from(const LsCast *args, LsDtype from_type)
{
    WITH_TYPE(args->to_type, cast(args, from_type, TYPE));
}

LsStatus LOOPS(cast)(LsDevice *device, const LsCast *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("cast", args->from_type));
    LS_TRY(ls_require_float_type("cast", args->to_type));
    if (args->from_type == args->to_type)
        memcpy(args->to, args->from, args->n * ls_dtype_size(args->to_type));
    else
        WITH_TYPE(args->from_type, cast_from(args, TYPE));
    return LS_OK;
}

ALWAYS_INLINE float raw(const void *x, LsDtype type, size_t i)
{
    return type == LS_U8 ? (float)((const uint8_t *)x)[i] : ((const float *)x)[i];
}

ALWAYS_INLINE void normalize(const LsNormalize *args, LsDtype x_type, LsDtype y_type)
{
    const float *shift = args->shift, *scale = args->scale;
    size_t values = args->rows * args->columns, period = args->period;
    if (period == 1) {
        float one_shift = *shift, one_scale = *scale;
        ELEMENTWISE
        for (size_t i = 0; i < values; i++)
            store(args->y, y_type, i, (raw(args->x, x_type, i) - one_shift) * one_scale);
        return;
    }
    for (size_t first = 0; first < values; first += period) {
        ELEMENTWISE
        for (size_t c = 0; c < period; c++)
            store(args->y, y_type, first + c, (raw(args->x, x_type, first + c) - shift[c]) * scale[c]);
    }
}

LsStatus LOOPS(normalize)(LsDevice *device, const LsNormalize *args)
{
    (void)device;
    LS_TRY(ls_require_normalize(args));
    if (args->x_type == LS_U8)
        WITH_TYPE(args->y_type, normalize(args, LS_U8, TYPE));
    else
        WITH_TYPE(args->y_type, normalize(args, LS_F32, TYPE));
    return LS_OK;
}

LsStatus LOOPS(add)(LsDevice *device, const LsAdd *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("add", args->type));
    WITH_TYPE(args->type, add_arrays(args->n, args->a, args->b, args->y, TYPE));
    return LS_OK;
}

enum { DROPOUT_TILE = 64 }; // elements whose random words are drawn at a time

ALWAYS_INLINE void dropout(const LsDropout *args, LsDtype type)
{
    LsRngKey key = ls_rng_key(args->seed, args->purpose);
    uint32_t threshold = ls_dropout_threshold(args->rate);
    float factor = ls_dropout_factor(args->rate);
    for (size_t r = 0; r < args->rows; r++)
        for (size_t first = 0; first < args->columns; first += DROPOUT_TILE) {
            uint32_t words[DROPOUT_TILE];
            for (size_t w = 0; w < DROPOUT_TILE; w += PHILOX_WORDS)
                random_words(key, args->positions[r], (first + w) / 4, words + w);
            size_t count = args->columns - first < DROPOUT_TILE ? args->columns - first : DROPOUT_TILE;
            size_t offset = r * args->columns + first;
            ELEMENTWISE
            for (size_t j = 0; j < count; j++) {
                float scaled = load(args->x, type, offset + j) * factor;
                store(args->y, type, offset + j, words[j] >= threshold ? scaled : 0.0f);
            }
        }
}

LsStatus LOOPS(dropout)(LsDevice *device, const LsDropout *args)
{
    (void)device;
    LsDropout sampled;
    LS_TRY(ls_require_float_type("dropout", args->type));
    LS_TRY(ls_dropout_by_sample(args, &sampled));
    WITH_TYPE(args->type, dropout(&sampled, TYPE));
    return LS_OK;
}
