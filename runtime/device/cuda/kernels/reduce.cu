// Sums: of a vector, of a matrix's columns, of the squares of fixed blocks.
#include "pieces.cuh"
#include "slices.cuh"

namespace
{

// ---- Sum of a vector ------------------------------------------------------------------------------------

constexpr int SUM_THREADS = 1024;

template <bool VECTOR> __global__ __launch_bounds__(SUM_THREADS) void sum_kernel(LsSum args)
{
    constexpr int N = group_size<float>();
    double sum = 0;
#pragma unroll 4
    for (size_t first = (size_t)threadIdx.x * N; first < args.n; first += (size_t)SUM_THREADS * N) {
        Group<float, N> group = load_ragged<VECTOR, N>(args.x, (ptrdiff_t)first, args.n);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum += (double)group[j];
    }
    sum = block_sum<SUM_THREADS>(sum);
    if (threadIdx.x == 0)
        *args.y = (float)((args.accumulate ? (double)*args.y : 0.0) + sum);
}

// ---- Sums of squares ------------------------------------------------------------------------------------

struct SquaresPiece {
    const float *x;
    float *sums;
    const uint8_t *block_kind; // may be NULL
    size_t n;
};
typedef Pieces<SquaresPiece, 104> SquaresPieces;

// A block of threads per block of elements. A product of two floats is exact in float64, and so the fused
// multiply-add rounds once, as the sum of a square does.
template <bool VECTOR>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void squares_kernel(
    const __grid_constant__ SquaresPieces pieces)
{
    constexpr int N = group_size<float>(), STEPS = LS_BLOCK / (THREADS * N);
    size_t block;
    const SquaresPiece &piece = pieces.find(blockIdx.x, &block);
    Group<float, N> held[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        size_t first = block * LS_BLOCK + ((size_t)s * THREADS + threadIdx.x) * N;
        held[s] = load_ragged<VECTOR, N>(piece.x, (ptrdiff_t)first, piece.n);
    }
    double sum = 0;
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sum = fma((double)held[s][j], (double)held[s][j], sum);
    sum = block_sum<THREADS>(sum);
    bool statistics = piece.block_kind && piece.block_kind[block] == LS_KIND_STATISTICS;
    if (threadIdx.x == 0)
        piece.sums[block] = statistics ? (float)sum * 0.0f : (float)sum;
}

// ---- Sums of columns ------------------------------------------------------------------------------------

constexpr int COLUMN_STEPS = 4;      // rows whose loads are in flight together
constexpr size_t MOST_BLOCKS = 1024; // that the rows are cut for: some for every multiprocessor of any GPU

// A block of threads sums `height` interleaved parts of one slice of rows, for `width` groups of columns.
struct Slices {
    unsigned width, height, across, count;
    size_t rows; // of a slice
};

Slices cut_rows(const LsBiasGradient *args)
{
    Slices slices;
    size_t groups = divide_up(args->columns, VECTOR_BYTES / ls_dtype_size(args->type));
    slices.width = power_of_two_from(groups, WARP);
    slices.height = power_of_two_from(args->rows, THREADS / slices.width); // few rows: more columns instead
    slices.width = THREADS / slices.height;
    slices.across = (unsigned)divide_up(groups, slices.width);
    size_t wanted = divide_up(MOST_BLOCKS, slices.across);
    size_t possible = divide_up(args->rows, (size_t)slices.height * COLUMN_STEPS);
    slices.rows = divide_up(args->rows, wanted < possible ? wanted : possible);
    slices.count = (unsigned)divide_up(args->rows, slices.rows);
    return slices;
}

struct Columns {
    size_t rows, columns, slice_rows;
    const void *dy;
    float *to; // [slices][columns], or the gradient itself when there is one slice
    bool accumulate;
};

template <bool VECTOR, int N, typename T>
__device__ __forceinline__ void add_rows(
    const T *dy, const Columns &args, size_t column, size_t row, size_t end, float (&sum)[N])
{
    for (; row < end; row += (size_t)COLUMN_STEPS * blockDim.y) {
        Group<T, N> held[COLUMN_STEPS] = {};
#pragma unroll
        for (int s = 0; s < COLUMN_STEPS; s++)
            if (row + s * blockDim.y < end)
                held[s] = load_group<VECTOR, N>(
                    dy + (row + s * blockDim.y) * args.columns, (ptrdiff_t)column, args.columns);
#pragma unroll
        for (int s = 0; s < COLUMN_STEPS; s++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sum[j] += held[s][j]; // zeros behind the end
    }
}

template <bool VECTOR, typename T>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void columns_kernel(Columns args)
{
    constexpr int N = group_size<T>();
    __shared__ float part[N][THREADS];
    size_t column = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N;
    size_t begin = blockIdx.y * args.slice_rows, end = begin + args.slice_rows;
    end = end < args.rows ? end : args.rows;
    float sum[N] = {};
    if (column < args.columns)
        add_rows<VECTOR, N>((const T *)args.dy, args, column, begin + threadIdx.y, end, sum);
    unsigned at = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int j = 0; j < N; j++)
        part[j][at] = sum[j];
    for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half)
#pragma unroll
            for (int j = 0; j < N; j++)
                part[j][at] += part[j][at + half * blockDim.x];
    }
    float *to = args.to + blockIdx.y * args.columns;
    if (threadIdx.y == 0)
