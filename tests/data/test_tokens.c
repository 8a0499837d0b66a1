// Token data sets: windows in every layout, and what is wrong with damaged ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "dataset_fixture.h"
#include "token_set.h"

enum { TRAIN = 50000, VALIDATION = 1001, WINDOW = 37 };

static uint32_t token_at(LsSplit split, uint64_t i, size_t vocabulary)
{
    return (uint32_t)((i * 2654435761u + split * 77 + (i >> 7)) % vocabulary);
}

static LsStatus write_split(LsTokenSet *set, LsSplit split)
{
    for (size_t i = 0, count; i < set->tokens[split]; i += count) {
        uint32_t tokens[999];
        count = set->tokens[split] - i < 999 ? set->tokens[split] - i : 999;
        for (size_t j = 0; j < count; j++)
            tokens[j] = token_at(split, i + j, set->vocabulary);
        LS_TRY(ls_token_set_append(set, split, tokens, count));
    }
    return LS_OK;
}

static LsStatus write_set(const char *name, size_t vocabulary, bool compress)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory(name);
    options.compress = compress;
    LsTokenSet *set = calloc(1, sizeof *set);
    *set = (LsTokenSet){.vocabulary = vocabulary, .tokens = {TRAIN, VALIDATION}};
    json_t *import = json_pack("{s:s, s:[], s:{}}", "key", "none", "inputs", "options");
    LsStatus status = ls_token_set_begin(&options, set);
    if (status == LS_OK)
        status = write_split(set, LS_TRAIN);
    if (status == LS_OK)
        status = write_split(set, LS_VALIDATION);
    if (status == LS_OK)
        status = ls_token_set_commit(set, import, 3);
    ls_writer_destroy(set->writer);
    json_decref(import);
    free(set);
    return status;
}

static LsDataset *open_set(const char *name, size_t cache, size_t window)
{
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open_cached(in_directory(name), cache, &dataset));
    if (window > 0)
        assert_ok(ls_dataset_set_window(dataset, window));
    return dataset;
}

static void check_windows(
    LsReader *reader, const LsDatasetInfo *info, LsSplit split, const uint64_t *samples, size_t count)
{
    int32_t x[8 * WINDOW], y[8 * WINDOW];
    memset(x, 0xff, sizeof x);
    memset(y, 0xff, sizeof y);
    assert_ok(ls_reader_read(reader, samples, count, x, y));
    for (size_t i = 0; i < count * info->window; i++) {
        uint64_t place = samples[i / info->window] * info->window + i % info->window;
        assert_int_equal(x[i], token_at(split, place, info->vocabulary));
        assert_int_equal(y[i], token_at(split, place + 1, info->vocabulary));
    }
}

// Every window forwards, in groups, and some of them in any order.
static void check_split(const LsDataset *dataset, LsSplit split)
{
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    LsReader *reader = NULL;
    assert_ok(ls_reader_create(dataset, split, &reader));
    for (uint64_t i = 0; i + 4 <= info->samples[split]; i += 4)
        check_windows(reader, info, split, (uint64_t[]){i, i + 1, i + 2, i + 3}, 4);
    uint64_t last = info->samples[split] - 1;
    check_windows(reader, info, split, (uint64_t[]){last, 0, last / 2, last}, 4);
    int32_t x[WINDOW];
    assert_ok(ls_reader_read(reader, &last, 1, x, NULL));
    ls_reader_destroy(reader);
}

static void test_windows(void **state)
{
    (void)state;
    static const struct {
        size_t vocabulary, cache;
        bool compress;
    } cases[] = {{257, 0, false}, {65536, LS_CACHE_LIMIT, false}, {65537, 0, false},
        {100000, LS_CACHE_LIMIT, false}, {257, 0, true}, {70000, 0, true}, {1000, LS_CACHE_LIMIT, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(write_set("set.h5", cases[i].vocabulary, cases[i].compress));
        LsDataset *dataset = open_set("set.h5", cases[i].cache, WINDOW);
        const LsDatasetInfo *info = ls_dataset_info(dataset);
        assert_int_equal(info->vocabulary, cases[i].vocabulary);
        assert_int_equal(info->feature_type, cases[i].vocabulary <= 65536 ? LS_COLUMN_U16 : LS_COLUMN_U32);
        assert_int_equal(info->token_counts[LS_TRAIN], TRAIN);
        assert_int_equal(info->samples[LS_TRAIN], TRAIN / WINDOW - 1);
        assert_int_equal(info->samples[LS_VALIDATION], (VALIDATION - 1) / WINDOW);
        assert_int_equal(info->samples[LS_TEST], 0);
        check_split(dataset, LS_TRAIN);
        check_split(dataset, LS_VALIDATION);
        assert_ok(ls_dataset_verify(dataset));
        ls_dataset_close(dataset);
    }
}

// Windows end exactly where the tokens do: 1,001 tokens are 10 windows of 100 and the token after the last.
static void test_window_sizes(void **state)
{
    (void)state;
    assert_ok(write_set("set.h5", 300, false));
    LsDataset *dataset = open_set("set.h5", 0, 0);
    LsReader *reader = NULL;
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_TRAIN], 0);
    assert_fails(ls_reader_create(dataset, LS_TRAIN, &reader), LS_INTERNAL, "window");
    assert_fails(ls_dataset_set_window(dataset, 0), LS_CONFIG, "impossible");
    assert_fails(ls_dataset_set_window(dataset, VALIDATION), LS_BAD_DATA, "validation split has 1001 tokens");
    assert_ok(ls_dataset_set_window(dataset, VALIDATION - 1));
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_VALIDATION], 1);
    assert_ok(ls_dataset_set_window(dataset, 100));
    assert_int_equal(ls_dataset_info(dataset)->samples[LS_VALIDATION], 10);
    assert_fails(ls_reader_create(dataset, LS_TEST, &reader), LS_BAD_DATA, "no test split");
    assert_ok(ls_reader_create(dataset, LS_VALIDATION, &reader));
    int32_t x[100], y[100];
    assert_ok(ls_reader_read(reader, (uint64_t[]){9}, 1, x, y));
    assert_int_equal(y[99], token_at(LS_VALIDATION, 1000, 300));
    assert_fails(ls_reader_read(reader, (uint64_t[]){10}, 1, x, y), LS_INTERNAL, "sample 10 of 10");
    assert_ok(ls_reader_read_windows(reader, (uint64_t[]){900}, 1, x, y));
    assert_int_equal(y[99], token_at(LS_VALIDATION, 1000, 300));
    assert_fails(
        ls_reader_read_windows(reader, (uint64_t[]){901}, 1, x, y), LS_INTERNAL, "token 901 of 1001");
    ls_reader_destroy(reader);
    LsTokenizer *tokenizer = NULL;
    assert_fails(ls_dataset_tokenizer(dataset, &tokenizer), LS_BAD_DATA, "no tokenizer");
    ls_dataset_close(dataset);
}

