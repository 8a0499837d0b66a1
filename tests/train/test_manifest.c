// A manifest is believed only when all of it holds together.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/wait.h>

#include "checkpoint_fixture.h"
#include "manifest.h"

// A manifest of two tensors: "a/x" of 5,000 numbers at byte 4,096, "a/y" of 2 x 3 at byte 24,576.
static json_t *good_manifest(void)
{
    uint64_t hashes[] = {1, 0xfedcba9876543210, 3};
    LsManifestTensor tensors[] = {
        {.path = "a/x", .name = tensors[0].path + 2, .dimensions = 1, .shape = {5000}, .offset = 4096},
        {.path = "a/y", .name = tensors[1].path + 2, .dimensions = 2, .shape = {2, 3}, .offset = 24576},
    };
    LsManifest manifest = {.tensors = 2, .tensor = tensors};
    LsRunState state;
    assert_true(ls_manifest_measure(&tensors[0]));
    assert_true(ls_manifest_measure(&tensors[1]));
    assert_int_equal(tensors[0].blocks, 2);
    tensors[0].block_hash = hashes;
    tensors[1].block_hash = hashes + 2;
    fixture_state(&state, 12);
    json_t *json = json_pack("{s:s, s:i, s:s, s:i, s:i, s:i, s:s, s:i, s:o, s:{s:s, s:s}, s:{s:s, s:n}, "
                             "s:{s:s, s:i, s:s}, s:o}",
        "format", "lockstep checkpoint", "version", 1, "run_id", "0123456789abcdef0123456789abcdef", //
        "attempt", 2, "step", 12, "world_size", 3, "fingerprint", "machine", "block", LS_BLOCK,      //
        "state", ls_state_json(&state),                                                              //
        "config", "train.batch", "64", "optimizer.lr", "0.1",                                        //
        "data", "root_hash", "00", "schema",                                                         //
        "file", "name", "state.h5", "size", 32768, "structure_hash",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", //
        "tensors", ls_manifest_tensors_json(&manifest));
    assert_non_null(json);
    return json;
}

static void a_manifest_reads_back(void **state)
{
    (void)state;
    json_t *json = good_manifest();
    size_t size;
    char *text = ls_manifest_text(json, &size);
    assert_non_null(text);
    LsManifest manifest;
    if (ls_manifest_parse(text, size, "m", &manifest) != LS_OK)
        fail_msg("%s", ls_status_message());
    assert_int_equal(manifest.step, 12);
    assert_int_equal(manifest.attempt, 2);
    assert_int_equal(manifest.tensors, 2);
    assert_int_equal(manifest.file_size, 32768);
    const LsManifestTensor *tensor = ls_manifest_find(&manifest, "a/x");
    assert_non_null(tensor);
    assert_string_equal(tensor->name, "x");
    assert_int_equal(tensor->elements, 5000);
    assert_int_equal(tensor->block_hash[1], 0xfedcba9876543210);
    assert_null(ls_manifest_find(&manifest, "x"));
    LsRunState expected;
    fixture_state(&expected, 12);
    assert_memory_equal(&manifest.state.control, &expected.control, sizeof expected.control);
    assert_true(manifest.state.best.value == expected.best.value);
    assert_int_equal(manifest.state.cursor, expected.cursor);
    ls_manifest_free(&manifest);

    // Whatever byte differs, also one that changes no value, is found before anything is parsed.
    for (size_t i = 0; i < size; i++) {
        text[i] ^= 0x20;
        assert_int_equal(ls_manifest_parse(text, size, "m", &manifest), LS_CHECKPOINT);
        text[i] ^= 0x20;
        assert_int_equal(ls_manifest_parse(text, i, "m", &manifest), LS_CHECKPOINT);
    }
    free(text);
    json_decref(json);
}

// Replaces the member that `path` ("tensors.0.offset") names by `value` (JSON), or removes it when NULL.
static void change(json_t *json, const char *path, const char *value)
{
    char part[64];
    for (;;) {
        size_t size = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)size, path);
        if (path[size] == '\0')
            break;
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(part)) : json_object_get(json, part);
        assert_non_null(json);
        path += size + 1;
    }
    if (value == NULL) {
        assert_int_equal(json_object_del(json, part), 0);
        return;
    }
    json_t *new = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(new);
    assert_int_equal(json_object_set_new(json, part, new), 0);
}

