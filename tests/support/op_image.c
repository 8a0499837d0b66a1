// Op cases of image models: buffers and calls.
#include "op_image.h"

bool ls_op_is_image(const LsOpCase *op)
{
    return op->kind >= LS_OP_CONVOLUTION && op->kind <= LS_OP_AVERAGE_POOL_BACKWARD;
}

LsConvolutionShape ls_op_convolution_shape(const LsOpCase *op)
{
    return (LsConvolutionShape){
        .window = {op->rows, op->height, op->width, op->kernel, op->stride, op->padding},
        .in = op->columns,
        .out = op->depth,
    };
}

// Values of one image behind a window, for each channel.
static size_t places_of(const LsOpCase *op)
{
    const LsImageWindow window = ls_op_convolution_shape(op).window;
    return ls_image_places(&window, op->height) * ls_image_places(&window, op->width);
}

// ---- Buffers --------------------------------------------------------------------------------------------

static LsOpBuffer scratch(size_t bytes)
{
    return ls_op_others("scratch", 4, bytes / 4, LS_FILL_NOTHING);
}

static size_t convolution_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    const LsConvolutionShape shape = ls_op_convolution_shape(op);
    size_t x = op->rows * op->height * op->width * op->columns, y = op->rows * places_of(op) * op->depth;
    size_t weights = op->depth * op->kernel * op->kernel * op->columns;
    bool filters = op->kind == LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
    b[0] = ls_op_numbers("x", op->type, x, LS_FILL_SIGNED, false);
    b[1] = ls_op_numbers("weight", filters ? LS_F32 : op->type, weights, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("y", op->type, y, LS_FILL_SIGNED, false);
    b[3] = scratch(filters ? ls_convolution_scratch(&shape) : 0);
    LsOpBuffer *written = op->kind == LS_OP_CONVOLUTION ? &b[2] : filters ? &b[1] : &b[0];
    written->output = true;
    written->fill = op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING;
    return 4;
}

static size_t norm_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns, own = op->given ? 0 : op->columns;
    b[0] = ls_op_numbers("x", op->type, n, LS_FILL_SIGNED, false);
    b[1] = ls_op_numbers("gamma", op->type, op->columns, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("beta", op->type, op->columns, LS_FILL_SIGNED, false);
    b[3] = ls_op_numbers("running", op->type, op->given ? 2 * op->columns : 0, LS_FILL_POSITIVE, false);
    b[4] = ls_op_numbers("residual", op->type, op->branch ? n : 0, LS_FILL_SIGNED, false);
    b[5] = ls_op_numbers("y", op->type, n, LS_FILL_NOTHING, true);
    b[6] = ls_op_numbers("mean", LS_F32, own, LS_FILL_NOTHING, true);
    b[7] = ls_op_numbers("variance", LS_F32, own, LS_FILL_NOTHING, true);
    b[8] = scratch(ls_batch_norm_scratch(op->rows, op->columns));
    return 9;
}

static size_t norm_backward_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    LsOpFill before = op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING;
    b[0] = ls_op_numbers("x", op->type, n, LS_FILL_SIGNED, false);
    b[1] = ls_op_numbers("y", op->type, op->activation == LS_RELU ? n : 0, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("dy", op->type, n, LS_FILL_SIGNED, op->in_place);
    b[3] = ls_op_numbers("other", op->type, op->branch ? n : 0, LS_FILL_SIGNED, false);
    b[4] = ls_op_numbers("gamma", op->type, op->columns, LS_FILL_SIGNED, false);
    b[5] = ls_op_numbers("mean", LS_F32, op->columns, LS_FILL_UNIT, false);
    b[6] = ls_op_numbers("variance", LS_F32, op->columns, LS_FILL_POSITIVE, false);
    b[7] = ls_op_numbers("dresidual", op->type, op->keep ? n : 0, LS_FILL_NOTHING, true);
    b[8] = ls_op_numbers("dx", op->type, op->in_place ? 0 : n, LS_FILL_NOTHING, true);
    b[9] = ls_op_numbers("dgamma", LS_F32, op->columns, before, true);
    b[10] = ls_op_numbers("dbeta", LS_F32, op->columns, before, true);
    b[11] = ls_op_numbers("running", op->type, 2 * op->columns, LS_FILL_POSITIVE, false);
    b[12] = ls_op_numbers("statistics", LS_F32, op->given ? 2 * op->columns : 0, before, true);
    b[13] = scratch(ls_batch_norm_scratch(op->rows, op->columns));
    return 14;
}

static size_t max_pool_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t x = op->rows * op->height * op->width * op->columns, y = op->rows * places_of(op) * op->columns;
    bool backward = op->kind == LS_OP_MAX_POOL_BACKWARD;
    b[0] = ls_op_numbers("x", op->type, x, backward ? LS_FILL_NOTHING : LS_FILL_SIGNED, backward);
    b[1] = ls_op_numbers("y", op->type, y, backward ? LS_FILL_SIGNED : LS_FILL_NOTHING, !backward);
    b[2] = ls_op_others("place", 1, y, backward ? LS_FILL_DERIVED : LS_FILL_NOTHING);
    return 3;
}

static size_t average_pool_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t x = op->rows * op->height * op->width * op->columns, y = op->rows * op->columns;
    bool backward = op->kind == LS_OP_AVERAGE_POOL_BACKWARD;
    b[0] = ls_op_numbers("x", op->type, x, backward ? LS_FILL_NOTHING : LS_FILL_SIGNED, backward);
    b[1] = ls_op_numbers("y", op->type, y, backward ? LS_FILL_SIGNED : LS_FILL_NOTHING, !backward);
    return 2;
}

