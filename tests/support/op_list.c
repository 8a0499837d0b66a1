// The list of op cases: fixed ones at the edges of what kernels are cut into, random ones, and large ones.
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "op_cases.h"

typedef struct List {
    LsOpCase *cases;
    size_t count, capacity;
    LsStatus status;
} List;

static void put(List *list, LsOpCase op)
{
    if (list->status != LS_OK)
        return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        LsOpCase *larger = realloc(list->cases, capacity * sizeof *larger);
        if (!larger) {
            list->status = LS_FAIL(LS_INTERNAL, "no memory for the list of op cases");
            return;
        }
        list->cases = larger;
        list->capacity = capacity;
    }
    list->cases[list->count++] = op;
}

static LsStatus give(List *list, LsOpCase **cases, size_t *count)
{
    if (list->status != LS_OK) {
        free(list->cases);
        return list->status;
    }
    *cases = list->cases;
    *count = list->count;
    return LS_OK;
}

static const LsDtype float_types[] = {LS_F32, LS_BF16, LS_F16};
enum { FLOAT_TYPES = 3, PRODUCT_TYPES = 5 };
static const LsDtype product_types[PRODUCT_TYPES][2] = {
    {LS_F32, LS_F32}, {LS_BF16, LS_F32}, {LS_BF16, LS_BF16}, {LS_F16, LS_F32}, {LS_F16, LS_F16}};

// ---- Products -------------------------------------------------------------------------------------------

static void put_forward(List *list, LsOpCase op)
{
    op.transpose_b = op.bias = true;
    for (int activation = LS_IDENTITY; activation <= LS_GELU; activation++) {
        op.activation = (LsActivation)activation;
        op.keep = false;
        put(list, op);
        op.keep = activation != LS_IDENTITY;
        if (op.keep)
            put(list, op);
    }
    op.bias = false;
    put(list, op);
}

// What a layer's backward pass needs: gradients of its inputs, and of its weights and bias.
static void put_backward(List *list, LsOpCase op)
{
    for (int activation = LS_RELU; activation <= LS_GELU; activation++) {
        op.backward = (LsActivation)activation;
        put(list, op);
    }
    op.backward = LS_IDENTITY;
    op.transpose_a = true;
    for (int variant = 0; variant < 4; variant++) {
        op.accumulate = variant & 1;
        op.bias_gradient = variant & 2;
        put(list, op);
    }
}

static void put_products(List *list, LsDtype type, LsDtype output)
{
    // Odd sizes on both sides of registers (16), panels (64), oneDNN's blocks and the tiles of tensor cores.
    static const size_t shapes[][3] = {
        {1, 1, 1}, {1, 10, 7}, {33, 17, 65}, {64, 64, 64}, {5, 1, 128}, {129, 70, 33}, {48, 130, 257}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        LsOpCase op = {.kind = LS_OP_MATMUL,
            .type = type,
            .output = output,
            .rows = shapes[s][0],
            .columns = shapes[s][1],
            .depth = shapes[s][2]};
        for (int transposed = 0; transposed < 4; transposed++) {
            LsOpCase plain = op;
            plain.transpose_a = transposed & 1;
            plain.transpose_b = transposed & 2;
            put(list, plain);
        }
        put_forward(list, op);
        put_backward(list, op);
    }
}

// A layer of `in` inputs and `out` outputs as training calls it: the weights' gradient is in F32.
static void put_layer(List *list, LsDtype type, size_t rows, size_t in, size_t out)
{
    LsOpCase op = {.kind = LS_OP_MATMUL, .type = type, .output = type, .large = true};
    LsOpCase forward = op, inputs = op, weights = op;
    forward.rows = rows, forward.columns = out, forward.depth = in;
    forward.transpose_b = forward.bias = true;
    forward.activation = LS_RELU;
    put(list, forward);
    forward.activation = LS_GELU;
    put(list, forward);
    forward.keep = true;
    put(list, forward);
    inputs.rows = rows, inputs.columns = in, inputs.depth = out;
    put(list, inputs);
    inputs.backward = LS_RELU;
    put(list, inputs);
    inputs.backward = LS_GELU;
    put(list, inputs);
    weights.rows = out, weights.columns = in, weights.depth = rows;
    weights.transpose_a = weights.accumulate = true, weights.output = LS_F32;
    put(list, weights);
    weights.bias_gradient = true;
    put(list, weights);
}

