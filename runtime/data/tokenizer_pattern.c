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
