// Text that came from users and files, in messages.
#ifndef LOCKSTEP_BASE_TEXT_H
#define LOCKSTEP_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LS_QUOTE_SIZE = 80 };

// `text` in double quotes, shortened to fit, with control characters and what is not UTF-8 shown as '?', so
// that a message stays one line whatever the input was. Returns `quote`.
const char *ls_text_quote(char quote[LS_QUOTE_SIZE], const char *text);

// Decodes one code point of well-formed UTF-8 and returns its length in bytes; 0 at anything else, the NUL
// at the end included.
size_t ls_text_decode(const char *text, uint32_t *code_point);

// Whether all of `text` is well-formed UTF-8.
static inline bool ls_text_valid(const char *text)
{
    uint32_t code_point;
    while (*text != '\0') {
        size_t length = ls_text_decode(text, &code_point);
        if (length == 0)
            return false;
        text += length;
    }
    return true;
}

// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours. Only the
// first 63 characters count.
size_t ls_text_distance(const char *a, const char *b);

#endif
