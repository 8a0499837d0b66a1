// oneDNN 2.x. Products run on plain row-major matrices: on one core the library's kernels, which copy the
// operands into their own layout panel by panel, then reach the speed of prepacked weights, so packing would
// only add its own time (measured at 128 to 1,024 rows and widths of 128 to 1,024).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "onednn_state.h"

// The library's threads are those of GNU OpenMP. Declared here because a compiler other than GCC may come
// without the header, and with a runtime of its own that the library does not use.
void omp_set_dynamic(int dynamic);
void omp_set_num_threads(int threads);

// Everything that selects a kernel. Compared as bytes, so it is always zeroed before it is filled.
typedef struct ProductKey {
    size_t m, n, k;
    uint8_t transpose_a, transpose_b;
    uint8_t input_type, output_type;
    uint8_t accumulate, bias, activation;
} ProductKey;

enum { ARGUMENTS = 5 }; // source, weights, destination, bias, scratchpad

struct LsProduct {
    ProductKey key;
    dnnl_primitive_t primitive; // NULL: an empty slot
    int count;
    dnnl_exec_arg_t arguments[ARGUMENTS];
    size_t scratchpad;
};

LsStatus ls_onednn_check(dnnl_status_t status, const char *action)
{
    switch (status) {
    case dnnl_success:
        return LS_OK;
    case dnnl_unimplemented:
        return LS_FAIL(LS_UNSUPPORTED,
            "oneDNN cannot %s on this machine; set runtime.precision to fp32 or "
            "runtime.device to ref",
            action);
    case dnnl_out_of_memory:
        return LS_FAIL(LS_INTERNAL, "oneDNN is out of memory: cannot %s", action);
    default:
        return LS_FAIL(LS_INTERNAL, "oneDNN cannot %s: status %d", action, (int)status);
    }
}

// ---- The library as a whole ----------------------------------------------------------------------------

static dnnl_cpu_isa_t library_isa(int isa)
{
    switch (isa) {
    case LS_ISA_AVX2:
        return dnnl_cpu_isa_avx2;
    case LS_ISA_AVX512:
        return dnnl_cpu_isa_avx512_core;
    case LS_ISA_AVX512_BF16:
        return dnnl_cpu_isa_avx512_core_bf16;
    case LS_ISA_AMX:
        return dnnl_cpu_isa_avx512_core_amx;
    default:
        return dnnl_cpu_isa_all;
    }
}

static bool includes(dnnl_cpu_isa_t isa, dnnl_cpu_isa_t part)
{
    return ((unsigned)isa & (unsigned)part) == (unsigned)part;
}

LsIsa ls_onednn_isa(const LsOnednn *onednn)
{
    (void)onednn;
    dnnl_cpu_isa_t effective = dnnl_get_effective_cpu_isa();
    for (int isa = LS_ISA_AMX; isa > LS_ISA_AUTO; isa--)
        if (includes(effective, library_isa(isa)))
            return (LsIsa)isa;
    return LS_ISA_AUTO;
}

void ls_onednn_version(char *text, size_t size)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(
        text, size, "oneDNN %d.%d.%d %.12s", version->major, version->minor, version->patch, version->hash);
}

// The library accepts a limit once, before its first kernel.
static LsStatus limit_isa(int isa)
{
    static int limit = -1;
    if (limit == isa)
        return LS_OK;
    if (limit >= 0 || dnnl_set_max_cpu_isa(library_isa(isa)) != dnnl_success)
        return LS_FAIL(LS_UNAVAILABLE,
            "runtime.isa cannot change within one process; start another one for another instruction set");
    limit = isa;
    return LS_OK;
}

LsStatus ls_onednn_open(int isa, int threads, LsOnednn **out)
{
    LS_TRY(limit_isa(isa));
    // The environment must not turn FP32 products into BF16 ones.
    TRY_DNNL(dnnl_set_default_fpmath_mode(dnnl_fpmath_mode_strict), "keep FP32 as it is");
    // OpenMP's default is one thread a core, of which several ranks on a machine would each take all.
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    LsOnednn *onednn;
    LS_TRY(ls_memory_allocate(sizeof *onednn, (void **)&onednn));
    onednn->threads = threads;
    LsStatus status = ls_onednn_check(dnnl_engine_create(&onednn->engine, dnnl_cpu, 0), "open the processor");
    if (status == LS_OK)
        status = ls_onednn_check(
            dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags), "make a stream");
    if (status != LS_OK) {
        ls_onednn_close(onednn);
        return status;
    }
    *out = onednn;
    return LS_OK;
}

