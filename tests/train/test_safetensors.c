// safetensors files: what is written reads back, in one form only, and a header is believed only when all of
// it holds together.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "train/safetensors.h"

static char folder[] = "/tmp/lockstep-safetensors-XXXXXX", path[LS_PATH_MAX];

static void assert_ok(LsStatus status)
{
    if (status != LS_OK)
        fail_msg("%s", ls_status_message());
}

// A file of this header and so many bytes of data, all zero.
static void write_file(const char *header, size_t data)
{
    uint64_t length = strlen(header);
    size_t size = sizeof length + length + data;
    char *bytes = calloc(size, 1);
    assert_non_null(bytes);
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + sizeof length, header, length);
    assert_ok(ls_file_replace(path, bytes, size));
    free(bytes);
}

// One line that names the file and has `words`.
static void assert_refusal(LsStatus status, const char *words)
{
    assert_int_equal(status, LS_CHECKPOINT);
    if (strncmp(ls_status_message(), path, strlen(path)) != 0 || !strstr(ls_status_message(), words) ||
        strchr(ls_status_message(), '\n'))
        fail_msg("expected %s in: %s", words, ls_status_message());
}

static void assert_refused(const char *header, size_t data, const char *words)
{
    LsSafetensors *file = NULL;
    write_file(header, data);
    assert_refusal(ls_safetensors_open(path, &file), words);
    assert_null(file);
}

// ---- What is written ------------------------------------------------------------------------------------

static const LsFileTensor tensors[] = {
    {.name = "wide", .dimensions = 2, .shape = {3, 70000}}, // more than is converted at a time
    {.name = "a.bias", .dimensions = 1, .shape = {5}},
    {.name = "none", .dimensions = 2, .shape = {0, 4}},
};
enum { COUNT = sizeof tensors / sizeof tensors[0], WIDE = 3 * 70000 };

// Numbers that BF16 and F16 hold.
static float value_of(size_t index, size_t element)
{
    return (float)(element % 127) * (element % 2 ? -0.25f : 0.5f) + (index == 1 ? 1.0f : 0.0f);
}

static LsStatus values(void *context, size_t index, float *out)
{
    const float *special = context;
    size_t count = index == 0 ? WIDE : index == 1 ? 5 : 0;
    for (size_t i = 0; i < count; i++)
        out[i] = value_of(index, i);
    if (special && index == 1)
        out[4] = *special;
    return LS_OK;
}

static LsStatus write_tensors(const char *to, LsDtype type, const float *special)
{
    json_t *metadata = json_pack("{s:s}", "format", "pt");
    LsStatus status = ls_safetensors_write(to, &(LsSafetensorsContent){.type = type,
                                                   .count = COUNT,
                                                   .tensor = tensors,
                                                   .metadata = metadata,
                                                   .values = values,
                                                   .context = (void *)special});
    json_decref(metadata);
    return status;
}

static void check_values(const LsSafetensors *file)
{
    float *read = malloc(WIDE * sizeof *read);
    for (size_t t = 0; t < COUNT; t++) {
        const LsFileTensor *tensor = ls_safetensors_find(file, tensors[t].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->dimensions, tensors[t].dimensions);
        assert_memory_equal(tensor->shape, tensors[t].shape, sizeof tensor->shape);
        assert_ok(ls_safetensors_read(file, tensor, 0, tensor->elements, read));
        for (size_t i = 0; i < tensor->elements; i++)
            assert_true(read[i] == value_of(t, i)); // exact: every type holds them
    }
    const LsFileTensor *wide = ls_safetensors_find(file, "wide");
    assert_ok(ls_safetensors_read(file, wide, 69999, 2, read)); // a part from the middle
    assert_true(read[0] == value_of(0, 69999) && read[1] == value_of(0, 70000));
    assert_int_equal(ls_safetensors_read(file, wide, WIDE - 1, 2, read), LS_INTERNAL);
    free(read);
}

static void reads_back(void **state)
{
    (void)state;
    static const LsDtype types[] = {LS_F32, LS_BF16, LS_F16};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        LsSafetensors *file = NULL;
        size_t count;
        assert_ok(write_tensors(path, types[i], NULL));
        assert_ok(ls_safetensors_open(path, &file));
        ls_safetensors_list(file, &count);
        assert_int_equal(count, COUNT);
        assert_string_equal(ls_safetensors_metadata(file, "format"), "pt");
        assert_null(ls_safetensors_metadata(file, "nothing"));
        assert_null(ls_safetensors_find(file, "wid"));
        assert_null(ls_safetensors_find(file, "__metadata__"));
        check_values(file);
        ls_safetensors_close(file);
    }
}

