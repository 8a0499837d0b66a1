// What attention does with blocks of scores between its matrix products, row by row.
#include <math.h>

#include "lanes.h"
#include "parts.h"

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

// e^x of an x that is at most about 0: no weight is below e^-87, which no sum of weights, at least 1,
// notices, and which keeps its power of two within the range of normal numbers. NaN for NaN.
ALWAYS_INLINE float weight_of(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    int32_t exponent;
    float p = reduced_exponential(x, &exponent);
    return p * power_of_two(exponent);
}

ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    float lanes[LANES];
    for (size_t j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    int rest = (int)(n - i);
    for (int j = 0; j < LANES && rest > 0; j++) {
        float seen = j < rest ? x[i + (size_t)j] : -INFINITY;
        lanes[j] = seen > lanes[j] ? seen : lanes[j];
    }
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            lanes[j] = lanes[j + half] > lanes[j] ? lanes[j + half] : lanes[j];
    return lanes[0];
}

// One vector of weights, exp(x × scale - largest), stored and added to `lanes`; those from `seen` on are
// zero.
ALWAYS_INLINE void weigh_lanes(const float *x, int seen, float scale, float largest, void *weights,
    LsDtype type, size_t at, float *lanes)
{
    for (int j = 0; j < LANES; j++) {
        float weight = weight_of(__builtin_fmaf(x[j], scale, -largest));
        weight = j < seen ? weight : 0.0f;
        store(weights, type, at + (size_t)j, weight);
        lanes[j] += weight;
    }
}

// Returns the sum of the weights of a row before they are rounded.
ALWAYS_INLINE float exponentials(
    const float *x, size_t n, float scale, float largest, void *weights, LsDtype type, size_t first)
{
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        weigh_lanes(x + i, LANES, scale, largest, weights, type, first + i, lanes);
    if (i < n)
        weigh_lanes(x + i, (int)(n - i), scale, largest, weights, type, first + i, lanes);
    return sum_lanes(lanes);
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
        if (block->type == LS_F32)
            weigh_row(block, row, LS_F32);
        else
            weigh_row(block, row, LS_BF16);
}

typedef struct Slopes {
    float scale, log_sum, product;
} Slopes;

// One vector of weights and gradients from `at` on; those from `seen` on are zero.
ALWAYS_INLINE void slope_lanes(
    const LsAttentionBlock *block, const Slopes *row, size_t at, int seen, LsDtype type)
{
    const float *scores = block->scores + at, *slopes = block->slopes + at;
    ELEMENTWISE
    for (int j = 0; j < LANES; j++) {
        float weight = weight_of(__builtin_fmaf(scores[j], row->scale, -row->log_sum));
        float gradient = weight * (slopes[j] - row->product) * row->scale;
        store(block->weights, type, at + (size_t)j, j < seen ? weight : 0.0f);
        store(block->gradients, type, at + (size_t)j, j < seen ? gradient : 0.0f);
    }
}

ALWAYS_INLINE void slope_row(const LsAttentionBlock *block, size_t row, LsDtype type)
{
    size_t seen = seen_by(block, row), first = row * block->columns, i = 0;
    const Slopes slopes = {block->scale, block->log_sum[row], block->products[row]};
    for (; i + LANES <= seen; i += LANES)
        slope_lanes(block, &slopes, first + i, LANES, type);
    if (i < seen)
        slope_lanes(block, &slopes, first + i, (int)(seen - i), type);
    clear_unseen(block->weights, type, first, seen, block->columns);
    clear_unseen(block->gradients, type, first, seen, block->columns);
}

void LOOPS(attention_slopes)(const LsAttentionBlock *block)
{
    for (size_t row = 0; row < block->rows; row++)
        if (block->type == LS_F32)
            slope_row(block, row, LS_F32);
        else
            slope_row(block, row, LS_BF16);
}

void LOOPS(attention_finish)(const LsAttentionBlock *block, void *out, size_t stride, float *log_sum)
{
    for (size_t row = 0; row < block->rows; row++) {
        const float *values = block->values + row * block->size;
        float total = block->total[row];
        log_sum[row] = block->largest[row] + logarithm(total);
        if (block->type == LS_F32) {
            ELEMENTWISE
            for (size_t i = 0; i < block->size; i++)
                store(out, LS_F32, row * stride + i, values[i] / total);
        } else {
            ELEMENTWISE
            for (size_t i = 0; i < block->size; i++)
                store(out, LS_BF16, row * stride + i, values[i] / total);
        }
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

void LOOPS(attention_store)(
    const float *from, size_t rows, size_t size, void *to, size_t stride, LsDtype type)
{
    for (size_t row = 0; row < rows; row++)
        if (type == LS_F32) {
            memcpy((float *)to + row * stride, from + row * size, size * sizeof *from);
        } else {
            ELEMENTWISE
            for (size_t i = 0; i < size; i++)
                store(to, LS_BF16, row * stride + i, from[row * size + i]);
        }
}

ALWAYS_INLINE float dot(const void *a, const void *b, size_t first, size_t n, LsDtype type)
{
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += load(a, type, first + i + j) * load(b, type, first + i + j);
    for (size_t j = 0; i < n; i++, j++)
        lanes[j] += load(a, type, first + i) * load(b, type, first + i);
    return sum_lanes(lanes);
}

void LOOPS(attention_products)(
    const void *a, const void *b, size_t rows, size_t size, size_t stride, LsDtype type, float *products)
{
    for (size_t row = 0; row < rows; row++)
        products[row] =
            type == LS_F32 ? dot(a, b, row * stride, size, LS_F32) : dot(a, b, row * stride, size, LS_BF16);
}
