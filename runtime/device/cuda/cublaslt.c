// The only file that includes cublasLt.h, whose types it uses and whose functions it calls through a table.
#include "cublaslt.h"

#include <cublas_api.h>
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/library.h"
#include "base/memory.h"

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(LsAlgorithm), "an algorithm is kept as its bytes");

// The library is loaded when a GPU is opened: it is half a gigabyte, and a machine without a GPU need not
// have it.
#define CUBLASLT_FUNCTIONS(X)                                                                                \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(GetStatusName)                                                                                         \
    X(GetStatusString)                                                                                       \
    X(GetVersion)                                                                                            \
    X(Matmul)                                                                                                \
    X(MatmulAlgoCheck)                                                                                       \
    X(MatmulAlgoConfigGetAttribute)                                                                          \
    X(MatmulAlgoGetHeuristic)                                                                                \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescDestroy)                                                                                     \
    X(MatmulDescSetAttribute)                                                                                \
    X(MatmulPreferenceCreate)                                                                                \
    X(MatmulPreferenceDestroy)                                                                               \
    X(MatmulPreferenceSetAttribute)                                                                          \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)

static struct Functions {
#define FUNCTION_MEMBER(name) __typeof__(&cublasLt##name) name;
    CUBLASLT_FUNCTIONS(FUNCTION_MEMBER)
#undef FUNCTION_MEMBER
} cublas;

