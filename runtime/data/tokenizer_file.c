// Tokenizer files: which format it is, and ours.
//
// Ours is one JSON object: format (1), kind "bytes", or kind "bpe" with tokens (in GPT-2's alphabet, by id,
// null for
// <|endoftext|>) and merges (left, right, left, right, …, by rank; absent when two tokens merge that together
// are a token, the lowest id first, as in tiktoken files).
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tokenizer_table.h"

static json_t *tokens_json(const LsTokenizer *t)
{
    char letters[2 * LS_TOKEN_BYTES + 1];
    json_t *tokens = json_array();
    for (uint32_t token = 0; token < t->vocabulary; token++) {
        size_t bytes;
        const char *text = ls_token_text(t, token, &bytes);
        ls_alphabet_write(text, bytes, letters);
        json_array_append_new(tokens, bytes == 0 ? json_null() : json_string(letters));
    }
    return tokens;
}

json_t *ls_tokenizer_json(const LsTokenizer *t)
{
    if (t->plain)
        return json_pack("{s:i, s:s}", "format", LS_TOKENIZER_FORMAT, "kind", "bytes");
    json_t *json =
        json_pack("{s:i, s:s, s:o}", "format", LS_TOKENIZER_FORMAT, "kind", "bpe", "tokens", tokens_json(t));
    if (t->by_id || json == NULL)
        return json;
    json_t *merges = json_array();
    for (size_t i = 0; i < t->merge_count; i++) {
        json_array_append_new(merges, json_integer((json_int_t)(t->merges[i] >> 32)));
        json_array_append_new(merges, json_integer((json_int_t)(uint32_t)t->merges[i]));
    }
    json_object_set_new(json, "merges", merges);
    return json;
}

static LsStatus parse_token(const json_t *value, LsPlace place, LsTokenizer *t)
{
    char bytes[2 * LS_TOKEN_BYTES];
    size_t count, length = json_string_length(value);
    if (json_is_null(value))
        return ls_tokenizer_add(t, place, "", 0);
    if (!json_is_string(value) || length == 0 || length > sizeof bytes ||
        !ls_alphabet_read(json_string_value(value), length, bytes, &count))
        return LS_FAIL(LS_BAD_DATA,
            "%s: token %zu of the tokenizer is no text of at most %d bytes in GPT-2's alphabet", place.path,
            t->vocabulary, LS_TOKEN_BYTES);
    return ls_tokenizer_add(t, place, bytes, count);
}

static LsStatus parse_merges(const json_t *merges, LsPlace place, LsTokenizer *t)
{
    size_t count = json_array_size(merges);
    if (!json_is_array(merges) || count % 2 != 0 || count > 2 * (size_t)LS_VOCABULARY_LIMIT)
        return ls_place_fail(place, "the merges of the tokenizer are no array of pairs");
    for (size_t i = 0; i < count; i += 2) {
        const json_t *left = json_array_get(merges, i), *right = json_array_get(merges, i + 1);
        json_int_t a = json_is_integer(left) ? json_integer_value(left) : -1;
        json_int_t b = json_is_integer(right) ? json_integer_value(right) : -1;
        if (a < 0 || b < 0 || (size_t)a >= t->vocabulary || (size_t)b >= t->vocabulary)
            return LS_FAIL(
                LS_BAD_DATA, "%s: merge %zu of the tokenizer is not of two tokens", place.path, i / 2);
        LS_TRY(ls_tokenizer_merge(t, place, (uint32_t)a, (uint32_t)b));
    }
    return LS_OK;
}

static LsStatus parse_bpe(const json_t *json, LsPlace place, LsTokenizer *t)
{
    const json_t *tokens = json_object_get(json, "tokens"), *merges = json_object_get(json, "merges");
    if (!json_is_array(tokens))
        return ls_place_fail(place, "the tokenizer has no tokens");
    for (size_t i = 0; i < json_array_size(tokens); i++)
        LS_TRY(parse_token(json_array_get(tokens, i), place, t));
    LS_TRY(ls_tokenizer_end_tokens(t, place));
    t->by_id = merges == NULL;
    if (merges != NULL)
        LS_TRY(parse_merges(merges, place, t));
    return ls_tokenizer_finish(t, place);
}

