// IDX files: read plain and compressed, refused with the offset of what is wrong, and imported.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>

#include "data/import.h"
#include "dataset_fixture.h"
#include "import_idx.h"

#define FASHION "/usr/share/datasets/fashion-mnist/"

typedef struct Bytes {
    uint8_t data[1 << 16];
    size_t size;
} Bytes;

static void put(Bytes *bytes, const void *data, size_t size)
{
    assert_true(bytes->size + size <= sizeof bytes->data);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void put_header(Bytes *bytes, uint8_t type, uint8_t dimensions, const uint32_t *shape)
{
    put(bytes, (uint8_t[]){0, 0, type, dimensions}, 4);
    for (int i = 0; i < dimensions; i++)
        put(bytes, (uint8_t[]){shape[i] >> 24, shape[i] >> 16 & 255, shape[i] >> 8 & 255, shape[i] & 255}, 4);
}

static uint8_t pixel(size_t i)
{
    return (uint8_t)(i * 37 + (i >> 8));
}

// Images of 3 x 5.
static void put_images(Bytes *bytes, uint32_t count)
{
    put_header(bytes, 0x08, 3, (uint32_t[]){count, 3, 5});
    for (size_t i = 0; i < (size_t)count * 15; i++)
        put(bytes, (uint8_t[]){pixel(i)}, 1);
}

static void put_labels(Bytes *bytes, uint32_t count, uint8_t classes)
{
    put_header(bytes, 0x08, 1, &count);
    for (size_t i = 0; i < count; i++)
        put(bytes, (uint8_t[]){(uint8_t)(i % classes)}, 1);
}

// Appends a gzip member.
static void put_gzip(Bytes *bytes, const void *data, size_t size)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)data;
    z.avail_in = (uInt)size;
    z.next_out = bytes->data + bytes->size;
    z.avail_out = (uInt)(sizeof bytes->data - bytes->size);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    bytes->size += z.total_out;
    deflateEnd(&z);
}

static LsStatus parse(const Bytes *bytes, LsIdx *idx)
{
    return ls_idx_parse(bytes->data, bytes->size, "memory", idx);
}

static void assert_images(const LsIdx *idx, size_t count)
{
    assert_int_equal(idx->type, LS_COLUMN_U8);
    assert_int_equal(idx->dimensions, 3);
    assert_true(
        idx->shape[0] == count && idx->shape[1] == 3 && idx->shape[2] == 5 && idx->bytes == count * 15);
    for (size_t i = 0; i < idx->bytes; i++)
        assert_int_equal(((const uint8_t *)idx->values)[i], pixel(i));
}

static void test_plain_and_gzip(void **state)
{
    (void)state;
    Bytes plain = {.size = 0}, gzip = {.size = 0}, members = {.size = 0};
    put_images(&plain, 1000);
    put_gzip(&gzip, plain.data, plain.size);
    put_gzip(&members, plain.data, 9); // a member may end within the header
    put_gzip(&members, "", 0);
    put_gzip(&members, plain.data + 9, plain.size - 9);
    const Bytes *all[] = {&plain, &gzip, &members};
    for (int i = 0; i < 3; i++) {
        LsIdx idx;
        assert_ok(parse(all[i], &idx));
        assert_images(&idx, 1000);
        ls_idx_free(&idx);
        const char *path = in_directory("any.idx");
        assert_ok(ls_file_replace(path, all[i]->data, all[i]->size));
        assert_ok(ls_idx_read(path, &idx));
        assert_images(&idx, 1000);
        ls_idx_free(&idx);
        bool recognized = false;
        assert_ok(ls_idx_recognize(path, &recognized));
        assert_true(recognized);
    }
    bool recognized = true;
    const char *path = in_directory("any.csv");
    assert_ok(ls_file_replace(path, "a,b\n1,2\n", 8));
    assert_ok(ls_idx_recognize(path, &recognized));
    assert_false(recognized);
}

static void test_floats(void **state)
{
    (void)state;
    Bytes bytes = {.size = 0};
    put_header(&bytes, 0x0D, 2, (uint32_t[]){2, 2});
    put(&bytes, "\x3f\x80\x00\x00\xc0\x20\x00\x00\x00\x00\x00\x00\x7f\x7f\xff\xff", 16);
    LsIdx idx;
    assert_ok(parse(&bytes, &idx));
    const float expected[] = {1.0f, -2.5f, 0.0f, 3.40282346638528859812e38f};
    assert_int_equal(idx.type, LS_COLUMN_F32);
    assert_memory_equal(idx.values, expected, sizeof expected);
    ls_idx_free(&idx);
}

