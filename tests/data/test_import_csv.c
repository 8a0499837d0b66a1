// CSV import: the data set holds exactly the transformed rows of each split, and nothing is written twice or
// by halves.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <zlib.h>

#include "data/import.h"
#include "dataset_fixture.h"

enum { ROWS = 400 };

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    fclose(file);
}

// id is the row's number, so that a feature tells where a row came from.
static void append_row(char *text, int row)
{
    static const char *const colors[] = {"red", "green", "\"blue, light\""};
    sprintf(text + strlen(text), "%d,%.3f,%s,%s\n", row, row * 0.37 - 5, colors[row * 7 % 3],
        row % 4 == 0 ? "yes" : "no");
}

static char *example_text(int first, int count)
{
    char *text = malloc((size_t)count * 64 + 64);
    strcpy(text, "id,v,color,label\n");
    for (int r = first; r < first + count; r++)
        append_row(text, r);
    return text;
}

static LsImportOptions example_options(const char *output)
{
    static char kept[256]; // in_directory's paths do not last
    LsImportOptions options;
    ls_import_defaults(&options);
    snprintf(kept, sizeof kept, "%s", output);
    options.output = kept;
    options.label = "label";
    options.validation = 0.1;
    options.test = 0.25;
    options.seed = 7;
    return options;
}

static LsStatus import_one(const char *input, const LsImportOptions *options, bool *unchanged)
{
    return ls_import_csv(&input, 1, options, unchanged);
}

typedef struct Rows {
    size_t rows, features;
    float *x;
    int32_t *y;
} Rows;

static Rows read_split(const LsDataset *dataset, LsSplit split)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    Rows rows = {.rows = info->samples[split], .features = info->features};
    rows.x = malloc(rows.rows * info->features * sizeof(float));
    rows.y = malloc(rows.rows * sizeof(int32_t));
    LsReader *reader;
    assert_ok(ls_reader_create(dataset, split, &reader));
    for (uint64_t r = 0; r < rows.rows; r++)
        assert_ok(ls_reader_read(reader, &r, 1, rows.x + r * rows.features, rows.y + r));
    ls_reader_destroy(reader);
    return rows;
}

static void free_rows(Rows *rows)
{
    free(rows->x);
    free(rows->y);
}

static double column_number(const LsDataset *dataset, size_t column, const char *key)
{
    const json_t *columns = json_object_get(ls_dataset_info(dataset)->schema, "columns");
    return json_number_value(json_object_get(json_array_get(columns, column), key));
}

// The row's number back from its standardised id.
static int row_number(const LsDataset *dataset, const float *x)
{
    double id = x[0] * column_number(dataset, 0, "deviation") + column_number(dataset, 0, "mean");
    return (int)(id + 0.5);
}

// Every row is in one split, in the file's order, with its own features and label.
static void check_split(const LsDataset *dataset, LsSplit split, int *seen, double *sum)
{
    Rows rows = read_split(dataset, split);
    int last = -1;
    for (size_t r = 0; r < rows.rows; r++) {
        const float *x = rows.x + r * rows.features;
        int row = row_number(dataset, x);
        assert_in_range(row, last + 1, ROWS - 1);
        last = row;
        seen[row]++;
        *sum += row;
        assert_int_equal(rows.y[r], row % 4 == 0); // "no", "yes"
        // Categories sorted: "blue, light", green, red.
        assert_true(x[2] == (row * 7 % 3 == 2) && x[3] == (row * 7 % 3 == 1) && x[4] == (row * 7 % 3 == 0));
        char printed[32];
        snprintf(printed, sizeof printed, "%.3f", row * 0.37 - 5);
        double v = strtod(printed, NULL);
        assert_true(x[1] == (float)((v - column_number(dataset, 1, "mean")) /
                                    column_number(dataset, 1, "deviation")));
    }
    free_rows(&rows);
}