// ---- Other ops ------------------------------------------------------------------------------------------

// One statistic for all, one for each column, and where they divide the columns some for channels and for a
// row of pixels.
static void put_normalize(List *list, LsOpCase op)
{
    const size_t periods[] = {1, op.columns, 3, 4, 96};
    op.kind = LS_OP_NORMALIZE;
    for (size_t i = 0; i < sizeof periods / sizeof *periods; i++) {
        op.period = periods[i];
        if (op.columns % op.period != 0 || (i > 1 && op.period == op.columns))
            continue;
        op.type = LS_U8;
        put(list, op);
        op.type = LS_F32;
        put(list, op);
    }
}

static void put_matrix_ops(List *list, LsOpCase op)
{
    put_normalize(list, op);
    for (int variant = 0; variant < 2; variant++) {
        LsOpCase bias = op, dropout = op, entropy = op, backward = op;
        bias.kind = LS_OP_BIAS_GRADIENT, bias.accumulate = variant;
        put(list, bias);
        dropout.kind = LS_OP_DROPOUT, dropout.rate = variant ? 0.1 : 0.5, dropout.in_place = variant;
        put(list, dropout);
        entropy.kind = LS_OP_CROSS_ENTROPY, entropy.smoothing = variant ? 0.1f : 0.0f;
        entropy.in_place = variant;
        put(list, entropy);
        backward.kind = LS_OP_ACTIVATION_BACKWARD, backward.activation = variant ? LS_GELU : LS_RELU;
        backward.in_place = variant;
        put(list, backward);
        op.in_place = variant;
        op.kind = LS_OP_ADD;
        put(list, op);
        op.kind = LS_OP_BINARY_CROSS_ENTROPY;
        put(list, op);
        op.kind = LS_OP_MEAN_SQUARED_ERROR;
        put(list, op);
    }
}

static void put_casts(List *list, LsOpCase op)
{
    op.kind = LS_OP_CAST;
    for (size_t from = 0; from < FLOAT_TYPES; from++)
        for (size_t to = 0; to < FLOAT_TYPES; to++) {
            op.type = float_types[from], op.output = float_types[to];
            put(list, op);
        }
}

static void put_vector_ops(List *list, LsOpCase op)
{
    op.type = op.output = LS_F32;
    op.kind = LS_OP_SUM;
    put(list, op);
    op.accumulate = true;
    put(list, op);
    op.accumulate = false;
    op.kind = LS_OP_BLOCK_SQUARES;
    for (op.pieces = 1; op.pieces <= 125; op.pieces *= 5) {
        put(list, op);
        if (op.large)
            break;
    }
    op.pieces = 0;
    op.kind = LS_OP_TREE_ADD;
    for (op.depth = 1; op.depth <= 8; op.depth += op.depth == 1 ? 2 : 5) {
        op.in_place = false;
        put(list, op);
        op.in_place = true;
        put(list, op);
    }
    op.rounded = true;
    for (int types = 0; types < 4; types++)
        for (op.depth = 1; op.depth <= 8; op.depth += op.depth == 1 ? 2 : 5) {
            op.type = types & 1 ? LS_BF16 : LS_F32;
            op.output = types & 2 ? LS_BF16 : LS_F32;
            op.in_place = op.type == op.output && op.depth == 3;
            put(list, op);
        }
}

