// Byte-level byte-pair encoding (Sennrich et al., ACL 2016, over bytes as GPT-2 does it), and plain bytes.
//
// Text is cut by GPT-2's pre-tokenisation pattern; within a piece, adjacent tokens are merged in the order of
// their rank, lowest first. Token ids 0 to 255 of a trained tokenizer are the bytes; merge i makes token 256
// + i; special tokens follow. Files of GPT-2 (encoder.json + vocab.bpe), merges.txt + vocab.json, and
// tiktoken files keep the ids that they have.
#ifndef LOCKSTEP_DATA_TOKENIZER_H
#define LOCKSTEP_DATA_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

typedef struct LsTokenizer LsTokenizer;

// "bytes": 256 tokens and <|endoftext|>, no merges.
LsStatus ls_tokenizer_bytes(LsTokenizer **out);

// Trains merges on files until the vocabulary has `vocabulary` tokens with <|endoftext|> as the last one, or
// no pair occurs twice. Ties go to the pair of lower ids, so that the same files give the same merges.
// LS_BAD_DATA for invalid UTF-8 (file, offset), and where there is nothing but separators.
LsStatus ls_tokenizer_train(const char *const *files, size_t count, size_t vocabulary, LsTokenizer **out);

// Reads a tokenizer file, recognised by content: ours (JSON), a tiktoken file, or GPT-2's merges (vocab.bpe,
// merges.txt) with encoder.json or vocab.json beside it. LS_NO_INPUT, LS_BAD_DATA with line.
LsStatus ls_tokenizer_open(const char *path, LsTokenizer **out);

// "lockstep" (one JSON file), "tiktoken", and of GPT-2's two files, in the directory `path`, "gpt2"
// (encoder.json, vocab.bpe) or "huggingface" (vocab.json, merges.txt).
LsStatus ls_tokenizer_write(const LsTokenizer *tokenizer, const char *format, const char *path);

// As a part of a data set's schema and of checkpoints, and back.
json_t *ls_tokenizer_json(const LsTokenizer *tokenizer);
LsStatus ls_tokenizer_parse(const json_t *json, const char *name, LsTokenizer **out);
void ls_tokenizer_free(LsTokenizer *tokenizer);

size_t ls_tokenizer_vocabulary(const LsTokenizer *tokenizer);
uint32_t ls_tokenizer_end_of_text(const LsTokenizer *tokenizer); // <|endoftext|>

// Encodes text[0 … bytes), UTF-8. *tokens [*count] is freed by the caller. Special tokens are never made from
// text. Thread-safe. LS_BAD_DATA with the offset of invalid UTF-8; ls_utf8_require says whose it is.
LsStatus ls_tokenizer_encode(
    const LsTokenizer *tokenizer, const char *text, size_t bytes, uint32_t **tokens, size_t *count);

// Appends the bytes of one token; special tokens have none. LS_BAD_DATA for a token beyond the vocabulary.
LsStatus ls_tokenizer_decode(const LsTokenizer *tokenizer, uint32_t token, const char **bytes, size_t *count);

#endif