static void check_example(const char *path, const char *kind)
{
    LsDataset *dataset;
    assert_ok(ls_dataset_open(path, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    assert_string_equal(json_string_value(json_object_get(info->schema, "kind")), kind);
    assert_int_equal(info->features, 5);
    assert_int_equal(info->outputs, 2);
    assert_true(info->classes && info->period == 1 && info->shift[0] == 0 && info->scale[0] == 1);
    assert_int_equal(info->samples[LS_TRAIN], 260);
    assert_int_equal(info->samples[LS_VALIDATION], 40);
    assert_int_equal(info->samples[LS_TEST], 100);
    int seen[ROWS] = {0};
    double sum[LS_SPLITS] = {0};
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        check_split(dataset, split, seen, &sum[split]);
    for (int r = 0; r < ROWS; r++)
        assert_int_equal(seen[r], 1);
    assert_true(column_number(dataset, 0, "mean") == sum[LS_TRAIN] / 260);
    ls_dataset_close(dataset);
}

static void test_import(void **state)
{
    (void)state;
    char *text = example_text(0, ROWS);
    write_text(in_directory("a.csv"), text);
    for (int compress = 0; compress < 2; compress++) {
        LsImportOptions options = example_options(in_directory("a.h5"));
        bool unchanged = true;
        options.compress = compress;
        assert_ok(import_one(in_directory("a.csv"), &options, &unchanged));
        assert_false(unchanged);
        check_example(in_directory("a.h5"), "csv");
    }
    free(text);
}

static void root_hash(const char *path, char text[LS_HASH128_TEXT])
{
    LsDataset *dataset;
    assert_ok(ls_dataset_open(path, &dataset));
    strcpy(text, ls_dataset_info(dataset)->root_hash);
    ls_dataset_close(dataset);
}

static void test_cache(void **state)
{
    (void)state;
    char *text = example_text(0, ROWS), before[LS_HASH128_TEXT], after[LS_HASH128_TEXT];
    write_text(in_directory("c.csv"), text);
    LsImportOptions options = example_options(in_directory("c.h5"));
    bool unchanged = true;
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_false(unchanged);
    root_hash(options.output, before);
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_true(unchanged);
    options.force = true;
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_false(unchanged);
    root_hash(options.output, after);
    assert_string_equal(before, after); // the same import is the same bits
    options.force = false;
    options.seed = 8;
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_false(unchanged);
    root_hash(options.output, after);
    assert_string_not_equal(before, after);
    options.missing_values = "NA";
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_false(unchanged);
    append_row(text, ROWS);
    write_text(in_directory("c.csv"), text);
    assert_ok(import_one(in_directory("c.csv"), &options, &unchanged));
    assert_false(unchanged);
    free(text);
}

static void test_gzip_and_several_files(void **state)
{
    (void)state;
    char *first = example_text(0, 150), *second = example_text(150, ROWS - 150);
    write_text(in_directory("1.csv"), first);
    gzFile packed = gzopen(in_directory("2.csv.gz"), "wb");
    assert_int_equal(gzputs(packed, second), (int)strlen(second));
    gzclose(packed);
    const char *inputs[] = {in_directory("1.csv"), in_directory("2.csv.gz")};
    LsImportOptions options = example_options(in_directory("two.h5"));
    bool unchanged;
    assert_ok(ls_import_csv(inputs, 2, &options, &unchanged));
    check_example(options.output, "csv");
    free(second);
    free(first);
}

static void test_regression(void **state)
{
    (void)state;
    char text[4096] = "";
    for (int r = 0; r < 100; r++)
        sprintf(text + strlen(text), "%d;%.2f\n", r, r * 0.01);
    write_text(in_directory("r.csv"), text);
    LsImportOptions options = example_options(in_directory("r.h5"));
    options.label = "1";
    options.header = false;
    options.delimiter = ';';
    options.regression = true;
    bool unchanged;
    assert_ok(import_one(in_directory("r.csv"), &options, &unchanged));
    LsDataset *dataset;
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_false(ls_dataset_info(dataset)->classes);
    assert_int_equal(ls_dataset_info(dataset)->outputs, 1);
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TEST], 25);
    Rows rows = read_split(dataset, LS_TEST);
    for (size_t r = 0; r < rows.rows; r++) {
        float target;
        char printed[16];
        memcpy(&target, &rows.y[r], sizeof target);
        snprintf(printed, sizeof printed, "%.2f", row_number(dataset, rows.x + r) * 0.01);
        assert_true(target == (float)strtod(printed, NULL));
    }
    free_rows(&rows);
    ls_dataset_close(dataset);
}