static void assert_refused(const Bytes *bytes, const char *says)
{
    LsIdx idx = {0};
    assert_fails(parse(bytes, &idx), LS_BAD_DATA, says);
    assert_null(idx.values);
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *says;
    } cases[] = {
        {"", 0, "offset 0"},
        {"\0\0\x08", 3, "offset 0"},
        {"PNG!", 4, "offset 0"},
        {"\0\0\x08\0", 4, "offset 3: 0 dimensions"},
        {"\0\0\x08\x06", 4, "offset 3: 6 dimensions"},
        {"\0\0\x09\x01", 4, "0x09 (signed bytes)"},
        {"\0\0\x0b\x01", 4, "0x0B (int16)"},
        {"\0\0\x0c\x01", 4, "0x0C (int32)"},
        {"\0\0\x0e\x01", 4, "0x0E (float64)"},
        {"\0\0\x07\x01", 4, "0x07 (no IDX type)"},
        {"\0\0\x08\x02\0\0\0\x01\0", 9, "offset 9: the file ends within its header"},
        {"\0\0\x08\x02\0\0\0\x01\0\0\0\0", 12, "offset 8: dimension 1 is 0"},
        {"\0\0\x08\x01\0\0\0\x02\x01", 9, "offset 9: the file ends, but its header promises 2 bytes"},
        {"\0\0\x08\x01\0\0\0\x02\x01\x02\x03", 11, "offset 10: there are more bytes"},
        {"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16, "offset 12: dimension 2"},
        {"\x1f\x8b", 2, "gzip"},
        {"\x1f\x8bgarbage instead of gzip", 25, "gzip data is damaged"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Bytes bytes = {.size = 0};
        put(&bytes, cases[i].bytes, cases[i].size);
        assert_refused(&bytes, cases[i].says);
    }
}

// At every length but the full one.
static void test_truncated(void **state)
{
    (void)state;
    Bytes plain = {.size = 0}, gzip = {.size = 0};
    put_images(&plain, 20);
    put_gzip(&gzip, plain.data, plain.size);
    for (size_t length = 0; length < plain.size; length++) {
        Bytes cut = {.size = 0};
        put(&cut, plain.data, length);
        assert_refused(&cut, "memory: offset");
    }
    for (size_t length = 2; length < gzip.size; length++) {
        Bytes cut = {.size = 0};
        put(&cut, gzip.data, length);
        assert_refused(&cut, "memory: the gzip data ends in the middle");
    }
}

static void test_after_the_end(void **state)
{
    (void)state;
    Bytes plain = {.size = 0}, garbage = {.size = 0}, zero = {.size = 0}, second = {.size = 0};
    put_images(&plain, 20);
    put_gzip(&garbage, plain.data, plain.size);
    put(&garbage, "trailing garbage, long enough", 29);
    assert_refused(&garbage, "something else follows the gzip data");
    put_gzip(&zero, plain.data, plain.size);
    put(&zero, "\0\0\0\0", 4);
    assert_refused(&zero, "something else follows the gzip data");
    put_gzip(&second, plain.data, plain.size);
    put_gzip(&second, "more", 4);
    assert_refused(&second, "more bytes than the header promises");
    put(&plain, "", 1);
    assert_refused(&plain, "more bytes than the header promises");
}

// Any flipped byte of a gzip file is noticed by its checksum, or changes nothing (its header has a time and a
// system).
static void test_flipped_gzip(void **state)
{
    (void)state;
    Bytes plain = {.size = 0}, gzip = {.size = 0};
    put_images(&plain, 20);
    put_gzip(&gzip, plain.data, plain.size);
    for (size_t i = 0; i < gzip.size; i++) {
        LsIdx idx = {0};
        gzip.data[i] ^= 0x10;
        LsStatus status = parse(&gzip, &idx);
        if (status == LS_OK)
            assert_images(&idx, 20);
        else
            assert_int_equal(status, LS_BAD_DATA);
        ls_idx_free(&idx);
        gzip.data[i] ^= 0x10;
    }
}

// A header that promises 4 TB, and 256 MiB of zeros in a small gzip, take memory for what is there and no
// more.
static void test_bombs(void **state)
{
    (void)state;
    Bytes promise = {.size = 0};
    put_header(&promise, 0x08, 3, (uint32_t[]){1 << 30, 64, 64});
    put(&promise, "12345", 5);
    assert_refused(&promise, "promises 4398046511104 bytes");

    const char *path = in_directory("bomb.gz");
    gzFile file = gzopen(path, "wb1");
    Bytes small = {.size = 0};
    static uint8_t zeros[1 << 20];
    put_labels(&small, 100, 10);
    assert_int_equal(gzwrite(file, small.data, (unsigned)small.size), (int)small.size);
    for (int i = 0; i < 256; i++)
        assert_int_equal(gzwrite(file, zeros, sizeof zeros), sizeof zeros);
    gzclose(file);
    struct rusage before, after;
    LsIdx idx;
    getrusage(RUSAGE_SELF, &before);
    assert_fails(ls_idx_read(path, &idx), LS_BAD_DATA, "more bytes than the header promises");
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 << 10); // KiB: a quarter of what it would inflate to
}

