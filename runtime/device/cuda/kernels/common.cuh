// What the kernels share: element types, 16-byte accesses, sums in a fixed order, launches.
//
// Buffers are cut into groups of N elements, 16 bytes of the widest type that a kernel touches, so that the
// accesses of a warp are contiguous in every buffer. Which thread handles which elements never depends on
// where a buffer lies: a misaligned one is read and written element by element by the same threads, and a
// sum keeps its order and its bits.
#ifndef LOCKSTEP_DEVICE_CUDA_COMMON_CUH
#define LOCKSTEP_DEVICE_CUDA_COMMON_CUH

#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

extern "C" { // headers of C that declare functions
#include "../../backend.h"
#include "base/rng.h"
#include "device/tensor.h"
}

#include "../kernels.h"

constexpr int THREADS = 256; // of a block, where nothing else is said
constexpr int WARP = 32;
constexpr int VECTOR_BYTES = 16;

// Dynamic shared memory; the emulated GPU, whose host compiler has no such declaration, brings its own.
#ifndef LS_DYNAMIC_SHARED
#define LS_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

// ---- Elements -------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x)
{
    return x;
}

__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}

__device__ __forceinline__ float to_float(uint8_t x)
{
    return (float)x;
}

// Rounded to nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half_rn(x);
}

// ---- Groups ---------------------------------------------------------------------------------------------

// N elements that are read or written as one access.
template <typename T, int N> struct alignas(sizeof(T) * N) Group {
    T at[N];
};

template <int N, typename T> __device__ __forceinline__ Group<T, N> &aligned_group(T *at)
{
    return *reinterpret_cast<Group<T, N> *>(at);
}

template <int N, typename T> __device__ __forceinline__ const Group<T, N> &aligned_group(const T *at)
{
    return *reinterpret_cast<const Group<T, N> *>(at);
}

// The group that starts at element `first` of n, which may lie partly or all outside; what is outside is
// undefined when read, and left alone when written. VECTOR: groups are aligned.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ Group<T, N> load_group(const T *from, ptrdiff_t first, size_t n)
{
    if (VECTOR && first >= 0 && first + N <= (ptrdiff_t)n)
        return aligned_group<N>(from + first);
    Group<T, N> group = {};
#pragma unroll
    for (int j = 0; j < N; j++)
        if ((size_t)(first + j) < n) // a negative number is a large one
            group.at[j] = from[first + j];
    return group;
}

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void store_group(T *to, ptrdiff_t first, size_t n, const Group<T, N> &group)
{
    if (VECTOR && first >= 0 && first + N <= (ptrdiff_t)n) {
        aligned_group<N>(to + first) = group;
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        if ((size_t)(first + j) < n)
            to[first + j] = group.at[j];
}

template <typename T, int N> __device__ __forceinline__ Group<T, N> round_group(const float (&values)[N])
{
    Group<T, N> group;
#pragma unroll
    for (int j = 0; j < N; j++)
        group.at[j] = from_float<T>(values[j]);
    return group;
}

// Elements in 16 bytes of the wider type.
template <typename A, typename B = A> __host__ __device__ constexpr int group_size()
{
    return VECTOR_BYTES / (int)(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));
}

inline bool is_aligned(const void *memory, size_t bytes)
{
    return (uintptr_t)memory % bytes == 0;
}

// ---- Reductions -----------------------------------------------------------------------------------------

// Sums over `size` neighbouring threads of a warp, a power of two; every thread gets the same bits, since
// each step adds the same two numbers on both sides.
template <typename T> __device__ __forceinline__ T warp_sum(T value, int size = WARP)
{
    for (int offset = size / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// NaN is passed over, as by fmaxf.
__device__ __forceinline__ float warp_max(float value, int size = WARP)
{
    for (int offset = size / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

// Sum over a block of BLOCK threads, in every thread.
template <int BLOCK, typename T> __device__ __forceinline__ T block_sum(T value)
{
    __shared__ T of_warp[BLOCK / WARP];
    value = warp_sum(value);
    __syncthreads(); // the last use of the array is over
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    T total = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < BLOCK / WARP; warp++)
        total += of_warp[warp];
    return total;
}

template <int BLOCK> __device__ __forceinline__ float block_max(float value)
{
    __shared__ float of_warp[BLOCK / WARP];
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    float largest = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < BLOCK / WARP; warp++)
        largest = fmaxf(largest, of_warp[warp]);
    return largest;
}

// ---- Launches -------------------------------------------------------------------------------------------

inline size_t divide_up(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

inline unsigned power_of_two_from(size_t n, unsigned most)
{
    unsigned power = 1;
    while (power < n && power < most)
        power *= 2;
    return power;
}

// Multiprocessors of the GPU. Only speed depends on it: how many steps a thread takes, never what is added
// to what.
inline unsigned multiprocessors()
{
    static unsigned known = 0; // a process uses one GPU
    int device = 0, count = 0;
    if (known == 0 && cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess)
        known = (unsigned)count;
    return known ? known : 1;
}

// How many of `threads` pieces of work one thread takes: one while the GPU is not full, up to `most` when it
// is, so that a thread has several loads in flight.
inline int steps_for(size_t threads, int most)
{
    size_t steps = divide_up(threads, (size_t)multiprocessors() * 2048);
    return steps > (size_t)most ? most : (int)steps;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
    void (*kernel)(Parameters...), Arguments &&...arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Calls `function` with a value of the element type.
template <typename Function> cudaError_t with_type(LsDtype type, Function function)
{
    switch (type) {
    case LS_F32:
        return function(float());
    case LS_BF16:
        return function(__nv_bfloat16());
    case LS_F16:
        return function(__half());
    default:
        return cudaErrorInvalidValue;
    }
}

// Calls `function` with true or false as a constant.
template <typename Function> cudaError_t with_bool(bool value, Function function)
{
    return value ? function(std::true_type()) : function(std::false_type());
}

#endif