static LsStatus load(void)
{
    static const char *const names[] = {
#define FUNCTION_NAME(name) "cublasLt" #name,
        CUBLASLT_FUNCTIONS(FUNCTION_NAME)
#undef FUNCTION_NAME
    };
    char file[32];
    snprintf(file, sizeof file, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    _Static_assert(sizeof cublas == sizeof names, "a pointer to each");
    return cublas.Create ? LS_OK
                         : ls_library_load(file, names, sizeof names / sizeof *names, (void **)&cublas);
}

struct LsCublaslt {
    cublasLtHandle_t handle;
    void *workspace;
    size_t bytes;
};

struct LsProductPlan {
    LsProduct product;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c; // of our a and b, which are the library's B and A
};

static LsStatus check(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return LS_OK;
    LsStatus kind = status == CUBLAS_STATUS_INVALID_VALUE ? LS_INTERNAL : LS_UNAVAILABLE;
    return LS_FAIL(kind, "cuBLASLt: %s failed: %s (%s)", what, cublas.GetStatusString(status),
        cublas.GetStatusName(status));
}

LsStatus ls_cublaslt_open(void *workspace, size_t bytes, LsCublaslt **out)
{
    LsCublaslt *library;
    LS_TRY(load());
    LS_TRY(ls_memory_allocate(sizeof *library, (void **)&library));
    *library = (LsCublaslt){.workspace = workspace, .bytes = bytes};
    LsStatus status = check(cublas.Create(&library->handle), "opening it");
    if (status != LS_OK) {
        free(library);
        return status;
    }
    *out = library;
    return LS_OK;
}

void ls_cublaslt_close(LsCublaslt *library)
{
    if (!library)
        return;
    cublas.Destroy(library->handle);
    free(library);
}

void ls_cublaslt_version(char *text, size_t size)
{
    if (load() != LS_OK) {
        snprintf(text, size, "no cuBLASLt (%s)", ls_status_message());
        return;
    }
    size_t version = cublas.GetVersion();
    snprintf(text, size, "cuBLASLt %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

// ---- Descriptors ----------------------------------------------------------------------------------------

static cudaDataType_t data_type(LsDtype type)
{
    return type == LS_BF16 ? CUDA_R_16BF : type == LS_F16 ? CUDA_R_16F : CUDA_R_32F;
}

static cublasLtEpilogue_t epilogue_of(LsEpilogue epilogue)
{
    static const cublasLtEpilogue_t table[LS_EPILOGUES] = {
        [LS_EPILOGUE_NONE] = CUBLASLT_EPILOGUE_DEFAULT,
        [LS_EPILOGUE_BIAS] = CUBLASLT_EPILOGUE_BIAS,
        [LS_EPILOGUE_RELU] = CUBLASLT_EPILOGUE_RELU,
        [LS_EPILOGUE_RELU_BIAS] = CUBLASLT_EPILOGUE_RELU_BIAS,
        [LS_EPILOGUE_GELU] = CUBLASLT_EPILOGUE_GELU,
        [LS_EPILOGUE_GELU_BIAS] = CUBLASLT_EPILOGUE_GELU_BIAS,
        [LS_EPILOGUE_GELU_AUX] = CUBLASLT_EPILOGUE_GELU_AUX,
        [LS_EPILOGUE_GELU_AUX_BIAS] = CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        [LS_EPILOGUE_DGELU] = CUBLASLT_EPILOGUE_DGELU,
        [LS_EPILOGUE_BIAS_GRADIENT] = CUBLASLT_EPILOGUE_BGRADB, // of our a, the library's B
    };
    return table[epilogue];
}

static bool has_aux(LsEpilogue epilogue)
{
    return epilogue == LS_EPILOGUE_GELU_AUX || epilogue == LS_EPILOGUE_GELU_AUX_BIAS ||
           epilogue == LS_EPILOGUE_DGELU;
}

static bool has_bias(LsEpilogue epilogue)
{
    return epilogue == LS_EPILOGUE_BIAS || epilogue == LS_EPILOGUE_RELU_BIAS ||
           epilogue == LS_EPILOGUE_GELU_BIAS || epilogue == LS_EPILOGUE_GELU_AUX_BIAS ||
           epilogue == LS_EPILOGUE_BIAS_GRADIENT;
}

static cublasStatus_t set(
    cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t size)
{
    return cublas.MatmulDescSetAttribute(operation, attribute, value, size);
}

static cublasStatus_t set_pointers(LsProductPlan *plan, void *bias, void *aux)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (has_bias(plan->product.epilogue))
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (status == CUBLAS_STATUS_SUCCESS && has_aux(plan->product.epilogue))
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
    return status;
}

static cublasStatus_t describe_operation(LsProductPlan *plan)
{
    const LsProduct *p = &plan->product;
    cublasComputeType_t compute =
        p->tf32 && p->input_type == LS_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    int32_t first = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    int32_t second = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    uint32_t epilogue = epilogue_of(p->epilogue);
    int64_t columns = (int64_t)p->n;
    cublasStatus_t status = cublas.MatmulDescCreate(&plan->operation, compute, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (status == CUBLAS_STATUS_SUCCESS && has_aux(p->epilogue))
        status = set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &columns, sizeof columns);
    // Bias and aux are of c's type unless the library is told otherwise. It takes the alignment of vectors
    // from their addresses; a plan is made before there are any.
    if (status == CUBLAS_STATUS_SUCCESS)
        status = set_pointers(plan, (void *)(uintptr_t)16, (void *)(uintptr_t)p->alignment_c);
    return status;
}

static cublasStatus_t describe_matrix(cublasLtMatrixLayout_t *out, LsDtype type, size_t rows, size_t columns)
{
    return cublas.MatrixLayoutCreate(out, data_type(type), columns, rows, (int64_t)columns);
}

LsStatus ls_cublaslt_plan(LsCublaslt *library, const LsProduct *product, LsProductPlan **out)
{
    (void)library;
    LsProductPlan *plan;
    LS_TRY(ls_memory_allocate(sizeof *plan, (void **)&plan));
    const LsProduct *p = product;
    plan->product = *p;
    cublasStatus_t status = describe_operation(plan);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = describe_matrix(
            &plan->a, p->input_type, p->transpose_a ? p->k : p->m, p->transpose_a ? p->m : p->k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = describe_matrix(
            &plan->b, p->input_type, p->transpose_b ? p->n : p->k, p->transpose_b ? p->k : p->n);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = describe_matrix(&plan->c, p->output_type, p->m, p->n);
    if (status != CUBLAS_STATUS_SUCCESS) {
        ls_cublaslt_forget(plan);
        return check(status, "describing a product");
    }
    *out = plan;
    return LS_OK;
}

void ls_cublaslt_forget(LsProductPlan *plan)
{
    if (!plan)
        return;
    if (plan->a)
        cublas.MatrixLayoutDestroy(plan->a);
    if (plan->b)
        cublas.MatrixLayoutDestroy(plan->b);
    if (plan->c)
        cublas.MatrixLayoutDestroy(plan->c);
    if (plan->operation)
        cublas.MatmulDescDestroy(plan->operation);
    free(plan);
}

// ---- Algorithms -----------------------------------------------------------------------------------------

// Which schemes of cutting the depth k into parts give the same bits on every run, from the description of
// cublasLtReductionScheme_t: without cutting, and with parts that are stored in the compute type and added in
// a separate step. In-place parts take turns at the output, in an order that is not described, and round it
// to its type each time; parts in the output type round half-precision sums as well. NVIDIA promises the same
// bits from run to run for one version, GPU model, and work on one stream with one workspace ("Results
// Reproducibility" in the cuBLAS manual), so that what a kernel does inside is not asked further: the
// interface shows nothing of it.
enum { REDUCTIONS = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE };

static bool is_deterministic(const cublasLtMatmulAlgo_t *algorithm)
{
    uint32_t scheme = 0;
    size_t written;
    return cublas.MatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
               sizeof scheme, &written) == CUBLAS_STATUS_SUCCESS &&
           (scheme & ~(uint32_t)REDUCTIONS) == 0;
}

// The least alignments that the library may rely on, and what it may use.
static cublasStatus_t prefer(
    const LsCublaslt *library, const LsProduct *product, cublasLtMatmulPreference_t preference)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t value;
    } words[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, REDUCTIONS},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product->alignment_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product->alignment_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product->alignment_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product->alignment_c},
    };
    uint64_t bytes = library->bytes;
    cublasStatus_t status = cublas.MatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof words / sizeof *words && status == CUBLAS_STATUS_SUCCESS; i++)
        status = cublas.MatmulPreferenceSetAttribute(
            preference, words[i].attribute, &words[i].value, sizeof words[i].value);
    return status;
}

