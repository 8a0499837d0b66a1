// A multi-layer perceptron: hidden layers h' = dropout(activation(h W^T + b)), with the residual option h' =
// h + dropout(activation(h W^T + b)) where the widths are equal, then one linear layer to the outputs.
//
// Weights are [out][in] and biases [out], named layers.N.weight and layers.N.bias. A weight in front of an
// activation starts uniform in ±sqrt(6 / in) (He et al., ICCV 2015: keeps the variance through ReLU), the
// output layer's in ±1 / sqrt(in), biases at zero. Weights decay, biases do not.
//
// Activations and their gradients are kept in the device's compute type. The outputs are F32 whatever that
// is: they are small, and the loss takes differences of them. Their gradient is rounded once to the compute
// type, as an operand of the products.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "models.h"

typedef struct Layer {
    size_t in, out;
    size_t weight, bias; // places in the flat buffers, in elements
    bool residual;
    void *output; // [max_rows][out]: the next layer's input; F32 for the last layer
    void *saved;  // what the activation's backward pass reads; for ReLU without residual it is `output`
} Layer;

typedef struct Mlp {
    LsModel base;
    LsDtype type; // compute type
    LsActivation activation;
    double dropout;
    float smoothing;
    uint64_t seed;
    bool dropped; // the newest forward pass applied dropout
    size_t layers;
    Layer *layer;
    void *output_delta; // [max_rows][outputs] F32: gradient of the outputs; delta[0] itself in FP32
    void *delta[2];     // [max_rows][widest out]: see backward
    size_t current;     // delta[current]: with respect to a layer's value before the activation
    float *row_loss;    // [max_rows]
} Mlp;

// ---- Forward --------------------------------------------------------------------------------------------

static const void *layer_input(const Mlp *mlp, size_t l, const LsBatch *batch)
{
    return l == 0 ? batch->inputs : mlp->layer[l - 1].output;
}

static const void *at(const Mlp *mlp, const void *weights, size_t element)
{
    return (const char *)weights + element * ls_dtype_size(mlp->type);
}

// Dropout of layer l's activations, or of their gradient: the same mask.
static LsStatus drop(Mlp *mlp, size_t l, const LsBatch *batch, const void *x, void *y)
{
    LsDropout args = {
        .rows = batch->rows,
        .columns = mlp->layer[l].out,
        .x = x,
        .y = y,
        .type = mlp->type,
        .rate = mlp->dropout,
        .seed = mlp->seed,
        .purpose = LS_RNG_DROPOUT + (uint32_t)l,
        .positions = batch->positions,
    };
    return mlp->base.device->ops->dropout(mlp->base.device, &args);
}

static LsStatus forward_hidden(Mlp *mlp, size_t l, const void *weights, const LsBatch *batch)
{
    const LsDeviceOps *ops = mlp->base.device->ops;
    const Layer *layer = &mlp->layer[l];
    const void *input = layer_input(mlp, l, batch);
    bool relu = mlp->activation == LS_RELU;
    // ReLU's backward pass needs f(h) itself, which dropout may zero (its gradient is zero there as well).
    void *branch = relu ? layer->saved : layer->output;
    LsMatmul product = {
        .m = batch->rows,
        .n = layer->out,
        .k = layer->in,
        .transpose_b = true,
        .a = input,
        .b = at(mlp, weights, layer->weight),
        .input_type = mlp->type,
        .c = branch,
        .output_type = mlp->type,
        .bias = at(mlp, weights, layer->bias),
        .activation = mlp->activation,
        .pre_activation = relu ? NULL : layer->saved,
    };
    LS_TRY(ops->matmul(mlp->base.device, &product));
    if (mlp->dropped)
        LS_TRY(drop(mlp, l, batch, branch, branch));
    if (!layer->residual)
        return LS_OK;
    LsAdd add = {
        .n = batch->rows * layer->out, .a = branch, .b = input, .y = layer->output, .type = mlp->type};
    return ops->add(mlp->base.device, &add);
}

