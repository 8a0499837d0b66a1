// Faults that a GPU answers with silence are planted in kernels here, and the emulated GPU must see each one.
#include "address_sanitizer.h"
#include "kernel_test.h"

#include <math.h>

namespace
{

enum { THREADS = 128 };

float *device_floats(size_t count)
{
    void *memory;
    OK(cudaMalloc(&memory, count * sizeof(float)));
    return static_cast<float *>(memory);
}

// For what runs in a child and must not get past this.
template <typename... Parameters, typename... Arguments>
void run(unsigned threads, void (*kernel)(Parameters...), Arguments &&...arguments)
{
    if (launch(dim3(2), dim3(threads), 0, kernel, std::forward<Arguments>(arguments)...) != cudaSuccess)
        _exit(0);
    (void)cudaDeviceSynchronize();
}

// ---- Memory -----------------------------------------------------------------------------------------------

__global__ void write_at(float *x, size_t i)
{
    x[i] = 1;
}

void write_far_behind(void)
{
    run(1, write_at, device_floats(100), (size_t)1 << 30);
}

void write_one_behind(void)
{
    float *memory = device_floats(1024);
    run(1, write_at, memory, (size_t)1024);
    (void)cudaFree(memory); // looks at what is behind the allocation
}

void use_after_free(void)
{
    float *memory = device_floats(1 << 16);
    OK(cudaFree(memory));
    run(1, write_at, memory, (size_t)0);
}

void out_of_bounds_writes_are_seen(void **)
{
    expect_crash(write_far_behind);
    expect_crash(use_after_free);
    expect_crash(write_one_behind);
}

__global__ void write_dynamic_at(size_t i)
{
    LS_DYNAMIC_SHARED(float, x);
    x[i] = 1;
}

void write_behind_dynamic_shared(void)
{
    (void)launch(dim3(1), dim3(1), 64, write_dynamic_at, (size_t)16);
    (void)cudaDeviceSynchronize();
}

// It is laid out in 16 bytes.
void write_in_the_padding_of_dynamic_shared(void)
{
    (void)launch(dim3(1), dim3(1), sizeof(float), write_dynamic_at, (size_t)1);
    (void)cudaDeviceSynchronize();
}

void use_dynamic_shared_that_was_not_asked_for(void)
{
    run(1, write_dynamic_at, (size_t)0);
}

__global__ void write_static_at(size_t i, float *out)
{
    __shared__ float x[16];
    x[i] = 1;
    __syncthreads();
    out[0] = x[0];
}

void write_behind_static_shared(void)
{
    run(1, write_static_at, (size_t)16, device_floats(1));
}

void out_of_bounds_shared_memory_is_seen(void **)
{
    expect_crash(write_behind_dynamic_shared);
    expect_crash(use_dynamic_shared_that_was_not_asked_for);
#ifdef LS_ADDRESS_SANITIZER
    expect_crash(write_behind_static_shared);
    expect_crash(write_in_the_padding_of_dynamic_shared);
#else
    (void)write_behind_static_shared;
    (void)write_in_the_padding_of_dynamic_shared;
#endif
}

__global__ void read_uninitialised(float *out)
{
    __shared__ float x[2 * THREADS];
    x[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = x[threadIdx.x + 1];
}

void uninitialised_shared_memory_is_nan(void **)
{
    DeviceArray<float> out(THREADS);
    for (int round = 0; round < 2; round++) { // what the first kernel left must not help the second
        OK(launch(dim3(3), dim3(THREADS), 0, read_uninitialised, out.memory));
        std::vector<float> got = out.read();
        assert_true(got[0] == 1 && isnan(got[THREADS - 1]));
    }
}

// ---- Missing barriers -------------------------------------------------------------------------------------

template <bool first, bool second> __global__ void shift(const float *x, float *out)
{
    __shared__ float tile[THREADS];
    unsigned i = threadIdx.x;
    for (int round = 0; round < 3; round++) {
        tile[i] = x[i] + (float)round;
        if (first)
            __syncthreads();
        out[round * THREADS + i] = tile[(i + 37) % THREADS];
        if (second)
            __syncthreads();
    }
}

// Whether all seeds give what is right.
template <bool first, bool second> bool shift_is_right(void)
{
    std::vector<float> x(THREADS);
    for (int i = 0; i < THREADS; i++)
        x[i] = (float)(i * i);
    DeviceArray<float> in(x), out(3 * THREADS);
    bool right = true;
    for (uint64_t seed = 0; seed < 5; seed++) {
        ls_emulator_seed(seed);
        OK(launch(dim3(1), dim3(THREADS), 0, shift<first, second>, in.memory, out.memory));
        std::vector<float> got = out.read();
        for (int i = 0; i < 3 * THREADS; i++)
            right = right && got[i] == x[(i % THREADS + 37) % THREADS] + (float)(i / THREADS);
    }
    ls_emulator_seed(0);
    return right;
}

void a_missing_barrier_changes_results(void **)
{
    assert_true((shift_is_right<true, true>()));
    assert_false((shift_is_right<false, true>()));
    assert_false((shift_is_right<true, false>()));
}

// ---- Barriers that not all threads reach ------------------------------------------------------------------

__global__ void barrier_for_some(unsigned count)
{
    if (threadIdx.x < count)
        __syncthreads();
}

void some_threads_pass_by(void)
{
    run(THREADS, barrier_for_some, 70u);
}

__global__ void barrier_after_exit(unsigned last)
{
    if (threadIdx.x == last)
        return;
    __syncthreads();
}

void first_thread_has_ended(void)
{
    run(THREADS, barrier_after_exit, 0u);
}

void last_thread_has_ended(void)
{
    run(THREADS, barrier_after_exit, THREADS - 1u);
}

__global__ void different_barriers(int *out)
{
    if (threadIdx.x % 2) {
        out[0] = 1;
        __syncthreads();
    } else {
        out[1] = 1;
        __syncthreads();
    }
}

void two_barriers(void)
{
    run(THREADS, different_barriers, reinterpret_cast<int *>(device_floats(2)));
}

__global__ void barrier_against_warp()
{
    if (threadIdx.x < 3)
        __syncwarp();
    else
        __syncthreads();
}

void barrier_and_warp_wait_for_each_other(void)
{
    run(THREADS, barrier_against_warp);
}

void divergent_barriers_are_seen(void **)
{
    expect_fault(some_threads_pass_by, {"barrier_for_some", "test_faults.cu:", "barrier"});
    expect_fault(first_thread_has_ended, {"barrier_after_exit", "have ended"});
    expect_fault(last_thread_has_ended, {"barrier_after_exit", "thread (127, 0, 0): ended while"});
    expect_fault(two_barriers, {"different_barriers", "wait at another one"});
    expect_fault(barrier_and_warp_wait_for_each_other, {"lanes 0xffffffff", "0x00000007 came"});
}

// ---- Warps ------------------------------------------------------------------------------------------------

__global__ void shuffle_from_ended(float *out)
{
    if (threadIdx.x == 5)
        return;
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 5);
}

void read_an_ended_lane(void)
{
    run(32, shuffle_from_ended, device_floats(32));
}

__global__ void shuffle_outside_mask(float *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 16);
}