enum { MOST_CANDIDATES = 32 };

LsStatus ls_cublaslt_candidates(
    LsCublaslt *library, const LsProductPlan *plan, size_t most, LsAlgorithm *out, size_t *count)
{
    cublasLtMatmulHeuristicResult_t result[MOST_CANDIDATES];
    cublasLtMatmulPreference_t preference;
    int found = 0;
    *count = 0;
    LS_TRY(check(cublas.MatmulPreferenceCreate(&preference), "describing what may be used"));
    cublasStatus_t status = prefer(library, &plan->product, preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublas.MatmulAlgoGetHeuristic(library->handle, plan->operation, plan->b, plan->a, plan->c,
            plan->c, preference, MOST_CANDIDATES, result, &found);
    cublas.MatmulPreferenceDestroy(preference);
    // Which epilogues, types and alignments go together is the library's own to know.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        return LS_OK;
    LS_TRY(check(status, "choosing an algorithm"));
    for (int i = 0; i < found && *count < most; i++)
        if (result[i].state == CUBLAS_STATUS_SUCCESS && result[i].workspaceSize <= library->bytes &&
            is_deterministic(&result[i].algo))
            memcpy(out[(*count)++].word, &result[i].algo, sizeof(LsAlgorithm));
    return LS_OK;
}

bool ls_cublaslt_accepts(LsCublaslt *library, const LsProductPlan *plan, const LsAlgorithm *algorithm)
{
    cublasLtMatmulAlgo_t algo;
    cublasLtMatmulHeuristicResult_t result = {.workspaceSize = 0};
    memcpy(&algo, algorithm->word, sizeof algo);
    return cublas.MatmulAlgoCheck(library->handle, plan->operation, plan->b, plan->a, plan->c, plan->c, &algo,
               &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= library->bytes && is_deterministic(&algo);
}

LsStatus ls_cublaslt_run(LsCublaslt *library, LsProductPlan *plan, const LsAlgorithm *algorithm,
    const LsProductBuffers *buffers, cudaStream_t stream)
{
    cublasLtMatmulAlgo_t algo;
    float alpha = buffers->factor, beta = plan->product.accumulate ? 1.0f : 0.0f;
    memcpy(&algo, algorithm->word, sizeof algo);
    cublasStatus_t status = set_pointers(plan, buffers->bias, buffers->aux);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublas.Matmul(library->handle, plan->operation, &alpha, buffers->b, plan->b, buffers->a,
            plan->a, &beta, buffers->c, plan->c, buffers->c, plan->c, &algo, library->workspace,
            library->bytes, stream);
    return check(status, "a product");
}
