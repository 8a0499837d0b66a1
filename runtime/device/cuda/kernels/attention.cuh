// What the kernels of attention share: heads as matrices, how work is cut, weights of scores.
//
// A block of threads has 64 rows of one head: queries, or keys. It goes over the other side in tiles. Values
// of a head are taken WIDTH at a time: most heads are one such part; of longer ones, scores are sums over
// parts that follow each other through shared memory, and each part of the result has a block of its own,
// which computes the scores again. So registers and shared memory suffice for heads of any size.
#ifndef LOCKSTEP_DEVICE_CUDA_ATTENTION_CUH
#define LOCKSTEP_DEVICE_CUDA_ATTENTION_CUH

#include <limits.h>

#include "tiles.cuh"

// What decides how a call is cut, the same for forward and backward.
struct HeadShape {
    unsigned window, heads, size; // tokens, heads, values of a head
    unsigned tiles, parts;        // of rows, of values
    float scale;                  // of scores
    bool vector;                  // all rows of all heads begin and end at multiples of 16 bytes
};

// Whether the numbers of a shape fit what kernels count in.
inline bool are_countable(size_t window, size_t heads, size_t size)
{
    return window <= INT_MAX - TILE_ROWS && heads <= INT_MAX && size <= INT_MAX - TILE_ROWS;
}

inline HeadShape head_shape(size_t window, size_t heads, size_t size, int width, size_t first)
{
    HeadShape shape = {
        (unsigned)window, (unsigned)heads, (unsigned)size, 0, 0, 1.0f / sqrtf((float)size), false};
    shape.tiles = (unsigned)(divide_up(window, TILE_ROWS) - first / TILE_ROWS);
    shape.parts = (unsigned)divide_up(size, width);
    return shape;
}

// Blocks of a launch; 0: more than a grid has.
inline unsigned grid_of(const HeadShape &shape, size_t windows)
{
    size_t per_head = (size_t)shape.tiles * shape.parts, heads = windows * shape.heads;
    return heads > (size_t)INT_MAX / per_head ? 0 : (unsigned)(heads * per_head);
}

// Which part of the work a block has. Tiles of a head are neighbours, so that they find its rows in the
// second-level cache.
struct Block {
    unsigned window, head; // number of the window; of the head within it
    unsigned part, tile;

    __device__ explicit Block(const HeadShape &shape)
    {
        unsigned rest = blockIdx.x / shape.tiles;
        tile = blockIdx.x % shape.tiles;
        part = rest % shape.parts;
        rest /= shape.parts;
        head = rest % shape.heads;
        window = rest / shape.heads;
    }

    // Of the first token in [windows][heads][window].
    __device__ size_t sums(const HeadShape &shape) const
    {
        return ((size_t)window * shape.heads + head) * shape.window;
    }
};

// The block's head in a matrix [windows × window][pieces × heads × size].
template <typename T>
__device__ __forceinline__ Matrix<T> head_matrix(
    T *at, const HeadShape &shape, const Block &block, size_t pieces, size_t piece)
{
    size_t width = (size_t)shape.heads * shape.size, stride = pieces * width;
    at += (size_t)block.window * shape.window * stride + piece * width + (size_t)block.head * shape.size;
    return Matrix<T>{at, stride, shape.window, shape.size, shape.vector};
}

enum Piece { QUERIES, KEYS, VALUES, PIECES };

constexpr int SHORT = 64, LONG = 128; // widths of a part; heads of up to SHORT values are one part

// Known to the compiler for short heads.
template <int WIDTH> __device__ __forceinline__ unsigned parts_of(const HeadShape &shape)
{
    return WIDTH == SHORT ? 1 : shape.parts;
}

// Values of part `part` of WIDTH, filled up to whole steps.
template <int WIDTH> __device__ __forceinline__ int part_width(const HeadShape &shape, unsigned part)
{
    int left = (int)(shape.size - part * WIDTH);
    return left >= WIDTH ? WIDTH : (left + STEP - 1) / STEP * STEP;
}

// 2^x within 2 units in the last place; results below 2^-126 are 0, which no sum of weights notices.
__device__ __forceinline__ float power_of_two(float x)
{
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

__device__ __forceinline__ float minus_infinity()
{
    return ls_bits_to_f32(0xff800000u);
}

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.69314718055994531f;

// Calls `function` with the width of parts as a constant.
template <typename Function> cudaError_t with_width(size_t size, Function function)
{
    return size <= SHORT ? function(std::integral_constant<int, SHORT>())
                         : function(std::integral_constant<int, LONG>());
}

constexpr size_t STATIC_SHARED_BYTES = 48 << 10; // that a kernel has without asking

// Launches a kernel for one block of threads after another. Asking for shared memory is no work of a stream,
// so it may be done while a graph is recorded.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_tiles(cudaStream_t stream, unsigned blocks, size_t shared_bytes,
    void (*kernel)(Parameters...), const Arguments &...arguments)
{
    cudaError_t error = blocks == 0 ? cudaErrorInvalidConfiguration : cudaSuccess;
    if (error == cudaSuccess && shared_bytes > STATIC_SHARED_BYTES)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    return error == cudaSuccess ? launch(stream, blocks, TILE_THREADS, shared_bytes, kernel, arguments...)
                                : error;
}

#endif
