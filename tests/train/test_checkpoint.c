// Saving and loading: the same bits come back, and whatever stops a save leaves no checkpoint.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "checkpoint_fixture.h"

static char base[LS_PATH_MAX], run_path[LS_PATH_MAX];

static int make_run(void **state)
{
    fixture_directory(base);
    fixture_require(ls_path_join(run_path, base, "run"), "path");
    Fixture *fixture = malloc(sizeof *fixture);
    fixture_open(fixture, run_path);
    fixture_fill(fixture, 1);
    *state = fixture;
    return 0;
}

static int remove_run(void **state)
{
    fixture_close(*state);
    free(*state);
    return ls_directory_remove(base) == LS_OK ? 0 : 1;
}

// Entries of the run's checkpoints/ whose name begins with `prefix`.
static size_t count_entries(const char *prefix)
{
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run_path, "checkpoints"), LS_OK);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    size_t count = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(directory);
    return count;
}

static LsCheckpoint *open_checkpoint(const char *path)
{
    LsCheckpoint *checkpoint = NULL;
    if (ls_checkpoint_open(path, &checkpoint) != LS_OK)
        fail_msg("%s", ls_status_message());
    return checkpoint;
}

static void the_same_bits_come_back(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX];
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    assert_non_null(strstr(path, "/run/checkpoints/step-00000010"));
    LsCheckpoint *checkpoint = open_checkpoint(path);
    assert_int_equal(ls_checkpoint_matches(checkpoint, &fixture->parameters), LS_OK);
    assert_int_equal(ls_checkpoint_verify(checkpoint, NULL), LS_OK);
    size_t different;
    assert_int_equal(fixture_compare(fixture, checkpoint, 1, &different), LS_OK);
    assert_int_equal(different, 0);
    // The comparison itself sees a difference.
    assert_int_equal(fixture_compare(fixture, checkpoint, 2, &different), LS_OK);
    assert_true(different > 100000);

    LsRunState read;
    assert_int_equal(ls_checkpoint_state(checkpoint, &read), LS_OK);
    assert_memory_equal(&read.control, &fixture->state.control, sizeof read.control);
    assert_int_equal(read.cursor, fixture->state.cursor);
    assert_memory_equal(&read.best, &fixture->state.best, sizeof read.best);

    LsConfig config;
    assert_int_equal(ls_checkpoint_config(checkpoint, &config), LS_OK);
    assert_true(config.optimizer.lr == fixture->config.optimizer.lr);
    assert_int_equal(config.model.hidden.count, 2);
    assert_int_equal(config.model.hidden.values[1], 64);
    assert_string_equal(ls_checkpoint_data_hash(checkpoint), fixture->content.data_root_hash);
    assert_string_equal(ls_checkpoint_fingerprint(checkpoint), "test machine");
    assert_string_equal(ls_checkpoint_run_id(checkpoint), fixture->run.run_id);
    assert_true(json_equal((json_t *)ls_checkpoint_data_schema(checkpoint), fixture->schema));
    assert_true(ls_checkpoint_has_group(checkpoint, "optimizer/moment1"));
    assert_false(ls_checkpoint_has_group(checkpoint, "optimizer"));
    ls_checkpoint_close(checkpoint);
    assert_int_equal(count_entries("."), 0);
}

static void any_range_of_blocks_can_be_read(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX];
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    LsCheckpoint *checkpoint = open_checkpoint(path);
    size_t blocks = fixture->parameters.blocks;
    float *read = malloc((blocks + 1) * LS_BLOCK * sizeof *read), expected[LS_BLOCK];
    for (size_t first = 0; first <= blocks; first += 3) {
        size_t count = blocks - first < 7 ? blocks - first : 7;
        read[count * LS_BLOCK] = 42; // not written to
        assert_int_equal(
            ls_checkpoint_read(checkpoint, &fixture->parameters, "parameters", first, count, read), LS_OK);
        assert_true(read[count * LS_BLOCK] == 42);
        for (size_t i = 0; i < count; i++) {
            fixture_block(&fixture->parameters, 1, 0, first + i, expected);
            assert_memory_equal(read + i * LS_BLOCK, expected, sizeof expected);
        }
    }
    assert_int_equal(
        ls_checkpoint_read(checkpoint, &fixture->parameters, "parameters", blocks, 1, read), LS_INTERNAL);
    assert_int_equal(
        ls_checkpoint_read(checkpoint, &fixture->parameters, "averages", 0, 1, read), LS_CHECKPOINT);
    free(read);
    ls_checkpoint_close(checkpoint);
}

