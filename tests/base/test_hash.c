// Hashes: published vectors, text and back, pieces give what the whole gives.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
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

// The code as hexadecimal digits.
static void hmac_text(const void *key, size_t key_size, const char *data, char text[LS_SHA256_TEXT])
{
    uint8_t code[LS_HMAC_SIZE];
    ls_hmac_sha256(key, key_size, data, strlen(data), code);
    for (size_t i = 0; i < sizeof code; i++)
        snprintf(text + 2 * i, 3, "%02x", code[i]);
}

// RFC 4231, test cases 1, 2, 3, 4, 6 and 7 (5 is about shortened codes).
static void test_hmac(void **state)
{
    (void)state;
    char text[LS_SHA256_TEXT];
    uint8_t key[131], data[51] = {0};
    memset(key, 0x0b, 20);
    hmac_text(key, 20, "Hi There", text);
    assert_string_equal(text, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    hmac_text("Jefe", 4, "what do ya want for nothing?", text);
    assert_string_equal(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof key);
    memset(data, 0xdd, 50);
    hmac_text(key, 20, (char *)data, text);
    assert_string_equal(text, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    for (size_t i = 0; i < 25; i++)
        key[i] = (uint8_t)(i + 1);
    memset(data, 0xcd, 50);
    hmac_text(key, 25, (char *)data, text);
    assert_string_equal(text, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
    memset(key, 0xaa, sizeof key);
    hmac_text(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First", text);
    assert_string_equal(text, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    hmac_text(key, 131,
        "This is a test using a larger than block-size key and a larger than block-size data. The key needs "
        "to be hashed before being used by the HMAC algorithm.",
        text);
    assert_string_equal(text, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}

static void test_hmac_equal(void **state)
{
    (void)state;
    uint8_t a[LS_HMAC_SIZE] = {1}, b[LS_HMAC_SIZE] = {1};
    assert_true(ls_hmac_equal(a, b));
    for (size_t i = 0; i < sizeof a; i++) {
        b[i] ^= 0x80;
        assert_false(ls_hmac_equal(a, b));
        b[i] ^= 0x80;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xxh3_vectors),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_hmac_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
