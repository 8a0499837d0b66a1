// The table of plans, and how the plan of a kind of product is made.
#include "products.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"

// ---- The table ------------------------------------------------------------------------------------------

LsStatus ls_products_open(LsCudaDevice *cuda, LsProducts **out)
{
    LsProducts *products;
    LS_TRY(ls_memory_allocate(sizeof *products, (void **)&products));
    products->cuda = cuda;
    LsStatus status = ls_cuda_allocate(&cuda->base, LS_WORKSPACE_BYTES, &products->workspace);
    if (status == LS_OK)
        status = ls_cublaslt_open(products->workspace, LS_WORKSPACE_BYTES, &products->library);
    if (status != LS_OK) {
        ls_products_close(products);
        return status;
    }
    *out = products;
    return LS_OK;
}

void ls_products_forget(LsProducts *products)
{
    for (size_t i = 0; i < products->count; i++) {
        ls_cublaslt_forget(products->entries[i]->plan);
        free(products->entries[i]);
    }
    products->count = 0;
    if (products->slot_count > 0)
        memset(products->slots, 0, products->slot_count * sizeof *products->slots);
}

void ls_products_close(LsProducts *products)
{
    if (!products)
        return;
    ls_products_forget(products);
    ls_cublaslt_close(products->library);
    ls_cuda_release(&products->cuda->base, products->workspace);
    free(products->entries);
    free(products->slots);
    free(products);
}

// The slot of a kind: its own, or the free one where it would go.
static size_t find_slot(const LsProducts *products, const LsProductKind *kind)
{
    size_t mask = products->slot_count - 1;
    size_t slot = ls_hash64(kind, sizeof *kind) & mask;
    while (products->slots[slot] &&
           memcmp(&products->entries[products->slots[slot] - 1]->kind, kind, sizeof *kind) != 0)
        slot = (slot + 1) & mask;
    return slot;
}

LsProductEntry *ls_products_look_up(const LsProducts *products, const LsProductKind *kind)
{
    if (products->slot_count == 0)
        return NULL;
    uint32_t index = products->slots[find_slot(products, kind)];
    return index ? products->entries[index - 1] : NULL;
}

enum { FIRST_CAPACITY = 64 };

// Twice the entries; slots stay at most half full.
static LsStatus grow(LsProducts *products)
{
    size_t capacity = products->capacity ? 2 * products->capacity : FIRST_CAPACITY;
    LsProductEntry **entries;
    uint32_t *slots;
    LS_TRY(ls_memory_allocate(capacity * sizeof *entries, (void **)&entries));
    LsStatus status = ls_memory_allocate(2 * capacity * sizeof *slots, (void **)&slots);
    if (status != LS_OK) {
        free(entries);
        return status;
    }
    if (products->count)
        memcpy(entries, products->entries, products->count * sizeof *entries);
    free(products->entries);
    free(products->slots);
    products->entries = entries;
    products->slots = slots;
    products->capacity = capacity;
    products->slot_count = 2 * capacity;
    for (size_t i = 0; i < products->count; i++)
        slots[find_slot(products, &entries[i]->kind)] = (uint32_t)i + 1;
    return LS_OK;
}

LsStatus ls_products_add(LsProducts *products, const LsProductKind *kind, LsProductEntry **out)
{
    if (products->count == products->capacity)
        LS_TRY(grow(products));
    LsProductEntry *entry;
    LS_TRY(ls_memory_allocate(sizeof *entry, (void **)&entry));
    entry->kind = *kind;
    products->slots[find_slot(products, kind)] = (uint32_t)products->count + 1;
    products->entries[products->count++] = entry;
    *out = entry;
    return LS_OK;
}

// ---- Routes ---------------------------------------------------------------------------------------------

static LsProductKind kind_of(const LsMatmul *args)
{
    LsProductKind kind;
    memset(&kind, 0, sizeof kind);
    kind.m = args->m;
    kind.n = args->n;
    kind.k = args->k;
    kind.transpose_a = args->transpose_a;
    kind.transpose_b = args->transpose_b;
    kind.input_type = (uint8_t)args->input_type;
    kind.output_type = (uint8_t)args->output_type;
    kind.accumulate = args->accumulate;
    kind.bias = args->bias != NULL;
    kind.activation = (uint8_t)args->activation;
    kind.pre_activation = args->pre_activation != NULL;
    kind.backward = (uint8_t)args->backward;
    kind.bias_gradient = args->bias_gradient != NULL;
    return kind;
}

