// Embedding of tokens and positions, and its gradient: rows of one token, and rows of one position, are
// summed in ascending order, panel by panel of columns.
#include "parts.h"
#include "vectors.h"

ALWAYS_INLINE void embed_row(const LsEmbedding *args, size_t row, LsDtype type)
{
    size_t bytes = args->columns * (type == LS_F32 ? sizeof(float) : sizeof(uint16_t));
    const char *token = (const char *)args->table + (size_t)args->tokens[row] * bytes;
    const char *position = (const char *)args->positions + row % args->window * bytes;
    add_arrays(args->columns, token, position, (char *)args->y + row * bytes, type);
}

LsStatus LOOPS(embedding)(LsDevice *device, const LsEmbedding *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("embedding", args->type));
    LS_TRY(ls_require_windows("embedding", args->rows, args->window));
    LS_TRY(ls_require_tokens(args->tokens, args->rows, args->vocabulary));
    for (size_t r = 0; r < args->rows; r++)
        WITH_TYPE(args->type, embed_row(args, r, TYPE));
    return LS_OK;
}

enum {
    PANEL = 4 * LANES, // columns whose sums stay in registers
    RUN = 64           // rows summed in float before they are added to the total, which bounds rounding
};

// Rows of dy: those of a list, or every step-th one.
typedef struct Rows {
    const uint32_t *list; // NULL: first, first + step, …
    size_t first, step, count;
} Rows;

ALWAYS_INLINE size_t row_at(const Rows *rows, size_t i)
{
    return rows->list ? rows->list[i] : rows->first + i * rows->step;
}

ALWAYS_INLINE void add_panel(
    const void *dy, LsDtype type, size_t columns, size_t first, const Rows *rows, float *sums)
{
    float totals[PANEL] = {0};
    for (size_t begin = 0; begin < rows->count; begin += RUN) {
        size_t end = rows->count - begin < RUN ? rows->count : begin + RUN;
        FloatLanes run[PANEL / LANES] = {0};
        for (size_t i = begin; i < end; i++)
            for (size_t v = 0; v < PANEL / LANES; v++)
                run[v] += load_lanes(dy, type, row_at(rows, i) * columns + first + v * LANES);
        for (size_t j = 0; j < PANEL; j++)
            totals[j] += run[j / LANES][j % LANES];
    }
    for (size_t j = 0; j < PANEL; j++)
        sums[first + j] += totals[j];
}

// The columns behind the last whole panel, summed in the same order.
ALWAYS_INLINE void add_rest(
    const void *dy, LsDtype type, size_t columns, size_t first, const Rows *rows, float *sums)
{
    float totals[PANEL] = {0};
    for (size_t begin = 0; begin < rows->count; begin += RUN) {
        size_t end = rows->count - begin < RUN ? rows->count : begin + RUN;
        float run[PANEL] = {0};
        for (size_t i = begin; i < end; i++)
            for (size_t j = 0; j < columns - first; j++)
                run[j] += load(dy, type, row_at(rows, i) * columns + first + j);
        for (size_t j = 0; j < columns - first; j++)
            totals[j] += run[j];
    }
    for (size_t j = 0; j < columns - first; j++)
        sums[first + j] += totals[j];
}

ALWAYS_INLINE void add_rows(const LsEmbeddingGradient *args, LsDtype type, const Rows *rows, float *sums)
{
    size_t first = 0;
    for (; first + PANEL <= args->columns; first += PANEL)
        add_panel(args->dy, type, args->columns, first, rows, sums);
    if (first < args->columns)
        add_rest(args->dy, type, args->columns, first, rows, sums);
}

ALWAYS_INLINE void add_gradients(const LsEmbeddingGradient *args, LsDtype type)
{
    size_t columns = args->columns, window = args->window, first = 0;
    LsTokenOrder sorted = ls_order_by_token(args);
    for (size_t v = 0; v < args->vocabulary; v++) {
        Rows rows = {.list = sorted.order + first, .count = sorted.ends[v] - first};
        if (rows.count)
            add_rows(args, type, &rows, args->dtable + v * columns);
        first = sorted.ends[v];
    }
    if (!args->accumulate)
        memset(args->dpositions, 0, window * columns * sizeof *args->dpositions);
    for (size_t t = 0; t < window; t++) {
        Rows rows = {.first = t, .step = window, .count = args->rows / window};
        add_rows(args, type, &rows, args->dpositions + t * columns);
    }
}

LsStatus LOOPS(embedding_gradient)(LsDevice *device, const LsEmbeddingGradient *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("embedding_gradient", args->type));
    LS_TRY(ls_require_windows("embedding_gradient", args->rows, args->window));
    LS_TRY(ls_require_tokens(args->tokens, args->rows, args->vocabulary));
    WITH_TYPE(args->type, add_gradients(args, TYPE));
    return LS_OK;
}
