// What the library's epilogues do is tried where its manual leaves a doubt: whether NaN passes, how close its
// GELU is, and what its bias gradient sums.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "products.h"

static float number_at(const void *values, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)values)[i];
    uint16_t bits = ((const uint16_t *)values)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(bits) : ls_f16_to_f32(bits);
}

static uint16_t half_of(LsDtype type, float value)
{
    return type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

// Device memory to the host, waiting for it.
static LsStatus read_back(LsCudaDevice *cuda, void *host, const void *memory, size_t bytes)
{
    LS_TRY(ls_cuda_copy_out(&cuda->base, host, memory, bytes));
    return ls_cuda_check(cuda, cudaStreamSynchronize(cuda->streams[LS_STREAM_COMPUTE]), "a trial product");
}

// ---- NaN ------------------------------------------------------------------------------------------------

enum { LOOKED_AT = 1 << 16 }; // elements from the start of c, and as many from its end

static LsStatus all_nan(LsCudaDevice *cuda, const void *memory, LsDtype type, size_t count, bool *nan)
{
    void *host;
    LS_TRY(ls_memory_allocate(count * ls_dtype_size(type), &host));
    LsStatus status = read_back(cuda, host, memory, count * ls_dtype_size(type));
    for (size_t i = 0; i < count && status == LS_OK; i++)
        *nan &= isnan(number_at(host, type, i)) != 0;
    free(host);
    return status;
}

LsStatus ls_trial_keeps_nan(LsProducts *products, const LsProductEntry *entry, const LsAlgorithm *algorithm,
    const LsProductBuffers *buffers, bool *keeps)
{
    LsCudaDevice *cuda = products->cuda;
    const LsProduct *product = &entry->product;
    size_t total = product->m * product->n, count = total < LOOKED_AT ? total : LOOKED_AT;
    LsProductBuffers trial = *buffers;
    trial.factor = NAN;
    LS_TRY(
        ls_cublaslt_run(products->library, entry->plan, algorithm, &trial, cuda->streams[LS_STREAM_COMPUTE]));
    *keeps = true;
    LS_TRY(all_nan(cuda, trial.c, product->output_type, count, keeps));
    const char *end = (const char *)trial.c + (total - count) * ls_dtype_size(product->output_type);
    return all_nan(cuda, end, product->output_type, count, keeps);
}

// ---- GELU -----------------------------------------------------------------------------------------------

// a is [EDGE][EDGE] with ones in its first column, b is [EDGE][POINTS] with one row of numbers, so that each
// row of the product is that row.
enum { EDGE = 16, POINTS = 256 };

static double point(size_t i)
{
    return ((double)i - POINTS / 2) / 16; // -8 … 8, exact in either type
}

static double gelu(double x)
{
    return x / (1 + exp(-1.5957691216057307 * (x + 0.044715 * x * x * x)));
}

static double gelu_derivative(double x)
{
    double gate = 1 / (1 + exp(-1.5957691216057307 * (x + 0.044715 * x * x * x)));
    return gate + x * gate * (1 - gate) * 1.5957691216057307 * (1 + 3 * 0.044715 * x * x);
}

// An error may be what rounding the result makes, and a quarter of what rounding GELU's argument, or the
// number that a derivative multiplies, would.
static bool is_close(const uint16_t *result, LsDtype type, bool backward)
{
    double unit = type == LS_BF16 ? 0x1p-8 : 0x1p-11; // half of one in the last place
    for (size_t i = 0; i < (size_t)EDGE * POINTS; i++) {
        double x = point(i % POINTS), value = backward ? gelu_derivative(x) : gelu(x);
        double allowed = unit * fabs(value) + unit / 4 * (backward ? 1 : fmax(fabs(x), 1));
        if (!(fabs(number_at(result, type, i) - value) <= allowed))
            return false;
    }
    return true;
}

typedef struct Trial {
    uint16_t a[EDGE][EDGE], b[EDGE][POINTS], c[EDGE][POINTS], aux[EDGE][POINTS];
} Trial;

static void fill(Trial *trial, LsDtype type, bool backward)
{
    memset(trial, 0, sizeof *trial);
    for (size_t r = 0; r < EDGE; r++) {
        trial->a[r][0] = half_of(type, 1);
        for (size_t i = 0; i < POINTS; i++)
            trial->aux[r][i] = half_of(type, (float)point(i));
    }
    for (size_t i = 0; i < POINTS; i++)
        trial->b[0][i] = half_of(type, backward ? 1 : (float)point(i));
}

// Copies a trial's struct to the device, runs its product there and copies it back; *found is false where the
// library has no algorithm.
static LsStatus run_trial(LsProducts *products, const LsProduct *product, const LsProductBuffers *buffers,
    void *host, void *memory, size_t bytes, bool *found)
{
    LsCudaDevice *cuda = products->cuda;
    LsProductPlan *plan;
    LsAlgorithm algorithm;
    size_t count = 0;
    LS_TRY(ls_cublaslt_plan(products->library, product, &plan));
    LsStatus status = ls_cublaslt_candidates(products->library, plan, 1, &algorithm, &count);
    *found = count > 0;
    if (status == LS_OK && *found)
        status = ls_cuda_copy_in(&cuda->base, memory, host, bytes);
    if (status == LS_OK && *found)
        status =
            ls_cublaslt_run(products->library, plan, &algorithm, buffers, cuda->streams[LS_STREAM_COMPUTE]);
    if (status == LS_OK && *found)
        status = read_back(cuda, host, memory, bytes);
    ls_cublaslt_forget(plan);
    return status;
}

static LsStatus try_gelu(LsProducts *products, LsDtype type, bool backward, LsVerdict *verdict)
{
    const LsProduct product = {.m = EDGE,
        .n = POINTS,
        .k = EDGE,
        .input_type = type,
        .output_type = type,
        .epilogue = backward ? LS_EPILOGUE_DGELU : LS_EPILOGUE_GELU,
        .alignment_a = 16,
        .alignment_b = 16,
        .alignment_c = 16};
    Trial *host, *memory;
    bool found;
    LS_TRY(ls_memory_allocate(sizeof *host, (void **)&host));
    fill(host, type, backward);
    LsStatus status = ls_cuda_allocate(&products->cuda->base, sizeof *host, (void **)&memory);
    if (status == LS_OK) {
        const LsProductBuffers buffers = {1, memory->a, memory->b, memory->c, NULL, memory->aux};
        status = run_trial(products, &product, &buffers, host, memory, sizeof *host, &found);
        if (status == LS_OK)
            *verdict = found && is_close(host->c[0], type, backward) ? LS_TRUSTED : LS_REFUSED;
        ls_cuda_release(&products->cuda->base, memory);
    }
    free(host);
    return status;
}

LsStatus ls_trial_gelu(LsProducts *products, LsDtype type, bool backward, bool *accurate)
{
    LsVerdict *verdict = backward ? &products->gelu_backward[type] : &products->gelu[type];
    if (*verdict == LS_NOT_TRIED)
        LS_TRY(try_gelu(products, type, backward, verdict));
    *accurate = *verdict == LS_TRUSTED;
    return LS_OK;
}

// ---- Bias gradient --------------------------------------------------------------------------------------

// a is [EDGE][EDGE] small whole numbers, whose sums are exact in any order, and b is zero.
typedef struct GradientTrial {
    uint32_t a[EDGE * EDGE], b[EDGE * POINTS]; // room for any type
    float c[EDGE * POINTS], sums[EDGE];
} GradientTrial;

static float small_number(size_t row, size_t column)
{
    return (float)((row * 7 + column * 3) % 9) - 4;
}

static bool sums_columns(const GradientTrial *trial)
{
    bool right = true;
    for (size_t c = 0; c < EDGE; c++) {
        float sum = 0;
        for (size_t r = 0; r < EDGE; r++)
            sum += small_number(r, c);
        right &= trial->sums[c] == sum;
    }
    return right;
}

static LsStatus try_bias_gradient(LsProducts *products, LsDtype type, LsVerdict *verdict)
{
    const LsProduct product = {.m = EDGE,
        .n = POINTS,
        .k = EDGE,
        .transpose_a = true,
        .input_type = type,
        .output_type = LS_F32,
        .epilogue = LS_EPILOGUE_BIAS_GRADIENT,
        .tf32 = products->cuda->tf32,
        .alignment_a = 16,
        .alignment_b = 16,
        .alignment_c = 16};
    GradientTrial *host, *memory;
    bool found;
    LS_TRY(ls_memory_allocate(sizeof *host, (void **)&host));
    for (size_t i = 0; i < EDGE * EDGE; i++) {
        float number = small_number(i / EDGE, i % EDGE);
        if (type == LS_F32)
            host->a[i] = ls_f32_to_bits(number);
        else
            ((uint16_t *)host->a)[i] = half_of(type, number);
    }
    memset(host->sums, 0xff, sizeof host->sums); // NaN
    LsStatus status = ls_cuda_allocate(&products->cuda->base, sizeof *host, (void **)&memory);
    if (status == LS_OK) {
        const LsProductBuffers buffers = {1, memory->a, memory->b, memory->c, memory->sums, NULL};
        status = run_trial(products, &product, &buffers, host, memory, sizeof *host, &found);
        if (status == LS_OK)
            *verdict = found && sums_columns(host) ? LS_TRUSTED : LS_REFUSED;
        ls_cuda_release(&products->cuda->base, memory);
    }
    free(host);
    return status;
}

LsStatus ls_trial_bias_gradient(LsProducts *products, LsDtype type, bool *right)
{
    LsVerdict *verdict = &products->bias_gradient[type];
    if (*verdict == LS_NOT_TRIED)
        LS_TRY(try_bias_gradient(products, type, verdict));
    *right = *verdict == LS_TRUSTED;
    return LS_OK;
}
