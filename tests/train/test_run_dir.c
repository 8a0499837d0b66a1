// A run directory belongs to one attempt at a time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "checkpoint_fixture.h"

static char base[LS_PATH_MAX], path[LS_PATH_MAX];
static LsComm *comm;

static int make_base(void **state)
{
    (void)state;
    fixture_directory(base);
    fixture_require(ls_path_join(path, base, "deep/run"), "path");
    fixture_require(
        ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &comm), "communicator");
    return 0;
}

static int remove_base(void **state)
{
    (void)state;
    ls_comm_close(comm);
    return ls_directory_remove(base) == LS_OK ? 0 : 1;
}

static bool in_run(const char *name)
{
    char file[LS_PATH_MAX];
    assert_int_equal(ls_path_join(file, path, name), LS_OK);
    return ls_file_exists(file);
}

static void write_file(const char *name, const char *text)
{
    char file[LS_PATH_MAX];
    assert_int_equal(ls_path_join(file, path, name), LS_OK);
    assert_int_equal(ls_file_replace(file, text, strlen(text)), LS_OK);
}

static void attempts_are_counted_and_the_run_keeps_its_id(void **state)
{
    (void)state;
    LsRunDir first, second;
    assert_int_equal(ls_run_dir_claim(&first, path, comm), LS_OK);
    assert_string_equal(first.path, path);
    assert_int_equal(first.attempt, 1);
    assert_int_equal(strlen(first.run_id), 32);
    assert_true(in_run("checkpoints"));
    assert_true(in_run("log"));
    assert_true(in_run("attempts/000001"));
    assert_false(in_run("attempts/000001/token"));
    assert_false(ls_run_dir_superseded(&first));
    assert_int_equal(ls_run_dir_require_current(&first), LS_OK);
    ls_run_dir_release(&first);

    assert_int_equal(ls_run_dir_claim(&second, path, comm), LS_OK);
    assert_int_equal(second.attempt, 2);
    assert_string_equal(second.run_id, first.run_id);
    assert_true(ls_run_dir_superseded(&first));
    assert_int_equal(ls_run_dir_require_current(&first), LS_IO);
    assert_non_null(strstr(ls_status_message(), "superseded by attempt 2"));
    ls_run_dir_release(&second);
    ls_run_dir_release(&second); // twice is fine
    ls_run_dir_release(NULL);
}

static void a_living_attempt_keeps_others_out(void **state)
{
    (void)state;
    int ready[2], how;
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        LsRunDir theirs;
        fixture_require(ls_run_dir_claim(&theirs, path, comm), "claim");
        fixture_require(write(ready[1], "x", 1) == 1 ? LS_OK : LS_IO, "pipe");
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);

    LsRunDir run = {.attempt = -7};
    char said[256];
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_IO);
    assert_int_equal(run.attempt, -7); // untouched
    snprintf(said, sizeof said, "/run is in use by process %d on host %s (attempt 1)", (int)child,
        ls_comm_host(comm));
    assert_non_null(strstr(ls_status_message(), said));
    assert_false(in_run("attempts/000002"));

    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK);
    assert_int_equal(run.attempt, 2);
    ls_run_dir_release(&run);
    close(ready[0]);
    close(ready[1]);
}

