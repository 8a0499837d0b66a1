// tiktoken's files: a line for each token, its bytes in base64 (RFC 4648) and its id. <|endoftext|> is not
// among them and becomes the id after the last.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tokenizer_table.h"

typedef struct Entry {
    const char *text; // base64
    size_t length, line;
} Entry;

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static bool decode_base64(const char *text, size_t length, char *bytes, size_t *count)
{
    size_t padding = 0;
    while (padding < 2 && padding < length && text[length - padding - 1] == '=')
        padding++;
    if (length == 0 || length % 4 != 0)
        return false;
    uint32_t bits = 0;
    for (size_t i = 0; i < length; i++) {
        const char *digit = text[i] == '\0' ? NULL : strchr(digits, text[i]);
        if (digit == NULL && i < length - padding)
            return false;
        bits = bits << 6 | (digit == NULL ? 0 : (uint32_t)(digit - digits));
        if (i % 4 == 3)
            for (int j = 0; j < 3; j++)
                *bytes++ = (char)(bits >> (16 - 8 * j));
    }
    *count = length / 4 * 3 - padding;
    return true;
}

static size_t count_lines(const char *text, size_t size)
{
    size_t count = 1;
    for (size_t i = 0; i < size; i++)
        count += text[i] == '\n';
    return count;
}

static LsStatus read_line(LsPlace place, const char *line, size_t length, Entry *entries, size_t lines)
{
    const char *space = memchr(line, ' ', length);
    size_t id = 0, place_in_line = space == NULL ? 0 : (size_t)(space - line) + 1;
    bool good = space != NULL && place_in_line < length && length - place_in_line <= 9;
    for (size_t i = place_in_line; good && i < length; i++) {
        good = line[i] >= '0' && line[i] <= '9';
        id = id * 10 + (size_t)(line[i] - '0');
    }
    if (!good)
        return ls_place_fail(place, "a line has a token in base64, a space and its number");
    if (id >= lines)
        return ls_place_fail(place, "the token's number is greater than there are tokens");
    if (entries[id].text != NULL)
        return ls_place_fail(place, "the token's number is there twice");
    entries[id] = (Entry){.text = line, .length = place_in_line - 1, .line = place.line};
    return LS_OK;
}

// The tokens by their number. *count: how many.
static LsStatus read_lines(
    const char *path, const char *text, size_t size, Entry *entries, size_t lines, size_t *count)
{
    LsPlace place = {.path = path};
    *count = 0;
    for (size_t start = 0; start < size;) {
        const char *newline = memchr(text + start, '\n', size - start);
        size_t end = newline == NULL ? size : (size_t)(newline - text);
        size_t length = end - start - (end > start && text[end - 1] == '\r');
        place.line++;
        if (length > 0) {
            LS_TRY(read_line(place, text + start, length, entries, lines));
            ++*count;
        }
        start = end + 1;
    }
    return LS_OK;
}

static LsStatus add_tokens(LsTokenizer *t, const char *path, const Entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char bytes[LS_TOKEN_BYTES + 3];
        size_t length;
        LsPlace place = {.path = path, .line = entries[i].line};
        if (entries[i].text == NULL)
            return LS_FAIL(LS_BAD_DATA, "%s: there is no token %zu, but one with a higher number", path, i);
        if (entries[i].length / 4 * 3 > sizeof bytes ||
            !decode_base64(entries[i].text, entries[i].length, bytes, &length) || length == 0)
            return ls_place_fail(place, "the token is not in base64, empty, or too long");
        LS_TRY(ls_tokenizer_add(t, place, bytes, length));
    }
    return ls_tokenizer_end_tokens(t, (LsPlace){.path = path});
}

LsStatus ls_tokenizer_read_tiktoken(const char *path, const char *text, size_t size, LsTokenizer **out)
{
    LsTokenizer *tokenizer = NULL;
    size_t lines = count_lines(text, size), count = 0;
    LS_TRY(ls_tokenizer_create(&tokenizer));
    Entry *entries = calloc(lines, sizeof *entries);
    tokenizer->by_id = true;
    LsStatus status = entries == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", path)
                                      : read_lines(path, text, size, entries, lines, &count);
    if (status == LS_OK)
        status = add_tokens(tokenizer, path, entries, count);
    free(entries);
    if (status == LS_OK)
        status = ls_tokenizer_finish(tokenizer, (LsPlace){.path = path});
    if (status != LS_OK) {
        ls_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LS_OK;
}

static size_t encode_base64(const char *text, size_t count, char *out)
{
    const uint8_t *bytes = (const uint8_t *)text;
    size_t length = 0;
    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t bits = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                        (left > 2 ? bytes[i + 2] : 0);
        for (size_t j = 0; j < 4; j++)
            out[length++] = j > left ? '=' : digits[bits >> (18 - 6 * j) & 63];
    }
    return length;
}

LsStatus ls_tokenizer_write_tiktoken(const LsTokenizer *t, const char *path)
{
    enum { LINE = LS_TOKEN_BYTES * 4 / 3 + 32 };
    if (t->end_of_text + 1 != t->vocabulary)
        return LS_FAIL(LS_BAD_DATA, "%s: %s is token %zu of %zu, and tiktoken files can only have it last",
            path, LS_END_OF_TEXT, t->end_of_text, t->vocabulary);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    for (uint32_t token = 0; out != NULL && token + 1 < t->vocabulary; token++) {
        char line[LINE];
        size_t bytes;
        const char *token_text = ls_token_text(t, token, &bytes);
        fprintf(out, "%.*s %u\n", (int)encode_base64(token_text, bytes, line), line, token);
    }
    bool failed = out == NULL || ferror(out) != 0;
    failed = out == NULL || fclose(out) != 0 || failed;
    LsStatus status =
        failed ? LS_FAIL(LS_INTERNAL, "%s: out of memory", path) : ls_file_replace(path, text, size);
    free(text);
    return status;
}
