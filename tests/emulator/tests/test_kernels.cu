// The emulated GPU runs kernels as CUDA says: indices, launches and their limits, arguments, shared memory,
// barriers, atomics, and an order that the seed decides.
#include "kernel_test.h"

namespace
{

// ---- Indices ----------------------------------------------------------------------------------------------

__global__ void write_indices(uint4 *out, unsigned *visits)
{
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
    out[i] = make_uint4(block, threadIdx.x, threadIdx.y, threadIdx.z);
    atomicAdd(&visits[i], 1u);
}

void check_shape(dim3 grid, dim3 block)
{
    size_t threads = (size_t)block.x * block.y * block.z, n = threads * grid.x * grid.y * grid.z;
    DeviceArray<uint4> out(n);
    DeviceArray<unsigned> visits(std::vector<unsigned>(n, 0));
    OK(launch(grid, block, 0, write_indices, out.memory, visits.memory));
    std::vector<uint4> got = out.read();
    std::vector<unsigned> times = visits.read();
    for (size_t i = 0; i < n; i++) {
        size_t thread = i % threads;
        assert_int_equal(times[i], 1);
        assert_int_equal(got[i].x, i / threads);
        assert_int_equal(got[i].y, thread % block.x);
        assert_int_equal(got[i].z, thread / block.x % block.y);
        assert_int_equal(got[i].w, thread / block.x / block.y);
    }
}

void every_thread_of_every_shape_runs_once(void **)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        ls_emulator_seed(seed);
        check_shape(dim3(1), dim3(1));
        check_shape(dim3(7), dim3(33));
        check_shape(dim3(3, 2, 4), dim3(5, 3, 2));
        check_shape(dim3(2, 5), dim3(1024));
        check_shape(dim3(1, 1, 3), dim3(16, 1, 64));
        check_shape(dim3(513), dim3(1));
    }
}

// ---- Launches ---------------------------------------------------------------------------------------------

__global__ void nothing()
{
}

struct Parameters {
    unsigned char bytes[4096 - 16];
};

__global__ void take(Parameters parameters, size_t *out, float)
{
    out[0] = parameters.bytes[1];
}

__global__ void take_too_much(Parameters, size_t *, float, double)
{
}

