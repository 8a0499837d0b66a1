// Stands in for cuda/gpus.c in a build without CUDA.
#include <stdio.h>
#include <unistd.h>

#include "device/device.h"

void ls_device_gpus(char *text, size_t size)
{
    bool driver = access("/proc/driver/nvidia/version", R_OK) == 0;
    snprintf(
        text, size, "%s; this build has no CUDA", driver ? "an NVIDIA driver is loaded" : "no NVIDIA driver");
}
