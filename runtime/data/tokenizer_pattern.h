// Cutting text into the pieces within which tokens merge: GPT-2's pattern (Radford et al. 2019), and whether
// bytes are UTF-8 at all.
#ifndef LOCKSTEP_DATA_TOKENIZER_PATTERN_H
#define LOCKSTEP_DATA_TOKENIZER_PATTERN_H

#include <stddef.h>

#include "data/utf8.h"

typedef struct LsPattern LsPattern; // compiled; any number of threads may use it

LsStatus ls_pattern_compile(LsPattern **out);
void ls_pattern_free(LsPattern *pattern); // accepts NULL

// One thread's way through a text, which is valid UTF-8 and stays the caller's.
typedef struct LsPieces LsPieces;
LsStatus ls_pieces_begin(const LsPattern *pattern, const char *text, size_t bytes, LsPieces **out);

// The next piece; *count is 0 at the end. Every byte of the text is in one piece.
LsStatus ls_pieces_next(LsPieces *pieces, const char **piece, size_t *count);
void ls_pieces_end(LsPieces *pieces); // accepts NULL

#endif
