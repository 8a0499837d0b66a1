// The inside of a tokenizer: its tokens by id and by bytes, its merges by pair, and how they are put
// together.
//
// Made in this order: create, add every token in the order of the ids, end the tokens, merges in the order of
// their rank (or `by_id` set: every two tokens whose bytes together are a token merge, the lowest id first,
// as tiktoken does it), finish.
#ifndef LOCKSTEP_DATA_TOKENIZER_TABLE_H
#define LOCKSTEP_DATA_TOKENIZER_TABLE_H

#include "data/tokenizer.h"
#include "tokenizer_pattern.h"

enum {
    LS_TOKEN_BYTES = 512, // that a token may have: what keeps every table linear in its file's size
    LS_VOCABULARY_LIMIT = 1 << 22,
    LS_TOKENIZER_FORMAT = 1,      // version of our file
    LS_TOKENIZER_FILE = 64 << 20, // bytes of a tokenizer file
};

#define LS_NO_TOKEN UINT32_MAX
#define LS_END_OF_TEXT "<|endoftext|>"

typedef struct LsMerge {
    uint64_t pair; // left << 32 | right; UINT64_MAX: an empty slot
    uint32_t rank, result;
} LsMerge;

struct LsTokenizer {
    bool plain; // 256 bytes, no merges
    size_t vocabulary, end_of_text;
    char *text;      // of all tokens, one after the other
    uint64_t *start; // [vocabulary + 1] where each begins in `text`
    size_t text_room, token_room;
    uint32_t byte_token[256];
    uint32_t *index; // hash table of ids by their bytes; LS_NO_TOKEN: an empty slot
    size_t index_slots;
    bool by_id;       // every two tokens that together are a token merge, the lowest id first; else by rank:
    uint64_t *merges; // [merge_count] pairs in the order of their rank
    size_t merge_count, merge_room;
    LsMerge *pairs; // hash table by pair
    size_t pair_slots;
    LsPattern *pattern; // NULL for plain bytes
};

// Where a tokenizer comes from, for messages. Line 0: the file as a whole.
typedef struct LsPlace {
    const char *path;
    size_t line;
} LsPlace;
LsStatus ls_place_fail(LsPlace place, const char *what);

LsStatus ls_tokenizer_create(LsTokenizer **out);

// Adds the token of the next id; a token without bytes is <|endoftext|>. LS_BAD_DATA when it is too long, or
// its bytes are those of another token.
LsStatus ls_tokenizer_add(LsTokenizer *tokenizer, LsPlace place, const void *bytes, size_t count);

// After the last token: adds <|endoftext|> if it was not there. LS_BAD_DATA when a byte has no token.
LsStatus ls_tokenizer_end_tokens(LsTokenizer *tokenizer, LsPlace place);

// The token of these bytes, or LS_NO_TOKEN.
uint32_t ls_tokenizer_find(const LsTokenizer *tokenizer, const void *bytes, size_t count);

// Adds the merge of the next rank. LS_BAD_DATA when the two together are no token.
LsStatus ls_tokenizer_merge(LsTokenizer *tokenizer, LsPlace place, uint32_t left, uint32_t right);

// Makes the table of pairs and compiles the pattern. LS_BAD_DATA when a merge is there twice.
LsStatus ls_tokenizer_finish(LsTokenizer *tokenizer, LsPlace place);

// The merge of two tokens, or NULL.
const LsMerge *ls_tokenizer_pair(const LsTokenizer *tokenizer, uint32_t left, uint32_t right);

// Of a tokenizer that merges by id: the two tokens that `token` is merged of, by what the lower ids make of
// its bytes. *merged is false for bytes, and where they leave another number of parts.
LsStatus ls_tokenizer_parts(const LsTokenizer *tokenizer, uint32_t token, uint32_t parts[2], bool *merged);

static inline const char *ls_token_text(const LsTokenizer *tokenizer, uint32_t token, size_t *count)
{
    *count = tokenizer->start[token + 1] - tokenizer->start[token];
    return tokenizer->text + tokenizer->start[token];
}

// GPT-2's alphabet: each byte as one printable character, so that tokens are text. Encoded, a byte has at
// most two bytes. ls_alphabet_read sets *count; false when `text` has a character that stands for no byte.
size_t ls_alphabet_write(const void *bytes, size_t count, char *text); // NUL-terminated; returns its length
bool ls_alphabet_read(const char *text, size_t length, char *bytes, size_t *count);

// Reads the formats of others. `text` is the file's.
LsStatus ls_tokenizer_read_merges(const char *path, const char *text, size_t size, LsTokenizer **out);
LsStatus ls_tokenizer_read_tiktoken(const char *path, const char *text, size_t size, LsTokenizer **out);
LsStatus ls_tokenizer_write_gpt2(
    const LsTokenizer *tokenizer, const char *directory, const char *vocabulary, const char *merges);
LsStatus ls_tokenizer_write_tiktoken(const LsTokenizer *tokenizer, const char *path);

// GPT-2's two files, as text: merges and vocabulary. ls_tokenizer_read_merges finds the second beside the
// first.
LsStatus ls_tokenizer_parse_merges(
    const char *path, const char *text, size_t size, const json_t *vocabulary, LsTokenizer **out);

#endif
