// JSON: numbers read back to the same bits, canonical text, malformed files with their position.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"

static char path[] = "/tmp/lockstep-json-XXXXXX";

static int make_path(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static double line_round_trip(double value)
{
    json_t *number = ls_json_number(value);
    char *text = ls_json_line(number);
    assert_non_null(text);
    json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(back);
    double result = json_number_value(back);
    json_decref(back);
    json_decref(number);
    free(text);
    return result;
}

static void test_floats_read_back(void **state)
{
    (void)state;
    LsRngKey key = ls_rng_key(1, 1);
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t bits = ls_rng_u32(key, 0, i), back_bits; // every exponent, subnormal numbers too
        float value, back;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        back = (float)line_round_trip((double)value);
        memcpy(&back_bits, &back, sizeof back);
        assert_int_equal(back_bits, bits);
    }
}

static void test_not_finite_is_null(void **state)
{
    (void)state;
    const double values[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        json_t *number = ls_json_number(values[i]);
        assert_true(json_is_null(number));
        json_decref(number);
    }
}

static void test_text_forms(void **state)
{
    (void)state;
    json_t *value = json_pack("{s:i, s:f, s:[i,i]}", "b", 1, "a", 0.1, "c", 1, 2);
    char *line = ls_json_line(value), *canonical = ls_json_canonical(value);
    assert_null(strchr(line, '\n'));
    assert_string_equal(line, "{\"b\": 1, \"a\": 0.1, \"c\": [1, 2]}");
    assert_string_equal(canonical, "{\"a\":0.10000000000000001,\"b\":1,\"c\":[1,2]}");
    free(line);
    free(canonical);
    json_decref(value);
}

static void test_file_round_trip(void **state)
{
    (void)state;
    json_t *value =
        json_pack("{s:f, s:s, s:I}", "pi", 3.141592653589793, "text", "é\n\"", "big", (json_int_t)INT64_MAX);
    assert_int_equal(ls_json_write(path, value), LS_OK);
    json_t *back = NULL;
    assert_int_equal(ls_json_read(path, 1000, LS_CHECKPOINT, &back), LS_OK);
    assert_true(json_equal(value, back)); // compares doubles exactly
    json_decref(back);
    json_decref(value);
}

static void expect_malformed(const char *text, size_t size, const char *place)
{
    json_t *back = NULL;
    assert_int_equal(ls_file_replace(path, text, size), LS_OK);
    assert_int_equal(ls_json_read(path, 1000, LS_CHECKPOINT, &back), LS_CHECKPOINT);
    assert_null(back);
    assert_non_null(strstr(ls_status_message(), path));
    assert_non_null(strstr(ls_status_message(), place));
}

static void test_malformed(void **state)
{
    (void)state;
    expect_malformed("", 0, ":1:");
    expect_malformed("{\n  \"a\": }", 10, ":2:");
    expect_malformed("{\"a\": 1, \"a\": 2}", 16, "duplicate");
    expect_malformed("[1, 2]", 6, "not a JSON object");
    expect_malformed("{} {}", 5, ":1:");
    expect_malformed("{\"a\": 1e999}", 12, ":1:");
    expect_malformed("{\"a\": \"\xff\"}", 10, ":1:");
    expect_malformed("{\"\0\": 1}", 8, ":1:");
    char large[1200];
    memset(large, ' ', sizeof large);
    expect_malformed(large, sizeof large, "larger than");
    json_t *back = NULL;
    assert_int_equal(ls_json_read("/nonexistent/file.json", 10, LS_CHECKPOINT, &back), LS_NO_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_floats_read_back),
        cmocka_unit_test(test_not_finite_is_null),
        cmocka_unit_test(test_text_forms),
        cmocka_unit_test(test_file_round_trip),
        cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
