// Damage of every kind is found, and said by file, tensor and block; it never reads as numbers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "checkpoint_fixture.h"

static char base[LS_PATH_MAX], step10[LS_PATH_MAX], step20[LS_PATH_MAX];

static int make_checkpoints(void **state)
{
    char run[LS_PATH_MAX];
    fixture_directory(base);
    fixture_require(ls_path_join(run, base, "run"), "path");
    Fixture *fixture = malloc(sizeof *fixture);
    fixture_open(fixture, run);
    fixture_fill(fixture, 1);
    fixture_require(fixture_save(fixture, 10, step10), "save");
    fixture_fill(fixture, 2);
    fixture_require(fixture_save(fixture, 20, step20), "save");
    *state = fixture;
    return 0;
}

static int remove_checkpoints(void **state)
{
    fixture_close(*state);
    free(*state);
    return ls_directory_remove(base) == LS_OK ? 0 : 1;
}

static void file_in(char path[LS_PATH_MAX], const char *directory, const char *name)
{
    assert_int_equal(ls_path_join(path, directory, name), LS_OK);
}

// Turns bits of the byte at `offset`; doing it again repairs.
static void flip(const char *path, uint64_t offset, uint8_t bits)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(ls_file_read_at(fd, path, &byte, 1, offset), LS_OK);
    byte ^= bits;
    assert_int_equal(ls_file_write_at(fd, path, &byte, 1, offset), LS_OK);
    close(fd);
}

static off_t size_of(const char *path)
{
    struct stat information;
    assert_int_equal(stat(path, &information), 0);
    return information.st_size;
}

static LsStatus open_and_verify(const char *directory)
{
    LsCheckpoint *checkpoint;
    LS_TRY(ls_checkpoint_open(directory, &checkpoint));
    LsStatus status = ls_checkpoint_verify(checkpoint, NULL);
    ls_checkpoint_close(checkpoint);
    return status;
}

static void expect_damage(const char *directory, const char *said)
{
    assert_int_equal(open_and_verify(directory), LS_CHECKPOINT);
    if (strstr(ls_status_message(), said) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", ls_status_message(), said);
    assert_null(strchr(ls_status_message(), '\n'));
}

static void one_bit_of_any_tensor_is_found(void **state)
{
    Fixture *fixture = *state;
    char file[LS_PATH_MAX], said[256];
    file_in(file, step10, "state.h5");
    LsCheckpoint *checkpoint;
    assert_int_equal(ls_checkpoint_open(step10, &checkpoint), LS_OK);
    json_t *tensors = json_object_get(ls_checkpoint_manifest(checkpoint), "tensors"), *tensor;
    assert_int_equal(json_array_size(tensors), 3 * fixture->parameters.count);
    size_t index;
    json_array_foreach(tensors, index, tensor)
    {
        const char *group = json_string_value(json_object_get(tensor, "group"));
        const char *name = json_string_value(json_object_get(tensor, "name"));
        uint64_t offset = (uint64_t)json_integer_value(json_object_get(tensor, "offset"));
        const LsParameter *parameter = ls_parameters_find(&fixture->parameters, name);
        size_t last = (parameter->elements - 1) / LS_BLOCK;

        flip(file, offset, 0x01); // the first byte
        snprintf(said, sizeof said, "state.h5: tensor %s/%s, block 0 of %zu", group, name, last + 1);
        expect_damage(step10, said);
        flip(file, offset, 0x01);

        uint64_t end = offset + parameter->elements * sizeof(float) - 1;
        flip(file, end, 0x80); // and the last
        snprintf(said, sizeof said, "tensor %s/%s, block %zu of", group, name, last);
        expect_damage(step10, said);
        // Reading the numbers finds it too, not only verifying.
        float block[LS_BLOCK];
        assert_int_equal(ls_checkpoint_read(checkpoint, &fixture->parameters, group,
                             parameter->offset / LS_BLOCK + last, 1, block),
            LS_CHECKPOINT);
        char hash[65] = "unchanged";
        assert_int_equal(ls_checkpoint_hash(checkpoint, hash), LS_CHECKPOINT);
        assert_string_equal(hash, "unchanged");
        flip(file, end, 0x80);
    }
    ls_checkpoint_close(checkpoint);
    assert_int_equal(open_and_verify(step10), LS_OK); // all was repaired: nothing else had been wrong
}

static void one_byte_of_the_manifest_is_found(void **state)
{
    (void)state;
    char file[LS_PATH_MAX];
    file_in(file, step10, "manifest.json");
    off_t size = size_of(file);
    // A stride that is prime, so that all kinds of bytes are met, and the last 100 one by one.
    for (off_t at = 0; at < size; at += at < size - 100 ? 37 : 1) {
        flip(file, (uint64_t)at, 0x01);
        expect_damage(step10, "manifest.json");
        flip(file, (uint64_t)at, 0x01);
    }
    assert_int_equal(open_and_verify(step10), LS_OK);
}

static void one_bit_outside_of_the_tensors_is_found(void **state)
{
    (void)state;
    char file[LS_PATH_MAX];
    file_in(file, step10, "state.h5");
    flip(file, 0, 0x10); // the signature that every HDF5 file begins with
    expect_damage(step10, "HDF5 structure");
    flip(file, 0, 0x10);
    flip(file, 60, 0x10);
    expect_damage(step10, "HDF5 structure");
    flip(file, 60, 0x10);
    assert_int_equal(open_and_verify(step10), LS_OK);
}

static void files_cut_off_or_grown_are_found(void **state)
{
    (void)state;
    static const char *const names[] = {"state.h5", "manifest.json"};
    for (size_t i = 0; i < 2; i++) {
        char file[LS_PATH_MAX];
        file_in(file, i ? step20 : step10, names[i]);
        off_t size = size_of(file);
        const off_t sizes[] = {size + 1, size - 1, size / 2, 10, 0};
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            assert_int_equal(truncate(file, sizes[s]), 0);
            expect_damage(i ? step20 : step10, names[i]);
        }
    }
}