static const struct Case {
    const char *path, *value;
    const char *said;
} cases[] = {
    {"format", "\"numpy\"", "not the manifest"},
    {"format", NULL, "not the manifest"},
    {"version", "2", "format version 2"},
    {"version", "\"1\"", "version"},
    {"run_id", "\"../../../../../../../../../etc/pa\"", "run_id"},
    {"run_id", "\"0123456789ABCDEF0123456789abcdef\"", "run_id"},
    {"attempt", "0", "attempt"},
    {"attempt", "4294967298", "attempt"},
    {"step", "-1", "step"},
    {"step", "13", "the step of its state 12"},
    {"step", "12.0", "step"},
    {"world_size", "0", "world_size"},
    {"block", "1024", "block"},
    {"file", "[]", "file.name"},
    {"file.name", "\"../step-00000001/state.h5\"", "file.name"},
    {"file.size", "0", "file.size"},
    {"file.size", "9223372036854775807.0", "file.size"},
    {"file.structure_hash", "\"00\"", "structure_hash"},
    {"state", "null", "state.step"},
    {"state.loss", "\"big\"", "state.loss"},
    {"state.loss", "0.1", "state.loss"}, // the double, which no float is
    {"state.loss", "1e300", "state.loss"},
    {"state.good_steps", "2147483648", "state.good_steps"},
    {"state.good_steps", "1.5", "state.good_steps"},
    {"state.cursor", "-5", "state.cursor"},
    {"state.updates", "-5", "state.updates"},
    {"state.best_known", "1", "state.best_known"},
    {"state.best_stale", NULL, "state.best_stale"},
    {"state.evaluation_due", "1", "state.evaluation_due"},
    {"config", "\"train\"", "config"},
    {"config", "{\"train.batch\": 64}", "config"},
    {"config", "{\"two\\nlines\": \"64\"}", "config"},
    {"data.root_hash", "7", "data.root_hash"},
    {"data.schema", "7", "data.schema"},
    {"data", NULL, "data.root_hash"},
    {"fingerprint", NULL, "fingerprint"},
    {"tensors", "[]", "tensors"},
    {"tensors", "{}", "tensors"},
    {"tensors", "[7]", "tensor 0"},
    {"tensors.0.name", "\"..\"", "name of tensor 0"},
    {"tensors.0.name", "\"b/x\"", "name of tensor 0"},
    {"tensors.0.name", "\"\"", "name of tensor 0"},
    {"tensors.0.name", "\"new\\nline\"", "name of tensor 0"},
    {"tensors.0.group", "\"/a\"", "name of tensor 0"},
    {"tensors.0.group", "\"a/\"", "name of tensor 0"},
    {"tensors.0.group", "\"a/../b\"", "name of tensor 0"},
    {"tensors.0.group", "\"a//b\"", "name of tensor 0"},
    {"tensors.0.group",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
        "name of tensor 0"},
    {"tensors.0.name", "\"z\"", "out of order"},
    {"tensors.0.name", "\"y\"", "twice or out of order"},
    {"tensors.0.dtype", "\"float64\"", "float32"},
    {"tensors.0.shape", "[]", "shape"},
    {"tensors.0.shape", "[1, 1, 1, 1, 5000]", "shape"},
    {"tensors.0.shape", "[5000, 0]", "shape"},
    {"tensors.0.shape", "[-5000]", "shape"},
    {"tensors.0.shape", "[5000.0]", "shape"},
    {"tensors.0.shape", "[4294967296, 4294967296]", "shape"}, // 2^64
    {"tensors.0.shape", "[2305843009213693952]", "shape"},    // 2^63 bytes
    {"tensors.0.shape", "[1152921504606846976]", "hashes"},   // 2^62 bytes of which no hashes are there
    {"tensors.0.shape", "[8193]", "hashes"},                  // three blocks
    {"tensors.0.shape", "[6000]", "overlaps"},
    {"tensors.0.offset", "-1", "offset"},
    {"tensors.0.offset", "9223372036854775807", "outside"},
    {"tensors.0.offset", "12769", "outside"}, // one byte too far
    {"tensors.0.offset", "12768", "overlaps"},
    {"tensors.1.offset", "24095", "overlaps"}, // the last byte of the other one
    {"tensors.0.hash", "\"0\"", "hashes"},
    {"tensors.0.hash", "\"00000000000000000000000000000000\"", "not that of its block hashes"},
    {"tensors.0.blocks", "\"000000000000000g0000000000000000\"", "hashes"},
    {"tensors.0.blocks", "\"00000000000000000000000000000000\"", "not that of its block hashes"},
    {"tensors.0.blocks", NULL, "hashes"},
};