void launches_are_checked(void **)
{
    OK(launch(dim3(1), dim3(1024), 0, nothing));
    FAILS(launch(dim3(1), dim3(1025), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(1), dim3(32, 33), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(1), dim3(1, 1, 65), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(0), dim3(1), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(1), dim3(0), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(1, 65536), dim3(1), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(1, 1, 65536), dim3(1), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(launch(dim3(0x80000000u), dim3(1), 0, nothing), cudaErrorInvalidConfiguration);
    FAILS(cudaGetLastError(), cudaErrorInvalidConfiguration);
    FAILS(cudaLaunchKernelEx(NULL, nothing), cudaErrorInvalidValue);
    OK(cudaDeviceSynchronize());
}

void shared_memory_above_48_kib_must_be_asked_for(void **)
{
    OK(launch(dim3(1), dim3(1), 48 << 10, nothing));
    FAILS(launch(dim3(1), dim3(1), (48 << 10) + 1, nothing), cudaErrorInvalidValue);
    OK(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10));
    OK(launch(dim3(1), dim3(1), 227 << 10, nothing));
    FAILS(launch(dim3(1), dim3(1), (227 << 10) + 1, nothing), cudaErrorInvalidValue);
    FAILS(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
        cudaErrorInvalidValue);
    OK(cudaDeviceSynchronize());
}

void parameters_are_copied_at_the_launch(void **)
{
    DeviceArray<size_t> out(1);
    Parameters parameters = {};
    parameters.bytes[1] = 7;
    OK(launch(dim3(1), dim3(1), 0, take, parameters, out.memory, 1)); // an int becomes the float
    parameters.bytes[1] = 8;
    assert_int_equal(out.read()[0], 7);
    FAILS(launch(dim3(1), dim3(1), 0, take_too_much, parameters, out.memory, 1, 2), cudaErrorInvalidValue);
}

__global__ void change_parameter(int *out, int value)
{
    value += (int)threadIdx.x;
    out[threadIdx.x] = value;
}

void threads_have_parameters_of_their_own(void **)
{
    DeviceArray<int> out(64);
    OK(launch(dim3(1), dim3(64), 0, change_parameter, out.memory, 100));
    std::vector<int> got = out.read();
    for (int i = 0; i < 64; i++)
        assert_int_equal(got[i], 100 + i);
}

// ---- Shared memory and barriers ---------------------------------------------------------------------------

template <typename T> __global__ void reverse(T *out, size_t *filled)
{
    __shared__ T tile[256];
    LS_DYNAMIC_SHARED(unsigned char, bytes);
    unsigned i = threadIdx.x, n = blockDim.x;
    bool fresh = bytes[i] == 0xff;
    for (size_t b = 0; b < sizeof(T); b++)
        fresh = fresh && reinterpret_cast<unsigned char *>(&tile[i])[b] == 0xff;
    size_t count = (size_t)__syncthreads_count(fresh);
    tile[i] = (T)(blockIdx.x * 1000 + i);
    bytes[i] = (unsigned char)i;
    __syncthreads();
    out[blockIdx.x * n + i] = (T)(tile[n - 1 - i] + (T)bytes[(i + 1) % n]);
    filled[blockIdx.x] = count;
}

template <typename T> void check_reverse(void)
{
    enum { BLOCKS = 5, THREADS = 96 };
    DeviceArray<T> out(BLOCKS * THREADS);
    DeviceArray<size_t> filled(BLOCKS);
    OK(launch(dim3(BLOCKS), dim3(THREADS), THREADS, reverse<T>, out.memory, filled.memory));
    std::vector<T> got = out.read();
    std::vector<size_t> fresh = filled.read();
    for (int b = 0; b < BLOCKS; b++) {
        assert_int_equal(fresh[b], THREADS);
        for (int i = 0; i < THREADS; i++)
            assert_true(got[b * THREADS + i] == (T)(b * 1000 + THREADS - 1 - i + (i + 1) % THREADS));
    }
}

void shared_memory_is_fresh_for_each_block(void **)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        ls_emulator_seed(seed);
        check_reverse<float>(); // two kernels of one template, with a variable each
        check_reverse<double>();
    }
}

__global__ void predicates(int *out)
{
    int i = (int)threadIdx.x;
    out[i * 4 + 0] = __syncthreads_count(i % 3 == 0);
    out[i * 4 + 1] = __syncthreads_and(i >= 0);
    out[i * 4 + 2] = __syncthreads_and(i != 17);
    out[i * 4 + 3] = __syncthreads_or(i == 70) * 2 + __syncthreads_or(i > 1000);
}

void barriers_count_predicates(void **)
{
    DeviceArray<int> out(100 * 4);
    OK(launch(dim3(1), dim3(100), 0, predicates, out.memory));
    std::vector<int> got = out.read();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(got[i * 4 + 0], 34);
        assert_true(got[i * 4 + 1] != 0);
        assert_int_equal(got[i * 4 + 2], 0);
        assert_int_equal(got[i * 4 + 3], 2);
    }
}

// ---- Atomics ----------------------------------------------------------------------------------------------

struct Totals {
    int sum, least, most;
    unsigned bits, wrapped, turns;
    unsigned long long wide, bins[4];
};

__global__ void count(Totals *t)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&t->sum, i - 10);
    atomicMin(&t->least, 5 - i);
    atomicMax(&t->most, i * 3);
    atomicOr(&t->bits, 1u << i % 5);
    atomicAdd(&t->wrapped, 0x80000000u);
    atomicInc(&t->turns, 6);
    atomicAdd(&t->wide, 1ull << 33);
    unsigned long long seen, old = t->bins[i % 4];
    do { // addition by compare and swap
        seen = old;
        old = atomicCAS(&t->bins[i % 4], seen, seen + (unsigned)i);
    } while (old != seen);
}