static const char *write_input(const char *name, const Bytes *bytes)
{
    const char *path = in_directory(name);
    assert_ok(ls_file_replace(path, bytes->data, bytes->size));
    return path;
}

typedef struct Inputs {
    const char *path[6];
    size_t count;
} Inputs;

// Images and labels for training (gzip and plain) and testing.
static Inputs usual_inputs(void)
{
    Bytes images = {.size = 0}, gzip = {.size = 0}, labels = {.size = 0}, test = {.size = 0},
          test_labels = {.size = 0};
    put_images(&images, 100);
    put_gzip(&gzip, images.data, images.size);
    put_labels(&labels, 100, 4);
    put_images(&test, 30);
    put_labels(&test_labels, 30, 3);
    // The order does not matter.
    return (Inputs){.path = {write_input("t10k-labels", &test_labels), write_input("train-images.gz", &gzip),
                        write_input("t10k-images", &test), write_input("train-labels", &labels)},
        .count = 4};
}

static LsImportOptions options_to(const char *output)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = output;
    return options;
}

static void check_rows(const LsDataset *dataset, LsSplit split, size_t count, uint32_t classes)
{
    LsReader *reader = NULL;
    uint8_t x[15];
    int32_t y;
    assert_ok(ls_reader_create(dataset, split, &reader));
    for (uint64_t i = 0; i < count; i++) {
        assert_ok(ls_reader_read(reader, &i, 1, x, &y));
        for (size_t j = 0; j < 15; j++)
            assert_int_equal(x[j], pixel(i * 15 + j));
        assert_int_equal(y, i % classes);
    }
    ls_reader_destroy(reader);
}

static void test_import(void **state)
{
    (void)state;
    Inputs inputs = usual_inputs();
    for (int compress = 0; compress < 2; compress++) {
        LsImportOptions options = options_to(in_directory("out.h5"));
        options.compress = compress;
        bool unchanged = true;
        assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
        assert_false(unchanged);
        LsDataset *dataset = NULL;
        assert_ok(ls_dataset_open(options.output, &dataset));
        assert_ok(ls_dataset_verify(dataset));
        const LsDatasetInfo *info = ls_dataset_info(dataset);
        assert_true(info->samples[LS_TRAIN] == 100 && info->samples[LS_VALIDATION] == 0 &&
                    info->samples[LS_TEST] == 30);
        assert_true(
            info->feature_dimensions == 2 && info->feature_shape[0] == 3 && info->feature_shape[1] == 5);
        assert_true(info->classes && info->outputs == 4 && info->period == 1);
        double sum = 0.0, squares = 0.0;
        for (size_t i = 0; i < 1500; i++)
            sum += pixel(i);
        for (size_t i = 0; i < 1500; i++)
            squares += (pixel(i) - sum / 1500) * (pixel(i) - sum / 1500);
        // Both are float64 sums of small integers, rounded to float once: the mean is exact; the deviation's
        // sum runs in another order, which moves it by a few 1e-16, far below half a float's last digit.
        assert_true(info->shift[0] == (float)(sum / 1500));
        assert_true(fabs(info->scale[0] * sqrt(squares / 1500) - 1.0) < 1e-7);
        check_rows(dataset, LS_TRAIN, 100, 4);
        check_rows(dataset, LS_TEST, 30, 3);
        ls_dataset_close(dataset);
    }
}

