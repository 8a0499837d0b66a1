// A partition is read as if the file held nothing else; what names none is refused; and a schema whose
// partitions are not those of its samples is damaged.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/import.h"
#include "data/loader.h"
#include "dataset_fixture.h"
#include "partitions.h"

enum { ROWS = 90 };

static const char *region_of(int i)
{
    static const char *const regions[] = {"south", "o'brien", "", "north"};
    return i % 7 == 0 ? "north" : regions[i % 3];
}

// Row i has the feature i; where it is partitioned by region, rows of a region keep their order.
static const char *table(void)
{
    const char *path = in_directory("table.csv");
    FILE *file = fopen(path, "w");
    fputs("amount,\"the region\",label\n", file);
    for (int i = 0; i < ROWS; i++)
        fprintf(file, "%d,%s,%s\n", i, region_of(i), i % 2 ? "odd" : "even");
    fclose(file);
    return path;
}

static LsDataset *imported(bool compress)
{
    const char *input = table();
    bool unchanged;
    LsDataset *dataset = NULL;
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory(compress ? "small.h5" : "table.h5");
    options.label = "label";
    options.partition_by = "the region";
    options.test = 0.2;
    options.compress = compress;
    assert_ok(ls_import_csv(&input, 1, &options, &unchanged));
    assert_ok(ls_dataset_open_cached(options.output, compress ? 0 : LS_CACHE_LIMIT, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    assert_int_equal(ls_dataset_info(dataset)->features, 1); // the region is none
    return dataset;
}

// The number of the row that a feature came from.
static int row_of(const LsDataset *dataset, float x)
{
    const json_t *column = json_array_get(json_object_get(ls_dataset_info(dataset)->schema, "columns"), 0);
    double mean = json_number_value(json_object_get(column, "mean"));
    double deviation = json_number_value(json_object_get(column, "deviation"));
    return (int)(x * deviation + mean + 0.5);
}

// Reads what is left of a split; returns how many rows there are.
static size_t check_split(const LsDataset *dataset, LsSplit split, const char *region)
{
    LsReader *reader = NULL;
    size_t samples = ls_dataset_info(dataset)->samples[split];
    int before = -1;
    if (samples == 0)
        return 0;
    assert_ok(ls_reader_create(dataset, split, &reader));
    for (uint64_t s = 0; s < samples; s++) {
        float x;
        int32_t y;
        assert_ok(ls_reader_read(reader, &s, 1, &x, &y));
        int row = row_of(dataset, x);
        assert_true(row > before && row < ROWS);
        assert_string_equal(region_of(row), region);
        assert_int_equal(y, row % 2);
        before = row;
    }
    uint64_t beyond = samples;
    float x;
    assert_fails(ls_reader_read(reader, &beyond, 1, &x, NULL), LS_INTERNAL, "sample");
    ls_reader_destroy(reader);
    return samples;
}

static void check_partition(bool compress, const char *where, const char *region)
{
    LsDataset *dataset = imported(compress);
    size_t expected = 0;
    for (int i = 0; i < ROWS; i++)
        expected += strcmp(region_of(i), region) == 0;
    assert_ok(ls_dataset_select(dataset, where));
    size_t train = check_split(dataset, LS_TRAIN, region), test = check_split(dataset, LS_TEST, region);
    assert_int_equal(train + test, expected);
    assert_true(train > 0 && test > 0);
    // A whole epoch of the loader is all of it, once.
    LsLoader *loader = NULL;
    LsLoaderOptions options = {.seed = 5,
        .batch = train,
        .lanes = 1,
        .lane_count = 1,
        .accumulation = 1,
        .workers = 2,
        .prefetch = 2};
    const LsHostBatch *batch = NULL;
    bool seen[ROWS] = {false};
    assert_ok(ls_loader_create(dataset, &options, &loader));
    assert_ok(ls_loader_next(loader, &batch, NULL));
    for (size_t i = 0; i < train; i++) {
        int row = row_of(dataset, ((const float *)batch->x)[i]);
        assert_false(seen[row]);
        assert_string_equal(region_of(row), region);
        seen[row] = true;
    }
    ls_loader_return(loader, batch);
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
}

static void test_each_partition(void **state)
{
    (void)state;
    for (int compress = 0; compress < 2; compress++) {
        check_partition(compress, "\"the region\" == 'south'", "south");
        check_partition(compress, "  \"the region\"=='north' ", "north");
        check_partition(compress, "\"the region\" == 'o''brien'", "o'brien");
        check_partition(compress, "\"the region\" == ''", "");
    }
}

static void test_all_of_it(void **state)
{
    (void)state;
    LsDataset *dataset = imported(false);
    assert_ok(ls_dataset_select(dataset, ""));
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], 72);
    const json_t *schema = ls_dataset_info(dataset)->schema;
    uint64_t end = 0;
    assert_string_equal(ls_partition_of(schema, LS_TRAIN, 0, &end), "");
    assert_string_equal(ls_partition_of(schema, LS_TRAIN, end, &end), "north");
    assert_string_equal(ls_partition_of(schema, LS_TRAIN, 71, &end), "south");
    assert_int_equal(end, 72);
    assert_null(ls_partition_of(schema, LS_TRAIN, 72, &end));
    ls_dataset_close(dataset);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const malformed[] = {"south", "region = 'south'", "region == south",
        "region == 'south", "== 'south'", "\"region == 'south'", "region == 'south' or region == 'north'",
        "region == \"south\"", " "};
    LsDataset *dataset = imported(false);
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        assert_fails(ls_dataset_select(dataset, malformed[i]), LS_CONFIG, "column == 'value'");
    assert_fails(
        ls_dataset_select(dataset, "amount == '1'"), LS_CONFIG, "partitioned by \"the region\" alone");
    assert_fails(ls_dataset_select(dataset, "\"the region\" == 'west'"), LS_CONFIG,
        "no partition \"west\"; it has 4: \"\", \"north\", \"o'brien\", …");
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], 72); // as it was
    ls_dataset_close(dataset);
    LsDataset *plain = NULL;
    const Example example = {.type = LS_COLUMN_U8,
        .classes = true,
        .shape = {3},
        .dimensions = 1,
        .outputs = 2,
        .samples = {8, 0, 0}};
    assert_ok(write_example(&example, in_directory("plain.h5")));
    assert_ok(ls_dataset_open(in_directory("plain.h5"), &plain));
    assert_fails(ls_dataset_select(plain, "a == 'b'"), LS_CONFIG, "--partition-by");
    ls_dataset_close(plain);
}