void atomics_add_up(void **)
{
    enum { N = 200 };
    DeviceArray<Totals> totals(std::vector<Totals>(1));
    OK(launch(dim3(2), dim3(N / 2), 0, count, totals.memory));
    Totals t = totals.read()[0];
    assert_int_equal(t.sum, N * (N - 1) / 2 - 10 * N);
    assert_int_equal(t.least, 5 - (N - 1));
    assert_int_equal(t.most, 3 * (N - 1));
    assert_int_equal(t.bits, 31);
    assert_int_equal(t.wrapped, 0);
    assert_int_equal(t.turns, N % 7); // 0 … 6 and again
    assert_true(t.wide == (unsigned long long)N << 33);
    for (int b = 0; b < 4; b++)
        assert_int_equal(t.bins[b], (N / 4) * b + 4 * (N / 4) * (N / 4 - 1) / 2);
}

// ---- Order ------------------------------------------------------------------------------------------------

__global__ void arrive(unsigned *next, unsigned *order)
{
    order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> arrival_order(uint64_t seed)
{
    ls_emulator_seed(seed);
    DeviceArray<unsigned> next(std::vector<unsigned>(1, 0)), order(64 * 8);
    OK(launch(dim3(8), dim3(64), 0, arrive, next.memory, order.memory));
    return order.read();
}

void the_seed_shuffles_blocks_and_threads(void **)
{
    std::vector<unsigned> ascending = arrival_order(0), first = arrival_order(1), second = arrival_order(2);
    for (unsigned i = 0; i < ascending.size(); i++)
        assert_int_equal(ascending[i], i);
    assert_true(first != ascending);
    assert_true(second != ascending);
    assert_true(first != second);
    assert_true(arrival_order(1) == first);
    bool blocks_moved = false;
    for (unsigned i = 0; i < first.size(); i += 64)
        blocks_moved = blocks_moved || first[i] / 64 != i / 64;
    assert_true(blocks_moved);
}

// A sum over the block by warps, as kernels do it.
__global__ void sum(const float *x, float *out)
{
    __shared__ float partial[32];
    float v = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int offset = warpSize / 2; offset; offset /= 2)
        v += __shfl_down_sync(0xffffffffu, v, (unsigned)offset);
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
        for (int offset = warpSize / 2; offset; offset /= 2)
            v += __shfl_xor_sync(0xffffffffu, v, offset);
    }
    if (threadIdx.x == 0)
        out[blockIdx.x] = v;
}

void a_correct_kernel_gives_the_same_bits_in_every_order(void **)
{
    enum { BLOCKS = 9, THREADS = 256 };
    std::vector<float> x(BLOCKS * THREADS);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = 1.0f / (float)(i + 1);
    DeviceArray<float> in(x), out(BLOCKS);
    std::vector<float> expected;
    for (uint64_t seed = 0; seed < 10; seed++) {
        ls_emulator_seed(seed);
        OK(launch(dim3(BLOCKS), dim3(THREADS), 0, sum, in.memory, out.memory));
        std::vector<float> got = out.read();
        if (seed == 0)
            expected = got;
        assert_memory_equal(got.data(), expected.data(), BLOCKS * sizeof(float));
    }
    double first = 0;
    for (int i = 0; i < THREADS; i++)
        first += x[i];
    assert_true(fabs(expected[0] - first) < 1e-5); // 8 additions deep, each within 6e-8 of about 6
}

int reset(void **)
{
    ls_emulator_seed(0);
    return 0;
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_thread_of_every_shape_runs_once, reset),
        cmocka_unit_test(launches_are_checked),
        cmocka_unit_test(shared_memory_above_48_kib_must_be_asked_for),
        cmocka_unit_test(parameters_are_copied_at_the_launch),
        cmocka_unit_test(threads_have_parameters_of_their_own),
        cmocka_unit_test_teardown(shared_memory_is_fresh_for_each_block, reset),
        cmocka_unit_test(barriers_count_predicates),
        cmocka_unit_test(atomics_add_up),
        cmocka_unit_test_teardown(the_seed_shuffles_blocks_and_threads, reset),
        cmocka_unit_test_teardown(a_correct_kernel_gives_the_same_bits_in_every_order, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
