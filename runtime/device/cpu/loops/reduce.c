// Sums. Each has a fixed order: lanes side by side, then the lanes as a tree.
#include "lanes.h"
#include "parts.h"

enum {
    PANEL = 4 * LANES, // columns whose sums stay in registers
    RUN = 64           // rows summed in float before they are added to the total, which bounds rounding
};

ALWAYS_INLINE void panel_gradient(const LsBiasGradient *args, size_t first, LsDtype type)
{
    float totals[PANEL] = {0};
    for (size_t begin = 0; begin < args->rows; begin += RUN) {
        size_t end = args->rows - begin < RUN ? args->rows : begin + RUN;
        FloatLanes sums[PANEL / LANES] = {0};
        for (size_t r = begin; r < end; r++)
            for (size_t v = 0; v < PANEL / LANES; v++)
                sums[v] += load_lanes(args->dy, type, r * args->columns + first + v * LANES);
        for (size_t j = 0; j < PANEL; j++)
            totals[j] += sums[j / LANES][j % LANES];
    }
    for (size_t j = 0; j < PANEL; j++)
        args->db[first + j] = (args->accumulate ? args->db[first + j] : 0.0f) + totals[j];
}

// The columns behind the last whole panel, summed in the same order.
ALWAYS_INLINE void rest_gradient(const LsBiasGradient *args, size_t first, LsDtype type)
{
    size_t count = args->columns - first;
    float totals[PANEL] = {0};
    for (size_t begin = 0; begin < args->rows; begin += RUN) {
        size_t end = args->rows - begin < RUN ? args->rows : begin + RUN;
        float sums[PANEL] = {0};
        for (size_t r = begin; r < end; r++)
            for (size_t j = 0; j < count; j++)
                sums[j] += load(args->dy, type, r * args->columns + first + j);
        for (size_t j = 0; j < count; j++)
            totals[j] += sums[j];
    }
    for (size_t j = 0; j < count; j++)
        args->db[first + j] = (args->accumulate ? args->db[first + j] : 0.0f) + totals[j];
}

ALWAYS_INLINE void bias_gradient(const LsBiasGradient *args, LsDtype type)
{
    size_t first = 0;
    for (; first + PANEL <= args->columns; first += PANEL)
        panel_gradient(args, first, type);
    if (first < args->columns)
        rest_gradient(args, first, type);
}

LsStatus LOOPS(bias_gradient)(LsDevice *device, const LsBiasGradient *args)
{
    (void)device;
    LS_TRY(ls_require_float_type("bias_gradient", args->type));
    WITH_TYPE(args->type, bias_gradient(args, TYPE));
    return LS_OK;
}

enum { WIDE = 8, ACCUMULATORS = 4 }; // several sums side by side hide the latency of an addition
typedef double WideLanes __attribute__((vector_size(64)));
typedef float HalfFloatLanes __attribute__((vector_size(32)));

ALWAYS_INLINE WideLanes load_wide(const float *x)
{
    HalfFloatLanes narrow;
    memcpy(&narrow, x, sizeof narrow);
    return __builtin_convertvector(narrow, WideLanes);
}

// Sum of x, or of its squares, in float64.
ALWAYS_INLINE double sum_wide(const float *x, size_t n, bool squares)
{
    WideLanes sums[ACCUMULATORS] = {0};
    size_t i = 0;
    for (; i + WIDE * ACCUMULATORS <= n; i += WIDE * ACCUMULATORS)
        for (size_t a = 0; a < ACCUMULATORS; a++) {
            WideLanes wide = load_wide(x + i + a * WIDE);
            sums[a] += squares ? wide * wide : wide;
        }
    double rest = 0;
    for (; i < n; i++)
        rest += squares ? (double)x[i] * x[i] : x[i];
    WideLanes lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])) +
           rest;
}

LsStatus LOOPS(sum)(LsDevice *device, const LsSum *args)
{
    (void)device;
    double sum = sum_wide(args->x, args->n, false);
    *args->y = (float)((args->accumulate ? *args->y : 0.0) + sum);
    return LS_OK;
}