static void a_step_that_is_redone_replaces_its_checkpoint(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX];
    size_t different;
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    fixture_fill(fixture, 2);
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    LsCheckpoint *checkpoint = open_checkpoint(path);
    assert_int_equal(fixture_compare(fixture, checkpoint, 2, &different), LS_OK);
    assert_int_equal(different, 0);
    ls_checkpoint_close(checkpoint);
    assert_int_equal(count_entries(""), 1);
}

static void the_hash_sees_every_difference_and_nothing_else(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX], first[65], again[65], other[65];
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    LsCheckpoint *checkpoint = open_checkpoint(path);
    assert_int_equal(ls_checkpoint_hash(checkpoint, first), LS_OK);
    ls_checkpoint_close(checkpoint);

    // The machine, the attempt and the configuration are not in it.
    fixture->content.fingerprint = "another machine";
    fixture->run.attempt = 1000000; // newer than any: still current
    assert_int_equal(ls_config_set(&fixture->config, "log.every", "3", "test"), LS_OK);
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    checkpoint = open_checkpoint(path);
    assert_int_equal(ls_checkpoint_hash(checkpoint, again), LS_OK);
    assert_string_equal(first, again);
    ls_checkpoint_close(checkpoint);

    // One bit of one tensor is.
    uint32_t bits;
    memcpy(&bits, &fixture->array[2].shard[0], sizeof bits);
    bits ^= 1;
    memcpy(&fixture->array[2].shard[0], &bits, sizeof bits);
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    checkpoint = open_checkpoint(path);
    assert_int_equal(ls_checkpoint_hash(checkpoint, other), LS_OK);
    assert_string_not_equal(first, other);
    ls_checkpoint_close(checkpoint);
    bits ^= 1;
    memcpy(&fixture->array[2].shard[0], &bits, sizeof bits);

    // And so is the state.
    assert_int_equal(fixture_save(fixture, 11, path), LS_OK);
    checkpoint = open_checkpoint(path);
    assert_int_equal(ls_checkpoint_hash(checkpoint, other), LS_OK);
    assert_string_not_equal(first, other);
    ls_checkpoint_close(checkpoint);
}

static void another_model_is_refused(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX];
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
    LsCheckpoint *checkpoint = open_checkpoint(path);
    LsParameters parameters = fixture->parameters;

    parameters.count--; // the checkpoint has one more
    assert_int_equal(ls_checkpoint_matches(checkpoint, &parameters), LS_CHECKPOINT);
    assert_non_null(strstr(ls_status_message(), "layers.10.bias"));

    LsParameter *changed = &fixture->parameters.list[1];
    changed->shape[0] = 784;
    changed->shape[1] = 128;
    assert_int_equal(ls_checkpoint_matches(checkpoint, &fixture->parameters), LS_CHECKPOINT);
    assert_non_null(strstr(ls_status_message(), "128 x 784"));
    assert_non_null(strstr(ls_status_message(), "784 x 128"));
    changed->shape[0] = 128;
    changed->shape[1] = 784;
    strcpy(changed->name, "layers.x");
    assert_int_equal(ls_checkpoint_matches(checkpoint, &fixture->parameters), LS_CHECKPOINT);
    assert_non_null(strstr(ls_status_message(), "layers.x"));
    ls_checkpoint_close(checkpoint);
}

