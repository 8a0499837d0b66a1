// Cores that a process may use: limits of control groups in both versions, and what binding hides.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cores.h"

static char root[64];

static void run(const char *format, const char *path)
{
    char command[512];
    snprintf(command, sizeof command, format, root, path);
    assert_int_equal(system(command), 0);
}

static void write_file(const char *path, const char *text)
{
    char name[256];
    run("mkdir -p $(dirname %s/%s)", path);
    snprintf(name, sizeof name, "%s/%s", root, path);
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static double limit(void)
{
    char mount[128], own[128];
    snprintf(mount, sizeof mount, "%s/mount", root);
    snprintf(own, sizeof own, "%s/own", root);
    return ls_cores_limit_at(mount, own);
}

static int create(void **state)
{
    (void)state;
    strcpy(root, "/tmp/lockstep-cores-XXXXXX");
    return mkdtemp(root) ? 0 : 1;
}

static int destroy(void **state)
{
    (void)state;
    run("rm -rf %s%s", "");
    return 0;
}

static void test_no_limit(void **state)
{
    (void)state;
    assert_true(limit() == 0); // nothing there
    write_file("own", "0::/\n");
    write_file("mount/cpu.max", "max 100000\n");
    assert_true(limit() == 0);
    write_file("mount/cpu.max", "nonsense");
    assert_true(limit() == 0);
    write_file("own", "nonsense\n\n::\n");
    assert_true(limit() == 0);
}

static void test_limit_of_a_container(void **state)
{
    (void)state;
    write_file("own", "0::/\n");
    write_file("mount/cpu.max", "150000 100000\n");
    assert_true(limit() == 1.5);
}

static void test_strictest_of_those_above(void **state)
{
    (void)state;
    write_file("own", "0::/system.slice/job/step\n");
    write_file("mount/system.slice/job/step/cpu.max", "800000 100000\n");
    write_file("mount/system.slice/job/cpu.max", "300000 100000\n");
    write_file("mount/system.slice/cpu.max", "max 100000\n");
    assert_true(limit() == 3);
    write_file("own", "0::/outside/of/what/is/seen\n"); // a container's group under its name outside
    assert_true(limit() == 0);
    write_file("mount/cpu.max", "200000 100000\n");
    assert_true(limit() == 2);
}

static void test_version_1(void **state)
{
    (void)state;
    write_file("own", "9:name=systemd:/\n5:cpuset:/a\n4:cpu,cpuacct:/a/b\n0::/\n");
    write_file("mount/cpu/a/b/cpu.cfs_quota_us", "-1\n");
    write_file("mount/cpu/a/b/cpu.cfs_period_us", "100000\n");
    assert_true(limit() == 0);
    write_file("mount/cpu/a/cpu.cfs_quota_us", "250000\n");
    write_file("mount/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_true(limit() == 2.5);
}

static void test_binding_hides_nothing(void **state)
{
    (void)state;
    cpu_set_t before, one, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    size_t cores = ls_cores_usable();
    assert_in_range(cores, 1, sysconf(_SC_NPROCESSORS_CONF));
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    for (int processor = 0; processor < CPU_SETSIZE; processor++) {
        if (!CPU_ISSET(processor, &before))
            continue;
        CPU_ZERO(&one);
        CPU_SET(processor, &one);
        break;
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(ls_cores_usable(), cores);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&one, &after));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_limit, create, destroy),
        cmocka_unit_test_setup_teardown(test_limit_of_a_container, create, destroy),
        cmocka_unit_test_setup_teardown(test_strictest_of_those_above, create, destroy),
        cmocka_unit_test_setup_teardown(test_version_1, create, destroy),
        cmocka_unit_test(test_binding_hides_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