// SGD plain, with momentum, and Nesterov's; AdamW.
static void put_optimizers(List *list, LsOpCase op)
{
    for (int variant = 0; variant < 4; variant++) {
        op.kind = variant < 3 ? LS_OP_SGD : LS_OP_ADAMW;
        op.momentum = variant == 1 || variant == 2;
        op.nesterov = variant == 2;
        op.type = LS_F32;
        for (size_t weights = 0; weights < FLOAT_TYPES; weights++) {
            op.output = float_types[weights];
            put(list, op);
        }
    }
}

static void put_decisions(List *list, LsOpCase op)
{
    op.kind = LS_OP_DECIDE_STEP;
    op.type = op.output = LS_F32;
    for (int decision = 0; decision < LS_DECISIONS; decision++) {
        op.decision = (LsOpDecision)decision;
        put(list, op);
    }
}

// Each of its variants appears once: with and without a second input, in place or not, accumulated or not.
static void put_layer_norms(List *list, LsOpCase op)
{
    for (int variant = 0; variant < 3; variant++) {
        op.branch = variant > 0;
        op.in_place = variant > 1;
        op.kind = LS_OP_LAYER_NORM;
        op.accumulate = false;
        put(list, op);
        op.kind = LS_OP_LAYER_NORM_BACKWARD;
        op.accumulate = variant == 1;
        put(list, op);
    }
}

static void put_embeddings(List *list, LsOpCase op)
{
    op.kind = LS_OP_EMBEDDING;
    put(list, op);
    op.kind = LS_OP_EMBEDDING_GRADIENT;
    put(list, op);
    op.accumulate = true;
    put(list, op);
}

static void put_attention(List *list, LsOpCase op)
{
    op.kind = LS_OP_ATTENTION;
    put(list, op);
    op.kind = LS_OP_ATTENTION_BACKWARD;
    put(list, op);
}

static void put_language_ops(List *list, LsDtype type)
{
    const LsOpCase op = {.type = type, .output = type};
    static const size_t matrices[][2] = {{1, 1}, {3, 10}, {70, 17}, {130, 131}, {65, 384}, {2, 1000}};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        LsOpCase matrix = op;
        matrix.rows = matrices[i][0], matrix.columns = matrices[i][1];
        put_layer_norms(list, matrix);
    }
    // Windows, tokens, columns, vocabulary: tokens that never come and tokens that come often.
    static const size_t tables[][4] = {{1, 1, 1, 1}, {2, 5, 33, 300}, {3, 64, 17, 7}, {2, 130, 64, 1}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        LsOpCase table = op;
        table.rows = tables[i][0] * tables[i][1], table.window = tables[i][1];
        table.columns = tables[i][2], table.depth = tables[i][3];
        put_embeddings(list, table);
        table.kind = LS_OP_DROPOUT, table.rate = 0.2;
        put(list, table);
    }
    // Windows, tokens, heads, size: on both sides of the blocks of queries (64) and keys (256), and of the
    // parts that long heads are cut into (64, 128).
    static const size_t heads[][4] = {{1, 1, 1, 8}, {2, 5, 3, 16}, {1, 5, 1, 64}, {1, 64, 1, 33},
        {2, 130, 3, 64}, {3, 65, 1, 8}, {1, 300, 1, 33}, {3, 1, 2, 20}, {3, 33, 2, 20}, {1, 66, 2, 80},
        {1, 20, 17, 96}, {1, 97, 1, 128}, {1, 35, 1, 256}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        LsOpCase attention = op;
        attention.rows = heads[i][0] * heads[i][1], attention.window = heads[i][1];
        attention.heads = heads[i][2], attention.columns = heads[i][3];
        put_attention(list, attention);
    }
}

static void put_convolutions(List *list, LsOpCase op)
{
    op.kind = LS_OP_CONVOLUTION;
    put(list, op);
    op.kind = LS_OP_CONVOLUTION_BACKWARD_DATA;
    put(list, op);
    op.kind = LS_OP_CONVOLUTION_BACKWARD_WEIGHTS;
    put(list, op);
    op.accumulate = true;
    put(list, op);
}

