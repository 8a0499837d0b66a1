// Tiles of matrices in shared memory, and their products by warps: what attention is made of.
//
// A warp has 16 rows of a product. Its threads keep the sums in registers, four for every 8 columns, in the
// order of the tensor cores' instruction (mma.sync m16n8k16) for 16-bit types; sums of F32, which has no such
// instruction without loss, are made of fused multiply-adds and lie so that a thread has 4 rows. Layout says
// which sum is whose; all that is between products is written once for both. Sums are taken along ascending
// k, within the 16 of one instruction in the order that the GPU has.
#ifndef LOCKSTEP_DEVICE_CUDA_TILES_CUH
#define LOCKSTEP_DEVICE_CUDA_TILES_CUH

#include "common.cuh"

constexpr int TILE_ROWS = 64; // of a block of threads
constexpr int WARP_ROWS = 16;
constexpr int TILE_THREADS = TILE_ROWS / WARP_ROWS * WARP;
constexpr int STEP = 16; // k of one instruction; depths and widths are filled up with zeros to 16

// Elements from one row of a tile to the next: rows that are 16 bytes longer than a multiple of 128 put 8
// rows into different banks.
template <typename T, int WIDTH> constexpr int TILE_STRIDE = WIDTH + group_size<T>();

__device__ __forceinline__ int lane_index()
{
    return (int)(threadIdx.x % WARP);
}

// The warp's first row of its block's tile.
__device__ __forceinline__ int warp_row()
{
    return (int)(threadIdx.x / WARP) * WARP_ROWS;
}

// Sum [j][e] of a thread is that of row `row(of_row(e))` and column `column(j, e)`, or `value_column(j, e)`
// where it came from weigh_rows.
template <typename T> struct Layout {
    static constexpr int ROWS = 2, SHARERS = 4; // rows of a thread; threads of a row, neighbours

    __device__ static int of_row(int e)
    {
        return e / 2;
    }

    __device__ static int row(int r)
    {
        return lane_index() / SHARERS + 8 * r;
    }

    __device__ static int column(int j, int e)
    {
        return 8 * j + lane_index() % SHARERS * 2 + e % 2;
    }

    __device__ static int value_column(int j, int e)
    {
        return column(j, e);
    }
};

template <> struct Layout<float> {
    static constexpr int ROWS = 4, SHARERS = 8;

    __device__ static int of_row(int e)
    {
        return e;
    }

    __device__ static int row(int r)
    {
        return lane_index() / SHARERS + 4 * r;
    }

    __device__ static int column(int j, int)
    {
        return 8 * j + lane_index() % SHARERS;
    }

    __device__ static int value_column(int j, int) // 4 neighbours in 16 bytes
    {
        return j / 4 * 32 + lane_index() % SHARERS * 4 + j % 4;
    }
};

// ---- Instructions ---------------------------------------------------------------------------------------

// Four 8 × 8 matrices of 16-bit elements, whose 32 rows the lanes name in order. Word m: elements 2 (lane %
// 4) and the next of row lane / 4 of matrix m.
__device__ __forceinline__ void load_matrices(uint32_t (&word)[4], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
#else
    ls_emulator_ldmatrix(word, row, false);
#endif
}

// The same of the transposed matrices.
__device__ __forceinline__ void load_transposed(uint32_t (&word)[4], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
#else
    ls_emulator_ldmatrix(word, row, true);
#endif
}

// sum += a b for a [16][16] and b [16][8], as mma.sync has them.
#ifdef __CUDACC__
#define LS_MMA(type)                                                                                         \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                               \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                               \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                             \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
#endif

template <typename T>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#ifdef __CUDACC__
    if constexpr (std::is_same_v<T, __half>)
        LS_MMA("f16");
    else
        LS_MMA("bf16");
#else
    ls_emulator_mma<T>(sum, a, b0, b1);
#endif
}

// Copies BYTES, 16 or 4, to shared memory while the thread goes on; the bytes from `valid` on are zeros. Both
// are aligned to BYTES.
template <int BYTES> __device__ __forceinline__ void copy_async(void *to, const void *from, int valid)
{
#ifdef __CUDACC__
    uint32_t shared = (uint32_t)__cvta_generic_to_shared(to);
    if constexpr (BYTES == 16) // past the first-level cache: other threads do not need it
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared),
                     "l"(__cvta_generic_to_global(from)), "r"(valid)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared),
                     "l"(__cvta_generic_to_global(from)), "r"(valid)
                     : "memory");
