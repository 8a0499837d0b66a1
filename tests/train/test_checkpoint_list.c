// Which directories count as checkpoints, and which of them retention keeps.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <sys/stat.h>

#include "checkpoint_fixture.h"

static char base[LS_PATH_MAX];

typedef struct Run {
    LsComm *comm;
    LsRunDir directory;
} Run;

static int make_run(void **state)
{
    char path[LS_PATH_MAX];
    Run *run = calloc(1, sizeof *run);
    fixture_directory(base);
    fixture_require(ls_path_join(path, base, "run"), "path");
    fixture_require(
        ls_comm_open(&(LsCommOptions){.kind = LS_COMM_AUTO, .timeout = 60}, &run->comm), "communicator");
    fixture_require(ls_run_dir_claim(&run->directory, path, run->comm), "run directory");
    *state = run;
    return 0;
}

static int remove_run(void **state)
{
    Run *run = *state;
    ls_run_dir_release(&run->directory);
    ls_comm_close(run->comm);
    free(run);
    return ls_directory_remove(base) == LS_OK ? 0 : 1;
}

// A directory in checkpoints/, with an (empty) manifest if asked for: lists look no further.
static void make_directory(const Run *run, const char *name, bool manifest)
{
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run->directory.path, "checkpoints"), LS_OK);
    assert_int_equal(ls_path_join(path, path, name), LS_OK);
    assert_int_equal(ls_directory_create(path), LS_OK);
    assert_int_equal(ls_path_join(path, path, "manifest.json"), LS_OK);
    if (manifest)
        assert_int_equal(ls_file_replace(path, "", 0), LS_OK);
}

static void make_step(const Run *run, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "step-%08" PRId64, step);
    make_directory(run, name, true);
}

// The run's steps as "10 20 30".
static void list_text(const Run *run, char *text, size_t size)
{
    int64_t *steps;
    size_t count, used = 0;
    assert_int_equal(ls_checkpoint_list(run->directory.path, &steps, &count), LS_OK);
    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? " " : "", steps[i]);
    free(steps);
}

static void only_finished_checkpoints_are_listed(void **state)
{
    Run *run = *state;
    char text[256];
    list_text(run, text, sizeof text);
    assert_string_equal(text, "");
    make_step(run, 30);
    make_step(run, 5);
    make_step(run, 123456789012);
    make_step(run, 0);
    make_directory(run, "step-00000040", false);
    make_directory(run, "step-0000004", true);
    make_directory(run, "step-000000040", true);
    make_directory(run, "step-00000040x", true);
    make_directory(run, "step-", true);
    make_directory(run, "step--0000040", true);
    make_directory(run, "step-99999999999999999999", true);
    make_directory(run, ".saving-step-00000050-0", true);
    make_directory(run, "best", true);
    list_text(run, text, sizeof text);
    assert_string_equal(text, "0 5 30 123456789012");

    int64_t *steps;
    size_t count;
    assert_int_equal(ls_checkpoint_list(base, &steps, &count), LS_OK); // has no checkpoints/ at all
    assert_int_equal(count, 0);
    free(steps);
    char path[LS_PATH_MAX];
    ls_checkpoint_path(path, "/runs/a", 1200);
    assert_string_equal(path, "/runs/a/checkpoints/step-00001200");
}

// Steps from this one on are damaged.
enum { WHOLE = 1000, HURRIED = -1, UNREADABLE = -2 };

static LsVerdict check_by_step(void *context, int64_t step)
{
    int64_t damaged = (int64_t)(intptr_t)context;
    if (damaged == HURRIED)
        return LS_VERDICT_LATER;
    if (damaged == UNREADABLE) // all but the oldest
        return step > 0 ? LS_VERDICT_UNREADABLE : LS_VERDICT_GOOD;
    return step >= damaged ? LS_VERDICT_DAMAGED : LS_VERDICT_GOOD;
}

static void retention_keeps_what_was_asked_for(void **state)
{
    static const struct {
        int64_t last, every, best;
        const char *kept;
        int64_t damaged;
    } cases[] = {
        {3, 0, -1, "70 80 90", WHOLE},
        {1, 0, -1, "80 90", WHOLE}, // always the newest two
        {0, 0, -1, "80 90", WHOLE},
        {2, 30, -1, "0 30 60 80 90", WHOLE},
        {2, 0, 40, "40 80 90", WHOLE},
        {2, 0, 90, "80 90", WHOLE},
        {2, 50, 10, "0 10 50 80 90", WHOLE},
        {2, 0, 45, "80 90", WHOLE}, // a best step that has no checkpoint
        {100, 0, -1, "0 10 20 30 40 50 60 70 80 90", WHOLE},
        {2, 0, -1, "60 70 80 90", 80}, // what is damaged does not count
        {3, 0, -1, "40 50 70 80 90", 60},
        {2, 0, -1, "0 10 80 90", 20},
        {2, 0, -1, "80 90", 0},                              // without any there is nothing to protect
        {2, 0, -1, "0 10 20 30 40 50 60 70 80 90", HURRIED}, // nothing goes unseen
        {2, 0, -1, "0 10 20 30 40 50 60 70 80 90", UNREADABLE},
    };
    Run *run = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        for (int64_t step = 0; step < 100; step += 10)
            make_step(run, step);
        bool complete = false;
        LsRetention retention = {.keep_last = cases[i].last,
            .keep_every = cases[i].every,
            .best_step = cases[i].best,
            .check = check_by_step,
            .context = (void *)(intptr_t)cases[i].damaged};
        assert_int_equal(ls_checkpoint_retain(&run->directory, &retention, &complete), LS_OK);
        assert_int_equal(complete, cases[i].damaged != HURRIED);
        list_text(run, text, sizeof text);
        assert_string_equal(text, cases[i].kept);
    }
}

static void only_the_unfinished_work_of_others_is_removed(void **state)
{
    Run *run = *state;
    run->directory.attempt = 5;
    static const struct {
        const char *kind;
        const char *run_id; // NULL: this run's
        int attempt;
        bool stays;
    } cases[] = {
        {".saving", NULL, 4, false},
        {".removing", NULL, 1, false},
        {".replaced", NULL, 4, false},
        {".saving", NULL, 5, true},
        {".saving", NULL, 6, true},
        {".saving", "0123456789abcdef0123456789abcdef", 9, false},
        {"saving", NULL, 4, true},
        {".saving", "0123456789ABCDEF0123456789abcdef", 4, true},
        {".saving", "short", 4, true},
    };
    char names[9][LS_PATH_MAX], path[LS_PATH_MAX];
    for (size_t i = 0; i < 9; i++) {
        const char *run_id = cases[i].run_id ? cases[i].run_id : run->directory.run_id;
        snprintf(
            names[i], sizeof names[i], "%s-step-%08zu-%s-%06d", cases[i].kind, i, run_id, cases[i].attempt);
        make_directory(run, names[i], true);
    }
    assert_int_equal(fixture_retain(&run->directory, 2), LS_OK);
    for (size_t i = 0; i < 9; i++) {
        assert_int_equal(ls_path_join(path, run->directory.path, "checkpoints"), LS_OK);
        assert_int_equal(ls_path_join(path, path, names[i]), LS_OK);
        if (ls_file_exists(path) != cases[i].stays)
            fail_msg("%s %s", names[i], cases[i].stays ? "is gone" : "is still there");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_finished_checkpoints_are_listed, make_run, remove_run),
        cmocka_unit_test_setup_teardown(retention_keeps_what_was_asked_for, make_run, remove_run),
        cmocka_unit_test_setup_teardown(only_the_unfinished_work_of_others_is_removed, make_run, remove_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
