// Images that are kept as their files were are read as an importer would have decoded them, through readers,
// loaders and partitions; parts of them are taken before they have their size; and damage of their bytes or
// places is found.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <turbojpeg.h>

#include "base/rng.h"
#include "data/loader.h"
#include "dataset_fixture.h"
#include "encoded.h"

enum { SIDE = 16, ROWS = 24, HELD_OUT = 5, VALUES = SIDE * SIDE * 3, QUALITY = 85 };

// Of many sizes: smaller than the samples, larger, of their size, and one that no part fits into.
static void size_of(uint64_t which, size_t *height, size_t *width)
{
    static const size_t sizes[][2] = {{40, 61}, {16, 16}, {9, 30}, {77, 33}, {5, 90}};
    *height = sizes[which % 5][0];
    *width = sizes[which % 5][1];
}

static uint64_t which_of(LsSplit split, uint64_t row)
{
    return row + 100 * (uint64_t)split;
}

// The file of an image; freed by the caller with tjFree.
static uint8_t *encode(uint64_t which, unsigned long *size)
{
    static uint8_t pixels[77 * 90 * 3];
    size_t height, width;
    uint8_t *file = NULL;
    size_of(which, &height, &width);
    for (size_t i = 0; i < height * width * 3; i++)
        pixels[i] = (uint8_t)(i * (which + 1) / 16 + i / (3 * width) * 5 + i % 3 * 40);
    tjhandle encoder = tjInitCompress();
    assert_int_equal(tjCompress2(encoder, pixels, (int)width, 0, (int)height, TJPF_RGB, &file, size,
                         TJSAMP_420, QUALITY, TJFLAG_ACCURATEDCT),
        0);
    tjDestroy(encoder);
    return file;
}

static LsImage decoded(uint64_t which)
{
    unsigned long size = 0;
    LsImage image = {0};
    uint8_t *file = encode(which, &size);
    assert_ok(ls_image_decode(file, size, "file", 3, &image));
    tjFree(file);
    return image;
}

// What an import would have stored.
static void expected_sample(uint64_t which, uint8_t *x)
{
    LsImage image = decoded(which);
    assert_ok(ls_image_resize(&image, SIDE, SIDE, x));
    free(image.pixels);
}

static int32_t label_of(uint64_t row)
{
    return (int32_t)(row % 3);
}

static void write_split(LsWriter *writer, LsSplit split, size_t rows)
{
    for (uint64_t row = 0; row < rows; row++) {
        unsigned long size = 0;
        uint8_t *file = encode(which_of(split, row), &size);
        int32_t label = label_of(row);
        LsHash128 hash = ls_hash128(file, size);
        assert_ok(ls_writer_append_encoded(writer, split, file, size, &label));
        assert_ok(ls_writer_append_files(writer, split, &hash, 1));
        tjFree(file);
    }
}

static uint64_t bytes_of(LsSplit split, size_t rows)
{
    uint64_t bytes = 0;
    for (uint64_t row = 0; row < rows; row++) {
        unsigned long size = 0;
        tjFree(encode(which_of(split, row), &size));
        bytes += size;
    }
    return bytes;
}

static LsWriterShape writer_shape(void)
{
    return (LsWriterShape){.feature_type = LS_COLUMN_U8,
        .feature_shape = {SIDE, SIDE, 3},
        .feature_dimensions = 3,
        .classes = true,
        .outputs = 3,
        .samples = {ROWS, HELD_OUT},
        .files = true,
        .encoded = true,
        .encoded_bytes = {bytes_of(LS_TRAIN, ROWS), bytes_of(LS_VALIDATION, HELD_OUT)}};
}

