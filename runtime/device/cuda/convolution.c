// Convolutions and their gradients: by cuDNN where it has a plan for the shape, else by our own kernels.
#include "convolution_plans.h"
#include "kernels.h"

static LsConvolutionKind kind_of(
    const LsCudaDevice *cuda, const LsConvolutionShape *shape, LsConvolutionPass pass, LsDtype type)
{
    return (LsConvolutionKind){.rows = shape->window.rows,
        .height = shape->window.height,
        .width = shape->window.width,
        .in = shape->in,
        .out = shape->out,
        .kernel = shape->window.kernel,
        .stride = shape->window.stride,
        .padding = shape->window.padding,
        .pass = (uint32_t)pass,
        .type = (uint32_t)type,
        .tf32 = cuda->tf32};
}

LsStatus ls_cuda_convolution(LsDevice *device, const LsConvolution *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_convolution("convolution", &args->shape, args->type));
    const LsConvolutionKind kind = kind_of(cuda, &args->shape, LS_CONVOLUTION_FORWARD, args->type);
    const LsConvolutionOperands operands = {
        .x = (void *)args->x, .weight = (void *)args->weight, .y = args->y};
    bool done;
    LS_TRY(ls_convolution_by_library(cuda->convolutions, &kind, &operands, &done));
    if (done)
        return LS_OK;
    return ls_cuda_check(cuda, ls_kernel_convolution(ls_cuda_stream(cuda), args), "convolution");
}

LsStatus ls_cuda_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_convolution("convolution_backward_data", &args->shape, args->type));
    const LsConvolutionKind kind = kind_of(cuda, &args->shape, LS_CONVOLUTION_DATA, args->type);
    const LsConvolutionOperands operands = {
        .x = args->dx, .weight = (void *)args->weight, .y = (void *)args->dy};
    bool done;
    LS_TRY(ls_convolution_by_library(cuda->convolutions, &kind, &operands, &done));
    if (done)
        return LS_OK;
    return ls_cuda_check(
        cuda, ls_kernel_convolution_backward_data(ls_cuda_stream(cuda), args), "convolution_backward_data");
}

LsStatus ls_cuda_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_convolution("convolution_backward_weights", &args->shape, args->type));
    const LsConvolutionKind kind = kind_of(cuda, &args->shape, LS_CONVOLUTION_WEIGHTS, args->type);
    const LsConvolutionOperands operands = {
        .x = (void *)args->x, .weight = args->dweight, .y = (void *)args->dy, .accumulate = args->accumulate};
    bool done;
    void *scratch;
    LS_TRY(ls_convolution_by_library(cuda->convolutions, &kind, &operands, &done));
    if (done)
        return LS_OK;
    LS_TRY(ls_cuda_scratch(cuda, ls_kernel_convolution_scratch(&args->shape), &scratch));
    return ls_cuda_check(cuda, ls_kernel_convolution_backward_weights(ls_cuda_stream(cuda), args, scratch),
        "convolution_backward_weights");
}
