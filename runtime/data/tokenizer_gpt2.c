// GPT-2's two files: the vocabulary (encoder.json, vocab.json: token → id) and the merges (vocab.bpe,
// merges.txt: a line for each, by rank, after a line with the version). Tokens are written in GPT-2's
// alphabet.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tokenizer_table.h"

static LsStatus no_memory(const char *path)
{
    return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
}

// Sorts the vocabulary by id: every id from 0 on, each once.
static LsStatus sort_tokens(const json_t *vocabulary, LsPlace place, const char **token)
{
    const char *key;
    json_t *id;
    size_t count = json_object_size(vocabulary);
    json_object_foreach((json_t *)vocabulary, key, id)
    {
        json_int_t number = json_is_integer(id) ? json_integer_value(id) : -1;
        if (number < 0 || (size_t)number >= count || token[number] != NULL)
            return LS_FAIL(LS_BAD_DATA,
                "%s: the vocabulary's ids are not the numbers from 0 to %zu, each once", place.path,
                count - 1);
        token[number] = key;
    }
    return LS_OK;
}

static LsStatus add_token(LsTokenizer *t, LsPlace place, const char *key)
{
    char bytes[2 * LS_TOKEN_BYTES];
    size_t count, length = strlen(key);
    if (strcmp(key, LS_END_OF_TEXT) == 0)
        return ls_tokenizer_add(t, place, "", 0);
    if (length == 0 || length > sizeof bytes || !ls_alphabet_read(key, length, bytes, &count))
        return LS_FAIL(LS_BAD_DATA,
            "%s: token %zu of the vocabulary is no text of at most %d bytes in GPT-2's alphabet", place.path,
            t->vocabulary, LS_TOKEN_BYTES);
    return ls_tokenizer_add(t, place, bytes, count);
}

static LsStatus add_tokens(LsTokenizer *t, LsPlace place, const json_t *vocabulary)
{
    size_t count = json_object_size(vocabulary);
    const char **token = calloc(count + 1, sizeof *token);
    if (token == NULL)
        return no_memory(place.path);
    LsStatus status = sort_tokens(vocabulary, place, token);
    for (size_t i = 0; status == LS_OK && i < count; i++)
        status = add_token(t, place, token[i]);
    free(token);
    return status == LS_OK ? ls_tokenizer_end_tokens(t, place) : status;
}

static uint32_t find_token(const LsTokenizer *t, const char *text, size_t length)
{
    char bytes[2 * LS_TOKEN_BYTES];
    size_t count;
    if (length > sizeof bytes || !ls_alphabet_read(text, length, bytes, &count))
        return LS_NO_TOKEN;
    return ls_tokenizer_find(t, bytes, count);
}

static LsStatus add_merge(LsTokenizer *t, LsPlace place, const char *line, size_t length)
{
    const char *space = memchr(line, ' ', length);
    size_t left_length = space == NULL ? 0 : (size_t)(space - line);
    if (space == NULL || left_length == 0 || left_length + 1 == length ||
        memchr(space + 1, ' ', length - left_length - 1) != NULL)
        return ls_place_fail(place, "a merge is two tokens with a space between them");
    uint32_t left = find_token(t, line, left_length);
    uint32_t right = find_token(t, space + 1, length - left_length - 1);
    if (left == LS_NO_TOKEN || right == LS_NO_TOKEN)
        return ls_place_fail(place, "a part of the merge is no token of the vocabulary");
    return ls_tokenizer_merge(t, place, left, right);
}

static LsStatus add_merges(LsTokenizer *t, LsPlace place, const char *text, size_t size)
{
    for (size_t start = 0; start < size;) {
        const char *newline = memchr(text + start, '\n', size - start);
        size_t end = newline == NULL ? size : (size_t)(newline - text);
        size_t length = end - start - (end > start && text[end - 1] == '\r');
        place.line++;
        bool version = place.line == 1 && length >= 8 && memcmp(text, "#version", 8) == 0;
        if (length > 0 && !version)
            LS_TRY(add_merge(t, place, text + start, length));
        start = end + 1;
    }
    return LS_OK;
}

LsStatus ls_tokenizer_parse_merges(
    const char *path, const char *text, size_t size, const json_t *vocabulary, LsTokenizer **out)
{
    LsPlace place = {.path = path};
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_tokenizer_create(&tokenizer));
    LsStatus status = add_tokens(tokenizer, place, vocabulary);
    if (status == LS_OK)
        status = add_merges(tokenizer, place, text, size);
    if (status == LS_OK)
        status = ls_tokenizer_finish(tokenizer, place);
    if (status != LS_OK) {
        ls_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LS_OK;
}

