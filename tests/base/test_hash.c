// Hashes: published vectors, text and back, pieces give what the whole gives.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/hash.h"

static void test_xxh3_vectors(void **state)
{
    (void)state;
    // Of the empty input, from the xxHash project's own checks.
    assert_true(ls_hash64("", 0) == UINT64_C(0x2D06800538D394C2));
    char text[LS_HASH128_TEXT];
    ls_hash128_text(ls_hash128("", 0), text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
}

static void test_every_bit_counts(void **state)
{
    (void)state;
    unsigned char data[300] = {0}; // longer than xxHash's short-input paths
    uint64_t whole = ls_hash64(data, sizeof data);
    LsHash128 whole128 = ls_hash128(data, sizeof data);
    for (size_t bit = 0; bit < 8 * sizeof data; bit++) {
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_true(ls_hash64(data, sizeof data) != whole);
        assert_false(ls_hash128_equal(ls_hash128(data, sizeof data), whole128));
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_true(ls_hash128_equal(ls_hash128(data, sizeof data), whole128));
}

static void test_text(void **state)
{
    (void)state;
    LsHash128 hash = ls_hash128("abc", 3), back;
    char text[LS_HASH128_TEXT];
    ls_hash128_text(hash, text);
    assert_int_equal(strlen(text), 32);
    assert_true(ls_hash128_parse(text, &back));
    assert_true(ls_hash128_equal(hash, back));

    const char *const bad[] = {"", "0", "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0", "0123456789abcdef0123456789abcdeg",
        " 123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        LsHash128 untouched = hash;
        assert_false(ls_hash128_parse(bad[i], &untouched));
        assert_true(ls_hash128_equal(untouched, hash));
    }
}

static void test_sha256(void **state)
{
    (void)state;
    char text[LS_SHA256_TEXT];
    ls_sha256_finish(ls_sha256_create(), text);
    assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    // FIPS 180-4, example of one block, in two pieces.
    LsSha256 *sha = ls_sha256_create();
    ls_sha256_update(sha, "a", 1);
    ls_sha256_update(sha, "bc", 2);
    ls_sha256_finish(sha, text);
    assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xxh3_vectors),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
