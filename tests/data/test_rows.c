// New rows through the stored preprocessing: the same bits as at import, whatever the file looks like.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <zlib.h>

#include "data/import.h"
#include "dataset_fixture.h"
#include "import_cifar.h"

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
}

static const char *write_text(const char *name, const char *text)
{
    write_bytes(in_directory(name), text, strlen(text));
    return in_directory(name);
}

enum { ROWS = 120 };

static void append_row(char *text, int r, bool hole)
{
    char v[32] = "";
    if (!hole)
        snprintf(v, sizeof v, "%.17g", r / 7.0 - 3);
    sprintf(text + strlen(text), "%d,%s,%s,%s\n", r, v,
        r % 5 == 4 ? ""
        : r % 2    ? "odd"
                   : "even",
        r % 3 ? "no" : "yes");
}

static LsDataset *import_text(const char *text, LsMissingPolicy missing, bool header)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory("data.h5");
    options.label = header ? "label" : "3";
    options.missing = missing;
    options.header = header;
    options.test = 0.3;
    bool unchanged;
    const char *path = write_text("data.csv", text);
    assert_ok(ls_import_csv(&path, 1, &options, &unchanged));
    LsDataset *dataset;
    assert_ok(ls_dataset_open(options.output, &dataset));
    return dataset;
}

// The whole input goes through ls_rows_read; its rows must be those of the splits, each in order.
static void compare_with_dataset(const LsDataset *dataset, const LsRows *rows)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    size_t row_bytes = info->features * sizeof(float), found = 0;
    float *x = malloc(row_bytes);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
        if (info->samples[split] == 0)
            continue;
        LsReader *reader;
        size_t at = 0; // both are in the order of the file
        assert_ok(ls_reader_create(dataset, split, &reader));
        for (uint64_t s = 0; s < info->samples[split]; s++) {
            int32_t y;
            assert_ok(ls_reader_read(reader, &s, 1, x, &y));
            while (at < rows->rows && (memcmp((float *)rows->x + at * info->features, x, row_bytes) != 0 ||
                                          ((int32_t *)rows->y)[at] != y))
                at++;
            assert_true(at < rows->rows);
            at++;
            found++;
        }
        ls_reader_destroy(reader);
    }
    assert_int_equal(found, rows->rows); // ids differ, so each was found once
    free(x);
}

static void test_same_bits_as_import(void **state)
{
    (void)state;
    for (int policy = LS_MISSING_DROP; policy <= LS_MISSING_FILL; policy++) {
        char text[ROWS * 64] = "id,v,parity,label\n";
        for (int r = 0; r < ROWS; r++)
            append_row(text, r, r % 11 == 0);
        LsDataset *dataset = import_text(text, (LsMissingPolicy)policy, true);
        LsRows rows;
        assert_ok(ls_rows_read(ls_dataset_info(dataset)->schema, in_directory("data.csv"), &rows));
        compare_with_dataset(dataset, &rows);
        size_t kept = 0;
        for (int r = 0; r < ROWS; r++)
            if (policy == LS_MISSING_FILL || (r % 11 != 0 && r % 5 != 4))
                assert_int_equal(rows.lines[kept++], r + 2);
        assert_int_equal(rows.rows, kept);
        assert_int_equal(rows.dropped, ROWS - kept);
        ls_rows_free(&rows);
        ls_dataset_close(dataset);
    }
}

// Rows without holes, as a data set whose policy is to refuse them.
static LsDataset *import_small(bool header)
{
    return import_text(header ? "a,b,c,label\n1,x,5,no\n2,y,6,yes\n4,x,8,no\n9,y,9,yes\n3,x,1,no\n5,x,2,yes\n"
                              : "1,x,5,no\n2,y,6,yes\n4,x,8,no\n9,y,9,yes\n3,x,1,no\n5,x,2,yes\n",
        LS_MISSING_ERROR, header);
}

static LsStatus read_text(const LsDataset *dataset, const char *text, LsRows *rows)
{
    return ls_rows_read(ls_dataset_info(dataset)->schema, write_text("new.csv", text), rows);
}

