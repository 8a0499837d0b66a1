// Data sets: rows come back as they were written in every layout, and nothing that a file holds makes the
// reader crash.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "dataset_fixture.h"
#include "dataset_hdf5.h"

// Bytes and floats, classes and targets; 3,000 rows of 784 bytes cross blocks of 1 MiB and fill many chunks,
// and rows of 20,000 bytes are larger than a chunk's usual size.
static const Example examples[] = {
    {.type = LS_COLUMN_U8,
        .classes = true,
        .shape = {28, 28},
        .dimensions = 2,
        .outputs = 10,
        .samples = {3000, 7, 100}},
    {.type = LS_COLUMN_F32,
        .classes = false,
        .shape = {16},
        .dimensions = 1,
        .outputs = 3,
        .samples = {20001, 0, 5}},
    {.type = LS_COLUMN_F32,
        .classes = true,
        .shape = {2, 5, 5, 100},
        .dimensions = 4,
        .outputs = 2,
        .samples = {60, 1, 0}},
};
static const Example tiny = {.type = LS_COLUMN_U8,
    .classes = true,
    .shape = {6},
    .dimensions = 1,
    .outputs = 3,
    .samples = {20, 2, 4}};

static void test_rows_come_back(void **state)
{
    (void)state;
    const char *path = in_directory("rows.h5");
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        char root[2][LS_HASH128_TEXT];
        for (int compress = 0; compress < 2; compress++) {
            Example e = examples[i];
            e.compress = compress;
            assert_ok(write_example(&e, path));
            for (int cached = 0; cached < 2; cached++) {
                LsDataset *dataset = NULL;
                bool same = false;
                assert_ok(ls_dataset_open_cached(path, cached ? LS_CACHE_LIMIT : 0, &dataset));
                assert_true(cached == (dataset->x_cache[LS_TRAIN] != NULL));
                assert_true(compress == (dataset->x[LS_TRAIN].chunk_rows > 0));
                assert_ok(compare_example(&e, dataset, &same));
                assert_true(same);
                strcpy(root[compress], ls_dataset_info(dataset)->root_hash);
                ls_dataset_close(dataset);
            }
        }
        assert_string_equal(root[0], root[1]); // the same values, however they are stored
    }
}

static void test_info(void **state)
{
    (void)state;
    const Example *e = &examples[2];
    const char *path = in_directory("info.h5");
    assert_ok(write_example(e, path));
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    const LsDatasetInfo *info = ls_dataset_info(dataset);
    assert_int_equal(info->features, 5000);
    assert_int_equal(info->feature_dimensions, 4);
    assert_memory_equal(info->feature_shape, e->shape, sizeof e->shape);
    assert_int_equal(info->feature_type, LS_COLUMN_F32);
    assert_true(info->classes);
    assert_int_equal(info->outputs, 2);
    assert_memory_equal(info->samples, e->samples, sizeof e->samples);
    assert_int_equal(info->period, 1);
    assert_true(info->shift[0] == 0.5f && info->scale[0] == 2.0f);
    assert_string_equal(json_string_value(json_object_get(info->schema, "root_hash")), info->root_hash);
    assert_string_equal(ls_dataset_path(dataset), path);
    LsReader *reader = NULL;
    assert_fails(ls_reader_create(dataset, LS_TEST, &reader), LS_BAD_DATA, "no test split");
    ls_dataset_close(dataset);
}

// The same information without the file, and no rows.
static void test_described(void **state)
{
    (void)state;
    const char *path = in_directory("described.h5");
    assert_ok(write_example(&tiny, path));
    LsDataset *dataset = NULL, *described = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    assert_ok(ls_dataset_describe(ls_dataset_info(dataset)->schema, "checkpoint", &described));
    assert_string_equal(ls_dataset_info(described)->root_hash, ls_dataset_info(dataset)->root_hash);
    LsReader *reader = NULL;
    assert_fails(ls_reader_create(described, LS_TRAIN, &reader), LS_INTERNAL, "checkpoint");
    assert_fails(ls_dataset_verify(described), LS_INTERNAL, "checkpoint");
    ls_dataset_close(described);
    ls_dataset_close(dataset);
}

typedef struct Racer {
    const LsDataset *dataset;
    const Example *example;
    bool same;
    LsStatus status;
} Racer;

