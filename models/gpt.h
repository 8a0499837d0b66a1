// Private to the GPT's source files: its places in the flat buffers and its activations.
#ifndef LOCKSTEP_MODELS_GPT_H
#define LOCKSTEP_MODELS_GPT_H

#include "models.h"

// A linear layer or a normalisation; places in the flat buffers, in elements.
typedef struct LsGptLayer {
    size_t in, out; // of a normalisation: both its width
    size_t weight, bias;
} LsGptLayer;

typedef struct LsGptNorm {
    LsGptLayer layer;
    void *output;       // [tokens][width]
    float *mean, *rstd; // [tokens]
} LsGptNorm;

// With model.recompute, blocks share what they do not keep.
typedef struct LsGptBlock {
    LsGptLayer qkv, projection, up, down;
    LsGptNorm norm1, norm2;
    void *input;     // [tokens][width]: the residual stream before the block; always kept
    void *projected; // [tokens][3 width]: queries, keys and values
    void *attended;  // [tokens][width]
    float *log_sum;  // [windows][heads][window]
    void *middle;    // [tokens][width]: the residual stream between attention and MLP
    void *before;    // [tokens][4 width]: in front of GELU
    void *hidden;    // [tokens][4 width]: behind it
} LsGptBlock;

typedef struct LsGpt {
    LsModel base;
    LsDtype type; // compute type
    int recompute;
    size_t blocks, heads, width, window;
    size_t vocabulary; // with padding
    double dropout, init_std;
    uint64_t seed;
    // Of the newest forward pass.
    const void *weights;
    bool dropped;             // dropout was applied
    size_t tokens, positions; // places of the tables wte and wpe in the flat buffers
    LsGptBlock *block;        // [blocks]
    size_t held;              // the block whose values are in the shared activations
    void *stream;             // [tokens][width]: the residual stream behind the last block
    LsGptNorm norm;           // of it
    void *branch;             // [tokens][width]: what a block adds to the stream
    void *dstream, *dother;   // [tokens][width]: gradients
    void *wide;               // [tokens][4 width], or a chunk's logits
    void *scratch;            // of the ops
    void *padding;            // [vocabulary]: what is added to logits, 0 for tokens; NULL without padding
    size_t chunk;             // tokens of which logits exist at a time
    float *token_loss;        // [tokens]
    float *window_loss;       // [2][windows]: sums over tokens, means
    float *share;             // {0, 1 / window}
    // What the newest loss was asked for; with a gradient, backward computes it chunk by chunk.
    struct {
        float gradient_scale;
        const float *loss_scale;
        float *sum, *rows;
    } loss;
} LsGpt;

// The weights' element `element`, in the compute type.
const void *ls_gpt_at(const LsGpt *gpt, const void *weights, size_t element);

// The address of element `element` of an activation.
void *ls_gpt_element(const LsGpt *gpt, const void *activation, size_t element);

// Dropout number `number` of the model, on a tensor of width columns or its gradient.
LsStatus ls_gpt_drop(const LsGpt *gpt, uint32_t number, const LsBatch *batch, const void *x, void *y);
enum { LS_GPT_DROP_EMBEDDING, LS_GPT_DROP_BLOCK }; // and two for each block: attention, MLP

LsStatus ls_gpt_forward(LsModel *model, const void *weights, const LsBatch *batch, bool train);

LsStatus ls_gpt_step(LsModel *model, const void *weights, const LsBatch *batch, size_t place);

// Brings back what backward needs of a block and was not kept.
LsStatus ls_gpt_recompute(LsGpt *gpt, size_t block, const void *weights, const LsBatch *batch);

LsStatus ls_gpt_loss(LsModel *model, const LsBatch *batch, float gradient_scale, const float *loss_scale,
    float *loss_sum, float *row_loss);

// Cross-entropy in chunks of tokens: losses, the token table's gradient, and the gradient of the final
// normalisation's output into gpt->dother.
LsStatus ls_gpt_head_backward(
    LsGpt *gpt, const void *weights, const LsBatch *batch, float *gradients, bool accumulate);

LsStatus ls_gpt_backward(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
    bool accumulate, LsGradientsReady ready, void *context);

LsStatus ls_gpt_next(LsModel *model, size_t row, size_t place, float *logits);

// Allocates the activations, or counts their bytes without a device.
LsStatus ls_gpt_reserve(LsGpt *gpt);
void ls_gpt_release(LsGpt *gpt);

#endif
