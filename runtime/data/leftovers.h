// Temporary files of writers that were killed.
#ifndef LOCKSTEP_DATA_LEFTOVERS_H
#define LOCKSTEP_DATA_LEFTOVERS_H

#include <stdbool.h>

// Marks a temporary file as being written, until its last descriptor closes. False when somebody took it for
// a leftover before that and removed it.
bool ls_leftovers_claim(int fd);

// Removes the files PATH.tmp-<16 hexadecimal digits> that nobody is writing, as far as that is possible.
void ls_leftovers_remove(const char *path);

#endif
