// Reference embedding of tokens and positions, and its gradient.
#include "ref.h"

LsStatus ls_ref_embedding(LsDevice *device, const LsEmbedding *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("embedding", args->type));
    LS_TRY(ls_require_windows("embedding", args->rows, args->window));
    LS_TRY(ls_require_tokens(args->tokens, args->rows, args->vocabulary));
    size_t columns = args->columns;
    for (size_t r = 0; r < args->rows; r++)
        for (size_t c = 0; c < columns; c++)
            ls_ref_store(args->y, args->type, r * columns + c,
                ls_ref_load(args->table, args->type, (size_t)args->tokens[r] * columns + c) +
                    ls_ref_load(args->positions, args->type, r % args->window * columns + c));
    return LS_OK;
}

static void token_gradients(const LsEmbeddingGradient *args)
{
    LsTokenOrder sorted = ls_order_by_token(args);
    size_t columns = args->columns, first = 0;
    for (size_t v = 0; v < args->vocabulary; v++) {
        for (size_t c = 0; c < columns && first < sorted.ends[v]; c++) {
            double sum = args->dtable[v * columns + c];
            for (size_t i = first; i < sorted.ends[v]; i++)
                sum += ls_ref_load(args->dy, args->type, sorted.order[i] * columns + c);
            args->dtable[v * columns + c] = (float)sum;
        }
        first = sorted.ends[v];
    }
}

static void position_gradients(const LsEmbeddingGradient *args)
{
    size_t values = args->window * args->columns; // of a window
    for (size_t i = 0; i < values; i++) {
        double sum = args->accumulate ? args->dpositions[i] : 0.0;
        for (size_t w = 0; w < args->rows / args->window; w++)
            sum += ls_ref_load(args->dy, args->type, w * values + i);
        args->dpositions[i] = (float)sum;
    }
}

LsStatus ls_ref_embedding_gradient(LsDevice *device, const LsEmbeddingGradient *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("embedding_gradient", args->type));
    LS_TRY(ls_require_windows("embedding_gradient", args->rows, args->window));
    LS_TRY(ls_require_tokens(args->tokens, args->rows, args->vocabulary));
    token_gradients(args);
    position_gradients(args);
    return LS_OK;
}
