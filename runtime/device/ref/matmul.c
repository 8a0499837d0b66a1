// Reference products: float64 sums over k in ascending order, rounded once.
#include <math.h>
#include <string.h>

#include "ref.h"

enum { TILE = 256 }; // columns of c whose sums are kept at a time

// tanh form of Hendrycks and Gimpel, "Gaussian error linear units", 2016: x (1 + tanh(u)) / 2 is x times the
// sigmoid of 2u, in which nothing cancels for negative x.
static float gelu(float x)
{
    double wide = x;
    return (float)(wide / (1.0 + exp(-1.5957691216057307 * (wide + 0.044715 * wide * wide * wide))));
}

static float activate(LsActivation activation, float x)
{
    switch (activation) {
    case LS_RELU:
        return x < 0.0f ? 0.0f : x; // NaN goes through
    case LS_GELU:
        return gelu(x);
    default:
        return x;
    }
}

// sums[j] = sum over p of a[row][p] * b[p][first + j].
static void multiply_row(const LsMatmul *args, size_t row, size_t first, size_t count, double *sums)
{
    memset(sums, 0, count * sizeof *sums);
    for (size_t p = 0; p < args->k; p++) {
        double a =
            ls_ref_load(args->a, args->input_type, args->transpose_a ? p * args->m + row : row * args->k + p);
        for (size_t j = 0; j < count; j++) {
            size_t column = first + j;
            sums[j] += a * ls_ref_load(args->b, args->input_type,
                               args->transpose_b ? column * args->k + p : p * args->n + column);
        }
    }
}

static void finish_element(const LsMatmul *args, size_t index, size_t column, double sum)
{
    if (args->accumulate) {
        ls_ref_store(
            args->c, args->output_type, index, (float)(ls_ref_load(args->c, args->output_type, index) + sum));
        return;
    }
    if (args->bias)
        sum += ls_ref_load(args->bias, args->input_type, column);
    float value = (float)sum;
    if (args->pre_activation)
        ls_ref_store(args->pre_activation, args->output_type, index, value);
    ls_ref_store(args->c, args->output_type, index, activate(args->activation, value));
}

static void multiply(const LsMatmul *args)
{
    double sums[TILE];
    for (size_t row = 0; row < args->m; row++)
        for (size_t first = 0; first < args->n; first += TILE) {
            size_t count = args->n - first < TILE ? args->n - first : TILE;
            multiply_row(args, row, first, count, sums);
            for (size_t j = 0; j < count; j++)
                finish_element(args, row * args->n + first + j, first + j, sums[j]);
        }
}

LsStatus ls_ref_matmul(LsDevice *device, const LsMatmul *args)
{
    LS_TRY(ls_require_matmul(args));
    multiply(args);
    return ls_matmul_finish(device, args);
}

LsStatus ls_ref_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("bias_gradient", args->type));
    for (size_t c = 0; c < args->columns; c++) {
        double sum = args->accumulate ? args->db[c] : 0.0;
        for (size_t r = 0; r < args->rows; r++)
            sum += ls_ref_load(args->dy, args->type, r * args->columns + c);
        args->db[c] = (float)sum;
    }
    return LS_OK;
}
