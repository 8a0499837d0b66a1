// Libraries that are loaded when something needs them, so that one program runs where they are and where they
// are not, and does not pay for their size where they are not used.
#ifndef LOCKSTEP_BASE_LIBRARY_H
#define LOCKSTEP_BASE_LIBRARY_H

#include <stddef.h>

#include "base/status.h"

// Loads `file` ("libnccl.so.2", found as the dynamic linker finds libraries) for the rest of the process and
// fills functions[i] with the address of names[i]. LS_UNAVAILABLE with the linker's reason, and `functions`
// untouched, when the library or one of the names is missing.
LsStatus ls_library_load(const char *file, const char *const *names, size_t count, void **functions);

#endif