static void an_archive_begins_a_new_run(void **state)
{
    (void)state;
    LsRunDir old, run;
    char id[33];
    assert_int_equal(ls_run_dir_claim(&old, path, comm), LS_OK);
    assert_int_equal(ls_run_dir_archive(&old), LS_OK); // the first attempt has nothing to archive
    assert_false(in_run("archive"));
    write_file("metrics.jsonl", "old");
    write_file("checkpoints/a", "old");
    ls_run_dir_release(&old);

    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK);
    memcpy(id, run.run_id, sizeof id);
    assert_int_equal(ls_run_dir_archive(&run), LS_OK);
    assert_string_not_equal(run.run_id, id);
    assert_int_equal(run.attempt, 1);
    assert_false(in_run("metrics.jsonl"));
    assert_false(in_run("checkpoints/a"));
    assert_true(in_run("archive/001/metrics.jsonl"));
    assert_true(in_run("archive/001/checkpoints/a"));
    assert_true(in_run("archive/001/attempts/000002"));
    assert_true(in_run("checkpoints"));
    assert_true(in_run("lock"));
    // An attempt of the archived run that still lives sees that its time is over, whatever its number.
    old.attempt = 99;
    assert_true(ls_run_dir_superseded(&old));
    assert_int_equal(ls_run_dir_require_current(&old), LS_IO);
    assert_int_equal(ls_run_dir_require_current(&run), LS_OK);
    // The lock is still held.
    assert_int_equal(ls_run_dir_claim(&old, path, comm), LS_IO);
    write_file("metrics.jsonl", "new");
    ls_run_dir_release(&run);

    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK);
    assert_int_equal(run.attempt, 2);
    assert_int_equal(ls_run_dir_archive(&run), LS_OK);
    assert_true(in_run("archive/001/metrics.jsonl"));
    assert_true(in_run("archive/002/metrics.jsonl"));
    assert_false(in_run("archive/002/archive"));
    json_t *environment = json_pack("{s:i}", "ranks", 3), *read;
    assert_int_equal(ls_run_dir_write_env(&run, environment), LS_OK);
    char file[LS_PATH_MAX];
    assert_int_equal(ls_path_join(file, path, "env.json"), LS_OK);
    assert_int_equal(ls_json_read(file, 1000, LS_BAD_DATA, &read), LS_OK);
    assert_true(json_equal(read, environment));
    json_decref(read);
    json_decref(environment);
    ls_run_dir_release(&run);
}

static void what_cannot_be_claimed_says_why(void **state)
{
    (void)state;
    LsRunDir run;
    assert_int_equal(ls_directory_create(path), LS_OK);
    write_file("file", "");
    char file[LS_PATH_MAX];
    assert_int_equal(ls_path_join(file, path, "file/run"), LS_OK);
    assert_int_equal(ls_run_dir_claim(&run, file, comm), LS_IO);
    assert_non_null(strstr(ls_status_message(), "file"));

    assert_int_equal(ls_path_join(file, path, "attempts"), LS_OK);
    assert_int_equal(ls_directory_create(file), LS_OK);
    write_file("attempts/run_id", "../../../../etc/passwd/..........");
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_IO);
    assert_non_null(strstr(ls_status_message(), "run_id is damaged"));
    assert_int_equal(ls_directory_remove(file), LS_OK);
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK); // the failure left no lock behind
    ls_run_dir_release(&run);
}

static void what_a_killed_attempt_left_half_written_goes(void **state)
{
    (void)state;
    static const char *const left[] = {"status.json.tmp-0123456789abcdef",
        "attempts/run_id.tmp-0123456789abcdef", "attempts/000001/token.tmp-0123456789abcdef"};
    static const char *const stays[] = {
        "notes.tmp-mine", ".tmp-0123456789abcdef", "log/a.tmp-0123456789abcdef"};
    LsRunDir run;
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK);
    ls_run_dir_release(&run);
    for (size_t i = 0; i < 3; i++) {
        write_file(left[i], "half");
        write_file(stays[i], "whole");
    }
    assert_int_equal(ls_run_dir_claim(&run, path, comm), LS_OK);
    ls_run_dir_release(&run);
    for (size_t i = 0; i < 3; i++) {
        assert_false(in_run(left[i]));
        assert_true(in_run(stays[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            attempts_are_counted_and_the_run_keeps_its_id, make_base, remove_base),
        cmocka_unit_test_setup_teardown(a_living_attempt_keeps_others_out, make_base, remove_base),
        cmocka_unit_test_setup_teardown(an_archive_begins_a_new_run, make_base, remove_base),
        cmocka_unit_test_setup_teardown(what_a_killed_attempt_left_half_written_goes, make_base, remove_base),
        cmocka_unit_test_setup_teardown(what_cannot_be_claimed_says_why, make_base, remove_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
