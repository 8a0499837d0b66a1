// Configuration files: what is read, what is refused and where, and that what is written reads back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/file.h"

static LsConfig parse(const char *text)
{
    LsConfig config;
    ls_config_defaults(&config);
    if (ls_config_parse_yaml(&config, text, strlen(text), "a.yaml") != LS_OK)
        fail_msg("%s", ls_status_message());
    return config;
}

// Parsing must fail with LS_CONFIG at "a.yaml:" `place`, say `part` in one line and change nothing.
static void expect_bytes_refused(const char *text, size_t size, const char *place, const char *part)
{
    LsConfig config, before;
    ls_config_defaults(&config);
    before = config;
    assert_int_equal(ls_config_parse_yaml(&config, text, size, "a.yaml"), LS_CONFIG);
    char start[64];
    snprintf(start, sizeof start, "a.yaml:%s: ", place);
    const char *message = ls_status_message();
    if (strncmp(message, start, strlen(start)) != 0 || strstr(message, part) == NULL)
        fail_msg("\"%s\" instead of \"%s… %s\"", message, start, part);
    assert_null(strchr(message, '\n'));
    assert_memory_equal(&config, &before, sizeof config);
}

static void expect_refused(const char *text, const char *place, const char *part)
{
    expect_bytes_refused(text, strlen(text), place, part);
}

static void test_reads(void **state)
{
    (void)state;
    LsConfig config = parse("# a comment\n"
                            "train:\n"
                            "  batch: 512  # another\n"
                            "  max_epochs: 2.5\n"
                            "model: {hidden: [3, 4], residual: true, activation: \"gelu\"}\n"
                            "data:\n"
                            "  path: 'data/it''s é.h5'\n"
                            "optimizer:\n"
                            "  # all commented out\n");
    assert_int_equal(config.train.batch, 512);
    assert_true(config.train.max_epochs == 2.5);
    assert_int_equal(config.model.hidden.count, 2);
    assert_int_equal(config.model.hidden.values[1], 4);
    assert_true(config.model.residual);
    assert_int_equal(config.model.activation, LS_ACTIVATION_GELU);
    assert_string_equal(config.data.path, "data/it's é.h5");

    config = parse("model:\n  hidden:\n  - 7\n  - 8\ndata:\n  path: \"\"\n");
    assert_int_equal(config.model.hidden.count, 2);
    assert_string_equal(config.data.path, "");
    assert_int_equal(parse("model: {hidden: 9}").model.hidden.values[0], 9);
    assert_int_equal(parse("model: {hidden: []}").model.hidden.count, 0);
    // A byte order mark, and lines as Windows ends them.
    assert_int_equal(parse("\xEF\xBB\xBFtrain:\r\n  batch: 3\r\n").train.batch, 3);
}

static void test_nothing_changes_nothing(void **state)
{
    (void)state;
    LsConfig defaults;
    ls_config_defaults(&defaults);
    const char *const empty[] = {"", "\n\n", "# only a comment\n", "train:\n", "{}", "---\n{}\n...\n"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        LsConfig config = parse(empty[i]);
        assert_memory_equal(&config, &defaults, sizeof config);
    }
}

static void test_unknown_and_duplicate_keys(void **state)
{
    (void)state;
    expect_refused("train:\n  bach: 3\n", "2:3", "did you mean train.batch?");
    expect_refused("trian:\n  batch: 3\n", "1:1", "did you mean train?");
    expect_refused("train:\n  batch: 8\n  lanes: 8\n  batch: 9\n", "4:3", "twice; the first is in line 2");
    expect_refused("train:\n  batch: 8\nmodel:\n  kind: mlp\ntrain:\n  lanes: 8\n", "5:1",
        "section train is given twice");
    expect_refused("train.batch: 8\n", "1:1", "\"train:\", and below it");
    expect_refused("train: {batch: 1}\n<<: {}\n", "2:1", "unknown section");
    expect_refused("train:\n  \"a\\nb\": 8\n", "2:3", "\"train.a?b\"");
}