static void *race(void *argument)
{
    Racer *racer = argument;
    racer->status = compare_example(racer->example, racer->dataset, &racer->same);
    return NULL;
}

static void test_readers_in_parallel(void **state)
{
    (void)state;
    const char *path = in_directory("parallel.h5");
    for (int round = 0; round < 4; round++) {
        enum { THREADS = 4 };
        Example e = examples[round % 2];
        e.compress = round < 2;
        assert_ok(write_example(&e, path));
        LsDataset *dataset = NULL;
        assert_ok(ls_dataset_open_cached(path, round == 3 ? 0 : LS_CACHE_LIMIT, &dataset));
        Racer racers[THREADS];
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) {
            racers[i] = (Racer){.dataset = dataset, .example = &e};
            assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(racers[i].status, LS_OK);
            assert_true(racers[i].same);
        }
        ls_dataset_close(dataset);
    }
}

static void write_text(const char *path, const void *data, size_t size)
{
    assert_ok(ls_file_replace(path, data, size));
}

static void test_no_dataset(void **state)
{
    (void)state;
    LsDataset *dataset = NULL;
    assert_fails(ls_dataset_open(in_directory("missing.h5"), &dataset), LS_NO_INPUT, "missing.h5");
    assert_fails(ls_dataset_open(directory, &dataset), LS_BAD_DATA, "not a regular file");
    const char *path = in_directory("none.h5");
    write_text(path, "", 0);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "0 bytes");
    write_text(path, "a,b\n1,2\n3,4\n", 12);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "no HDF5 file");
    char garbage[4096];
    for (size_t i = 0; i < sizeof garbage; i++)
        garbage[i] = (char)(i * 2654435761u >> 13);
    memcpy(garbage, "\x89HDF\r\n\x1a\n", 8);
    write_text(path, garbage, sizeof garbage);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "truncated or damaged");
    assert_null(dataset);
}

// An HDF5 file of somebody else's.
static void test_other_hdf5(void **state)
{
    (void)state;
    const char *path = in_directory("other.h5");
    LsHdf5 *file = NULL;
    LsDataset *dataset = NULL;
    LsHdf5Set set = {.type = LS_HDF5_F32, .dimensions = 1, .shape = {10}};
    assert_ok(ls_hdf5_create(path, &file));
    assert_ok(ls_hdf5_add(file, "/train/x", &set));
    assert_ok(ls_hdf5_finish(file));
    ls_hdf5_close(file);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "/schema");
}

// Writes a file with the schema of `e` but sets that the caller makes.
static void write_bomb(const char *path, const Example *e, uint64_t samples, uint64_t chunk_rows)
{
    json_t *schema = example_schema(e);
    json_t *splits = json_pack("{s:{s:I, s:s, s:s, s:[I, i, i]}}", "train", "samples", (json_int_t)samples,
        "x_hash", "00000000000000000000000000000000", "y_hash", "00000000000000000000000000000000", "counts",
        (json_int_t)samples, 0, 0);
    json_object_set_new(schema, "splits", splits);
    json_object_set_new(schema, "format", json_integer(LS_DATASET_FORMAT));
    json_object_set_new(schema, "feature_type", json_string("u8"));
    json_object_set_new(schema, "feature_shape", json_pack("[i]", 6));
    json_object_set_new(schema, "outputs", json_integer(3));
    LsHash128 hash;
    char text[LS_HASH128_TEXT];
    assert_ok(ls_schema_hash(schema, &hash));
    ls_hash128_text(hash, text);
    json_object_set_new(schema, "root_hash", json_string(text));
    char *canonical = ls_json_canonical(schema);
    LsHdf5 *file = NULL;
    unlink(path);
    assert_ok(ls_hdf5_create(path, &file));
    LsHdf5Set set = {.type = LS_HDF5_TEXT, .shape = {strlen(canonical)}};
    assert_ok(ls_hdf5_add(file, "/schema", &set));
    assert_ok(ls_file_write_at(ls_hdf5_descriptor(file), path, canonical, strlen(canonical), set.offset));
    LsHdf5Set x = {.type = LS_HDF5_U8, .dimensions = 2, .shape = {samples, 6}, .chunk_rows = chunk_rows};
    assert_ok(ls_hdf5_add(file, "/train/x", &x));
    LsHdf5Set hashes = {.type = LS_HDF5_U8, .dimensions = 2, .shape = {1, 16}};
    assert_ok(ls_hdf5_add(file, "/train/x.hashes", &hashes));
    assert_ok(ls_hdf5_finish(file));
    ls_hdf5_close(file);
    free(canonical);
    json_decref(schema);
}