// The same inputs and options: nothing is done; anything else: imported again.
static void test_cache(void **state)
{
    (void)state;
    Inputs inputs = usual_inputs();
    LsImportOptions options = options_to(in_directory("cache.h5"));
    bool unchanged;
    struct stat before, after;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_int_equal(stat(options.output, &before), 0);
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_true(unchanged);
    assert_int_equal(stat(options.output, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtime == after.st_mtime);

    options.force = true;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
    options.force = false;
    options.compress = true;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
    options.validation = 0.25;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
    options.seed = 5;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_true(unchanged);
    int fd = open(inputs.path[3], O_WRONLY);
    assert_int_equal(pwrite(fd, "\3", 1, 8), 1);
    close(fd);
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
    assert_int_equal(truncate(options.output, 1000), 0);
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_false(unchanged);
}

static void test_validation_split(void **state)
{
    (void)state;
    Inputs inputs = usual_inputs();
    LsImportOptions options = options_to(in_directory("validation.h5"));
    options.validation = 0.2;
    bool unchanged;
    LsDataset *dataset = NULL;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], 80);
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_VALIDATION], 20);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(dataset->counts[LS_TRAIN][i], 20);
        assert_int_equal(dataset->counts[LS_VALIDATION][i], 5);
    }
    ls_dataset_close(dataset);
    options.test = 0.2; // there are test files
    assert_fails(ls_import_idx(inputs.path, inputs.count, &options, &unchanged), LS_USAGE, "test");
    options.validation = 1.0;
    assert_fails(ls_import_idx(inputs.path, inputs.count, &options, &unchanged), LS_USAGE, "fractions");
}

static void assert_import_refused(const Inputs *inputs, LsStatus status, const char *says)
{
    LsImportOptions options = options_to(in_directory("refused.h5"));
    bool unchanged;
    size_t before = files_in_directory();
    assert_fails(ls_import_idx(inputs->path, inputs->count, &options, &unchanged), status, says);
    assert_int_equal(files_in_directory(), before);
}

static void test_bad_inputs(void **state)
{
    (void)state;
    Inputs usual = usual_inputs(), inputs = usual;
    Bytes labels = {.size = 0}, more = {.size = 0}, floats = {.size = 0}, shape = {.size = 0};
    inputs.path[0] = in_directory("missing");
    assert_import_refused(&inputs, LS_NO_INPUT, "missing");
    inputs.path[0] = directory;
    assert_import_refused(&inputs, LS_BAD_DATA, "not a regular file");

    put_labels(&labels, 30, 7); // 4, 5 and 6 are not among the training labels
    inputs.path[0] = write_input("t10k-labels-high", &labels);
    assert_import_refused(
        &inputs, LS_BAD_DATA, "t10k-labels-high: offset 12: label 4, but the training labels end at 3");

    put_labels(&more, 31, 3);
    inputs.path[0] = write_input("t10k-labels-more", &more);
    assert_import_refused(&inputs, LS_BAD_DATA, "t10k-images has 30 samples");

    put_header(&floats, 0x0D, 1, (uint32_t[]){30});
    for (int i = 0; i < 30; i++)
        put(&floats, "\0\0\0\0", 4);
    inputs.path[0] = write_input("t10k-labels-floats", &floats);
    assert_import_refused(&inputs, LS_BAD_DATA, "labels must be unsigned bytes");

    put_header(&shape, 0x08, 2, (uint32_t[]){30, 15});
    for (int i = 0; i < 450; i++)
        put(&shape, "\1", 1);
    inputs = usual;
    inputs.path[2] = write_input("t10k-images-flat", &shape);
    assert_import_refused(&inputs, LS_BAD_DATA, "different shape");

    inputs = usual;
    inputs.path[4] = inputs.path[1];
    inputs.path[5] = inputs.path[3];
    inputs.count = 6;
    assert_import_refused(&inputs, LS_BAD_DATA, "both hold training features");
    inputs.count = 2;
    assert_import_refused(&inputs, LS_BAD_DATA, "train-images.gz has 100 samples, but no input");
    inputs.count = 0;
    assert_import_refused(&inputs, LS_USAGE, "input");

    LsImportOptions options = options_to(usual.path[2]);
    bool unchanged;
    assert_fails(ls_import_idx(usual.path, usual.count, &options, &unchanged), LS_USAGE, "also an input");
}