static void test_missing_values_are_counted(void **state)
{
    (void)state;
    char *text = example_text(0, ROWS);
    strcat(text, "400,NA,red,no\n401,1,,yes\n402,1,green,\n");
    write_text(in_directory("m.csv"), text);
    LsImportOptions options = example_options(in_directory("m.h5"));
    options.missing_values = "NA";
    options.missing = LS_MISSING_DROP;
    bool unchanged;
    assert_ok(import_one(in_directory("m.csv"), &options, &unchanged));
    check_example(options.output, "csv");
    LsDataset *dataset;
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_int_equal(json_integer_value(json_object_get(ls_dataset_info(dataset)->schema, "dropped")), 3);
    for (size_t c = 0; c < 4; c++)
        assert_true(column_number(dataset, c, "missing") == (c > 0));
    ls_dataset_close(dataset);
    free(text);
}

// One mistake each; none leaves a file, and a file that was there stays as it was.
static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        LsStatus status;
        const char *part;
    } cases[] = {
        {"", LS_BAD_DATA, "bad.csv: the file is empty"},
        {"id,v,color,label\n", LS_BAD_DATA, "bad.csv: there are no rows"},
        {"id,v,color,label\n1,2,red\n", LS_BAD_DATA,
            "bad.csv:2: the row has 3 fields where the first row has 4"},
        {"id,v,color,label\n1,2,\"red,a\n", LS_BAD_DATA, "bad.csv:2: the quote of field 3"},
        {"id,v,color,target\n1,2,red,a\n", LS_CONFIG, "label: "},
        {"id,v,v,label\n1,2,red,a\n", LS_BAD_DATA, "two columns have the name \"v\""},
        {"id,v,color,label\n1,2,red,a\n1,,red,b\n", LS_BAD_DATA,
            "bad.csv:3: column \"v\": the value is missing"},
        {"id,v,color,label\n1,2,red,a\n1,inf,red,b\n", LS_BAD_DATA,
            "bad.csv:3: column \"v\": \"inf\" is not a finite"},
        {"id,v,color,label\n1,2,red,a\n1,2,red,a\n", LS_BAD_DATA, "every row has the label \"a\""},
        {"\x89HDF\r\n\x1a\n", LS_BAD_DATA, "bad.csv:1: the name of column 1 is not UTF-8"},
    };
    LsImportOptions options = example_options(in_directory("bad.h5"));
    options.validation = options.test = 0;
    bool unchanged = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(in_directory("bad.csv"), cases[i].text);
        size_t files = files_in_directory();
        assert_fails(
            import_one(in_directory("bad.csv"), &options, &unchanged), cases[i].status, cases[i].part);
        assert_int_equal(files_in_directory(), files);
        assert_true(unchanged); // outputs are set on success only
    }
    assert_fails(import_one(in_directory("none.csv"), &options, &unchanged), LS_NO_INPUT, "none.csv");
    options.label = "\xFF";
    assert_fails(
        import_one(in_directory("bad.csv"), &options, &unchanged), LS_CONFIG, "label: the text is not UTF-8");

    write_text(in_directory("bad.csv"), "id,v,color,label\n1,2,red,a\n1,2,red,b\n");
    char before[LS_HASH128_TEXT], after[LS_HASH128_TEXT];
    options.label = "label";
    assert_ok(import_one(in_directory("bad.csv"), &options, &unchanged));
    root_hash(options.output, before);
    write_text(in_directory("bad.csv"), cases[2].text);
    assert_int_equal(import_one(in_directory("bad.csv"), &options, &unchanged), LS_BAD_DATA);
    root_hash(options.output, after);
    assert_string_equal(before, after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_gzip_and_several_files),
        cmocka_unit_test(test_regression),
        cmocka_unit_test(test_missing_values_are_counted),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
