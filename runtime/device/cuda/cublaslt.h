// The thin layer over cuBLASLt: what it can be asked, without any policy. cublaslt.c is the only file that
// knows the library; the emulated build has a stand-in for it (tests/emulator/standins/cublaslt.c).
//
// The library's matrices are column-major. A row-major matrix read that way is its transpose, and c = op(a)
// op(b) is c' = op(b)' op(a)': the library is given b as its first operand and a as its second, and its rows
// are our columns.
#ifndef LOCKSTEP_DEVICE_CUDA_CUBLASLT_H
#define LOCKSTEP_DEVICE_CUDA_CUBLASLT_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "device/operations.h"

// What the library does to sums before it stores them.
typedef enum LsEpilogue {
    LS_EPILOGUE_NONE,
    LS_EPILOGUE_BIAS, // bias is of output_type, [n]
    LS_EPILOGUE_RELU,
    LS_EPILOGUE_RELU_BIAS,
    LS_EPILOGUE_GELU,
    LS_EPILOGUE_GELU_BIAS,
    LS_EPILOGUE_GELU_AUX, // the value before GELU goes to aux, [m][n] of output_type
    LS_EPILOGUE_GELU_AUX_BIAS,
    LS_EPILOGUE_DGELU,         // multiplies by GELU'(aux)
    LS_EPILOGUE_BIAS_GRADIENT, // the sums of the columns of a [k][m] go to bias, [m] of output_type
    LS_EPILOGUES
} LsEpilogue;

// A kind of product: all that the library's choice of an algorithm depends on. m, n and k are above 0.
typedef struct LsProduct {
    size_t m, n, k;
    bool transpose_a, transpose_b; // as LsMatmul has them
    LsDtype input_type, output_type;
    bool accumulate; // c += instead of c =
    LsEpilogue epilogue;
    bool tf32;                                      // F32 inputs may be rounded to TF32
    uint32_t alignment_a, alignment_b, alignment_c; // bytes that divide addresses of a, b, and c and aux
} LsProduct;

// An algorithm with all its settings, meaningful to one version of the library. Plain data.
enum { LS_ALGORITHM_WORDS = 8 };
typedef struct LsAlgorithm {
    uint64_t word[LS_ALGORITHM_WORDS];
} LsAlgorithm;

typedef struct LsProductBuffers {
    float factor; // of the sums, before the epilogue: 1, but for trials
    const void *a, *b;
    void *c;
    void *bias; // read by the BIAS epilogues, written by BIAS_GRADIENT
    void *aux;  // written by the GELU_AUX epilogues, read by DGELU
} LsProductBuffers;

typedef struct LsCublaslt LsCublaslt;
typedef struct LsProductPlan LsProductPlan; // a product's descriptors

// workspace is device memory that all products use, for one stream; it outlives the handle.
LsStatus ls_cublaslt_open(void *workspace, size_t bytes, LsCublaslt **out);
void ls_cublaslt_close(LsCublaslt *library);

// "cuBLASLt 13.1.0": of the library that is loaded, not of the header.
void ls_cublaslt_version(char *text, size_t size);

LsStatus ls_cublaslt_plan(LsCublaslt *library, const LsProduct *product, LsProductPlan **out);
void ls_cublaslt_forget(LsProductPlan *plan); // NULL is fine

// Up to `most` algorithms that give the same bits on every run, the one the library expects to be fastest
// first. None: the library cannot do this product.
LsStatus ls_cublaslt_candidates(
    LsCublaslt *library, const LsProductPlan *plan, size_t most, LsAlgorithm *out, size_t *count);

// Whether an algorithm from a text can run this product within the workspace, and gives the same bits on
// every run.
bool ls_cublaslt_accepts(LsCublaslt *library, const LsProductPlan *plan, const LsAlgorithm *algorithm);

LsStatus ls_cublaslt_run(LsCublaslt *library, LsProductPlan *plan, const LsAlgorithm *algorithm,
    const LsProductBuffers *buffers, cudaStream_t stream);

#endif
