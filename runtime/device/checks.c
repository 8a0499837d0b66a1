#include "backend.h"

LsStatus ls_require_float_type(const char *op, LsDtype type)
{
    if (type == LS_F32 || type == LS_BF16)
        return LS_OK;
    return LS_FAIL(LS_UNSUPPORTED, "%s has no kernel for %s on this device; use float32 or bfloat16", op,
        ls_dtype_name(type));
}

LsStatus ls_require_matmul(const LsMatmul *args)
{
    LS_TRY(ls_require_float_type("matmul", args->input_type));
    if (args->output_type != LS_F32 && args->output_type != args->input_type)
        return LS_FAIL(LS_UNSUPPORTED,
            "matmul of %s cannot write %s; the output is float32 or the input type",
            ls_dtype_name(args->input_type), ls_dtype_name(args->output_type));
    bool fused = args->bias || args->activation != LS_IDENTITY || args->pre_activation;
    if (args->accumulate && fused)
        return LS_FAIL(LS_INTERNAL, "matmul: a product that is accumulated has no bias and no activation");
    return LS_OK;
}

LsStatus ls_require_normalize(const LsNormalize *args)
{
    LS_TRY(ls_require_float_type("normalize", args->y_type));
    if (args->x_type != LS_U8 && args->x_type != LS_F32)
        return LS_FAIL(
            LS_UNSUPPORTED, "normalize reads uint8 or float32, not %s", ls_dtype_name(args->x_type));
    return LS_OK;
}

LsStatus ls_require_optimizer_step(const LsOptimizerStep *args)
{
    if (args->weights)
        LS_TRY(ls_require_float_type("optimizer_step", args->type));
    if (args->n % LS_BLOCK != 0)
        return LS_FAIL(
            LS_INTERNAL, "optimizer_step: %zu elements are not whole blocks of %d", args->n, LS_BLOCK);
    if (args->kind == LS_OPTIMIZER_ADAMW && (!args->moment1 || !args->moment2))
        return LS_FAIL(LS_INTERNAL, "optimizer_step: AdamW needs both moments");
    return LS_OK;
}

LsStatus ls_require_labels(const LsLossArgs *args)
{
    for (size_t r = 0; r < args->rows; r++)
        if (args->labels[r] < 0 || (size_t)args->labels[r] >= args->columns)
            return LS_FAIL(LS_BAD_DATA, "row %zu of a microbatch has label %d, classes are 0 to %zu", r,
                args->labels[r], args->columns - 1);
    return LS_OK;
}

LsStatus ls_require_tree(const LsTreeAdd *args)
{
    if (args->count == 0 || args->count > LS_TREE_INPUTS || args->result >= args->count)
        return LS_FAIL(LS_INTERNAL, "tree_add: %zu inputs with result %zu; at most %d inputs", args->count,
            args->result, LS_TREE_INPUTS);
    for (size_t i = 0; i < args->adds; i++)
        if (args->pairs[i][0] >= args->count || args->pairs[i][1] >= args->count)
            return LS_FAIL(
                LS_INTERNAL, "tree_add: addition %zu names an input beyond the %zu given", i, args->count);
    return LS_OK;
}

uint32_t ls_dropout_threshold(double rate)
{
    return (uint32_t)(rate * 4294967296.0);
}

float ls_dropout_factor(double rate)
{
    return (float)(1.0 / (1.0 - rate));
}
