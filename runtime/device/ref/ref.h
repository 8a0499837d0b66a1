// The reference ops, one file per family. Everything is computed per element in the plainest way that is
// right: values are loaded to float, sums and transcendental functions run in float64, and each result is
// rounded once to its type.
#ifndef LOCKSTEP_DEVICE_REF_H
#define LOCKSTEP_DEVICE_REF_H

#include "../backend.h"

LsStatus ls_ref_cast(LsDevice *device, const LsCast *args);
LsStatus ls_ref_normalize(LsDevice *device, const LsNormalize *args);
LsStatus ls_ref_matmul(LsDevice *device, const LsMatmul *args);
LsStatus ls_ref_bias_gradient(LsDevice *device, const LsBiasGradient *args);
LsStatus ls_ref_activation_backward(LsDevice *device, const LsActivationBackward *args);
LsStatus ls_ref_dropout(LsDevice *device, const LsDropout *args);
LsStatus ls_ref_add(LsDevice *device, const LsAdd *args);
LsStatus ls_ref_cross_entropy(LsDevice *device, const LsLossArgs *args);
LsStatus ls_ref_binary_cross_entropy(LsDevice *device, const LsLossArgs *args);
LsStatus ls_ref_mean_squared_error(LsDevice *device, const LsLossArgs *args);
LsStatus ls_ref_sum(LsDevice *device, const LsSum *args);
LsStatus ls_ref_block_squares(LsDevice *device, const LsBlockSquares *args);
LsStatus ls_ref_tree_add(LsDevice *device, const LsTreeAdd *args);
LsStatus ls_ref_fingerprint_bits(LsDevice *device, const LsFingerprint *args);
LsStatus ls_ref_decide_step(LsDevice *device, const LsDecideStep *args);
LsStatus ls_ref_trust_ratios(LsDevice *device, const LsTrustRatios *args);
LsStatus ls_ref_optimizer_step(LsDevice *device, const LsOptimizerStep *args);
LsStatus ls_ref_embedding(LsDevice *device, const LsEmbedding *args);
LsStatus ls_ref_embedding_gradient(LsDevice *device, const LsEmbeddingGradient *args);
LsStatus ls_ref_layer_norm(LsDevice *device, const LsLayerNorm *args);
LsStatus ls_ref_layer_norm_backward(LsDevice *device, const LsLayerNormBackward *args);
LsStatus ls_ref_attention(LsDevice *device, const LsAttention *args);
LsStatus ls_ref_attention_backward(LsDevice *device, const LsAttentionBackward *args);
LsStatus ls_ref_convolution(LsDevice *device, const LsConvolution *args);
LsStatus ls_ref_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args);
LsStatus ls_ref_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args);
LsStatus ls_ref_batch_norm(LsDevice *device, const LsBatchNorm *args);
LsStatus ls_ref_batch_norm_backward(LsDevice *device, const LsBatchNormBackward *args);
LsStatus ls_ref_max_pool(LsDevice *device, const LsMaxPool *args);
LsStatus ls_ref_max_pool_backward(LsDevice *device, const LsMaxPoolBackward *args);
LsStatus ls_ref_average_pool(LsDevice *device, const LsAveragePool *args);
LsStatus ls_ref_average_pool_backward(LsDevice *device, const LsAveragePoolBackward *args);

// Element i of an F32, BF16 or F16 array.
static inline float ls_ref_load(const void *array, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)array)[i];
    uint16_t half = ((const uint16_t *)array)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(half) : ls_f16_to_f32(half);
}

static inline void ls_ref_store(void *array, LsDtype type, size_t i, float value)
{
    if (type == LS_F32)
        ((float *)array)[i] = value;
    else
        ((uint16_t *)array)[i] = type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

#endif
