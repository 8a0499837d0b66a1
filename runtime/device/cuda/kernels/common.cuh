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
// Blocks that must fit on a multiprocessor together, which bounds registers to 64: 1,024 threads with several
// loads each in flight are enough to keep memory busy.
constexpr int MIN_BLOCKS = 4;
constexpr int WARP = 32;
constexpr int VECTOR_BYTES = 16;

// Dynamic shared memory; the emulated GPU, whose host compiler has no such declaration, brings its own.
#ifndef LS_DYNAMIC_SHARED
#define LS_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

// ---- Elements -------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t bits_of(float x)
{
    return __float_as_uint(x);
}

__device__ __forceinline__ uint32_t bits_of(__nv_bfloat16 x)
{
    return __bfloat16_as_ushort(x);
}

__device__ __forceinline__ uint32_t bits_of(__half x)
{
    return __half_as_ushort(x);
}

__device__ __forceinline__ uint32_t bits_of(uint8_t x)
{
    return x;
}

template <typename T> __device__ __forceinline__ T from_bits(uint32_t bits);

template <> __device__ __forceinline__ float from_bits<float>(uint32_t bits)
{
    return __uint_as_float(bits);
}

template <> __device__ __forceinline__ __nv_bfloat16 from_bits<__nv_bfloat16>(uint32_t bits)
{
    return __ushort_as_bfloat16((uint16_t)bits);
}

template <> __device__ __forceinline__ __half from_bits<__half>(uint32_t bits)
{
    return __ushort_as_half((uint16_t)bits);
}

template <> __device__ __forceinline__ uint8_t from_bits<uint8_t>(uint32_t bits)
{
    return (uint8_t)bits;
}

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

__device__ __forceinline__ float not_a_number()
{
    return ls_bits_to_f32(0x7fc00000u);
}

// The words of values rounded to nearest even: one word of a float32, of two neighbours of a smaller type.
__device__ __forceinline__ uint32_t round_word(float x, float, float)
{
    return __float_as_uint(x);
}

__device__ __forceinline__ uint32_t round_word(float low, float high, __nv_bfloat16)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return bits_of(pair.x) | bits_of(pair.y) << 16;
}

__device__ __forceinline__ uint32_t round_word(float low, float high, __half)
{
    __half2 pair = __floats2half2_rn(low, high);
    return bits_of(pair.x) | bits_of(pair.y) << 16;
}

// ---- Groups ---------------------------------------------------------------------------------------------

// Words that are read as one access.
__device__ __forceinline__ void read_words(const void *from, uint32_t (&word)[4])
{
    uint4 words = *(const uint4 *)from;
    word[0] = words.x, word[1] = words.y, word[2] = words.z, word[3] = words.w;
}

__device__ __forceinline__ void read_words(const void *from, uint32_t (&word)[2])
{
    uint2 words = *(const uint2 *)from;
    word[0] = words.x, word[1] = words.y;
}

__device__ __forceinline__ void read_words(const void *from, uint32_t (&word)[1])
{
    word[0] = *(const uint32_t *)from;
}

// Words that are written to global memory as one access. The compiler takes stores of a uint4 apart where its
// members were computed apart, so that the instruction is named.
__device__ __forceinline__ void write_words(void *to, const uint32_t (&word)[4])
{
#ifdef __CUDA_ARCH__
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(word[0]),
                 "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
#else
    *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
#endif
}

__device__ __forceinline__ void write_words(void *to, const uint32_t (&word)[2])
{
#ifdef __CUDA_ARCH__
    asm volatile(
        "st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(word[0]), "r"(word[1])
        : "memory");
#else
    *(uint2 *)to = make_uint2(word[0], word[1]);
#endif
}

__device__ __forceinline__ void write_words(void *to, const uint32_t (&word)[1])
{
    *(uint32_t *)to = word[0];
}

// N elements that lie together. They are kept as the words that they came in, whatever their type, so that a
// group of small elements fills no more registers than its bytes.
template <typename T, int N> struct Group {
    static constexpr int PER_WORD = 4 / (int)sizeof(T), BITS = 8 * (int)sizeof(T);
    uint32_t word[N / PER_WORD];

    __device__ __forceinline__ T element(int j) const
    {
        return from_bits<T>(word[j / PER_WORD] >> (j % PER_WORD * BITS));
    }

    __device__ __forceinline__ float operator[](int j) const
    {
        return to_float(element(j));
    }

    __device__ __forceinline__ void unpack(float (&values)[N]) const
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            values[j] = (*this)[j];
    }
};

