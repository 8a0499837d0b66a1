// For builds without cuDNN's headers: it has no plan for any convolution, and is not asked for one.
#include "../cudnn_convolution.h"

#include <stdio.h>

LsStatus ls_cudnn_convolution_plan(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace, LsCudnnConvolutionPlan **out)
{
    (void)library, (void)kind, (void)most_workspace;
    *out = NULL;
    return LS_OK;
}

void ls_cudnn_convolution_forget(LsCudnnConvolutionPlan *plan)
{
    (void)plan;
}

size_t ls_cudnn_convolution_workspace(const LsCudnnConvolutionPlan *plan)
{
    (void)plan;
    return 0;
}

void ls_cudnn_convolution_describe(const LsCudnnConvolutionPlan *plan, char *text, size_t size)
{
    (void)plan;
    snprintf(text, size, "none");
}

LsStatus ls_cudnn_convolution_run(
    LsCudnn *library, LsCudnnConvolutionPlan *plan, const LsConvolutionBuffers *buffers)
{
    (void)library, (void)plan, (void)buffers;
    return LS_FAIL(LS_INTERNAL, "there is no cuDNN, and so no plan of it to run");
}
