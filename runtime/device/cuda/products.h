// The plans of a device's products: for each kind of product how it is computed (by the library in one call,
// or by the library and kernels of ours) and with which of the library's algorithms. A plan is made when the
// first product of its kind comes and stays until others are chosen, so that a kind always has the same bits.
#ifndef LOCKSTEP_DEVICE_CUDA_PRODUCTS_H
#define LOCKSTEP_DEVICE_CUDA_PRODUCTS_H

#include "cublaslt.h"
#include "cuda.h"

// How a product is computed, all of it on the GPU. The first that the library can do is taken.
typedef enum LsRoute {
    LS_ROUTE_FUSED,  // one call of the library does all
    LS_ROUTE_STORED, // the library stores what comes before the activation, with the bias; kernels go on
    LS_ROUTE_WIDE,   // the library stores bare sums in F32, kernels do the rest and round once
    LS_ROUTES
} LsRoute;

// All that a product's plan depends on: LsMatmul with flags in the place of pointers. Kinds are hashed and
// compared as bytes.
typedef struct LsProductKind {
    uint64_t m, n, k;
    uint8_t transpose_a, transpose_b, input_type, output_type;
    uint8_t accumulate, bias, activation, pre_activation;
    uint8_t backward, bias_gradient, unused[6];
} LsProductKind;

typedef struct LsProductEntry {
    LsProductKind kind;
    LsRoute route;
    LsAlgorithm algorithm;
    LsProduct product;   // what the library does of it
    LsProductPlan *plan; // NULL: chosen by a text and not used yet
} LsProductEntry;

typedef enum LsVerdict { LS_NOT_TRIED, LS_TRUSTED, LS_REFUSED } LsVerdict;

struct LsProducts {
    LsCudaDevice *cuda;
    LsCublaslt *library;
    void *workspace;
    LsProductEntry **entries; // in the order in which they came
    size_t count, capacity;
    uint32_t *slots; // open addressing: index + 1 of an entry, 0: free
    size_t slot_count;
    bool tuning;
    // Of the library's epilogues, by type.
    LsVerdict gelu[LS_F16 + 1], gelu_backward[LS_F16 + 1], bias_gradient[LS_F16 + 1];
};

enum { LS_WORKSPACE_BYTES = 64 << 20, LS_MOST_CANDIDATES = 16 };

// ---- products.c -----------------------------------------------------------------------------------------

LsStatus ls_products_open(LsCudaDevice *cuda, LsProducts **out);
void ls_products_close(LsProducts *products); // NULL is fine

// Forgets all entries, as if no product had come yet.
void ls_products_forget(LsProducts *products);

// The entry of a kind, NULL if there is none.
LsProductEntry *ls_products_look_up(const LsProducts *products, const LsProductKind *kind);
LsStatus ls_products_add(LsProducts *products, const LsProductKind *kind, LsProductEntry **out);

// The planned entry of a product. Its first use makes the plan: buffers are those that the product is about
// to run with, in which trials and measurements may write what the product then overwrites.
LsStatus ls_products_find(LsProducts *products, const LsMatmul *args, LsProductEntry **out);

// What the library does of a kind on a route; false where the route cannot serve the kind.
bool ls_product_describe(
    const LsProducts *products, const LsProductKind *kind, LsRoute route, LsProduct *out);

// ---- matmul.c -------------------------------------------------------------------------------------------

// What the library reads and writes of a product. An algorithm relies on the alignment that its plan
// promised; what is less aligned, and sums that only kernels of ours read, are in scratch memory.
enum { LS_PIECE_A, LS_PIECE_B, LS_PIECE_C, LS_PIECE_BIAS, LS_PIECE_AUX, LS_PIECE_WIDE_BIAS, LS_PIECES };
typedef struct LsPiece {
    void *memory; // NULL: none, or of no use outside
    size_t bytes;
    uint32_t alignment;
    bool read, written; // by the library
    void *place;        // where the library finds it
} LsPiece;

// Fills `pieces` and copies what the library reads to where it is aligned. Valid until the device's next op.
LsStatus ls_product_stage(
    LsCudaDevice *cuda, const LsProductEntry *entry, const LsMatmul *args, LsPiece pieces[LS_PIECES]);
LsProductBuffers ls_product_buffers(const LsPiece pieces[LS_PIECES]);

// ---- trials.c -------------------------------------------------------------------------------------------

// Whether NaN passes through the epilogue as this algorithm computes it: all sums are made NaN and c is
// looked at. Waits for the GPU.
LsStatus ls_trial_keeps_nan(LsProducts *products, const LsProductEntry *entry, const LsAlgorithm *algorithm,
    const LsProductBuffers *buffers, bool *keeps);

// Whether the library's GELU (or its derivative) of a half type is accurate enough to be used. Tried once.
LsStatus ls_trial_gelu(LsProducts *products, LsDtype type, bool backward, bool *accurate);

// Whether the library's bias gradient of an input type is the sum of a's columns in F32, as its manual can be
// read. Tried once.
LsStatus ls_trial_bias_gradient(LsProducts *products, LsDtype type, bool *right);

// ---- tune.c ---------------------------------------------------------------------------------------------

// The fastest of the candidates. Waits for the GPU.
LsStatus ls_tune(LsProducts *products, const LsProductEntry *entry, const LsAlgorithm *candidates,
    size_t count, const LsProductBuffers *buffers, size_t *fastest);

// ---- choices.c ------------------------------------------------------------------------------------------

// See LsDeviceOps.
LsStatus ls_products_choices(const LsProducts *products, char **out);
LsStatus ls_products_choose(LsProducts *products, const char *choices);

#endif