static void test_sound(void **state)
{
    (void)state;
    static const struct {
        const char *partitions;
        bool sound;
    } cases[] = {
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,6]},{\"value\":\"y\",\"train\":[6,4],"
         "\"test\":[0,3]}]}",
            true},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,10],\"test\":[0,3]}]}", true},
        {"{\"values\":[{\"value\":\"x\",\"train\":[0,10],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":{}}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,11],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,9],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[1,9],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,10]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,-10],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,10,1],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":3,\"train\":[0,10],\"test\":[0,3]}]}", false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"y\",\"train\":[0,6]},{\"value\":\"x\",\"train\":[6,4],"
         "\"test\":[0,3]}]}",
            false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,6]},{\"value\":\"y\",\"train\":[5,5],"
         "\"test\":[0,3]}]}",
            false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,6]},{\"value\":\"y\",\"train\":[5,4],"
         "\"test\":[0,3]}]}",
            false},
        {"{\"column\":\"a\",\"values\":[{\"value\":\"x\",\"train\":[0,9223372036854775807],\"test\":[0,3]}]}",
            false},
    };
    const size_t samples[LS_SPLITS] = {10, 0, 3};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *schema = json_pack("{s:o}", "partitions", json_loads(cases[i].partitions, 0, NULL));
        assert_non_null(schema);
        if (ls_partitions_sound(schema, samples) != cases[i].sound)
            fail_msg("%s", cases[i].partitions);
        json_decref(schema);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_partition),
        cmocka_unit_test(test_all_of_it),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sound),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
