// Text that came from users and files, in messages.
#ifndef LOCKSTEP_BASE_TEXT_H
#define LOCKSTEP_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LS_QUOTE_SIZE = 80 };

// Control characters, and what is not UTF-8, become '?', so that a message stays one line and moves no
// terminal's cursor, whatever the input was. Every failure's sentence and line of the log goes through here.
void ls_text_clean(char *text);

// `text` in double quotes, clean and shortened to fit. Returns `quote`.
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