static LsStatus forward_output(Mlp *mlp, const void *weights, const LsBatch *batch)
{
    const Layer *layer = &mlp->layer[mlp->layers - 1];
    LsMatmul product = {
        .m = batch->rows,
        .n = layer->out,
        .k = layer->in,
        .transpose_b = true,
        .a = layer_input(mlp, mlp->layers - 1, batch),
        .b = at(mlp, weights, layer->weight),
        .input_type = mlp->type,
        .c = layer->output,
        .output_type = LS_F32,
        .bias = at(mlp, weights, layer->bias),
        .activation = LS_IDENTITY,
    };
    return mlp->base.device->ops->matmul(mlp->base.device, &product);
}

static LsStatus forward(LsModel *model, const void *weights, const LsBatch *batch, bool train)
{
    Mlp *mlp = (Mlp *)model;
    mlp->dropped = train && mlp->dropout > 0;
    for (size_t l = 0; l + 1 < mlp->layers; l++) {
        LS_TRY(ls_model_need(model, mlp->layer[l + 1].weight));
        LS_TRY(forward_hidden(mlp, l, weights, batch));
    }
    LS_TRY(ls_model_need(model, model->parameters.blocks * LS_BLOCK));
    return forward_output(mlp, weights, batch);
}

// ---- Loss -----------------------------------------------------------------------------------------------

static LsStatus loss(LsModel *model, const LsBatch *batch, float gradient_scale, const float *loss_scale,
    float *loss_sum, float *row_loss)
{
    Mlp *mlp = (Mlp *)model;
    const LsOutputLoss outputs = {
        .outputs = mlp->layer[mlp->layers - 1].output,
        .smoothing = mlp->smoothing,
        .gradient = mlp->output_delta,
        .rounded = mlp->delta[0],
        .type = mlp->type,
        .row_loss = row_loss ? row_loss : mlp->row_loss,
    };
    mlp->current = 0;
    return ls_model_loss(model, &outputs, batch, gradient_scale, loss_scale, loss_sum);
}

// ---- Backward -------------------------------------------------------------------------------------------
//
// Two buffers take turns: `current` has the gradient before layer l's activation, and the product with the
// weights makes of it the gradient before layer l - 1's activation in the other one. Where dropout or a
// residual stands between, the other one holds the gradient of layer l - 1's output for a while (a residual
// adds to it there), and what is before the activation goes back to `current`.

// Whether the activation's derivative is all that stands between layer l's product and layer l + 1's.
static bool follows_directly(const Mlp *mlp, size_t l)
{
    return !mlp->dropped && !mlp->layer[l].residual && !mlp->layer[l + 1].residual;
}

// dW = delta^T h, db = column sums of delta.
static LsStatus backward_parameters(
    Mlp *mlp, size_t l, const LsBatch *batch, float *gradients, bool accumulate)
{
    const Layer *layer = &mlp->layer[l];
    LsMatmul product = {
        .m = layer->out,
        .n = layer->in,
        .k = batch->rows,
        .transpose_a = true,
        .a = mlp->delta[mlp->current],
        .b = layer_input(mlp, l, batch),
        .input_type = mlp->type,
        .c = ls_model_gradient(&mlp->base, gradients, layer->weight),
        .output_type = LS_F32,
        .accumulate = accumulate,
        .bias_gradient = ls_model_gradient(&mlp->base, gradients, layer->bias),
    };
    return mlp->base.device->ops->matmul(mlp->base.device, &product);
}

// Gradient with respect to layer l's input, or at once to what is before the activation of the layer below.
static LsStatus backward_input(Mlp *mlp, size_t l, const void *weights, const LsBatch *batch)
{
    const Layer *layer = &mlp->layer[l];
    bool direct = follows_directly(mlp, l - 1);
    LsMatmul product = {
        .m = batch->rows,
        .n = layer->in,
        .k = layer->out,
        .a = mlp->delta[mlp->current],
        .b = at(mlp, weights, layer->weight),
        .input_type = mlp->type,
        .c = mlp->delta[1 - mlp->current],
        .output_type = mlp->type,
        .accumulate = layer->residual,
        .backward = direct ? mlp->activation : LS_IDENTITY,
        .saved = direct ? mlp->layer[l - 1].saved : NULL,
    };
    LS_TRY(mlp->base.device->ops->matmul(mlp->base.device, &product));
    if (direct)
        mlp->current = 1 - mlp->current;
    return LS_OK;
}

