// What attention does with blocks of scores between its matrix products, row by row.
#include <math.h>

#include "parts.h"
#include "vectors.h"

// Keys that a row of a block may see; those behind them have no weight.
ALWAYS_INLINE size_t seen_by(const LsAttentionBlock *block, size_t row)
{
    size_t seen = block->query + row + 1 - block->key;
    return seen < block->columns ? seen : block->columns;
}

// Whole lanes that hold n values. Rows are filled up to whole lanes, so what is behind n may be read.
ALWAYS_INLINE size_t lanes_of(size_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

ALWAYS_INLINE void clear_unseen(void *weights, LsDtype type, size_t first, size_t seen, size_t columns)
{
    size_t begin = lanes_of(seen); // up to there the loops stored zeros
    memset(
        (char *)weights + (first + begin) * ls_dtype_size(type), 0, (columns - begin) * ls_dtype_size(type));
}

// exp(x × scale - shift). x × scale is at most about the shift: no weight is below e^-87, which no sum of
// weights, at least 1, notices.
ALWAYS_INLINE FloatLanes weights_of(const float *x, float scale, float shift)
{
    return bounded_exponential(
        fused_multiply_add(load_lanes(x, LS_F32, 0), all_lanes(scale), all_lanes(-shift)));
}

ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    FloatLanes largest = all_lanes(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        largest = larger(load_lanes(x, LS_F32, i), largest);
    if (i < n)
        largest = larger(
            choose(first_lanes((int)(n - i)), load_lanes(x, LS_F32, i), all_lanes(-INFINITY)), largest);
    return largest_lane(largest);
}

// Stores the weights of n scores, and zeros up to whole lanes; returns the sum of what they are before they
// are rounded.
ALWAYS_INLINE float exponentials(
    const float *x, size_t n, float scale, float largest, void *weights, LsDtype type, size_t first)
{
    FloatLanes sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        FloatLanes lanes = weights_of(x + i, scale, largest);
        store_lanes(weights, type, first + i, lanes);
        sum += lanes;
    }
    if (i < n) {
        FloatLanes lanes = weights_of(x + i, scale, largest);
        lanes = choose(first_lanes((int)(n - i)), lanes, all_lanes(0));
        store_lanes(weights, type, first + i, lanes);
        sum += lanes;
    }
    return sum_vector(sum);
}

ALWAYS_INLINE void weigh_row(const LsAttentionBlock *block, size_t row, LsDtype type)
{
    size_t seen = seen_by(block, row), first = row * block->columns;
    const float *scores = block->scores + first;
    float before = block->largest[row], here = largest_of(scores, seen) * block->scale;
    float largest = here > before ? here : before;
    float sum = exponentials(scores, seen, block->scale, largest, block->weights, type, first);
    clear_unseen(block->weights, type, first, seen, block->columns);
    float factor = block->key == 0 ? 0.0f : exponential(before - largest);
    block->largest[row] = largest;
    block->total[row] = block->key == 0 ? sum : __builtin_fmaf(block->total[row], factor, sum);
    if (block->key == 0 || factor == 1.0f)
        return;
    float *values = block->values + row * block->size;
    ELEMENTWISE
    for (size_t i = 0; i < block->size; i++)
        values[i] *= factor;
}

void LOOPS(attention_weigh)(const LsAttentionBlock *block)
{
    for (size_t row = 0; row < block->rows; row++)
        WITH_TYPE(block->type, weigh_row(block, row, TYPE));
}

typedef struct Slopes {
    float scale, log_sum, product;
} Slopes;

// One vector of weights and gradients from `at` on; those that the mask leaves out are zero.
ALWAYS_INLINE void slope_lanes(
    const LsAttentionBlock *block, const Slopes *row, size_t at, IntegerLanes mask, LsDtype type)
{
    FloatLanes weights = weights_of(block->scores + at, row->scale, row->log_sum);
    FloatLanes gradients = weights * (load_lanes(block->slopes, LS_F32, at) - row->product) * row->scale;
    store_lanes(block->weights, type, at, choose(mask, weights, all_lanes(0)));
    store_lanes(block->gradients, type, at, choose(mask, gradients, all_lanes(0)));
}

ALWAYS_INLINE void slope_row(const LsAttentionBlock *block, size_t row, LsDtype type)
{
    size_t seen = seen_by(block, row), first = row * block->columns, i = 0;
    const Slopes slopes = {block->scale, block->log_sum[row], block->products[row]};
    for (; i + LANES <= seen; i += LANES)
        slope_lanes(block, &slopes, first + i, first_lanes(LANES), type);
    if (i < seen)
        slope_lanes(block, &slopes, first + i, first_lanes((int)(seen - i)), type);
    clear_unseen(block->weights, type, first, seen, block->columns);
    clear_unseen(block->gradients, type, first, seen, block->columns);
}