// The loader brings windows by the stateless permutation, as it brings rows.
static void test_loader(void **state)
{
    (void)state;
    assert_ok(write_set("set.h5", 1000, false));
    LsDataset *dataset = open_set("set.h5", LS_CACHE_LIMIT, WINDOW);
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    LsLoaderOptions options = {
        .seed = 3, .batch = 8, .lanes = 2, .lane_count = 2, .accumulation = 1, .workers = 2, .prefetch = 3};
    LsLoader *loader = NULL;
    assert_ok(ls_loader_create(dataset, &options, &loader));
    for (uint64_t number = 0; number < 2 * info->samples[LS_TRAIN] / 4; number++) {
        const LsHostBatch *batch = NULL;
        assert_ok(ls_loader_next(loader, &batch, NULL));
        assert_int_equal(batch->rows, 4);
        for (size_t row = 0; row < 4; row++) {
            uint64_t first = ls_stream_window(3, TRAIN, WINDOW, number * 4 + row);
            for (size_t i = 0; i < WINDOW; i++) {
                assert_int_equal(
                    ((int32_t *)batch->x)[row * WINDOW + i], token_at(LS_TRAIN, first + i, 1000));
                assert_int_equal(
                    ((int32_t *)batch->y)[row * WINDOW + i], token_at(LS_TRAIN, first + i + 1, 1000));
            }
        }
        ls_loader_return(loader, batch);
    }
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
}

// Overwrites bytes of the training tokens.
static void damage(const LsDataset *dataset, uint64_t token, uint16_t value)
{
    int fd = open(dataset->path, O_WRONLY);
    assert_ok(ls_file_write_at(
        fd, "set", &value, sizeof value, dataset->x[LS_TRAIN].offset + token * sizeof value));
    close(fd);
}

static void test_damage(void **state)
{
    (void)state;
    assert_fails(write_set("none.h5", 0x80000000u, false), LS_BAD_DATA, "vocabulary");
    assert_ok(write_set("set.h5", 1000, false));
    LsDataset *dataset = open_set("set.h5", 0, WINDOW);
    LsReader *reader = NULL;
    int32_t x[WINDOW], y[WINDOW];
    damage(dataset, 40, 1000); // in the second window
    assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
    assert_ok(ls_reader_read(reader, (uint64_t[]){0}, 1, x, y));
    assert_fails(ls_reader_read(reader, (uint64_t[]){1}, 1, x, y), LS_BAD_DATA, "train token 40 is 1000");
    ls_reader_destroy(reader);
    assert_fails(ls_dataset_verify(dataset), LS_BAD_DATA, "train token 40 is 1000");
    damage(dataset, 40, 999); // below the vocabulary, but not what was written
    assert_fails(ls_dataset_verify(dataset), LS_BAD_DATA, "block 0 of /train/tokens");
    ls_dataset_close(dataset);
    dataset = open_set("set.h5", LS_CACHE_LIMIT, WINDOW);
    assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
    assert_fails(ls_reader_read(reader, (uint64_t[]){1}, 1, x, y), LS_BAD_DATA, "block 0 of /train/tokens");
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
}

// A data set of rows has no windows; the schema alone of a token set has an info.
static void test_kinds(void **state)
{
    (void)state;
    Example rows = {
        .type = LS_COLUMN_U8, .classes = true, .shape = {4}, .dimensions = 1, .outputs = 2, .samples = {10}};
    assert_ok(write_example(&rows, in_directory("rows.h5")));
    LsDataset *dataset = open_set("rows.h5", 0, 0), *described = NULL;
    assert_fails(ls_dataset_set_window(dataset, 4), LS_BAD_DATA, "not tokens");
    assert_int_equal(ls_dataset_info(dataset)->vocabulary, 0);
    ls_dataset_close(dataset);
    assert_ok(write_set("set.h5", 1000, false));
    dataset = open_set("set.h5", 0, 0);
    assert_ok(ls_dataset_describe(ls_dataset_info(dataset)->schema, "checkpoint", &described));
    assert_ok(ls_dataset_set_window(described, WINDOW));
    assert_int_equal(ls_dataset_info(described)->vocabulary, 1000);
    assert_string_equal(ls_dataset_info(described)->root_hash, ls_dataset_info(dataset)->root_hash);
    ls_dataset_close(described);
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_window_sizes),
        cmocka_unit_test(test_loader),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
