// CIFAR's binary files become [32][32][3] with the right labels, names and statistics; what is no such file
// is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "data/import.h"
#include "dataset_fixture.h"
#include "import_cifar.h"

enum { PLANE = 32 * 32 };

// The value of a pixel of record i: what no two channels have in common.
static uint8_t pixel(size_t i, size_t channel, size_t at)
{
    return (uint8_t)(i * 13 + channel * (70 + i % 3) + at % 97 + at / 31);
}

static size_t label_of(size_t i, size_t classes)
{
    return (i * 7 + i / 10) % classes;
}

// label_bytes 1: CIFAR-10; 2: CIFAR-100, whose coarse label is a fifth of the fine one.
static const char *write_file(const char *name, size_t label_bytes, size_t first, size_t count)
{
    const char *path = in_directory(name);
    FILE *file = fopen(path, "wb");
    for (size_t i = first; i < first + count; i++) {
        if (label_bytes == 2)
            fputc((int)label_of(i, 100) / 5, file);
        fputc((int)label_of(i, label_bytes == 1 ? 10 : 100), file);
        for (size_t c = 0; c < 3; c++)
            for (size_t at = 0; at < PLANE; at++)
                fputc(pixel(i, c, at), file);
    }
    fclose(file);
    return path;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(in_directory(name), "w");
    fputs(text, file);
    fclose(file);
}

static LsDataset *imported(const char *const *inputs, size_t count, const LsImportOptions *options)
{
    bool unchanged = true;
    LsDataset *dataset = NULL;
    assert_ok(ls_import_cifar(inputs, count, options, &unchanged));
    assert_false(unchanged);
    assert_ok(ls_import_cifar(inputs, count, options, &unchanged));
    assert_true(unchanged);
    assert_ok(ls_dataset_open(options->output, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    return dataset;
}

// Record `first + s` is sample s of the split.
static void check_split(
    const LsDataset *dataset, LsSplit split, size_t first, size_t classes, size_t per_class)
{
    LsReader *reader = NULL;
    uint8_t x[LS_CIFAR_BYTES];
    int32_t y;
    assert_ok(ls_reader_create(dataset, split, &reader));
    for (uint64_t s = 0; s < ls_dataset_info(dataset)->samples[split]; s++) {
        assert_ok(ls_reader_read(reader, &s, 1, x, &y));
        assert_int_equal(y, label_of(first + s, classes) / per_class);
        for (size_t at = 0; at < PLANE; at++)
            for (size_t c = 0; c < 3; c++)
                assert_int_equal(x[at * 3 + c], pixel(first + s, c, at));
    }
    ls_reader_destroy(reader);
}

static const char *class_name(const LsDataset *dataset, size_t i)
{
    return json_string_value(json_array_get(json_object_get(ls_dataset_info(dataset)->schema, "classes"), i));
}

static void test_cifar10(void **state)
{
    (void)state;
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory("ten.h5");
    const char *inputs[] = {write_file("data_batch_1.bin", 1, 0, 30),
        write_file("data_batch_2.bin", 1, 30, 25), write_file("test_batch.bin", 1, 55, 11)};
    LsDataset *dataset = imported(inputs, 3, &options);
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    assert_int_equal(info->samples[LS_TRAIN], 55);
    assert_int_equal(info->samples[LS_VALIDATION], 0);
    assert_int_equal(info->samples[LS_TEST], 11);
    assert_true(info->feature_dimensions == 3 && info->feature_shape[0] == 32 && info->feature_shape[2] == 3);
    assert_true(info->classes && info->outputs == 10 && info->period == 3);
    assert_string_equal(class_name(dataset, 9), "9");
    check_split(dataset, LS_TRAIN, 0, 10, 1);
    check_split(dataset, LS_TEST, 55, 10, 1);
    for (size_t c = 0; c < 3; c++) { // of the training split alone
        double sum = 0, squares = 0, n = 55.0 * PLANE;
        for (size_t i = 0; i < 55; i++)
            for (size_t at = 0; at < PLANE; at++)
                sum += pixel(i, c, at), squares += (double)pixel(i, c, at) * pixel(i, c, at);
        // Sums of whole numbers are exact; the variance loses some of 16 digits, and float has 7.
        assert_true(info->shift[c] == (float)(sum / n));
        assert_true(fabs(info->scale[c] * sqrt(squares / n - sum / n * (sum / n)) - 1.0) < 1e-6);
    }
    ls_dataset_close(dataset);
}

static void test_cifar100(void **state)
{
    (void)state;
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory("hundred.h5");
    const char *inputs[] = {write_file("train.bin", 2, 0, 40), write_file("test.bin", 2, 40, 9)};
    LsDataset *dataset = imported(inputs, 2, &options);
    assert_int_equal(ls_dataset_info(dataset)->outputs, 100);
    check_split(dataset, LS_TRAIN, 0, 100, 1);
    check_split(dataset, LS_TEST, 40, 100, 1);
    ls_dataset_close(dataset);
    options.coarse = true;
    char names[400] = "";
    for (int i = 0; i < 20; i++)
        snprintf(names + strlen(names), 20, "coarse-%d\n", i);
    write_text("coarse_label_names.txt", strcat(names, "\n"));
    dataset = imported(inputs, 2, &options);
    assert_int_equal(ls_dataset_info(dataset)->outputs, 20);
    assert_string_equal(class_name(dataset, 7), "coarse-7");
    check_split(dataset, LS_TRAIN, 0, 100, 5);
    ls_dataset_close(dataset);
    // Part of the training files for validation.
    options.validation = 0.25;
    dataset = imported(inputs, 2, &options);
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_VALIDATION], 10);
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], 30);
    ls_dataset_close(dataset);
}

