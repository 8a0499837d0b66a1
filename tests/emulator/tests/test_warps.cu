// Shuffles and votes of the emulated GPU against what the PTX manual says, and CUDA's bit and conversion
// intrinsics.
#include "kernel_test.h"

#include <math.h>

namespace
{

enum Kind { INDEX, UP, DOWN, XOR };

// shfl.sync as the PTX manual writes it: c holds the clamp and the segment mask that CUDA makes of `width`.
unsigned source_by_manual(Kind kind, unsigned lane, unsigned b, unsigned width)
{
    unsigned clamp = kind == UP ? 0 : 31, segment = 32 - width;
    unsigned most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int j;
    bool valid;
    if (kind == UP) {
        j = (int)lane - (int)b;
        valid = j >= (int)most;
    } else if (kind == DOWN) {
        j = (int)(lane + b);
        valid = j <= (int)most;
    } else if (kind == XOR) {
        j = (int)(lane ^ b);
        valid = j <= (int)most;
    } else {
        j = (int)(least | (b & ~segment & 31));
        valid = j <= (int)most;
    }
    return valid ? (unsigned)j : lane;
}

template <typename T> __global__ void shuffle(Kind kind, int b, int width, T *out)
{
    unsigned i = threadIdx.x;
    T value = (T)(i * 3 + 1) / 2, got;
    if (kind == INDEX)
        got = __shfl_sync(0xffffffffu, value, b, width);
    else if (kind == UP)
        got = __shfl_up_sync(0xffffffffu, value, (unsigned)b, width);
    else if (kind == DOWN)
        got = __shfl_down_sync(0xffffffffu, value, (unsigned)b, width);
    else
        got = __shfl_xor_sync(0xffffffffu, value, b, width);
    out[i] = got;
}

template <typename T> void check_shuffles(void)
{
    DeviceArray<T> out(64);
    for (unsigned width = 1; width <= 32; width *= 2)
        for (int b = 0; b < 32; b += b < 5 ? 1 : 4)
            for (Kind kind : {INDEX, UP, DOWN, XOR}) {
                OK(launch(dim3(1), dim3(64), 0, shuffle<T>, kind, b, (int)width, out.memory));
                std::vector<T> got = out.read();
                for (unsigned i = 0; i < 64; i++) {
                    unsigned source = i / 32 * 32 + source_by_manual(kind, i % 32, (unsigned)b, width);
                    assert_true(got[i] == (T)(source * 3 + 1) / 2);
                }
            }
}

void shuffles_follow_the_manual(void **)
{
    check_shuffles<float>();
    check_shuffles<int>();
    check_shuffles<double>();
    ls_emulator_seed(3);
    check_shuffles<unsigned long long>();
    ls_emulator_seed(0);
}

__global__ void votes(unsigned *out)
{
    unsigned i = threadIdx.x, half = i % 32 < 16 ? 0xffffu : 0xffff0000u;
    out[i * 5 + 0] = __ballot_sync(0xffffffffu, i % 3 == 0);
    out[i * 5 + 1] = (unsigned)__any_sync(half, i == 33);
    out[i * 5 + 2] = (unsigned)__all_sync(half, i % 32 >= 16);
    if (i % 2) // only odd lanes meet
        out[i * 5 + 3] = __ballot_sync(0xaaaaaaaau, i % 32 > 20);
    else
        out[i * 5 + 3] = __shfl_sync(0x55555555u, i, 4);
    __syncwarp();
    out[i * 5 + 4] = __shfl_xor_sync(0xffffffffu, i, 31);
}

void votes_and_partial_masks(void **)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        ls_emulator_seed(seed);
        DeviceArray<unsigned> out(64 * 5);
        OK(launch(dim3(1), dim3(64), 0, votes, out.memory));
        std::vector<unsigned> got = out.read();
        for (unsigned i = 0; i < 64; i++) {
            unsigned ballot = 0, warp = i / 32 * 32;
            for (unsigned lane = 0; lane < 32; lane++)
                ballot |= (unsigned)((warp + lane) % 3 == 0) << lane;
            assert_int_equal(got[i * 5 + 0], ballot);
            assert_int_equal(got[i * 5 + 1], i >= 32 && i < 48);
            assert_int_equal(got[i * 5 + 2], i % 32 >= 16);
            assert_int_equal(got[i * 5 + 3], i % 2 ? 0xaaa00000u : warp + 4);
            assert_int_equal(got[i * 5 + 4], warp + (i % 32 ^ 31));
        }
    }
    ls_emulator_seed(0);
}

// The last warp of a block may be short, and lanes may end before others meet.
__global__ void short_warp(unsigned *out)
{
    unsigned i = threadIdx.x;
    out[i] = __ballot_sync(0xffffffffu, 1);
    if (i % 32 >= 10)
        return;
    out[i] |= __ballot_sync(0x3ffu, i % 2) << 16;
}