static void put_pools(List *list, LsOpCase op)
{
    op.depth = 0;
    for (int kind = LS_OP_MAX_POOL; kind <= LS_OP_AVERAGE_POOL_BACKWARD; kind++) {
        op.kind = (LsOpKind)kind;
        put(list, op);
    }
}

// Each of its variants appears once: with and without activation, second input, statistics.
static void put_batch_norms(List *list, LsOpCase op)
{
    for (int variant = 0; variant < 4; variant++) {
        op.activation = variant % 2 ? LS_RELU : LS_IDENTITY;
        op.branch = variant > 1;
        op.given = variant == 1 || variant == 2;
        op.kind = LS_OP_BATCH_NORM;
        op.accumulate = op.keep = op.in_place = false;
        put(list, op);
        op.kind = LS_OP_BATCH_NORM_BACKWARD;
        op.accumulate = variant == 2;
        op.keep = variant > 0;
        op.in_place = variant == 3;
        put(list, op);
    }
}

static void put_image_ops(List *list, LsDtype type)
{
    LsOpCase op = {.type = type, .output = type};
    // Images, sides, channels in and out, window: a stem's, blocks', and sides that strides do not divide.
    static const size_t windows[][8] = {{1, 1, 1, 1, 1, 1, 1, 0}, {2, 9, 12, 3, 16, 7, 2, 3},
        {3, 6, 5, 1, 20, 3, 1, 1}, {2, 8, 8, 16, 32, 3, 2, 1}, {2, 7, 6, 33, 17, 1, 2, 0},
        {1, 5, 8, 64, 32, 1, 1, 0}, {2, 10, 4, 32, 48, 3, 1, 1}, {2, 3, 3, 5, 6, 5, 1, 2},
        {1, 11, 10, 4, 8, 2, 3, 0}};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        op.rows = windows[i][0], op.height = windows[i][1], op.width = windows[i][2];
        op.columns = windows[i][3], op.depth = windows[i][4];
        op.kernel = windows[i][5], op.stride = windows[i][6], op.padding = windows[i][7];
        put_convolutions(list, op);
        put_pools(list, op);
    }
    static const size_t matrices[][2] = {{1, 3}, {7, 10}, {70, 16}, {130, 33}, {300, 64}};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        put_batch_norms(list,
            (LsOpCase){.type = type, .output = type, .rows = matrices[i][0], .columns = matrices[i][1]});
}

LsStatus ls_op_cases(LsOpCase **cases, size_t *count)
{
    List list = {.status = LS_OK};
    for (size_t i = 0; i < PRODUCT_TYPES; i++)
        put_products(&list, product_types[i][0], product_types[i][1]);
    static const size_t matrices[][2] = {
        {1, 1}, {3, 10}, {70, 17}, {65, 64}, {130, 131}, {9, 288}, {2, 1000}};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        for (size_t t = 0; t < FLOAT_TYPES; t++)
            put_matrix_ops(&list, (LsOpCase){.type = float_types[t],
                                      .output = float_types[t],
                                      .rows = matrices[i][0],
                                      .columns = matrices[i][1]});
    for (size_t t = 0; t < FLOAT_TYPES; t++) {
        put_language_ops(&list, float_types[t]);
        put_image_ops(&list, float_types[t]);
    }
    static const size_t lengths[] = {1, 15, 16, 33, 1000, LS_BLOCK, 2 * LS_BLOCK + 77};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        put_casts(&list, (LsOpCase){.rows = 1, .columns = lengths[i]});
        put_vector_ops(&list, (LsOpCase){.rows = 1, .columns = lengths[i]});
    }
    put_optimizers(&list, (LsOpCase){.rows = 1, .columns = 2 * LS_BLOCK, .pieces = 1});
    // More pieces than blocks: some are empty.
    put_optimizers(&list, (LsOpCase){.rows = 1, .columns = 3 * LS_BLOCK, .pieces = 100});
    put_decisions(&list, (LsOpCase){.rows = 1, .columns = 1, .depth = 1});
    put_decisions(&list, (LsOpCase){.rows = 3, .columns = 8, .depth = 1000});
    put_layer(&list, LS_F32, 256, 1024, 1024);
    for (size_t t = 0; t < 2; t++) {
        put_layer(&list, float_types[t], 1024, 128, 1024);
        put_layer(&list, float_types[t], 1024, 1024, 10);
    }
    return give(&list, cases, count);
}

