// Ops of language models: what they refuse, what may influence what, and that NaN reaches what decides about
// the step.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "device_group.h"

// A copy of a struct of arrays in the device's memory, whose members are passed to ops.
static void *send(LsDevice *device, const void *host, size_t bytes)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, bytes, &memory), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, host, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    return memory;
}

// Copies it back; the device's copy is gone.
static void receive(LsDevice *device, void *host, void *memory, size_t bytes)
{
    assert_int_equal(device->ops->copy_out(device, host, memory, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    device->ops->release(device, memory);
}

static bool has_nan(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return true;
    return false;
}

static void assert_told(LsStatus status, LsStatus expected, const char *part)
{
    assert_int_equal(status, expected);
    assert_non_null(strstr(ls_status_message(), part));
}

// ---- Refusals -------------------------------------------------------------------------------------------

enum { TOKENS = 4, VOCABULARY = 3, CHANNELS = 2 };

typedef struct Embedded {
    int32_t tokens[TOKENS];
    float table[VOCABULARY * CHANNELS], positions[2 * CHANNELS], y[TOKENS * CHANNELS];
    float dtable[VOCABULARY * CHANNELS], dpositions[2 * CHANNELS], scratch[32];
} Embedded;

// Both passes, with y for its own gradient. What the first says, if it refuses, else what the second says.
static LsStatus embed(LsDevice *device, Embedded *embedded)
{
    assert_true(ls_embedding_scratch(TOKENS, VOCABULARY, CHANNELS) <= sizeof embedded->scratch);
    Embedded *on = send(device, embedded, sizeof *embedded);
    LsEmbedding embedding = {.rows = TOKENS,
        .window = 2,
        .columns = CHANNELS,
        .tokens = on->tokens,
        .vocabulary = VOCABULARY,
        .table = on->table,
        .positions = on->positions,
        .y = on->y,
        .type = LS_F32};
    LsEmbeddingGradient gradient = {.rows = TOKENS,
        .window = 2,
        .columns = CHANNELS,
        .tokens = on->tokens,
        .vocabulary = VOCABULARY,
        .dy = on->y,
        .type = LS_F32,
        .dtable = on->dtable,
        .dpositions = on->dpositions,
        .scratch = on->scratch};
    LsStatus first = device->ops->embedding(device, &embedding);
    LsStatus second = device->ops->embedding_gradient(device, &gradient);
    receive(device, embedded, on, sizeof *embedded);
    assert_int_equal(first, second);
    return second;
}

static void tokens_beyond_the_vocabulary_are_bad_data(void **unused)
{
    (void)unused;
    static const int32_t bad[] = {3, -1, INT32_MAX, INT32_MIN};
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            Embedded embedded = {.tokens = {0, 1, bad[i], 0}, .table = {1, 2, 3, 4, 5, 6}};
            char number[20];
            snprintf(number, sizeof number, "is %d,", bad[i]);
            LsStatus status = embed(devices[d], &embedded);
            if (!devices[d]->discrete) {
                assert_told(status, LS_BAD_DATA, "token 2 of a microbatch");
                assert_told(status, LS_BAD_DATA, number);
                continue;
            }
            // A GPU's memory is not the host's to read. NaN reaches the loss and the gradient's norm, and
            // only what it must.
            assert_int_equal(status, LS_OK);
            for (size_t e = 0; e < TOKENS * CHANNELS; e++)
                assert_true((bool)isnan(embedded.y[e]) == (e / CHANNELS == 2));
            assert_true(has_nan(embedded.dpositions, 2 * CHANNELS));
            assert_false(has_nan(embedded.dtable, VOCABULARY * CHANNELS));
            assert_true(embedded.dtable[0] == 2); // rows 0 and 3
        }
}

static void rows_that_are_no_windows_are_refused(void **unused)
{
    (void)unused;
    float x[8] = {0};
    const int32_t tokens[4] = {0};
    const uint64_t positions[2] = {0};
    LsEmbedding embedding = {
        .rows = 4, .window = 3, .columns = 1, .tokens = tokens, .vocabulary = 1, .type = LS_F32};
    LsDropout dropout = {.rows = 4,
        .columns = 2,
        .x = x,
        .y = x,
        .type = LS_F32,
        .rate = 0.5,
        .positions = positions,
        .rows_per_position = 3};
    LsAttention attention = {.windows = 1, .window = 2, .heads = 0, .size = 1, .type = LS_F32};
    for (int d = 0; d < device_count; d++) {
        const LsDeviceOps *ops = devices[d]->ops;
        assert_told(ops->embedding(devices[d], &embedding), LS_INTERNAL, "4 rows are not whole windows of 3");
        assert_told(ops->dropout(devices[d], &dropout), LS_INTERNAL, "4 rows are not whole samples of 3");
        assert_told(ops->attention(devices[d], &attention), LS_INTERNAL, "0 heads");
    }
}

// ---- Dropout --------------------------------------------------------------------------------------------

enum { SAMPLES = 2, CUT = 5, CUT_COLUMNS = 7, SAMPLE = CUT * CUT_COLUMNS };

typedef struct Dropped {
    uint64_t positions[SAMPLES];
    float x[SAMPLES * SAMPLE], rows[SAMPLES * SAMPLE], flat[SAMPLES * SAMPLE];
} Dropped;

static void drop(LsDevice *device, Dropped *dropped)
{
    Dropped *on = send(device, dropped, sizeof *dropped);
    LsDropout cut = {.rows = SAMPLES * CUT,
        .columns = CUT_COLUMNS,
        .x = on->x,
        .y = on->rows,
        .type = LS_F32,
        .rate = 0.4,
        .seed = 5,
        .purpose = LS_RNG_DROPOUT,
        .positions = on->positions,
        .rows_per_position = CUT};
    LsDropout whole = cut;
    whole.rows = SAMPLES, whole.columns = SAMPLE, whole.rows_per_position = 1, whole.y = on->flat;
    assert_int_equal(device->ops->dropout(device, &cut), LS_OK);
    assert_int_equal(device->ops->dropout(device, &whole), LS_OK);
    receive(device, dropped, on, sizeof *dropped);
}

// Rows of a sample are one long row cut up: what is dropped does not depend on how a window is laid out.
static void dropout_of_a_window_is_that_of_one_row(void **unused)
{
    (void)unused;
    LsRngKey key = ls_rng_key(5, LS_RNG_DROPOUT);
    for (int d = 0; d < device_count; d++) {
        Dropped dropped = {.positions = {3, 1ull << 33}};
        for (int i = 0; i < SAMPLES * SAMPLE; i++)
            dropped.x[i] = (float)(i + 1);
        drop(devices[d], &dropped);
        assert_memory_equal(dropped.rows, dropped.flat, sizeof dropped.rows);
        for (uint64_t i = 0; i < SAMPLES * SAMPLE; i++) {
            bool keep =
                ls_rng_u32(key, dropped.positions[i / SAMPLE], i % SAMPLE) >= (uint32_t)(0.4 * 4294967296.0);
            assert_true((dropped.rows[i] != 0) == keep);
        }
    }
}

// ---- Attention ------------------------------------------------------------------------------------------

// Longer than a block of keys of the cpu device, and no multiple of anything.
enum { WINDOWS = 2, WINDOW = 301, HEADS = 2, SIZE = 5, WIDTH = HEADS * SIZE, ROWS = WINDOWS * WINDOW };

typedef struct Heads {
    float qkv[ROWS][3 * WIDTH], out[ROWS][WIDTH], dout[ROWS][WIDTH], dqkv[ROWS][3 * WIDTH];
    float log_sum[WINDOWS * HEADS * WINDOW], scratch[WINDOWS * HEADS * WINDOW];
} Heads;

static void fill(float *x, size_t n, uint32_t purpose)
{
    LsRngKey key = ls_rng_key(21, purpose);
    for (size_t i = 0; i < n; i++)
        x[i] = ls_rng_normal(key, 0, i);
}

static void fill_heads(Heads *heads)
{
    fill(heads->qkv[0], ROWS * 3 * WIDTH, 1);
    fill(heads->dout[0], ROWS * WIDTH, 2);
}

// Both passes over windows first … first + count.
static void attend(LsDevice *device, Heads *heads, size_t first, size_t count)
{
    size_t row = first * WINDOW, sum = first * HEADS * WINDOW;
    assert_true(ls_attention_scratch(WINDOWS, WINDOW, HEADS, SIZE) <= sizeof heads->scratch);
    Heads *on = send(device, heads, sizeof *heads);
    LsAttention forward = {.windows = count,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = on->qkv[row],
        .out = on->out[row],
        .log_sum = on->log_sum + sum,
        .type = LS_F32};
    LsAttentionBackward backward = {.windows = count,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = on->qkv[row],
        .out = on->out[row],
        .dout = on->dout[row],
        .log_sum = on->log_sum + sum,
        .dqkv = on->dqkv[row],
        .type = LS_F32,
        .scratch = on->scratch + sum};
    assert_int_equal(device->ops->attention(device, &forward), LS_OK);
    assert_int_equal(device->ops->attention_backward(device, &backward), LS_OK);
    receive(device, heads, on, sizeof *heads);
}

static Heads one, other;

// What a window gives does not depend on the windows beside it: lanes may be cut into any microbatches.
static void windows_are_independent(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        fill_heads(&one);
        fill_heads(&other);
        attend(devices[d], &one, 0, WINDOWS);
        for (size_t w = 0; w < WINDOWS; w++)
            attend(devices[d], &other, w, 1);
        assert_memory_equal(one.out, other.out, sizeof one.out);
        assert_memory_equal(one.log_sum, other.log_sum, sizeof one.log_sum);
        assert_memory_equal(one.dqkv, other.dqkv, sizeof one.dqkv);
    }
}

