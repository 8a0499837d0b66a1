// Causal self-attention: by cuDNN where it has a plan for the shape, else by our own kernels. One of
// them may do the forward pass and the other the backward pass: log_sum is the same quantity.
#include "attention_plans.h"
#include "cuda.h"
#include "kernels.h"

LsStatus ls_cuda_attention(LsDevice *device, const LsAttention *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_attention("attention", args->window, args->heads, args->size, args->type));
    const LsAttentionKind kind = {
        args->windows, args->window, args->heads, args->size, (uint32_t)args->type, false};
    const LsAttentionBuffers buffers = {.qkv = args->qkv, .out = args->out, .log_sum = args->log_sum};
    bool done = false;
    if (args->first == 0)
        LS_TRY(ls_attention_by_library(cuda->attention, &kind, &buffers, &done));
    if (done)
        return LS_OK;
    return ls_cuda_check(cuda, ls_kernel_attention(ls_cuda_stream(cuda), args), "attention");
}

LsStatus ls_cuda_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_attention("attention_backward", args->window, args->heads, args->size, args->type));
    const LsAttentionKind kind = {
        args->windows, args->window, args->heads, args->size, (uint32_t)args->type, true};
    const LsAttentionBuffers buffers = {.qkv = args->qkv,
        .out = (void *)args->out,
        .log_sum = (float *)args->log_sum,
        .dout = args->dout,
        .dqkv = args->dqkv};
    bool done;
    LS_TRY(ls_attention_by_library(cuda->attention, &kind, &buffers, &done));
    if (done)
        return LS_OK;
    return ls_cuda_check(
        cuda, ls_kernel_attention_backward(ls_cuda_stream(cuda), args), "attention_backward");
}