#else
    ls_emulator_cp_async(to, from, BYTES, (unsigned)valid);
#endif
}

// What all threads of the block have copied until now is there, and all are here.
__device__ __forceinline__ void await_copies()
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_all;" ::: "memory");
#else
    ls_emulator_cp_async_wait_all();
#endif
    __syncthreads();
}

// ---- Loading and storing --------------------------------------------------------------------------------

// Columns [0, columns) of `rows` rows in global memory. `vector`: they begin at multiples of 16 bytes, and
// `columns` ends at one.
template <typename T> struct Matrix {
    T *at;
    size_t stride;
    unsigned rows, columns;
    bool vector;
};

// Copies HEIGHT rows and WIDTH columns from (row, column) on into a tile; what is beyond the matrix becomes
// zeros. Columns from `width` on are left out. Loops are not unrolled: copies wait for nothing, and registers
// are scarce.
template <int HEIGHT, int WIDTH, typename T>
__device__ __forceinline__ void load_tile(
    T *tile, const Matrix<const T> &from, unsigned row, unsigned column, int width)
{
    constexpr int N = group_size<T>(), ACROSS = WIDTH / N, DOWN = TILE_THREADS / ACROSS;
    static_assert(HEIGHT % DOWN == 0, "whole rows of groups");
    unsigned first = threadIdx.x % ACROSS * N;
    if ((int)first >= width)
        return;
    column += first;
    row += threadIdx.x / ACROSS;
    const T *at = from.at + row * from.stride + column;
    T *to = tile + threadIdx.x / ACROSS * TILE_STRIDE<T, WIDTH> + first;
#pragma unroll 1
    for (int i = 0; i < HEIGHT / DOWN; i++) {
        bool inside = row < from.rows && column < from.columns;
        if (from.vector) {
            copy_async<VECTOR_BYTES>(to, inside ? at : from.at, inside ? VECTOR_BYTES : 0);
        } else {
            Group<T, N> group = load_elements<N>(at, 0, inside ? from.columns - column : 0);
            *(uint4 *)to = make_uint4(group.word[0], group.word[1], group.word[2], group.word[3]);
        }
        row += DOWN;
        at += DOWN * from.stride;
        to += DOWN * TILE_STRIDE<T, WIDTH>;
    }
}

// Writes the warp's 16 rows of a tile that begin at row `row` of the matrix, without those before `begin`.
template <int WIDTH, typename T>
__device__ __forceinline__ void store_rows(
    const T *tile, const Matrix<T> &to, unsigned row, unsigned column, unsigned begin)
{
    constexpr int N = group_size<T>(), ACROSS = WIDTH / N, DOWN = WARP / ACROSS;
    unsigned first = lane_index() % ACROSS * N;
    column += first;
#pragma unroll 1
    for (int i = 0; i < WARP_ROWS / DOWN; i++) {
        unsigned r = lane_index() / ACROSS + i * DOWN;
        if (row + r < begin || row + r >= to.rows || column >= to.columns)
            continue;
        Group<T, N> group = load_aligned<N>(tile + r * TILE_STRIDE<T, WIDTH> + first);
        T *at = to.at + (row + r) * to.stride + column;
        if (to.vector)
            store_aligned(at, group);
        else
            store_elements(at, 0, to.columns - column, group);
    }
}

// Rounds the warp's sums and writes them by way of its own 16 rows of a tile, so that accesses are whole.
template <int WIDTH, typename T>
__device__ __forceinline__ void store_sums(const float (&sums)[WIDTH / 8][4], T *tile, const Matrix<T> &to,
    unsigned row, unsigned column, unsigned begin)
{
    typedef Layout<T> Of;
    __syncwarp(); // the last use of the rows is over
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            tile[Of::row(Of::of_row(e)) * TILE_STRIDE<T, WIDTH> + Of::value_column(j, e)] =
                from_bits<T>(round_word(sums[j][e], 0.0f, T()));
    __syncwarp();
    store_rows<WIDTH>(tile, to, row, column, begin);
}

// ---- Products -------------------------------------------------------------------------------------------