static void a_token_sees_nothing_behind_it(void **unused)
{
    (void)unused;
    static const size_t firsts[] = {1, 16, 63, 64, 255, 256, 300};
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
            size_t first = firsts[i]; // token that is another one, with large scores
            fill_heads(&one);
            fill_heads(&other);
            for (size_t c = 0; c < 3 * WIDTH; c++)
                other.qkv[first][c] = 50;
            attend(devices[d], &one, 0, 1);
            attend(devices[d], &other, 0, 1);
            assert_memory_equal(one.out, other.out, first * sizeof *one.out);
            assert_memory_not_equal(one.out[first], other.out[first], sizeof *one.out);
            assert_memory_not_equal(one.out[WINDOW - 1], other.out[WINDOW - 1], sizeof *one.out);
        }
}

static void nan_goes_through_attention(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        for (size_t part = 0; part < 3; part++)
            for (size_t token = 0; token < WINDOW; token += 60) {
                fill_heads(&one);
                one.qkv[token][part * WIDTH] = NAN;
                attend(devices[d], &one, 0, 1);
                assert_true(has_nan(one.out[token], WIDTH));
                assert_true(has_nan(one.dqkv[0], WINDOW * 3 * WIDTH));
                fill_heads(&one);
                one.dout[token][WIDTH - 1] = NAN;
                attend(devices[d], &one, 0, 1);
                assert_true(has_nan(one.dqkv[0], WINDOW * 3 * WIDTH));
            }
}