LsStatus LOOPS(block_squares)(LsDevice *device, const LsBlockSquares *args)
{
    (void)device;
    for (size_t p = 0; p < args->count; p++) {
        const LsSquaresPiece *piece = &args->piece[p];
        for (size_t first = 0; first < piece->n; first += LS_BLOCK) {
            size_t count = piece->n - first < LS_BLOCK ? piece->n - first : LS_BLOCK;
            piece->sums[first / LS_BLOCK] = (float)sum_wide(piece->x + first, count, true);
        }
    }
    return LS_OK;
}

static void add_tile(float *to, const float *a, const float *b, size_t count)
{
    ELEMENTWISE
    for (size_t i = 0; i < count; i++)
        to[i] = a[i] + b[i];
}

// Runs all additions on one tile: a value that was added to lives in scratch, the last sum goes to the
// output.
static void add_tree_tile(const LsTreeAdd *args, LsTreeScratch scratch, size_t first, size_t count)
{
    const float *values[LS_TREE_INPUTS];
    for (size_t i = 0; i < args->count; i++)
        values[i] = (const float *)args->inputs[i] + first;
    float *output = (float *)args->output + first;
    for (size_t i = 0; i < args->adds; i++) {
        size_t into = args->pairs[i][0], from = args->pairs[i][1];
        bool last = i + 1 == args->adds && into == args->result;
        float *to = last ? output : scratch[into];
        add_tile(to, values[into], values[from], count);
        values[into] = to;
    }
    if (values[args->result] != output)
        memmove(output, values[args->result], count * sizeof *output);
}

static void read_rounded_tile(float *to, const LsTreeAdd *args, size_t input, size_t first, size_t count)
{
    const void *from = args->inputs[input];
    if (args->type == LS_BF16) {
        ELEMENTWISE
        for (size_t i = 0; i < count; i++)
            to[i] = load(from, LS_BF16, first + i);
        return;
    }
    ELEMENTWISE
    for (size_t i = 0; i < count; i++)
        to[i] = nearest_bf16(load(from, LS_F32, first + i));
}

static void add_rounded_tile(float *to, const float *from, size_t count)
{
    ELEMENTWISE
    for (size_t i = 0; i < count; i++)
        to[i] = nearest_bf16(to[i] + from[i]);
}

// The numbers are rounded already.
static void write_rounded_tile(const LsTreeAdd *args, const float *from, size_t first, size_t count)
{
    if (args->output_type == LS_F32) {
        memcpy((float *)args->output + first, from, count * sizeof *from);
        return;
    }
    uint16_t *to = (uint16_t *)args->output + first;
    ELEMENTWISE
    for (size_t i = 0; i < count; i++)
        to[i] = (uint16_t)(bits_of_float(from[i]) >> 16);
}

// The same with sums rounded to BF16. A value is read when it is first needed, and lives in scratch.
static void add_rounded_tree_tile(const LsTreeAdd *args, LsTreeScratch scratch, size_t first, size_t count)
{
    bool read[LS_TREE_INPUTS] = {false};
    for (size_t i = 0; i <= args->adds; i++) {
        bool last = i == args->adds;
        size_t used[2] = {last ? args->result : args->pairs[i][0], last ? args->result : args->pairs[i][1]};
        for (size_t j = 0; j < 2; j++) {
            if (!read[used[j]])
                read_rounded_tile(scratch[used[j]], args, used[j], first, count);
            read[used[j]] = true;
        }
        if (!last)
            add_rounded_tile(scratch[used[0]], scratch[used[1]], count);
    }
    write_rounded_tile(args, scratch[args->result], first, count);
}

LsStatus LOOPS(tree_add)(const LsTreeAdd *args, LsTreeScratch scratch)
{
    LS_TRY(ls_require_tree(args));
    for (size_t first = 0; first < args->n; first += LS_TREE_TILE) {
        size_t count = args->n - first < LS_TREE_TILE ? args->n - first : LS_TREE_TILE;
        if (args->rounded)
            add_rounded_tree_tile(args, scratch, first, count);
        else
            add_tree_tile(args, scratch, first, count);
    }
    return LS_OK;
}
