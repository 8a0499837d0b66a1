// The cpu backend: the reference table with oneDNN products and vectorised loops put over it.
#include <cpuid.h>
#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../backend.h"
#include "attention.h"
#include "base/memory.h"
#include "convolutions.h"

typedef struct CpuDevice {
    LsDevice base;
    LsDeviceOps ops; // of this instruction set
    LsCpuMultiplier multiplier;
    LsIsa isa;
    int threads;
    LsCpuMemory attention;
} CpuDevice;

static void cpu_close(LsDevice *device)
{
    CpuDevice *cpu = (CpuDevice *)device;
    ls_onednn_close(cpu->multiplier.onednn);
    free(cpu->multiplier.widened.memory);
    free(cpu->multiplier.met.memory);
    free(cpu->attention.memory);
    free(cpu);
}

static const char *isa_name(LsIsa isa)
{
    static const char *const names[] = {
        [LS_ISA_AUTO] = "baseline",
        [LS_ISA_AVX2] = "avx2",
        [LS_ISA_AVX512] = "avx512",
        [LS_ISA_AVX512_BF16] = "avx512_bf16",
        [LS_ISA_AMX] = "amx",
    };
    return names[isa];
}

// "AuthenticAMD": oneDNN reads the caches, by which it cuts products into blocks, on some makes only.
static void processor_vendor(char text[13])
{
    unsigned most, words[3];
    __cpuid(0, most, words[0], words[2], words[1]);
    memcpy(text, words, 12);
    text[12] = 0;
}

static void cpu_fingerprint(const LsDevice *device, char *text, size_t size)
{
    const CpuDevice *cpu = (const CpuDevice *)device;
    char library[64], vendor[13];
    ls_onednn_version(library, sizeof library);
    processor_vendor(vendor);
    static const char *const names[] = {
        [LS_PRECISION_FP32] = "fp32", [LS_PRECISION_BF16] = "bf16", [LS_PRECISION_FP16] = "fp16"};
    // The C library's cos and log decide learning rates and initial weights.
    snprintf(text, size, "cpu %s, %s, %s %s, caches %ld/%ld/%ld KiB, threads %d, glibc %s, compiler %s",
        names[device->precision], library, vendor, isa_name(cpu->isa), sysconf(_SC_LEVEL1_DCACHE_SIZE) / 1024,
        sysconf(_SC_LEVEL2_CACHE_SIZE) / 1024, sysconf(_SC_LEVEL3_CACHE_SIZE) / 1024, cpu->threads,
        gnu_get_libc_version(), __VERSION__);
}

// The library applies bias and GELU to the sums before it stores them. Two activations are loops of our own
// over the stored product: one whose argument is kept, and ReLU, since the library's makes 0 of NaN and would
// hide it. ReLU's loop takes about a hundredth of the product's time.
static LsStatus multiply(CpuDevice *cpu, const LsMatmul *args)
{
    if (args->m == 0 || args->n == 0)
        return LS_OK;
    bool fused = !args->pre_activation && args->activation != LS_RELU;
    if (fused)
        return ls_cpu_multiply(&cpu->multiplier, args);
    LsMatmul product = *args;
    product.c = args->pre_activation ? args->pre_activation : args->c;
    product.pre_activation = NULL;
    product.activation = LS_IDENTITY;
    LS_TRY(ls_cpu_multiply(&cpu->multiplier, &product));
    cpu->multiplier.loops->activate(
        args->activation, args->m * args->n, product.c, args->c, args->output_type);
    return LS_OK;
}

static LsStatus cpu_matmul(LsDevice *device, const LsMatmul *args)
{
    LS_TRY(ls_require_matmul(args));
    LS_TRY(multiply((CpuDevice *)device, args));
    return ls_matmul_finish(device, args);
}

// Nothing of it is kept in the device, so that threads can be at it at the same time.
static LsStatus cpu_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    LsTreeScratch scratch; // 512 KiB, of which a tree of n inputs touches n / LS_TREE_INPUTS
    return ((CpuDevice *)device)->multiplier.loops->tree_add(args, scratch);
}

static LsStatus cpu_attention(LsDevice *device, const LsAttention *args)
{
    CpuDevice *cpu = (CpuDevice *)device;
    LS_TRY(ls_require_attention("attention", args->window, args->heads, args->size, args->type));
    return ls_cpu_attention(&cpu->multiplier, &cpu->attention, args);
}

static LsStatus cpu_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    CpuDevice *cpu = (CpuDevice *)device;
    LS_TRY(ls_require_attention("attention_backward", args->window, args->heads, args->size, args->type));
    return ls_cpu_attention_backward(&cpu->multiplier, &cpu->attention, args);
}

static LsStatus cpu_convolution(LsDevice *device, const LsConvolution *args)
{
    return ls_cpu_convolution(&((CpuDevice *)device)->multiplier, args);
}