// The epilogue that does all that a kind asks for besides the product, LS_EPILOGUES if there is none.
static LsEpilogue fused_epilogue(const LsProductKind *kind)
{
    bool forward = kind->bias || kind->activation || kind->pre_activation;
    if (kind->bias_gradient) // the library overwrites it, with values of c's type, and does nothing else
        return kind->accumulate || kind->backward || forward || kind->output_type != LS_F32
                   ? LS_EPILOGUES
                   : LS_EPILOGUE_BIAS_GRADIENT;
    if (kind->bias && kind->output_type != kind->input_type)
        return LS_EPILOGUES;
    // The library approximates GELU, closely enough for half types alone.
    bool gelu = kind->activation == LS_GELU || kind->backward == LS_GELU;
    if (gelu && kind->output_type == LS_F32)
        return LS_EPILOGUES;
    if (kind->backward)
        return kind->backward == LS_GELU ? LS_EPILOGUE_DGELU : LS_EPILOGUES;
    if (kind->activation == LS_GELU && kind->pre_activation)
        return kind->bias ? LS_EPILOGUE_GELU_AUX_BIAS : LS_EPILOGUE_GELU_AUX;
    if (kind->pre_activation)
        return LS_EPILOGUES;
    if (kind->activation == LS_GELU)
        return kind->bias ? LS_EPILOGUE_GELU_BIAS : LS_EPILOGUE_GELU;
    if (kind->activation == LS_RELU)
        return kind->bias ? LS_EPILOGUE_RELU_BIAS : LS_EPILOGUE_RELU;
    return kind->bias ? LS_EPILOGUE_BIAS : LS_EPILOGUE_NONE;
}

// What the library stores before kernels of ours go on, LS_EPILOGUES where that would round a value that the
// result is not a rounding of: GELU's argument, unless it is asked for.
static LsEpilogue stored_epilogue(const LsProductKind *kind)
{
    if (kind->bias && kind->output_type != kind->input_type)
        return LS_EPILOGUES;
    if (kind->activation == LS_GELU && !kind->pre_activation && kind->output_type != LS_F32)
        return LS_EPILOGUES;
    return kind->bias ? LS_EPILOGUE_BIAS : LS_EPILOGUE_NONE;
}

// The bytes that divide every row's address in a matrix that starts on 16: what an algorithm may rely on, so
// that its choice depends on the shape and not on where a matrix happens to be.
static uint32_t row_alignment(LsDtype type, size_t columns)
{
    size_t bytes = columns * ls_dtype_size(type) | 16;
    return (uint32_t)(bytes & -bytes);
}

bool ls_product_describe(const LsProducts *products, const LsProductKind *kind, LsRoute route, LsProduct *out)
{
    bool forward = kind->bias || kind->activation || kind->pre_activation;
    LsProduct p = {.m = kind->m,
        .n = kind->n,
        .k = kind->k,
        .transpose_a = kind->transpose_a,
        .transpose_b = kind->transpose_b,
        .input_type = (LsDtype)kind->input_type,
        .output_type = (LsDtype)kind->output_type,
        .accumulate = kind->accumulate,
        .epilogue = LS_EPILOGUE_NONE,
        .tf32 = products->cuda->tf32};
    if (route == LS_ROUTE_WIDE && !forward)
        return false;
    if (route == LS_ROUTE_WIDE)
        p.output_type = LS_F32;
    else
        p.epilogue = route == LS_ROUTE_FUSED ? fused_epilogue(kind) : stored_epilogue(kind);
    if (p.epilogue == LS_EPILOGUES)
        return false;
    p.alignment_a = row_alignment(p.input_type, p.transpose_a ? p.m : p.k);
    p.alignment_b = row_alignment(p.input_type, p.transpose_b ? p.k : p.n);
    p.alignment_c = row_alignment(p.output_type, p.n);
    *out = p;
    return true;
}

// ---- Plans ----------------------------------------------------------------------------------------------

static bool has_activation(LsEpilogue epilogue)
{
    return epilogue != LS_EPILOGUE_NONE && epilogue != LS_EPILOGUE_BIAS &&
           epilogue != LS_EPILOGUE_BIAS_GRADIENT;
}

// Keeps the candidates whose epilogue lets NaN pass; unless tuning, the first such one is enough, and it has
// to be near the top of the list: a kernel of ours after the best is faster than an algorithm far down.
enum { NEAR_THE_TOP = 4 };
static LsStatus keep_honest(LsProducts *products, const LsProductEntry *entry,
    const LsProductBuffers *buffers, LsAlgorithm *candidates, size_t *count)
{
    if (!products->tuning && *count > NEAR_THE_TOP)
        *count = NEAR_THE_TOP;
    size_t kept = 0;
    for (size_t i = 0; i < *count && (products->tuning || kept == 0); i++) {
        bool keeps = true;
        if (has_activation(entry->product.epilogue))
            LS_TRY(ls_trial_keeps_nan(products, entry, &candidates[i], buffers, &keeps));
        if (keeps)
            candidates[kept++] = candidates[i];
    }
    *count = kept;
    return LS_OK;
}

