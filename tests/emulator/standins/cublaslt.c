// Stands in for cuBLASLt behind runtime/device/cuda/cublaslt.h: plain arithmetic on the emulated GPU's
// memory, done when the stream gets there.
//
// As with the library, a product has several algorithms with bits of their own (they cut the depth into parts
// of different lengths), and not every epilogue goes with every shape, so that the device has to do the rest.
// The environment makes it as awkward as the library might be:
//   EMULATED_CUBLASLT_HIDES_NAN=1   algorithm 0 has a ReLU that makes 0 of NaN; 2: all have
//   EMULATED_CUBLASLT_ROUGH_GELU=1  a GELU that is a few percent off
//   EMULATED_CUBLASLT_FASTEST=N     all algorithms but N take a second longer, of the GPU's time
#include "cublaslt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "emulator.h"

enum { ALGORITHMS = 4, MAGIC = 0x10c57e9, VECTOR_ALIGNMENT = 16 };

// Depths of the parts, each summed in float64 and rounded to float.
static const size_t part_depth[ALGORITHMS] = {32, 8, 16, 64};

struct LsCublaslt {
    void *workspace;
    size_t bytes;
    int hides_nan, fastest;
    bool rough_gelu;
};

struct LsProductPlan {
    LsProduct product;
};

static int setting(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

LsStatus ls_cublaslt_open(void *workspace, size_t bytes, LsCublaslt **out)
{
    LsCublaslt *library;
    LS_TRY(ls_memory_allocate(sizeof *library, (void **)&library));
    *library = (LsCublaslt){.workspace = workspace,
        .bytes = bytes,
        .hides_nan = setting("EMULATED_CUBLASLT_HIDES_NAN", 0),
        .fastest = setting("EMULATED_CUBLASLT_FASTEST", -1),
        .rough_gelu = setting("EMULATED_CUBLASLT_ROUGH_GELU", 0) != 0};
    *out = library;
    return LS_OK;
}

void ls_cublaslt_close(LsCublaslt *library)
{
    free(library);
}

void ls_cublaslt_version(char *text, size_t size)
{
    snprintf(text, size, "emulated cuBLASLt 1");
}

LsStatus ls_cublaslt_plan(LsCublaslt *library, const LsProduct *product, LsProductPlan **out)
{
    (void)library;
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    (*out)->product = *product;
    return LS_OK;
}

void ls_cublaslt_forget(LsProductPlan *plan)
{
    free(plan);
}

// ---- Algorithms -----------------------------------------------------------------------------------------

static bool uses_aux(LsEpilogue epilogue)
{
    return epilogue == LS_EPILOGUE_GELU_AUX || epilogue == LS_EPILOGUE_GELU_AUX_BIAS ||
           epilogue == LS_EPILOGUE_DGELU;
}

static bool uses_bias(LsEpilogue epilogue)
{
    return epilogue == LS_EPILOGUE_BIAS || epilogue == LS_EPILOGUE_RELU_BIAS ||
           epilogue == LS_EPILOGUE_GELU_BIAS || epilogue == LS_EPILOGUE_GELU_AUX_BIAS ||
           epilogue == LS_EPILOGUE_BIAS_GRADIENT;
}

// Epilogues need rows of a certain alignment: pairs of elements for a bias, fours for an activation, and
// eights for what is kept of one, which is the library's own rule.
static bool supports(const LsProduct *product)
{
    switch (product->epilogue) {
    case LS_EPILOGUE_NONE:
        return true;
    case LS_EPILOGUE_BIAS:
        return product->n % 2 == 0;
    case LS_EPILOGUE_BIAS_GRADIENT:
        return product->m % 4 == 0;
    default:
        return product->n % (uses_aux(product->epilogue) ? 8 : 4) == 0;
    }
}

LsStatus ls_cublaslt_candidates(
    LsCublaslt *library, const LsProductPlan *plan, size_t most, LsAlgorithm *out, size_t *count)
{
    (void)library;
    *count = 0;
    for (int i = 0; i < ALGORITHMS && *count < most && supports(&plan->product); i++)
        out[(*count)++] = (LsAlgorithm){{MAGIC, (uint64_t)i}};
    return LS_OK;
}

bool ls_cublaslt_accepts(LsCublaslt *library, const LsProductPlan *plan, const LsAlgorithm *algorithm)
{
    (void)library;
    return algorithm->word[0] == MAGIC && algorithm->word[1] < ALGORITHMS && supports(&plan->product);
}

// ---- Arithmetic -----------------------------------------------------------------------------------------

typedef struct Work {
    LsProduct product;
    LsProductBuffers buffers;
    LsCublaslt library;
    int algorithm;
} Work;

static float load(const void *memory, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)memory)[i];
    uint16_t bits = ((const uint16_t *)memory)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

