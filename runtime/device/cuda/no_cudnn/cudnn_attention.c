// For builds without cuDNN's headers: the library is never there.
#include "../cudnn_attention.h"

#include <stdio.h>

LsStatus ls_cudnn_plan(
    LsCudnn *library, const LsAttentionKind *kind, size_t most_workspace, LsCudnnPlan **out)
{
    (void)library, (void)kind, (void)most_workspace;
    *out = NULL;
    return LS_OK;
}

void ls_cudnn_forget(LsCudnnPlan *plan)
{
    (void)plan;
}

size_t ls_cudnn_workspace(const LsCudnnPlan *plan)
{
    (void)plan;
    return 0;
}

void ls_cudnn_describe(const LsCudnnPlan *plan, char *text, size_t size)
{
    (void)plan;
    snprintf(text, size, "none");
}

LsStatus ls_cudnn_run(LsCudnn *library, LsCudnnPlan *plan, const LsAttentionBuffers *buffers)
{
    (void)library, (void)plan, (void)buffers;
    return LS_FAIL(LS_INTERNAL, "there is no cuDNN, and so no plan of it to run");
}
