// What the real cuDNN makes of our graphs of attention and convolutions, on GPUs that need not be here: for
// the shapes that models have there is a plan, forward and backward, whose kernel is there or compiled.
// Nothing is run.
//
// The library takes a GPU's description in place of the GPU. Where there is no driver, driver/cuda_driver.c
// stands in for it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "cuda.h"
#include "cudnn_attention.h"
#include "cudnn_convolution.h"

typedef struct Gpu {
    const char *name;
    int version, multiprocessors, shared_memory, reserved_memory, clock, memory_clock;
    long long memory, cache;
} Gpu;

static const Gpu h200 = {"NVIDIA H200", 900, 132, 232448, 1024, 1980000, 3201000, 151397597184, 62914560};
static const Gpu a100 = {
    "NVIDIA A100-SXM4-80GB", 800, 108, 166912, 1024, 1410000, 1593000, 85100068864, 41943040};

static LsCudnn *open_for(const Gpu *gpu)
{
    LsCudnn *library = NULL;
    char text[1024];
    snprintf(text, sizeof text,
        "{\"deviceName\":\"%s\",\"deviceVer\":%d,\"multiProcessorCount\":%d,"
        "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":%d,\"smClockRateKHz\":%d,"
        "\"memClockRateKHz\":%d,\"totalGlobalMem\":%lld,\"l2CacheSize\":%lld,"
        "\"maxSharedMemoryPerBlock\":49152,\"oversizedSharedMemoryPerBlock\":0,\"maxRegistersPerSM\":65536,"
        "\"regsPerBlock\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
        "\"warpSize\":32,\"maxBlockSize\":[1024,1024,64],\"maxGridSize\":[2147483647,65535,65535],"
        "\"supportCoopLaunch\":1,\"pciDeviceId\":0,\"isTccDriver\":0,\"cudaDeviceId\":0,\"driverVer\":13000}",
        gpu->name, gpu->version, gpu->multiprocessors, gpu->shared_memory, gpu->reserved_memory, gpu->clock,
        gpu->memory_clock, gpu->memory, gpu->cache);
    if (ls_cudnn_open_described(text, &library) != LS_OK)
        fail_msg("%s", ls_status_message());
    return library;
}

static LsCudnnPlan *plan_of(LsCudnn *library, LsAttentionKind kind, size_t most_workspace)
{
    LsCudnnPlan *plan = NULL;
    if (ls_cudnn_plan(library, &kind, most_workspace, &plan) != LS_OK)
        fail_msg("%s", ls_status_message());
    return plan;
}

// What the gradients of the scores take, which the deterministic backward pass keeps, and sums of rows.
static size_t expected_workspace(const LsAttentionKind *kind)
{
    size_t rows = kind->windows * kind->heads * kind->window, keys = (kind->window + 127) / 128 * 128;
    return kind->backward ? rows * sizeof(float) + rows / kind->window * keys * keys * 2 + 4096 : 4096;
}

static void expect_plan(LsCudnn *library, const Gpu *gpu, LsAttentionKind kind)
{
    for (kind.backward = 0; kind.backward < 2; kind.backward++) {
        char text[64] = "";
        size_t most = expected_workspace(&kind);
        LsCudnnPlan *plan = plan_of(library, kind, most);
        if (!plan)
            fail_msg("no plan within %zu bytes", most);
        ls_cudnn_describe(plan, text, sizeof text);
        printf("%s, %u windows of %u tokens, %u heads of %u, %s, %s: %s, %zu bytes\n", gpu->name,
            (unsigned)kind.windows, (unsigned)kind.window, (unsigned)kind.heads, (unsigned)kind.size,
            kind.type == LS_BF16 ? "BF16" : "FP16", kind.backward ? "backward" : "forward", text,
            ls_cudnn_workspace(plan));
        ls_cudnn_forget(plan);
    }
}

