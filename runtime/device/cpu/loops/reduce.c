// Sums. Each has a fixed order: lanes side by side, then the lanes as a tree.
#include "parts.h"
#include "vectors.h"

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
            float sum = (float)sum_wide(piece->x + first, count, true);
            bool statistics = piece->block_kind && piece->block_kind[first / LS_BLOCK] == LS_KIND_STATISTICS;
            piece->sums[first / LS_BLOCK] = statistics ? sum * 0.0f : sum;
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

static void stream_tile(float *to, const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i += LANES)
        stream_lanes(to + i, load_lanes(a, LS_F32, i) + load_lanes(b, LS_F32, i));
}

// Whether the sum goes past the caches: it is larger than what a core has to itself, so it would be read into
// them before it is written, and be out of them before it is used.
enum { STREAMED = 1 << 20 };
static bool streams(const LsTreeAdd *args)
{
    return args->n * sizeof(float) >= STREAMED && args->n % LANES == 0 && (uintptr_t)args->output % 64 == 0;
}

// Runs all additions on one tile: a value that was added to lives in scratch, the last sum goes to the
// output.
static void add_tree_tile(
    const LsTreeAdd *args, LsTreeScratch scratch, size_t first, size_t count, bool streaming)
{
    const float *values[LS_TREE_INPUTS];
    for (size_t i = 0; i < args->count; i++)
        values[i] = (const float *)args->inputs[i] + first;
    float *output = (float *)args->output + first;
    for (size_t i = 0; i < args->adds; i++) {
        size_t into = args->pairs[i][0], from = args->pairs[i][1];
        bool last = i + 1 == args->adds && into == args->result;
        float *to = last ? output : scratch[into];
        (last && streaming ? stream_tile : add_tile)(to, values[into], values[from], count);
        values[into] = to;
    }
    if (values[args->result] != output)
        memmove(output, values[args->result], count * sizeof *output);
}

// The nearest BF16 numbers of 16 elements, whatever their type.
ALWAYS_INLINE FloatLanes load_rounded(const void *array, LsDtype type, size_t i)
{
    FloatLanes lanes = load_lanes(array, type, i);
    return type == LS_BF16 ? lanes : nearest_lanes(lanes);
}

ALWAYS_INLINE float load_rounded_one(const void *array, LsDtype type, size_t i)
{
    float value = load(array, type, i);
    return type == LS_BF16 ? value : nearest_bf16(value);
}

// to[i] = a[i] + b[i], all of them rounded. A sum that is stored as BF16 is rounded by that.
ALWAYS_INLINE void add_rounded(
    size_t n, const void *a, LsDtype a_type, const void *b, LsDtype b_type, void *to, LsDtype type)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        FloatLanes sum = load_rounded(a, a_type, i) + load_rounded(b, b_type, i);
        store_lanes(to, type, i, type == LS_BF16 ? sum : nearest_lanes(sum));
    }
    for (; i < n; i++) {
        float sum = load_rounded_one(a, a_type, i) + load_rounded_one(b, b_type, i);
        store(to, type, i, type == LS_BF16 ? sum : nearest_bf16(sum));
    }
}

ALWAYS_INLINE void copy_rounded(size_t n, const void *from, LsDtype from_type, void *to, LsDtype type)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_lanes(to, type, i, load_rounded(from, from_type, i));
    for (; i < n; i++)
        store(to, type, i, load_rounded_one(from, from_type, i));
}

// Makes a call in which NAME is the type as a constant.
#define WITH_ROUNDED_TYPE(type, NAME, call)                                                                  \
    do {                                                                                                     \
        if ((type) == LS_BF16) {                                                                             \
            const LsDtype NAME = LS_BF16;                                                                    \
            call;                                                                                            \
        } else {                                                                                             \
            const LsDtype NAME = LS_F32;                                                                     \
            call;                                                                                            \
        }                                                                                                    \
    } while (0)

// A part of an input or the output, or a sum in scratch.
typedef struct Tile {
    void *values;
    LsDtype type;
} Tile;

static void add_rounded_tiles(size_t n, Tile a, Tile b, Tile to)
{
    WITH_ROUNDED_TYPE(a.type, A,
        WITH_ROUNDED_TYPE(b.type, B,
            WITH_ROUNDED_TYPE(to.type, TO, add_rounded(n, a.values, A, b.values, B, to.values, TO))));
}

static void copy_rounded_tile(size_t n, Tile from, Tile to)
{
    WITH_ROUNDED_TYPE(
        from.type, FROM, WITH_ROUNDED_TYPE(to.type, TO, copy_rounded(n, from.values, FROM, to.values, TO)));
}

static Tile tile_of(const void *array, LsDtype type, size_t first)
{
    return (Tile){(char *)array + first * ls_dtype_size(type), type};
}

// The same with sums rounded to BF16. Rounding what is rounded changes nothing, so all F32 values are alike.
static void add_rounded_tree_tile(const LsTreeAdd *args, LsTreeScratch scratch, size_t first, size_t count)
{
    Tile values[LS_TREE_INPUTS], output = tile_of(args->output, args->output_type, first);
    for (size_t i = 0; i < args->count; i++)
        values[i] = tile_of(args->inputs[i], args->type, first);
    for (size_t i = 0; i < args->adds; i++) {
        size_t into = args->pairs[i][0], from = args->pairs[i][1];
        bool last = i + 1 == args->adds && into == args->result;
        Tile to = last ? output : tile_of(scratch[into], LS_F32, 0);
        add_rounded_tiles(count, values[into], values[from], to);
        values[into] = to;
    }
    if (values[args->result].values != output.values || args->adds == 0)
        copy_rounded_tile(count, values[args->result], output);
}

LsStatus LOOPS(tree_add)(const LsTreeAdd *args, LsTreeScratch scratch)
{
    LS_TRY(ls_require_tree(args));
    bool streaming = !args->rounded && streams(args);
    for (size_t first = 0; first < args->n; first += LS_TREE_TILE) {
        size_t count = args->n - first < LS_TREE_TILE ? args->n - first : LS_TREE_TILE;
        if (args->rounded)
            add_rounded_tree_tile(args, scratch, first, count);
        else
            add_tree_tile(args, scratch, first, count, streaming);
    }
    if (streaming)
        streamed();
    return LS_OK;
}
