// Ops of language models on devices that work in host memory: what they refuse, what may influence what, and
// that NaN reaches what decides about the step.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "test_devices.h"

static LsDevice *devices[LS_TEST_DEVICES];
static int device_count;

// The cuda device has no kernels for these ops yet.
static int open_devices(void **unused)
{
    (void)unused;
    int open = ls_test_devices_open(LS_PRECISION_FP32, devices);
    for (int d = 0; d < open; d++)
        if (devices[d]->discrete)
            ls_device_close(devices[d]);
        else
            devices[device_count++] = devices[d];
    return device_count > 0 ? 0 : -1;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        ls_device_close(devices[d]);
    return 0;
}

static void assert_told(LsStatus status, LsStatus expected, const char *part)
{
    assert_int_equal(status, expected);
    assert_non_null(strstr(ls_status_message(), part));
}

// ---- Refusals -------------------------------------------------------------------------------------------

static void tokens_beyond_the_vocabulary_are_bad_data(void **unused)
{
    (void)unused;
    static const int32_t too_large[4] = {0, 1, 3, 0}, negative[4] = {0, 1, 2, -1};
    float table[3 * 2] = {0}, positions[2 * 2] = {0}, y[4 * 2], scratch[32];
    assert_true(ls_embedding_scratch(4, 3) <= sizeof scratch);
    LsEmbedding embedding = {.rows = 4,
        .window = 2,
        .columns = 2,
        .vocabulary = 3,
        .table = table,
        .positions = positions,
        .y = y,
        .type = LS_F32};
    LsEmbeddingGradient gradient = {.rows = 4,
        .window = 2,
        .columns = 2,
        .vocabulary = 3,
        .dy = y,
        .type = LS_F32,
        .dtable = table,
        .dpositions = positions,
        .scratch = scratch};
    for (int d = 0; d < device_count; d++) {
        embedding.tokens = gradient.tokens = too_large;
        assert_told(
            devices[d]->ops->embedding(devices[d], &embedding), LS_BAD_DATA, "token 2 of a microbatch is 3");
        assert_told(devices[d]->ops->embedding_gradient(devices[d], &gradient), LS_BAD_DATA, "is 3");
        embedding.tokens = gradient.tokens = negative;
        assert_told(
            devices[d]->ops->embedding(devices[d], &embedding), LS_BAD_DATA, "token 3 of a microbatch is -1");
        assert_told(devices[d]->ops->embedding_gradient(devices[d], &gradient), LS_BAD_DATA, "is -1");
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

// Rows of a sample are one long row cut up: what is dropped does not depend on how a window is laid out.
static void dropout_of_a_window_is_that_of_one_row(void **unused)
{
    (void)unused;
    enum { SAMPLES = 2, ROWS = 5, COLUMNS = 7, N = SAMPLES * ROWS * COLUMNS };
    const uint64_t positions[SAMPLES] = {3, 1ull << 33};
    float x[N], rows[N], flat[N];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i + 1);
    LsDropout args = {
        .x = x, .type = LS_F32, .rate = 0.4, .seed = 5, .purpose = LS_RNG_DROPOUT, .positions = positions};
    for (int d = 0; d < device_count; d++) {
        LsDropout cut = args, whole = args;
        cut.rows = SAMPLES * ROWS, cut.columns = COLUMNS, cut.rows_per_position = ROWS, cut.y = rows;
        whole.rows = SAMPLES, whole.columns = ROWS * COLUMNS, whole.y = flat;
        assert_int_equal(devices[d]->ops->dropout(devices[d], &cut), LS_OK);
        assert_int_equal(devices[d]->ops->dropout(devices[d], &whole), LS_OK);
        assert_memory_equal(rows, flat, sizeof rows);
        LsRngKey key = ls_rng_key(5, LS_RNG_DROPOUT);
        for (uint64_t i = 0; i < N; i++) {
            bool keep = ls_rng_u32(key, positions[i / (ROWS * COLUMNS)], i % (ROWS * COLUMNS)) >=
                        (uint32_t)(0.4 * 4294967296.0);
            assert_true((rows[i] != 0) == keep);
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
    LsAttention forward = {.windows = count,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = heads->qkv[row],
        .out = heads->out[row],
        .log_sum = heads->log_sum + sum,
        .type = LS_F32};
    LsAttentionBackward backward = {.windows = count,
        .window = WINDOW,
        .heads = HEADS,
        .size = SIZE,
        .qkv = heads->qkv[row],
        .out = heads->out[row],
        .dout = heads->dout[row],
        .log_sum = heads->log_sum + sum,
        .dqkv = heads->dqkv[row],
        .type = LS_F32,
        .scratch = heads->scratch + sum};
    assert_int_equal(device->ops->attention(device, &forward), LS_OK);
    assert_int_equal(device->ops->attention_backward(device, &backward), LS_OK);
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

static bool has_nan(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return true;
    return false;
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

static void nan_goes_through_layer_norm(void **unused)
{
    (void)unused;
    enum { COLUMNS = 19 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float x[COLUMNS], dy[COLUMNS], weight[COLUMNS], bias[COLUMNS], y[COLUMNS], dx[COLUMNS], dweight[COLUMNS],
        dbias[COLUMNS], scratch[4 * COLUMNS], mean, rstd;
    assert_true(ls_layer_norm_scratch(1, COLUMNS) <= sizeof scratch);
    LsLayerNorm forward = {.rows = 1,
        .columns = COLUMNS,
        .x = x,
        .weight = weight,
        .bias = bias,
        .y = y,
        .mean = &mean,
        .rstd = &rstd};
    LsLayerNormBackward backward = {.rows = 1,
        .columns = COLUMNS,
        .x = x,
        .dy = dy,
        .weight = weight,
        .mean = &mean,
        .rstd = &rstd,
        .dx = dx,
        .dweight = dweight,
        .dbias = dbias,
        .scratch = scratch};
    for (int d = 0; d < device_count; d++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            fill(x, COLUMNS, 3), fill(dy, COLUMNS, 4), fill(weight, COLUMNS, 5), fill(bias, COLUMNS, 6);
            x[COLUMNS - 1] = bad[i];
            assert_int_equal(devices[d]->ops->layer_norm(devices[d], &forward), LS_OK);
            assert_true(has_nan(y, COLUMNS));
            x[COLUMNS - 1] = 1;
            assert_int_equal(devices[d]->ops->layer_norm(devices[d], &forward), LS_OK);
            assert_false(has_nan(y, COLUMNS));
            dy[COLUMNS - 1] = bad[i];
            assert_int_equal(devices[d]->ops->layer_norm_backward(devices[d], &backward), LS_OK);
            assert_true(
                has_nan(dx, COLUMNS) && !isfinite(dweight[COLUMNS - 1]) && !isfinite(dbias[COLUMNS - 1]));
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