// From the gradient of hidden layer l's output to that before its activation.
static LsStatus backward_activation(Mlp *mlp, size_t l, const LsBatch *batch)
{
    const Layer *layer = &mlp->layer[l];
    const void *dy = mlp->delta[1 - mlp->current];
    void *dx = mlp->delta[mlp->current];
    if (mlp->dropped) {
        LS_TRY(drop(mlp, l, batch, dy, dx));
        dy = dx;
    }
    LsActivationBackward args = {
        .n = batch->rows * layer->out,
        .activation = mlp->activation,
        .saved = layer->saved,
        .dy = dy,
        .dx = dx,
        .type = mlp->type,
    };
    return mlp->base.device->ops->activation_backward(mlp->base.device, &args);
}

static LsStatus backward(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
    bool accumulate, LsGradientsReady ready, void *context)
{
    Mlp *mlp = (Mlp *)model;
    for (size_t l = mlp->layers; l-- > 0;) {
        LS_TRY(backward_parameters(mlp, l, batch, gradients, accumulate));
        if (ready)
            LS_TRY(ready(context, mlp->layer[l].weight));
        if (l == 0)
            break;
        LS_TRY(backward_input(mlp, l, weights, batch));
        if (!follows_directly(mlp, l - 1))
            LS_TRY(backward_activation(mlp, l - 1, batch));
    }
    return LS_OK;
}

static const void *outputs(const LsModel *model)
{
    const Mlp *mlp = (const Mlp *)model;
    return mlp->layer[mlp->layers - 1].output;
}

// ---- Creation -------------------------------------------------------------------------------------------

static void destroy(LsModel *model)
{
    Mlp *mlp = (Mlp *)model;
    LsDevice *device = model->device;
    if (device) {
        device->ops->release(device, mlp->row_loss);
        if (mlp->output_delta != mlp->delta[0])
            device->ops->release(device, mlp->output_delta);
        device->ops->release(device, mlp->delta[1]);
        device->ops->release(device, mlp->delta[0]);
        for (size_t l = mlp->layers; l-- > 0;) {
            if (mlp->layer[l].saved != mlp->layer[l].output)
                device->ops->release(device, mlp->layer[l].saved);
            device->ops->release(device, mlp->layer[l].output);
        }
    }
    free(mlp->layer);
    ls_parameters_free(&model->parameters);
    free(mlp);
}

static const LsModelOps mlp_ops = {
    .name = "mlp",
    .forward = forward,
    .loss = loss,
    .backward = backward,
    .outputs = outputs,
    .destroy = destroy,
};

static LsStatus add_parameters(LsParameters *table, size_t l, Layer *layer, float bound)
{
    LsParameter weight = {
        .dimensions = 2,
        .shape = {layer->out, layer->in},
        .decay = true,
        .stage = true,
        .init = LS_INIT_UNIFORM,
        .init_scale = bound,
    };
    LsParameter bias = {.dimensions = 1, .shape = {layer->out}, .init = LS_INIT_ZERO};
    snprintf(weight.name, sizeof weight.name, "layers.%zu.weight", l);
    snprintf(bias.name, sizeof bias.name, "layers.%zu.bias", l);
    LS_TRY(ls_parameters_add(table, &weight));
    LS_TRY(ls_parameters_add(table, &bias));
    layer->weight = table->list[table->count - 2].offset;
    layer->bias = table->list[table->count - 1].offset;
    return LS_OK;
}

