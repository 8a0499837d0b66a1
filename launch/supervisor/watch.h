// Who is to blame: what the pulses of one launch's ranks say about each of them. No clock and no socket of
// its own.
#ifndef LOCKSTEP_SUPERVISOR_WATCH_H
#define LOCKSTEP_SUPERVISOR_WATCH_H

#include "train/pulse.h"

typedef struct LsWatchedRank {
    LsPulseRecord last;   // its newest record
    bool connected;       // has sent one
    bool closed;          // its connection is closed
    double heard;         // clock: its newest record
    double moved, polled; // clock: its main thread said where it is; was seen waiting for others
    uint64_t stride;      // steps between its two newest records, which is how far it may have come since
} LsWatchedRank;

typedef struct LsWatch {
    uint32_t ranks;
    LsWatchedRank *rank; // [ranks], owned
    double started;      // clock
} LsWatch;

typedef enum LsFindingKind {
    LS_FINDING_NONE,
    LS_FINDING_DEAD,   // its connection closed without a goodbye
    LS_FINDING_SILENT, // no pulse: the process or its host stands still
    LS_FINDING_STUCK,  // the process lives, its main thread does not come on and does not wait for others
    LS_FINDING_ABSENT, // never came
} LsFindingKind;

typedef struct LsFinding {
    LsFindingKind kind;
    uint32_t rank;
    double seconds; // for how long
} LsFinding;

LsStatus ls_watch_begin(LsWatch *watch, uint32_t ranks, double now);
void ls_watch_free(LsWatch *watch);

// False, and nothing noted: a record that is none of this launch's, older than one already seen, or of a rank
// that has gone.
bool ls_watch_pulse(LsWatch *watch, const LsPulseRecord *record, double now);
void ls_watch_closed(LsWatch *watch, uint32_t rank);

// The supervisor itself stood still for so long: nothing in that time is held against the ranks.
void ls_watch_forgive(LsWatch *watch, double seconds);

// The first thing that is wrong: dead before silent before stuck before absent.
LsFinding ls_watch_look(const LsWatch *watch, double now);

bool ls_watch_all_connected(const LsWatch *watch);
bool ls_watch_all_closed(const LsWatch *watch);                // of those that had come
bool ls_watch_all_ended(const LsWatch *watch, uint32_t *code); // *code: the highest exit code they gave

// How many steps past its newest record a rank may have been when it ended; 0 when it said goodbye.
int64_t ls_watch_slack(const LsWatch *watch, uint32_t rank);

// The rank that knows most of the run: the one with the highest step; NULL when none has come.
const LsPulseRecord *ls_watch_furthest(const LsWatch *watch);

#endif
