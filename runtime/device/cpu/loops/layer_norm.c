// Layer normalisation, forward and backward. Sums over a row run in lanes side by side, then the lanes as a
// tree; sums over rows as those of bias_gradient: runs of rows, then the runs.
#include "lanes.h"
#include "parts.h"

enum {
    SUMS = 4, // side by side, which hides the latency of an addition
    RUN = 64  // rows summed in float before they are added to the total, which bounds rounding
};

// `count` elements, the lanes behind them are `fill`.
ALWAYS_INLINE FloatLanes load_some(const void *array, LsDtype type, size_t i, size_t count, float fill)
{
    float lanes[LANES];
    FloatLanes result;
    for (size_t j = 0; j < LANES; j++)
        lanes[j] = j < count ? load(array, type, i + j) : fill;
    memcpy(&result, lanes, sizeof result);
    return result;
}

ALWAYS_INLINE float sum_of(FloatLanes lanes)
{
    float values[LANES];
    memcpy(values, &lanes, sizeof values);
    return sum_lanes(values);
}

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
        size_t count = columns - c;
        FloatLanes lanes =
            count < LANES ? load_some(x, type, first + c, count, shift) : load_lanes(x, type, first + c);
        FloatLanes distance = lanes - shift;
        sums[s] += squares ? distance * distance : distance;
    }
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

ALWAYS_INLINE void normalize_row(const LsLayerNorm *args, size_t row, LsDtype type)
{
    size_t columns = args->columns, first = row * columns;
    const void *x = args->x;
    if (args->branch) {
        ELEMENTWISE
        for (size_t i = first; i < first + columns; i++)
            store(args->sum, type, i, load(args->x, type, i) + load(args->branch, type, i));
        x = args->sum;
    }
    float mean = sum_row(x, type, first, columns, 0.0f, false) / (float)columns;
    float variance = sum_row(x, type, first, columns, mean, true) / (float)columns;
    float rstd = 1.0f / __builtin_sqrtf(variance + LS_LAYER_NORM_EPSILON);
    ELEMENTWISE
    for (size_t c = 0; c < columns; c++) {
        float normal = (load(x, type, first + c) - mean) * rstd;
        store(args->y, type, first + c,
            __builtin_fmaf(normal, load(args->weight, type, c), load(args->bias, type, c)));
    }
    args->mean[row] = mean;
    args->rstd[row] = rstd;
}

LsStatus LOOPS(layer_norm)(LsDevice *device, const LsLayerNorm *args)
{
    (void)device;
    LS_TRY(ls_cpu_require_type("layer_norm", args->type));
    for (size_t r = 0; r < args->rows; r++)
        if (args->type == LS_F32)
            normalize_row(args, r, LS_F32);
        else
            normalize_row(args, r, LS_BF16);
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// Sums over the row of g = dy × weight, and of g × normal.
typedef struct RowSums {
    FloatLanes gradient, along;
} RowSums;

// One vector of a row: adds to the row's sums and to those of the columns.
ALWAYS_INLINE void add_lanes(
    RowSums *sums, FloatLanes dy, FloatLanes normal, FloatLanes weight, FloatLanes columns[2])
{
    FloatLanes gradient = dy * weight;
    sums->gradient += gradient;
    sums->along += gradient * normal;
    columns[0] += dy * normal;
    columns[1] += dy;
}

ALWAYS_INLINE RowSums sum_gradients(
    const LsLayerNormBackward *args, size_t row, float *dweight, float *dbias, LsDtype type)
{
    size_t columns = args->columns, first = row * columns, c = 0;
    float mean = args->mean[row], rstd = args->rstd[row];
    RowSums sums = {0};
    FloatLanes totals[2];
    for (; c + LANES <= columns; c += LANES) {
        FloatLanes normal = (load_lanes(args->x, type, first + c) - mean) * rstd;
        memcpy(&totals[0], dweight + c, sizeof totals[0]);
        memcpy(&totals[1], dbias + c, sizeof totals[1]);
        add_lanes(
            &sums, load_lanes(args->dy, type, first + c), normal, load_lanes(args->weight, type, c), totals);
        memcpy(dweight + c, &totals[0], sizeof totals[0]);
        memcpy(dbias + c, &totals[1], sizeof totals[1]);
    }
    size_t rest = columns - c;
    if (rest == 0)
        return sums;
    FloatLanes normal = (load_some(args->x, type, first + c, rest, mean) - mean) * rstd;
    totals[0] = load_some(dweight, LS_F32, c, rest, 0.0f);
    totals[1] = load_some(dbias, LS_F32, c, rest, 0.0f);
    add_lanes(&sums, load_some(args->dy, type, first + c, rest, 0.0f), normal,
        load_some(args->weight, type, c, rest, 0.0f), totals);
    memcpy(dweight + c, &totals[0], rest * sizeof *dweight);
    memcpy(dbias + c, &totals[1], rest * sizeof *dbias);
    return sums;
}

ALWAYS_INLINE void store_gradients(const LsLayerNormBackward *args, size_t row, float mean_gradient,
    float along, bool residual, LsDtype type)
{
    size_t columns = args->columns, first = row * columns;
    float mean = args->mean[row], rstd = args->rstd[row];
    ELEMENTWISE
    for (size_t c = 0; c < columns; c++) {
        float normal = (load(args->x, type, first + c) - mean) * rstd;
        float gradient = load(args->dy, type, first + c) * load(args->weight, type, c);
        float dx = rstd * (gradient - mean_gradient - normal * along);
        store(args->dx, type, first + c, residual ? load(args->residual, type, first + c) + dx : dx);
    }
}

ALWAYS_INLINE void backward_row(
    const LsLayerNormBackward *args, size_t row, float *dweight, float *dbias, LsDtype type)
{
    RowSums sums = sum_gradients(args, row, dweight, dbias, type);
    float mean_gradient = sum_of(sums.gradient) / (float)args->columns;
    float along = sum_of(sums.along) / (float)args->columns;
    if (args->residual)
        store_gradients(args, row, mean_gradient, along, true, type);
    else
        store_gradients(args, row, mean_gradient, along, false, type);
}

static void add_run(float *total, float *run, size_t n)
{
    ELEMENTWISE
    for (size_t i = 0; i < n; i++) {
        total[i] += run[i];
        run[i] = 0;
    }
}

LsStatus LOOPS(layer_norm_backward)(LsDevice *device, const LsLayerNormBackward *args)
{
    (void)device;
    LS_TRY(ls_cpu_require_type("layer_norm_backward", args->type));
    size_t columns = args->columns;
    float *run = args->scratch, *total = run + 2 * columns; // each of dweight, then of dbias
    memset(run, 0, 4 * columns * sizeof *run);
    for (size_t r = 0; r < args->rows; r++) {
        if (args->type == LS_F32)
            backward_row(args, r, run, run + columns, LS_F32);
        else
            backward_row(args, r, run, run + columns, LS_BF16);
        if (r % RUN == RUN - 1 || r + 1 == args->rows)
            add_run(total, run, 2 * columns);
    }
    for (size_t c = 0; c < columns; c++) {
        args->dweight[c] = (args->accumulate ? args->dweight[c] : 0.0f) + total[c];
        args->dbias[c] = (args->accumulate ? args->dbias[c] : 0.0f) + total[columns + c];
    }
    return LS_OK;
}
