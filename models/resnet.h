// Private to the ResNet's source files: its places in the flat buffers and its activations.
#ifndef LOCKSTEP_MODELS_RESNET_H
#define LOCKSTEP_MODELS_RESNET_H

#include "models.h"

// A convolution and the normalisation behind it. Places in the flat buffers are in elements.
typedef struct LsResnetUnit {
    LsConvolutionShape shape; // of max_rows images
    size_t high, wide;        // places of the result
    size_t weight, gamma, beta, running;
    size_t end; // of its parameters in the flat buffer
    LsActivation activation;
    const void *input;      // NULL: the batch's
    void *convolved;        // [rows][high][wide][out]: what is normalised
    void *output;           // behind normalisation, residual and activation
    float *mean, *variance; // [out] of the newest microbatch
} LsResnetUnit;

enum { LS_RESNET_UNITS = 3 }; // of a block, at most

// output = relu(units(input) + shortcut(input)).
typedef struct LsResnetBlock {
    bool projects;         // the shortcut is a unit, whose output is the block's before the rest is added;
    LsResnetUnit shortcut; // else it is the input itself
    size_t units;
    LsResnetUnit unit[LS_RESNET_UNITS];
} LsResnetBlock;

// Gradients of activations: three buffers that take turns, each as large as the largest activation.
enum { LS_RESNET_GRADIENTS = 3 };

typedef struct LsResnet {
    LsModel base;
    LsDtype type; // compute type
    float smoothing;
    LsResnetUnit stem;
    bool pools;           // a maximum pool follows the stem
    LsImageWindow pool;   // of max_rows images
    size_t pooled_places; // of an image behind the pool
    void *pooled;
    uint8_t *pool_place;
    size_t blocks;
    LsResnetBlock *block;
    size_t features;         // channels behind the last block
    size_t places;           // of an image there
    void *averaged;          // [rows][features]
    size_t weight, bias;     // of the output layer
    void *outputs;           // [rows][outputs] F32
    void *output_gradient;   // likewise
    void *output_rounded;    // in the compute type; in FP32 it is output_gradient
    void *averaged_gradient; // [rows][features]
    void *gradient[LS_RESNET_GRADIENTS];
    void *scratch; // of the ops
    float *row_loss;
    float statistics_weight; // of the newest loss: rows by its scale of gradients
} LsResnet;

// The weights' element `element`, in the compute type.
static inline const void *ls_resnet_at(const LsResnet *resnet, const void *weights, size_t element)
{
    return (const char *)weights + element * ls_dtype_size(resnet->type);
}

// The shape for the rows of a batch.
static inline LsConvolutionShape ls_resnet_shape(const LsResnetUnit *unit, const LsBatch *batch)
{
    LsConvolutionShape shape = unit->shape;
    shape.window.rows = batch->rows;
    return shape;
}

static inline const void *ls_resnet_input(const LsResnetUnit *unit, const LsBatch *batch)
{
    return unit->input ? unit->input : batch->inputs;
}

// The last unit of a block, whose output is the block's.
static inline LsResnetUnit *ls_resnet_last(LsResnetBlock *block)
{
    return &block->unit[block->units - 1];
}

LsStatus ls_resnet_forward(LsModel *model, const void *weights, const LsBatch *batch, bool train);

LsStatus ls_resnet_backward(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
    bool accumulate, LsGradientsReady ready, void *context);

// Allocates the activations, or counts their bytes without a device.
LsStatus ls_resnet_reserve(LsResnet *resnet);
void ls_resnet_release(LsResnet *resnet);

#endif