static void destroy_product(LsProduct *product)
{
    for (int i = 0; i < product->count; i++)
        dnnl_memory_destroy(product->arguments[i].memory);
    if (product->primitive)
        dnnl_primitive_destroy(product->primitive);
}

void ls_onednn_close(LsOnednn *onednn)
{
    if (!onednn)
        return;
    for (size_t i = 0; i < onednn->slots; i++)
        destroy_product(&onednn->products[i]);
    free(onednn->products);
    ls_onednn_forget_convolutions(onednn);
    free(onednn->packed.memory);
    free(onednn->scratchpad.memory);
    if (onednn->stream)
        dnnl_stream_destroy(onednn->stream);
    if (onednn->engine)
        dnnl_engine_destroy(onednn->engine);
    free(onednn);
}

// ---- Kernels, one for each kind and shape of product ----------------------------------------------------

static ProductKey key_of(const LsMatmul *args)
{
    ProductKey key;
    memset(&key, 0, sizeof key);
    key.m = args->m;
    key.n = args->n;
    key.k = args->k;
    key.transpose_a = args->transpose_a;
    key.transpose_b = args->transpose_b;
    key.input_type = (uint8_t)args->input_type;
    key.output_type = (uint8_t)args->output_type;
    key.accumulate = args->accumulate;
    key.bias = args->bias != NULL;
    key.activation = (uint8_t)args->activation;
    return key;
}

// The slot of the key: its product, or where it belongs.
static LsProduct *slot_of(LsProduct *products, size_t slots, const ProductKey *key)
{
    size_t i = ls_hash64(key, sizeof *key) & (slots - 1);
    while (products[i].primitive && memcmp(&products[i].key, key, sizeof *key) != 0)
        i = (i + 1) & (slots - 1);
    return &products[i];
}

static LsStatus make_room(LsOnednn *onednn)
{
    if (2 * (onednn->used + 1) <= onednn->slots)
        return LS_OK;
    size_t slots = onednn->slots ? 2 * onednn->slots : 64, bytes;
    LsProduct *products;
    if (!ls_size_multiply(slots, sizeof *products, &bytes))
        return LS_FAIL(LS_INTERNAL, "too many different matrix products: %zu", onednn->used);
    LS_TRY(ls_memory_allocate(bytes, (void **)&products));
    for (size_t i = 0; i < onednn->slots; i++)
        if (onednn->products[i].primitive)
            *slot_of(products, slots, &onednn->products[i].key) = onednn->products[i];
    free(onednn->products);
    onednn->products = products;
    onednn->slots = slots;
    return LS_OK;
}

static dnnl_data_type_t library_type(LsDtype type)
{
    return type == LS_BF16 ? dnnl_bf16 : dnnl_f32;
}

static LsStatus describe_matrix(
    dnnl_memory_desc_t *matrix, size_t rows, size_t columns, bool transposed, LsDtype type)
{
    dnnl_dims_t sizes = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    dnnl_dims_t strides = {transposed ? 1 : (dnnl_dim_t)columns, transposed ? (dnnl_dim_t)rows : 1};
    return ls_onednn_check(
        dnnl_memory_desc_init_by_strides(matrix, 2, sizes, library_type(type), strides), "describe a matrix");
}

static LsStatus append_post_operations(dnnl_post_ops_t list, const ProductKey *key)
{
    if (key->accumulate)
        TRY_DNNL(dnnl_post_ops_append_sum(list, 1.0f), "accumulate a product");
    if (key->activation == LS_GELU)
        TRY_DNNL(dnnl_post_ops_append_eltwise(list, 1.0f, dnnl_eltwise_gelu_tanh, 0.0f, 0.0f), "fuse GELU");
    return LS_OK;
}

static LsStatus make_attributes(const ProductKey *key, dnnl_primitive_attr_t *out)
{
    dnnl_primitive_attr_t attributes;
    TRY_DNNL(dnnl_primitive_attr_create(&attributes), "make attributes");
    dnnl_post_ops_t list = NULL;
    LsStatus status = ls_onednn_check(dnnl_post_ops_create(&list), "make a list of fused operations");
    if (status == LS_OK)
        status = append_post_operations(list, key);
    if (status == LS_OK)
        status = ls_onednn_check(dnnl_primitive_attr_set_post_ops(attributes, list), "fuse operations");
    if (status == LS_OK)
        status =
            ls_onednn_check(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user),
                "use our scratchpad");
    if (list)
        dnnl_post_ops_destroy(list);
    if (status == LS_OK)
        *out = attributes;
    else
        dnnl_primitive_attr_destroy(attributes);
    return status;
}