size_t ls_op_image_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    switch (op->kind) {
    case LS_OP_BATCH_NORM:
        return norm_buffers(op, b);
    case LS_OP_BATCH_NORM_BACKWARD:
        return norm_backward_buffers(op, b);
    case LS_OP_MAX_POOL:
    case LS_OP_MAX_POOL_BACKWARD:
        return max_pool_buffers(op, b);
    case LS_OP_AVERAGE_POOL:
    case LS_OP_AVERAGE_POOL_BACKWARD:
        return average_pool_buffers(op, b);
    default:
        return convolution_buffers(op, b);
    }
}

// Any element of the window, those on the padding among them, which are nowhere.
void ls_op_image_derive(const LsOpCase *op, void *const image[])
{
    if (op->kind != LS_OP_MAX_POOL_BACKWARD)
        return;
    size_t count = op->rows * places_of(op) * op->columns;
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)image[2])[i] = (uint8_t)((7 * i + i / 5) % (op->kernel * op->kernel));
}

// ---- Calls ----------------------------------------------------------------------------------------------

static LsStatus call_convolution(const LsOpCase *op, LsDevice *device, void *const b[])
{
    const LsConvolutionShape shape = ls_op_convolution_shape(op);
    if (op->kind == LS_OP_CONVOLUTION)
        return device->ops->convolution(
            device, &(LsConvolution){.shape = shape, .x = b[0], .weight = b[1], .y = b[2], .type = op->type});
    if (op->kind == LS_OP_CONVOLUTION_BACKWARD_DATA)
        return device->ops->convolution_backward_data(
            device, &(LsConvolutionBackwardData){
                        .shape = shape, .dy = b[2], .weight = b[1], .dx = b[0], .type = op->type});
    return device->ops->convolution_backward_weights(device, &(LsConvolutionBackwardWeights){.shape = shape,
                                                                 .x = b[0],
                                                                 .dy = b[2],
                                                                 .type = op->type,
                                                                 .dweight = b[1],
                                                                 .accumulate = op->accumulate,
                                                                 .scratch = b[3]});
}

static LsStatus call_norm(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsBatchNorm args = {.places = op->rows,
        .channels = op->columns,
        .x = b[0],
        .gamma = b[1],
        .beta = b[2],
        .running = op->given ? b[3] : NULL,
        .residual = op->branch ? b[4] : NULL,
        .activation = op->activation,
        .y = b[5],
        .type = op->type,
        .mean = b[6],
        .variance = b[7],
        .scratch = b[8]};
    return device->ops->batch_norm(device, &args);
}

static LsStatus call_norm_backward(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsBatchNormBackward args = {.places = op->rows,
        .channels = op->columns,
        .x = b[0],
        .y = b[1],
        .dy = b[2],
        .other = op->branch ? b[3] : NULL,
        .gamma = b[4],
        .mean = b[5],
        .variance = b[6],
        .activation = op->activation,
        .dresidual = op->keep ? b[7] : NULL,
        .dx = op->in_place ? b[2] : b[8],
        .dgamma = b[9],
        .dbeta = b[10],
        .running = b[11],
        .statistics = op->given ? b[12] : NULL,
        .statistics_weight = LS_OP_STATISTICS_WEIGHT,
        .accumulate = op->accumulate,
        .type = op->type,
        .scratch = b[13]};
    return device->ops->batch_norm_backward(device, &args);
}

static LsStatus call_pool(const LsOpCase *op, LsDevice *device, void *const b[])
{
    const LsImageWindow window = ls_op_convolution_shape(op).window;
    size_t places = op->height * op->width;
    switch (op->kind) {
    case LS_OP_MAX_POOL:
        return device->ops->max_pool(device, &(LsMaxPool){.window = window,
                                                 .channels = op->columns,
                                                 .x = b[0],
                                                 .y = b[1],
                                                 .place = b[2],
                                                 .type = op->type});
    case LS_OP_MAX_POOL_BACKWARD:
        return device->ops->max_pool_backward(device, &(LsMaxPoolBackward){.window = window,
                                                          .channels = op->columns,
                                                          .dy = b[1],
                                                          .place = b[2],
                                                          .dx = b[0],
                                                          .type = op->type});
    case LS_OP_AVERAGE_POOL:
        return device->ops->average_pool(
            device, &(LsAveragePool){op->rows, places, op->columns, b[0], b[1], op->type});
    default:
        return device->ops->average_pool_backward(
            device, &(LsAveragePoolBackward){op->rows, places, op->columns, b[1], b[0], op->type});
    }
}

LsStatus ls_op_image_call(const LsOpCase *op, LsDevice *device, void *const b[])
{
    switch (op->kind) {
    case LS_OP_BATCH_NORM:
        return call_norm(op, device, b);
    case LS_OP_BATCH_NORM_BACKWARD:
        return call_norm_backward(op, device, b);
    case LS_OP_CONVOLUTION:
    case LS_OP_CONVOLUTION_BACKWARD_DATA:
    case LS_OP_CONVOLUTION_BACKWARD_WEIGHTS:
        return call_convolution(op, device, b);
    default:
        return call_pool(op, device, b);
    }
}

// Products with padding count as well.
double ls_op_image_flops(const LsOpCase *op)
{
    bool convolution = op->kind >= LS_OP_CONVOLUTION && op->kind <= LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
    double window = (double)(op->kernel * op->kernel) * (double)op->columns;
    return convolution ? 2 * (double)(op->rows * places_of(op)) * window * (double)op->depth : 0;
}
