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

ALWAYS_INLINE void clear_unseen(void *weights, LsDtype type, size_t first, size_t count)
{
    memset((char *)weights + first * ls_dtype_size(type), 0, count * ls_dtype_size(type));
}

ALWAYS_INLINE float largest_of(const float *x, size_t n)
{
    float lanes[LANES];
    for (int j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (size_t j = 0; i < n; i++, j++)
        lanes[j] = x[i] > lanes[j] ? x[i] : lanes[j];
    float largest = lanes[0];
    for (int j = 1; j < LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}

// Stores exp(x × scale - largest) and returns the sum of what it is before it is rounded.
ALWAYS_INLINE float exponentials(
    const float *x, size_t n, float scale, float largest, void *weights, LsDtype type, size_t first)
{
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float weight = exponential(__builtin_fmaf(x[i + j], scale, -largest));
            store(weights, type, first + i + j, weight);
            lanes[j] += weight;
        }
    for (size_t j = 0; i < n; i++, j++) {
        float weight = exponential(__builtin_fmaf(x[i], scale, -largest));
        store(weights, type, first + i, weight);
        lanes[j] += weight;
    }
    return sum_lanes(lanes);
}

ALWAYS_INLINE void weigh_row(const LsAttentionBlock *block, size_t row, LsDtype type)
{
    size_t seen = seen_by(block, row), first = row * block->columns;
    const float *scores = block->scores + first;
    float before = block->largest[row], here = largest_of(scores, seen) * block->scale;
    float largest = here > before ? here : before;
    float sum = exponentials(scores, seen, block->scale, largest, block->weights, type, first);
    clear_unseen(block->weights, type, first + seen, block->columns - seen);
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

ALWAYS_INLINE void slope_row(const LsAttentionBlock *block, size_t row, LsDtype type)
{
    size_t seen = seen_by(block, row), first = row * block->columns;
    float scale = block->scale, log_sum = block->log_sum[row], product = block->products[row];
    ELEMENTWISE
    for (size_t i = first; i < first + seen; i++) {
        float weight = exponential(__builtin_fmaf(block->scores[i], scale, -log_sum));
        store(block->weights, type, i, weight);
        store(block->gradients, type, i, weight * (block->slopes[i] - product) * scale);
    }
    clear_unseen(block->weights, type, first + seen, block->columns - seen);
    clear_unseen(block->gradients, type, first + seen, block->columns - seen);
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