// Sizes that only the file's word stands for take neither memory nor time.
static void test_bombs(void **state)
{
    (void)state;
    const char *path = in_directory("bomb.h5");
    LsDataset *dataset = NULL;
    write_bomb(path, &tiny, (uint64_t)1 << 47, 1000);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "/train/x.hashes does not fit");
    write_bomb(path, &tiny, 1000, 0);
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "no /train/y");
    write_bomb(path, &tiny, (uint64_t)1 << 31, (uint64_t)1 << 29); // chunks of 3 GiB
    assert_fails(ls_dataset_open(path, &dataset), LS_BAD_DATA, "");
    assert_null(dataset);
}

static void test_truncated(void **state)
{
    (void)state;
    const char *path = in_directory("whole.h5"), *cut = in_directory("cut.h5");
    for (int compress = 0; compress < 2; compress++) {
        Example e = tiny;
        e.compress = compress;
        assert_ok(write_example(&e, path));
        char *data;
        size_t size;
        assert_ok(ls_file_read(path, 1 << 20, &data, &size));
        for (size_t length = 0; length < size; length += 1 + length / 64) {
            LsDataset *dataset = NULL;
            write_text(cut, data, length);
            assert_fails(ls_dataset_open(cut, &dataset), LS_BAD_DATA, "cut.h5");
        }
        free(data);
    }
}

// Whatever byte is flipped: an error, or the values are those that were written. Every third byte, and each
// bit in turn, because opening a file takes a while under a sanitizer.
static void test_flipped_bytes(void **state)
{
    (void)state;
    const char *path = in_directory("sound.h5"), *flipped = in_directory("flipped.h5");
    for (int compress = 0; compress < 2; compress++) {
        Example e = tiny;
        e.compress = compress;
        assert_ok(write_example(&e, path));
        char *data;
        size_t size, refused = 0;
        assert_ok(ls_file_read(path, 1 << 20, &data, &size));
        int fd = open(flipped, O_RDWR | O_CREAT, 0600);
        assert_int_equal(pwrite(fd, data, size, 0), (ssize_t)size);
        for (size_t i = 0; i < size; i += 3) {
            char byte = data[i] ^ (char)(1 << (i % 8));
            assert_int_equal(pwrite(fd, &byte, 1, (off_t)i), 1);
            LsDataset *dataset = NULL;
            bool same = false;
            LsStatus status = ls_dataset_open(flipped, &dataset);
            LsStatus rows = status == LS_OK ? compare_example(&e, dataset, &same) : LS_BAD_DATA;
            if (status == LS_OK && ls_dataset_verify(dataset) == LS_OK && (rows != LS_OK || !same))
                fail_msg("byte %zu of %zu: verified, but rows differ", i, size);
            if (status == LS_OK && rows == LS_OK && !same)
                fail_msg("byte %zu of %zu: rows differ silently", i, size);
            if (status != LS_OK && status != LS_BAD_DATA)
                fail_msg("byte %zu of %zu: %s", i, size, ls_status_message());
            refused += status != LS_OK || rows != LS_OK;
            ls_dataset_close(dataset);
            assert_int_equal(pwrite(fd, data + i, 1, (off_t)i), 1);
        }
        assert_true(refused > size / 3 / 2); // most of a small file is schema and headers
        close(fd);
        free(data);
    }
}