static void a_name_that_leaves_its_group_is_not_saved(void **state)
{
    static const char *const names[] = {"", ".", "..", "a/b", "/a", ".hidden", "a b", "\xff"};
    Fixture *fixture = *state;
    char path[LS_PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        strcpy(fixture->parameters.list[0].name, names[i]);
        assert_int_equal(fixture_save(fixture, 10, path), LS_INTERNAL);
    }
    assert_int_equal(count_entries(""), 0);
}

static void a_writer_killed_before_the_commit_leaves_no_checkpoint(void **state)
{
    Fixture *fixture = *state;
    char dead[LS_PATH_MAX];
    assert_int_equal(ls_path_join(dead, base, "dead"), LS_OK);
    pid_t child = fork();
    if (child == 0) {
        Fixture *theirs = malloc(sizeof *theirs);
        LsSave *save;
        fixture_open(theirs, dead);
        fixture_fill(theirs, 1);
        fixture_require(ls_save_begin(&theirs->run, theirs->comm, &theirs->content, &save), "begin");
        fixture_require(ls_save_write(save), "write");
        kill(getpid(), SIGKILL);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);

    int64_t *steps;
    size_t count;
    assert_int_equal(ls_checkpoint_list(dead, &steps, &count), LS_OK);
    assert_int_equal(count, 0);
    free(steps);
    char kept[LS_PATH_MAX];
    strcpy(kept, run_path);
    strcpy(run_path, dead);
    assert_int_equal(count_entries(".saving-step-00000010-"), 1);
    // The next attempt removes it, its own unfinished work it does not.
    LsRunDir run;
    char own[LS_PATH_MAX], name[128];
    assert_int_equal(ls_run_dir_claim(&run, dead, fixture->comm), LS_OK);
    assert_int_equal(run.attempt, 2);
    snprintf(name, sizeof name, "checkpoints/.saving-step-00000020-%s-%06d", run.run_id, run.attempt);
    assert_int_equal(ls_path_join(own, dead, name), LS_OK);
    assert_int_equal(ls_directory_create(own), LS_OK);
    assert_int_equal(fixture_retain(&run, 3), LS_OK);
    assert_int_equal(count_entries(".saving-step-00000010-"), 0);
    assert_int_equal(count_entries(".saving-step-00000020-"), 1);
    ls_run_dir_release(&run);
    strcpy(run_path, kept);
}

static void a_save_that_cannot_write_leaves_nothing(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX] = "unchanged";
    LsSave *save;
    // No room for the file, found at the beginning.
    fixture_limit_files(100 * 1024);
    LsStatus status = ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &save);
    fixture_limit_files(RLIM_INFINITY);
    assert_int_equal(status, LS_IO);
    assert_int_equal(count_entries(""), 0);

    // Writing fails in the middle.
    assert_int_equal(ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &save), LS_OK);
    fixture_limit_files(100 * 1024);
    status = ls_save_write(save);
    fixture_limit_files(RLIM_INFINITY);
    assert_int_equal(status, LS_IO);
    assert_int_equal(ls_save_commit(save, status, path), LS_IO);
    assert_non_null(strstr(ls_status_message(), "/state.h5"));
    assert_string_equal(path, "unchanged");
    assert_int_equal(count_entries(""), 0);

    // The manifest cannot be written.
    assert_int_equal(ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &save), LS_OK);
    status = ls_save_write(save);
    assert_int_equal(status, LS_OK);
    fixture_limit_files(1024);
    status = ls_save_commit(save, status, path);
    fixture_limit_files(RLIM_INFINITY);
    assert_int_equal(status, LS_IO);
    assert_non_null(strstr(ls_status_message(), "manifest.json"));
    assert_int_equal(count_entries(""), 0);

    // And then it works again.
    assert_int_equal(fixture_save(fixture, 10, path), LS_OK);
}