// The first ten rows are of one partition, the rest of another.
static json_t *schema_of(void)
{
    return json_pack("{s:s, s:[s, s, s], s:b, s:[f], s:[f], s:{s:s, s:[], s:{}},"
                     " s:{s:s, s:[{s:s, s:[i, i], s:[i, i]}, {s:s, s:[i, i]}]}}",
        "kind", "images", "classes", "a", "b", "c", "uniform", 1, "shift", 0.5, "scale", 2.0, "import", "key",
        "none", "inputs", "options", "partitions", "column", "side", "values", "value", "left", "train", 0,
        10, "validation", 0, HELD_OUT, "value", "right", "train", 10, ROWS - 10);
}

static const char *write_images(const char *name)
{
    const char *path = in_directory(name);
    LsWriterShape shape = writer_shape();
    LsWriter *writer = NULL;
    json_t *schema = schema_of();
    assert_non_null(schema);
    assert_ok(ls_writer_begin(path, &shape, &writer));
    write_split(writer, LS_VALIDATION, HELD_OUT);
    write_split(writer, LS_TRAIN, ROWS);
    assert_ok(ls_writer_commit(writer, schema));
    ls_writer_destroy(writer);
    json_decref(schema);
    return path;
}

static LsDataset *opened(const char *path)
{
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    return dataset;
}

// ---- What is read ---------------------------------------------------------------------------------------

static void check_read(LsReader *reader, LsSplit split, uint64_t sample, uint64_t row)
{
    uint8_t x[VALUES], expected[VALUES];
    int32_t y;
    assert_ok(ls_reader_read(reader, &sample, 1, x, &y));
    expected_sample(which_of(split, row), expected);
    assert_memory_equal(x, expected, VALUES);
    assert_int_equal(y, label_of(row));
}

static void test_read(void **state)
{
    (void)state;
    LsDataset *dataset = opened(write_images("read.h5"));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    assert_ok(ls_dataset_verify(dataset));
    assert_true(info->encoded && info->features == VALUES);
    for (LsSplit split = LS_TRAIN; split <= LS_VALIDATION; split++) {
        LsReader *reader = NULL;
        assert_ok(ls_reader_create(dataset, split, &reader));
        for (uint64_t sample = info->samples[split]; sample-- > 0;)
            check_read(reader, split, sample, sample);
        uint64_t two[2] = {3, 1}, beyond = info->samples[split];
        uint8_t x[2 * VALUES], expected[VALUES];
        int32_t y[2];
        assert_ok(ls_reader_read(reader, two, 2, x, NULL));
        expected_sample(which_of(split, 1), expected);
        assert_memory_equal(x + VALUES, expected, VALUES);
        assert_ok(ls_reader_read(reader, two, 2, NULL, y)); // labels alone
        assert_true(y[0] == label_of(3) && y[1] == label_of(1));
        assert_fails(ls_reader_read(reader, &beyond, 1, x, y), LS_INTERNAL, "sample");
        ls_reader_destroy(reader);
    }
    ls_dataset_close(dataset);
}

static void test_partition(void **state)
{
    (void)state;
    LsDataset *dataset = opened(write_images("parts.h5"));
    LsReader *reader = NULL;
    assert_ok(ls_dataset_select(dataset, "side == 'right'"));
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], ROWS - 10);
    assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
    for (uint64_t sample = 0; sample < ROWS - 10; sample++)
        check_read(reader, LS_TRAIN, sample, 10 + sample);
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
}

// ---- The loader, and parts of images --------------------------------------------------------------------

// Where what is drawn for a position of the stream begins in the generator; of the partner the same, further
// on.
static LsRngKey key_of(const LsLoaderOptions *options, bool partner, uint32_t draw)
{
    return ls_rng_key(options->seed, LS_RNG_AUGMENT + (partner ? 0x100 : 0) + draw);
}