static void has_one_form(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a.bias\":{\"data_offsets\":[0,10],\"dtype\":\"BF16\","
        "\"shape\":[5]},\"none\":{\"data_offsets\":[10,10],\"dtype\":\"BF16\",\"shape\":[0,4]},\"wide\":{"
        "\"data_offsets\":[10,420010],\"dtype\":\"BF16\",\"shape\":[3,70000]}}";
    char *bytes;
    size_t size;
    uint64_t length;
    assert_ok(write_tensors(path, LS_BF16, NULL));
    assert_ok(ls_file_read(path, SIZE_MAX / 2, &bytes, &size));
    memcpy(&length, bytes, sizeof length);
    assert_int_equal(length % 8, 0);
    assert_int_equal(size, 8 + length + 420010);
    assert_memory_equal(bytes + 8, header, sizeof header - 1);
    for (size_t i = sizeof header - 1; i < length; i++)
        assert_int_equal(bytes[8 + i], ' ');
    free(bytes);
}

static void special_values(void **state)
{
    (void)state;
    static const float finite = 65520, infinite = INFINITY; // the first is what F16 rounds to infinity
    LsSafetensors *file = NULL;
    float read;
    assert_int_equal(write_tensors(path, LS_F16, &finite), LS_BAD_DATA);
    assert_non_null(strstr(ls_status_message(), "a.bias"));
    assert_ok(write_tensors(path, LS_F16, &infinite));
    assert_ok(ls_safetensors_open(path, &file));
    assert_ok(ls_safetensors_read(file, ls_safetensors_find(file, "a.bias"), 4, 1, &read));
    assert_true(read == infinite);
    ls_safetensors_close(file);
}

static void failed_writes_leave_nothing(void **state)
{
    (void)state;
    static const float finite = 65520;
    char other[LS_PATH_MAX], *before, *after;
    size_t size, size_after;
    assert_ok(write_tensors(path, LS_F32, NULL));
    assert_ok(ls_file_read(path, SIZE_MAX / 2, &before, &size));
    assert_int_equal(write_tensors(path, LS_F16, &finite), LS_BAD_DATA);
    assert_ok(ls_file_read(path, SIZE_MAX / 2, &after, &size_after));
    assert_int_equal(size, size_after);
    assert_memory_equal(before, after, size);
    free(after);
    free(before);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0); // no temporary file is left
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_ok(ls_path_join(other, folder, "missing/x.safetensors"));
    assert_int_equal(write_tensors(other, LS_F32, NULL), LS_IO);
}

// ---- What is refused ------------------------------------------------------------------------------------

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static void good_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data, count;
    } good[] = {
        {"{}", 0, 0},
        {"{}     ", 0, 0},
        {"{" T("x", "F32", "", "0,4") "}", 4, 1},
        {"{" T("x", "F32", "2", "0,8") "," T("y", "U8", "3,1", "8,11") "}", 11, 2},
        {"{" T("y", "U8", "3,1", "8,11") "," T("x", "F32", "2", "0,8") ",\"__metadata__\":{}}", 11, 2},
        {"{" T("e", "F64", "9,0,9", "0,0") "," T("x", "I16", "1,1,1,1,1,1,1,1", "0,2") "}", 2, 2},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        LsSafetensors *file = NULL;
        size_t count;
        write_file(good[i].header, good[i].data);
        assert_ok(ls_safetensors_open(path, &file));
        ls_safetensors_list(file, &count);
        assert_int_equal(count, good[i].count);
        ls_safetensors_close(file);
    }
}