static LsStatus describe_product(LsOnednn *onednn, const ProductKey *key, dnnl_primitive_desc_t *out)
{
    dnnl_memory_desc_t a, b, c, bias;
    LS_TRY(describe_matrix(&a, key->m, key->k, key->transpose_a, (LsDtype)key->input_type));
    LS_TRY(describe_matrix(&b, key->k, key->n, key->transpose_b, (LsDtype)key->input_type));
    LS_TRY(describe_matrix(&c, key->m, key->n, false, (LsDtype)key->output_type));
    LS_TRY(describe_matrix(&bias, 1, key->n, false, (LsDtype)key->input_type));
    dnnl_matmul_desc_t description;
    TRY_DNNL(dnnl_matmul_desc_init(&description, &a, &b, key->bias ? &bias : NULL, &c),
        "describe a matrix product");
    dnnl_primitive_attr_t attributes;
    LS_TRY(make_attributes(key, &attributes));
    LsStatus status =
        ls_onednn_check(dnnl_primitive_desc_create(out, &description, attributes, onednn->engine, NULL),
            "multiply matrices of these types");
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

// Makes the memory objects that pointers are put into at each execution.
static LsStatus add_argument(LsOnednn *onednn, LsProduct *product, dnnl_primitive_desc_t description,
    dnnl_query_t query, int index, int argument)
{
    const dnnl_memory_desc_t *memory = dnnl_primitive_desc_query_md(description, query, index);
    dnnl_exec_arg_t *slot = &product->arguments[product->count];
    TRY_DNNL(
        dnnl_memory_create(&slot->memory, memory, onednn->engine, DNNL_MEMORY_NONE), "describe an operand");
    slot->arg = argument;
    product->count++;
    return LS_OK;
}

static LsStatus fill_product(LsOnednn *onednn, LsProduct *product, dnnl_primitive_desc_t description)
{
    LS_TRY(add_argument(onednn, product, description, dnnl_query_src_md, 0, DNNL_ARG_SRC));
    LS_TRY(add_argument(onednn, product, description, dnnl_query_weights_md, 0, DNNL_ARG_WEIGHTS));
    LS_TRY(add_argument(onednn, product, description, dnnl_query_dst_md, 0, DNNL_ARG_DST));
    product->scratchpad =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0));
    if (product->scratchpad)
        LS_TRY(add_argument(onednn, product, description, dnnl_query_scratchpad_md, 0, DNNL_ARG_SCRATCHPAD));
    if (product->key.bias)
        LS_TRY(add_argument(onednn, product, description, dnnl_query_weights_md, 1, DNNL_ARG_BIAS));
    return ls_onednn_check(dnnl_primitive_create(&product->primitive, description), "build a matrix product");
}

static LsStatus build_product(LsOnednn *onednn, const ProductKey *key, LsProduct **out)
{
    LS_TRY(make_room(onednn));
    dnnl_primitive_desc_t description;
    LS_TRY(describe_product(onednn, key, &description));
    LsProduct product = {.key = *key};
    LsStatus status = fill_product(onednn, &product, description);
    dnnl_primitive_desc_destroy(description);
    if (status == LS_OK)
        status = ls_cpu_memory_grow(&onednn->scratchpad, product.scratchpad);
    if (status != LS_OK) {
        destroy_product(&product);
        return status;
    }
    LsProduct *slot = slot_of(onednn->products, onednn->slots, key);
    *slot = product;
    memcpy(&slot->key, key, sizeof *key); // with its padding, which a copy of the struct may drop
    onednn->used++;
    *out = slot;
    return LS_OK;
}

// ---- Execution ------------------------------------------------------------------------------------------

static void *pointer_of(const LsOnednn *onednn, const LsMatmul *args, int argument)
{
    switch (argument) {
    case DNNL_ARG_SRC:
        return (void *)args->a;
    case DNNL_ARG_WEIGHTS:
        return (void *)args->b;
    case DNNL_ARG_BIAS:
        return (void *)args->bias;
    case DNNL_ARG_DST:
        return args->c;
    default:
        return onednn->scratchpad.memory;
    }
}

LsStatus ls_onednn_matmul(LsOnednn *onednn, const LsMatmul *args)
{
    ProductKey key = key_of(args);
    LsProduct *product = onednn->slots ? slot_of(onednn->products, onednn->slots, &key) : NULL;
    if (!product || !product->primitive)
        LS_TRY(build_product(onednn, &key, &product));
    for (int i = 0; i < product->count; i++)
        TRY_DNNL(dnnl_memory_set_data_handle(
                     product->arguments[i].memory, pointer_of(onednn, args, product->arguments[i].arg)),
            "set an operand");
    return ls_onednn_check(
        dnnl_primitive_execute(product->primitive, onednn->stream, product->count, product->arguments),
        "multiply matrices");
}