void read_a_lane_outside_the_mask(void)
{
    run(32, shuffle_outside_mask, device_floats(32));
}

__global__ void shuffle_short_warp(float *out)
{
    out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 16);
}

void read_a_lane_that_does_not_exist(void)
{
    run(24, shuffle_short_warp, device_floats(32));
}

__global__ void vote_without_own_bit(unsigned *out)
{
    out[threadIdx.x] = __ballot_sync(0xfffffffeu, 1);
}

void vote_without_being_named(void)
{
    run(32, vote_without_own_bit, reinterpret_cast<unsigned *>(device_floats(32)));
}

__global__ void masks_that_differ(unsigned *out)
{
    out[threadIdx.x] = __ballot_sync(threadIdx.x % 2 ? 0xffffffffu : 0x7fffffffu, 1);
}

void lanes_disagree_about_the_mask(void)
{
    run(32, masks_that_differ, reinterpret_cast<unsigned *>(device_floats(32)));
}

__global__ void half_of_a_warp(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __any_sync(0xffffffffu, 1);
    else
        __syncthreads();
}

void lanes_wait_for_lanes_that_never_come(void)
{
    run(32, half_of_a_warp, reinterpret_cast<int *>(device_floats(32)));
}

void warps_that_do_not_meet_are_seen(void **)
{
    expect_fault(read_an_ended_lane, {"shuffle_from_ended", "reads lane 5", "ended"});
    expect_fault(read_a_lane_outside_the_mask, {"not in its mask 0x0000ffff"});
    expect_fault(read_a_lane_that_does_not_exist, {"never existed"});
    expect_fault(vote_without_being_named, {"not one of them"});
    expect_fault(lanes_disagree_about_the_mask, {"0x7fffffff", "0xffffffff"});
    expect_fault(lanes_wait_for_lanes_that_never_come, {"0x0000ffff came"});
}

// ---- Stacks -----------------------------------------------------------------------------------------------

__attribute__((noinline)) int deep(volatile int *out, int depth)
{
    volatile char frame[256];
    frame[depth % 256] = 1;
    return depth ? deep(out, depth - 1) + frame[depth % 256] : *out;
}

__global__ void recurse(int *out, int depth)
{
    *out = deep(out, depth);
}

void overflow_the_stack(void)
{
    run(1, recurse, reinterpret_cast<int *>(device_floats(1)), 1 << 20);
}

void a_stack_that_overflows_hits_a_closed_page(void **)
{
    expect_crash(overflow_the_stack);
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_of_bounds_writes_are_seen),
        cmocka_unit_test(out_of_bounds_shared_memory_is_seen),
        cmocka_unit_test(uninitialised_shared_memory_is_nan),
        cmocka_unit_test(a_missing_barrier_changes_results),
        cmocka_unit_test(divergent_barriers_are_seen),
        cmocka_unit_test(warps_that_do_not_meet_are_seen),
        cmocka_unit_test(a_stack_that_overflows_hits_a_closed_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