LsStatus ls_tokenizer_parse(const json_t *json, const char *name, LsTokenizer **out)
{
    LsPlace place = {.path = name};
    const char *kind = json_string_value(json_object_get(json, "kind"));
    const json_t *format = json_object_get(json, "format");
    bool bytes = kind != NULL && strcmp(kind, "bytes") == 0;
    if (!json_is_integer(format) || kind == NULL || (!bytes && strcmp(kind, "bpe") != 0))
        return ls_place_fail(place,
            "this is no tokenizer; give a file of 'lockstep tokenizer train', GPT-2's merges "
            "(vocab.bpe, merges.txt; not their vocabulary) or a tiktoken file");
    if (json_integer_value(format) != LS_TOKENIZER_FORMAT)
        return ls_place_fail(place, "the tokenizer has a format that this program does not know");
    if (bytes)
        return ls_tokenizer_bytes(out);
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_tokenizer_create(&tokenizer));
    LsStatus status = parse_bpe(json, place, tokenizer);
    if (status != LS_OK) {
        ls_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LS_OK;
}

static LsStatus read_ours(const char *path, const char *text, size_t size, LsTokenizer **out)
{
    json_error_t error;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        return LS_FAIL(LS_BAD_DATA, "%s: line %d: %s", path, error.line, error.text);
    LsStatus status = ls_tokenizer_parse(json, path, out);
    json_decref(json);
    return status;
}

// Whether the first line is base64, a space and a number.
static bool is_tiktoken(const char *text, size_t size)
{
    size_t letters = 0, digits = 0;
    while (letters < size && (isalnum((unsigned char)text[letters]) || strchr("+/=", text[letters])) &&
           text[letters] != '\0')
        letters++;
    if (letters == 0 || letters % 4 != 0 || letters == size || text[letters] != ' ')
        return false;
    const char *number = text + letters + 1;
    while (letters + 1 + digits < size && isdigit((unsigned char)number[digits]))
        digits++;
    size_t end = letters + 1 + digits;
    return digits > 0 && (end == size || number[digits] == '\n' || number[digits] == '\r');
}

LsStatus ls_tokenizer_open(const char *path, LsTokenizer **out)
{
    char bpe[LS_PATH_MAX], merges[LS_PATH_MAX]; // what ls_tokenizer_write makes of a directory
    LS_TRY(ls_path_join(bpe, path, "vocab.bpe"));
    LS_TRY(ls_path_join(merges, path, "merges.txt"));
    const char *file = ls_file_exists(bpe) ? bpe : ls_file_exists(merges) ? merges : path;
    char *text = NULL;
    size_t size = 0;
    if (file == path && ls_directory_exists(path))
        return LS_FAIL(LS_NO_INPUT, "%s: the directory has neither vocab.bpe nor merges.txt", path);
    LS_TRY(ls_file_read(file, LS_TOKENIZER_FILE, &text, &size));
    size_t first = strspn(text, " \t\r\n");
    LsStatus status;
    if (size == 0)
        status = LS_FAIL(LS_BAD_DATA, "%s: the file is empty", file);
    else if (text[first] == '{')
        status = read_ours(file, text, size, out);
    else if (is_tiktoken(text, size))
        status = ls_tokenizer_read_tiktoken(file, text, size, out);
    else
        status = ls_tokenizer_read_merges(file, text, size, out);
    free(text);
    return status;
}

LsStatus ls_tokenizer_write(const LsTokenizer *tokenizer, const char *format, const char *path)
{
    if (strcmp(format, "gpt2") == 0)
        return ls_tokenizer_write_gpt2(tokenizer, path, "encoder.json", "vocab.bpe");
    if (strcmp(format, "huggingface") == 0)
        return ls_tokenizer_write_gpt2(tokenizer, path, "vocab.json", "merges.txt");
    if (strcmp(format, "tiktoken") == 0)
        return ls_tokenizer_write_tiktoken(tokenizer, path);
    if (strcmp(format, "lockstep") != 0)
        return LS_FAIL(LS_USAGE,
            "there is no tokenizer format %s; there are lockstep, gpt2, huggingface and tiktoken", format);
    json_t *json = ls_tokenizer_json(tokenizer);
    char *text = json == NULL ? NULL : ls_json_canonical(json);
    LsStatus status = text == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", path)
                                   : ls_file_replace(path, text, strlen(text));
    free(text);
    json_decref(json);
    return status;
}
