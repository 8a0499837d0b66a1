// One head of one window at a time: its rows of the packed projections are gathered into matrices of their
// own, whose products reach the library's fast kernels (those of matrices with gaps between rows are slower,
// and a copy takes a hundredth of the products' time). Rows are filled up with zeros to a multiple of PAD, so
// that windows of any length share few kernels. A few queries at the end of a window, as generation asks for,
// read their keys and values where they are.
#include "attention.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum {
    QUERIES = 64, // of a block, a divisor of KEYS
    KEYS = 256,   // scores of a block, and what becomes of them, stay in the second-level cache
    PAD = 16,
    FEW = 16 // queries that are no block
};

typedef struct Attention {
    LsCpuMultiplier *multiplier;
    const LsCpuLoops *loops;
    size_t window, padded, heads, size;
    LsDtype type;
    char *q, *k, *v, *dout;    // [padded][size] of the type
    float *dq, *dk, *dv;       // [QUERIES][size], [padded][size]
    float *scores, *slopes;    // [QUERIES][KEYS]
    void *weights, *gradients; // of the type
    float *largest, *total;    // [QUERIES]
    float *values;             // [QUERIES][size]
} Attention;

static size_t padded(size_t n)
{
    return (n + PAD - 1) / PAD * PAD;
}

// ---- Memory ---------------------------------------------------------------------------------------------

typedef struct Part {
    void **pointer;
    size_t count, element;
} Part;

// Bytes of all parts, each on a boundary of LS_ALIGNMENT, and their places from `base` on unless it is NULL.
static bool place(const Part *parts, size_t count, char *base, size_t *total)
{
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        if (!ls_size_multiply(parts[i].count, parts[i].element, &bytes) || bytes > SIZE_MAX / 64)
            return false;
        if (base)
            *parts[i].pointer = base + *total;
        *total += (bytes + LS_ALIGNMENT - 1) / LS_ALIGNMENT * LS_ALIGNMENT;
    }
    return true;
}

static LsStatus prepare(Attention *a, LsCpuMemory *memory, bool backward)
{
    size_t element = ls_dtype_size(a->type), rows, block = (size_t)QUERIES * KEYS, bytes;
    a->padded = padded(a->window);
    if (!ls_size_multiply(a->padded, a->size, &rows))
        return LS_FAIL(LS_INTERNAL, "attention: %zu tokens of %zu values are too many", a->window, a->size);
    size_t back = backward ? rows : 0, back_block = backward ? block : 0;
    const Part parts[] = {{(void **)&a->q, rows, element}, {(void **)&a->k, rows, element},
        {(void **)&a->v, rows, element}, {(void **)&a->dout, back, element},
        {(void **)&a->dk, back, sizeof(float)}, {(void **)&a->dv, back, sizeof(float)},
        {(void **)&a->dq, QUERIES * a->size, sizeof(float)}, {(void **)&a->scores, block, sizeof(float)},
        {(void **)&a->slopes, back_block, sizeof(float)}, {&a->weights, block, element},
        {&a->gradients, back_block, element}, {(void **)&a->largest, QUERIES, sizeof(float)},
        {(void **)&a->total, QUERIES, sizeof(float)},
        {(void **)&a->values, QUERIES * a->size, sizeof(float)}};
    size_t count = sizeof parts / sizeof *parts;
    if (!place(parts, count, NULL, &bytes))
        return LS_FAIL(LS_INTERNAL, "attention: %zu tokens of %zu values are too many", a->window, a->size);
    LS_TRY(ls_cpu_memory_grow(memory, bytes));
    place(parts, count, memory->memory, &bytes);
    return LS_OK;
}

// Gathers a head's rows, `stride` values apart.
static void gather(const Attention *a, const char *from, size_t stride, char *to)
{
    size_t element = ls_dtype_size(a->type), bytes = a->size * element;
    a->loops->attention_gather(from, a->window, bytes, stride * element, to);
    memset(to + a->window * bytes, 0, (a->padded - a->window) * bytes);
}

static void gather_head(const Attention *a, const void *qkv, size_t window, size_t head)
{
    size_t width = a->heads * a->size, element = ls_dtype_size(a->type);
    const char *q = (const char *)qkv + (window * a->window * 3 * width + head * a->size) * element;
    gather(a, q, 3 * width, a->q);
    gather(a, q + width * element, 3 * width, a->k);
    gather(a, q + 2 * width * element, 3 * width, a->v);
}

