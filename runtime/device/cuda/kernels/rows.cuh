// Kernels over matrices whose columns have parameters (a bias, a scale, a place in the random stream): a
// thread keeps one group of columns and its parameters, and goes down the rows.
#ifndef LOCKSTEP_DEVICE_CUDA_ROWS_CUH
#define LOCKSTEP_DEVICE_CUDA_ROWS_CUH

#include "common.cuh"

constexpr size_t MOST_ROWS_OF_BLOCKS = 65535; // that a grid may have

struct RowPlace {
    size_t row, column, columns;

    __device__ size_t start() const // of the row
    {
        return row * columns;
    }
};

// A block covers blockDim.x groups of columns and steps × blockDim.y rows at a time.
struct RowTiles {
    size_t rows, columns;
    int steps;
};

// An Op has:
//   Input, N                  type of the elements read, and how many make a group
//   STEPS                     rows whose loads are in flight together, as many as registers hold
//   x                         what is read, [rows][columns]
//   Column column(first, columns)              parameters of columns first … first + N
//   finish<VECTOR>(place, group, parameters)   computes and writes
//   bool aligned(columns)     on the host: whether all groups of all buffers are aligned
// Element by element, a group takes more registers.
template <bool VECTOR, typename Op>
__global__ __launch_bounds__(THREADS, VECTOR ? MIN_BLOCKS : MIN_BLOCKS - 1) void row_kernel(
    Op op, RowTiles tiles)
{
    constexpr int N = Op::N;
    RowPlace place = {0, ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * N, tiles.columns};
    if (place.column >= tiles.columns)
        return;
    typename Op::Column parameters = op.column(place.column, tiles.columns);
    size_t stride = (size_t)gridDim.y * blockDim.y * tiles.steps;
    size_t first = (size_t)blockIdx.y * blockDim.y * tiles.steps + threadIdx.y;
    for (; first < tiles.rows; first += stride) {
        Group<typename Op::Input, N> held[Op::STEPS] = {};
#pragma unroll
        for (int s = 0; s < Op::STEPS; s++) {
            place.row = first + (size_t)s * blockDim.y;
            if (s < tiles.steps && place.row < tiles.rows)
                held[s] = load_group<VECTOR, N>(op.x + place.start(), place.column, tiles.columns);
        }
#pragma unroll
        for (int s = 0; s < Op::STEPS; s++) {
            place.row = first + (size_t)s * blockDim.y;
            if (s < tiles.steps && place.row < tiles.rows)
                op.template finish<VECTOR>(place, held[s], parameters);
        }
    }
}

template <typename Op> cudaError_t each_row(cudaStream_t stream, size_t rows, size_t columns, const Op &op)
{
    if (rows == 0 || columns == 0)
        return cudaSuccess;
    size_t groups = divide_up(columns, Op::N);
    unsigned width = power_of_two_from(groups, THREADS), height = THREADS / width;
    size_t across = divide_up(groups, width);
    RowTiles tiles = {rows, columns, steps_for(rows * across * width, Op::STEPS)};
    // Enough blocks to keep the GPU evenly busy, and no more, so that a thread reads its parameters seldom.
    size_t down = divide_up(rows, (size_t)height * tiles.steps);
    size_t most = divide_up(4 * resident_threads(), across * THREADS);
    most = most < MOST_ROWS_OF_BLOCKS ? most : MOST_ROWS_OF_BLOCKS;
    dim3 grid((unsigned)across, (unsigned)(down < most ? down : most));
    return with_bool(op.aligned(columns), [&](auto vector) {
        return launch(
            stream, grid, dim3(width, height), 0, row_kernel<decltype(vector)::value, Op>, op, tiles);
    });
}

#endif
