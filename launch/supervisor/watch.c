#include "watch.h"

#include <stdlib.h>

#include "base/memory.h"

// A stopped process is to be named within 5 s; its thread beats twice a second.
static const double SILENT_SECONDS = 3;
static const double ABSENT_SECONDS = 180;
// The shortest time after which a main thread counts as stuck in a step, and how much longer than its usual
// longest time between two moves it may take: processors may be shared four times over.
static const double STUCK_SECONDS = 4, STUCK_FACTOR = 20;
static const double FIRST_STEPS_SECONDS = 300; // kernels are built, files are read for the first time
// When one rank is stuck in a step, the others come to wait for it and nobody moves on.
static const double STANDSTILL_SECONDS = 2;

LsStatus ls_watch_begin(LsWatch *watch, uint32_t ranks, double now)
{
    LsWatch made = {.ranks = ranks, .started = now};
    LS_TRY(ls_memory_allocate(ranks * sizeof *made.rank, (void **)&made.rank));
    *watch = made;
    return LS_OK;
}

void ls_watch_free(LsWatch *watch)
{
    free(watch->rank);
    *watch = (LsWatch){0};
}

bool ls_watch_pulse(LsWatch *watch, const LsPulseRecord *record, double now)
{
    if (record->ranks != watch->ranks || record->rank >= watch->ranks)
        return false;
    LsWatchedRank *rank = &watch->rank[record->rank];
    if (rank->closed || (rank->connected && record->sequence <= rank->last.sequence))
        return false;
    if (!rank->connected || record->moves != rank->last.moves)
        rank->moved = now;
    if (!rank->connected || record->polls != rank->last.polls)
        rank->polled = now;
    rank->stride = rank->connected && record->step > rank->last.step ? record->step - rank->last.step : 0;
    rank->connected = true;
    rank->heard = now;
    rank->last = *record;
    return true;
}

void ls_watch_closed(LsWatch *watch, uint32_t rank)
{
    if (rank < watch->ranks)
        watch->rank[rank].closed = true;
}

void ls_watch_forgive(LsWatch *watch, double seconds)
{
    watch->started += seconds;
    for (uint32_t r = 0; r < watch->ranks; r++) {
        watch->rank[r].heard += seconds;
        watch->rank[r].moved += seconds;
        watch->rank[r].polled += seconds;
    }
}

// ---- What is wrong --------------------------------------------------------------------------------------

static double later(double a, double b)
{
    return a > b ? a : b;
}

// How long a main thread may be busy with one thing.
static double patience(const LsPulseRecord *record)
{
    double usual = STUCK_FACTOR * (double)record->gap * 1e-6;
    switch (record->phase) {
    case LS_PHASE_COMPUTE:
    case LS_PHASE_EXCHANGE:
        return record->gap > 0 ? later(STUCK_SECONDS, usual) : FIRST_STEPS_SECONDS;
    case LS_PHASE_DATA: // storage has moods
        return later(60, usual);
    case LS_PHASE_EVALUATE:
        return FIRST_STEPS_SECONDS;
    case LS_PHASE_END:
        return 30;
    default: // start, log, save: as long as the storage takes
        return 900;
    }
}

static bool ended(const LsWatchedRank *rank)
{
    return rank->connected && rank->last.phase == LS_PHASE_END;
}

static bool is_dead(const LsWatchedRank *rank)
{
    return rank->closed && !ended(rank);
}

static bool lives(const LsWatchedRank *rank)
{
    return rank->connected && !rank->closed;
}

// The longest of those for which `seconds` exceeds its limit; what is negative never does.
static void blame(LsFinding *found, LsFindingKind kind, uint32_t rank, double seconds, double limit)
{
    if (seconds > limit && (found->kind == LS_FINDING_NONE || seconds > found->seconds))
        *found = (LsFinding){.kind = kind, .rank = rank, .seconds = seconds};
}

static LsFinding find_stuck(const LsWatch *watch, double now)
{
    LsFinding found = {0};
    double moved = watch->started;
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (lives(&watch->rank[r]))
            moved = later(moved, watch->rank[r].moved);
    if (now - moved < STANDSTILL_SECONDS)
        return found;
    for (uint32_t r = 0; r < watch->ranks; r++) {
        const LsWatchedRank *rank = &watch->rank[r];
        // A rank that polls waits for others and is not to blame.
        if (lives(rank))
            blame(&found, LS_FINDING_STUCK, r, now - later(rank->moved, rank->polled), patience(&rank->last));
    }
    return found;
}

LsFinding ls_watch_look(const LsWatch *watch, double now)
{
    LsFinding found = {0};
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (is_dead(&watch->rank[r]))
            return (LsFinding){.kind = LS_FINDING_DEAD, .rank = r, .seconds = now - watch->rank[r].heard};
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (lives(&watch->rank[r]))
            blame(&found, LS_FINDING_SILENT, r, now - watch->rank[r].heard, SILENT_SECONDS);
    if (found.kind == LS_FINDING_NONE)
        found = find_stuck(watch, now);
    if (found.kind != LS_FINDING_NONE)
        return found;
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (!watch->rank[r].connected)
            blame(&found, LS_FINDING_ABSENT, r, now - watch->started, ABSENT_SECONDS);
    return found;
}

// ---- All ranks ------------------------------------------------------------------------------------------

bool ls_watch_all_connected(const LsWatch *watch)
{
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (!watch->rank[r].connected)
            return false;
    return true;
}

bool ls_watch_all_closed(const LsWatch *watch)
{
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (lives(&watch->rank[r]))
            return false;
    return true;
}

bool ls_watch_all_ended(const LsWatch *watch, uint32_t *code)
{
    *code = 0;
    for (uint32_t r = 0; r < watch->ranks; r++) {
        if (!ended(&watch->rank[r]))
            return false;
        *code = watch->rank[r].last.code > *code ? watch->rank[r].last.code : *code;
    }
    return true;
}

int64_t ls_watch_slack(const LsWatch *watch, uint32_t rank)
{
    const LsWatchedRank *r = &watch->rank[rank];
    // The time between two records is never the same; and a step that began since has no stride.
    return !r->connected || ended(r) || r->stride > INT32_MAX ? 0 : (int64_t)(r->stride + r->stride / 2 + 1);
}

const LsPulseRecord *ls_watch_furthest(const LsWatch *watch)
{
    const LsPulseRecord *best = NULL;
    for (uint32_t r = 0; r < watch->ranks; r++)
        if (watch->rank[r].connected && (!best || watch->rank[r].last.step > best->step))
            best = &watch->rank[r].last;
    return best;
}