static LsStatus choose_algorithm(
    LsProducts *products, LsProductEntry *entry, const LsProductBuffers *buffers, bool *found)
{
    LsAlgorithm candidates[LS_MOST_CANDIDATES];
    size_t count, fastest = 0;
    LS_TRY(ls_cublaslt_candidates(products->library, entry->plan, LS_MOST_CANDIDATES, candidates, &count));
    LS_TRY(keep_honest(products, entry, buffers, candidates, &count));
    if (products->tuning && count > 1)
        LS_TRY(ls_tune(products, entry, candidates, count, buffers, &fastest));
    if (count > 0)
        entry->algorithm = candidates[fastest];
    *found = count > 0;
    return LS_OK;
}

// Whether the library's epilogue does what ours would.
static LsStatus is_accurate(LsProducts *products, const LsProduct *product, bool *accurate)
{
    *accurate = true;
    switch (product->epilogue) {
    case LS_EPILOGUE_GELU:
    case LS_EPILOGUE_GELU_BIAS:
    case LS_EPILOGUE_GELU_AUX:
    case LS_EPILOGUE_GELU_AUX_BIAS:
        return ls_trial_gelu(products, product->output_type, false, accurate);
    case LS_EPILOGUE_DGELU:
        return ls_trial_gelu(products, product->output_type, true, accurate);
    case LS_EPILOGUE_BIAS_GRADIENT:
        return ls_trial_bias_gradient(products, product->input_type, accurate);
    default:
        return LS_OK;
    }
}

// Describes the entry to the library and chooses among its algorithms; *found is false where it has none.
static LsStatus plan_entry(LsProducts *products, LsProductEntry *entry, const LsMatmul *args, bool *found)
{
    LsPiece pieces[LS_PIECES];
    LS_TRY(ls_cublaslt_plan(products->library, &entry->product, &entry->plan));
    LsStatus status = ls_product_stage(products->cuda, entry, args, pieces);
    if (status == LS_OK) {
        LsProductBuffers buffers = ls_product_buffers(pieces);
        status = choose_algorithm(products, entry, &buffers, found);
    }
    if (status == LS_OK && *found)
        return LS_OK;
    ls_cublaslt_forget(entry->plan);
    entry->plan = NULL;
    return status;
}

static LsStatus plan_first_route(LsProducts *products, LsProductEntry *entry, const LsMatmul *args)
{
    for (int route = LS_ROUTE_FUSED; route < LS_ROUTES; route++) {
        bool usable, found = false;
        entry->route = (LsRoute)route;
        if (!ls_product_describe(products, &entry->kind, entry->route, &entry->product))
            continue;
        LS_TRY(is_accurate(products, &entry->product, &usable));
        if (usable)
            LS_TRY(plan_entry(products, entry, args, &found));
        if (found)
            return LS_OK;
    }
    return LS_FAIL(LS_UNSUPPORTED,
        "cuBLASLt has no deterministic algorithm for a product of %zu × %zu × %zu in %s", args->m, args->n,
        args->k, ls_dtype_name(args->input_type));
}

// Plans an entry as a text said; *usable is false where the library cannot.
static LsStatus plan_choice(LsProducts *products, LsProductEntry *entry, bool *usable)
{
    *usable = false;
    if (!ls_product_describe(products, &entry->kind, entry->route, &entry->product))
        return LS_OK;
    LS_TRY(ls_cublaslt_plan(products->library, &entry->product, &entry->plan));
    *usable = ls_cublaslt_accepts(products->library, entry->plan, &entry->algorithm);
    if (!*usable) {
        ls_cublaslt_forget(entry->plan);
        entry->plan = NULL;
    }
    return LS_OK;
}

LsStatus ls_products_find(LsProducts *products, const LsMatmul *args, LsProductEntry **out)
{
    LsProductKind kind = kind_of(args);
    LsProductEntry *known = ls_products_look_up(products, &kind);
    if (known && known->plan) {
        *out = known;
        return LS_OK;
    }
    LS_TRY(ls_cuda_require_no_capture(products->cuda, "the first product of a shape"));
    if (known) {
        bool usable;
        LS_TRY(plan_choice(products, known, &usable));
        if (usable) {
            *out = known;
            return LS_OK;
        }
        ls_warn("cuBLASLt cannot use the algorithm kept for a product of %zu × %zu × %zu here; it chooses "
                "another, with other bits",
            args->m, args->n, args->k);
    }
    LsProductEntry planned = {.kind = kind};
    LS_TRY(plan_first_route(products, &planned, args));
    LsStatus status = known ? LS_OK : ls_products_add(products, &kind, &known);
    if (status != LS_OK) {
        ls_cublaslt_forget(planned.plan);
        return status;
    }
    *known = planned;
    *out = known;
    return LS_OK;
}