static void test_wrong_structure(void **state)
{
    (void)state;
    expect_refused("- train\n", "1:1", "mapping of sections");
    expect_refused("train\n", "1:1", "mapping of sections");
    expect_refused("train: 5\n", "1:8", "section train must hold options");
    expect_refused("train: [1]\n", "1:8", "section train must hold options");
    expect_refused("train:\n  batch:\n    size: 3\n", "3:5", "not a mapping");
    expect_refused("train:\n  batch: [1, 2]\n", "2:10", "one value, not a list");
    expect_refused("model:\n  hidden: [[1]]\n", "2:12", "not a list or a mapping");
    expect_refused("model:\n  hidden: [{a: 1}]\n", "2:12", "not a list or a mapping");
    expect_refused("train:\n  ? [a]\n  : 1\n", "2:5", "must be a name");
    expect_refused("? [a]\n: 1\n", "1:3", "must be a word");
    expect_refused("train:\n  batch:\n  lanes: 8\n", "2:3", "train.batch has no value");
    expect_refused("data:\n  path: ~\n", "2:3", "data.path has no value");
    expect_refused("data:\n  path: null\n", "2:3", "data.path has no value");
    expect_refused("train: {batch: 8}\n---\ntrain: {batch: 9}\n", "2:1", "a second document");
}

static void test_anchors_aliases_tags(void **state)
{
    (void)state;
    expect_refused("train:\n  batch: &b 8\n", "2:10", "an anchor");
    expect_refused("train: &t\n  batch: 8\n", "1:8", "an anchor");
    expect_refused("model:\n  hidden: &h [1]\n", "2:11", "an anchor");
    expect_refused("&k train:\n  batch: 8\n", "1:1", "an anchor");
    expect_refused("train:\n  batch: *b\n", "2:10", "an alias");
    expect_refused("train:\n  batch: !!int 8\n", "2:10", "a tag");
    expect_refused("train: !x\n  batch: 8\n", "1:8", "a tag");
    expect_refused("model:\n  hidden: !y [1]\n", "2:11", "a tag");
    expect_refused("model:\n  hidden: [!z 1]\n", "2:12", "a tag");
}

static void test_bad_values_have_their_place(void **state)
{
    (void)state;
    expect_refused("train:\n  batch: many\n", "2:10", "train.batch is \"many\"");
    expect_refused("train:\n  batch: 0\n", "2:10", "from 1 to");
    expect_refused("runtime: {device: tpu}\n", "1:19", "one of auto, cpu, cuda, ref");
    expect_refused("model:\n  residual: yes\n", "2:13", "true or false");
    expect_refused("model:\n  hidden: [1, x]\n", "2:15", "the item \"x\"");
    expect_refused("model:\n  hidden: [1, 0]\n", "2:11", "from 1 to");
    expect_refused("model:\n  hidden: [\"1, 2\"]\n", "2:12", "the item \"1, 2\"");
    expect_bytes_refused("data:\n  path: \"a\\0b\"\n", 20, "2:9", "NUL");
    char text[1024] = "model:\n  hidden: [1";
    for (size_t i = 0; i < LS_CONFIG_LIST; i++)
        strcat(text, ",1");
    strcat(text, "]");
    expect_refused(text, "2:140", "at most 64 numbers"); // item n stands in column 10 + 2n
}

