// Products in FP16 through FP32. Conversions take one instruction for each 8 or 16 numbers, a tenth of the
// time of a product of a few hundred rows.
#include "products.h"

#include <stdlib.h>

#include "base/memory.h"

LsStatus ls_cpu_memory_grow(LsCpuMemory *memory, size_t bytes)
{
    void *larger;
    if (bytes <= memory->bytes)
        return LS_OK;
    LS_TRY(ls_memory_allocate(bytes, &larger));
    free(memory->memory);
    *memory = (LsCpuMemory){larger, bytes};
    return LS_OK;
}

static LsStatus convert(const LsCpuMultiplier *multiplier, size_t n, const void *from, LsDtype from_type,
    void *to, LsDtype to_type)
{
    const LsCast cast = {.n = n, .from = from, .from_type = from_type, .to = to, .to_type = to_type};
    return multiplier->loops->cast(NULL, &cast);
}

// Floats that n numbers take, up to the next boundary of LS_ALIGNMENT.
static size_t place_of(size_t n)
{
    const size_t floats = LS_ALIGNMENT / sizeof(float);
    return (n + floats - 1) / floats * floats;
}

static LsStatus multiply_widened(LsCpuMultiplier *multiplier, const LsMatmul *args)
{
    // Each of these arrays is in memory, so that sums of their sizes do not overflow.
    size_t a = args->m * args->k, b = args->k * args->n, c = args->m * args->n;
    bool narrow = args->output_type == LS_F16;
    size_t floats = place_of(a) + place_of(b) + place_of(args->n) + (narrow ? c : 0);
    LS_TRY(ls_cpu_memory_grow(&multiplier->widened, floats * sizeof(float)));
    float *wide_a = (float *)multiplier->widened.memory, *wide_b = wide_a + place_of(a);
    float *wide_bias = wide_b + place_of(b), *wide_c = wide_bias + place_of(args->n);
    LS_TRY(convert(multiplier, a, args->a, LS_F16, wide_a, LS_F32));
    LS_TRY(convert(multiplier, b, args->b, LS_F16, wide_b, LS_F32));
    if (args->bias)
        LS_TRY(convert(multiplier, args->n, args->bias, LS_F16, wide_bias, LS_F32));
    if (narrow && args->accumulate)
        LS_TRY(convert(multiplier, c, args->c, LS_F16, wide_c, LS_F32));
    LsMatmul wide = *args;
    wide.a = wide_a;
    wide.b = wide_b;
    wide.bias = args->bias ? wide_bias : NULL;
    wide.c = narrow ? wide_c : args->c;
    wide.input_type = wide.output_type = LS_F32;
    LS_TRY(ls_onednn_matmul(multiplier->onednn, &wide));
    return narrow ? convert(multiplier, c, wide_c, LS_F32, args->c, LS_F16) : LS_OK;
}

LsStatus ls_cpu_multiply(LsCpuMultiplier *multiplier, const LsMatmul *args)
{
    if (args->input_type == LS_F16)
        return multiply_widened(multiplier, args);
    return ls_onednn_matmul(multiplier->onednn, args);
}
