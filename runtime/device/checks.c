#include "backend.h"

#include <string.h>

LsStatus ls_require_float_type(const char *op, LsDtype type)
{
    if (type == LS_F32 || type == LS_BF16 || type == LS_F16)
        return LS_OK;
    return LS_FAIL(
        LS_UNSUPPORTED, "%s has no kernel for %s; use float32, bfloat16 or float16", op, ls_dtype_name(type));
}

LsStatus ls_require_matmul(const LsMatmul *args)
{
    LS_TRY(ls_require_float_type("matmul", args->input_type));
    if (args->output_type != LS_F32 && args->output_type != args->input_type)
        return LS_FAIL(LS_UNSUPPORTED,
            "matmul of %s cannot write %s; the output is float32 or the input type",
            ls_dtype_name(args->input_type), ls_dtype_name(args->output_type));
    bool forward = args->bias || args->activation != LS_IDENTITY || args->pre_activation;
    bool backward = args->backward != LS_IDENTITY;
    if (args->accumulate + backward + forward > 1)
        return LS_FAIL(LS_INTERNAL,
            "matmul: a product is accumulated, or multiplied by a derivative, or has bias and activation");
    if (backward && !args->saved)
        return LS_FAIL(LS_INTERNAL, "matmul: an activation's derivative needs what was saved");
    if (args->bias_gradient && !args->transpose_a)
        return LS_FAIL(LS_INTERNAL, "matmul: a bias gradient sums the columns of a transposed a");
    return LS_OK;
}

LsStatus ls_matmul_finish(LsDevice *device, const LsMatmul *args)
{
    if (args->backward != LS_IDENTITY)
        LS_TRY(device->ops->activation_backward(device, &(LsActivationBackward){.n = args->m * args->n,
                                                            .activation = args->backward,
                                                            .saved = args->saved,
                                                            .dy = args->c,
                                                            .dx = args->c,
                                                            .type = args->output_type}));
    if (!args->bias_gradient)
        return LS_OK;
    return device->ops->bias_gradient(device, &(LsBiasGradient){.rows = args->k,
                                                  .columns = args->m,
                                                  .dy = args->a,
                                                  .type = args->input_type,
                                                  .db = args->bias_gradient,
                                                  .accumulate = args->accumulate});
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
    for (size_t p = 0; p < args->count; p++) {
        const LsOptimizerPiece *piece = &args->piece[p];
        if (piece->weights)
            LS_TRY(ls_require_float_type("optimizer_step", args->type));
        if (piece->n % LS_BLOCK != 0)
            return LS_FAIL(LS_INTERNAL,
                "optimizer_step: %zu elements of piece %zu are not whole blocks of %d", piece->n, p,
                LS_BLOCK);
        if (args->kind == LS_OPTIMIZER_ADAMW && (!piece->moment1 || !piece->moment2))
            return LS_FAIL(LS_INTERNAL, "optimizer_step: AdamW needs both moments, piece %zu has not", p);
    }
    return LS_OK;
}

// A choice is one line of printable characters: a shape, a space, the algorithm.
static bool is_choice(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] < ' ' || line[i] > '~')
            return false;
    const char *space = memchr(line, ' ', length);
    return space && space > line && space + 1 < line + length;
}

LsStatus ls_require_choices(const char *choices)
{
    size_t number = 1;
    for (const char *line = choices; *line; number++) {
        const char *end = strchr(line, '\n');
        if (!end || !is_choice(line, (size_t)(end - line)))
            return LS_FAIL(
                LS_BAD_DATA, "line %zu of the choices among algorithms is not \"shape algorithm\"", number);
        line = end + 1;
    }
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
    const LsDtype types[] = {args->type, args->output_type};
    for (size_t t = 0; t < 2; t++)
        if (types[t] != LS_F32 && !(types[t] == LS_BF16 && args->rounded))
            return LS_FAIL(LS_INTERNAL, "tree_add: %s numbers and sums that are %s", ls_dtype_name(types[t]),
                args->rounded ? "rounded to bfloat16" : "not rounded");
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