static void a_superseded_attempt_does_not_commit(void **state)
{
    Fixture *fixture = *state;
    char path[LS_PATH_MAX], newer[LS_PATH_MAX];
    LsSave *save;
    assert_int_equal(ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &save), LS_OK);
    assert_int_equal(ls_path_join(newer, run_path, "attempts/000099"), LS_OK);
    assert_int_equal(mkdir(newer, 0777), 0);
    assert_int_equal(ls_save_commit(save, ls_save_write(save), path), LS_IO);
    assert_non_null(strstr(ls_status_message(), "superseded by attempt 99"));
    assert_int_equal(count_entries(""), 0);
    assert_int_equal(fixture_retain(&fixture->run, 1), LS_IO);
}

static size_t print_diff(const char *left, const char *right, bool *equal, char *text, size_t size)
{
    LsCheckpoint *a = open_checkpoint(left), *b = open_checkpoint(right);
    FILE *out = fmemopen(text, size, "w");
    assert_non_null(out);
    assert_int_equal(ls_checkpoint_diff(a, b, out, equal), LS_OK);
    size_t used = (size_t)ftell(out);
    fclose(out);
    ls_checkpoint_close(a);
    ls_checkpoint_close(b);
    return used;
}

static void differences_are_told_by_tensor_and_member(void **state)
{
    Fixture *fixture = *state;
    char first[LS_PATH_MAX], second[LS_PATH_MAX], text[16384];
    bool equal;
    // Ordinary numbers here, so that the largest difference is one.
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++)
        memset(fixture->array[a].shard, 0, fixture->shard_blocks * LS_BLOCK * sizeof(float));
    assert_int_equal(fixture_save(fixture, 10, first), LS_OK);
    print_diff(first, first, &equal, text, sizeof text);
    assert_true(equal);
    assert_null(strstr(text, "differ"));

    // The packed shard of one rank starts with the first bucket, which is the end of the flat buffer.
    size_t start = fixture->buckets.bucket[0].first_block;
    LsParameter *last = &fixture->parameters.list[fixture->parameters.count - 1];
    fixture->array[1].shard[last->offset - start * LS_BLOCK] = -0.25f;
    assert_int_equal(ls_config_set(&fixture->config, "optimizer.lr", "0.5", "test"), LS_OK);
    assert_int_equal(fixture_save(fixture, 12, second), LS_OK);
    print_diff(first, second, &equal, text, sizeof text);
    assert_false(equal);
    assert_non_null(strstr(text, "1 of 1 differ, largest absolute difference 0.25\n"));
    assert_non_null(strstr(text, "optimizer/moment1/layers.10.bias"));
    assert_non_null(strstr(text, "state step"));
    assert_non_null(strstr(text, "10 != 12"));
    assert_non_null(strstr(text, "config optimizer.lr"));
    // step, updates and cursor.
    assert_non_null(strstr(text, "different: 1 tensors and 3 members of the state\n"));

    LsCheckpoint *checkpoint = open_checkpoint(second);
    FILE *out = fmemopen(text, sizeof text, "w");
    assert_int_equal(ls_checkpoint_info(checkpoint, out), LS_OK);
    fclose(out);
    assert_non_null(strstr(text, "parameters/layers.0.weight"));
    assert_non_null(strstr(text, "[128, 784]"));
    assert_non_null(strstr(text, "train.batch"));
    ls_checkpoint_close(checkpoint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_same_bits_come_back, make_run, remove_run),
        cmocka_unit_test_setup_teardown(any_range_of_blocks_can_be_read, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_step_that_is_redone_replaces_its_checkpoint, make_run, remove_run),
        cmocka_unit_test_setup_teardown(
            the_hash_sees_every_difference_and_nothing_else, make_run, remove_run),
        cmocka_unit_test_setup_teardown(another_model_is_refused, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_name_that_leaves_its_group_is_not_saved, make_run, remove_run),
        cmocka_unit_test_setup_teardown(
            a_writer_killed_before_the_commit_leaves_no_checkpoint, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_save_that_cannot_write_leaves_nothing, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_superseded_attempt_does_not_commit, make_run, remove_run),
        cmocka_unit_test_setup_teardown(differences_are_told_by_tensor_and_member, make_run, remove_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
