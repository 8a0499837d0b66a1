// Two hashes: XXH3-128 (fast, guards against damage; Collet, xxHash 0.8) for blocks of data, and SHA-256
// (FIPS 180-4, through OpenSSL) for what people compare. HMAC-SHA256 for who may speak.
#ifndef LOCKSTEP_BASE_HASH_H
#define LOCKSTEP_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_HASH64_TEXT = 17, LS_HASH128_TEXT = 33, LS_SHA256_TEXT = 65 }; // hexadecimal digits and the NUL

typedef struct LsHash128 {
    uint8_t bytes[16]; // canonical (big-endian) XXH128
} LsHash128;

// XXH3-64 of `size` bytes: the hash of one block of a tensor.
uint64_t ls_hash64(const void *data, size_t size);

// XXH3-128 of `size` bytes.
LsHash128 ls_hash128(const void *data, size_t size);

bool ls_hash128_equal(LsHash128 a, LsHash128 b);

// 32 lower-case hexadecimal digits and a NUL.
void ls_hash128_text(LsHash128 hash, char text[LS_HASH128_TEXT]);

// Reads 32 hexadecimal digits; of either case; false if `text` is anything else.
bool ls_hash128_parse(const char *text, LsHash128 *hash);

// SHA-256 over bytes given piece by piece. Create, update any number of times, finish (which frees).
// These cannot fail, but end the process (abort) where a few hundred bytes of memory cannot be had.
typedef struct LsSha256 LsSha256;
LsSha256 *ls_sha256_create(void);
void ls_sha256_update(LsSha256 *sha, const void *data, size_t size);
void ls_sha256_finish(LsSha256 *sha, char text[LS_SHA256_TEXT]);

// HMAC-SHA256 (RFC 2104) of `size` bytes under a key of any size; ends the process like the calls above.
enum { LS_HMAC_SIZE = 32 };
void ls_hmac_sha256(
    const void *key, size_t key_size, const void *data, size_t size, uint8_t out[LS_HMAC_SIZE]);

// Compares two codes in a time that says nothing about where they differ.
bool ls_hmac_equal(const uint8_t a[LS_HMAC_SIZE], const uint8_t b[LS_HMAC_SIZE]);

#endif