static LsStatus cpu_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    return ls_cpu_convolution_backward_data(&((CpuDevice *)device)->multiplier, args);
}

static LsStatus cpu_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    return ls_cpu_convolution_backward_weights(&((CpuDevice *)device)->multiplier, args);
}

static LsDeviceOps table_of(const LsCpuLoops *loops)
{
    LsDeviceOps ops = ls_ref_ops;
    ops.name = "cpu";
    ops.close = cpu_close;
    ops.fingerprint = cpu_fingerprint;
    ops.matmul = cpu_matmul;
    ops.tree_add = cpu_tree_add;
    ops.cast = loops->cast;
    ops.normalize = loops->normalize;
    ops.bias_gradient = loops->bias_gradient;
    ops.activation_backward = loops->activation_backward;
    ops.dropout = loops->dropout;
    ops.add = loops->add;
    ops.cross_entropy = loops->cross_entropy;
    ops.binary_cross_entropy = loops->binary_cross_entropy;
    ops.mean_squared_error = loops->mean_squared_error;
    ops.sum = loops->sum;
    ops.block_squares = loops->block_squares;
    ops.optimizer_step = loops->optimizer_step;
    ops.embedding = loops->embedding;
    ops.embedding_gradient = loops->embedding_gradient;
    ops.layer_norm = loops->layer_norm;
    ops.layer_norm_backward = loops->layer_norm_backward;
    ops.batch_norm = loops->batch_norm;
    ops.batch_norm_backward = loops->batch_norm_backward;
    ops.max_pool = loops->max_pool;
    ops.max_pool_backward = loops->max_pool_backward;
    ops.average_pool = loops->average_pool;
    ops.average_pool_backward = loops->average_pool_backward;
    ops.attention = cpu_attention;
    ops.attention_backward = cpu_attention_backward;
    ops.convolution = cpu_convolution;
    ops.convolution_backward_data = cpu_convolution_backward_data;
    ops.convolution_backward_weights = cpu_convolution_backward_weights;
    return ops;
}

// F16C; compilers do not agree on whether __builtin_cpu_supports knows it.
static bool converts_halves(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static LsStatus choose_isa(CpuDevice *cpu, int wanted)
{
    cpu->isa = ls_onednn_isa(cpu->multiplier.onednn);
    if (cpu->isa < LS_ISA_AVX2 || !__builtin_cpu_supports("fma") || !converts_halves())
        return LS_FAIL(LS_UNAVAILABLE,
            "this processor lacks AVX2, FMA or F16C, which the cpu device needs; set runtime.device to ref");
    if (wanted != LS_ISA_AUTO && cpu->isa < (LsIsa)wanted)
        return LS_FAIL(LS_UNAVAILABLE,
            "runtime.isa asks for %s and this processor has %s; set a lower one or auto",
            isa_name((LsIsa)wanted), isa_name(cpu->isa));
    cpu->multiplier.loops = cpu->isa >= LS_ISA_AVX512 ? &ls_cpu_loops_avx512 : &ls_cpu_loops_avx2;
    return LS_OK;
}

// BF16 by default only where the processor multiplies it: emulated products are slower than FP32.
static LsStatus choose_precision(CpuDevice *cpu, int wanted)
{
    switch (wanted) {
    case LS_PRECISION_BF16:
        if (cpu->isa < LS_ISA_AVX512)
            return LS_FAIL(LS_UNAVAILABLE,
                "runtime.precision bf16 needs AVX-512 and %s is in use; set fp32 or auto",
                isa_name(cpu->isa));
        cpu->base.precision = LS_PRECISION_BF16;
        return LS_OK;
    case LS_PRECISION_FP16: // multiplied as FP32 everywhere
    case LS_PRECISION_FP32:
        cpu->base.precision = (LsPrecision)wanted;
        return LS_OK;
    default:
        cpu->base.precision = cpu->isa >= LS_ISA_AVX512_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32;
        return LS_OK;
    }
}

LsStatus ls_cpu_open(const LsDeviceOptions *options, LsDevice **out)
{
    CpuDevice *cpu;
    LS_TRY(ls_memory_allocate(sizeof *cpu, (void **)&cpu));
    cpu->threads = options->threads;
    LsStatus status = ls_onednn_open(options->isa, options->threads, &cpu->multiplier.onednn);
    if (status == LS_OK)
        status = choose_isa(cpu, options->isa);
    if (status == LS_OK)
        status = choose_precision(cpu, options->precision);
    if (status != LS_OK) {
        cpu_close(&cpu->base);
        return status;
    }
    cpu->ops = table_of(cpu->multiplier.loops);
    cpu->base.ops = &cpu->ops;
    cpu->base.plain = cpu->base.concurrent = true;
    *out = &cpu->base;
    return LS_OK;
}
