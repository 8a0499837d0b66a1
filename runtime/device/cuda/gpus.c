// Which GPUs this machine has, which one is this process's, and what they say about themselves.
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/text.h"
#include "cublaslt.h"
#include "cudnn_library.h"

enum { OLDEST_MAJOR = 8 }; // compute capability 8.0: bfloat16 products

// Why there is no GPU, in words.
static void explain(cudaError_t error, char *text, size_t size)
{
    int driver = 0, runtime = CUDART_VERSION;
    if (cudaDriverGetVersion(&driver) != cudaSuccess)
        driver = 0;
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess)
        runtime = CUDART_VERSION;
    cudaGetLastError();
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char quote[LS_QUOTE_SIZE];
    if (driver == 0)
        snprintf(
            text, size, "no NVIDIA driver (this build uses CUDA %d.%d)", runtime / 1000, runtime % 1000 / 10);
    else if (error == cudaErrorInsufficientDriver)
        snprintf(text, size, "the NVIDIA driver is for CUDA %d.%d and this build needs CUDA %d.%d",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(text, size, "the NVIDIA driver shows no GPU%s%s",
            visible ? "; CUDA_VISIBLE_DEVICES is " : "", visible ? ls_text_quote(quote, visible) : "");
    else
        snprintf(text, size, "the NVIDIA driver does not answer: %s (%s)", cudaGetErrorString(error),
            cudaGetErrorName(error));
}

static int count_gpus(cudaError_t *error)
{
    int count = 0;
    *error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    return *error == cudaSuccess ? count : 0;
}

void ls_device_gpus(char *text, size_t size, int *usable)
{
    cudaError_t error;
    int count = count_gpus(&error), fit = 0, driver = 0;
    if (usable)
        *usable = 0;
    if (count == 0) {
        explain(error, text, size);
        return;
    }
    cudaDriverGetVersion(&driver);
    int used = snprintf(text, size, "driver for CUDA %d.%d; %d GPU%s", driver / 1000, driver % 1000 / 10,
        count, count == 1 ? "" : "s");
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp gpu;
        if (cudaGetDeviceProperties(&gpu, i) != cudaSuccess)
            continue;
        fit += gpu.major >= OLDEST_MAJOR;
        if (used > 0 && (size_t)used < size)
            used += snprintf(text + used, size - (size_t)used, "; %s, %zu MiB, compute %d.%d%s", gpu.name,
                gpu.totalGlobalMem >> 20, gpu.major, gpu.minor,
                gpu.major >= OLDEST_MAJOR ? "" : " (too old: 8.0 is needed)");
    }
    if (usable)
        *usable = fit;
}

LsStatus ls_cuda_choose(int local_rank, int *index, struct cudaDeviceProp *properties)
{
    cudaError_t error;
    int count = count_gpus(&error);
    if (count == 0) {
        char why[256];
        explain(error, why, sizeof why);
        return LS_FAIL(LS_UNAVAILABLE, "runtime.device cuda has no GPU here: %s; set it to cpu or auto", why);
    }
    int chosen = local_rank > 0 ? local_rank % count : 0;
    LS_TRY(ls_cuda_check_gpu(chosen, cudaGetDeviceProperties(properties, chosen), "reading its properties"));
    if (properties->major < OLDEST_MAJOR)
        return LS_FAIL(LS_UNAVAILABLE,
            "GPU %d is a %s of compute capability %d.%d and 8.0 is needed; choose others with "
            "CUDA_VISIBLE_DEVICES, or set runtime.device to cpu",
            chosen, properties->name, properties->major, properties->minor);
    LS_TRY(ls_cuda_check_gpu(chosen, cudaSetDevice(chosen), "taking it"));
    *index = chosen;
    return LS_OK;
}

// As nvidia-smi prints it.
void ls_cuda_identity(const LsDevice *device, char *text, size_t size)
{
    const unsigned char *b = (const unsigned char *)ls_cuda(device)->properties.uuid.bytes;
    snprintf(text, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
        b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static const char *precision_name(LsPrecision precision)
{
    return precision == LS_PRECISION_BF16 ? "bf16" : precision == LS_PRECISION_FP16 ? "fp16" : "fp32";
}

void ls_cuda_fingerprint(const LsDevice *device, char *text, size_t size)
{
    const LsCudaDevice *cuda = ls_cuda(device);
    const struct cudaDeviceProp *gpu = &cuda->properties;
    int driver = 0, runtime = 0;
    char products[64], attention[64] = "no cuDNN"; // for whatever reason
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    ls_cublaslt_version(products, sizeof products);
    if (ls_cudnn_is_there())
        ls_cudnn_version(attention, sizeof attention);
    // The driver compiles the kernels of GPUs that the build does not know.
    snprintf(text, size,
        "cuda %s%s, %s, %d SMs, compute %d.%d, CUDA %d.%d, driver for %d.%d, %s, %s, compiler %s",
        precision_name(device->precision), cuda->tf32 ? " (tf32)" : "", gpu->name, gpu->multiProcessorCount,
        gpu->major, gpu->minor, runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10,
        products, attention, __VERSION__);
}

void ls_device_gpu_libraries(char *text, size_t size)
{
    int runtime = CUDART_VERSION;
    char products[128], attention[128];
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    ls_cublaslt_version(products, sizeof products);
    ls_cudnn_version(attention, sizeof attention);
    snprintf(text, size, "CUDA %d.%d, %s, %s", runtime / 1000, runtime % 1000 / 10, products, attention);
}
