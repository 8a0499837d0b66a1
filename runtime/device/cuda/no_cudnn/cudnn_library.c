// For builds without cuDNN's headers: the library is never there.
#include "../cudnn_library.h"

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
