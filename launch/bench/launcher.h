// Runs this program under a launcher, as a user would.
#ifndef LOCKSTEP_LAUNCH_LAUNCHER_H
#define LOCKSTEP_LAUNCH_LAUNCHER_H

#include <sys/types.h>

#include "bench.h"

enum { LS_WORDS_MAX = 600 };

// Words of a command line; text is lent but for what is formatted into `room`.
typedef struct LsWords {
    size_t count;
    const char *word[LS_WORDS_MAX + 1]; // NULL behind the last one
    char room[8192];
    size_t used;
} LsWords;

// Both keep to the limits: what does not fit is left out and makes ls_words_run fail.
void ls_words_add(LsWords *words, const char *word);
void ls_words_format(LsWords *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The path of this program.
LsStatus ls_words_self(LsWords *words);

// The words of `launcher` (NULL: mpirun, each rank bound to a core where there are enough) for so many ranks,
// and the path of this program. `launcher` has {ranks} where their number belongs.
LsStatus ls_words_launch(LsWords *words, const char *launcher, int ranks);

// A program that runs.
typedef struct LsChild {
    pid_t process; // 0: none
    char errors[LS_PATH_MAX];
} LsChild;

// Starts it without a standard output; its errors go to a file `name` in the folder. core: the number of the
// processor, among those that this process may use, that it is bound to; -1: as this one. LS_UNAVAILABLE: the
// first word is no program.
LsStatus ls_words_start(const LsWords *words, const char *folder, const char *name, int core, LsChild *out);

// Waits for its end. A failure of the program is returned as its own, with its sentence behind `what`.
LsStatus ls_child_wait(LsChild *child, const char *what);

// Ends it before its time; one that was waited for is fine.
void ls_child_kill(LsChild *child);

#endif