// Draws the part as docs/data.md describes it: a share of the image's area, a ratio of its sides, a place.
static bool draw_part(
    const LsLoaderOptions *options, bool partner, uint64_t position, const LsImage *image, LsImagePart *part)
{
    enum { SHAPE = 2, PLACE = 3, ATTEMPTS = 10 };
    double least = options->augmentation.resized_crop, all = (double)(image->height * image->width);
    LsRngKey shape = key_of(options, partner, SHAPE), place = key_of(options, partner, PLACE);
    for (uint64_t i = 0; i < ATTEMPTS; i++) {
        double share = least + (1 - least) * (double)ls_rng_uniform(shape, position, 2 * i);
        double turn = 2 * (double)ls_rng_uniform(shape, position, 2 * i + 1) - 1;
        double ratio = turn < 0 ? 1 / (1 - turn / 3) : 1 + turn / 3;
        part->height = (size_t)(sqrt(share * all / ratio) + 0.5);
        part->width = (size_t)(sqrt(share * all * ratio) + 0.5);
        if (part->height < 1 || part->width < 1 || part->height > image->height || part->width > image->width)
            continue;
        part->top = ls_rng_below(place, position, 0, image->height - part->height + 1);
        part->left = ls_rng_below(place, position, 1, image->width - part->width + 1);
        return true;
    }
    return false;
}

static void expected_part(
    const LsLoaderOptions *options, bool partner, uint64_t position, uint64_t row, uint8_t *x)
{
    LsImage image = decoded(which_of(LS_TRAIN, row));
    LsImagePart part;
    if (options->augmentation.resized_crop == 0 || !draw_part(options, partner, position, &image, &part))
        assert_ok(ls_image_resize(&image, SIDE, SIDE, x));
    else
        assert_ok(ls_image_resize_part(&image, &part, SIDE, SIDE, x));
    free(image.pixels);
}

// The other steps are those of images of their size, without the part.
static void check_batch(const LsDatasetInfo *info, const LsLoaderOptions *o, const LsHostBatch *batch)
{
    LsAugmentation rest = o->augmentation;
    LsAugmenter *augmenter = NULL;
    rest.resized_crop = 0;
    assert_ok(ls_augmenter_create(&rest, info, o->seed, &augmenter));
    for (size_t i = 0; i < batch->rows; i++) {
        uint8_t x[VALUES], other[VALUES];
        uint64_t position = batch->positions[i], row = ls_stream_sample(o->seed, ROWS, position);
        int32_t y = label_of(row);
        expected_part(o, false, position, row, x);
        ls_augmenter_apply(augmenter, position, x);
        if (o->augmentation.mixup > 0) {
            uint64_t partner = ls_augmenter_partner(augmenter, position, ROWS);
            int32_t other_y = label_of(partner);
            expected_part(o, true, position, partner, other);
            ls_augmenter_mix(augmenter, position, other, &other_y, x, &y);
        }
        assert_memory_equal((const uint8_t *)batch->x + i * VALUES, x, VALUES);
        assert_int_equal(((const int32_t *)batch->y)[i], y);
    }
    ls_augmenter_destroy(augmenter);
}

static void check_loader(const LsDataset *dataset, const LsLoaderOptions *options)
{
    LsLoader *loader = NULL;
    assert_ok(ls_loader_create(dataset, options, &loader));
    for (int number = 0; number < 12; number++) {
        const LsHostBatch *batch = NULL;
        assert_ok(ls_loader_next(loader, &batch, NULL));
        check_batch(ls_dataset_info(dataset), options, batch);
        ls_loader_return(loader, batch);
    }
    ls_loader_destroy(loader);
}

static void test_loader(void **state)
{
    (void)state;
    static const LsAugmentation augmentations[] = {{0}, {.crop_padding = 3, .flip = true},
        {.resized_crop = 0.1},
        {.resized_crop = 0.4, .flip = true, .contrast = 0.2, .cutout = 4, .mixup = 0.6}};
    LsDataset *dataset = opened(write_images("loader.h5"));
    LsLoaderOptions options = {.seed = 3,
        .batch = 32,
        .lanes = 4,
        .first_lane = 1,
        .lane_count = 2,
        .accumulation = 2,
        .prefetch = 3};
    for (size_t i = 0; i < sizeof augmentations / sizeof *augmentations; i++)
        for (options.workers = 1; options.workers <= 3; options.workers += 2) {
            options.augmentation = augmentations[i];
            check_loader(dataset, &options);
        }
    ls_dataset_close(dataset);
}

