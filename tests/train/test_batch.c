// Raw rows to a microbatch: what arrives on the device, in which set, and labels that are no classes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "strict_device.h"
#include "train/batch.h"

enum { ROWS = 3, FEATURES = 2, SETS = 2 };

static float shift[FEATURES] = {1, 2}, scale[FEATURES] = {2, 0.5f};

static LsDatasetInfo description(bool classes, size_t outputs)
{
    return (LsDatasetInfo){.features = FEATURES,
        .feature_type = LS_COLUMN_F32,
        .classes = classes,
        .outputs = outputs,
        .shift = shift,
        .scale = scale,
        .period = FEATURES};
}

static void require_ok(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
}

static void download(LsDevice *device, void *host, const void *memory, size_t bytes)
{
    require_ok(device->ops->copy_out(device, host, memory, bytes));
    require_ok(device->ops->synchronize(device));
}

// Sets are filled on the copy stream, one while the other is in use.
static void sets_are_apart(void **state)
{
    (void)state;
    LsDevice *device = NULL;
    LsDeviceBatch *batch = NULL;
    LsMarker *copied = NULL;
    LsDatasetInfo info = description(true, 3);
    LsDataShape shape = {.features = FEATURES, .outputs = 3, .classes = true};
    float x[SETS][ROWS * FEATURES] = {{1, 2, 3, 4, 5, 6}, {0, 0, -1, -2, 7, 8}};
    int32_t labels[SETS][ROWS] = {{0, 1, 2}, {2, 2, 0}};
    uint64_t positions[SETS][ROWS] = {{5, 6, 7}, {(uint64_t)1 << 40, 1, 0}};
    require_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    require_ok(ls_device_batch_create(device, &info, &shape, ROWS, SETS, &batch));
    require_ok(device->ops->marker_create(device, &copied));
    device->ops->select_stream(device, LS_STREAM_COPY);
    for (size_t s = 0; s < SETS; s++)
        require_ok(ls_device_batch_copy(batch, s, x[s], labels[s], positions[s], ROWS));
    require_ok(device->ops->marker_record(device, copied));
    device->ops->select_stream(device, LS_STREAM_COMPUTE);
    require_ok(device->ops->marker_wait(device, copied));
    for (size_t s = 0; s < SETS; s++) {
        LsBatch out;
        float inputs[ROWS * FEATURES];
        int32_t found[ROWS];
        uint64_t places[ROWS];
        require_ok(ls_device_batch_normalize(batch, s, ROWS, &out));
        assert_null(out.targets);
        download(device, inputs, out.inputs, sizeof inputs);
        download(device, found, out.labels, sizeof found);
        download(device, places, out.positions, sizeof places);
        for (size_t i = 0; i < ROWS * FEATURES; i++) // exact: small whole numbers and powers of two
            assert_true(inputs[i] == (x[s][i] - shift[i % FEATURES]) * scale[i % FEATURES]);
        assert_memory_equal(found, labels[s], sizeof found);
        assert_memory_equal(places, positions[s], sizeof places);
    }
    device->ops->marker_destroy(device, copied);
    ls_device_batch_destroy(batch);
    ls_device_close(device);
}

// The values of the channels are repeated to a row of the image, which is what the device gets.
static void channels_have_their_own(void **state)
{
    (void)state;
    enum { HEIGHT = 2, WIDTH = 5, CHANNELS = 2, VALUES = HEIGHT * WIDTH * CHANNELS };
    LsDevice *device = NULL;
    LsDeviceBatch *batch = NULL;
    LsDatasetInfo info = description(true, 3);
    info.features = VALUES;
    info.feature_dimensions = 3;
    info.feature_shape[0] = HEIGHT, info.feature_shape[1] = WIDTH, info.feature_shape[2] = CHANNELS;
    info.feature_type = LS_COLUMN_U8;
    LsDataShape shape = {.features = VALUES, .outputs = 3, .classes = true};
    uint8_t x[ROWS * VALUES];
    float inputs[ROWS * VALUES];
    int32_t labels[ROWS] = {0, 1, 2};
    LsBatch out;
    for (size_t i = 0; i < sizeof x; i++)
        x[i] = (uint8_t)(i * 5);
    require_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    require_ok(ls_device_batch_create(device, &info, &shape, ROWS, 1, &batch));
    require_ok(ls_device_batch_upload(batch, x, labels, NULL, ROWS, &out));
    download(device, inputs, out.inputs, sizeof inputs);
    for (size_t i = 0; i < ROWS * VALUES; i++) // exact: small whole numbers and powers of two
        assert_true(inputs[i] == ((float)x[i] - shift[i % CHANNELS]) * scale[i % CHANNELS]);
    ls_device_batch_destroy(batch);
    ls_device_close(device);
}

