// The loops of one instruction set, for the table that names them.
#ifndef LOCKSTEP_DEVICE_CPU_PARTS_H
#define LOCKSTEP_DEVICE_CPU_PARTS_H

#include "lanes.h"

LsStatus LOOPS(cast)(LsDevice *device, const LsCast *args);
LsStatus LOOPS(normalize)(LsDevice *device, const LsNormalize *args);
LsStatus LOOPS(bias_gradient)(LsDevice *device, const LsBiasGradient *args);
LsStatus LOOPS(activation_backward)(LsDevice *device, const LsActivationBackward *args);
LsStatus LOOPS(dropout)(LsDevice *device, const LsDropout *args);
LsStatus LOOPS(add)(LsDevice *device, const LsAdd *args);
LsStatus LOOPS(cross_entropy)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(binary_cross_entropy)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(mean_squared_error)(LsDevice *device, const LsLossArgs *args);
LsStatus LOOPS(sum)(LsDevice *device, const LsSum *args);
LsStatus LOOPS(block_squares)(LsDevice *device, const LsBlockSquares *args);
LsStatus LOOPS(optimizer_step)(LsDevice *device, const LsOptimizerStep *args);
void LOOPS(activate)(LsActivation activation, size_t n, const void *x, void *y, LsDtype type);
LsStatus LOOPS(tree_add)(const LsTreeAdd *args, LsTreeScratch scratch);
LsStatus LOOPS(embedding)(LsDevice *device, const LsEmbedding *args);
LsStatus LOOPS(embedding_gradient)(LsDevice *device, const LsEmbeddingGradient *args);
LsStatus LOOPS(layer_norm)(LsDevice *device, const LsLayerNorm *args);
LsStatus LOOPS(layer_norm_backward)(LsDevice *device, const LsLayerNormBackward *args);
LsStatus LOOPS(batch_norm)(LsDevice *device, const LsBatchNorm *args);
LsStatus LOOPS(batch_norm_backward)(LsDevice *device, const LsBatchNormBackward *args);
LsStatus LOOPS(max_pool)(LsDevice *device, const LsMaxPool *args);
LsStatus LOOPS(max_pool_backward)(LsDevice *device, const LsMaxPoolBackward *args);
LsStatus LOOPS(average_pool)(LsDevice *device, const LsAveragePool *args);
LsStatus LOOPS(average_pool_backward)(LsDevice *device, const LsAveragePoolBackward *args);
void LOOPS(attention_weigh)(const LsAttentionBlock *block);
void LOOPS(attention_finish)(const LsAttentionBlock *block, void *out, size_t stride, float *log_sum);
void LOOPS(attention_slopes)(const LsAttentionBlock *block);
void LOOPS(attention_products)(
    const void *a, const void *b, size_t rows, size_t size, size_t stride, LsDtype type, float *products);
void LOOPS(attention_gather)(const char *from, size_t rows, size_t bytes, size_t stride, char *to);
void LOOPS(attention_store)(
    const float *from, size_t rows, size_t size, void *to, size_t stride, LsDtype type);
void LOOPS(attention_row)(const LsAttentionRow *row);

#endif
