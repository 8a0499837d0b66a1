// Opens the backend that the options name, and what all backends answer alike.
#include "device/device.h"

#include <stdlib.h>

#include "backend.h"
#include "base/clock.h"
#include "base/memory.h"

// The best device that can be used: a GPU, or else the processor.
static int best_kind(void)
{
    char gpus[256];
    int usable;
    ls_device_gpus(gpus, sizeof gpus, &usable);
    return usable > 0 ? LS_DEVICE_CUDA : LS_DEVICE_CPU;
}

LsStatus ls_device_open(const LsDeviceOptions *options, LsDevice **out)
{
    LsDeviceOptions chosen = *options;
    if (chosen.threads < 1)
        return LS_FAIL(LS_CONFIG, "runtime.threads is %d; it must be at least 1", chosen.threads);
    if (chosen.kind == LS_DEVICE_AUTO)
        chosen.kind = best_kind();
    switch (chosen.kind) {
    case LS_DEVICE_REF:
        return ls_ref_open(&chosen, out);
    case LS_DEVICE_CUDA:
        return ls_cuda_open(&chosen, out);
    default:
        return ls_cpu_open(&chosen, out);
    }
}

LsStatus ls_device_open_configured(const LsConfig *config, int local_rank, LsDevice **out)
{
    return ls_device_open(&(LsDeviceOptions){.kind = config->runtime.device,
                              .precision = config->runtime.precision,
                              .threads = (int)config->runtime.threads,
                              .isa = config->runtime.isa,
                              .local_rank = local_rank,
                              .tf32 = config->runtime.tf32},
        out);
}

void ls_device_close(LsDevice *device)
{
    if (device)
        device->ops->close(device);
}

LsDtype ls_precision_type(LsPrecision precision)
{
    switch (precision) {
    case LS_PRECISION_FP32:
        return LS_F32;
    case LS_PRECISION_FP16:
        return LS_F16;
    default:
        return LS_BF16;
    }
}

LsDtype ls_device_compute_type(const LsDevice *device)
{
    return ls_precision_type(device->precision);
}

void ls_device_identity(const LsDevice *device, char *text, size_t size)
{
    device->ops->identity(device, text, size);
}

void ls_device_fingerprint(const LsDevice *device, char *text, size_t size)
{
    device->ops->fingerprint(device, text, size);
}

// Operands for the measurement that are not zero, since arithmetic on zeros may run faster than on numbers.
// Each half-word is a bfloat16 in [1, 2), and two of them are a float32 in [1, 2).
static LsStatus fill_with_numbers(LsDevice *device, void *matrices, size_t bytes)
{
    uint16_t *numbers;
    LS_TRY(ls_memory_allocate(bytes, (void **)&numbers));
    for (size_t i = 0; i < bytes / 2; i++)
        numbers[i] = (uint16_t)(0x3f80u | ((uint32_t)i * 2654435761u) >> 25);
    LsStatus status = device->ops->copy_in(device, matrices, numbers, bytes);
    if (status == LS_OK)
        status = device->ops->synchronize(device);
    free(numbers);
    return status;
}

enum { PEAK_EDGE = 1024, PEAK_FIRST_EDGE = 128, PEAK_TRIES = 8 };
static const double PEAK_SECONDS = 0.05; // measuring ends with the try that passes this

static LsStatus measure_products(LsDevice *device, const LsMatmul *product, double *flops)
{
    LS_TRY(device->ops->matmul(device, product)); // the first call also builds the kernel
    LS_TRY(device->ops->synchronize(device));
    double best = 0, begin = ls_clock_seconds();
    for (int i = 0; i < PEAK_TRIES; i++) {
        double start = ls_clock_seconds();
        LS_TRY(device->ops->matmul(device, product));
        LS_TRY(device->ops->synchronize(device));
        double end = ls_clock_seconds();
        double rate = 2.0 * (double)product->m * (double)product->n * (double)product->k / (end - start);
        best = rate > best ? rate : best;
        if (end - begin > PEAK_SECONDS)
            break;
    }
    *flops = best;
    return LS_OK;
}

// From small to large, so that a slow backend is not asked for a product that takes seconds.
static LsStatus measure_growing(LsDevice *device, char *matrices, size_t bytes, double *flops)
{
    LsDtype type = ls_device_compute_type(device);
    for (size_t edge = PEAK_FIRST_EDGE; edge <= PEAK_EDGE; edge *= 2) {
        LS_TRY(measure_products(device,
            &(LsMatmul){.m = edge,
                .n = edge,
                .k = edge,
                .transpose_b = true,
                .a = matrices,
                .b = matrices + bytes,
                .input_type = type,
                .c = matrices + 2 * bytes,
                .output_type = type},
            flops));
        double next = 8 * 2.0 * (double)edge * (double)edge * (double)edge / *flops;
        if (next > PEAK_SECONDS)
            break;
    }
    return LS_OK;
}

LsStatus ls_device_measure_peak(LsDevice *device, double *flops)
{
    size_t bytes = (size_t)PEAK_EDGE * PEAK_EDGE * ls_dtype_size(ls_device_compute_type(device));
    void *matrices;
    LS_TRY(device->ops->allocate(device, 3 * bytes, &matrices));
    LsStatus status = fill_with_numbers(device, matrices, 3 * bytes);
    if (status == LS_OK)
        status = measure_growing(device, matrices, bytes, flops);
    device->ops->release(device, matrices);
    return status;
}
