// Runs this program under a launcher, as a user would.
#ifndef LOCKSTEP_LAUNCH_LAUNCHER_H
#define LOCKSTEP_LAUNCH_LAUNCHER_H

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

// The words of `launcher` (NULL: mpirun, each rank bound to a core where there are enough) for so many ranks,
// and the path of this program. `launcher` has {ranks} where their number belongs.
LsStatus ls_words_launch(LsWords *words, const char *launcher, int ranks);

// Runs it to its end, without its standard output. LS_UNAVAILABLE: the first word is no program. A failure of
// the program is returned as its own, with its sentence behind `what`.
LsStatus ls_words_run(const LsWords *words, const char *what, const char *folder);

#endif
