// Reference layer normalisation, forward and backward.
#include <math.h>

#include "ref.h"

// Adds the branch, if there is one, and keeps the sum as it will be read: rounded.
static const void *add_branch(const LsLayerNorm *args, size_t row)
{
    if (!args->branch)
        return args->x;
    for (size_t i = row * args->columns; i < (row + 1) * args->columns; i++)
        ls_ref_store(args->sum, args->type, i,
            ls_ref_load(args->x, args->type, i) + ls_ref_load(args->branch, args->type, i));
    return args->sum;
}

static void normalize_row(const LsLayerNorm *args, size_t row)
{
    size_t columns = args->columns, first = row * columns;
    const void *x = add_branch(args, row);
    double mean = 0, variance = 0;
    for (size_t c = 0; c < columns; c++)
        mean += ls_ref_load(x, args->type, first + c);
    mean /= (double)columns;
    for (size_t c = 0; c < columns; c++) {
        double distance = ls_ref_load(x, args->type, first + c) - mean;
        variance += distance * distance;
    }
    double rstd = 1.0 / sqrt(variance / (double)columns + (double)LS_LAYER_NORM_EPSILON);
    for (size_t c = 0; c < columns; c++) {
        double normal = (ls_ref_load(x, args->type, first + c) - mean) * rstd;
        double weight = ls_ref_load(args->weight, args->type, c),
               bias = ls_ref_load(args->bias, args->type, c);
        ls_ref_store(args->y, args->type, first + c, (float)(normal * weight + bias));
    }
    args->mean[row] = (float)mean;
    args->rstd[row] = (float)rstd;
}

LsStatus ls_ref_layer_norm(LsDevice *device, const LsLayerNorm *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("layer_norm", args->type));
    for (size_t r = 0; r < args->rows; r++)
        normalize_row(args, r);
    return LS_OK;
}

// The normalised value.
static double normal_at(const LsLayerNormBackward *args, size_t row, size_t column)
{
    double x = ls_ref_load(args->x, args->type, row * args->columns + column);
    return (x - args->mean[row]) * args->rstd[row];
}

// The gradient of the normalised value.
static double gradient_at(const LsLayerNormBackward *args, size_t row, size_t column)
{
    return (double)ls_ref_load(args->dy, args->type, row * args->columns + column) *
           ls_ref_load(args->weight, args->type, column);
}

// d(loss)/d(x) = rstd (g - mean of g - normal × mean of g × normal): what is left of g when its parts along
// the row's mean and along the row itself, which normalisation takes away, are gone.
static void row_gradient(const LsLayerNormBackward *args, size_t row)
{
    size_t columns = args->columns;
    double mean = 0, along = 0;
    for (size_t c = 0; c < columns; c++) {
        mean += gradient_at(args, row, c);
        along += gradient_at(args, row, c) * normal_at(args, row, c);
    }
    mean /= (double)columns;
    along /= (double)columns;
    for (size_t c = 0; c < columns; c++) {
        size_t i = row * columns + c;
        double dx = args->rstd[row] * (gradient_at(args, row, c) - mean - normal_at(args, row, c) * along);
        if (args->residual)
            dx += ls_ref_load(args->residual, args->type, i);
        ls_ref_store(args->dx, args->type, i, (float)dx);
    }
}

LsStatus ls_ref_layer_norm_backward(LsDevice *device, const LsLayerNormBackward *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("layer_norm_backward", args->type));
    for (size_t c = 0; c < args->columns; c++) {
        double weight = args->accumulate ? args->dweight[c] : 0, bias = args->accumulate ? args->dbias[c] : 0;
        for (size_t r = 0; r < args->rows; r++) {
            double dy = ls_ref_load(args->dy, args->type, r * args->columns + c);
            weight += dy * normal_at(args, r, c);
            bias += dy;
        }
        args->dweight[c] = (float)weight;
        args->dbias[c] = (float)bias;
    }
    for (size_t r = 0; r < args->rows; r++)
        row_gradient(args, r);
    return LS_OK;
}