// ---- Random cases ---------------------------------------------------------------------------------------

typedef struct Dice {
    LsRngKey key;
    uint64_t rolls;
} Dice;

static size_t roll(Dice *dice, size_t sides)
{
    return ls_rng_below(dice->key, 0, dice->rolls++, sides);
}

// From 1 to 2^bits, small ones as likely as large ones.
static size_t some_size(Dice *dice, size_t bits)
{
    size_t least = (size_t)1 << roll(dice, bits);
    return least + roll(dice, least + 1);
}

static void put_random_product(List *list, Dice *dice, uint64_t seed)
{
    size_t types = roll(dice, PRODUCT_TYPES);
    LsOpCase op = {.kind = LS_OP_MATMUL,
        .seed = seed,
        .type = product_types[types][0],
        .output = product_types[types][1],
        .rows = some_size(dice, 7),
        .columns = some_size(dice, 7),
        .depth = some_size(dice, 8),
        .transpose_a = roll(dice, 2),
        .transpose_b = roll(dice, 2)};
    switch (roll(dice, 3)) {
    case 0:
        op.bias = roll(dice, 2);
        op.activation = (LsActivation)roll(dice, 3);
        op.keep = roll(dice, 2);
        break;
    case 1:
        op.backward = (LsActivation)(LS_RELU + roll(dice, 2));
        break;
    default:
        op.accumulate = roll(dice, 2);
        op.bias_gradient = op.transpose_a && roll(dice, 2);
    }
    put(list, op);
}

static void put_random_language_ops(List *list, Dice *dice, LsOpCase op)
{
    op.rows = some_size(dice, 6), op.columns = some_size(dice, 9);
    put_layer_norms(list, op);
    op.window = some_size(dice, 6), op.rows = op.window * (1 + roll(dice, 3));
    op.depth = some_size(dice, 8);
    put_embeddings(list, op);
    op.columns = some_size(dice, 6), op.heads = 1 + roll(dice, 3);
    put_attention(list, op);
}

static void put_random_image_ops(List *list, Dice *dice, LsOpCase op)
{
    op.rows = some_size(dice, 8), op.columns = some_size(dice, 6);
    put_batch_norms(list, op);
    op.rows = 1 + roll(dice, 4), op.columns = some_size(dice, 5), op.depth = some_size(dice, 5);
    op.kernel = 1 + roll(dice, 5), op.stride = 1 + roll(dice, 3), op.padding = roll(dice, op.kernel);
    op.height = op.kernel + roll(dice, 8), op.width = op.kernel + roll(dice, 8);
    put_convolutions(list, op);
    put_pools(list, op);
}