// ---- Blocks ---------------------------------------------------------------------------------------------

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Queries of a block and keys of one that they may see, both filled up.
static LsAttentionBlock block_at(const Attention *a, size_t query, size_t key)
{
    size_t rows = smaller(QUERIES, a->padded - query);
    return (LsAttentionBlock){.rows = rows,
        .columns = smaller(KEYS, query + rows - key),
        .query = query,
        .key = key,
        .size = a->size,
        .type = a->type,
        .scale = 1.0f / sqrtf((float)a->size),
        .scores = a->scores,
        .slopes = a->slopes,
        .weights = a->weights,
        .gradients = a->gradients,
        .largest = a->largest,
        .total = a->total,
        .values = a->values};
}

static const char *row_of(const Attention *a, const char *matrix, size_t row)
{
    return matrix + row * a->size * ls_dtype_size(a->type);
}

// c (+)= a bᵀ over a head's values: scores of queries and keys.
static LsStatus multiply_heads(
    const Attention *a, const LsAttentionBlock *block, const char *rows, const char *columns, float *c)
{
    LsMatmul product = {.m = block->rows,
        .n = block->columns,
        .k = a->size,
        .transpose_b = true,
        .a = row_of(a, rows, block->query),
        .b = row_of(a, columns, block->key),
        .input_type = a->type,
        .c = c,
        .output_type = LS_F32};
    return ls_cpu_multiply(a->multiplier, &product);
}

// c (+)= w b, sums over keys with the weights of a block.
static LsStatus sum_over_keys(
    const Attention *a, const LsAttentionBlock *block, const void *weights, const char *b, float *c)
{
    LsMatmul product = {.m = block->rows,
        .n = a->size,
        .k = block->columns,
        .a = weights,
        .b = row_of(a, b, block->key),
        .input_type = a->type,
        .c = c,
        .output_type = LS_F32,
        .accumulate = block->key > 0};
    return ls_cpu_multiply(a->multiplier, &product);
}

// c += wᵀ b, sums over queries.
static LsStatus sum_over_queries(
    const Attention *a, const LsAttentionBlock *block, const void *weights, const char *b, float *c)
{
    LsMatmul product = {.m = block->columns,
        .n = a->size,
        .k = block->rows,
        .transpose_a = true,
        .a = weights,
        .b = row_of(a, b, block->query),
        .input_type = a->type,
        .c = c + block->key * a->size,
        .output_type = LS_F32,
        .accumulate = true};
    return ls_cpu_multiply(a->multiplier, &product);
}

// ---- Forward --------------------------------------------------------------------------------------------

// A block of queries, of which those from `first` on are stored.
static LsStatus attend(const Attention *a, size_t query, size_t first, char *out, float *log_sum)
{
    LsAttentionBlock block;
    for (size_t i = 0; i < QUERIES; i++)
        a->largest[i] = -INFINITY;
    for (size_t key = 0; key <= query; key += KEYS) {
        block = block_at(a, query, key);
        LS_TRY(multiply_heads(a, &block, a->q, a->k, a->scores));
        a->loops->attention_weigh(&block);
        LS_TRY(sum_over_keys(a, &block, a->weights, a->v, a->values));
    }
    size_t width = a->heads * a->size, skipped = first > query ? first - query : 0;
    query += skipped;
    block.rows = smaller(QUERIES - skipped, a->window - query); // those that there are
    block.largest += skipped;
    block.total += skipped;
    block.values += skipped * a->size;
    a->loops->attention_finish(&block, out + query * width * ls_dtype_size(a->type), width, log_sum + query);
    return LS_OK;
}

static LsStatus attend_few(const LsCpuLoops *loops, LsCpuMemory *memory, const LsAttention *args)
{
    size_t width = args->heads * args->size, element = ls_dtype_size(args->type), bytes;
    LsAttentionRow row = {.size = args->size,
        .stride = 3 * width,
        .type = args->type,
        .scale = 1.0f / sqrtf((float)args->size)};
    const Part parts[] = {{(void **)&row.scores, padded(args->window), sizeof(float)},
        {&row.weights, padded(args->window), element}};
    if (!place(parts, 2, NULL, &bytes))
        return LS_FAIL(LS_INTERNAL, "attention: %zu tokens are too many", args->window);
    LS_TRY(ls_cpu_memory_grow(memory, bytes));
    place(parts, 2, memory->memory, &bytes);
    for (size_t i = 0; i < args->windows * args->heads; i++) {
        size_t column = i % args->heads * args->size, token = i / args->heads * args->window;
        const char *q = (const char *)args->qkv + (token * 3 * width + column) * element;
        row.k = q + width * element;
        row.v = q + 2 * width * element;
        for (size_t query = args->first; query < args->window; query++) {
            row.keys = query + 1;
            row.q = q + query * 3 * width * element;
            row.out = (char *)args->out + ((token + query) * width + column) * element;
            row.log_sum = args->log_sum + i * args->window + query;
            loops->attention_row(&row);
        }
    }
    return LS_OK;
}

