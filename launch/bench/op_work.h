// What one call of an op has to do, from its arguments alone.
//
// bytes: every operand read or written once, twice where the op adds to what is there; scratch memory and
// what a kernel reads again do not count. flops: of products, 2 for each multiply-add; the causal half of
// attention's scores. So both are lower bounds on what any kernel must do, and the time that they need at the
// machine's peaks is one of the time that the op needs.
#ifndef LOCKSTEP_BENCH_OP_WORK_H
#define LOCKSTEP_BENCH_OP_WORK_H

#include "device/device.h"

enum { OP_NAME = 128 };

typedef struct OpWork {
    char name[OP_NAME]; // op, shape, types and what is fused, alike for calls that cost alike
    double bytes, flops;
} OpWork;

OpWork work_of_copy(const char *name, size_t bytes, int touches);
OpWork work_of_cast(const LsCast *args);
OpWork work_of_normalize(const LsNormalize *args);
OpWork work_of_matmul(const LsMatmul *args);
OpWork work_of_bias_gradient(const LsBiasGradient *args);
OpWork work_of_activation_backward(const LsActivationBackward *args);
OpWork work_of_dropout(const LsDropout *args);
OpWork work_of_add(const LsAdd *args);
OpWork work_of_loss(const char *name, const LsLossArgs *args);
OpWork work_of_sum(const LsSum *args);
OpWork work_of_block_squares(const LsBlockSquares *args);
OpWork work_of_tree_add(const LsTreeAdd *args);
OpWork work_of_decide_step(const LsDecideStep *args);
OpWork work_of_trust_ratios(const LsTrustRatios *args);
OpWork work_of_optimizer_step(const LsOptimizerStep *args);
OpWork work_of_embedding(const LsEmbedding *args);
OpWork work_of_embedding_gradient(const LsEmbeddingGradient *args);
OpWork work_of_layer_norm(const LsLayerNorm *args);
OpWork work_of_layer_norm_backward(const LsLayerNormBackward *args);
OpWork work_of_attention(const LsAttention *args);
OpWork work_of_attention_backward(const LsAttentionBackward *args);
OpWork work_of_convolution(const LsConvolution *args);
OpWork work_of_convolution_backward_data(const LsConvolutionBackwardData *args);
OpWork work_of_convolution_backward_weights(const LsConvolutionBackwardWeights *args);
OpWork work_of_batch_norm(const LsBatchNorm *args);
OpWork work_of_batch_norm_backward(const LsBatchNormBackward *args);
OpWork work_of_max_pool(const LsMaxPool *args);
OpWork work_of_max_pool_backward(const LsMaxPoolBackward *args);
OpWork work_of_average_pool(const LsAveragePool *args);
OpWork work_of_average_pool_backward(const LsAveragePoolBackward *args);

#endif