static void store(void *memory, LsDtype type, size_t i, float value)
{
    if (type == LS_F32)
        ((float *)memory)[i] = value;
    else
        ((uint16_t *)memory)[i] = type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

// Where TF32 is allowed, inputs lose all but 10 bits.
static float rounded(float value, bool tf32)
{
    return tf32 && isfinite(value) ? ls_bits_to_f32((ls_f32_to_bits(value) + 0x1000u) & 0xffffe000u) : value;
}

// A matrix as [rows][columns] of floats, whatever its type and whether it is stored transposed.
static float *unpacked(const Work *work, const void *memory, size_t rows, size_t columns, bool transposed)
{
    const LsProduct *p = &work->product;
    bool tf32 = p->tf32 && p->input_type == LS_F32;
    float *matrix = malloc(rows * columns * sizeof *matrix);
    if (!matrix)
        ls_emulator_fault("no memory for a product of %zu × %zu × %zu", p->m, p->n, p->k);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            matrix[r * columns + c] =
                rounded(load(memory, p->input_type, transposed ? c * rows + r : r * columns + c), tf32);
    return matrix;
}

static double gelu(double x)
{
    return x / (1 + exp(-1.5957691216057307 * (x + 0.044715 * x * x * x)));
}

static double gelu_derivative(double x)
{
    double gate = 1 / (1 + exp(-1.5957691216057307 * (x + 0.044715 * x * x * x)));
    double slope = x * gate * (1 - gate) * 1.5957691216057307 * (1 + 0.134145 * x * x);
    return gate + (slope == 0 || gate == 0 ? 0 : slope); // at the far ends 0 times infinity
}

// What becomes of a sum of c's element i, in column `column`.
static float finish(const Work *work, float sum, size_t i, size_t column)
{
    const LsProduct *p = &work->product;
    const LsProductBuffers *buffers = &work->buffers;
    double rough = work->library.rough_gelu ? 1.03 : 1;
    bool hides = work->library.hides_nan > (work->algorithm > 0);
    if (uses_bias(p->epilogue) && p->epilogue != LS_EPILOGUE_BIAS_GRADIENT)
        sum += load(buffers->bias, p->output_type, column);
    switch (p->epilogue) {
    case LS_EPILOGUE_RELU:
    case LS_EPILOGUE_RELU_BIAS:
        return hides ? fmaxf(sum, 0) : sum < 0 ? 0 : sum;
    case LS_EPILOGUE_GELU_AUX:
    case LS_EPILOGUE_GELU_AUX_BIAS:
        store(buffers->aux, p->output_type, i, sum);
        return (float)(rough * gelu(sum));
    case LS_EPILOGUE_GELU:
    case LS_EPILOGUE_GELU_BIAS:
        return (float)(rough * gelu(sum));
    case LS_EPILOGUE_DGELU:
        return (float)(rough * sum * gelu_derivative(load(buffers->aux, p->output_type, i)));
    default:
        return sum;
    }
}

// One row of c: parts of the depth, each in float64, added in float.
static void multiply_row(
    const Work *work, size_t row, const float *a, const float *b, double *part, float *sums)
{
    const LsProduct *p = &work->product;
    size_t depth = part_depth[work->algorithm];
    memset(sums, 0, p->n * sizeof *sums);
    for (size_t first = 0; first < p->k; first += depth) {
        size_t end = first + depth < p->k ? first + depth : p->k;
        memset(part, 0, p->n * sizeof *part);
        for (size_t q = first; q < end; q++)
            for (size_t c = 0; c < p->n; c++)
                part[c] += (double)a[row * p->k + q] * b[q * p->n + c];
        for (size_t c = 0; c < p->n; c++)
            sums[c] += (float)part[c];
    }
    for (size_t c = 0; c < p->n; c++) {
        size_t i = row * p->n + c;
        float sum = work->buffers.factor * sums[c];
        if (p->accumulate)
            sum += load(work->buffers.c, p->output_type, i);
        store(work->buffers.c, p->output_type, i, finish(work, sum, i, c));
    }
}

static void sum_columns(const Work *work, const float *a)
{
    const LsProduct *p = &work->product;
    for (size_t r = 0; r < p->m; r++) {
        double sum = 0;
        for (size_t q = 0; q < p->k; q++)
            sum += a[r * p->k + q];
        store(work->buffers.bias, p->output_type, r, (float)sum);
    }
}

// The library relies on what its caller promised, and so faults otherwise. Looked at when the product runs:
// memory of the stream-ordered pool is there from its place in the stream on.
static void require(const char *what, const void *memory, size_t bytes, size_t alignment)
{
    if ((uintptr_t)memory % alignment)
        ls_emulator_fault(
            "cuBLASLt's %s at %p is not aligned to %zu bytes, as promised", what, memory, alignment);
    if (!ls_emulator_owns(memory, bytes))
        ls_emulator_fault("cuBLASLt's %s at %p is not %zu bytes of device memory", what, memory, bytes);
}

static void require_buffers(const LsProduct *p, const LsProductBuffers *buffers)
{
    size_t input = ls_dtype_size(p->input_type), output = ls_dtype_size(p->output_type);
    require("a", buffers->a, p->m * p->k * input, p->alignment_a);
    require("b", buffers->b, p->k * p->n * input, p->alignment_b);
    require("c", buffers->c, p->m * p->n * output, p->alignment_c);
    if (uses_bias(p->epilogue))
        require("bias", buffers->bias, (p->epilogue == LS_EPILOGUE_BIAS_GRADIENT ? p->m : p->n) * output,
            VECTOR_ALIGNMENT);
    if (uses_aux(p->epilogue))
        require("aux", buffers->aux, p->m * p->n * output, p->alignment_c);
}

static bool multiply(void *context)
{
    const Work *work = context;
    const LsProduct *p = &work->product;
    require_buffers(p, &work->buffers);
    float *a = unpacked(work, work->buffers.a, p->m, p->k, p->transpose_a);
    float *b = unpacked(work, work->buffers.b, p->k, p->n, p->transpose_b);
    double *part = malloc(p->n * sizeof *part);
    float *sums = malloc(p->n * sizeof *sums);
    if (!part || !sums)
        ls_emulator_fault("no memory for a product of %zu × %zu × %zu", p->m, p->n, p->k);
    for (size_t row = 0; row < p->m; row++)
        multiply_row(work, row, a, b, part, sums);
    if (p->epilogue == LS_EPILOGUE_BIAS_GRADIENT)
        sum_columns(work, a);
    // Nobody else's numbers outlive a product in the workspace.
    memset(work->library.workspace, 0xff, work->library.bytes < 4096 ? work->library.bytes : 4096);
    if (work->library.fastest >= 0 && work->library.fastest != work->algorithm)
        ls_emulator_spend(1);
    free(sums);
    free(part);
    free(b);
    free(a);
    return true;
}

// ---- Running --------------------------------------------------------------------------------------------

LsStatus ls_cublaslt_run(LsCublaslt *library, LsProductPlan *plan, const LsAlgorithm *algorithm,
    const LsProductBuffers *buffers, cudaStream_t stream)
{
    if (!ls_cublaslt_accepts(library, plan, algorithm))
        return LS_FAIL(LS_INTERNAL, "emulated cuBLASLt: this is no algorithm for the product");
    Work *work;
    LS_TRY(ls_memory_allocate(sizeof *work, (void **)&work));
    *work = (Work){plan->product, *buffers, *library, (int)algorithm->word[1]};
    cudaError_t error = ls_emulator_enqueue(
        stream, &(LsEmulatedWork){.name = "product", .advance = multiply, .release = free, .context = work});
    if (error != cudaSuccess)
        return LS_FAIL(LS_UNAVAILABLE, "emulated cuBLASLt: a product failed: %s", cudaGetErrorName(error));
    return LS_OK;
}
