// The reference backend: its table and its memory, which is plain host memory.
#include "ref.h"

#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void ref_close(LsDevice *device)
{
    free(device);
}

static void ref_fingerprint(const LsDevice *device, char *text, size_t size)
{
    // exp and log come from the C library.
    snprintf(text, size, "ref %s, glibc %s, compiler %s",
        device->precision == LS_PRECISION_BF16 ? "bf16" : "fp32", gnu_get_libc_version(), __VERSION__);
}

static LsStatus ref_allocate(LsDevice *device, size_t bytes, void **out)
{
    (void)device;
    return ls_memory_allocate(bytes, out);
}

static void ref_release(LsDevice *device, void *memory)
{
    (void)device;
    free(memory);
}

static LsStatus ref_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes)
        memmove(to, from, bytes);
    return LS_OK;
}

static LsStatus ref_zero(LsDevice *device, void *to, size_t bytes)
{
    (void)device;
    if (bytes)
        memset(to, 0, bytes);
    return LS_OK;
}

static LsStatus ref_synchronize(LsDevice *device)
{
    (void)device;
    return LS_OK;
}

const LsDeviceOps ls_ref_ops = {
    .name = "ref",
    .close = ref_close,
    .fingerprint = ref_fingerprint,
    .allocate = ref_allocate,
    .release = ref_release,
    .allocate_host = ref_allocate,
    .release_host = ref_release,
    .copy_in = ref_copy,
    .copy_out = ref_copy,
    .copy = ref_copy,
    .zero = ref_zero,
    .synchronize = ref_synchronize,
    .cast = ls_ref_cast,
    .normalize = ls_ref_normalize,
    .matmul = ls_ref_matmul,
    .bias_gradient = ls_ref_bias_gradient,
    .activation_backward = ls_ref_activation_backward,
    .dropout = ls_ref_dropout,
    .add = ls_ref_add,
    .cross_entropy = ls_ref_cross_entropy,
    .binary_cross_entropy = ls_ref_binary_cross_entropy,
    .mean_squared_error = ls_ref_mean_squared_error,
    .sum = ls_ref_sum,
    .block_squares = ls_ref_block_squares,
    .tree_add = ls_ref_tree_add,
    .decide_step = ls_ref_decide_step,
    .optimizer_step = ls_ref_optimizer_step,
};

LsStatus ls_ref_open(const LsDeviceOptions *options, LsDevice **out)
{
    if (options->precision == LS_PRECISION_FP16)
        return LS_FAIL(LS_UNAVAILABLE,
            "runtime.precision fp16 needs a CUDA device; set bf16, fp32 or auto for the ref device");
    LsDevice *device;
    LS_TRY(ls_memory_allocate(sizeof *device, (void **)&device));
    device->ops = &ls_ref_ops;
    // BF16 is rounded FP32 here and never faster.
    device->precision = options->precision == LS_PRECISION_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32;
    *out = device;
    return LS_OK;
}