void lanes_that_do_not_exist_are_not_waited_for(void **)
{
    DeviceArray<unsigned> out(44);
    OK(launch(dim3(1), dim3(44), 0, short_warp, out.memory));
    std::vector<unsigned> got = out.read();
    for (unsigned i = 0; i < 44; i++) {
        unsigned all = i < 32 ? 0xffffffffu : 0xfffu;
        assert_int_equal(got[i], i % 32 < 10 ? all | 0x2aau << 16 : all);
    }
}

// A warp communicates through shared memory, ordered by __syncwarp alone.
__global__ void rotate(int *out)
{
    __shared__ int tile[64];
    unsigned i = threadIdx.x, warp = i & ~31u;
    tile[i] = (int)i;
    for (int round = 0; round < 7; round++) {
        __syncwarp();
        int next = tile[warp + (i + 1) % 32];
        __syncwarp();
        tile[i] = next;
    }
    out[i] = tile[i];
}

void syncwarp_orders_a_warp(void **)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        ls_emulator_seed(seed);
        DeviceArray<int> out(64);
        OK(launch(dim3(1), dim3(64), 0, rotate, out.memory));
        std::vector<int> got = out.read();
        for (int i = 0; i < 64; i++)
            assert_int_equal(got[i], i / 32 * 32 + (i + 7) % 32);
    }
    ls_emulator_seed(0);
}

// ---- Intrinsics -------------------------------------------------------------------------------------------

void bit_intrinsics(void **)
{
    assert_int_equal(__clz(0), 32);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__clz(-1), 0);
    assert_int_equal(__clzll(1), 63);
    assert_int_equal(__ffs(0), 0);
    assert_int_equal(__ffs(8), 4);
    assert_int_equal(__popc(0xf0f00001u), 9);
    assert_int_equal(__brev(0x00000013u), 0xc8000000u);
    assert_int_equal(__umulhi(0xffffffffu, 0xffffffffu), 0xfffffffeu);
    assert_int_equal(__mulhi(-2, 3), -1);
    assert_true(__umul64hi(~0ull, ~0ull) == ~0ull - 1);
    assert_int_equal(__byte_perm(0x33221100u, 0x77665544u, 0x7410u), 0x77441100u);
    assert_int_equal(__byte_perm(0x00008000u, 0, 0x9990u), 0xffffff00u);
    assert_int_equal(__funnelshift_l(0x80000001u, 0x00000002u, 1), 0x00000005u);
    assert_int_equal(__funnelshift_r(0x80000001u, 0x00000003u, 1), 0xc0000000u);
    assert_int_equal(__float_as_uint(-0.0f), 0x80000000u);
    assert_true(__uint_as_float(0x3fc00000u) == 1.5f);
    assert_true(__longlong_as_double(__double_as_longlong(0.1)) == 0.1);
}

void conversions_saturate(void **)
{
    assert_int_equal(__float2int_rn(2.5f), 2);
    assert_int_equal(__float2int_rn(-3.5f), -4);
    assert_int_equal(__float2int_rz(-3.9f), -3);
    assert_int_equal(__float2int_rn(1e20f), 2147483647);
    assert_true(__float2int_rn(-1e20f) == -2147483647 - 1);
    assert_int_equal(__float2int_rn(NAN), 0);
    assert_int_equal(__float2uint_rn(-1.0f), 0);
    assert_true(__float2uint_rz(4294967040.0f) == 4294967040u);
    assert_true(__float2uint_rn(5e9f) == 4294967295u);
    assert_true(__saturatef(NAN) == 0 && __saturatef(3) == 1 && __saturatef(0.25f) == 0.25f);
    assert_true(min(3, 4u) == 3 && max(-1, 4u) == 4294967295u && max(1.0f, NAN) == 1.0f);
    assert_true(rsqrtf(4.0f) == 0.5f && __fmaf_rn(2, 3, 4) == 10);
}

void vectors_have_cudas_alignment(void **)
{
    assert_true(alignof(float2) == 8 && alignof(float4) == 16 && sizeof(float3) == 12);
    assert_true(alignof(uint2) == 8 && alignof(uint4) == 16 && alignof(int4) == 16);
    assert_true(alignof(ushort4) == 8 && alignof(uchar4) == 4 && alignof(double2) == 16);
    float4 v = make_float4(1, 2, 3, 4);
    assert_true(v.x == 1 && v.y == 2 && v.z == 3 && v.w == 4);
}

} // namespace

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shuffles_follow_the_manual),
        cmocka_unit_test(votes_and_partial_masks),
        cmocka_unit_test(lanes_that_do_not_exist_are_not_waited_for),
        cmocka_unit_test(syncwarp_orders_a_warp),
        cmocka_unit_test(bit_intrinsics),
        cmocka_unit_test(conversions_saturate),
        cmocka_unit_test(vectors_have_cudas_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
