// The race checker finds what no result shows, and is silent where accesses are ordered. Compiled with
// -fsanitize=thread, whose calls races.cpp answers.
#include "kernel_test.h"

#include <cuda_fp16.h>

namespace
{

enum { THREADS = 96, BLOCKS = 3 };

template <typename T> T *device(size_t count)
{
    void *memory;
    OK(cudaMalloc(&memory, count * sizeof(T)));
    OK(cudaMemset(memory, 0, count * sizeof(T)));
    return static_cast<T *>(memory);
}

template <typename... Parameters, typename... Arguments>
void run(void (*kernel)(Parameters...), Arguments &&...arguments)
{
    if (launch(dim3(BLOCKS), dim3(THREADS), 1024, kernel, std::forward<Arguments>(arguments)...) !=
        cudaSuccess)
        _exit(0);
    (void)cudaDeviceSynchronize();
}

// ---- Ordered accesses -------------------------------------------------------------------------------------

__constant__ const float scales[3] = {1, 2, 3};

struct Pieces {
    const float *x[2];
    float scale;
};

__device__ float block_sum(float v)
{
    __shared__ float partial[THREADS / 32];
    for (int offset = 16; offset; offset /= 2)
        v += __shfl_down_sync(0xffffffffu, v, (unsigned)offset);
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < THREADS / 32; w++)
        v += partial[w];
    __syncthreads(); // before the next call writes
    return v;
}

__global__ void correct(Pieces pieces, __half *halves, unsigned *bins, float *out)
{
    LS_DYNAMIC_SHARED(float, tile);
    unsigned i = threadIdx.x, n = blockIdx.x * THREADS + i;
    float v = pieces.x[n % 2][n] * pieces.scale * scales[i % 3];
    halves[n] = __half(v); // neighbours in one word
    tile[i] = v;
    __syncwarp();
    v += tile[i ^ 1];
    __syncwarp();
    tile[i] = block_sum(v) + block_sum(tile[i]);
    __syncthreads();
    atomicAdd(&bins[i % 4], 1u); // by all blocks
    float4 local[2] = {make_float4(v, v, v, v), make_float4(0, 0, 0, 0)};
    local[i % 2].x += tile[THREADS - 1 - i];
    out[n] = local[0].x + local[1].x;
}

void ordered_accesses_are_no_race(void **)
{
    Pieces pieces = {{device<float>(BLOCKS * THREADS), device<float>(BLOCKS * THREADS)}, 2};
    __half *halves = device<__half>(BLOCKS * THREADS);
    float *out = device<float>(BLOCKS * THREADS);
    unsigned *bins = device<unsigned>(4);
    for (uint64_t seed = 0; seed < 3; seed++) {
        ls_emulator_seed(seed);
        run(correct, pieces, halves, bins, out);
    }
    ls_emulator_seed(0);
    OK(cudaGetLastError());
    OK(cudaFree((void *)pieces.x[0]));
    OK(cudaFree((void *)pieces.x[1]));
    OK(cudaFree(halves));
    OK(cudaFree(out));
    OK(cudaFree(bins));
}

// ---- Shared memory ----------------------------------------------------------------------------------------

__global__ void all_write_the_same(float *out)
{
    __shared__ float flag;
    flag = 1;
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = flag;
}

__global__ void neighbour_without_barrier(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1;
    tile[(threadIdx.x + 1) % THREADS] += 0;
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = tile[threadIdx.x];
}

