// Stands in for cuDNN's opening. The environment says what it has when a device is opened:
//   EMULATED_CUDNN=missing  the library is not there
//   EMULATED_CUDNN=none     it has no kernel for any shape
//   EMULATED_CUDNN=forward  it has none for backward
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cudnn.h"
#include "emulator.h"

bool ls_emulated_cudnn_is(const char *value)
{
    const char *text = getenv("EMULATED_CUDNN");
    return text && strcmp(text, value) == 0;
}

void ls_emulated_cudnn_require(const char *what, const void *memory, size_t bytes, size_t alignment)
{
    if ((uintptr_t)memory % alignment)
        ls_emulator_fault(
            "cuDNN's %s at %p is not aligned to %zu bytes, as promised", what, memory, alignment);
    if (!ls_emulator_owns(memory, bytes))
        ls_emulator_fault("cuDNN's %s at %p is not %zu bytes of device memory", what, memory, bytes);
}

bool ls_cudnn_is_there(void)
{
    return !ls_emulated_cudnn_is("missing");
}

void ls_cudnn_version(char *text, size_t size)
{
    snprintf(text, size, "%s", ls_cudnn_is_there() ? "emulated cuDNN 1" : "no cuDNN (EMULATED_CUDNN)");
}

LsStatus ls_cudnn_open(cudaStream_t stream, LsCudnn **out)
{
    if (!ls_cudnn_is_there())
        return LS_FAIL(LS_UNAVAILABLE, "emulated cuDNN is missing, and was opened all the same");
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    (*out)->stream = stream;
    return LS_OK;
}

LsStatus ls_cudnn_open_described(const char *gpu, LsCudnn **out)
{
    (void)out;
    return LS_FAIL(LS_UNSUPPORTED, "emulated cuDNN makes no plans for a GPU that is described: %s", gpu);
}

void ls_cudnn_close(LsCudnn *library)
{
    free(library);
}
