// Augmentation is what a plain reference makes of a sample's stream position, whoever asks and in what order;
// its draws are spread as they should be; and the loader's workers apply it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "data/loader.h"
#include "dataset_fixture.h"

enum { SEED = 7, BYTES_MAX = 4096 };

static const LsDatasetInfo grey = {.features = 28 * 20,
    .feature_shape = {28, 20},
    .feature_dimensions = 2,
    .feature_type = LS_COLUMN_U8,
    .classes = true,
    .outputs = 3};
static const LsDatasetInfo colour = {.features = 12 * 17 * 3,
    .feature_shape = {12, 17, 3},
    .feature_dimensions = 3,
    .feature_type = LS_COLUMN_U8,
    .classes = true,
    .outputs = 3};

static size_t channels_of(const LsDatasetInfo *info)
{
    return info->feature_dimensions == 3 ? info->feature_shape[2] : 1;
}

// No value is 0, which is what lies outside.
static void fill_image(const LsDatasetInfo *info, uint64_t which, uint8_t *x)
{
    for (size_t i = 0; i < info->features; i++)
        x[i] = (uint8_t)(1 + (i * 37 + which * 11 + i / 251) % 255);
}

static LsAugmenter *augmenter_of(const LsAugmentation *options, const LsDatasetInfo *info)
{
    LsAugmenter *augmenter = NULL;
    assert_ok(ls_augmenter_create(options, info, SEED, &augmenter));
    return augmenter;
}

// ---- Crop and mirror ------------------------------------------------------------------------------------

// The offset that is drawn, from 0 to twice the padding.
static size_t drawn_offset(uint64_t position, size_t padding, int axis)
{
    LsRngKey key = ls_rng_key(SEED, LS_RNG_AUGMENT);
    return ls_rng_below(key, position, (uint64_t)axis, 2 * padding + 1);
}

static bool drawn_flip(uint64_t position)
{
    return ls_rng_u32(ls_rng_key(SEED, LS_RNG_AUGMENT + 1), position, 0) & 1;
}

// Pads the image, takes a part of it, and mirrors that, a pixel at a time.
static void reference(const LsAugmentation *options, const LsDatasetInfo *info, uint64_t position, uint8_t *x)
{
    uint8_t before[BYTES_MAX];
    size_t height = info->feature_shape[0], width = info->feature_shape[1], channels = channels_of(info);
    size_t padding = options->crop_padding;
    size_t top = padding ? drawn_offset(position, padding, 0) : 0;
    size_t left = padding ? drawn_offset(position, padding, 1) : 0;
    bool mirrored = options->flip && drawn_flip(position);
    memcpy(before, x, info->features);
    for (size_t r = 0; r < height; r++)
        for (size_t c = 0; c < width; c++)
            for (size_t k = 0; k < channels; k++) {
                size_t from_r = top + r, from_c = left + (mirrored ? width - 1 - c : c); // padded
                bool inside = from_r >= padding && from_r < padding + height && from_c >= padding &&
                              from_c < padding + width;
                x[(r * width + c) * channels + k] =
                    inside ? before[((from_r - padding) * width + from_c - padding) * channels + k] : 0;
            }
}

static void check_options(const LsAugmentation *options, const LsDatasetInfo *info)
{
    LsAugmenter *augmenter = augmenter_of(options, info);
    uint8_t made[BYTES_MAX], expected[BYTES_MAX];
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t position = i < 200 ? i : ((uint64_t)1 << 40) + i;
        fill_image(info, position, made);
        fill_image(info, position, expected);
        ls_augmenter_apply(augmenter, position, made);
        reference(options, info, position, expected);
        assert_memory_equal(made, expected, info->features);
    }
    ls_augmenter_destroy(augmenter);
}

static void test_crop_and_flip(void **state)
{
    (void)state;
    for (size_t padding = 0; padding <= 11; padding += padding == 4 ? 7 : 4)
        for (int flip = 0; flip < 2; flip++) {
            LsAugmentation options = {.crop_padding = padding, .flip = flip};
            check_options(&options, &grey);
            check_options(&options, &colour);
        }
}

// Any order, any augmenter: the same image of a position. Another seed: others.
static void test_pure_function_of_position(void **state)
{
    (void)state;
    LsAugmentation options = {.crop_padding = 4, .flip = true};
    LsAugmenter *one = augmenter_of(&options, &colour), *two = augmenter_of(&options, &colour), *other = NULL;
    assert_ok(ls_augmenter_create(&options, &colour, SEED + 1, &other));
    uint8_t first[64][BYTES_MAX], second[BYTES_MAX], third[BYTES_MAX];
    size_t different = 0;
    for (uint64_t p = 0; p < 64; p++) {
        fill_image(&colour, 1, first[p]);
        ls_augmenter_apply(one, p, first[p]);
    }
    for (uint64_t p = 64; p-- > 0;) {
        fill_image(&colour, 1, second);
        fill_image(&colour, 1, third);
        ls_augmenter_apply(p % 2 ? one : two, p, second);
        ls_augmenter_apply(other, p, third);
        assert_memory_equal(first[p], second, colour.features);
        different += memcmp(first[p], third, colour.features) != 0;
    }
    assert_true(different > 56); // of 162 images that a position can have, the same one is drawn seldom
    ls_augmenter_destroy(one);
    ls_augmenter_destroy(two);
    ls_augmenter_destroy(other);
}