// Read, then overwritten for the next round: no value depends on it, as every round writes the same.
__global__ void second_barrier_missing(float *out)
{
    LS_DYNAMIC_SHARED(float, tile);
    float sum = 0;
    for (int round = 0; round < 3; round++) {
        tile[threadIdx.x] = 1;
        __syncthreads();
        sum += tile[THREADS - 1 - threadIdx.x];
    }
    out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

__global__ void lanes_without_syncwarp(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1;
    float v = __shfl_xor_sync(0xffffffffu, 1.0f, 1); // orders no memory
    out[blockIdx.x * THREADS + threadIdx.x] = v + tile[threadIdx.x ^ 1];
}

__global__ void syncwarp_between_warps(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1;
    __syncwarp();
    out[blockIdx.x * THREADS + threadIdx.x] = tile[(threadIdx.x + 32) % THREADS];
}

__global__ void syncwarp_without_a_lane(float *out)
{
    __shared__ float tile[THREADS];
    unsigned lane = threadIdx.x % 32;
    tile[threadIdx.x] = 1;
    if (lane < 31)
        __syncwarp(0x7fffffffu);
    out[blockIdx.x * THREADS + threadIdx.x] = tile[(threadIdx.x & ~31u) + (lane + 1) % 32];
}

__global__ void atomic_and_plain(float *out)
{
    __shared__ unsigned counter;
    if (threadIdx.x == 0)
        counter = 0;
    __syncthreads();
    atomicAdd(&counter, 1u);
    if (threadIdx.x == 40)
        out[blockIdx.x] = (float)(counter > 1000);
}

void silent_races_on_shared_memory(void **)
{
    expect_fault([] { run(all_write_the_same, device<float>(BLOCKS * THREADS)); },
        {"all_write_the_same", "race: it writes shared memory, byte 0 of", "flag[abi:shared]", "wrote",
            "thread (1, 0, 0)", "thread (0, 0, 0)"});
    expect_fault([] { run(neighbour_without_barrier, device<float>(BLOCKS * THREADS)); },
        {"race", "tile[abi:shared]"});
    expect_fault([] { run(second_barrier_missing, device<float>(BLOCKS * THREADS)); },
        {"race: it", "dynamic shared memory, byte"});
    expect_fault([] { run(lanes_without_syncwarp, device<float>(BLOCKS * THREADS)); }, {"race", "reads"});
    expect_fault([] { run(syncwarp_between_warps, device<float>(BLOCKS * THREADS)); }, {"race", "reads"});
    expect_fault([] { run(syncwarp_without_a_lane, device<float>(BLOCKS * THREADS)); }, {"race"});
    expect_fault([] { run(atomic_and_plain, device<float>(BLOCKS)); }, {"race", "updated atomically"});
}

// ---- Device memory ----------------------------------------------------------------------------------------

__global__ void blocks_write_one_number(float *out)
{
    if (threadIdx.x == 0)
        out[0] = 1;
}

__global__ void block_reads_its_neighbour(float *out)
{
    unsigned n = blockIdx.x * THREADS + threadIdx.x;
    out[n] = 1;
    if (threadIdx.x == 0)
        out[n] += out[(n + THREADS) % (gridDim.x * THREADS)];
}

__global__ void neighbour_bytes_overlap(char *out)
{
    unsigned n = blockIdx.x * THREADS + threadIdx.x;
    if (threadIdx.x < 8)
        *reinterpret_cast<uint4 *>(out + 8 * n) = make_uint4(0, 0, 0, 0); // 16 bytes each, 8 apart
}

__global__ void block_reads_a_counter(unsigned *counter)
{
    atomicAdd(counter, 1u);
    __syncthreads();
    if (threadIdx.x == 0 && *counter == 12345)
        *counter = 0;
}

__global__ void threads_meet_in_device_memory(float *out)
{
    unsigned n = blockIdx.x * THREADS + threadIdx.x;
    out[n] = 1;
    __syncthreads(); // within the block this orders them
    float v = out[n / THREADS * THREADS + (threadIdx.x + 50) % THREADS];
    __syncthreads();
    out[n] = v;
}

void races_on_device_memory(void **)
{
    expect_fault([] { run(blocks_write_one_number, device<float>(1)); },
        {"race: it writes device memory", "another block wrote"});
    expect_fault([] { run(block_reads_its_neighbour, device<float>(BLOCKS * THREADS)); }, {"another block"});
    expect_fault([] { run(neighbour_bytes_overlap, device<char>(8 * BLOCKS * THREADS + 8)); },
        {"race: it writes device memory", "thread (0, 0, 0) wrote"});
    expect_fault([] { run(block_reads_a_counter, device<unsigned>(1)); },
        {"race: it updates atomically", "another block read"});
    expect_success([] { run(threads_meet_in_device_memory, device<float>(BLOCKS * THREADS)); });
}

// ---- Memory that is not the kernel's ----------------------------------------------------------------------

__global__ void write_at(float *x, size_t i)
{
    if (blockIdx.x == 1 && threadIdx.x == 5)
        x[i] = 1;
}

__global__ void read_at(const float *x, size_t i, float *out)
{
    if (blockIdx.x == 1 && threadIdx.x == 5)
        out[0] = x[i];
}

__global__ void publish_own_variable(float **box)
{
    float own = (float)threadIdx.x;
    if (threadIdx.x == 0)
        *box = &own;
    __syncthreads();
    if (threadIdx.x == 1)
        **box = 2;
    __syncthreads();
}

void accesses_outside_live_memory(void **)
{
    expect_fault([] { run(write_at, device<float>(1000), (size_t)1000); },
        {"block (1, 0, 0), thread (5, 0, 0): writes 4 bytes", "neither live memory"});
    expect_fault([] { run(write_at, device<float>(1000), ~(size_t)0); }, {"neither live memory"});
    expect_fault(
        [] {
            float *freed = device<float>(1000);
            OK(cudaFree(freed));
            run(read_at, freed, (size_t)0, device<float>(1));
        },
        {"reads 4 bytes", "neither live memory"});
    expect_fault(
        [] {
            float host = 0;
            run(read_at, &host, (size_t)0, device<float>(1));
        },
        {"reads 4 bytes", "neither live memory"});
    expect_fault([] { run(publish_own_variable, device<float *>(1)); }, {"neither live memory"});
    expect_success([] {
        void *pinned;
        OK(cudaMallocHost(&pinned, 4096));
        run(read_at, static_cast<float *>(pinned), (size_t)7, device<float>(1));
    });
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ordered_accesses_are_no_race),
        cmocka_unit_test(silent_races_on_shared_memory),
        cmocka_unit_test(races_on_device_memory),
        cmocka_unit_test(accesses_outside_live_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
