// The directory in shared memory that one launch of a job has on each host: what MPI leaves there when it is
// killed goes with it. Whoever uses it holds a shared lock on the file in it, so that what nobody holds may
// be swept, whatever process ids mean there.
#ifndef LOCKSTEP_SUPERVISOR_SCRATCH_H
#define LOCKSTEP_SUPERVISOR_SCRATCH_H

#include "base/file.h"

// Makes a new directory, in /dev/shm or else in /tmp, and returns the descriptor that holds it. LS_IO.
LsStatus ls_scratch_create(char path[LS_PATH_MAX], int *lock);

// A rank enters it before MPI is started: creates it where this host has none, holds it to the end of the
// process, and has Open MPI put its segments there. Does nothing where that cannot be done: then they lie
// where they always do.
void ls_scratch_join(const char *path);

// Lets go of it and removes it when nobody else on this host holds it.
void ls_scratch_leave(const char *path, int lock);

// The same for the directory that this process has joined, if any; after MPI has ended.
void ls_scratch_part(void);

// Removes the directories of this user that nobody holds.
void ls_scratch_sweep(void);

#endif
