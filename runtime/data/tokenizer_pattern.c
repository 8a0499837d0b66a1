#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer_pattern.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// White space is spelled out, because PCRE2 counts U+180E to it and Unicode no longer does.
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"

static const char expression[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE
                                 "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+";

struct LsPattern {
    pcre2_code *code;
};

struct LsPieces {
    const LsPattern *pattern;
    pcre2_match_data *match;
    const char *text;
    size_t bytes, place;
};

LsStatus ls_pattern_compile(LsPattern **out)
{
    int error = 0;
    PCRE2_SIZE offset = 0;
    LsPattern *pattern = malloc(sizeof *pattern);
    if (pattern == NULL)
        return LS_FAIL(LS_INTERNAL, "tokenizer: out of memory");
    pattern->code = pcre2_compile(
        (PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, NULL);
    if (pattern->code == NULL) {
        free(pattern);
        return LS_FAIL(LS_UNAVAILABLE,
            "the text pattern does not compile (PCRE2 error %d at %zu); install a PCRE2 with Unicode support",
            error, offset);
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); // where the system forbids it, the interpreter does
    *out = pattern;
    return LS_OK;
}

void ls_pattern_free(LsPattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

LsStatus ls_pieces_begin(const LsPattern *pattern, const char *text, size_t bytes, LsPieces **out)
{
    LsPieces *pieces = malloc(sizeof *pieces);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (pieces == NULL || match == NULL) {
        free(pieces);
        pcre2_match_data_free(match);
        return LS_FAIL(LS_INTERNAL, "tokenizer: out of memory");
    }
    *pieces = (LsPieces){.pattern = pattern, .match = match, .text = text, .bytes = bytes};
    *out = pieces;
    return LS_OK;
}

LsStatus ls_pieces_next(LsPieces *pieces, const char **piece, size_t *count)
{
    *piece = pieces->text + pieces->place;
    *count = 0;
    if (pieces->place == pieces->bytes)
        return LS_OK;
    int matched = pcre2_match(pieces->pattern->code, (PCRE2_SPTR)pieces->text, pieces->bytes, pieces->place,
        PCRE2_NO_UTF_CHECK, pieces->match, NULL);
    size_t end = matched > 0 ? pcre2_get_ovector_pointer(pieces->match)[1] : 0;
    if (end <= pieces->place)
        return LS_FAIL(
            LS_INTERNAL, "the text pattern fails at offset %zu: PCRE2 error %d", pieces->place, matched);
    *count = end - pieces->place;
    pieces->place = end;
    return LS_OK;
}

void ls_pieces_end(LsPieces *pieces)
{
    if (pieces == NULL)
        return;
    pcre2_match_data_free(pieces->match);
    free(pieces);
}

// Length of the character that begins here, 0 when it is malformed or cut off.
static size_t character(const uint8_t *text, size_t left)
{
    uint8_t first = text[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || left < length)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (first == 0xe0 && text[1] < 0xa0) || (first == 0xf0 && text[1] < 0x90);
    bool beyond = (first == 0xed && text[1] > 0x9f) || (first == 0xf4 && text[1] > 0x8f);
    return overlong || beyond ? 0 : length;
}

size_t ls_utf8_valid(const char *text, size_t bytes)
{
    const uint8_t *data = (const uint8_t *)text;
    for (size_t i = 0, length; i < bytes; i += length) {
        uint64_t eight = 0;
        if (bytes - i >= sizeof eight)
            memcpy(&eight, data + i, sizeof eight);
        if (bytes - i >= sizeof eight && (eight & 0x8080808080808080u) == 0) {
            length = sizeof eight;
            continue;
        }
        length = character(data + i, bytes - i);
        if (length == 0)
            return i;
    }
    return bytes;
}
