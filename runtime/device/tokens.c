// What the ops of language models share: checks, sizes of scratch memory, and for backends that work in host
// memory the order of rows by token.
#include "backend.h"

#include <string.h>

#include "base/memory.h"

LsStatus ls_require_windows(const char *op, size_t rows, size_t window)
{
    if (window == 0 || rows % window != 0)
        return LS_FAIL(LS_INTERNAL, "%s: %zu rows are not whole windows of %zu tokens", op, rows, window);
    return LS_OK;
}

LsStatus ls_require_attention(const char *op, size_t window, size_t heads, size_t size, LsDtype type)
{
    LS_TRY(ls_require_float_type(op, type));
    if (window == 0 || heads == 0 || size == 0)
        return LS_FAIL(
            LS_INTERNAL, "%s: windows of %zu tokens, %zu heads of %zu values", op, window, heads, size);
    return LS_OK;
}

LsStatus ls_require_tokens(const int32_t *tokens, size_t rows, size_t vocabulary)
{
    for (size_t r = 0; r < rows; r++)
        if (tokens[r] < 0 || (size_t)tokens[r] >= vocabulary)
            return LS_FAIL(LS_BAD_DATA, "token %zu of a microbatch is %d, the vocabulary has 0 to %zu", r,
                tokens[r], vocabulary - 1);
    return LS_OK;
}

LsStatus ls_dropout_by_sample(const LsDropout *args, LsDropout *out)
{
    size_t rows = args->rows_per_position > 1 ? args->rows_per_position : 1;
    if (args->rows % rows != 0)
        return LS_FAIL(LS_INTERNAL, "dropout: %zu rows are not whole samples of %zu", args->rows, rows);
    *out = *args;
    out->rows = args->rows / rows;
    out->columns = args->columns * rows;
    out->rows_per_position = 1;
    return LS_OK;
}

// On hosts, the order and where each token's rows begin. On GPUs, two lists of keys and rows, and two sums of
// each chunk.
size_t ls_embedding_scratch(size_t rows, size_t vocabulary, size_t columns)
{
    size_t chunks = rows / LS_EMBEDDING_CHUNK + 1;
    size_t host = (rows + vocabulary + 1) * sizeof(uint32_t);
    size_t gpu = 4 * rows * sizeof(uint32_t) + 2 * chunks * columns * sizeof(float);
    return host > gpu ? host : gpu;
}

// A counting sort: how often each token comes, from that where its rows begin, and then the rows in turn.
LsTokenOrder ls_order_by_token(const LsEmbeddingGradient *args)
{
    uint32_t *ends = args->scratch, *order = ends + args->vocabulary + 1;
    memset(ends, 0, (args->vocabulary + 1) * sizeof *ends);
    // Token v's rows are counted at v + 1, so that v holds where they begin, and after its rows where they
    // end.
    for (size_t r = 0; r < args->rows; r++)
        ends[args->tokens[r] + 1]++;
    for (size_t v = 0; v < args->vocabulary; v++)
        ends[v + 1] += ends[v];
    for (size_t r = 0; r < args->rows; r++)
        order[ends[args->tokens[r]]++] = (uint32_t)r;
    return (LsTokenOrder){.ends = ends, .order = order};
}

// Of dweight and of dbias: on hosts the sums of a run of rows and totals, on GPUs the sums of slices of rows.
size_t ls_layer_norm_scratch(size_t rows, size_t columns)
{
    size_t slices = rows < LS_LAYER_NORM_SLICES ? rows : LS_LAYER_NORM_SLICES;
    return (slices > 2 ? slices : 2) * 2 * columns * sizeof(float);
}

// dout · out of each row and head.
size_t ls_attention_scratch(size_t windows, size_t window, size_t heads, size_t size)
{
    (void)size;
    return windows * window * heads * sizeof(float);
}

// ---- Attention by a GPU's library -----------------------------------------------------------------------

bool ls_attention_asks_library(size_t window, size_t size, LsDtype type)
{
    enum { GROUP = 8, LARGEST = 128 };
    return (type == LS_BF16 || type == LS_F16) && window > 1 && size % GROUP == 0 && size <= LARGEST;
}

enum { LIBRARY_REST = 1 << 20 }; // of the workspace, for what does not grow with the windows

// Gradients of scores and sums of rows; see describe_backward in cuda/cudnn_attention.c.
static size_t window_bytes(size_t window, size_t heads)
{
    enum { TILE = 128 };
    size_t keys = ls_round_up(window, TILE);
    return heads * (keys * keys * sizeof(uint16_t) + window * sizeof(float));
}

size_t ls_attention_windows_at_once(size_t windows, size_t window, size_t heads)
{
    enum { MOST = 1 << 16 }; // tokens, or heads: far beyond what fits, and far from an overflow
    if (window > MOST || heads > MOST)
        return 0;
    size_t fitting = (LS_ATTENTION_WORKSPACE - LIBRARY_REST) / window_bytes(window, heads);
    size_t at_once = windows < fitting ? windows : fitting;
    while (at_once > 0 && windows % at_once != 0)
        at_once--;
    return at_once;
}

size_t ls_attention_library_bytes(size_t windows, size_t window, size_t heads, size_t size, LsDtype type)
{
    if (!ls_attention_asks_library(window, size, type))
        return 0;
    size_t at_once = ls_attention_windows_at_once(windows, window, heads);
    return at_once > 0 ? at_once * window_bytes(window, heads) + LIBRARY_REST : 0;
}
