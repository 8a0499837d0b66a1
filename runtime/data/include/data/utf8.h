// UTF-8 (RFC 3629: no surrogates, nothing overlong), checked, and put together from pieces.
#ifndef LOCKSTEP_DATA_UTF8_H
#define LOCKSTEP_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

// The offset of the first byte that is not well-formed, or `bytes`.
size_t ls_utf8_valid(const char *text, size_t bytes);

// LS_BAD_DATA with `name`, where the text is from, and the offset in it; `before` bytes of it came earlier.
LsStatus ls_utf8_require(const char *name, uint64_t before, const char *text, size_t bytes);

// Text that comes in pieces, such as tokens, which may end within a character. All zeros at the beginning.
typedef struct LsUtf8Stream {
    char part[4]; // the beginning of a character
    size_t held;
} LsUtf8Stream;

// Writes the characters that are whole; bytes of none are written as U+FFFD, one for as many as could have
// begun a character. false: writing failed (errno).
bool ls_utf8_write(LsUtf8Stream *stream, const char *bytes, size_t count, FILE *file);

// No more bytes come: what is held is no character.
bool ls_utf8_end(LsUtf8Stream *stream, FILE *file);

#endif