// Sets the layers' widths and the parameter table.
static LsStatus lay_out(Mlp *mlp, const LsConfig *config)
{
    const LsIntList *hidden = &config->model.hidden;
    size_t width = mlp->base.shape.features;
    double products = 0;
    for (size_t l = 0; l < mlp->layers; l++) {
        Layer *layer = &mlp->layer[l];
        bool last = l + 1 == mlp->layers;
        if (!last && hidden->values[l] < 1)
            return LS_FAIL(LS_CONFIG, "model.hidden: width %lld of layer %zu is not positive",
                (long long)hidden->values[l], l);
        layer->in = width;
        layer->out = last ? mlp->base.shape.outputs : (size_t)hidden->values[l];
        layer->residual = config->model.residual && !last && layer->in == layer->out;
        LS_TRY(add_parameters(
            &mlp->base.parameters, l, layer, (float)sqrt((last ? 1.0 : 6.0) / (double)layer->in)));
        // Nobody needs the gradient of the first layer's input.
        products += (l == 0 ? 2.0 : 3.0) * (double)layer->in * (double)layer->out;
        width = layer->out;
    }
    mlp->base.flops_per_sample = 2 * products;
    return LS_OK;
}

// A buffer of max_rows × columns elements; without a device its size only.
static LsStatus reserve(Mlp *mlp, size_t columns, LsDtype type, void **out)
{
    LsModel *model = &mlp->base;
    size_t bytes, total;
    if (!ls_size_multiply(model->max_rows, columns, &bytes) ||
        !ls_size_multiply(bytes, ls_dtype_size(type), &bytes) ||
        !ls_size_add(model->activation_bytes, bytes, &total))
        return LS_FAIL(LS_CONFIG, "activations of %zu rows × %zu columns are too large; use a smaller batch",
            model->max_rows, columns);
    if (model->device)
        LS_TRY(model->device->ops->allocate(model->device, bytes, out));
    model->activation_bytes = total;
    return LS_OK;
}

static LsStatus reserve_activations(Mlp *mlp)
{
    size_t widest = 0;
    for (size_t l = 0; l < mlp->layers; l++) {
        Layer *layer = &mlp->layer[l];
        bool last = l + 1 == mlp->layers;
        LS_TRY(reserve(mlp, layer->out, last ? LS_F32 : mlp->type, &layer->output));
        if (!last && (mlp->activation == LS_GELU || layer->residual))
            LS_TRY(reserve(mlp, layer->out, mlp->type, &layer->saved));
        else
            layer->saved = layer->output;
        widest = layer->out > widest ? layer->out : widest;
    }
    LS_TRY(reserve(mlp, widest, mlp->type, &mlp->delta[0]));
    LS_TRY(reserve(mlp, widest, mlp->type, &mlp->delta[1]));
    if (mlp->type == LS_F32)
        mlp->output_delta = mlp->delta[0];
    else
        LS_TRY(reserve(mlp, mlp->base.shape.outputs, LS_F32, &mlp->output_delta));
    void *row_loss = NULL;
    LS_TRY(reserve(mlp, 1, LS_F32, &row_loss));
    mlp->row_loss = row_loss;
    return LS_OK;
}

LsStatus ls_mlp_create(const LsConfig *config, const LsModel *base, LsModel **out)
{
    if (config->model.hidden.count > LS_CONFIG_LIST)
        return LS_FAIL(LS_CONFIG, "model.hidden: %zu layers, at most %d are possible",
            config->model.hidden.count, LS_CONFIG_LIST);
    Mlp *mlp = calloc(1, sizeof *mlp);
    Layer *layer = calloc(config->model.hidden.count + 1, sizeof *layer);
    if (!mlp || !layer) {
        free(layer);
        free(mlp);
        return LS_FAIL(LS_INTERNAL, "no memory for the model's description");
    }
    mlp->base = *base;
    mlp->base.ops = &mlp_ops;
    mlp->layers = config->model.hidden.count + 1;
    mlp->layer = layer;
    mlp->type = base->device ? ls_device_compute_type(base->device)
                             : ls_precision_type((LsPrecision)config->runtime.precision);
    mlp->activation = config->model.activation == LS_ACTIVATION_GELU ? LS_GELU : LS_RELU;
    mlp->dropout = config->model.dropout;
    mlp->smoothing = (float)config->train.label_smoothing;
    mlp->seed = (uint64_t)config->train.seed;
    LsStatus status = lay_out(mlp, config);
    if (status == LS_OK)
        status = reserve_activations(mlp);
    if (status != LS_OK) {
        destroy(&mlp->base);
        return status;
    }
    *out = &mlp->base;
    return LS_OK;
}
