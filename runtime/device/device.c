// Opens the backend that the options name, and what all backends answer alike.
#include "device/device.h"

#include "backend.h"
#include "base/clock.h"

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

LsStatus ls_device_open_configured(
    const LsConfig *config, int local_rank, size_t expected_bytes, LsDevice **out)
{
    return ls_device_open(&(LsDeviceOptions){.kind = config->runtime.device,
                              .precision = config->runtime.precision,
                              .threads = (int)config->runtime.threads,
                              .isa = config->runtime.isa,
                              .local_rank = local_rank,
                              .tf32 = config->runtime.tf32,
                              .expected_bytes = expected_bytes},
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

LsStatus ls_device_allocate_zeroed(LsDevice *device, size_t bytes, void **out)
{
    void *memory;
    LS_TRY(device->ops->allocate(device, bytes, &memory));
    LsStatus status = device->ops->zero(device, memory, bytes);
    if (status == LS_OK)
        status = device->ops->synchronize(device);
    if (status != LS_OK) {
        device->ops->release(device, memory);
        return status;
    }
    *out = memory;
    return LS_OK;
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

// ---- The peak -------------------------------------------------------------------------------------------

// Edges of the products. A GPU needs large ones to be busy, and several in a row, since the host waits longer
// for a small one than the GPU computes it.
enum { PEAK_FIRST_EDGE = 128, PEAK_EDGE = 1024, PEAK_EDGE_DISCRETE = 8192, PEAK_TRIES = 8, PEAK_QUEUE = 8 };
static const double PEAK_SECONDS = 0.05; // measuring ends with the try that passes this

// Operands that are not zero, since arithmetic on zeros may run faster than on numbers. Each half-word is a
// number from 1 up to 2 in bfloat16 and in float16, and two of them are one in float32.
enum { PATTERN = 4096 };
static LsStatus fill_with_numbers(LsDevice *device, char *matrices, size_t bytes)
{
    uint16_t numbers[PATTERN];
    for (size_t i = 0; i < PATTERN; i++)
        numbers[i] = (uint16_t)(0x3f80u | ((uint32_t)i * 2654435761u) >> 25);
    size_t filled = bytes < sizeof numbers ? bytes : sizeof numbers;
    LS_TRY(device->ops->copy_in(device, matrices, numbers, filled));
    while (filled < bytes) {
        size_t more = bytes - filled < filled ? bytes - filled : filled;
        LS_TRY(device->ops->copy(device, matrices + filled, matrices, more));
        filled += more;
    }
    return LS_OK;
}

static double operations(const LsMatmul *product)
{
    return 2.0 * (double)product->m * (double)product->n * (double)product->k;
}

static LsStatus measure_products(LsDevice *device, const LsMatmul *product, int queue, double *flops)
{
    LS_TRY(device->ops->matmul(device, product)); // the first call also builds the kernel
    LS_TRY(device->ops->synchronize(device));
    double best = 0, begin = ls_clock_seconds();
    for (int i = 0; i < PEAK_TRIES; i++) {
        double start = ls_clock_seconds();
        for (int q = 0; q < queue; q++)
            LS_TRY(device->ops->matmul(device, product));
        LS_TRY(device->ops->synchronize(device));
        double end = ls_clock_seconds();
        double rate = queue * operations(product) / (end - start);
        best = rate > best ? rate : best;
        if (end - begin > PEAK_SECONDS)
            break;
    }
    *flops = best;
    return LS_OK;
}

static LsStatus measure_edge(LsDevice *device, size_t edge, int queue, double *flops)
{
    LsDtype type = ls_device_compute_type(device);
    size_t bytes = edge * edge * ls_dtype_size(type);
    char *matrices;
    LS_TRY(device->ops->allocate(device, 3 * bytes, (void **)&matrices));
    const LsMatmul product = {.m = edge,
        .n = edge,
        .k = edge,
        .transpose_b = true,
        .a = matrices,
        .b = matrices + bytes,
        .input_type = type,
        .c = matrices + 2 * bytes,
        .output_type = type};
    LsStatus status = fill_with_numbers(device, matrices, 2 * bytes);
    if (status == LS_OK)
        status = measure_products(device, &product, queue, flops);
    device->ops->release(device, matrices);
    return status;
}

LsStatus ls_device_peak(LsDevice *device, double *flops, bool *sheet)
{
    double known = device->ops->peak ? device->ops->peak(device) : 0;
    if (sheet)
        *sheet = known > 0;
    if (known == 0)
        return ls_device_measure_peak(device, flops);
    *flops = known;
    return LS_OK;
}

// From small to large, so that a slow backend is not asked for a product that takes seconds. Where a large
// one finds no memory, the smaller ones count.
LsStatus ls_device_measure_peak(LsDevice *device, double *flops)
{
    int queue = device->discrete ? PEAK_QUEUE : 1;
    size_t largest = device->discrete ? PEAK_EDGE_DISCRETE : PEAK_EDGE;
    double best = 0;
    for (size_t edge = PEAK_FIRST_EDGE; edge <= largest; edge *= 2) {
        double rate;
        LsStatus status = measure_edge(device, edge, queue, &rate);
        if (status == LS_UNAVAILABLE && best > 0)
            break;
        LS_TRY(status);
        best = rate > best ? rate : best;
        double side = 2 * (double)edge;
        if (2 * side * side * side * queue / rate > PEAK_SECONDS)
            break;
    }
    *flops = best;
    return LS_OK;
}
