// UTF-8 that comes in pieces, and where text stops to be it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/utf8.h"

// What is written of `text` when it comes in pieces of `piece` bytes.
static void expect(const char *text, size_t piece, const char *expected)
{
    char *out = NULL;
    size_t size = 0, count = strlen(text);
    FILE *file = open_memstream(&out, &size);
    assert_non_null(file);
    LsUtf8Stream stream = {0};
    for (size_t i = 0; i < count; i += piece)
        assert_true(ls_utf8_write(&stream, text + i, count - i < piece ? count - i : piece, file));
    assert_true(ls_utf8_end(&stream, file));
    fclose(file);
    assert_string_equal(out, expected);
    assert_int_equal(ls_utf8_valid(out, size), size);
    free(out);
}

#define BAD "\xef\xbf\xbd" // U+FFFD

static void pieces_make_characters(void **unused)
{
    (void)unused;
    static const char *const texts[] = {"", "plain", "Größe", "naïve 漢字 \xf0\x9f\x98\x80!",
        "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\xc2\x80"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (size_t piece = 1; piece < 6; piece++)
            expect(texts[i], piece, texts[i]);
}

// As the Unicode standard recommends (chapter 3, "U+FFFD Substitution of Maximal Subparts").
static void what_is_none_is_replaced(void **unused)
{
    (void)unused;
    static const char *const cases[][2] = {
        {"a\xff z", "a" BAD " z"},                        // begins nothing
        {"\x80\xbf", BAD BAD},                            // continues nothing
        {"\xc0\xaf", BAD BAD},                            // overlong
        {"\xe2\x82", BAD},                                // cut off
        {"\xe2\x82x", BAD "x"},                           // broken off
        {"\xf0\x9f\x98\xe2\x82\xac", BAD "\xe2\x82\xac"}, // by another character
        {"\xed\xa0\x80", BAD BAD BAD},                    // a surrogate
        {"\xe0\x80\x80", BAD BAD BAD},                    // overlong
        {"\xf0\x80\x80\x80", BAD BAD BAD BAD},            // overlong
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD},            // beyond the last
        {"\xf5q", BAD "q"},                               // beyond the last
        {"\xf1\x80\x80\xe1\x80\xc2 \x80 \xbf", BAD BAD BAD " " BAD " " BAD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t piece = 1; piece < 6; piece++)
            expect(cases[i][0], piece, cases[i][1]);
}

// A character is written with its last byte, not with the next one.
static void nothing_waits_longer_than_it_must(void **unused)
{
    (void)unused;
    char *out = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&out, &size);
    LsUtf8Stream stream = {0};
    static const size_t after[] = {0, 0, 3, 4};
    for (size_t i = 0; i < 4; i++) {
        assert_true(ls_utf8_write(&stream, &"\xe2\x82\xac!"[i], 1, file));
        fflush(file);
        assert_int_equal(size, after[i]);
    }
    fclose(file);
    free(out);
}

static void a_full_disk_is_told(void **unused)
{
    (void)unused;
    FILE *file = fopen("/dev/full", "w");
    assert_non_null(file);
    setbuf(file, NULL);
    LsUtf8Stream stream = {0};
    assert_false(ls_utf8_write(&stream, "a", 1, file));
    assert_true(ls_utf8_write(&stream, "\xe2", 1, file)); // held
    assert_false(ls_utf8_end(&stream, file));
    fclose(file);
}

static void offsets_are_of_the_whole_text(void **unused)
{
    (void)unused;
    assert_int_equal(ls_utf8_require("here", 10, "fine", 4), LS_OK);
    assert_int_equal(ls_utf8_require("here", 10, "a\xff", 2), LS_BAD_DATA);
    assert_non_null(strstr(ls_status_message(), "here: offset 11: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_make_characters),
        cmocka_unit_test(what_is_none_is_replaced),
        cmocka_unit_test(nothing_waits_longer_than_it_must),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(offsets_are_of_the_whole_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