static void models_have_plans(void **unused)
{
    (void)unused;
    static const uint64_t sizes[] = {64, 80, 96, 128};
    LsCudnn *library = open_for(&h200);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        expect_plan(library, &h200, (LsAttentionKind){8, 1024, 12, sizes[i], LS_BF16, 0});
        expect_plan(library, &h200, (LsAttentionKind){8, 1024, 12, sizes[i], LS_F16, 0});
    }
    expect_plan(library, &h200, (LsAttentionKind){8, 256, 6, 64, LS_BF16, 0});
    ls_cudnn_close(library);
    library = open_for(&a100);
    expect_plan(library, &a100, (LsAttentionKind){8, 1024, 12, 64, LS_BF16, 0});
    expect_plan(library, &a100, (LsAttentionKind){4, 256, 12, 128, LS_F16, 0});
    ls_cudnn_close(library);
}

// Windows that do not divide into the kernels' tiles.
static void odd_windows_have_plans(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    expect_plan(library, &h200, (LsAttentionKind){2, 130, 3, 64, LS_BF16, 0});
    expect_plan(library, &h200, (LsAttentionKind){1, 1000, 25, 64, LS_BF16, 0});
    ls_cudnn_close(library);
}

static void what_does_not_fit_has_none(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    LsAttentionKind kind = {8, 1024, 12, 64, LS_BF16, 1};
    assert_null(plan_of(library, kind, expected_workspace(&kind) / 2));
    kind.size = 20; // no kernel loads rows of 40 bytes
    assert_null(plan_of(library, kind, SIZE_MAX));
    kind.backward = 0;
    assert_null(plan_of(library, kind, SIZE_MAX));
    ls_cudnn_close(library);
}

// ---- Convolutions ---------------------------------------------------------------------------------------

static LsCudnnConvolutionPlan *convolution_of(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace)
{
    LsCudnnConvolutionPlan *plan = NULL;
    if (ls_cudnn_convolution_plan(library, kind, most_workspace, &plan) != LS_OK)
        fail_msg("%s", ls_status_message());
    return plan;
}

// "engine 6", or "none"; within the workspace.
static void engine_of(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace, char *text, size_t size)
{
    LsCudnnConvolutionPlan *plan = convolution_of(library, kind, most_workspace);
    snprintf(text, size, "none");
    if (plan) {
        ls_cudnn_convolution_describe(plan, text, size);
        assert_true(ls_cudnn_convolution_workspace(plan) <= most_workspace);
    }
    ls_cudnn_convolution_forget(plan);
}

// All passes: without padding channels to a multiple of 8, which the library does itself where it must.
static void expect_convolution(LsCudnn *library, const Gpu *gpu, LsConvolutionKind kind)
{
    static const char *const passes[] = {"forward", "data", "weights"};
    for (kind.pass = 0; kind.pass < 3; kind.pass++) {
        char text[64];
        engine_of(library, &kind, LS_CONVOLUTION_WORKSPACE, text, sizeof text);
        printf("%s, %u images of %ux%u, %u to %u channels, window %u, stride %u, %s, %s: %s\n", gpu->name,
            (unsigned)kind.rows, (unsigned)kind.height, (unsigned)kind.width, (unsigned)kind.in,
            (unsigned)kind.out, (unsigned)kind.kernel, (unsigned)kind.stride,
            ls_dtype_name((LsDtype)kind.type), passes[kind.pass], text);
        assert_string_not_equal(text, "none");
    }
}

static LsConvolutionKind convolution(
    uint64_t rows, uint64_t side, uint64_t in, uint64_t out, uint64_t kernel, uint64_t stride, LsDtype type)
{
    return (LsConvolutionKind){.rows = rows,
        .height = side,
        .width = side,
        .in = in,
        .out = out,
        .kernel = kernel,
        .stride = stride,
        .padding = kernel / 2,
        .type = (uint32_t)type};
}

