// Layer normalisation, forward and backward. Sums over a row run in lanes side by side, then the lanes as a
// tree; sums over rows as those of bias_gradient: runs of rows, then the runs.
#include "parts.h"
#include "vectors.h"

enum {
    SUMS = 4, // side by side, which hides the latency of an addition
    RUN = 64  // rows summed in float before they are added to the total, which bounds rounding
};

// Sum over a row of x - shift, or of its square.
ALWAYS_INLINE float sum_row(
    const void *x, LsDtype type, size_t first, size_t columns, float shift, bool squares)
{
    FloatLanes sums[SUMS] = {0};
    size_t c = 0;
    for (; c + SUMS * LANES <= columns; c += SUMS * LANES)
        for (size_t s = 0; s < SUMS; s++) {
            FloatLanes distance = load_lanes(x, type, first + c + s * LANES) - shift;
            sums[s] += squares ? distance * distance : distance;
        }
    for (size_t s = 0; c < columns; c += LANES, s++) {
        FloatLanes distance = load_some(x, type, first + c, columns - c, shift) - shift;
        sums[s] += squares ? distance * distance : distance;
    }
    return sum_vector((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

ALWAYS_INLINE void add_branch(const LsLayerNorm *args, size_t first, LsDtype type)
{
    for (size_t c = 0; c < args->columns; c += LANES) {
        size_t i = first + c, count = args->columns - c;
        FloatLanes sum = load_some(args->x, type, i, count, 0) + load_some(args->branch, type, i, count, 0);
        store_some(args->sum, type, i, count, sum);
    }
}

ALWAYS_INLINE void normalize_row(const LsLayerNorm *args, size_t row, LsDtype type)
{
    size_t columns = args->columns, first = row * columns;
    if (args->branch)
        add_branch(args, first, type);
    const void *x = args->branch ? args->sum : args->x;
    float mean = sum_row(x, type, first, columns, 0.0f, false) / (float)columns;
    float variance = sum_row(x, type, first, columns, mean, true) / (float)columns;
    float rstd = 1.0f / __builtin_sqrtf(variance + LS_LAYER_NORM_EPSILON);
    for (size_t c = 0; c < columns; c += LANES) {
        size_t count = columns - c;
        FloatLanes normal = (load_some(x, type, first + c, count, 0) - mean) * rstd;
        FloatLanes weight = load_some(args->weight, type, c, count, 0);
        FloatLanes y = fused_multiply_add(normal, weight, load_some(args->bias, type, c, count, 0));
        store_some(args->y, type, first + c, count, y);
    }
    args->mean[row] = mean;
    args->rstd[row] = rstd;
}

// The arguments are copied so that the compiler knows them unchanged by what is stored.
ALWAYS_INLINE void normalize_rows(const LsLayerNorm *given, LsDtype type)
{
    const LsLayerNorm args = *given;
    for (size_t r = 0; r < args.rows; r++)
        normalize_row(&args, r, type);
}

LsStatus LOOPS(layer_norm)(LsDevice *device, const LsLayerNorm *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("layer_norm", args->type));
    WITH_TYPE(args->type, normalize_rows(args, TYPE));
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// Sums over the row of g = dy × weight, and of g × normal.
typedef struct RowSums {
    FloatLanes gradient, along;
} RowSums;

// Adds a row to the sums of the columns as well.
ALWAYS_INLINE RowSums sum_gradients(
    const LsLayerNormBackward *args, size_t row, float *dweight, float *dbias, LsDtype type)
{
    size_t columns = args->columns, first = row * columns;
    float mean = args->mean[row], rstd = args->rstd[row];
    RowSums sums = {0};
    for (size_t c = 0; c < columns; c += LANES) {
        size_t count = columns - c;
        FloatLanes normal = (load_some(args->x, type, first + c, count, mean) - mean) * rstd;
        FloatLanes dy = load_some(args->dy, type, first + c, count, 0);
        FloatLanes gradient = dy * load_some(args->weight, type, c, count, 0);
        sums.gradient += gradient;
        sums.along += gradient * normal;
        store_some(dweight, LS_F32, c, count, load_some(dweight, LS_F32, c, count, 0) + dy * normal);
        store_some(dbias, LS_F32, c, count, load_some(dbias, LS_F32, c, count, 0) + dy);
    }
    return sums;
}

ALWAYS_INLINE void backward_row(
    const LsLayerNormBackward *args, size_t row, float *dweight, float *dbias, LsDtype type)
{
    size_t columns = args->columns, first = row * columns;
    float mean = args->mean[row], rstd = args->rstd[row];
    RowSums sums = sum_gradients(args, row, dweight, dbias, type);
    float mean_gradient = sum_vector(sums.gradient) / (float)columns;
    float along = sum_vector(sums.along) / (float)columns;
    for (size_t c = 0; c < columns; c += LANES) {
        size_t count = columns - c;
        FloatLanes normal = (load_some(args->x, type, first + c, count, 0) - mean) * rstd;
        FloatLanes weight = load_some(args->weight, type, c, count, 0);
        FloatLanes gradient = load_some(args->dy, type, first + c, count, 0) * weight;
        FloatLanes dx = rstd * (gradient - mean_gradient - normal * along);
        if (args->residual)
            dx += load_some(args->residual, type, first + c, count, 0);
        store_some(args->dx, type, first + c, count, dx);
    }
}

static void add_run(float *total, float *run, size_t n)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++) {
        total[i] += run[i];
        run[i] = 0;
    }
}

ALWAYS_INLINE void backward_rows(const LsLayerNormBackward *given, LsDtype type)
{
    const LsLayerNormBackward args = *given;
    size_t columns = args.columns;
    float *run = args.scratch, *total = run + 2 * columns; // each of dweight, then of dbias
    memset(run, 0, 4 * columns * sizeof *run);
    for (size_t r = 0; r < args.rows; r++) {
        backward_row(&args, r, run, run + columns, type);
        if (r % RUN == RUN - 1 || r + 1 == args.rows)
            add_run(total, run, 2 * columns);
    }
    for (size_t c = 0; c < columns; c++) {
        args.dweight[c] = (args.accumulate ? args.dweight[c] : 0.0f) + total[c];
        args.dbias[c] = (args.accumulate ? args.dbias[c] : 0.0f) + total[columns + c];
    }
}

LsStatus LOOPS(layer_norm_backward)(LsDevice *device, const LsLayerNormBackward *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("layer_norm_backward", args->type));
    WITH_TYPE(args->type, backward_rows(args, TYPE));
    return LS_OK;
}
