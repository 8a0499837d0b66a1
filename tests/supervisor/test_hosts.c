// Hosts: lists in Open MPI's and Horovod's forms, hosts that come and go, hosts on which ranks die.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hosts.h"

static void test_hostfile(void **state)
{
    (void)state;
    LsHosts hosts = {0};
    const char *text = "# all of them\nnode1 slots=4 max_slots=8\n\n  node2\t slots=2 # "
                       "two\r\nuser@node-3.example.org\nnode1 "
                       "slots=1";
    assert_int_equal(ls_hosts_read_hostfile(text, "file", &hosts), LS_OK);
    assert_int_equal(hosts.count, 3);
    assert_string_equal(hosts.host[0].name, "node1");
    assert_int_equal(hosts.host[0].slots, 5);
    assert_string_equal(hosts.host[1].name, "node2");
    assert_int_equal(hosts.host[1].slots, 2);
    assert_string_equal(hosts.host[2].name, "user@node-3.example.org");
    assert_int_equal(hosts.host[2].slots, 1);
    ls_hosts_free(&hosts);
}

static void test_discovery(void **state)
{
    (void)state;
    LsHosts hosts = {0};
    assert_int_equal(ls_hosts_read_discovery("a:4\nb\n c:0 \n\n", "script", &hosts), LS_OK);
    assert_int_equal(hosts.count, 3);
    assert_int_equal(hosts.host[0].slots, 4);
    assert_int_equal(hosts.host[1].slots, 1);
    assert_int_equal(hosts.host[2].slots, 0);
    ls_hosts_free(&hosts);
    assert_int_equal(ls_hosts_read_discovery("", "script", &hosts), LS_OK);
    assert_int_equal(hosts.count, 0);
    ls_hosts_free(&hosts);
}

static void test_bad_lists(void **state)
{
    (void)state;
    LsHosts hosts = {0};
    const char *const files[] = {"a slots=", "a slots=x", "a slots=-1", "a slots=99999999", "a;b slots=1",
        "-x slots=1", "\x01 slots=1"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        assert_int_equal(ls_hosts_read_hostfile(files[i], "file", &hosts), LS_USAGE);
        assert_non_null(strstr(ls_status_message(), "file:1"));
        assert_int_equal(hosts.count, 0);
    }
    const char *const scripts[] = {"a:", "a:x", "a:1:2", ":1", "a/b:1", "--help"};
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        assert_int_equal(ls_hosts_read_discovery(scripts[i], "script", &hosts), LS_USAGE);
    char name[1200];
    memset(name, 'a', sizeof name);
    name[300] = '\0';
    assert_int_equal(ls_hosts_read_discovery(name, "script", &hosts), LS_USAGE);
    name[300] = 'a';
    name[sizeof name - 1] = '\0';
    assert_int_equal(ls_hosts_read_discovery(name, "script", &hosts), LS_USAGE);
}

static void test_names(void **state)
{
    (void)state;
    assert_true(ls_host_same("node1", "node1"));
    assert_true(ls_host_same("node1", "node1.example.org"));
    assert_true(ls_host_same("node1.example.org", "node1"));
    assert_false(ls_host_same("node1.a", "node1.b"));
    assert_false(ls_host_same("node1", "node11"));
    assert_false(ls_host_same("10.0.0.1", "10"));
    assert_true(ls_host_is_local("localhost"));
    assert_true(ls_host_is_local("127.0.0.1"));
    assert_false(ls_host_is_local("no-such-host-here"));
}

static void update(LsHosts *book, const char *text, double now)
{
    LsHosts list = {0};
    assert_int_equal(ls_hosts_read_discovery(text, "script", &list), LS_OK);
    assert_int_equal(ls_hosts_update(book, &list, now), LS_OK);
    ls_hosts_free(&list);
}

static void test_coming_and_going(void **state)
{
    (void)state;
    LsHosts book = {0};
    update(&book, "a:2\nb:2", 100);
    assert_int_equal(ls_hosts_slots(&book, 0, 100), 4);
    update(&book, "a:2", 110);
    assert_int_equal(ls_hosts_slots(&book, 0, 110), 2);
    update(&book, "a:2\nb:3", 120);
    assert_int_equal(ls_hosts_slots(&book, 0, 120), 5);
    assert_int_equal(ls_hosts_slots(&book, 15, 130), 2); // b has just come
    assert_int_equal(ls_hosts_slots(&book, 15, 135), 5);
    update(&book, "a:4\nb:3", 140); // so have a's new slots
    assert_int_equal(ls_hosts_slots(&book, 15, 150), 3);
    assert_int_equal(ls_hosts_slots(&book, 15, 155), 7);
    ls_hosts_free(&book);
}

static void test_blame(void **state)
{
    (void)state;
    LsHosts book = {0};
    update(&book, "a:2\nb:2", 100);
    assert_false(ls_hosts_blame(&book, "elsewhere", 1, 100));
    assert_false(ls_hosts_blame(&book, "b.example.org", 1, 100)); // once is an accident
    assert_true(ls_hosts_blame(&book, "b", 1, 110));
    assert_int_equal(ls_hosts_slots(&book, 0, 111), 2);
    assert_int_equal(ls_hosts_slots(&book, 0, 139), 2);
    assert_int_equal(ls_hosts_slots(&book, 0, 141), 4);
    assert_true(ls_hosts_blame(&book, "b", 1, 150)); // for twice as long
    assert_int_equal(ls_hosts_slots(&book, 0, 209), 2);
    assert_int_equal(ls_hosts_slots(&book, 0, 211), 4);
    assert_false(ls_hosts_blame(&book, "b", 1, 1000)); // forgotten
    assert_false(ls_hosts_blame(&book, "a", 3, 1000));
    assert_false(ls_hosts_blame(&book, "a", 3, 1001)); // the others do not suffice
    ls_hosts_free(&book);
    update(&book, "a:2", 100); // nor do none
    assert_false(ls_hosts_blame(&book, "a", 0, 100));
    assert_false(ls_hosts_blame(&book, "a", 0, 101));
    assert_int_equal(ls_hosts_slots(&book, 0, 101), 2);
    ls_hosts_free(&book);
}

static void test_leaving(void **state)
{
    (void)state;
    LsHosts book = {0};
    update(&book, "a:2\nlocalhost:2", 100);
    ls_hosts_leave(&book, "elsewhere", 100);
    assert_int_equal(ls_hosts_slots(&book, 0, 100), 4);
    ls_hosts_leave(&book, "a.example.org", 100);
    assert_int_equal(ls_hosts_slots(&book, 0, 100), 2);
    char own[LS_HOST_NAME_MAX] = "";
    assert_int_equal(gethostname(own, sizeof own - 1), 0);
    ls_hosts_leave(&book, own, 110); // as ranks on localhost call it
    assert_int_equal(ls_hosts_slots(&book, 0, 110), 0);
    assert_int_equal(ls_hosts_slots(&book, 0, 705), 2);
    assert_int_equal(ls_hosts_slots(&book, 10, 705), 0);
    assert_int_equal(ls_hosts_slots(&book, 0, 711), 4);
    ls_hosts_free(&book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostfile),
        cmocka_unit_test(test_discovery),
        cmocka_unit_test(test_bad_lists),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_coming_and_going),
        cmocka_unit_test(test_blame),
        cmocka_unit_test(test_leaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
