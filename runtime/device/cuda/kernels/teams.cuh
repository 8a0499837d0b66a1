// Kernels that give a row to a team of threads: some neighbours within a warp where a row is short, so that a
// warp has several rows, a block of threads where it is long. A team's sums are taken in an order that the
// number of columns alone fixes.
#ifndef LOCKSTEP_DEVICE_CUDA_TEAMS_CUH
#define LOCKSTEP_DEVICE_CUDA_TEAMS_CUH

#include "common.cuh"

constexpr int LONG_THREADS = 512; // of a row that no block keeps in registers

// One row's threads. BLOCK: all threads of a block, else `size` neighbours within a warp.
template <int BLOCK> struct Team {
    size_t row;
    unsigned rank, size;

    __device__ explicit Team(unsigned threads_per_row)
    {
        size = BLOCK ? (unsigned)BLOCK : threads_per_row;
        row = BLOCK ? blockIdx.x : (size_t)blockIdx.x * (THREADS / size) + threadIdx.x / size;
        rank = threadIdx.x % size;
    }

    __device__ float sum(float value) const
    {
        if constexpr (BLOCK > 0)
            return block_sum<BLOCK>(value);
        else
            return warp_sum(value, size);
    }

    __device__ float max(float value) const
    {
        if constexpr (BLOCK > 0)
            return block_max<BLOCK>(value);
        else
            return warp_max(value, size);
    }

    // What the team has read may be written by any of it.
    __device__ void synchronize() const
    {
        if constexpr (BLOCK > 0)
            __syncthreads();
        else
            __syncwarp();
    }
};

// Launches a kernel for teams of `size` threads, or of BLOCK.
template <int BLOCK, typename Kernel, typename... Arguments>
cudaError_t launch_teams(
    cudaStream_t stream, size_t rows, unsigned size, Kernel kernel, const Arguments &...arguments)
{
    unsigned blocks = (unsigned)(BLOCK ? rows : divide_up(rows, THREADS / size));
    return launch(stream, blocks, BLOCK ? BLOCK : THREADS, 0, kernel, arguments..., size);
}

#endif