static void anything_that_does_not_hold_together_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = good_manifest();
        LsManifest manifest;
        assert_int_equal(ls_manifest_from_json(json, "m", &manifest), LS_OK);
        ls_manifest_free(&manifest);
        change(json, cases[i].path, cases[i].value);
        if (ls_manifest_from_json(json, "m", &manifest) != LS_CHECKPOINT)
            fail_msg("%s = %s was accepted", cases[i].path, cases[i].value);
        if (strstr(ls_status_message(), cases[i].said) == NULL || strncmp(ls_status_message(), "m: ", 3) != 0)
            fail_msg("%s = %s: \"%s\"", cases[i].path, cases[i].value, ls_status_message());
        assert_null(strchr(ls_status_message(), '\n'));
        json_decref(json);
    }
}

static void hash_of(const LsRunState *state, char text[LS_SHA256_TEXT])
{
    LsSha256 *sha = ls_sha256_create();
    ls_state_hash(state, sha);
    ls_sha256_finish(sha, text);
}

// An evaluation that is still to come is state, and a checkpoint without one is as it would be if there were
// no such thing.
static void evaluation_that_is_due(void **state)
{
    (void)state;
    LsRunState none, due, back;
    char text[LS_SHA256_TEXT], other[LS_SHA256_TEXT];
    fixture_state(&none, 12);
    fixture_state(&due, 12);
    due.evaluation_due = true;
    const LsRunState *const both[] = {&none, &due};
    for (int i = 0; i < 2; i++) {
        json_t *json = ls_state_json(both[i]);
        assert_int_equal(json_object_get(json, "evaluation_due") != NULL, i);
        assert_int_equal(ls_state_parse(json, "m", &back), LS_OK);
        assert_int_equal(back.evaluation_due, i);
        assert_int_equal(ls_state_diff(both[i], &back, stdout), 0);
        json_decref(json);
    }
    assert_int_equal(ls_state_diff(&none, &due, stdout), 1);
    hash_of(&none, text);
    hash_of(&due, other);
    assert_string_not_equal(text, other);
}

static void what_just_fits_is_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *path, *value;
    } fitting[] = {
        {"tensors.1.offset", "24096"}, // right behind the other one
        {"tensors.1.offset", "32744"}, // up to the end of the file
        {"state.loss", "\"-inf\""},
        {"state.best_value", "0.1"},
        {"state.evaluation_due", "true"},
        {"tensors.0.shape", "[8, 625]"},
        {"data.schema", "{\"any\": [1]}"},
        {"more", "[\"a later minor addition\"]"},
    };
    for (size_t i = 0; i < sizeof fitting / sizeof *fitting; i++) {
        json_t *json = good_manifest();
        LsManifest manifest;
        change(json, fitting[i].path, fitting[i].value);
        if (ls_manifest_from_json(json, "m", &manifest) != LS_OK)
            fail_msg("%s", ls_status_message());
        ls_manifest_free(&manifest);
        json_decref(json);
    }
}

static void the_file_of_a_save_that_has_no_space_does_not_crash_at_exit(void **state)
{
    (void)state;
    char directory[LS_PATH_MAX];
    fixture_directory(directory);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char path[LS_PATH_MAX];
        LsManifestTensor tensor = {.path = "a/x", .dimensions = 1, .shape = {1 << 20}};
        LsManifest manifest = {.tensors = 1, .tensor = &tensor};
        fixture_require(ls_path_join(path, directory, "state.h5"), "path");
        fixture_limit_files(100 * 1024);
        exit(ls_state_file_create(path, &manifest) == LS_IO && strchr(ls_status_message(), '\n') == NULL ? 42
                                                                                                         : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 42);
    assert_int_equal(ls_directory_remove(directory), LS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_manifest_reads_back),
        cmocka_unit_test(anything_that_does_not_hold_together_is_refused),
        cmocka_unit_test(evaluation_that_is_due),
        cmocka_unit_test(what_just_fits_is_accepted),
        cmocka_unit_test(the_file_of_a_save_that_has_no_space_does_not_crash_at_exit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
