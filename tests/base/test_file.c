// Files: atomic replacement, exact reads and writes, directories removed without following links.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static char root[] = "/tmp/lockstep-file-XXXXXX";

static int make_root(void **state)
{
    (void)state;
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state)
{
    (void)state;
    return ls_directory_remove(root) != LS_OK;
}

// A path below the test's own directory, in a buffer that lasts for four calls.
static const char *at(const char *name)
{
    static char paths[4][LS_PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    assert_int_equal(ls_path_join(path, root, name), LS_OK);
    return path;
}

static void assert_content(const char *path, const char *expected)
{
    char *data;
    size_t size;
    assert_int_equal(ls_file_read(path, 1000, &data, &size), LS_OK);
    assert_int_equal(size, strlen(expected));
    assert_string_equal(data, expected);
    free(data);
}

static size_t count_entries(const char *path)
{
    DIR *directory = opendir(path);
    assert_non_null(directory);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

static void test_join(void **state)
{
    (void)state;
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, "a", "b"), LS_OK);
    assert_string_equal(path, "a/b");
    assert_int_equal(ls_path_join(path, path, "c"), LS_OK); // in place
    assert_string_equal(path, "a/b/c");
    assert_int_equal(ls_path_join(path, "/", "x"), LS_OK);
    assert_string_equal(path, "/x");
    assert_int_equal(ls_path_join(path, "", "x"), LS_OK);
    assert_string_equal(path, "x");

    char name[LS_PATH_MAX];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(ls_path_join(path, "a", name), LS_CONFIG);
    name[LS_PATH_MAX - 3] = '\0'; // "a/" and this and the NUL fit exactly
    assert_int_equal(ls_path_join(path, "a", name), LS_OK);
    assert_int_equal(strlen(path), LS_PATH_MAX - 1);
}

static void test_read(void **state)
{
    (void)state;
    char *data = NULL;
    size_t size = 7;
    assert_int_equal(ls_file_read(at("missing"), 10, &data, &size), LS_NO_INPUT);
    assert_non_null(strstr(ls_status_message(), "missing"));
    assert_int_equal(ls_file_read(root, 10, &data, &size), LS_IO); // a directory
    assert_null(data);
    assert_int_equal(size, 7);

    assert_int_equal(ls_file_replace(at("ten"), "0123456789", 10), LS_OK);
    assert_int_equal(ls_file_read(at("ten"), 9, &data, &size), LS_BAD_DATA);
    assert_int_equal(ls_file_read(at("ten"), 10, &data, &size), LS_OK);
    assert_int_equal(size, 10);
    assert_memory_equal(data, "0123456789", 11); // with the NUL
    free(data);
    // A file that claims to have no size must be read to its end.
    assert_int_equal(ls_file_read("/proc/self/status", 1 << 20, &data, &size), LS_OK);
    assert_true(size > 100);
    free(data);
}