static void missing_files_are_found(void **state)
{
    (void)state;
    char file[LS_PATH_MAX];
    file_in(file, step10, "state.h5");
    assert_int_equal(unlink(file), 0);
    expect_damage(step10, "state.h5");
    assert_int_equal(mkfifo(file, 0600), 0); // opening it must not wait for ever
    expect_damage(step10, "state.h5 is not a file");
    assert_int_equal(unlink(file), 0);
    assert_int_equal(mkdir(file, 0700), 0);
    expect_damage(step10, "state.h5 is not a file");

    file_in(file, step20, "manifest.json");
    assert_int_equal(unlink(file), 0);
    expect_damage(step20, "manifest.json is missing");
    assert_int_equal(mkfifo(file, 0600), 0);
    expect_damage(step20, "manifest.json is not a file");

    LsCheckpoint *checkpoint;
    file_in(file, base, "nowhere");
    assert_int_equal(ls_checkpoint_open(file, &checkpoint), LS_NO_INPUT);
    assert_non_null(strstr(ls_status_message(), "nowhere"));
}

static void files_of_two_checkpoints_do_not_mix(void **state)
{
    (void)state;
    char one[LS_PATH_MAX], two[LS_PATH_MAX], aside[LS_PATH_MAX];
    file_in(one, step10, "state.h5");
    file_in(two, step20, "state.h5");
    file_in(aside, base, "aside");
    assert_int_equal(rename(one, aside), 0);
    assert_int_equal(rename(two, one), 0);
    assert_int_equal(rename(aside, two), 0);
    expect_damage(step10, "block 0");
    expect_damage(step20, "block 0");

    // Both files swapped: each directory is whole, under the other's name.
    file_in(one, step10, "manifest.json");
    file_in(two, step20, "manifest.json");
    assert_int_equal(rename(one, aside), 0);
    assert_int_equal(rename(two, one), 0);
    assert_int_equal(rename(aside, two), 0);
    expect_damage(step10, "holds step 20");
    expect_damage(step20, "holds step 10");
    // Under another name a checkpoint is as good as in its place.
    file_in(aside, base, "copied");
    assert_int_equal(rename(step10, aside), 0);
    assert_int_equal(open_and_verify(aside), LS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_bit_of_any_tensor_is_found, make_checkpoints, remove_checkpoints),
        cmocka_unit_test_setup_teardown(
            one_byte_of_the_manifest_is_found, make_checkpoints, remove_checkpoints),
        cmocka_unit_test_setup_teardown(
            one_bit_outside_of_the_tensors_is_found, make_checkpoints, remove_checkpoints),
        cmocka_unit_test_setup_teardown(
            files_cut_off_or_grown_are_found, make_checkpoints, remove_checkpoints),
        cmocka_unit_test_setup_teardown(missing_files_are_found, make_checkpoints, remove_checkpoints),
        cmocka_unit_test_setup_teardown(
            files_of_two_checkpoints_do_not_mix, make_checkpoints, remove_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