// One key of a sound schema set to something wrong (NULL: removed), and what the sentence must say.
static const struct {
    const char *key, *value, *says;
} schema_faults[] = {
    {"format", NULL, "format"},
    {"format", "2", "format 2"},
    {"format", "\"1\"", "format"},
    {"feature_type", "\"f64\"", "feature_type"},
    {"feature_shape", "[]", "feature_shape"},
    {"feature_shape", "[1,1,1,1,6]", "feature_shape"},
    {"feature_shape", "[0]", "feature_shape"},
    {"feature_shape", "[-6]", "feature_shape"},
    {"feature_shape", "[6.0]", "feature_shape"},
    {"feature_shape", "[1000000000,1000000000,1000000000,1000000000]", "feature_shape"},
    {"outputs", "0", "outputs"},
    {"outputs", "4", "every class"},
    {"outputs", "9223372036854775807", "outputs"},
    {"classes", "[\"a\",\"b\"]", "every class"},
    {"classes", "[\"a\",\"b\",3]", "name"},
    {"classes", "{}", "every class"},
    {"uniform", NULL, "uniform"},
    {"uniform", "false", "shift for every feature"},
    {"shift", "[]", "shift"},
    {"shift", "[\"0\"]", "shift"},
    {"shift", "[1e300]", "shift"},
    {"scale", "[0.0]", "scale"},
    {"scale", "[null]", "scale"},
    {"splits", "[]", "no training"},
    {"splits", "{\"train\":{\"samples\":20}}", "hash"},
    {"splits", "{\"train\":{\"samples\":-1}}", "samples"},
    {"splits", "{\"train\":{\"samples\":1152921504606846976}}", "samples"},
};

static LsStatus read_changed_schema(const json_t *sound, const char *key, const char *value)
{
    json_t *schema = json_deep_copy(sound);
    LsHash128 hash;
    char text[LS_HASH128_TEXT];
    if (value == NULL)
        json_object_del(schema, key);
    else
        json_object_set_new(schema, key, json_loads(value, JSON_DECODE_ANY, NULL));
    assert_ok(ls_schema_hash(schema, &hash));
    ls_hash128_text(hash, text);
    json_object_set_new(schema, "root_hash", json_string(text));
    char *canonical = ls_json_canonical(schema);
    LsDataset dataset = {0};
    LsStatus status = ls_schema_read(canonical, strlen(canonical), "schema.h5", &dataset);
    ls_schema_release(&dataset);
    free(canonical);
    json_decref(schema);
    return status;
}

// Even a schema whose hash is right is not trusted.
static void test_schema_faults(void **state)
{
    (void)state;
    const char *path = in_directory("schema.h5");
    LsDataset *dataset = NULL;
    assert_ok(write_example(&tiny, path));
    assert_ok(ls_dataset_open(path, &dataset));
    const json_t *sound = ls_dataset_info(dataset)->schema;
    assert_ok(read_changed_schema(sound, "added", "1"));
    for (size_t i = 0; i < sizeof schema_faults / sizeof *schema_faults; i++)
        assert_fails(read_changed_schema(sound, schema_faults[i].key, schema_faults[i].value), LS_BAD_DATA,
            schema_faults[i].says);
    json_t *splits = json_deep_copy(json_object_get(sound, "splits"));
    json_object_set_new(json_object_get(splits, "train"), "counts", json_pack("[i,i,i]", 7, 7, 7));
    char *text = ls_json_canonical(splits);
    assert_fails(read_changed_schema(sound, "splits", text), LS_BAD_DATA, "counts");
    free(text);
    json_decref(splits);
    ls_dataset_close(dataset);
}