static void bad_json(void **state)
{
    (void)state;
    assert_refused("", 0, "{");
    assert_refused(" {}", 0, "{");
    assert_refused("[]", 0, "{");
    assert_refused("{}x", 0, "JSON");
    assert_refused("{\"x\":", 0, "JSON");
    assert_refused("{\"a\xff\":1}", 0, "JSON");
    assert_refused("{\"\\ud800\":1}", 0, "JSON");
    assert_refused("{" T("x", "U8", "1", "0,1") "," T("x", "U8", "1", "0,1") "}", 1, "JSON");
    assert_refused("{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 1, "JSON");
    assert_refused("{\"__metadata__\":1}", 0, "__metadata__");
    assert_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    char *deep = malloc(1 << 20);
    memset(deep, '[', 1 << 20);
    memcpy(deep, "{\"x\":", 5);
    deep[(1 << 20) - 1] = '\0';
    assert_refused(deep, 0, "JSON");
    free(deep);
}

static void bad_tensors(void **state)
{
    (void)state;
    assert_refused("{\"x\":1}", 0, "\"x\"");
    assert_refused("{\"x\":{}}", 0, "dtype");
    assert_refused("{\"line\\nbreak\":{}}", 0, "line?break");
    assert_refused("{" T("x", "F33", "1", "0,4") "}", 4, "dtype");
    assert_refused("{" T("x", "f32", "1", "0,4") "}", 4, "dtype");
    assert_refused("{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape");
    assert_refused("{" T("x", "U8", "-1", "0,1") "}", 1, "shape");
    assert_refused("{" T("x", "U8", "1.0", "0,1") "}", 1, "shape");
    assert_refused("{" T("x", "U8", "1,1,1,1,1,1,1,1,1", "0,1") "}", 1, "8 dimensions");
    assert_refused("{" T("x", "U8", "4294967296,4294967296", "0,0") "}", 0, "too large");
    assert_refused("{" T("x", "F64", "4611686018427387904", "0,0") "}", 0, "do not fit");
    assert_refused("{" T("x", "U8", "9223372036854775807", "0,1") "}", 1, "do not fit");
    assert_refused("{" T("x", "U8", "9223372036854775808", "0,1") "}", 1, "JSON");
    assert_refused("{" T("x", "F32", "2", "0,4") "}", 4, "do not fit");
}

static void bad_places(void **state)
{
    (void)state;
    assert_refused("{" T("x", "U8", "1", "0") "}", 1, "data_offsets");
    assert_refused("{" T("x", "U8", "1", "0,1,2") "}", 1, "data_offsets");
    assert_refused("{" T("x", "U8", "1", "-1,0") "}", 1, "data_offsets");
    assert_refused("{" T("x", "U8", "1", "1,0") "}", 1, "ends before");
    assert_refused("{" T("x", "U8", "2", "0,2") "}", 1, "past the end");
    assert_refused("{" T("x", "U8", "1", "9223372036854775806,9223372036854775807") "}", 1, "past the end");
    assert_refused("{" T("x", "U8", "1", "0,1") "," T("y", "U8", "1", "0,1") "}", 1, "overlaps");
    assert_refused("{" T("x", "U8", "3", "0,3") "," T("y", "U8", "2", "2,4") "}", 4, "\"y\" overlaps");
    assert_refused("{" T("x", "U8", "1", "0,1") "," T("y", "U8", "1", "2,3") "}", 3, "no tensor");
    assert_refused("{" T("x", "U8", "1", "1,2") "}", 2, "no tensor");
    assert_refused("{" T("x", "U8", "1", "0,1") "}", 3, "2 bytes behind");
    assert_refused("{}", 1, "1 bytes behind");
}

static void bad_files(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {UINT64_MAX, INT64_MAX, 100000001, 9};
    LsSafetensors *file = NULL;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char bytes[16] = "";
        memcpy(bytes, &lengths[i], sizeof lengths[i]);
        assert_ok(ls_file_replace(path, bytes, sizeof bytes));
        assert_refusal(ls_safetensors_open(path, &file), "its header has");
    }
    // All that it promises is there, and more than the format allows: a sparse file.
    static const uint64_t limit = LS_SAFETENSORS_HEADER + 1;
    assert_ok(ls_file_replace(path, &limit, sizeof limit));
    assert_int_equal(truncate(path, (off_t)(sizeof limit + limit)), 0);
    assert_refusal(ls_safetensors_open(path, &file), "its header has");
    assert_ok(ls_file_replace(path, "1234567", 7));
    assert_refusal(ls_safetensors_open(path, &file), "7 bytes");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ls_safetensors_open(path, &file), LS_NO_INPUT);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refusal(ls_safetensors_open(path, &file), "not a file");
    assert_int_equal(rmdir(path), 0);
}

// A file cut off after it was opened, and a type that is not read.
static void bad_reads(void **state)
{
    (void)state;
    LsSafetensors *file = NULL;
    float out[4];
    write_file("{" T("i", "I32", "2", "0,8") "," T("x", "F32", "2", "8,16") "}", 16);
    assert_ok(ls_safetensors_open(path, &file));
    assert_refusal(
        ls_safetensors_read(file, ls_safetensors_find(file, "i"), 0, 2, out), "\"i\" is not of dtype");
    struct stat information;
    assert_int_equal(stat(path, &information), 0);
    assert_int_equal(truncate(path, information.st_size - 1), 0);
    assert_refusal(ls_safetensors_read(file, ls_safetensors_find(file, "x"), 0, 2, out), "truncated");
    ls_safetensors_close(file);
}

static int clean(void **state)
{
    (void)state;
    return ls_directory_remove(folder) == LS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back),
        cmocka_unit_test(has_one_form),
        cmocka_unit_test(special_values),
        cmocka_unit_test(failed_writes_leave_nothing),
        cmocka_unit_test(good_headers),
        cmocka_unit_test(bad_json),
        cmocka_unit_test(bad_tensors),
        cmocka_unit_test(bad_places),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(bad_reads),
    };
    if (!mkdtemp(folder) || ls_path_join(path, folder, "x.safetensors") != LS_OK)
        return 99;
    return cmocka_run_group_tests(tests, NULL, clean);
}