// Both files must give the same features; labels as said.
static void expect_same(const LsDataset *dataset, const char *one, const char *other, bool labelled)
{
    LsRows a, b;
    assert_ok(read_text(dataset, one, &a));
    assert_ok(read_text(dataset, other, &b));
    assert_int_equal(a.rows, b.rows);
    assert_memory_equal(a.x, b.x, a.rows * ls_dataset_info(dataset)->features * sizeof(float));
    assert_int_equal(b.y != NULL, labelled);
    if (labelled)
        assert_memory_equal(a.y, b.y, a.rows * sizeof(int32_t));
    ls_rows_free(&a);
    ls_rows_free(&b);
}

static void test_columns_by_name(void **state)
{
    (void)state;
    LsDataset *dataset = import_small(true);
    static const char plain[] = "a,b,c,label\n1.5,x,2,yes\n7,y,0,no\n";
    expect_same(dataset, plain, "extra,c,label,b,a\n,2,yes,x,1.5\noops,0,no,y,7\n", true);
    expect_same(dataset, plain, "c,b,a\n2,x,1.5\n0,y,7\n", false);
    expect_same(dataset, plain, "a,b,c,label\n1.5,x,2,\n7,y,0,\n", false);
    expect_same(dataset, plain, "a,b,c,label\n1.5,x,2,yes\n7,y,0,\n", false);
    expect_same(dataset, plain,
        "\xEF\xBB\xBF\"a\",\"b\",\"c\",\"label\"\r\n\" 1.5\",x,2e0,yes\r\n7,\"y\",-0,no", true);
    ls_dataset_close(dataset);
}

static void test_columns_by_position(void **state)
{
    (void)state;
    LsDataset *dataset = import_small(false);
    expect_same(dataset, "1.5,x,2,yes\n7,y,0,no\n", "1.5,x,2\n7,y,0\n", false);
    LsRows rows;
    assert_fails(read_text(dataset, "1,x\n", &rows), LS_BAD_DATA,
        "the file has 2 columns where the training data has 4");
    assert_fails(read_text(dataset, "1,x,2,no,5\n", &rows), LS_BAD_DATA, "the file has 5 columns");
    ls_dataset_close(dataset);
}

static void test_unseen_and_bad(void **state)
{
    (void)state;
    LsDataset *dataset = import_small(true);
    LsRows rows;
    assert_ok(read_text(dataset, "a,b,c\n1,z,2\n1,x,2\n1,Z,3\n", &rows));
    assert_int_equal(rows.unseen, 2);
    const float *x = rows.x;
    assert_true(x[1] == 0 && x[2] == 0 && x[4 + 1] == 1);
    ls_rows_free(&rows);
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "new.csv: the file is empty"},
        {"a,b,c\n", "new.csv: there are no rows"},
        {"a,b,label\n1,x,no\n", "new.csv: there is no column \"c\""},
        {"a,b,c\n1,x,\n", "new.csv:2: column \"c\": the value is missing"},
        {"a,b,c\n1,x,2\nred,x,2\n", "new.csv:3: column \"a\": \"red\" is not a number"},
        {"a,b,c\nnan,x,2\n", "new.csv:2: column \"a\": \"nan\" is not a finite number"},
        {"a,b,c\n1,x\n", "new.csv:2: the row has 2 fields"},
        {"a,b,c,label\n1,x,2,perhaps\n", "new.csv:2: column \"label\": \"perhaps\" is none of the 2 classes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(read_text(dataset, cases[i].text, &rows), LS_BAD_DATA, cases[i].part);
    assert_fails(ls_rows_read(ls_dataset_info(dataset)->schema, in_directory("none.csv"), &rows), LS_NO_INPUT,
        "none.csv");
    ls_dataset_close(dataset);
}

// ---- IDX ----

// A header of u8 values and `samples` samples of 2 × 3 bytes that count upwards.
static size_t make_images(uint8_t out[256], uint8_t samples)
{
    static const uint8_t header[] = {0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3};
    memcpy(out, header, sizeof header);
    out[7] = samples;
    for (size_t i = 0; i < (size_t)samples * 6; i++)
        out[sizeof header + i] = (uint8_t)i;
    return sizeof header + (size_t)samples * 6;
}

