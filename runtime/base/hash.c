#include "base/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct LsSha256 {
    EVP_MD_CTX *context;
};

static const char digits[] = "0123456789abcdef";

static void write_hexadecimal(const uint8_t *bytes, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * count] = '\0';
}

// The value of a hexadecimal digit of either case, -1 for anything else.
static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

uint64_t ls_hash64(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

LsHash128 ls_hash128(const void *data, size_t size)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
    LsHash128 hash;
    memcpy(hash.bytes, canonical.digest, sizeof hash.bytes);
    return hash;
}

bool ls_hash128_equal(LsHash128 a, LsHash128 b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

void ls_hash128_text(LsHash128 hash, char text[LS_HASH128_TEXT])
{
    write_hexadecimal(hash.bytes, sizeof hash.bytes, text);
}

bool ls_hash128_parse(const char *text, LsHash128 *hash)
{
    LsHash128 parsed;
    for (size_t i = 0; i < sizeof parsed.bytes; i++) {
        int high = digit_value(text[2 * i]);
        int low = high < 0 ? -1 : digit_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        parsed.bytes[i] = (uint8_t)(high << 4 | low);
    }
    if (text[2 * sizeof parsed.bytes] != '\0')
        return false;
    *hash = parsed;
    return true;
}

// A digest fails only when a few hundred bytes cannot be had. A hash that silently covers less than it says
// would be worse than ending here.
static void require(bool done)
{
    if (!done)
        abort();
}

LsSha256 *ls_sha256_create(void)
{
    LsSha256 *sha = malloc(sizeof *sha);
    require(sha != NULL);
    sha->context = EVP_MD_CTX_new();
    require(sha->context != NULL && EVP_DigestInit_ex(sha->context, EVP_sha256(), NULL) == 1);
    return sha;
}

void ls_sha256_update(LsSha256 *sha, const void *data, size_t size)
{
    require(EVP_DigestUpdate(sha->context, data, size) == 1);
}

void ls_sha256_finish(LsSha256 *sha, char text[LS_SHA256_TEXT])
{
    uint8_t digest[32];
    require(EVP_DigestFinal_ex(sha->context, digest, NULL) == 1);
    write_hexadecimal(digest, sizeof digest, text);
    EVP_MD_CTX_free(sha->context);
    free(sha);
}

// One SHA-256 over a block of the key, each byte changed by `pad`, and then the data.
static void padded_sha256(
    const uint8_t block[64], uint8_t pad, const void *data, size_t size, uint8_t out[LS_HMAC_SIZE])
{
    uint8_t padded[64];
    for (size_t i = 0; i < sizeof padded; i++)
        padded[i] = block[i] ^ pad;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    require(context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1);
    require(EVP_DigestUpdate(context, padded, sizeof padded) == 1);
    require(EVP_DigestUpdate(context, data, size) == 1);
    require(EVP_DigestFinal_ex(context, out, NULL) == 1);
    EVP_MD_CTX_free(context);
}

void ls_hmac_sha256(
    const void *key, size_t key_size, const void *data, size_t size, uint8_t out[LS_HMAC_SIZE])
{
    uint8_t block[64] = {0}, inner[LS_HMAC_SIZE];
    if (key_size > sizeof block)
        require(EVP_Digest(key, key_size, block, NULL, EVP_sha256(), NULL) == 1);
    else if (key_size > 0)
        memcpy(block, key, key_size);
    padded_sha256(block, 0x36, data, size, inner);
    padded_sha256(block, 0x5c, inner, sizeof inner, out);
}

bool ls_hmac_equal(const uint8_t a[LS_HMAC_SIZE], const uint8_t b[LS_HMAC_SIZE])
{
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < LS_HMAC_SIZE; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}
