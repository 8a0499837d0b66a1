// Products and bias gradients: the library's part, and the kernels that complete what it does not do.
#include <string.h>

#include "base/memory.h"
#include "kernels.h"
#include "products.h"

static cudaStream_t compute_stream(const LsCudaDevice *cuda)
{
    return cuda->streams[LS_STREAM_COMPUTE];
}

// ---- Pieces ---------------------------------------------------------------------------------------------

enum { PLACE_ALIGNMENT = 256 };

// Where the library's result goes: NULL when it is only read by kernels, from scratch memory.
static void *target_of(const LsProductEntry *entry, const LsMatmul *args)
{
    if (entry->route == LS_ROUTE_WIDE)
        return args->output_type == LS_F32 ? args->c : NULL;
    return entry->route == LS_ROUTE_STORED && args->pre_activation ? args->pre_activation : args->c;
}

static void list_pieces(const LsProductEntry *entry, const LsMatmul *args, LsPiece pieces[LS_PIECES])
{
    const LsProduct *p = &entry->product;
    size_t input = ls_dtype_size(p->input_type), output = ls_dtype_size(p->output_type);
    size_t c_bytes = args->m * args->n * output;
    memset(pieces, 0, LS_PIECES * sizeof *pieces);
    pieces[LS_PIECE_A] =
        (LsPiece){(void *)args->a, args->m * args->k * input, p->alignment_a, true, false, 0};
    pieces[LS_PIECE_B] =
        (LsPiece){(void *)args->b, args->k * args->n * input, p->alignment_b, true, false, 0};
    pieces[LS_PIECE_C] =
        (LsPiece){target_of(entry, args), c_bytes, p->alignment_c, p->accumulate, true, NULL};
    LsPiece *bias = &pieces[LS_PIECE_BIAS], *aux = &pieces[LS_PIECE_AUX];
    switch (p->epilogue) {
    case LS_EPILOGUE_BIAS:
    case LS_EPILOGUE_RELU_BIAS:
    case LS_EPILOGUE_GELU_BIAS:
    case LS_EPILOGUE_GELU_AUX_BIAS:
        *bias = (LsPiece){(void *)args->bias, args->n * input, 16, true, false, NULL};
        break;
    case LS_EPILOGUE_BIAS_GRADIENT:
        *bias = (LsPiece){args->bias_gradient, args->m * sizeof(float), 16, false, true, NULL};
        break;
    default:
        break;
    }
    if (p->epilogue == LS_EPILOGUE_DGELU)
        *aux = (LsPiece){(void *)args->saved, c_bytes, p->alignment_c, true, false, NULL};
    if (p->epilogue == LS_EPILOGUE_GELU_AUX || p->epilogue == LS_EPILOGUE_GELU_AUX_BIAS)
        *aux = (LsPiece){args->pre_activation, c_bytes, p->alignment_c, false, true, NULL};
    if (entry->route == LS_ROUTE_WIDE && args->bias && args->input_type != LS_F32)
        pieces[LS_PIECE_WIDE_BIAS] = (LsPiece){NULL, args->n * sizeof(float), 16, false, false, NULL};
}

static bool is_in_place(const LsPiece *piece)
{
    return piece->bytes == 0 || (piece->memory && (uintptr_t)piece->memory % piece->alignment == 0);
}

LsStatus ls_product_stage(
    LsCudaDevice *cuda, const LsProductEntry *entry, const LsMatmul *args, LsPiece pieces[LS_PIECES])
{
    size_t total = 0;
    void *scratch = NULL;
    list_pieces(entry, args, pieces);
    for (int i = 0; i < LS_PIECES; i++)
        if (!is_in_place(&pieces[i]))
            total += ls_round_up(pieces[i].bytes, PLACE_ALIGNMENT);
    if (total)
        LS_TRY(ls_cuda_scratch(cuda, total, &scratch));
    char *next = scratch;
    for (int i = 0; i < LS_PIECES; i++) {
        LsPiece *piece = &pieces[i];
        piece->place = piece->memory;
        if (is_in_place(piece))
            continue;
        piece->place = next;
        next += ls_round_up(piece->bytes, PLACE_ALIGNMENT);
        if (piece->memory && piece->read)
            LS_TRY(ls_cuda_copy(&cuda->base, piece->place, piece->memory, piece->bytes));
    }
    return LS_OK;
}