// The convolutions of ResNet-50 v1.5, whose blocks reduce sides in their windows of 3.
static void expect_resnet50(LsCudnn *library, const Gpu *gpu, uint64_t rows, LsDtype type)
{
    expect_convolution(library, gpu, convolution(rows, 224, 3, 64, 7, 2, type));
    uint64_t side = 56, in = 64;
    for (uint64_t stage = 0; stage < 4; stage++) {
        uint64_t width = 64u << stage, stride = stage ? 2 : 1, out = 4 * width;
        expect_convolution(library, gpu, convolution(rows, side, in, width, 1, 1, type));
        expect_convolution(library, gpu, convolution(rows, side, width, width, 3, stride, type));
        expect_convolution(library, gpu, convolution(rows, side, in, out, 1, stride, type));
        side /= stride, in = out;
        expect_convolution(library, gpu, convolution(rows, side, width, out, 1, 1, type));
        expect_convolution(library, gpu, convolution(rows, side, out, width, 1, 1, type));
        expect_convolution(library, gpu, convolution(rows, side, width, width, 3, 1, type));
    }
}

static void resnets_have_plans(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    expect_resnet50(library, &h200, 256, LS_BF16);
    expect_resnet50(library, &h200, 32, LS_F16);
    expect_resnet50(library, &h200, 32, LS_F32);
    ls_cudnn_close(library);
    library = open_for(&a100);
    expect_resnet50(library, &a100, 64, LS_BF16);
    ls_cudnn_close(library);
}

static void stems_of_small_images_have_plans(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    for (int type = LS_F32; type <= LS_F16; type++) {
        expect_convolution(library, &h200, convolution(16, 28, 1, 16, 3, 1, (LsDtype)type));
        expect_convolution(library, &h200, convolution(64, 32, 3, 64, 3, 1, (LsDtype)type));
    }
    ls_cudnn_close(library);
}

static void fp32_is_not_rounded_to_tf32_unasked(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    LsConvolutionKind kind = convolution(32, 28, 128, 128, 3, 1, LS_F32);
    char without[64], with[64];
    engine_of(library, &kind, LS_CONVOLUTION_WORKSPACE, without, sizeof without);
    kind.tf32 = true; // for which the library has faster kernels
    engine_of(library, &kind, LS_CONVOLUTION_WORKSPACE, with, sizeof with);
    assert_string_not_equal(without, with);
    ls_cudnn_close(library);
}

// What is proposed first in FP32 gathers the windows; there is something else.
static void convolutions_keep_to_their_workspace(void **unused)
{
    (void)unused;
    LsCudnn *library = open_for(&h200);
    LsConvolutionKind kind = convolution(32, 28, 128, 128, 3, 1, LS_F32);
    char much[64], little[64];
    engine_of(library, &kind, LS_CONVOLUTION_WORKSPACE, much, sizeof much);
    engine_of(library, &kind, 4096, little, sizeof little);
    assert_string_not_equal(much, little);
    ls_cudnn_close(library);
}

static void a_text_that_describes_no_gpu_is_told(void **unused)
{
    (void)unused;
    LsCudnn *library = NULL;
    assert_int_not_equal(ls_cudnn_open_described("{}", &library), LS_OK);
    assert_null(library);
    assert_non_null(strstr(ls_status_message(), "description of a GPU"));
}

int main(void)
{
    enum { SKIPPED = 77 };
    char text[256];
    ls_cudnn_version(text, sizeof text);
    printf("%s\n", text);
    if (strncmp(text, "cuDNN", 5) != 0)
        return SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_have_plans),
        cmocka_unit_test(odd_windows_have_plans),
        cmocka_unit_test(what_does_not_fit_has_none),
        cmocka_unit_test(resnets_have_plans),
        cmocka_unit_test(stems_of_small_images_have_plans),
        cmocka_unit_test(fp32_is_not_rounded_to_tf32_unasked),
        cmocka_unit_test(convolutions_keep_to_their_workspace),
        cmocka_unit_test(a_text_that_describes_no_gpu_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