LsStatus ls_op_random_cases(uint64_t seed, size_t rounds, LsOpCase **cases, size_t *count)
{
    List list = {.status = LS_OK};
    Dice dice = {.key = ls_rng_key(seed, 1)};
    for (size_t round = 0; round < rounds; round++) {
        uint64_t inputs = seed + round + 1;
        LsDtype type = float_types[roll(&dice, FLOAT_TYPES)];
        for (int i = 0; i < 8; i++)
            put_random_product(&list, &dice, inputs);
        LsOpCase matrix = {.type = type, .output = type, .seed = inputs};
        matrix.rows = some_size(&dice, 6), matrix.columns = some_size(&dice, 8);
        put_matrix_ops(&list, matrix);
        put_random_language_ops(&list, &dice, (LsOpCase){.type = type, .output = type, .seed = inputs});
        put_random_image_ops(&list, &dice, (LsOpCase){.type = type, .output = type, .seed = inputs});
        LsOpCase vector = {.rows = 1, .columns = some_size(&dice, 14), .seed = inputs};
        put_casts(&list, vector);
        put_vector_ops(&list, vector);
        LsOpCase blocks = {.rows = 1, .columns = (1 + roll(&dice, 3)) * LS_BLOCK, .seed = inputs};
        blocks.pieces = 1 + roll(&dice, 4);
        put_optimizers(&list, blocks);
        LsOpCase step = {.rows = 1 + roll(&dice, 8), .seed = inputs};
        step.columns = step.rows + roll(&dice, 16), step.depth = some_size(&dice, 12);
        put_decisions(&list, step);
    }
    return give(&list, cases, count);
}

uint64_t ls_op_fresh_seed(void)
{
    uint64_t seed = 0;
    const char *text = getenv("OP_CASES_SEED");
    if (text)
        seed = strtoull(text, NULL, 10);
    else if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = 1;
    seed &= (UINT64_C(1) << 48) - 1; // short enough to type
    printf("random cases: OP_CASES_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

// ---- Large cases ----------------------------------------------------------------------------------------

// The ops of a model of `width` channels on windows of `window` tokens, in heads of 64, and for comparison
// the products of attention's blocks: scores of 64 queries and 256 keys, and sums over these keys.
static void put_model(List *list, LsDtype type, size_t rows, size_t width, size_t window)
{
    enum { SIZE = 64, VOCABULARY = 8192, KEYS = 256 };
    LsOpCase op = {.type = type, .output = type, .rows = rows, .columns = width, .large = true};
    put_layer_norms(list, op);
    op.window = window, op.depth = VOCABULARY;
    put_embeddings(list, op);
    op.heads = width / SIZE, op.columns = SIZE;
    put_attention(list, op);
    LsOpCase product = {.kind = LS_OP_MATMUL, .type = type, .output = LS_F32, .rows = SIZE, .large = true};
    product.columns = KEYS, product.depth = SIZE, product.transpose_b = true;
    put(list, product);
    product.columns = SIZE, product.depth = KEYS, product.transpose_b = false;
    put(list, product);
}

LsStatus ls_op_speed_cases(const LsOpSizes *sizes, LsOpCase **cases, size_t *count)
{
    List list = {.status = LS_OK};
    for (size_t t = 0; t < FLOAT_TYPES && sizes->rows; t++) {
        put_layer(&list, float_types[t], sizes->rows, sizes->width, sizes->width);
        put_layer(&list, float_types[t], sizes->rows, sizes->width, 10);
    }
    for (size_t t = 0; t < FLOAT_TYPES && sizes->window; t++)
        put_model(&list, float_types[t], sizes->rows, sizes->width, sizes->window);
    if (!sizes->elements)
        return give(&list, cases, count);
    LsOpCase matrix = {.columns = sizes->width, .large = true};
    matrix.rows = sizes->elements / sizes->width ? sizes->elements / sizes->width : 1;
    for (size_t t = 0; t < FLOAT_TYPES; t++) {
        matrix.type = matrix.output = float_types[t];
        put_matrix_ops(&list, matrix);
    }
    size_t blocks = sizes->elements / LS_BLOCK ? sizes->elements / LS_BLOCK : 1;
    LsOpCase vector = {.rows = 1, .columns = blocks * LS_BLOCK, .pieces = 1, .large = true};
    put_casts(&list, vector);
    put_vector_ops(&list, vector);
    put_optimizers(&list, vector);
    LsOpCase step = {.kind = LS_OP_DECIDE_STEP, .rows = 8, .columns = 8, .depth = blocks, .large = true};
    put(&list, step);
    return give(&list, cases, count);
}
