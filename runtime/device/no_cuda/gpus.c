// Stands in for the cuda backend in a build without CUDA.
#include <stdio.h>
#include <unistd.h>

#include "../backend.h"

void ls_device_gpus(char *text, size_t size, int *usable)
{
    bool driver = access("/proc/driver/nvidia/version", R_OK) == 0;
    snprintf(
        text, size, "%s; this build has no CUDA", driver ? "an NVIDIA driver is loaded" : "no NVIDIA driver");
    if (usable)
        *usable = 0;
}

void ls_device_gpu_libraries(char *text, size_t size)
{
    if (size)
        *text = 0;
}

LsStatus ls_cuda_open(const LsDeviceOptions *options, LsDevice **out)
{
    (void)options, (void)out;
    char gpus[256];
    ls_device_gpus(gpus, sizeof gpus, NULL);
    return LS_FAIL(LS_UNAVAILABLE,
        "runtime.device cuda needs a build with CUDA (%s); configure one with LOCKSTEP_CUDA=ON, or set it to "
        "cpu or auto",
        gpus);
}
