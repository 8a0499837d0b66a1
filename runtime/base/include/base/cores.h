// Processor cores that this process may use.
#ifndef LOCKSTEP_BASE_CORES_H
#define LOCKSTEP_BASE_CORES_H

#include <stdbool.h>
#include <stddef.h>

// Cores' worth of time that the control group of the process allows, the strictest of it and those above it;
// 0: there is no limit, or it cannot be read.
double ls_cores_limit(void);

// The same where control groups are mounted at `mount`, for a process whose groups the file `own` lists.
double ls_cores_limit_at(const char *mount, const char *own);

// Cores on which threads of this process could run if they asked for all (ls_thread_unbind), which a rank
// that was bound to one does not; whole ones, whose hardware threads count once, and no more than the limit.
// At least 1.
size_t ls_cores_usable(void);

#endif
