// Launches: the limits that CUDA checks, and the kernel as work of a stream.
#include <mutex>
#include <unordered_map>

#include "kernel_state.h"

namespace
{

std::mutex lock; // of the tables here and of the symbols

// By kernel, what cudaFuncAttributeMaxDynamicSharedMemorySize was set to.
std::unordered_map<const void *, size_t> &shared_limits()
{
    static auto *limits = new std::unordered_map<const void *, size_t>();
    return *limits;
}

struct Launched {
    LsEmulatedLaunch launch;
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
};

bool advance(void *context)
{
    auto *kernel = static_cast<Launched *>(context);
    ls_emulator_run_kernel(kernel->name, kernel->grid, kernel->block, kernel->shared_bytes,
        kernel->launch.thread, kernel->launch.arguments);
    return true;
}

void release(void *context)
{
    auto *kernel = static_cast<Launched *>(context);
    kernel->launch.release(kernel->launch.arguments);
    delete kernel;
}

// Compute capability 9.0; docs.nvidia.com/cuda/cuda-c-programming-guide, "Technical Specifications per
// Compute Capability".
bool within_limits(const cudaLaunchConfig_t *config)
{
    dim3 g = config->gridDim, b = config->blockDim;
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z)
        return false;
    if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return false;
    return b.x <= 1024 && b.y <= 1024 && b.z <= 64 && (uint64_t)b.x * b.y * b.z <= LS_MAX_THREADS;
}

bool enough_shared_memory(const void *kernel, size_t bytes)
{
    auto found = shared_limits().find(kernel);
    return bytes <= (found == shared_limits().end() ? (size_t)LS_SHARED_BYTES : found->second);
}

cudaError_t check(const cudaLaunchConfig_t *config, const LsEmulatedLaunch *launch)
{
    enum { MAX_ARGUMENT_BYTES = 4096 };
    if (!config || !launch->kernel)
        return config ? cudaErrorInvalidDeviceFunction : cudaErrorInvalidValue;
    if (!within_limits(config))
        return cudaErrorInvalidConfiguration;
    if (!enough_shared_memory(launch->kernel, config->dynamicSmemBytes) ||
        launch->argument_bytes > MAX_ARGUMENT_BYTES || (config->numAttrs && !config->attrs))
        return cudaErrorInvalidValue;
    for (unsigned int i = 0; i < config->numAttrs; i++) // blocks run one after another
        if (config->attrs[i].id == cudaLaunchAttributeCooperative && config->attrs[i].val.cooperative)
            return cudaErrorNotSupported;
    return cudaSuccess;
}

} // namespace

cudaError_t ls_emulator_launch(const cudaLaunchConfig_t *config, const LsEmulatedLaunch *launch)
{
    Launched *kernel;
    {
        std::lock_guard<std::mutex> hold(lock);
        cudaError_t error = check(config, launch);
        if (error != cudaSuccess) {
            launch->release(launch->arguments);
            return ls_emulator_result(error);
        }
        kernel = new Launched{*launch, ls_symbols_function(launch->kernel), config->gridDim, config->blockDim,
            config->dynamicSmemBytes};
    }
    LsEmulatedWork work = {kernel->name, advance, release, kernel};
    return ls_emulator_enqueue(config->stream, &work);
}

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
    if (!func)
        return ls_emulator_result(cudaErrorInvalidDeviceFunction);
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
        return ls_emulator_result(value >= -1 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue);
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > LS_SHARED_BYTES_OPT_IN)
        return ls_emulator_result(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> hold(lock);
    shared_limits()[func] = (size_t)value;
    return ls_emulator_result(cudaSuccess);
}
