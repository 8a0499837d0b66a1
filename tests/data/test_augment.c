// Augmentation is what a plain reference makes of a sample's stream position, whoever asks and in what order;
// its draws are spread as they should be; and the loader's workers apply it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

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

static const LsAugmentation everything = {.resized_crop = 0.3,
    .flip = true,
    .brightness = 0.4,
    .contrast = 0.3,
    .saturation = 0.5,
    .cutout = 5,
    .mixup = 0.4};

// Any order, any augmenter: the same image of a position. Another seed: others.
static void check_pure(const LsAugmentation *given)
{
    LsAugmentation options = *given;
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

static void test_pure_function_of_position(void **state)
{
    (void)state;
    const LsAugmentation moved = {.crop_padding = 4, .flip = true};
    check_pure(&moved);
    check_pure(&everything);
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

// ---- A part enlarged ------------------------------------------------------------------------------------

enum { SIDE = 40, TRIES = 4000 };
static const LsDatasetInfo square = {.features = SIDE * SIDE,
    .feature_shape = {SIDE, SIDE},
    .feature_dimensions = 2,
    .feature_type = LS_COLUMN_U8,
    .classes = true,
    .outputs = 3};

// Where an image of a ramp along one axis begins and ends says which part of the axis was taken: pixel 0 lies
// half a pixel's step behind its beginning. Ramps rise by 6 a pixel.
static void find_axis(const uint8_t *x, size_t stride, double *first, double *length)
{
    double low = x[SIDE / 4 * stride] / 6.0,
           high = x[3 * SIDE / 4 * stride] / 6.0; // inside, where nothing is clamped
    double step = (high - low) / (SIDE / 2.0);
    *length = step * SIDE;
    *first = low + 0.5 - (SIDE / 4.0 + 0.5) * step;
}

// Every part has at least the share and the ratio that it may have, all lie within the image, and both are
// spread as uniform numbers are.
static void test_resized_crop(void **state)
{
    (void)state;
    LsAugmentation options = {.resized_crop = 0.25};
    LsAugmenter *augmenter = augmenter_of(&options, &square);
    double shares = 0, tops = 0, wide = 0;
    for (uint64_t position = 0; position < TRIES; position++) {
        uint8_t down[SIDE * SIDE], across[SIDE * SIDE];
        double top, left, height, width;
        for (size_t i = 0; i < SIDE * SIDE; i++) {
            down[i] = (uint8_t)(i / SIDE * 6);
            across[i] = (uint8_t)(i % SIDE * 6);
        }
        ls_augmenter_apply(augmenter, position, down);
        ls_augmenter_apply(augmenter, position, across);
        find_axis(down, SIDE, &top, &height);
        find_axis(across, 1, &left, &width);
        // Values are whole numbers, a sixth of a pixel, which makes a third of a pixel of a side's length;
        // sides are rounded by half a pixel besides.
        assert_true(top > -0.5 && left > -0.5 && top + height < SIDE + 0.5 && left + width < SIDE + 0.5);
        assert_true(height * width / (SIDE * SIDE) > 0.25 - 0.05);
        assert_true(width / height > 0.75 - 0.08 && width / height < 4.0 / 3 + 0.08);
        shares += height * width / (SIDE * SIDE) / TRIES;
        tops += height < SIDE - 1 ? top / (SIDE - height) / TRIES : 0.5 / TRIES;
        wide += (width > height) / (double)TRIES;
    }
    ls_augmenter_destroy(augmenter);
    // Means of uniform shares from 0.25 to 1, of which the largest fit less often; of places from 0 to 1. The
    // deviation of such a mean is below 0.005.
    assert_true(shares > 0.50 && shares < 0.64);
    assert_true(fabs(tops - 0.5) < 0.04);
    assert_true(wide > 0.40 && wide < 0.55);
}

// A single colour stays; with the whole image as the only part, so does the image.
static void test_resized_crop_keeps(void **state)
{
    (void)state;
    LsAugmentation half = {.resized_crop = 0.5};
    LsAugmenter *augmenter = augmenter_of(&half, &colour);
    uint8_t x[BYTES_MAX];
    for (uint64_t position = 0; position < 50; position++) {
        memset(x, 173, colour.features);
        ls_augmenter_apply(augmenter, position, x);
        for (size_t i = 0; i < colour.features; i++)
            assert_int_equal(x[i], 173);
    }
    ls_augmenter_destroy(augmenter);
}

// ---- Colours --------------------------------------------------------------------------------------------

// The least and the largest of what a value becomes, and its mean.
static void spread_of(
    const LsAugmentation *options, uint8_t first, uint8_t rest, double *low, double *high, double *mean)
{
    LsAugmenter *augmenter = augmenter_of(options, &square);
    *low = 255, *high = *mean = 0;
    for (uint64_t position = 0; position < TRIES; position++) {
        uint8_t x[SIDE * SIDE];
        memset(x, rest, sizeof x);
        x[0] = first;
        ls_augmenter_apply(augmenter, position, x);
        *low = fmin(*low, x[0]);
        *high = fmax(*high, x[0]);
        *mean += (double)x[0] / TRIES;
    }
    ls_augmenter_destroy(augmenter);
}

// Of 4,000 uniform numbers the ends come within 1 of 60; their mean has a deviation of 0.3.
static void test_brightness_and_contrast(void **state)
{
    (void)state;
    double low, high, mean;
    LsAugmentation brightness = {.brightness = 0.3}, contrast = {.contrast = 0.3};
    spread_of(&brightness, 100, 100, &low, &high, &mean);
    assert_true(low >= 70 && low <= 71 && high <= 130 && high >= 129 && fabs(mean - 100) < 1.5);
    spread_of(&brightness, 250, 250, &low, &high, &mean);
    assert_true(high == 255 && low >= 175);
    spread_of(&contrast, 90, 90, &low, &high, &mean); // nothing differs from the mean
    assert_true(low == 90 && high == 90);
    spread_of(&contrast, 190, 90, &low, &high, &mean); // by 100
    assert_true(low >= 160 && low <= 162 && high <= 220 && high >= 218 && fabs(mean - 190) < 1.5);
}

static int brightness_of(const uint8_t *pixel)
{
    return (int)lround(0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]);
}

// Grey stays, and a colour keeps its brightness (but for rounding each of its values).
static void test_saturation(void **state)
{
    (void)state;
    LsAugmentation options = {.saturation = 0.8};
    LsAugmenter *augmenter = augmenter_of(&options, &colour);
    double low = 255, high = 0;
    for (uint64_t position = 0; position < TRIES; position++) {
        uint8_t x[BYTES_MAX];
        memset(x, 77, colour.features);
        x[0] = 150, x[1] = 90, x[2] = 110;
        int before = brightness_of(x);
        ls_augmenter_apply(augmenter, position, x);
        assert_true(abs(brightness_of(x) - before) <= 2);
        assert_int_equal(x[3], 77);
        low = fmin(low, x[0] - x[1]);
        high = fmax(high, x[0] - x[1]);
    }
    ls_augmenter_destroy(augmenter);
    assert_true(low >= 11 && low <= 14 && high <= 109 && high >= 106); // 60 times 0.2 to 1.8
}

// ---- Cutout ---------------------------------------------------------------------------------------------

// A square of the side, or what of it lies inside, of the mean colour; its centre may be any pixel.
static void test_cutout(void **state)
{
    (void)state;
    enum { CUT = 9 };
    const float shift[1] = {41.6f};
    LsDatasetInfo info = square;
    info.shift = shift;
    info.period = 1;
    LsAugmentation options = {.cutout = CUT};
    LsAugmenter *augmenter = augmenter_of(&options, &info);
    size_t covered[SIDE * SIDE] = {0}, whole = 0;
    for (uint64_t position = 0; position < TRIES; position++) {
        uint8_t x[SIDE * SIDE];
        size_t count = 0, top = SIDE, left = SIDE, bottom = 0, right = 0;
        memset(x, 200, sizeof x);
        ls_augmenter_apply(augmenter, position, x);
        for (size_t i = 0; i < SIDE * SIDE; i++) {
            if (x[i] == 200)
                continue;
            assert_int_equal(x[i], 42);
            covered[i]++;
            count++;
            top = top < i / SIDE ? top : i / SIDE, bottom = bottom > i / SIDE ? bottom : i / SIDE;
            left = left < i % SIDE ? left : i % SIDE, right = right > i % SIDE ? right : i % SIDE;
        }
        assert_int_equal(count, (bottom - top + 1) * (right - left + 1)); // a rectangle
        assert_true(bottom - top < CUT && right - left < CUT && count >= 25);
        whole += count == CUT * CUT;
    }
    ls_augmenter_destroy(augmenter);
    // 32 of 40 centres an axis leave it whole: 0.64; the deviation is 30.
    assert_true(abs((int)whole - (int)(0.64 * TRIES)) < 200);
    // A pixel inside is covered by 81 of 1,600 centres, one in the corner by 25: 202 ± 14 and 62 ± 8.
    assert_in_range(covered[SIDE / 2 * SIDE + SIDE / 2], 120, 290);
    assert_in_range(covered[0], 15, 115);
}

// ---- Mixing ---------------------------------------------------------------------------------------------

// White mixed into black says the weight. The beta distribution of (a, a) has mean 1/2 and variance 1/(4(2a +
// 1)).
static void check_mixup(double shape)
{
    LsAugmentation options = {.mixup = shape};
    LsAugmenter *augmenter = augmenter_of(&options, &square);
    double mean = 0, squares = 0, drawn = 0, partners = 0;
    for (uint64_t position = 0; position < TRIES; position++) {
        uint8_t x[SIDE * SIDE], other[SIDE * SIDE];
        int32_t y = 1, other_y = 2;
        memset(x, 255, sizeof x);
        memset(other, 0, sizeof other);
        ls_augmenter_apply(augmenter, position, x);
        ls_augmenter_mix(augmenter, position, other, &other_y, x, &y);
        assert_true(y == 1 || y == 2);
        mean += x[0] / 255.0 / TRIES;
        squares += x[0] / 255.0 * x[0] / 255.0 / TRIES;
        drawn += (y == 1) / (double)TRIES;
        partners += (double)ls_augmenter_partner(augmenter, position, 1000) / 999.0 / TRIES;
        assert_true((x[0] != 255 || y == 1) && (x[0] != 0 || y == 2)); // as sure as the weight
    }
    ls_augmenter_destroy(augmenter);
    // Deviations of these means are below 0.008.
    assert_true(fabs(mean - 0.5) < 0.04 && fabs(drawn - 0.5) < 0.04 && fabs(partners - 0.5) < 0.03);
    assert_true(fabs(squares - mean * mean - 1 / (4 * (2 * shape + 1))) < 0.015);
}

static void test_mixup(void **state)
{
    (void)state;
    check_mixup(1.0);
    check_mixup(0.2);
    check_mixup(0.01);
}

// Targets that are numbers are mixed as the pixels are.
static void test_mixup_of_targets(void **state)
{
    (void)state;
    LsDatasetInfo info = square;
    info.classes = false;
    info.outputs = 2;
    LsAugmentation options = {.mixup = 1};
    LsAugmenter *augmenter = augmenter_of(&options, &info);
    for (uint64_t position = 0; position < 100; position++) {
        uint8_t x[SIDE * SIDE], other[SIDE * SIDE];
        float y[2] = {255, -1}, other_y[2] = {0, 3};
        memset(x, 255, sizeof x);
        memset(other, 0, sizeof other);
        ls_augmenter_mix(augmenter, position, other, other_y, x, y);
        assert_true(fabsf(y[0] - (float)x[0]) < 0.51f); // the pixel is rounded
        assert_true(fabsf(y[1] - (3 - 4 * y[0] / 255)) < 1e-5f);
    }
    ls_augmenter_destroy(augmenter);
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
    LsAugmentation saturated = {.saturation = 0.1}, both = {.crop_padding = 2, .resized_crop = 0.5};
    assert_fails(ls_augmentation_check(&saturated, &grey), LS_CONFIG, "data.saturation is for images of 3");
    assert_fails(ls_augmentation_check(&both, &grey), LS_CONFIG, "both crop");
    assert_ok(ls_augmentation_check(&everything, &colour));
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
        if (o->augmentation.mixup > 0) {
            uint8_t other[BYTES_MAX];
            int32_t other_y;
            example_row(&example, LS_TRAIN, ls_augmenter_partner(augmenter, position, 101), other, &other_y);
            ls_augmenter_mix(augmenter, position, other, &other_y, x, &y);
        }
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
        if (options.workers == 3)
            options.augmentation = everything;
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
    options.augmentation = (LsAugmentation){.crop_padding = 12};
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
        cmocka_unit_test(test_resized_crop),
        cmocka_unit_test(test_resized_crop_keeps),
        cmocka_unit_test(test_brightness_and_contrast),
        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_cutout),
        cmocka_unit_test(test_mixup),
        cmocka_unit_test(test_mixup_of_targets),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_loader),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