// Values that an importer refuses but a file may hold all the same.
static void test_bad_values(void **state)
{
    (void)state;
    const char *path = in_directory("values.h5");
    LsDataset *dataset = NULL;
    LsReader *reader = NULL;
    float x[16], y[3];
    assert_ok(write_example(&examples[1], path));
    assert_ok(ls_dataset_open_cached(path, 0, &dataset));
    assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
    const LsStored *stored = &dataset->x[LS_TRAIN];
    const float nan = __builtin_nanf(""), infinity = __builtin_inff();
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &nan, 4, (off_t)(stored->offset + 9000 * stored->row_bytes + 5 * 4)), 4);
    assert_int_equal(pwrite(fd, &infinity, 4, (off_t)(dataset->y[LS_TRAIN].offset + 42 * 12 + 8)), 4);
    assert_ok(ls_reader_read(reader, (uint64_t[]){8999}, 1, x, y));
    assert_fails(
        ls_reader_read(reader, (uint64_t[]){9000}, 1, x, y), LS_BAD_DATA, "train sample 9000 has a NaN");
    assert_fails(ls_reader_read(reader, (uint64_t[]){42}, 1, x, y), LS_BAD_DATA, "target 2");
    assert_ok(ls_reader_read(reader, (uint64_t[]){42}, 1, x, NULL));
    assert_fails(ls_reader_read(reader, (uint64_t[]){20001}, 1, x, y), LS_INTERNAL, "20001");
    // Cut short while it is open.
    assert_int_equal(ftruncate(fd, (off_t)stored->offset + 100), 0);
    assert_fails(ls_reader_read(reader, (uint64_t[]){7}, 1, x, y), LS_BAD_DATA, "values.h5");
    close(fd);
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    size_t before = files_in_directory();
    LsWriter *writer = NULL;
    LsWriterShape shape = example_writer_shape(&tiny);
    assert_fails(ls_writer_begin("/nowhere/at/all.h5", &shape, &writer), LS_IO, "/nowhere/at/all.h5");
    const char *path = in_directory("refused.h5");
    uint8_t x[6] = {0};
    assert_ok(ls_writer_begin(path, &shape, &writer));
    assert_fails(ls_writer_append(writer, LS_TRAIN, x, (int32_t[]){3}, 1), LS_BAD_DATA, "label 3");
    assert_fails(ls_writer_append(writer, LS_TRAIN, x, (int32_t[]){-1}, 1), LS_BAD_DATA, "label -1");
    json_t *schema = example_schema(&tiny);
    assert_fails(ls_writer_commit(writer, schema), LS_INTERNAL, "0 of 20 rows");
    json_decref(schema);
    ls_writer_destroy(writer);
    shape.samples[LS_TRAIN] = 0;
    assert_fails(ls_writer_begin(path, &shape, &writer), LS_BAD_DATA, "no training samples");
    shape = example_writer_shape(&examples[1]);
    assert_ok(ls_writer_begin(path, &shape, &writer));
    float values[16] = {[3] = __builtin_nanf("")}, targets[3] = {0};
    assert_fails(ls_writer_append(writer, LS_TRAIN, values, targets, 1), LS_BAD_DATA, "feature 3");
    ls_writer_destroy(writer);
    assert_int_equal(files_in_directory(), before); // nothing half-written is left
}

// A writer that is killed cannot tidy up; the next one of the same file does, and leaves a living one alone.
static void test_killed_writer(void **state)
{
    (void)state;
    LsWriterShape shape = example_writer_shape(&tiny);
    LsWriter *living = NULL;
    assert_ok(write_example(&tiny, in_directory("killed.h5.tmp-0"))); // somebody's own file
    size_t before = files_in_directory();
    pid_t child = fork();
    if (child == 0) {
        LsWriter *writer = NULL;
        ls_writer_begin(in_directory("killed.h5"), &shape, &writer);
        raise(SIGKILL);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
    assert_int_equal(files_in_directory(), before + 1);
    assert_ok(ls_writer_begin(in_directory("killed.h5"), &shape, &living));
    assert_int_equal(files_in_directory(), before + 1);
    assert_ok(write_example(&tiny, in_directory("killed.h5")));
    assert_int_equal(files_in_directory(), before + 2); // the set and what the living one writes
    ls_writer_destroy(living);
    assert_int_equal(files_in_directory(), before + 1);
}

// A full disk, imitated by a limit on the size of files: an error, the old file as it was, and no other.
static void test_full_disk(void **state)
{
    (void)state;
    const char *path = in_directory("full.h5");
    assert_ok(write_example(&tiny, path));
    size_t before = files_in_directory();
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    for (int compress = 0; compress < 2; compress++)
        for (rlim_t bytes = 0; bytes < 400000; bytes = bytes * 5 / 3 + 100) {
            Example e = examples[1];
            e.compress = compress;
            limit = (struct rlimit){bytes, old.rlim_max};
            setrlimit(RLIMIT_FSIZE, &limit);
            LsStatus status = write_example(&e, path);
            setrlimit(RLIMIT_FSIZE, &old);
            // Compressed, the repeating values of the example fit into less than the largest limit.
            if (status != LS_IO && !(compress && bytes > 50000 && status == LS_OK))
                fail_msg("limit %lu: status %d, %s", (unsigned long)bytes, (int)status, ls_status_message());
            assert_int_equal(files_in_directory(), before);
        }
    signal(SIGXFSZ, SIG_DFL);
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_come_back),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_described),
        cmocka_unit_test(test_readers_in_parallel),
        cmocka_unit_test(test_no_dataset),
        cmocka_unit_test(test_other_hdf5),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_schema_faults),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