// ---- Damage ---------------------------------------------------------------------------------------------

static LsStatus read_sample(const char *path, LsSplit split, uint64_t sample)
{
    LsDataset *dataset = NULL;
    LsReader *reader = NULL;
    uint8_t x[VALUES];
    LS_TRY(ls_dataset_open(path, &dataset));
    LsStatus status = ls_reader_create(dataset, split, &reader);
    if (status == LS_OK)
        status = ls_reader_read(reader, &sample, 1, x, NULL);
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
    return status;
}

// Writes other bytes in the place of some; reading sample 7 says `reads`, verification `verifies`.
static void assert_damage(const char *path, uint64_t offset, const void *bytes, size_t size,
    const char *reads, const char *verifies)
{
    uint8_t before[64];
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, before, size, (off_t)offset), size);
    assert_int_equal(pwrite(fd, bytes, size, (off_t)offset), size);
    assert_fails(read_sample(path, LS_TRAIN, 7), LS_BAD_DATA, reads);
    assert_fails(verify_file(path), LS_BAD_DATA, verifies);
    assert_ok(read_sample(path, LS_TRAIN, 9)); // what is sound is read
    assert_int_equal(pwrite(fd, before, size, (off_t)offset), size);
    close(fd);
    assert_ok(read_sample(path, LS_TRAIN, 7));
}

static void test_damage(void **state)
{
    (void)state;
    const char *path = write_images("damage.h5");
    LsDataset *dataset = opened(path);
    uint64_t offsets = dataset->offsets[LS_TRAIN].offset, x = dataset->x[LS_TRAIN].offset,
             files = dataset->files[LS_TRAIN].offset, all = dataset->x[LS_TRAIN].rows, place[3];
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, place, sizeof place, (off_t)(offsets + 7 * 8)), sizeof place);
    close(fd);
    ls_dataset_close(dataset);
    const char *lies = "train sample 7 lies from byte", *differs = "train sample 7 does not match the hash";
    const uint64_t wrong[] = {UINT64_MAX, all + 1, (uint64_t)1 << 63, place[1]}; // the last: an empty image
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *verifies = "/train/offsets";
        assert_damage(path, offsets + 7 * 8, &wrong[i], 8, lies, verifies);
        if (i < 3)
            assert_damage(path, offsets + 8 * 8, &wrong[i], 8, lies, verifies);
    }
    uint64_t earlier = place[0] - 1, later = place[1] + 1;
    assert_damage(path, offsets + 8 * 8, &place[0], 8, lies, "/train/offsets");
    assert_damage(path, offsets + 7 * 8, &earlier, 8, differs, "/train/offsets");
    assert_damage(path, offsets + 8 * 8, &later, 8, differs, "/train/offsets");
    assert_damage(path, x + place[0], "\0", 1, differs, "/train/encoded");
    assert_damage(path, x + place[0] + 40, "damage", 6, differs, "/train/encoded");
    assert_damage(path, x + place[1] - 1, "\1", 1, differs, "/train/encoded");
    assert_damage(path, files + 7 * 16 + 3, "\x5a\xa5\x77", 3, differs, "/train/files");
    assert_ok(verify_file(path));
    assert_int_equal(truncate(path, (off_t)(x + place[0])), 0);
    assert_fails(read_sample(path, LS_TRAIN, 7), LS_BAD_DATA, path);
}