LsStatus ls_cpu_attention(LsCpuMultiplier *multiplier, LsCpuMemory *memory, const LsAttention *args)
{
    Attention a = {.multiplier = multiplier,
        .loops = multiplier->loops,
        .window = args->window,
        .heads = args->heads,
        .size = args->size,
        .type = args->type};
    if (args->first >= args->window)
        return LS_OK;
    if (args->first > 0 && args->window - args->first < FEW)
        return attend_few(multiplier->loops, memory, args);
    LS_TRY(prepare(&a, memory, false));
    for (size_t i = 0; i < args->windows * args->heads; i++) {
        size_t window = i / args->heads, head = i % args->heads;
        size_t first = (window * args->window * args->heads + head) * args->size;
        gather_head(&a, args->qkv, window, head);
        for (size_t query = args->first / QUERIES * QUERIES; query < args->window; query += QUERIES)
            LS_TRY(attend(&a, query, args->first, (char *)args->out + first * ls_dtype_size(args->type),
                args->log_sum + i * args->window));
    }
    return LS_OK;
}

// ---- Backward -------------------------------------------------------------------------------------------

// The part of a block of queries in all gradients. Blocks come in ascending order, and so sums over queries
// do.
static LsStatus gradients_of(const Attention *a, size_t query, const float *log_sum, const float *products)
{
    size_t there = smaller(QUERIES, a->window - query);
    for (size_t i = 0; i < QUERIES; i++) { // zero rows have no gradients
        a->largest[i] = i < there ? log_sum[query + i] : 0.0f;
        a->total[i] = i < there ? products[query + i] : 0.0f;
    }
    for (size_t key = 0; key <= query; key += KEYS) {
        LsAttentionBlock block = block_at(a, query, key);
        block.log_sum = a->largest;
        block.products = a->total;
        LS_TRY(multiply_heads(a, &block, a->q, a->k, a->scores));
        LS_TRY(multiply_heads(a, &block, a->dout, a->v, a->slopes));
        a->loops->attention_slopes(&block);
        LS_TRY(sum_over_queries(a, &block, a->weights, a->dout, a->dv));
        LS_TRY(sum_over_queries(a, &block, a->gradients, a->q, a->dk));
        LS_TRY(sum_over_keys(a, &block, a->gradients, a->k, a->dq));
    }
    return LS_OK;
}

static LsStatus head_gradients(const Attention *a, const float *log_sum, const float *products, char *dqkv)
{
    size_t width = a->heads * a->size, element = ls_dtype_size(a->type), stride = 3 * width;
    memset(a->dk, 0, a->padded * a->size * sizeof *a->dk);
    memset(a->dv, 0, a->padded * a->size * sizeof *a->dv);
    for (size_t query = 0; query < a->window; query += QUERIES) {
        LS_TRY(gradients_of(a, query, log_sum, products));
        a->loops->attention_store(a->dq, smaller(QUERIES, a->window - query), a->size,
            dqkv + query * stride * element, stride, a->type);
    }
    a->loops->attention_store(a->dk, a->window, a->size, dqkv + width * element, stride, a->type);
    a->loops->attention_store(a->dv, a->window, a->size, dqkv + 2 * width * element, stride, a->type);
    return LS_OK;
}

LsStatus ls_cpu_attention_backward(
    LsCpuMultiplier *multiplier, LsCpuMemory *memory, const LsAttentionBackward *args)
{
    Attention a = {.multiplier = multiplier,
        .loops = multiplier->loops,
        .window = args->window,
        .heads = args->heads,
        .size = args->size,
        .type = args->type};
    size_t width = args->heads * args->size, element = ls_dtype_size(args->type);
    LS_TRY(prepare(&a, memory, true));
    for (size_t i = 0; i < args->windows * args->heads; i++) {
        size_t row = i / args->heads * args->window, column = i % args->heads * args->size;
        size_t first = (row * width + column) * element;
        const char *out = (const char *)args->out + first, *dout = (const char *)args->dout + first;
        float *products = (float *)args->scratch + i * args->window;
        gather_head(&a, args->qkv, i / args->heads, i % args->heads);
        gather(&a, dout, width, a.dout);
        a.loops->attention_products(dout, out, args->window, args->size, width, args->type, products);
        LS_TRY(head_gradients(&a, args->log_sum + i * args->window, products,
            (char *)args->dqkv + (row * 3 * width + column) * element));
    }
    return LS_OK;
}