// Of an aligned group.
template <int N, typename T> __device__ __forceinline__ Group<T, N> load_aligned(const T *from)
{
    Group<T, N> group;
    read_words(from, group.word);
    return group;
}

template <int N, typename T> __device__ __forceinline__ void store_aligned(T *to, const Group<T, N> &group)
{
    write_words(to, group.word);
}

// Whether element j of the group at `first` is one of n. WHOLE: no group lies partly outside.
template <bool WHOLE> __device__ __forceinline__ bool is_inside(ptrdiff_t first, int j, size_t n)
{
    return (size_t)(WHOLE ? first : first + j) < n; // a negative number is a large one
}

template <int N, typename T>
__device__ __forceinline__ Group<T, N> load_elements(const T *from, ptrdiff_t first, size_t n)
{
    Group<T, N> group = {};
#pragma unroll
    for (int j = 0; j < N; j++)
        if (is_inside<false>(first, j, n))
            group.word[j / group.PER_WORD] |= bits_of(from[first + j]) << (j % group.PER_WORD * group.BITS);
    return group;
}

template <int N, typename T>
__device__ __forceinline__ void store_elements(T *to, ptrdiff_t first, size_t n, const Group<T, N> &group)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        if (is_inside<false>(first, j, n))
            to[first + j] = group.element(j);
}

// The group that starts at element `first` of n. What is outside is read as zeros, and left alone when
// written. VECTOR: groups are aligned, and n is a multiple of N.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ Group<T, N> load_group(const T *from, ptrdiff_t first, size_t n)
{
    if (!VECTOR)
        return load_elements<N>(from, first, n);
    return is_inside<true>(first, 0, n) ? load_aligned<N>(from + first) : Group<T, N>();
}

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void store_group(T *to, ptrdiff_t first, size_t n, const Group<T, N> &group)
{
    if (!VECTOR)
        store_elements(to, first, n, group);
    else if (is_inside<true>(first, 0, n))
        store_aligned(to + first, group);
}

// The same of any n and any first, so that groups at both ends may lie partly outside.
template <bool VECTOR, int N, typename T>
__device__ __forceinline__ Group<T, N> load_ragged(const T *from, ptrdiff_t first, size_t n)
{
    if (VECTOR && first >= 0 && first + N <= (ptrdiff_t)n)
        return load_aligned<N>(from + first);
    return load_elements<N>(from, first, n);
}

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void store_ragged(T *to, ptrdiff_t first, size_t n, const Group<T, N> &group)
{
    if (VECTOR && first >= 0 && first + N <= (ptrdiff_t)n)
        store_aligned(to + first, group);
    else
        store_elements(to, first, n, group);
}

template <typename T, int N> __device__ __forceinline__ Group<T, N> round_group(const float (&values)[N])
{
    constexpr int PER_WORD = Group<T, N>::PER_WORD;
    Group<T, N> group;
#pragma unroll
    for (int j = 0; j < N; j += PER_WORD)
        group.word[j / PER_WORD] = round_word(values[j], values[j + PER_WORD - 1], T());
    return group;
}

// F32 numbers beside a group of a narrower type: N of them, in groups of their own.
template <bool VECTOR, int N>
__device__ __forceinline__ void load_floats(const float *from, size_t first, size_t n, float (&values)[N])
{
    constexpr int PART = VECTOR_BYTES / (int)sizeof(float);
#pragma unroll
    for (int j = 0; j < N; j += PART) {
        Group<float, PART> part = load_group<VECTOR, PART>(from, (ptrdiff_t)first + j, n);
#pragma unroll
        for (int i = 0; i < PART; i++)
            values[j + i] = part[i];
    }
}

template <bool VECTOR, int N>
__device__ __forceinline__ void store_floats(float *to, size_t first, size_t n, const float (&values)[N])
{
    constexpr int PART = VECTOR_BYTES / (int)sizeof(float);
#pragma unroll
    for (int j = 0; j < N; j += PART) {
        float part[PART];
#pragma unroll
        for (int i = 0; i < PART; i++)
            part[i] = values[j + i];
        store_group<VECTOR, PART>(to, (ptrdiff_t)first + j, n, round_group<float>(part));
    }
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

// Threads that fill the GPU.
inline size_t resident_threads()
{
    return (size_t)multiprocessors() * 2048;
}

// How many of `threads` pieces of work one thread takes: one while the GPU is not full, up to `most` when it
// is, so that a thread has several loads in flight.
inline int steps_for(size_t threads, int most)
{
    size_t steps = divide_up(threads, resident_threads());
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
