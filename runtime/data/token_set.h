// Writing a token data set: tokens in the type that fits their vocabulary, and the schema's part that every
// importer of tokens shares. Also a file to keep tokens in while their number is not known yet.
#ifndef LOCKSTEP_DATA_TOKEN_SET_H
#define LOCKSTEP_DATA_TOKEN_SET_H

#include "data/import.h"
#include "data/tokenizer.h"
#include "writer.h"

enum { LS_TOKENS_AT_ONCE = 1 << 16 };

typedef struct LsTokenSet {
    LsWriter *writer;
    const LsTokenizer *tokenizer; // NULL: not known
    size_t vocabulary;
    size_t tokens[LS_SPLITS];       // in all
    uint64_t text_bytes[LS_SPLITS]; // that the tokens so far stand for
    uint16_t narrow[LS_TOKENS_AT_ONCE];
} LsTokenSet;

// The tokenizer of the options: "bytes" or a file.
LsStatus ls_token_set_tokenizer(const char *named, LsTokenizer **out);

// Hash of a tokenizer's JSON, to be among an import's options. NULL: JSON null. The caller owns it; NULL when
// memory is short.
json_t *ls_token_set_identity(const LsTokenizer *tokenizer);

// How many of `total` units the fraction is; LS_BAD_DATA when the parts would be too small: `what` names the
// units.
LsStatus ls_token_set_part(
    const char *output, double fraction, uint64_t total, uint64_t least, const char *what, uint64_t *part);

// Begins the file. Vocabulary, tokenizer and tokens are set by the caller. LS_BAD_DATA when a split has a
// single token, from which nothing can be learnt.
LsStatus ls_token_set_begin(const LsImportOptions *options, LsTokenSet *set);
LsStatus ls_token_set_append(LsTokenSet *set, LsSplit split, const uint32_t *tokens, size_t count);

// `documents`: how many, 0: not known.
LsStatus ls_token_set_commit(LsTokenSet *set, json_t *import, uint64_t documents);

// Tokens in a file without a name, in the directory of `beside`.
typedef struct LsSpool {
    int fd;
    const char *beside;
    uint32_t *buffer;
    size_t filled;
    uint64_t count; // of tokens in all
} LsSpool;
LsStatus ls_spool_open(const char *beside, LsSpool *out);
LsStatus ls_spool_add(LsSpool *spool, const uint32_t *tokens, size_t count);
LsStatus ls_spool_read(LsSpool *spool, uint64_t first, size_t count, uint32_t *out);
void ls_spool_close(LsSpool *spool);

#endif
