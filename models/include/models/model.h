// The model interface. A model knows its parameters, its activations and the order of its operations. It
// knows nothing of ranks, lanes or communication: gradients go into a flat buffer that it is handed, and it
// says when ranges of that buffer are final.
#ifndef LOCKSTEP_MODELS_MODEL_H
#define LOCKSTEP_MODELS_MODEL_H

#include "base/config.h"
#include "device/device.h"
#include "models/parameters.h"

typedef struct LsModel LsModel;

// What the data set looks like to a model. Filled from the data file.
typedef struct LsDataShape {
    size_t features; // values of one sample
    size_t height, width,
        channels;   // of a sample that is an image, whose product `features` is; 0: it is none
    size_t outputs; // classes, or regression outputs; 1 for binary cross-entropy
    bool classes;   // targets are class labels (int32), else float values [outputs]
    size_t window;  // tokens of a sample of a token data set, 0 otherwise: then features and outputs are 0,
                    // inputs and labels are tokens
    size_t vocabulary;
} LsDataShape;

// One microbatch in device memory.
typedef struct LsBatch {
    size_t rows;
    const void *inputs;    // [rows][features], of an image [rows][height][width][channels], of the device's
                           // compute type; or int32 tokens [rows][window]
    const int32_t *labels; // [rows] or NULL; tokens [rows][window], each the one that follows
    const float *targets;  // [rows][outputs] or NULL
    const uint64_t *positions; // [rows] stream positions, the randomness of dropout
} LsBatch;

// Called when the gradient elements [first, ∞) of the flat buffer have been enqueued to their end: backward
// runs from the last parameter to the first, so `first` only falls, down to 0. A failure ends backward.
typedef LsStatus (*LsGradientsReady)(void *context, size_t first);

// Called before forward enqueues what reads weights below element `end` of the flat buffer; `end` only rises.
typedef LsStatus (*LsWeightsNeeded)(void *context, size_t end);

typedef struct LsModelOps {
    const char *name;
    // Activations for at most max_rows rows are allocated at creation. One forward's activations serve the
    // backward that follows it. forward: outputs() then gives [rows][outputs], F32 whatever the compute
    // type is. train: dropout is on.
    LsStatus (*forward)(LsModel *model, const void *weights, const LsBatch *batch, bool train);
    // Adds the batch's loss sum to *loss_sum (device float) when not NULL, writes row losses to row_loss
    // [rows] (device) when not NULL, and, with gradient_scale not 0, prepares the output gradient for
    // backward. A language model, whose logits only ever exist in parts, then computes all this in backward:
    // sum and losses are there when that returns. The loss of a window is the mean over its tokens.
    LsStatus (*loss)(LsModel *model, const LsBatch *batch, float gradient_scale, const float *loss_scale,
        float *loss_sum, float *row_loss);
    // gradients[i] (+)= d loss / d parameter i, F32, whole flat buffer (but see LsModel.places). accumulate:
    // add to what is there.
    LsStatus (*backward)(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
        bool accumulate, LsGradientsReady ready, void *context);
    const void *(*outputs)(const LsModel *model); // NULL for a language model
    // Generation, NULL where a model does none.
    // step: computes token `place` of a batch of one window alone; the ones before it, and what they left for
    // it, are those of the newest forward pass and of the steps since.
    LsStatus (*step)(LsModel *model, const void *weights, const LsBatch *batch, size_t place);
    // next: the logits of what follows token `place` of window `row` of the newest forward pass or step, to
    // host memory [vocabulary].
    LsStatus (*next)(LsModel *model, size_t row, size_t place, float *logits);
    void (*destroy)(LsModel *model);
} LsModelOps;

// Where gradients lie that are not kept: parts of the flat buffer, whole tensors each, that share memory.
typedef struct LsGradientPlace {
    size_t first; // element of the flat buffer
    size_t place; // where it lies in the memory that backward is handed
} LsGradientPlace;

typedef struct LsGradientPlaces {
    size_t count;
    const LsGradientPlace *part; // [count] from the end of the flat buffer to its start
} LsGradientPlaces;

// Models extend this struct: the first member of theirs is an LsModel.
struct LsModel {
    const LsModelOps *ops;
    LsDevice *device;        // lent
    LsParameters parameters; // owned
    LsDataShape shape;
    LsLossKind loss_kind; // never auto
    size_t max_rows;
    size_t activation_bytes; // device memory held
    size_t library_bytes;    // and what a GPU's libraries may use for its ops, products aside
    size_t early_elements;   // at the start of the flat buffer: backward adds to their gradients before it is
                             // their turn
    const LsGradientPlaces *places; // lent; NULL: backward is handed a whole flat buffer
    LsWeightsNeeded need;           // where weights come while forward runs; NULL: they are there
    void *need_context;
    double flops_per_sample; // of the products that forward and backward do for one sample: 2 for each
                             // multiply-add
};

// Builds the model that the configuration names, for data of the given shape (see ls_data_shape in
// train/batch.h: binary cross-entropy on two classes has one output and float targets). max_rows is the
// largest microbatch (training or evaluation). With device NULL only the parameter table, flops_per_sample
// and activation_bytes are made (--dry-run). LS_CONFIG if model and data do not fit.
LsStatus ls_model_create(
    const LsConfig *config, const LsDataShape *shape, LsDevice *device, size_t max_rows, LsModel **out);
void ls_model_destroy(LsModel *model);

// Says that weights below `end` are read next. For models.
LsStatus ls_model_need(const LsModel *model, size_t end);

// Where the gradient of the tensor at `offset` of the flat buffer goes. For models.
float *ls_model_gradient(const LsModel *model, float *gradients, size_t offset);

#endif