// sums[row][column] += sum over k < depth of rows[row][k] columns[column][k].
template <int WIDTH, int TILES, typename T, std::enable_if_t<sizeof(T) == 2, int> = 0>
__device__ __forceinline__ void add_products(
    float (&sums)[TILES][4], const T *rows, const T *columns, int depth)
{
    constexpr int STRIDE = TILE_STRIDE<T, WIDTH>;
    const T *row = rows + lane_index() % 16 * STRIDE + lane_index() / 16 * 8;
    const T *column =
        columns + (lane_index() / 16 * 8 + lane_index() % 8) * STRIDE + lane_index() / 8 % 2 * 8;
#pragma unroll 2
    for (int k = 0; k < depth; k += STEP) {
        uint32_t a[4];
        load_matrices(a, row + k);
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            uint32_t b[4];
            load_matrices(b, column + 8 * j * STRIDE + k);
            multiply<T>(sums[j], a, b[0], b[1]);
            multiply<T>(sums[j + 1], a, b[2], b[3]);
        }
    }
}

template <int WIDTH, int TILES>
__device__ __forceinline__ void add_products(
    float (&sums)[TILES][4], const float *rows, const float *columns, int depth)
{
    constexpr int STRIDE = TILE_STRIDE<float, WIDTH>;
    const float *row = rows + lane_index() / 8 * STRIDE, *column = columns + lane_index() % 8 * STRIDE;
#pragma unroll 1
    for (int k = 0; k < depth; k += 4) {
        float4 a[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            a[e] = *(const float4 *)(row + 4 * e * STRIDE + k);
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            float4 b = *(const float4 *)(column + 8 * j * STRIDE + k);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float sum = fmaf(a[e].y, b.y, fmaf(a[e].x, b.x, sums[j][e]));
                sums[j][e] = fmaf(a[e].w, b.w, fmaf(a[e].z, b.z, sum));
            }
        }
    }
}

// sums[row][column] += sum over k of weights[row][k] rows[k][column], for columns below `width`. Weights,
// which lie as add_products left its sums, are rounded to the type.
template <int WIDTH, int TILES, typename T, std::enable_if_t<sizeof(T) == 2, int> = 0>
__device__ __forceinline__ void weigh_rows(
    float (&sums)[WIDTH / 8][4], const float (&weights)[TILES][4], const T *rows, int width)
{
    constexpr int STRIDE = TILE_STRIDE<T, WIDTH>;
    const T *row = rows + lane_index() % 16 * STRIDE + lane_index() / 16 * 8;
#pragma unroll
    for (int k = 0; k < TILES; k += 2) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = round_word(weights[k + i / 2][i % 2 * 2], weights[k + i / 2][i % 2 * 2 + 1], T());
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j += 2) {
            if (8 * j < width) {
                uint32_t b[4];
                load_transposed(b, row + 8 * k * STRIDE + 8 * j);
                multiply<T>(sums[j], a, b[0], b[1]);
                multiply<T>(sums[j + 1], a, b[2], b[3]);
            }
        }
    }
}

template <int WIDTH, int TILES>
__device__ __forceinline__ void weigh_rows(
    float (&sums)[WIDTH / 8][4], const float (&weights)[TILES][4], const float *rows, int width)
{
    constexpr int STRIDE = TILE_STRIDE<float, WIDTH>;
    const float *row = rows + lane_index() % 8 * 4;
#pragma unroll
    for (int k = 0; k < TILES; k++)
#pragma unroll 1
        for (int i = 0; i < 8;
             i++) { // the weights of column 8 k + i are in lane i of those that share the row
            float a[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                a[e] = __shfl_sync(0xffffffffu, weights[k][e], i, 8);
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j += 4) {
                if (8 * j >= width)
                    continue;
                float4 b = *(const float4 *)(row + (8 * k + i) * STRIDE + 8 * j);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    sums[j][e] = fmaf(a[e], b.x, sums[j][e]);
                    sums[j + 1][e] = fmaf(a[e], b.y, sums[j + 1][e]);
                    sums[j + 2][e] = fmaf(a[e], b.z, sums[j + 2][e]);
                    sums[j + 3][e] = fmaf(a[e], b.w, sums[j + 3][e]);
                }
            }
        }
}

#endif