// Copies what the library wrote to where it belongs.
static LsStatus unstage(LsCudaDevice *cuda, const LsPiece pieces[LS_PIECES])
{
    for (int i = 0; i < LS_PIECES; i++)
        if (pieces[i].written && pieces[i].memory)
            LS_TRY(ls_cuda_copy(&cuda->base, pieces[i].memory, pieces[i].place, pieces[i].bytes));
    return LS_OK;
}

LsProductBuffers ls_product_buffers(const LsPiece pieces[LS_PIECES])
{
    return (LsProductBuffers){.factor = 1,
        .a = pieces[LS_PIECE_A].place,
        .b = pieces[LS_PIECE_B].place,
        .c = pieces[LS_PIECE_C].place,
        .bias = pieces[LS_PIECE_BIAS].place,
        .aux = pieces[LS_PIECE_AUX].place};
}

// ---- What follows the library ---------------------------------------------------------------------------

static LsStatus activate(LsCudaDevice *cuda, const LsBiasActivation *args)
{
    return ls_cuda_check(
        cuda, ls_kernel_bias_activation(compute_stream(cuda), args), "bias and activation of a product");
}

static LsStatus convert(
    LsCudaDevice *cuda, size_t n, const void *from, LsDtype from_type, void *to, LsDtype to_type)
{
    const LsCast args = {n, from, from_type, to, to_type};
    return ls_cuda_check(cuda, ls_kernel_cast(compute_stream(cuda), &args), "rounding a product");
}

// Bias and activation of F32 sums, which are rounded to a half type at the end.
static LsStatus finish_wide(LsCudaDevice *cuda, const LsMatmul *args, const LsPiece pieces[LS_PIECES])
{
    size_t count = args->m * args->n;
    void *x = pieces[LS_PIECE_C].place;
    LsBiasActivation step = {.rows = args->m,
        .columns = args->n,
        .x = x,
        .bias = args->bias,
        .bias_type = LS_F32,
        .activation = args->activation,
        .y = x,
        .type = LS_F32};
    if (pieces[LS_PIECE_WIDE_BIAS].place) {
        step.bias = pieces[LS_PIECE_WIDE_BIAS].place;
        LS_TRY(
            convert(cuda, args->n, args->bias, args->input_type, pieces[LS_PIECE_WIDE_BIAS].place, LS_F32));
    }
    if (args->output_type == LS_F32) {
        step.x = step.y = args->c; // where unstage has put it
        step.pre = args->pre_activation;
        return activate(cuda, &step);
    }
    if (args->pre_activation) {
        step.activation = LS_IDENTITY;
        LS_TRY(activate(cuda, &step));
        LS_TRY(convert(cuda, count, x, LS_F32, args->pre_activation, args->output_type));
        step.activation = args->activation;
        step.bias = NULL;
    }
    LS_TRY(activate(cuda, &step));
    return convert(cuda, count, x, LS_F32, args->c, args->output_type);
}

static LsStatus add_bias_gradient(LsCudaDevice *cuda, const LsMatmul *args)
{
    return ls_cuda_bias_gradient(&cuda->base, &(LsBiasGradient){.rows = args->k,
                                                  .columns = args->m,
                                                  .dy = args->a,
                                                  .type = args->input_type,
                                                  .db = args->bias_gradient,
                                                  .accumulate = args->accumulate});
}