static void test_syntax_errors_have_their_place(void **state)
{
    (void)state;
    expect_refused("train:\n\tbatch: 3\n", "2:1", "indented with a tab");
    expect_refused("train:\n  batch: 3\n \tlanes: 8\n", "3:2", "tab");
    expect_refused("train: {batch: 8\n", "2:1", "not valid YAML");
    expect_refused("train:\n  batch: 8\n lanes: 8\n", "3:2", "not valid YAML");
    expect_refused("data:\n  path: \"open\n", "3:1", "not valid YAML");
    expect_refused("train: @\n", "1:8", "not valid YAML");
    expect_refused("data:\n  path: \xff\n", "2:9", "not a text file in UTF-8");
    expect_refused("data:\n  path: é\xc0\x80\n", "2:10", "not a text file in UTF-8");
    expect_bytes_refused("train:\n  batch: 8\n\0\0", 20, "3:1", "not a text file in UTF-8");
    expect_bytes_refused("\xff\xfet\0r\0", 6, "1:1", "not a text file in UTF-8"); // UTF-16
}

static void expect_write_reads_back(const LsConfig *config)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    ls_config_write_yaml(config, out);
    assert_int_equal(fclose(out), 0);
    LsConfig back;
    ls_config_defaults(&back);
    if (ls_config_parse_yaml(&back, text, size, "written.yaml") != LS_OK)
        fail_msg("%s", ls_status_message());
    assert_memory_equal(&back, config, sizeof back);
    free(text);
}

static void test_written_reads_back(void **state)
{
    (void)state;
    LsConfig config;
    ls_config_defaults(&config);
    expect_write_reads_back(&config);
    // Every option away from its default, and texts that YAML could take for something else.
    size_t count;
    const LsOption *options = ls_options(&count);
    const char *const texts[] = {"null", "~", "", "- a: b # c", "\"q\" \\n", " spaces ",
        "é\xC2\x85\xE2\x80\xA8\xEF\xBB\xBF", "\xF0\x9F\x98\x80 [1]", "*a &b !c"};
    for (size_t turn = 0; turn < sizeof texts / sizeof texts[0]; turn++) {
        for (size_t i = 0; i < count; i++) {
            char value[64] = "true";
            if (options[i].type == LS_OPTION_INT || options[i].type == LS_OPTION_INTS)
                snprintf(value, sizeof value, "%.0f", options[i].maximum);
            else if (options[i].type == LS_OPTION_REAL)
                snprintf(value, sizeof value, "%.17g", options[i].maximum / (3 + (double)turn));
            else if (options[i].type == LS_OPTION_TEXT)
                snprintf(value, sizeof value, "%s", texts[turn]);
            else if (options[i].type == LS_OPTION_CHOICE)
                snprintf(value, sizeof value, "%s", options[i].choices[options[i].choices[1] != NULL]);
            assert_int_equal(ls_config_set(&config, options[i].name, value, "test"), LS_OK);
        }
        expect_write_reads_back(&config);
    }
    assert_int_equal(ls_config_set(&config, "model.hidden", "[]", "test"), LS_OK);
    expect_write_reads_back(&config);
}

static void test_files(void **state)
{
    (void)state;
    LsConfig config;
    ls_config_defaults(&config);
    assert_int_equal(ls_config_read_yaml(&config, "/nonexistent.yaml"), LS_NO_INPUT);
    char path[] = "/tmp/lockstep-yaml-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(ls_file_replace(path, "train: {batch: 24}\n", 19), LS_OK);
    assert_int_equal(ls_config_read_yaml(&config, path), LS_OK);
    assert_int_equal(config.train.batch, 24);
    enum { LARGE = (1 << 20) + 1 };
    char *large = calloc(1, LARGE);
    assert_non_null(large);
    memset(large, '\n', LARGE);
    assert_int_equal(ls_file_replace(path, large, LARGE), LS_OK);
    assert_int_equal(ls_config_read_yaml(&config, path), LS_CONFIG);
    assert_non_null(strstr(ls_status_message(), "larger than"));
    free(large);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_nothing_changes_nothing),
        cmocka_unit_test(test_unknown_and_duplicate_keys),
        cmocka_unit_test(test_wrong_structure),
        cmocka_unit_test(test_anchors_aliases_tags),
        cmocka_unit_test(test_bad_values_have_their_place),
        cmocka_unit_test(test_syntax_errors_have_their_place),
        cmocka_unit_test(test_written_reads_back),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