static void test_float_features(void **state)
{
    (void)state;
    Bytes floats = {.size = 0}, labels = {.size = 0};
    put_header(&floats, 0x0D, 2, (uint32_t[]){4, 2});
    for (int i = 0; i < 4; i++)
        put(&floats, "\x3f\x80\x00\x00\x40\x40\x00\x00", 8); // 1 and 3
    put_labels(&labels, 4, 2);
    Inputs inputs = {
        .path = {write_input("f-values", &floats), write_input("f-labels", &labels)}, .count = 2};
    LsImportOptions options = options_to(in_directory("floats.h5"));
    bool unchanged;
    LsDataset *dataset = NULL;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_int_equal(ls_dataset_info(dataset)->feature_type, LS_COLUMN_F32);
    assert_true(ls_dataset_info(dataset)->shift[0] == 2.0f && ls_dataset_info(dataset)->scale[0] == 1.0f);
    ls_dataset_close(dataset);

    memcpy(floats.data + 12 + 2 * 8, "\x7f\xc0\x00\x00", 4);
    inputs.path[0] = write_input("f-nan", &floats);
    assert_import_refused(&inputs, LS_BAD_DATA, "f-nan: offset 28: the value is nan");
}

// All values the same: there is no deviation to divide by.
static void test_constant(void **state)
{
    (void)state;
    Bytes images = {.size = 0}, labels = {.size = 0};
    put_header(&images, 0x08, 2, (uint32_t[]){4, 2});
    put(&images, "\7\7\7\7\7\7\7\7", 8);
    put_labels(&labels, 4, 2);
    Inputs inputs = {
        .path = {write_input("c-images", &images), write_input("c-labels", &labels)}, .count = 2};
    LsImportOptions options = options_to(in_directory("constant.h5"));
    bool unchanged;
    LsDataset *dataset = NULL;
    assert_ok(ls_import_idx(inputs.path, inputs.count, &options, &unchanged));
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_true(ls_dataset_info(dataset)->shift[0] == 7.0f && ls_dataset_info(dataset)->scale[0] == 1.0f);
    ls_dataset_close(dataset);
}

static void test_fashion_mnist(void **state)
{
    (void)state;
    static const char *const inputs[] = {FASHION "train-images-idx3-ubyte.gz",
        FASHION "train-labels-idx1-ubyte.gz", FASHION "t10k-images-idx3-ubyte.gz",
        FASHION "t10k-labels-idx1-ubyte.gz"};
    if (!ls_file_exists(inputs[0]))
        skip();
    LsImportOptions options = options_to(in_directory("fashion.h5"));
    bool unchanged;
    LsDataset *dataset = NULL;
    assert_ok(ls_import_idx(inputs, 4, &options, &unchanged));
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    assert_true(info->samples[LS_TRAIN] == 60000 && info->samples[LS_TEST] == 10000 && info->outputs == 10);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(dataset->counts[LS_TRAIN][i], 6000);
        assert_int_equal(dataset->counts[LS_TEST][i], 1000);
    }
    // The published statistics are 0.2860 and 0.3530 of 255, to four digits.
    assert_true(fabs(info->shift[0] / 255.0 - 0.2860) < 5e-5);
    assert_true(fabs(1.0 / info->scale[0] / 255.0 - 0.3530) < 5e-5);
    LsReader *reader = NULL;
    int32_t y[10];
    uint8_t *x = malloc(10 * 784);
    assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
    assert_ok(ls_reader_read(reader, (uint64_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10, x, y));
    assert_memory_equal(y, ((int32_t[]){9, 0, 0, 3, 0, 2, 7, 2, 5, 5}), sizeof y); // as zcat | od shows them
    free(x);
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_and_gzip),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_after_the_end),
        cmocka_unit_test(test_flipped_gzip),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_validation_split),
        cmocka_unit_test(test_bad_inputs),
        cmocka_unit_test(test_float_features),
        cmocka_unit_test(test_constant),
        cmocka_unit_test(test_fashion_mnist),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
