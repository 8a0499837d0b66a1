// fuzz: data
// Tokenizer files: whatever the bytes, they are refused in one line or become a tokenizer that gives every
// text back and survives its own JSON. The first byte chooses the format; merges come behind a vocabulary and
// a NUL.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "require.h"
#include "tokenizer_table.h"

static void check_text(const LsTokenizer *tokenizer, const char *text, size_t bytes)
{
    uint32_t *tokens = NULL;
    size_t count = 0, place = 0;
    require(ls_tokenizer_encode(tokenizer, text, bytes, &tokens, &count) == LS_OK);
    for (size_t i = 0; i < count; i++) {
        const char *part;
        size_t length;
        require(ls_tokenizer_decode(tokenizer, tokens[i], &part, &length) == LS_OK);
        require(length > 0 && length <= bytes - place && memcmp(text + place, part, length) == 0);
        place += length;
    }
    require(place == bytes);
    free(tokens);
}

static void check_json(const LsTokenizer *tokenizer)
{
    LsTokenizer *again = NULL;
    json_t *json = ls_tokenizer_json(tokenizer);
    require(json != NULL && ls_tokenizer_parse(json, "again", &again) == LS_OK);
    json_t *twice = ls_tokenizer_json(again);
    require(json_equal(json, twice));
    json_decref(twice);
    json_decref(json);
    ls_tokenizer_free(again);
}

// The inputs say what comes beyond the 256 bytes, which every file needs.
static json_t *with_bytes(json_t *more)
{
    json_t *vocabulary = json_object();
    for (int i = 0; i < 256; i++) {
        char letter[4];
        ls_alphabet_write(&(uint8_t){(uint8_t)i}, 1, letter);
        json_object_set_new(vocabulary, letter, json_integer(i));
    }
    json_object_update_missing(vocabulary, more);
    return vocabulary;
}

static LsStatus read_merges(const char *text, size_t size, LsTokenizer **out)
{
    const char *end = memchr(text, '\0', size);
    size_t length = end == NULL ? size : (size_t)(end - text);
    json_t *more = json_loadb(text, length, 0, NULL);
    json_t *vocabulary = json_is_object(more) ? with_bytes(more) : json_object();
    LsStatus status = ls_tokenizer_parse_merges(
        "input", end == NULL ? "" : end + 1, end == NULL ? 0 : size - length - 1, vocabulary, out);
    json_decref(vocabulary);
    json_decref(more);
    return status;
}

static LsStatus read_ranks(const char *text, size_t size, LsTokenizer **out)
{
    char *all = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&all, &length);
    require(stream != NULL);
    for (unsigned i = 0; i < 256; i++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        fprintf(stream, "%c%c== %u\n", digits[i >> 2], digits[(i & 3) << 4], i);
    }
    fwrite(text, 1, size, stream);
    fclose(stream);
    LsStatus status = ls_tokenizer_read_tiktoken("input", all, length, out);
    free(all);
    return status;
}

static LsStatus read_json(const char *text, size_t size, LsTokenizer **out)
{
    json_t *json = json_loadb(text, size, 0, NULL);
    LsStatus status = json == NULL ? LS_FAIL(LS_BAD_DATA, "no JSON") : ls_tokenizer_parse(json, "input", out);
    json_decref(json);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    LsTokenizer *tokenizer = NULL;
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    size_t bytes = size - 1;
    LsStatus status = data[0] % 3 == 0   ? read_json(text, bytes, &tokenizer)
                      : data[0] % 3 == 1 ? read_merges(text, bytes, &tokenizer)
                                         : read_ranks(text, bytes, &tokenizer);
    if (status != LS_OK) {
        require(status == LS_BAD_DATA && strchr(ls_status_message(), '\n') == NULL && tokenizer == NULL);
        return 0;
    }
    check_text(tokenizer, text, ls_utf8_valid(text, bytes));
    check_json(tokenizer);
    ls_tokenizer_free(tokenizer);
    return 0;
}
