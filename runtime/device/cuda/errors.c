// Turns the CUDA runtime's errors into Lockstep's: the one place that does.
#include "cuda.h"

// After these the process's context is lost: every later call fails with the same error.
static bool is_sticky(cudaError_t error)
{
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
        return true;
    default:
        return false;
    }
}

static const char *advice(cudaError_t error)
{
    switch (error) {
    case cudaErrorNoKernelImageForDevice:
        return "; this build has no code for this GPU, configure it with LOCKSTEP_CUDA_ARCHITECTURES";
    case cudaErrorDevicesUnavailable:
        return "; another process has it for itself (nvidia-smi shows its compute mode)";
    case cudaErrorMemoryAllocation:
        return "; the GPU's or the host's memory is used up";
    default:
        break;
    }
    if (is_sticky(error))
        return "; an earlier kernel may have failed, and this process can use the GPU no more: run it "
               "under compute-sanitizer to see which";
    return "";
}

LsStatus ls_cuda_check_gpu(int gpu, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return LS_OK;
    cudaGetLastError(); // an error that is not sticky is not seen twice
    LsStatus status = error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration
                          ? LS_INTERNAL
                          : LS_UNAVAILABLE;
    return LS_FAIL(status, "GPU %d: %s failed: %s (%s)%s", gpu, what, cudaGetErrorString(error),
        cudaGetErrorName(error), advice(error));
}

LsStatus ls_cuda_check(LsCudaDevice *cuda, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return LS_OK;
    cuda->capture_failed = true;
    return ls_cuda_check_gpu(cuda->index, error, what);
}