#pragma unroll
        for (int j = 0; j < N; j++)
            if (column + j < args.columns)
                to[column + j] = (args.accumulate ? to[column + j] : 0.0f) + part[j][at];
}

template <typename T>
cudaError_t launch_columns(
    cudaStream_t stream, const LsBiasGradient *args, const Slices &slices, const Columns &columns)
{
    bool aligned = is_aligned(args->dy, VECTOR_BYTES) && args->columns % group_size<T>() == 0;
    return with_bool(aligned, [&](auto vector) {
        return launch(stream, dim3(slices.across, slices.count), dim3(slices.width, slices.height), 0,
            columns_kernel<decltype(vector)::value, T>, columns);
    });
}

} // namespace

cudaError_t ls_kernel_sum(cudaStream_t stream, const LsSum *args)
{
    if (args->n == 0 && args->accumulate)
        return cudaSuccess;
    return with_bool(is_aligned(args->x, VECTOR_BYTES), [&](auto vector) {
        return launch(stream, 1, SUM_THREADS, 0, sum_kernel<decltype(vector)::value>, *args);
    });
}

cudaError_t ls_kernel_block_squares(cudaStream_t stream, const LsBlockSquares *args)
{
    bool aligned = true;
    for (size_t i = 0; i < args->count; i++)
        aligned = aligned && is_aligned(args->piece[i].x, VECTOR_BYTES);
    return with_bool(aligned, [&](auto vector) {
        return each_chunk<SquaresPieces>(
            args->count,
            [&](size_t i) {
                const LsSquaresPiece *piece = &args->piece[i];
                return SquaresPiece{piece->x, piece->sums, piece->block_kind, piece->n};
            },
            [&](const SquaresPieces &pieces) {
                return launch(
                    stream, pieces.blocks(), THREADS, 0, squares_kernel<decltype(vector)::value>, pieces);
            });
    });
}

size_t ls_kernel_bias_gradient_scratch(const LsBiasGradient *args)
{
    if (args->rows == 0 || args->columns == 0)
        return 0;
    Slices slices = cut_rows(args);
    return slices.count > 1 ? slices.count * args->columns * sizeof(float) : 0;
}

cudaError_t ls_kernel_bias_gradient(cudaStream_t stream, const LsBiasGradient *args, void *scratch)
{
    if (args->columns == 0 || (args->rows == 0 && args->accumulate))
        return cudaSuccess;
    if (args->rows == 0)
        return cudaMemsetAsync(args->db, 0, args->columns * sizeof(float), stream);
    Slices slices = cut_rows(args);
    bool once = slices.count == 1;
    Columns columns = {args->rows, args->columns, slices.rows, args->dy, once ? args->db : (float *)scratch,
        once && args->accumulate};
    cudaError_t error = with_type(
        args->type, [&](auto type) { return launch_columns<decltype(type)>(stream, args, slices, columns); });
    if (error != cudaSuccess || once)
        return error;
    const SliceSums sums = {
        (const float *)scratch, slices.count, args->columns, {args->db, NULL}, args->accumulate};
    return add_slices(stream, sums, 1);
}
