// The reference backend: its table, and what is alike on every backend that works in host memory and has done
// everything when a call returns. There, streams need no order and every marker is reached.
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
    static const char *const names[] = {
        [LS_PRECISION_FP32] = "fp32", [LS_PRECISION_BF16] = "bf16", [LS_PRECISION_FP16] = "fp16"};
    snprintf(text, size, "ref %s, glibc %s, compiler %s", names[device->precision], gnu_get_libc_version(),
        __VERSION__);
}

static void host_identity(const LsDevice *device, char *text, size_t size)
{
    (void)device;
    snprintf(text, size, "%s", "");
}

static LsStatus host_allocate(LsDevice *device, size_t bytes, void **out)
{
    (void)device;
    return ls_memory_allocate(bytes, out);
}

static void host_release(LsDevice *device, void *memory)
{
    (void)device;
    free(memory);
}

static LsStatus host_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes)
        memmove(to, from, bytes);
    return LS_OK;
}

static LsStatus host_zero(LsDevice *device, void *to, size_t bytes)
{
    (void)device;
    if (bytes)
        memset(to, 0, bytes);
    return LS_OK;
}

static LsStatus host_synchronize(LsDevice *device)
{
    (void)device;
    return LS_OK;
}

static void host_select_stream(LsDevice *device, LsStream stream)
{
    (void)device;
    (void)stream;
}

struct LsMarker {
    char nothing; // to remember
};

static LsStatus host_marker_create(LsDevice *device, LsMarker **out)
{
    (void)device;
    return ls_memory_allocate(sizeof **out, (void **)out);
}

static void host_marker_destroy(LsDevice *device, LsMarker *marker)
{
    (void)device;
    free(marker);
}

static LsStatus host_marker(LsDevice *device, LsMarker *marker)
{
    (void)device;
    (void)marker;
    return LS_OK;
}

static LsStatus host_marker_reached(LsDevice *device, LsMarker *marker, bool *reached)
{
    *reached = true;
    return host_marker(device, marker);
}

static void host_tune(LsDevice *device, bool on)
{
    (void)device;
    (void)on;
}

static LsStatus host_choices(const LsDevice *device, char **out)
{
    (void)device;
    return ls_memory_allocate(1, (void **)out); // zeroed
}

static LsStatus host_choose(LsDevice *device, const char *choices)
{
    (void)device;
    return ls_require_choices(choices);
}

static void *host_native_stream(LsDevice *device, LsStream stream)
{
    (void)device;
    (void)stream;
    return NULL;
}

const LsDeviceOps ls_ref_ops = {
    .name = "ref",
    .close = ref_close,
    .fingerprint = ref_fingerprint,
    .identity = host_identity,
    .allocate = host_allocate,
    .release = host_release,
    .allocate_host = host_allocate,
    .release_host = host_release,
    .copy_in = host_copy,
    .copy_out = host_copy,
    .copy = host_copy,
    .zero = host_zero,
    .synchronize = host_synchronize,
    .select_stream = host_select_stream,
    .marker_create = host_marker_create,
    .marker_destroy = host_marker_destroy,
    .marker_record = host_marker,
    .marker_wait = host_marker,
    .marker_reached = host_marker_reached,
    .marker_synchronize = host_marker,
    .tune = host_tune,
    .choices = host_choices,
    .choose = host_choose,
    .native_stream = host_native_stream,
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
    .fingerprint_bits = ls_ref_fingerprint_bits,
    .decide_step = ls_ref_decide_step,
    .trust_ratios = ls_ref_trust_ratios,
    .optimizer_step = ls_ref_optimizer_step,
    .embedding = ls_ref_embedding,
    .embedding_gradient = ls_ref_embedding_gradient,
    .layer_norm = ls_ref_layer_norm,
    .layer_norm_backward = ls_ref_layer_norm_backward,
    .attention = ls_ref_attention,
    .attention_backward = ls_ref_attention_backward,
    .convolution = ls_ref_convolution,
    .convolution_backward_data = ls_ref_convolution_backward_data,
    .convolution_backward_weights = ls_ref_convolution_backward_weights,
    .batch_norm = ls_ref_batch_norm,
    .batch_norm_backward = ls_ref_batch_norm_backward,
    .max_pool = ls_ref_max_pool,
    .max_pool_backward = ls_ref_max_pool_backward,
    .average_pool = ls_ref_average_pool,
    .average_pool_backward = ls_ref_average_pool_backward,
};

LsStatus ls_ref_open(const LsDeviceOptions *options, LsDevice **out)
{
    LsDevice *device;
    LS_TRY(ls_memory_allocate(sizeof *device, (void **)&device));
    // The shorter types are rounded FP32 here and never faster.
    bool chosen = options->precision != LS_PRECISION_AUTO;
    *device = (LsDevice){.ops = &ls_ref_ops,
        .precision = chosen ? (LsPrecision)options->precision : LS_PRECISION_FP32,
        .plain = true,
        .concurrent = true};
    *out = device;
    return LS_OK;
}
