// Our own loops of the cpu backend. The files of this folder are compiled once for each instruction set;
// which of the tables runs is decided when the device is opened.
//
// Both give the same bits: element loops use only exactly rounded operations and explicit fused
// multiply-adds, contraction is off, and sums run over a fixed number of lanes that does not depend on the
// width of a register.
#ifndef LOCKSTEP_DEVICE_CPU_LOOPS_H
#define LOCKSTEP_DEVICE_CPU_LOOPS_H

#include "../../backend.h"

// Elements that tree_add works on at a time: with eight inputs they stay in the first-level cache.
enum { LS_TREE_TILE = 512 };
typedef float LsTreeScratch[LS_TREE_INPUTS][LS_TREE_TILE];

// A block of attention: rows are queries, columns are keys, a multiple of 16, first ones `query` and `key`,
// which is not behind `query`. Matrices are [rows][columns] unless said otherwise.
typedef struct LsAttentionBlock {
    size_t rows, columns, query, key;
    size_t size; // of a head
    LsDtype type;
    float scale;
    const float *scores, *slopes; // q · k and dout · v
    void *weights, *gradients; // of `type`: the softmax and the scores' gradients, of which what a query may
                               // not see is zero
    float *largest, *total, *values; // forward: of the blocks so far, [rows], [rows], [rows][size]
    const float *log_sum, *products; // backward: [rows]; products: dout · out
} LsAttentionBlock;

// One query of a head, and the keys that it sees where they are.
typedef struct LsAttentionRow {
    size_t keys, size, stride; // stride: values from one key to the next
    LsDtype type;
    float scale;
    const void *q, *k, *v; // k, v: of the first key
    float *scores;         // [keys], and room up to a multiple of 16; as weights
    void *weights;         // of `type`
    void *out;
    float *log_sum;
} LsAttentionRow;

typedef struct LsCpuLoops {
    LsStatus (*cast)(LsDevice *device, const LsCast *args);
    LsStatus (*normalize)(LsDevice *device, const LsNormalize *args);
    LsStatus (*bias_gradient)(LsDevice *device, const LsBiasGradient *args);
    LsStatus (*activation_backward)(LsDevice *device, const LsActivationBackward *args);
    LsStatus (*dropout)(LsDevice *device, const LsDropout *args);
    LsStatus (*add)(LsDevice *device, const LsAdd *args);
    LsStatus (*cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*binary_cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*mean_squared_error)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*sum)(LsDevice *device, const LsSum *args);
    LsStatus (*block_squares)(LsDevice *device, const LsBlockSquares *args);
    LsStatus (*optimizer_step)(LsDevice *device, const LsOptimizerStep *args);
    LsStatus (*embedding)(LsDevice *device, const LsEmbedding *args);
    LsStatus (*embedding_gradient)(LsDevice *device, const LsEmbeddingGradient *args);
    LsStatus (*layer_norm)(LsDevice *device, const LsLayerNorm *args);
    LsStatus (*layer_norm_backward)(LsDevice *device, const LsLayerNormBackward *args);
    LsStatus (*batch_norm)(LsDevice *device, const LsBatchNorm *args);
    LsStatus (*batch_norm_backward)(LsDevice *device, const LsBatchNormBackward *args);
    LsStatus (*max_pool)(LsDevice *device, const LsMaxPool *args);
    LsStatus (*max_pool_backward)(LsDevice *device, const LsMaxPoolBackward *args);
    LsStatus (*average_pool)(LsDevice *device, const LsAveragePool *args);
    LsStatus (*average_pool_backward)(LsDevice *device, const LsAveragePoolBackward *args);

    // y = activation(x), n elements of `type`. y may be x.
    void (*activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type);
    LsStatus (*tree_add)(const LsTreeAdd *args, LsTreeScratch scratch);

    // weights = exp(scores × scale - largest) with `largest` raised to this block's; total and values, which
    // are undefined before the block of key 0, are brought to the new one, and the weights added to total.
    void (*attention_weigh)(const LsAttentionBlock *block);
    // out[row × stride …] = values / total, and the logarithms.
    void (*attention_finish)(const LsAttentionBlock *block, void *out, size_t stride, float *log_sum);
    // weights = exp(scores × scale - log_sum), gradients = weights × (slopes - products) × scale.
    void (*attention_slopes)(const LsAttentionBlock *block);
    // products[row] = a · b over `size` values from row × stride on.
    void (*attention_products)(
        const void *a, const void *b, size_t rows, size_t size, size_t stride, LsDtype type, float *products);
    // Copies rows of `bytes`, which is even, that are `stride` bytes apart.
    void (*attention_gather)(const char *from, size_t rows, size_t bytes, size_t stride, char *to);
    // Rounds rows of `size` values to rows that are `stride` apart.
    void (*attention_store)(
        const float *from, size_t rows, size_t size, void *to, size_t stride, LsDtype type);
    void (*attention_row)(const LsAttentionRow *row);
} LsCpuLoops;

extern const LsCpuLoops ls_cpu_loops_avx2, ls_cpu_loops_avx512;

#endif
