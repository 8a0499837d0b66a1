// Text in the messages of the configuration's readers.
#ifndef LOCKSTEP_BASE_CONFIG_TEXT_H
#define LOCKSTEP_BASE_CONFIG_TEXT_H

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

// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours. Only the
// first 63 characters count.
size_t ls_text_distance(const char *a, const char *b);

// The known option nearest to an unknown name: one with the same key in another section, else the one at
// the smallest distance.
const char *ls_option_nearest(const char *name);

// The same for sections; `section` gets its name.
enum { LS_SECTION_SIZE = 32 };
void ls_section_nearest(const char *name, char section[LS_SECTION_SIZE]);

// The length of the section's name in "section.key", and whether a section of that name is in the table.
size_t ls_section_length(const char *option_name);
bool ls_section_known(const char *name);

#endif
