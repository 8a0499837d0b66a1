// Verification: a byte flipped in values, labels, hashes, chunk table or schema is found and named.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>

#include "dataset_fixture.h"

// Two blocks of 1 MiB and a rest in x, so that inner, last and short blocks are met.
static const Example example = {.type = LS_COLUMN_U8,
    .classes = true,
    .shape = {28, 28},
    .dimensions = 2,
    .outputs = 10,
    .samples = {2900, 30, 40}};
static const Example floats = {.type = LS_COLUMN_F32,
    .classes = false,
    .shape = {9},
    .dimensions = 1,
    .outputs = 2,
    .samples = {40000, 0, 3}};

// Flips one bit, verifies, and puts it back.
static void assert_flip_found(const char *path, uint64_t offset, const char *says)
{
    uint8_t byte, flipped;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    flipped = byte ^ 0x20;
    assert_int_equal(pwrite(fd, &flipped, 1, (off_t)offset), 1);
    assert_fails(verify_file(path), LS_BAD_DATA, says);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void test_sound(void **state)
{
    (void)state;
    const char *path = in_directory("sound.h5");
    for (int i = 0; i < 4; i++) {
        Example e = i < 2 ? example : floats;
        e.compress = i % 2;
        assert_ok(write_example(&e, path));
        assert_ok(verify_file(path));
    }
}

// First, last and inner bytes of every part that lies at an offset of its own.
static void flip_parts(const char *path, const LsStored *stored, LsSplit split)
{
    const char *says = ls_split_name(split); // the set's name, or the sample's whose label became impossible
    uint64_t bytes = stored->rows * stored->row_bytes;
    if (stored->chunk_rows == 0)
        for (int i = 0; i < 9; i++)
            assert_flip_found(path, stored->offset + (bytes - 1) * (uint64_t)i / 8, says);
    for (int i = 0; i < 5; i++)
        assert_flip_found(path, stored->hashes + (stored->blocks * 16 - 1) * (uint64_t)i / 4, says);
    for (uint64_t chunk = 0; chunk < stored->chunks; chunk += 1 + stored->chunks / 5) {
        LsChunkEntry entry;
        int fd = open(path, O_RDONLY);
        assert_int_equal(pread(fd, &entry, 32, (off_t)(stored->table + chunk * 32)), 32);
        close(fd);
        for (uint64_t byte = 0; byte < sizeof entry; byte += 3)
            assert_flip_found(path, stored->table + chunk * 32 + byte, says);
        assert_flip_found(path, entry.offset, says);
        assert_flip_found(path, entry.offset + entry.bytes - 1, says);
    }
}

static void test_flips(void **state)
{
    (void)state;
    const char *path = in_directory("flips.h5");
    for (int i = 0; i < 4; i++) {
        Example e = i < 2 ? example : floats;
        e.compress = i % 2;
        assert_ok(write_example(&e, path));
        LsDataset *dataset = NULL;
        assert_ok(ls_dataset_open(path, &dataset));
        for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++) {
            if (e.samples[split] == 0)
                continue;
            flip_parts(path, &dataset->x[split], split);
            flip_parts(path, &dataset->y[split], split);
        }
        ls_dataset_close(dataset);
        assert_ok(verify_file(path));
    }
}

// Every byte of the schema's text: found on opening.
static void test_schema_flips(void **state)
{
    (void)state;
    const char *path = in_directory("schema.h5");
    assert_ok(write_example(&example, path));
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    char *text = ls_json_canonical(ls_dataset_info(dataset)->schema), *data;
    size_t size;
    assert_ok(ls_file_read(path, 1 << 30, &data, &size));
    char *found = memmem(data, size, text, strlen(text));
    assert_non_null(found);
    for (size_t i = 0; i < strlen(text); i++)
        assert_flip_found(path, (uint64_t)(found - data) + i, "schema");
    free(data);
    free(text);
    ls_dataset_close(dataset);
}

// Reading rows finds what is wrong with the blocks that it touches, and only with those.
static void test_reading_checks_blocks(void **state)
{
    (void)state;
    const char *path = in_directory("blocks.h5");
    for (int compress = 0; compress < 2; compress++) {
        Example e = example;
        e.compress = compress;
        assert_ok(write_example(&e, path));
        LsDataset *dataset = NULL;
        LsReader *reader = NULL;
        uint8_t x[784];
        int32_t y;
        assert_ok(ls_dataset_open(path, &dataset));
        const LsStored *stored = &dataset->x[LS_TRAIN];
        int fd = open(path, O_RDWR);
        LsChunkEntry last = {.offset = stored->offset + 2899 * 784};
        if (compress)
            assert_int_equal(pread(fd, &last, 32, (off_t)(stored->table + (stored->chunks - 1) * 32)), 32);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)last.offset), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)last.offset), 1);
        assert_ok(ls_reader_create(dataset, LS_TRAIN, &reader));
        assert_ok(ls_reader_read(reader, (uint64_t[]){0}, 1, x, &y));
        assert_fails(
            ls_reader_read(reader, (uint64_t[]){2899}, 1, x, &y), LS_BAD_DATA, "does not match its hash");
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)last.offset), 1);
        assert_ok(ls_reader_read(reader, (uint64_t[]){2899}, 1, x, &y)); // a failure is not remembered
        close(fd);
        ls_reader_destroy(reader);
        ls_dataset_close(dataset);
    }
}

static void test_inspect(void **state)
{
    (void)state;
    const char *path = in_directory("inspect.h5");
    assert_ok(write_example(&example, path));
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_ok(ls_dataset_inspect(dataset, out));
    fclose(out);
    static const char *const shown[] = {"28 x 28 uint8", "10 classes", "train 2900 validation 30 test 40",
        "class-3                   290            3            4", "root hash"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (strstr(text, shown[i]) == NULL)
            fail_msg("\"%s\" is not in\n%s", shown[i], text);
    assert_non_null(strstr(text, ls_dataset_info(dataset)->root_hash));
    free(text);
    ls_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_flips),
        cmocka_unit_test(test_schema_flips),
        cmocka_unit_test(test_reading_checks_blocks),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
