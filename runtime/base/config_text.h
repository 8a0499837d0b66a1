// Text in the messages of the configuration's readers.
#ifndef LOCKSTEP_BASE_CONFIG_TEXT_H
#define LOCKSTEP_BASE_CONFIG_TEXT_H

#include "base/text.h"

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