// The library has stored the value before the activation in pre_activation, or else in c.
static LsStatus finish_stored(LsCudaDevice *cuda, const LsMatmul *args)
{
    const LsBiasActivation step = {.rows = args->m,
        .columns = args->n,
        .x = args->pre_activation ? args->pre_activation : args->c,
        .activation = args->activation,
        .y = args->c,
        .type = args->output_type};
    const LsActivationBackward derivative = {.n = args->m * args->n,
        .activation = args->backward,
        .saved = args->saved,
        .dy = args->c,
        .dx = args->c,
        .type = args->output_type};
    if (args->activation != LS_IDENTITY || args->pre_activation)
        LS_TRY(activate(cuda, &step));
    if (args->backward != LS_IDENTITY)
        LS_TRY(ls_cuda_check(cuda, ls_kernel_activation_backward(compute_stream(cuda), &derivative),
            "an activation's derivative after a product"));
    return LS_OK;
}

// ---- The ops --------------------------------------------------------------------------------------------

// Of matrices without elements there is no product; a depth of 0 leaves the empty sum.
static LsStatus without_product(LsCudaDevice *cuda, const LsMatmul *args)
{
    size_t count = args->m * args->n;
    if (count > 0 && !args->accumulate) {
        size_t bytes = count * ls_dtype_size(args->output_type);
        LS_TRY(ls_cuda_zero(&cuda->base, args->c, bytes));
        const LsBiasActivation step = {.rows = args->m,
            .columns = args->n,
            .x = args->c,
            .bias = args->bias,
            .bias_type = args->input_type,
            .activation = args->activation,
            .pre = args->pre_activation,
            .y = args->c,
            .type = args->output_type};
        if (args->bias || args->pre_activation)
            LS_TRY(activate(cuda, &step));
    }
    return args->bias_gradient && args->m > 0 ? add_bias_gradient(cuda, args) : LS_OK;
}

LsStatus ls_cuda_matmul(LsDevice *device, const LsMatmul *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_matmul(args));
    LS_TRY(ls_cuda_require_compute(cuda, "matmul"));
    if (args->m == 0 || args->n == 0 || args->k == 0)
        return without_product(cuda, args);
    LsProductEntry *entry;
    LsPiece pieces[LS_PIECES];
    LS_TRY(ls_products_find(cuda->products, args, &entry));
    LS_TRY(ls_product_stage(cuda, entry, args, pieces));
    LsProductBuffers buffers = ls_product_buffers(pieces);
    LS_TRY(ls_cublaslt_run(
        cuda->products->library, entry->plan, &entry->algorithm, &buffers, compute_stream(cuda)));
    LS_TRY(unstage(cuda, pieces));
    if (entry->route == LS_ROUTE_FUSED)
        return LS_OK;
    if (entry->route == LS_ROUTE_STORED)
        LS_TRY(finish_stored(cuda, args));
    else
        LS_TRY(finish_wide(cuda, args, pieces));
    return args->bias_gradient ? add_bias_gradient(cuda, args) : LS_OK;
}

LsStatus ls_cuda_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    LsCudaDevice *cuda = ls_cuda(device);
    LS_TRY(ls_require_float_type("bias_gradient", args->type));
    LS_TRY(ls_cuda_require_compute(cuda, "bias_gradient"));
    if (args->columns == 0)
        return LS_OK;
    if (args->rows == 0)
        return args->accumulate ? LS_OK : ls_cuda_zero(device, args->db, args->columns * sizeof(float));
    // The library's workspace is free between products.
    void *scratch = cuda->products->workspace;
    size_t bytes = ls_kernel_bias_gradient_scratch(args);
    if (bytes > LS_WORKSPACE_BYTES)
        LS_TRY(ls_cuda_scratch(cuda, bytes, &scratch));
    return ls_cuda_check(cuda, ls_kernel_bias_gradient(compute_stream(cuda), args, scratch), "bias_gradient");
}
