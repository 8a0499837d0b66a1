// What the CUDA runtime says of this machine's GPUs. This is the only file that includes its header.
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "device/device.h"

void ls_device_gpus(char *text, size_t size)
{
    int count = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        snprintf(text, size, "no usable GPU: %s (built with CUDA %d.%d)", cudaGetErrorString(error),
            CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
        return;
    }
    cudaDriverGetVersion(&driver);
    int used =
        snprintf(text, size, "driver for CUDA %d.%d; %d GPUs", driver / 1000, driver % 1000 / 10, count);
    for (int i = 0; i < count && used > 0 && (size_t)used < size; i++) {
        struct cudaDeviceProp properties;
        if (cudaGetDeviceProperties(&properties, i) == cudaSuccess)
            used += snprintf(text + used, size - (size_t)used, "; %s, %zu MiB, compute %d.%d",
                properties.name, properties.totalGlobalMem >> 20, properties.major, properties.minor);
    }
}
