// Kernels over flat buffers: out[i] = op(in[0][i], in[1][i], …).
#ifndef LOCKSTEP_DEVICE_CUDA_FLAT_CUH
#define LOCKSTEP_DEVICE_CUDA_FLAT_CUH

#include "common.cuh"

// Group g starts at element g × N - shift. A block takes `steps` × THREADS groups: one step while the GPU is
// not full, more when it is, so that a thread has several loads in flight.
struct Flat {
    size_t n, shift;
    int steps;
};

template <typename In, typename Out, int INPUTS> struct FlatBuffers {
    const In *in[INPUTS];
    Out *out;
};

// WHOLE: all of the tile's groups are aligned and inside, so that the loads are straight-line code.
template <bool VECTOR, bool WHOLE, int STEPS, int N, typename In, typename Out, int INPUTS, typename Op>
__device__ __forceinline__ void map_tile(
    const Flat &flat, const FlatBuffers<In, Out, INPUTS> &buffers, const Op &op, size_t tile)
{
    Group<In, N> held[STEPS][INPUTS];
    ptrdiff_t first[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        first[s] = (ptrdiff_t)((tile + s * THREADS + threadIdx.x) * N - flat.shift);
        if (!WHOLE && s >= flat.steps)
            first[s] = (ptrdiff_t)flat.n; // outside
#pragma unroll
        for (int i = 0; i < INPUTS; i++)
            held[s][i] = WHOLE ? load_aligned<N>(buffers.in[i] + first[s])
                               : load_ragged<VECTOR, N>(buffers.in[i], first[s], flat.n);
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        float result[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            float values[INPUTS];
#pragma unroll
            for (int i = 0; i < INPUTS; i++)
                values[i] = held[s][i][j];
            result[j] = op(values);
        }
        if (WHOLE)
            store_aligned(buffers.out + first[s], round_group<Out>(result));
        else
            store_ragged<VECTOR, N>(buffers.out, first[s], flat.n, round_group<Out>(result));
    }
}

template <bool VECTOR, int STEPS, int N, typename In, typename Out, int INPUTS, typename Op>
__global__ __launch_bounds__(THREADS, MIN_BLOCKS) void map_kernel(
    Flat flat, FlatBuffers<In, Out, INPUTS> buffers, Op op)
{
    size_t tile = (size_t)blockIdx.x * THREADS * flat.steps;
    size_t end = (tile + (size_t)flat.steps * THREADS) * N - flat.shift;
    bool inside = tile * N >= flat.shift && end <= flat.n;
    if (VECTOR && inside && flat.steps == STEPS)
        map_tile<true, true, STEPS, N>(flat, buffers, op, tile);
    else if (VECTOR && inside && flat.steps == 1)
        map_tile<true, true, 1, N>(flat, buffers, op, tile);
    else
        map_tile<VECTOR, false, STEPS, N>(flat, buffers, op, tile);
}

// How many elements behind an aligned group of N the buffer starts.
template <int N, typename T> size_t shift_of(const T *buffer)
{
    return (uintptr_t)buffer % (N * sizeof(T)) / sizeof(T);
}

// Op: `float operator()(const float (&x)[INPUTS]) const`. `out` may be an input, since a thread reads what it
// is going to write and nothing that others write.
template <typename In, typename Out, int INPUTS, typename Op>
cudaError_t map(cudaStream_t stream, size_t n, const FlatBuffers<In, Out, INPUTS> &buffers, const Op &op)
{
    constexpr int N = group_size<In, Out>();
    if (n == 0)
        return cudaSuccess;
    size_t shift = shift_of<N>(buffers.out);
    bool alike = true;
    for (const In *in : buffers.in)
        alike = alike && shift_of<N>(in) == shift;
    Flat flat = {n, alike ? shift : 0, 1};
    size_t groups = divide_up(n + flat.shift, N);
    return with_bool(alike, [&](auto vector) {
        constexpr int STEPS = decltype(vector)::value && INPUTS < 4 ? 4 / INPUTS : 1;
        flat.steps = steps_for(groups, STEPS);
        unsigned blocks = (unsigned)divide_up(groups, (size_t)THREADS * flat.steps);
        return launch(stream, blocks, THREADS, 0,
            map_kernel<decltype(vector)::value, STEPS, N, In, Out, INPUTS, Op>, flat, buffers, op);
    });
}

#endif