static json_t *idx_schema(const char *type, int height)
{
    return json_pack("{s:s, s:s, s:[i, i]}", "kind", "idx", "feature_type", type, "feature_shape", height, 3);
}

static void test_images(void **state)
{
    (void)state;
    uint8_t images[256];
    size_t size = make_images(images, 5);
    write_bytes(in_directory("images"), images, size);
    gzFile packed = gzopen(in_directory("images.gz"), "wb");
    assert_int_equal(gzwrite(packed, images, (unsigned)size), size);
    gzclose(packed);
    json_t *schema = idx_schema("u8", 2), *taller = idx_schema("u8", 3), *floats = idx_schema("f32", 2);
    LsRows rows;
    static const char *const names[] = {"images", "images.gz"};
    for (size_t i = 0; i < 2; i++) {
        assert_ok(ls_rows_read(schema, in_directory(names[i]), &rows));
        assert_int_equal(rows.rows, 5);
        assert_memory_equal(rows.x, images + size - 30, 30);
        assert_null(rows.y);
        assert_int_equal(rows.lines[4], 5);
        ls_rows_free(&rows);
    }
    assert_fails(ls_rows_read(taller, in_directory("images"), &rows), LS_BAD_DATA, "shape");
    assert_fails(ls_rows_read(floats, in_directory("images"), &rows), LS_BAD_DATA, "type");
    write_bytes(in_directory("cut"), images, size - 1);
    assert_int_equal(ls_rows_read(schema, in_directory("cut"), &rows), LS_BAD_DATA);
    assert_fails(ls_rows_read(schema, write_text("text.csv", "a,b\n1,2\n"), &rows), LS_BAD_DATA,
        "is no JPEG, PNG or IDX file, the training data was idx");
    LsDataset *dataset = import_small(true);
    assert_fails(ls_rows_read(ls_dataset_info(dataset)->schema, in_directory("images"), &rows), LS_BAD_DATA,
        "is a JPEG, PNG or IDX file, the training data was csv");
    ls_dataset_close(dataset);
    json_decref(floats);
    json_decref(taller);
    json_decref(schema);
}

// Two records of CIFAR-10's files, whose labels are not read.
static void test_cifar(void **state)
{
    (void)state;
    static uint8_t records[2][1 + LS_CIFAR_BYTES];
    for (size_t r = 0; r < 2; r++)
        for (size_t i = 0; i < LS_CIFAR_BYTES; i++)
            records[r][1 + i] = (uint8_t)(r + i / 1024 * 50 + i % 31);
    write_bytes(in_directory("batch.bin"), records, sizeof records);
    json_t *schema = json_pack("{s:s, s:s, s:[i, i, i]}", "kind", "cifar", "feature_type", "u8",
        "feature_shape", LS_CIFAR_SIDE, LS_CIFAR_SIDE, LS_CIFAR_CHANNELS);
    LsRows rows;
    assert_ok(ls_rows_read(schema, in_directory("batch.bin"), &rows));
    assert_int_equal(rows.rows, 2);
    assert_null(rows.names);
    assert_int_equal(rows.lines[1], 2);
    const uint8_t *x = rows.x;
    for (size_t i = 0; i < 2 * LS_CIFAR_BYTES; i++)
        assert_int_equal(x[i], records[i / LS_CIFAR_BYTES][1 + i % 3 * 1024 + i % LS_CIFAR_BYTES / 3]);
    ls_rows_free(&rows);
    write_bytes(in_directory("cut.bin"), records, sizeof records - 1);
    assert_fails(
        ls_rows_read(schema, in_directory("cut.bin"), &rows), LS_BAD_DATA, "no whole number of records");
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_as_import),
        cmocka_unit_test(test_columns_by_name),
        cmocka_unit_test(test_columns_by_position),
        cmocka_unit_test(test_unseen_and_bad),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_cifar),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