// One bright pixel says where the image went.
static void test_spread(void **state)
{
    (void)state;
    enum { PADDING = 4, PLACES = 2 * PADDING + 1, DRAWS = 81 * 2 * 400 };
    size_t count[2][PLACES][PLACES] = {0}, height = 28, width = 20;
    LsAugmentation options = {.crop_padding = PADDING, .flip = true};
    LsAugmenter *augmenter = augmenter_of(&options, &grey);
    uint8_t x[BYTES_MAX];
    for (uint64_t position = 0; position < DRAWS; position++) {
        memset(x, 0, grey.features);
        x[14 * width + 5] = 255;
        ls_augmenter_apply(augmenter, position, x);
        size_t at = (size_t)((uint8_t *)memchr(x, 255, height * width) - x), row = at / width,
               column = at % width;
        bool mirrored = column > 9; // 5 ± 4, or 14 ± 4
        count[mirrored][row - 10][column - (mirrored ? 10 : 1)]++;
    }
    ls_augmenter_destroy(augmenter);
    // 400 are expected of each; six standard deviations are 120.
    for (int mirrored = 0; mirrored < 2; mirrored++)
        for (int r = 0; r < PLACES; r++)
            for (int c = 0; c < PLACES; c++)
                assert_in_range(count[mirrored][r][c], 280, 520);
}

// ---- What is refused ------------------------------------------------------------------------------------

static void test_refused(void **state)
{
    (void)state;
    LsAugmentation flip = {.flip = true}, padded = {.crop_padding = 12}, none = {0};
    LsDatasetInfo floats = grey, row = grey, planes = colour, tokens = grey;
    LsAugmenter *augmenter = NULL;
    floats.feature_type = LS_COLUMN_F32;
    row.feature_dimensions = 1;
    planes.feature_shape[2] = 32;
    tokens.vocabulary = 10;
    assert_fails(ls_augmentation_check(&flip, &floats), LS_CONFIG, "data.flip is for images of bytes");
    assert_fails(ls_augmentation_check(&flip, &row), LS_CONFIG, "data.flip");
    assert_fails(ls_augmentation_check(&flip, &planes), LS_CONFIG, "up to 4 channels");
    assert_fails(ls_augmentation_check(&padded, &tokens), LS_CONFIG, "data.crop_padding is for images");
    assert_fails(
        ls_augmenter_create(&padded, &colour, SEED, &augmenter), LS_CONFIG, "data.crop_padding is 12");
    assert_null(augmenter);
    assert_ok(ls_augmentation_check(&none, &floats));
    assert_false(ls_augmentation_any(&none));
    ls_augmenter_destroy(NULL);
}

// ---- The loader -----------------------------------------------------------------------------------------

static const Example example = {.type = LS_COLUMN_U8,
    .classes = true,
    .shape = {12, 17, 3},
    .dimensions = 3,
    .outputs = 5,
    .samples = {101, 0, 0}};

static void check_batch(const LsDatasetInfo *info, const LsLoaderOptions *o, const LsHostBatch *batch)
{
    LsAugmenter *augmenter = NULL;
    assert_ok(ls_augmenter_create(&o->augmentation, info, o->seed, &augmenter));
    for (size_t i = 0; i < batch->rows; i++) {
        uint8_t x[BYTES_MAX];
        int32_t y;
        uint64_t position = batch->positions[i];
        example_row(&example, LS_TRAIN, ls_stream_sample(o->seed, 101, position), x, &y);
        ls_augmenter_apply(augmenter, position, x);
        assert_memory_equal((const uint8_t *)batch->x + i * info->features, x, info->features);
        assert_int_equal(((const int32_t *)batch->y)[i], y);
    }
    ls_augmenter_destroy(augmenter);
}

static void test_loader(void **state)
{
    (void)state;
    const char *path = in_directory("images.h5");
    LsDataset *dataset = NULL;
    LsLoaderOptions options = {.seed = 3,
        .batch = 48,
        .lanes = 4,
        .first_lane = 1,
        .lane_count = 2,
        .accumulation = 2,
        .prefetch = 3,
        .augmentation = {.crop_padding = 3, .flip = true}};
    assert_ok(write_example(&example, path));
    assert_ok(ls_dataset_open(path, &dataset));
    for (options.workers = 1; options.workers <= 3; options.workers++) {
        LsLoader *loader = NULL;
        assert_ok(ls_loader_create(dataset, &options, &loader));
        for (int number = 0; number < 40; number++) {
            const LsHostBatch *batch = NULL;
            assert_ok(ls_loader_next(loader, &batch, NULL));
            check_batch(ls_dataset_info(dataset), &options, batch);
            ls_loader_return(loader, batch);
        }
        ls_loader_destroy(loader);
    }
    LsLaneReader *reader = NULL;
    const LsHostBatch *batch = NULL;
    assert_ok(ls_lane_reader_create(dataset, &options, &reader));
    assert_ok(ls_lane_reader_read(reader, 480, 3, 1, &batch));
    assert_int_equal(batch->positions[0], 480 + 3 * 12 + 6);
    check_batch(ls_dataset_info(dataset), &options, batch);
    ls_lane_reader_destroy(reader);
    LsLoader *loader = NULL;
    options.augmentation.crop_padding = 12;
    options.workers = 1;
    assert_fails(ls_loader_create(dataset, &options, &loader), LS_CONFIG, "data.crop_padding");
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crop_and_flip),
        cmocka_unit_test(test_pure_function_of_position),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_loader),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