static void test_refused(void **state)
{
    (void)state;
    bool unchanged;
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory("refused.h5");
    const char *ten = write_file("ten.bin", 1, 0, 3), *hundred = write_file("hundred.bin", 2, 0, 3);
    const char *test = write_file("only-test.bin", 1, 0, 3);
    const char *both[] = {ten, hundred}, *tested[] = {ten, test};
    assert_fails(ls_import_cifar(both, 2, &options, &unchanged), LS_BAD_DATA, "different kinds");
    assert_fails(ls_import_cifar(&test, 1, &options, &unchanged), LS_BAD_DATA, "no training files");
    options.coarse = true;
    assert_fails(ls_import_cifar(&ten, 1, &options, &unchanged), LS_USAGE, "--labels coarse");
    options.coarse = false;
    options.test = 0.1;
    assert_fails(ls_import_cifar(tested, 2, &options, &unchanged), LS_USAGE, "test fraction");
    options.test = 0;
    write_text("batches.meta.txt", "one\ntwo\n");
    assert_fails(ls_import_cifar(&ten, 1, &options, &unchanged), LS_BAD_DATA, "2 names for 10 classes");
    write_text("batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\n\xff\n");
    assert_fails(ls_import_cifar(&ten, 1, &options, &unchanged), LS_BAD_DATA, "UTF-8");
    unlink(in_directory("batches.meta.txt"));
    assert_int_equal(truncate(ten, 3 * 3073 - 1), 0);
    assert_fails(
        ls_import_cifar(&ten, 1, &options, &unchanged), LS_BAD_DATA, "9218 bytes are no whole number");
    assert_int_equal(truncate(ten, 0), 0);
    assert_fails(ls_import_cifar(&ten, 1, &options, &unchanged), LS_BAD_DATA, "0 bytes are no whole number");
    FILE *file = fopen(hundred, "r+b");
    fseek(file, 3074 + 1, SEEK_SET);
    fputc(100, file);
    fclose(file);
    assert_fails(ls_import_cifar(&hundred, 1, &options, &unchanged), LS_BAD_DATA,
        "offset 3075: label 100 is not below the 100 fine classes of CIFAR-100");
    const char *missing = in_directory("missing.bin");
    assert_fails(ls_import_cifar(&missing, 1, &options, &unchanged), LS_NO_INPUT, "missing.bin");
    assert_false(ls_file_exists(options.output));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cifar10),
        cmocka_unit_test(test_cifar100),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
