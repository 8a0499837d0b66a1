// Members of a tar archive, in their order: ustar (POSIX.1-1988), the long names and large sizes of pax
// (POSIX.1-2001) and of GNU. Nothing is ever written: a name is text, whatever path it looks like.
#ifndef LOCKSTEP_DATA_TAR_H
#define LOCKSTEP_DATA_TAR_H

#include <stdint.h>

#include "base/file.h"

typedef struct LsTar {
    const char *path; // lent, for messages
    int fd;           // lent
    uint64_t size;    // of the file
    uint64_t at;      // where the next header is
} LsTar;

// A regular file of the archive; others (directories, links, devices) are passed over.
typedef struct LsTarMember {
    char name[LS_PATH_MAX];
    uint64_t offset, size; // where its bytes lie in the archive
} LsTarMember;

// The next member; *end when there is none. LS_BAD_DATA (path, offset) for what is no tar, for an archive
// that is cut short, and for names that have a NUL or do not fit. LS_IO.
LsStatus ls_tar_next(LsTar *tar, LsTarMember *out, bool *end);

#endif