static void test_replace(void **state)
{
    (void)state;
    assert_false(ls_file_exists(at("file")));
    assert_int_equal(ls_file_replace(at("file"), "old", 3), LS_OK);
    assert_true(ls_file_exists(at("file")));
    // A reader that has the old file open keeps all of it: the new one is another file.
    int fd = open(at("file"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ls_file_replace(at("file"), "newer", 5), LS_OK);
    char text[4] = "";
    assert_int_equal(ls_file_read_at(fd, "file", text, 3, 0), LS_OK);
    assert_string_equal(text, "old");
    close(fd);
    assert_content(at("file"), "newer");
    assert_int_equal(ls_file_replace(at("file"), "", 0), LS_OK);
    assert_content(at("file"), "");
}

static void test_failed_replace_leaves_nothing(void **state)
{
    (void)state;
    assert_int_equal(ls_file_replace(at("no/such/file"), "x", 1), LS_IO);
    assert_int_equal(ls_directory_create(at("place/taken")), LS_OK);
    assert_int_equal(ls_file_replace(at("place/taken"), "x", 1), LS_IO); // by a directory
    assert_int_equal(count_entries(at("place")), 1);
    if (access("/dev/full", W_OK) == 0) {
        int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
        assert_int_equal(ls_file_write_at(fd, "/dev/full", "x", 1, 0), LS_IO);
        assert_non_null(strstr(ls_status_message(), "No space left"));
        close(fd);
    }
}

// Root's `-o /dev/null` would otherwise make a plain file of it.
static void test_replaces_only_files(void **state)
{
    (void)state;
    struct stat information;
    LsFileWrite file;
    assert_int_equal(mkfifo(at("pipe"), 0666), 0);
    assert_int_equal(symlink("pipe", at("link")), 0);
    assert_int_equal(ls_file_replace(at("pipe"), "x", 1), LS_IO);
    assert_int_equal(ls_file_begin(at("link"), &file), LS_IO);
    assert_non_null(strstr(ls_status_message(), "link"));
    assert_int_equal(lstat(at("pipe"), &information), 0);
    assert_true(S_ISFIFO(information.st_mode));
    assert_int_equal(lstat(at("link"), &information), 0);
    assert_true(S_ISLNK(information.st_mode));
}

// So `-o /dev/stdout > file` writes the file and leaves /dev/stdout alone.
static void test_follows_links(void **state)
{
    (void)state;
    struct stat information;
    char *data;
    size_t size;
    assert_int_equal(ls_file_replace(at("real"), "old", 3), LS_OK);
    assert_int_equal(symlink("real", at("to-real")), 0);
    assert_int_equal(symlink("to-real", at("to-link")), 0);
    assert_int_equal(ls_file_replace(at("to-link"), "newer", 5), LS_OK);
    assert_int_equal(ls_file_read(at("real"), 100, &data, &size), LS_OK);
    assert_true(size == 5 && memcmp(data, "newer", 5) == 0);
    free(data);
    static const char *const links[] = {"to-real", "to-link"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(lstat(at(links[i]), &information), 0);
        assert_true(S_ISLNK(information.st_mode));
    }
}

static void test_read_and_write_at(void **state)
{
    (void)state;
    int fd = open(at("sparse"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(ls_file_write_at(fd, "sparse", "abcd", 4, 100), LS_OK);
    char data[8] = "";
    assert_int_equal(ls_file_read_at(fd, "sparse", data, 4, 100), LS_OK);
    assert_memory_equal(data, "abcd", 4);
    assert_int_equal(ls_file_read_at(fd, "sparse", data, 0, 1000), LS_OK); // nothing, anywhere
    // One byte more than there is, and wholly behind the end.
    assert_int_equal(ls_file_read_at(fd, "sparse", data, 5, 100), LS_BAD_DATA);
    assert_non_null(strstr(ls_status_message(), "byte 104"));
    assert_int_equal(ls_file_read_at(fd, "sparse", data, 1, 5000), LS_BAD_DATA);
    close(fd);
    assert_int_equal(ls_file_read_at(fd, "sparse", data, 1, 0), LS_IO); // closed
    assert_int_equal(ls_file_write_at(fd, "sparse", data, 1, 0), LS_IO);
}

static void test_create_directories(void **state)
{
    (void)state;
    assert_int_equal(ls_directory_create(at("d/e/f")), LS_OK);
    assert_int_equal(ls_directory_create(at("d/e/f/")), LS_OK); // there already
    assert_true(ls_file_exists(at("d/e/f")));
    assert_int_equal(ls_directory_sync(at("d/e")), LS_OK);
    assert_int_equal(ls_file_replace(at("d/plain"), "x", 1), LS_OK);
    assert_int_equal(ls_directory_create(at("d/plain/below")), LS_IO);
    assert_int_equal(ls_directory_create(at("d/plain")), LS_IO);
    assert_int_equal(ls_directory_create(""), LS_IO);
}

static void test_remove_does_not_follow_links(void **state)
{
    (void)state;
    assert_int_equal(ls_directory_create(at("outside")), LS_OK);
    assert_int_equal(ls_file_replace(at("outside/precious"), "kept", 4), LS_OK);
    assert_int_equal(ls_directory_create(at("gone/a/b")), LS_OK);
    assert_int_equal(ls_file_replace(at("gone/a/b/file"), "x", 1), LS_OK);
    assert_int_equal(symlink(at("outside"), at("gone/a/link")), 0);
    assert_int_equal(symlink(at("outside/precious"), at("gone/file_link")), 0);
    assert_int_equal(symlink(at("gone"), at("gone/a/circle")), 0);

    assert_int_equal(symlink(at("outside"), at("alias")), 0);
    assert_int_equal(ls_directory_remove(at("alias")), LS_IO); // itself a link
    assert_int_equal(ls_directory_remove(at("alias/")), LS_IO);
    assert_int_equal(ls_directory_remove(at("outside/precious")), LS_IO); // no directory

    assert_int_equal(ls_directory_remove(at("gone/")), LS_OK);
    assert_false(ls_file_exists(at("gone")));
    assert_content(at("outside/precious"), "kept");
    assert_int_equal(ls_directory_remove(at("gone")), LS_OK); // missing is fine
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_failed_replace_leaves_nothing),
        cmocka_unit_test(test_replaces_only_files),
        cmocka_unit_test(test_follows_links),
        cmocka_unit_test(test_read_and_write_at),
        cmocka_unit_test(test_create_directories),
        cmocka_unit_test(test_remove_does_not_follow_links),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
