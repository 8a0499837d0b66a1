// cudaLaunchKernelEx: checks a launch, copies the arguments and puts the kernel into its stream. Included by
// cuda_runtime.h.
#ifndef LOCKSTEP_EMULATOR_KERNEL_LAUNCH_H
#define LOCKSTEP_EMULATOR_KERNEL_LAUNCH_H

#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

extern "C" {
// A kernel in a stream. `thread` runs one thread with `arguments`; `release` frees them, when the kernel will
// not run again or the launch fails.
typedef struct LsEmulatedLaunch {
    const void *kernel; // its address, by which it has a name and a limit of shared memory
    size_t argument_bytes;
    void (*thread)(void *arguments);
    void (*release)(void *arguments);
    void *arguments;
} LsEmulatedLaunch;
cudaError_t ls_emulator_launch(const cudaLaunchConfig_t *config, const LsEmulatedLaunch *launch);
}

// Kernel and arguments, as its parameters are typed.
template <typename... Parameters> struct LsEmulatedCall {
    static_assert((std::is_trivially_copyable<Parameters>::value && ...),
        "kernel parameters are copied to the device byte by byte");
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;

    // Where the parameters end that are laid out as a struct, each at a multiple of its alignment.
    static constexpr size_t bytes()
    {
        size_t end = 0;
        ((end = (end + alignof(Parameters) - 1) / alignof(Parameters) * alignof(Parameters) +
                sizeof(Parameters)),
            ...);
        return end;
    }

    // Every thread has parameters of its own, which it may change. The race checker has nothing to learn
    // from their copying.
    template <size_t... I> __attribute__((no_sanitize("thread"))) void run(std::index_sequence<I...>)
    {
        kernel(std::get<I>(arguments)...);
    }

    __attribute__((no_sanitize("thread"))) static void thread(void *self)
    {
        static_cast<LsEmulatedCall *>(self)->run(std::index_sequence_for<Parameters...>());
    }

    static void release(void *self)
    {
        delete static_cast<LsEmulatedCall *>(self);
    }
};

template <typename... ExpTypes, typename... ActTypes>
static inline cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t *config, void (*kernel)(ExpTypes...), ActTypes &&...args)
{
    using Call = LsEmulatedCall<ExpTypes...>;
    auto *call = new Call{kernel, std::tuple<ExpTypes...>(std::forward<ActTypes>(args)...)};
    LsEmulatedLaunch launch = {
        reinterpret_cast<const void *>(kernel), Call::bytes(), Call::thread, Call::release, call};
    return ls_emulator_launch(config, &launch);
}

template <typename... Parameters>
static inline cudaError_t cudaFuncSetAttribute(
    void (*kernel)(Parameters...), enum cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

#endif