// The vocabulary beside the merges: encoder.json goes with vocab.bpe, vocab.json with merges.txt.
static LsStatus find_vocabulary(const char *path, char found[LS_PATH_MAX])
{
    static const char *const names[] = {"encoder.json", "vocab.json"};
    char folder[LS_PATH_MAX] = ".";
    const char *slash = strrchr(path, '/'), *base = slash == NULL ? path : slash + 1;
    if (slash != NULL)
        snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int first = strstr(base, ".bpe") == NULL;
    for (int i = 0; i < 2; i++) {
        LS_TRY(ls_path_join(found, folder, names[(first + i) % 2]));
        if (ls_file_exists(found))
            return LS_OK;
    }
    return LS_FAIL(LS_NO_INPUT, "%s: its vocabulary, encoder.json or vocab.json, is not beside it", path);
}

LsStatus ls_tokenizer_read_merges(const char *path, const char *text, size_t size, LsTokenizer **out)
{
    char vocabulary_path[LS_PATH_MAX];
    json_t *vocabulary = NULL;
    if (memchr(text, '\0', size) != NULL)
        return LS_FAIL(LS_BAD_DATA, "%s: this is no tokenizer file", path);
    LS_TRY(find_vocabulary(path, vocabulary_path));
    LS_TRY(ls_json_read(vocabulary_path, LS_TOKENIZER_FILE, LS_BAD_DATA, &vocabulary));
    LsStatus status = ls_tokenizer_parse_merges(path, text, size, vocabulary, out);
    json_decref(vocabulary);
    return status;
}

// ---- Writing ----

static LsStatus write_vocabulary(const LsTokenizer *t, const char *path)
{
    char letters[2 * LS_TOKEN_BYTES + 1];
    json_t *vocabulary = json_object();
    for (uint32_t token = 0; token < t->vocabulary; token++) {
        size_t bytes;
        const char *text = ls_token_text(t, token, &bytes);
        ls_alphabet_write(text, bytes, letters);
        json_object_set_new(vocabulary, bytes == 0 ? LS_END_OF_TEXT : letters, json_integer(token));
    }
    bool whole = json_object_size(vocabulary) == t->vocabulary;
    char *text = whole ? json_dumps(vocabulary, JSON_ENSURE_ASCII) : NULL;
    json_decref(vocabulary);
    if (!whole)
        return LS_FAIL(LS_BAD_DATA, "%s: a token looks like %s, which GPT-2's files cannot tell apart", path,
            LS_END_OF_TEXT);
    LsStatus status = text == NULL ? no_memory(path) : ls_file_replace(path, text, strlen(text));
    free(text);
    return status;
}

static void print_merge(const LsTokenizer *t, uint32_t left, uint32_t right, FILE *out)
{
    char letters[2 * LS_TOKEN_BYTES + 1];
    size_t bytes;
    const char *text = ls_token_text(t, left, &bytes);
    ls_alphabet_write(text, bytes, letters);
    fprintf(out, "%s ", letters);
    text = ls_token_text(t, right, &bytes);
    ls_alphabet_write(text, bytes, letters);
    fprintf(out, "%s\n", letters);
}

// Merges by id have no list: it is found again from the tokens.
static LsStatus print_merges(const LsTokenizer *t, FILE *out)
{
    fprintf(out, "#version: 0.2\n");
    for (size_t i = 0; i < t->merge_count; i++)
        print_merge(t, (uint32_t)(t->merges[i] >> 32), (uint32_t)t->merges[i], out);
    for (uint32_t token = 0; t->by_id && token < t->vocabulary; token++) {
        uint32_t parts[2];
        bool merged;
        LS_TRY(ls_tokenizer_parts(t, token, parts, &merged));
        if (merged)
            print_merge(t, parts[0], parts[1], out);
    }
    return LS_OK;
}

static LsStatus write_merges(const LsTokenizer *t, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return no_memory(path);
    LsStatus status = print_merges(t, out);
    bool failed = ferror(out) != 0;
    failed = fclose(out) != 0 || failed;
    if (status == LS_OK)
        status = failed ? no_memory(path) : ls_file_replace(path, text, size);
    free(text);
    return status;
}

LsStatus ls_tokenizer_write_gpt2(
    const LsTokenizer *tokenizer, const char *directory, const char *vocabulary, const char *merges)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_directory_create(directory));
    LS_TRY(ls_path_join(path, directory, vocabulary));
    LS_TRY(write_vocabulary(tokenizer, path));
    LS_TRY(ls_path_join(path, directory, merges));
    return write_merges(tokenizer, path);
}
