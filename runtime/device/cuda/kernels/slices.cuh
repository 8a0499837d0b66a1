// Sums over rows in two passes: blocks of threads leave the sums of their slices of rows, and a second kernel
// adds the slices.
#ifndef LOCKSTEP_DEVICE_CUDA_SLICES_CUH
#define LOCKSTEP_DEVICE_CUDA_SLICES_CUH

#include "common.cuh"

constexpr int MOST_RESULTS = 2;
constexpr int FINISH_HEIGHT = 32; // warps that share the slices of 32 columns

struct SliceSums {
    const float *from; // [slices][results][columns]
    unsigned slices;
    size_t columns;
    float *to[MOST_RESULTS]; // [columns] each
    bool accumulate;
};

// to[result] (+)= the sum over slices: warp y adds slices y, y + FINISH_HEIGHT, …, then their sums are added.
template <int HEIGHT>
__global__ __launch_bounds__(WARP *HEIGHT) void finish_kernel(const __grid_constant__ SliceSums sums)
{
    __shared__ float part[HEIGHT][WARP];
    unsigned result = blockIdx.y;
    size_t column = (size_t)blockIdx.x * WARP + threadIdx.x;
    const float *from = sums.from + result * sums.columns + column;
    float sum = 0;
    if (column < sums.columns)
#pragma unroll 4
        for (unsigned s = threadIdx.y; s < sums.slices; s += HEIGHT)
            sum += from[(size_t)s * gridDim.y * sums.columns];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= sums.columns)
        return;
#pragma unroll
    for (int y = 1; y < HEIGHT; y++)
        sum += part[y][threadIdx.x];
    float *to = sums.to[result] + column;
    *to = (sums.accumulate ? *to : 0.0f) + sum;
}

inline cudaError_t add_slices(cudaStream_t stream, const SliceSums &sums, unsigned results)
{
    dim3 grid((unsigned)divide_up(sums.columns, WARP), results);
    return launch(stream, grid, dim3(WARP, FINISH_HEIGHT), 0, finish_kernel<FINISH_HEIGHT>, sums);
}

#endif