// A file that is no image, and yet has its hash: an import never writes one, another program may.
static void test_no_image(void **state)
{
    (void)state;
    const char *path = in_directory("none.h5");
    const char *const texts[] = {"no image", "\xff\xd8\xff\xe0 nor this", "\x89PNG\r\n\x1a\n nor this"};
    LsWriterShape shape = writer_shape();
    LsWriter *writer = NULL;
    json_t *schema = schema_of();
    json_object_del(schema, "partitions");
    memcpy(shape.samples, (size_t[LS_SPLITS]){3}, sizeof shape.samples);
    memset(shape.encoded_bytes, 0, sizeof shape.encoded_bytes);
    for (int i = 0; i < 3; i++)
        shape.encoded_bytes[LS_TRAIN] += strlen(texts[i]);
    assert_ok(ls_writer_begin(path, &shape, &writer));
    for (int32_t i = 0; i < 3; i++) {
        LsHash128 hash = ls_hash128(texts[i], strlen(texts[i]));
        assert_ok(
            ls_writer_append_encoded(writer, LS_TRAIN, (const uint8_t *)texts[i], strlen(texts[i]), &i));
        assert_ok(ls_writer_append_files(writer, LS_TRAIN, &hash, 1));
    }
    int32_t label = 0;
    assert_fails(
        ls_writer_append_encoded(writer, LS_TRAIN, (const uint8_t *)"x", 1, &label), LS_INTERNAL, "row");
    assert_ok(ls_writer_commit(writer, schema));
    ls_writer_destroy(writer);
    json_decref(schema);
    assert_fails(read_sample(path, LS_TRAIN, 0), LS_BAD_DATA, "train sample 0: the file begins neither");
    assert_fails(read_sample(path, LS_TRAIN, 1), LS_BAD_DATA, "train sample 1: ");
    assert_fails(read_sample(path, LS_TRAIN, 2), LS_BAD_DATA, "train sample 2: ");
}

static void test_writer_refuses(void **state)
{
    (void)state;
    LsWriterShape shape = writer_shape(), none = shape;
    LsWriter *writer = NULL;
    none.compress = true;
    assert_fails(ls_writer_begin(in_directory("no.h5"), &none, &writer), LS_INTERNAL, "cannot be encoded");
    none = shape;
    none.feature_type = LS_COLUMN_F32;
    assert_fails(ls_writer_begin(in_directory("no.h5"), &none, &writer), LS_INTERNAL, "cannot be encoded");
    // More bytes than were said, or less.
    shape.encoded_bytes[LS_TRAIN] = ROWS;
    assert_ok(ls_writer_begin(in_directory("no.h5"), &shape, &writer));
    int32_t label = 0;
    uint8_t bytes[ROWS] = {0};
    assert_fails(ls_writer_append_encoded(writer, LS_TRAIN, bytes, ROWS + 1, &label), LS_INTERNAL, "bytes");
    ls_writer_destroy(writer);
}

// ---- The decoder ----------------------------------------------------------------------------------------

static void test_decoder(void **state)
{
    (void)state;
    static const Example pixels = {.type = LS_COLUMN_U8,
        .classes = true,
        .shape = {4, 4},
        .dimensions = 2,
        .outputs = 2,
        .samples = {3}};
    char text[LS_DECODER_TEXT], again[LS_DECODER_TEXT];
    LsDataset *dataset = opened(write_images("decoder.h5"));
    assert_ok(ls_dataset_decoder(dataset, text));
    assert_ok(ls_dataset_decoder(dataset, again));
    assert_string_equal(text, again);
    assert_true(strncmp(text, "JPEG ", 5) == 0 && strlen(text) == 21);
    ls_dataset_close(dataset);
    const char *path = in_directory("pixels.h5");
    assert_ok(write_example(&pixels, path));
    dataset = opened(path);
    assert_ok(ls_dataset_decoder(dataset, text));
    assert_string_equal(text, "");
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_partition),
        cmocka_unit_test(test_loader),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_no_image),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_decoder),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
