// Matrix products, matrix loads and asynchronous copies of the emulated GPU against what the PTX manual says.
#include "kernel_test.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace
{

// ---- mma.sync m16n8k16 ------------------------------------------------------------------------------------

enum { M = 16, N = 8, K = 16, WARP = 32 };

// PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type", element i of a lane.
struct Place {
    unsigned row, column;
};

Place place_in_a(unsigned lane, unsigned i)
{
    unsigned group = lane >> 2, in_group = lane % 4;
    bool upper = i < 2 || (i >= 4 && i < 6);
    return {upper ? group : group + 8, in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}

Place place_in_b(unsigned lane, unsigned i)
{
    unsigned group = lane >> 2, in_group = lane % 4;
    return {in_group * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
}

Place place_in_c(unsigned lane, unsigned i)
{
    unsigned group = lane >> 2, in_group = lane % 4;
    return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
}

// Lanes read their words and their four sums, and write these.
template <typename T> __global__ void multiply(const uint32_t *a, const uint32_t *b, float *c)
{
    unsigned lane = threadIdx.x;
    float sum[4];
    uint32_t words[4];
    for (unsigned i = 0; i < 4; i++)
        sum[i] = c[4 * lane + i], words[i] = a[4 * lane + i];
    ls_emulator_mma<T>(sum, words, b[2 * lane], b[2 * lane + 1]);
    for (unsigned i = 0; i < 4; i++)
        c[4 * lane + i] = sum[i];
}

float number(unsigned row, unsigned column, unsigned seed)
{
    return (float)((row * 37 + column * 11 + seed) % 17) / 4 - 2; // exact in both types, as are the sums
}

template <typename T> void check_product(uint16_t (*bits)(float))
{
    std::vector<uint32_t> a(4 * WARP), b(2 * WARP);
    std::vector<float> c(4 * WARP);
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned i = 0; i < 8; i++) {
            Place p = place_in_a(lane, i);
            a[4 * lane + i / 2] |= (uint32_t)bits(number(p.row, p.column, 1)) << i % 2 * 16;
        }
        for (unsigned i = 0; i < 4; i++) {
            Place p = place_in_b(lane, i), q = place_in_c(lane, i);
            b[2 * lane + i / 2] |= (uint32_t)bits(number(p.row, p.column, 2)) << i % 2 * 16;
            c[4 * lane + i] = number(q.row, q.column, 3);
        }
    }
    DeviceArray<uint32_t> words_a(a), words_b(b);
    DeviceArray<float> sums(c);
    OK(launch(dim3(1), dim3(WARP), 0, multiply<T>, words_a.memory, words_b.memory, sums.memory));
    std::vector<float> got = sums.read();
    for (unsigned lane = 0; lane < WARP; lane++)
        for (unsigned i = 0; i < 4; i++) {
            Place p = place_in_c(lane, i);
            float wanted = number(p.row, p.column, 3);
            for (unsigned k = 0; k < K; k++)
                wanted += number(p.row, k, 1) * number(k, p.column, 2);
            assert_true(got[4 * lane + i] == wanted);
        }
}

void products_follow_the_manual(void **)
{
    for (uint64_t seed : {0, 5}) {
        ls_emulator_seed(seed);
        check_product<__half>([](float x) { return (uint16_t)__half_as_ushort(__half(x)); });
        check_product<__nv_bfloat16>(
            [](float x) { return (uint16_t)__bfloat16_as_ushort(__nv_bfloat16(x)); });
    }
    ls_emulator_seed(0);
}

void multiply_without_a_lane(void)
{
    DeviceArray<uint32_t> words(4 * WARP);
    DeviceArray<float> sums(4 * WARP);
    (void)launch(dim3(1), dim3(WARP - 1), 0, multiply<__half>, words.memory, words.memory, sums.memory);
    (void)cudaDeviceSynchronize();
}

void a_product_needs_the_whole_warp(void **)
{
    expect_fault(multiply_without_a_lane, {"whole warp", "have ended"});
}

// ---- ldmatrix ---------------------------------------------------------------------------------------------

// Rows of 8 elements lie in any order: row r of the 32 is at (r × 5 mod 32).
__global__ void load(uint32_t *out, bool transposed)
{
    __shared__ __align__(16) uint16_t rows[32][8];
    unsigned lane = threadIdx.x;
    uint16_t *row = rows[lane * 5 % 32];
    for (unsigned i = 0; i < 8; i++)
        row[i] = (uint16_t)(lane * 8 + i);
    __syncwarp();
    uint32_t words[4];
    ls_emulator_ldmatrix(words, row, transposed);
    for (unsigned m = 0; m < 4; m++)
        out[4 * lane + m] = words[m];
}

void loads_follow_the_manual(void **)
{
    DeviceArray<uint32_t> out(4 * WARP);
    for (bool transposed : {false, true}) {
        OK(launch(dim3(1), dim3(WARP), 0, load, out.memory, transposed));
        std::vector<uint32_t> got = out.read();
        for (unsigned lane = 0; lane < WARP; lane++)
            for (unsigned m = 0; m < 4; m++)
                for (unsigned i = 0; i < 2; i++) { // element 2 (lane % 4) + i of row lane / 4
                    unsigned row = lane / 4, column = lane % 4 * 2 + i;
                    unsigned wanted = (m * 8 + (transposed ? column : row)) * 8 + (transposed ? row : column);
                    assert_int_equal(got[4 * lane + m] >> 16 * i & 0xffff, wanted);
                }
    }
}

// ---- cp.async ---------------------------------------------------------------------------------------------

__global__ void copy(const uint32_t *from, uint32_t *out, bool wait)
{
    __shared__ __align__(16) uint32_t tile[WARP][4];
    unsigned lane = threadIdx.x;
    ls_emulator_cp_async(tile[lane], from + 4 * lane, 16, lane % 2 ? 16 : 8);
    out[4 * lane] = tile[lane][0]; // too early
    if (wait)
        ls_emulator_cp_async_wait_all();
    for (unsigned i = 1; i < 4; i++)
        out[4 * lane + i] = tile[lane][i];
}

void copies_arrive_at_the_wait(void **)
{
    std::vector<uint32_t> numbers(4 * WARP);
    for (unsigned i = 0; i < 4 * WARP; i++)
        numbers[i] = i + 1;
    DeviceArray<uint32_t> from(numbers), out(4 * WARP);
    OK(launch(dim3(1), dim3(WARP), 0, copy, from.memory, out.memory, true));
    std::vector<uint32_t> got = out.read();
    for (unsigned lane = 0; lane < WARP; lane++) {
        assert_int_equal(got[4 * lane], 0xffffffffu);
        assert_int_equal(got[4 * lane + 1], numbers[4 * lane + 1]);
        assert_int_equal(got[4 * lane + 2], lane % 2 ? numbers[4 * lane + 2] : 0);
        assert_int_equal(got[4 * lane + 3], lane % 2 ? numbers[4 * lane + 3] : 0);
    }
}

void copy_without_waiting(void)
{
    DeviceArray<uint32_t> from(4 * WARP), out(4 * WARP);
    (void)launch(dim3(1), dim3(WARP), 0, copy, from.memory, out.memory, false);
    (void)cudaDeviceSynchronize();
}

void a_copy_without_a_wait_is_a_fault(void **)
{
    expect_fault(copy_without_waiting, {"did not wait for"});
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_follow_the_manual),
        cmocka_unit_test(a_product_needs_the_whole_warp),
        cmocka_unit_test(loads_follow_the_manual),
        cmocka_unit_test(copies_arrive_at_the_wait),
        cmocka_unit_test(a_copy_without_a_wait_is_a_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
