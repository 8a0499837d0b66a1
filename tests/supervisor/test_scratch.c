// Scratch directories: held by who uses them, swept when nobody does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/scratch.h"

static void test_leave(void **state)
{
    (void)state;
    char path[LS_PATH_MAX], file[LS_PATH_MAX];
    int lock = -1;
    assert_int_equal(ls_scratch_create(path, &lock), LS_OK);
    assert_true(ls_directory_exists(path));
    assert_int_equal(ls_path_join(file, path, "segment"), LS_OK);
    FILE *segment = fopen(file, "w");
    assert_non_null(segment);
    fclose(segment);
    ls_scratch_sweep(); // it is held
    assert_true(ls_file_exists(file));
    ls_scratch_leave(path, lock);
    assert_false(ls_directory_exists(path));
}

// A process that is killed leaves its directory, and the next one to come removes it.
static void test_sweep(void **state)
{
    (void)state;
    char path[LS_PATH_MAX] = "";
    int ends[2], lock;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        if (ls_scratch_create(path, &lock) != LS_OK || write(ends[1], path, sizeof path) != sizeof path)
            _exit(1);
        pause();
        _exit(2);
    }
    assert_int_equal(read(ends[0], path, sizeof path), sizeof path);
    ls_scratch_sweep();
    assert_true(ls_directory_exists(path));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    ls_scratch_sweep();
    assert_false(ls_directory_exists(path));
    close(ends[0]);
    close(ends[1]);
}

static void test_join(void **state)
{
    (void)state;
    char path[LS_PATH_MAX];
    int lock = -1;
    ls_scratch_join("/tmp/elsewhere"); // not one of ours: nothing happens
    assert_null(getenv("OMPI_MCA_btl_vader_backing_directory"));
    assert_int_equal(ls_scratch_create(path, &lock), LS_OK);
    ls_scratch_join(path);
    assert_string_equal(getenv("OMPI_MCA_btl_vader_backing_directory"), path);
    ls_scratch_leave(path, lock);
    assert_true(ls_directory_exists(path)); // the rank holds it still
    ls_scratch_part();
    assert_false(ls_directory_exists(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leave),
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
