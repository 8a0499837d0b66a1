// For builds without cuDNN's headers: the library is never there.
#include "../cudnn_attention.h"

#include <stdio.h>

static const char reason[] = "this build was made without its headers";

bool ls_cudnn_is_there(void)
{
    return false;
}

void ls_cudnn_version(char *text, size_t size)
{
    snprintf(text, size, "no cuDNN (%s)", reason);
}

LsStatus ls_cudnn_open(cudaStream_t stream, LsCudnn **out)
{
    (void)stream, (void)out;
    return LS_FAIL(LS_UNAVAILABLE, "no cuDNN: %s", reason);
}

LsStatus ls_cudnn_open_described(const char *gpu, LsCudnn **out)
{
    (void)gpu;
    return ls_cudnn_open(NULL, out);
}

void ls_cudnn_close(LsCudnn *library)
{
    (void)library;
}

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