void LOOPS(attention_slopes)(const LsAttentionBlock *block)
{
    for (size_t row = 0; row < block->rows; row++)
        WITH_TYPE(block->type, slope_row(block, row, TYPE));
}

ALWAYS_INLINE void divide_row(
    const float *values, size_t size, float total, void *out, size_t first, LsDtype type)
{
    ELEMENTWISE
    for (size_t i = 0; i < size; i++)
        store(out, type, first + i, values[i] / total);
}

void LOOPS(attention_finish)(const LsAttentionBlock *block, void *out, size_t stride, float *log_sum)
{
    for (size_t row = 0; row < block->rows; row++) {
        const float *values = block->values + row * block->size;
        float total = block->total[row];
        log_sum[row] = block->largest[row] + logarithm(total);
        WITH_TYPE(block->type, divide_row(values, block->size, total, out, row * stride, TYPE));
    }
}

enum {
    LINE = 64,
    AHEAD = 12
}; // rows asked for before they are copied: their distance defeats the prefetcher

void LOOPS(attention_gather)(const char *from, size_t rows, size_t bytes, size_t stride, char *to)
{
    for (size_t row = 0; row < rows; row++) {
        const char *source = from + row * stride;
        size_t i = 0;
        for (; i + LINE <= bytes; i += LINE) {
            __builtin_prefetch(source + AHEAD * stride + i);
            memcpy(to + row * bytes + i, source + i, LINE);
        }
        for (; i < bytes; i += 2)
            memcpy(to + row * bytes + i, source + i, 2);
    }
}

ALWAYS_INLINE void round_row(const float *from, size_t size, void *to, size_t first, LsDtype type)
{
    ELEMENTWISE
    for (size_t i = 0; i < size; i++)
        store(to, type, first + i, from[i]);
}

void LOOPS(attention_store)(
    const float *from, size_t rows, size_t size, void *to, size_t stride, LsDtype type)
{
    for (size_t row = 0; row < rows; row++)
        WITH_TYPE(type, round_row(from + row * size, size, to, row * stride, TYPE));
}

ALWAYS_INLINE float dot(const void *a, const void *b, size_t first, size_t n, LsDtype type)
{
    FloatLanes sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += load_lanes(a, type, first + i) * load_lanes(b, type, first + i);
    float rest = 0;
    for (; i < n; i++)
        rest += load(a, type, first + i) * load(b, type, first + i);
    return sum_vector(sum) + rest;
}

void LOOPS(attention_products)(
    const void *a, const void *b, size_t rows, size_t size, size_t stride, LsDtype type, float *products)
{
    for (size_t row = 0; row < rows; row++)
        WITH_TYPE(type, products[row] = dot(a, b, row * stride, size, TYPE));
}

// ---- A query by itself ----------------------------------------------------------------------------------

// Means of COUNT vectors of values from column `first` on.
ALWAYS_INLINE void weigh_columns(
    const LsAttentionRow *row, size_t first, size_t count, float total, LsDtype type)
{
    FloatLanes sum[4] = {{0}};
    for (size_t key = 0; key < row->keys; key++) {
        FloatLanes weight = all_lanes(load(row->weights, type, key));
        for (size_t i = 0; i < count; i++)
            sum[i] = fused_multiply_add(
                weight, load_lanes(row->v, type, key * row->stride + first + i * LANES), sum[i]);
    }
    for (size_t i = 0; i < count; i++)
        store_lanes(row->out, type, first + i * LANES, sum[i] / total);
}

ALWAYS_INLINE void weigh_column(const LsAttentionRow *row, size_t column, float total, LsDtype type)
{
    float sum = 0;
    for (size_t key = 0; key < row->keys; key++)
        sum = __builtin_fmaf(
            load(row->weights, type, key), load(row->v, type, key * row->stride + column), sum);
    store(row->out, type, column, sum / total);
}

ALWAYS_INLINE void attend(const LsAttentionRow *row, LsDtype type)
{
    size_t element = ls_dtype_size(type), i = 0;
    for (size_t key = 0; key < row->keys; key++)
        row->scores[key] =
            dot(row->q, (const char *)row->k + key * row->stride * element, 0, row->size, type);
    float largest = largest_of(row->scores, row->keys) * row->scale;
    float total = exponentials(row->scores, row->keys, row->scale, largest, row->weights, type, 0);
    *row->log_sum = largest + logarithm(total);
    for (; i + 4 * LANES <= row->size; i += 4 * LANES)
        weigh_columns(row, i, 4, total, type);
    for (; i + LANES <= row->size; i += LANES)
        weigh_columns(row, i, 1, total, type);
    for (; i < row->size; i++)
        weigh_column(row, i, total, type);
}

void LOOPS(attention_row)(const LsAttentionRow *row)
{
    WITH_TYPE(row->type, attend(row, TYPE));
}