// Scores whose exponentials overflow by themselves.
static void large_scores_are_no_overflow(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++) {
        fill_heads(&one);
        for (size_t row = 0; row < WINDOW; row++)
            for (size_t c = 0; c < 2 * WIDTH; c++)
                one.qkv[row][c] *= 100;
        attend(devices[d], &one, 0, 1);
        for (size_t row = 0; row < WINDOW; row++)
            for (size_t c = 0; c < WIDTH; c++)
                assert_true(isfinite(one.out[row][c]) && fabsf(one.out[row][c]) < 10); // a mean of values
        for (size_t row = 0; row < WINDOW; row++)
            for (size_t c = 0; c < 3 * WIDTH; c++)
                assert_true(isfinite(one.dqkv[row][c]));
    }
}

// ---- Layer normalisation --------------------------------------------------------------------------------

enum { COLUMNS = 19 };

typedef struct Normed {
    float x[COLUMNS], dy[COLUMNS], weight[COLUMNS], bias[COLUMNS], y[COLUMNS], dx[COLUMNS], dweight[COLUMNS],
        dbias[COLUMNS], scratch[4 * COLUMNS], mean, rstd;
} Normed;

static void normalize(LsDevice *device, Normed *normed)
{
    assert_true(ls_layer_norm_scratch(1, COLUMNS) <= sizeof normed->scratch);
    Normed *on = send(device, normed, sizeof *normed);
    LsLayerNorm forward = {.rows = 1,
        .columns = COLUMNS,
        .x = on->x,
        .weight = on->weight,
        .bias = on->bias,
        .y = on->y,
        .mean = &on->mean,
        .rstd = &on->rstd};
    LsLayerNormBackward backward = {.rows = 1,
        .columns = COLUMNS,
        .x = on->x,
        .dy = on->dy,
        .weight = on->weight,
        .mean = &on->mean,
        .rstd = &on->rstd,
        .dx = on->dx,
        .dweight = on->dweight,
        .dbias = on->dbias,
        .scratch = on->scratch};
    assert_int_equal(device->ops->layer_norm(device, &forward), LS_OK);
    assert_int_equal(device->ops->layer_norm_backward(device, &backward), LS_OK);
    receive(device, normed, on, sizeof *normed);
}

static void nan_goes_through_layer_norm(void **unused)
{
    (void)unused;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            Normed normed = {.scratch = {0}};
            fill(normed.x, COLUMNS, 3), fill(normed.dy, COLUMNS, 4);
            fill(normed.weight, COLUMNS, 5), fill(normed.bias, COLUMNS, 6);
            normed.x[COLUMNS - 1] = bad[i];
            normalize(devices[d], &normed);
            assert_true(has_nan(normed.y, COLUMNS));
            normed.x[COLUMNS - 1] = 1;
            normed.dy[COLUMNS - 1] = bad[i];
            normalize(devices[d], &normed);
            assert_false(has_nan(normed.y, COLUMNS));
            assert_true(has_nan(normed.dx, COLUMNS) && !isfinite(normed.dweight[COLUMNS - 1]) &&
                        !isfinite(normed.dbias[COLUMNS - 1]));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_beyond_the_vocabulary_are_bad_data),
        cmocka_unit_test(rows_that_are_no_windows_are_refused),
        cmocka_unit_test(dropout_of_a_window_is_that_of_one_row),
        cmocka_unit_test(windows_are_independent),
        cmocka_unit_test(a_token_sees_nothing_behind_it),
        cmocka_unit_test(nan_goes_through_attention),
        cmocka_unit_test(large_scores_are_no_overflow),
        cmocka_unit_test(nan_goes_through_layer_norm),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