// A GPU could not say which label it was, so the host looks at them, whatever they become.
static void a_label_that_is_no_class(void **state)
{
    (void)state;
    static const int32_t bad[] = {-1, 2, INT32_MAX, INT32_MIN};
    LsDatasetInfo info = description(true, 2);
    const LsDataShape shapes[] = {{.features = FEATURES, .outputs = 2, .classes = true},
        {.features = FEATURES, .outputs = 1, .classes = false}}; // binary cross-entropy
    float x[ROWS * FEATURES] = {0};
    uint64_t positions[ROWS] = {10, 11, 1234567};
    LsDevice *device = NULL;
    require_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    for (size_t s = 0; s < 2; s++) {
        LsDeviceBatch *batch = NULL;
        LsBatch out;
        require_ok(ls_device_batch_create(device, &info, &shapes[s], ROWS, 1, &batch));
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            int32_t labels[ROWS] = {0, 1, bad[i]};
            assert_int_equal(ls_device_batch_upload(batch, x, labels, positions, ROWS, &out), LS_BAD_DATA);
            assert_non_null(strstr(ls_status_message(), "row 2"));
            assert_non_null(strstr(ls_status_message(), "1234567"));
            labels[2] = 1;
            require_ok(ls_device_batch_upload(batch, x, labels, positions, ROWS, &out));
            require_ok(device->ops->synchronize(device));
        }
        ls_device_batch_destroy(batch);
    }
    ls_device_close(device);
}

// Labels of two classes as targets of one output.
static void labels_become_targets(void **state)
{
    (void)state;
    LsDatasetInfo info = description(true, 2);
    LsDataShape shape = {.features = FEATURES, .outputs = 1, .classes = false};
    float x[ROWS * FEATURES] = {0}, found[ROWS];
    const float expected[ROWS] = {1, 0, 1};
    int32_t labels[ROWS] = {1, 0, 1};
    LsDevice *device = NULL;
    LsDeviceBatch *batch = NULL;
    LsBatch out;
    require_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    require_ok(ls_device_batch_create(device, &info, &shape, ROWS, 1, &batch));
    require_ok(ls_device_batch_upload(batch, x, labels, NULL, ROWS, &out));
    assert_null(out.labels);
    download(device, found, out.targets, sizeof found);
    assert_memory_equal(found, expected, sizeof found);
    ls_device_batch_destroy(batch);
    ls_device_close(device);
}

enum { WINDOW = 4, VOCABULARY = 9 };

// Tokens and those behind them arrive as they are; one beyond the vocabulary is named, on either side.
static void tokens(void **state)
{
    (void)state;
    static const int32_t bad[] = {-1, VOCABULARY, INT32_MAX, INT32_MIN};
    LsDatasetInfo info = {.window = WINDOW, .vocabulary = VOCABULARY};
    LsDataShape shape = {.window = WINDOW, .vocabulary = VOCABULARY};
    int32_t sides[2][ROWS * WINDOW] = {
        {0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1}, {8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2}};
    int32_t found[ROWS * WINDOW];
    uint64_t positions[ROWS] = {3, 99, 1234567};
    LsDevice *device = NULL;
    LsDeviceBatch *batch = NULL;
    LsBatch out;
    require_ok(ls_strict_device_open(LS_PRECISION_FP32, &device));
    require_ok(ls_device_batch_create(device, &info, &shape, ROWS, 1, &batch));
    require_ok(ls_device_batch_upload(batch, sides[0], sides[1], positions, ROWS, &out));
    assert_int_equal(out.rows, ROWS);
    download(device, found, out.inputs, sizeof found);
    assert_memory_equal(found, sides[0], sizeof found);
    download(device, found, out.labels, sizeof found);
    assert_memory_equal(found, sides[1], sizeof found);
    for (size_t side = 0; side < 2; side++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            int32_t *token = &sides[side][2 * WINDOW + 1], good = *token;
            *token = bad[i];
            assert_int_equal(
                ls_device_batch_upload(batch, sides[0], sides[1], positions, ROWS, &out), LS_BAD_DATA);
            assert_non_null(strstr(ls_status_message(), "window 2"));
            assert_non_null(strstr(ls_status_message(), "1234567"));
            *token = good;
        }
    ls_device_batch_destroy(batch);
    ls_device_close(device);
}

// Windows are evaluated at most as many at a time as they are trained on; other samples are small.
static void evaluation_rows(void **state)
{
    (void)state;
    LsConfig config;
    ls_config_defaults(&config);
    config.train.batch = 64;
    config.train.lanes = 8;
    config.train.accumulation = 2;
    config.eval.batch = 500;
    assert_int_equal(ls_evaluation_rows(&config, &(LsDataShape){.features = 2}), 500);
    assert_int_equal(ls_evaluation_rows(&config, &(LsDataShape){.window = 2, .vocabulary = 3}), 4);
    config.eval.batch = 3;
    assert_int_equal(ls_evaluation_rows(&config, &(LsDataShape){.window = 2, .vocabulary = 3}), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_are_apart),
        cmocka_unit_test(channels_have_their_own),
        cmocka_unit_test(a_label_that_is_no_class),
        cmocka_unit_test(labels_become_targets),
        cmocka_unit_test(tokens),
        cmocka_unit_test(evaluation_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
