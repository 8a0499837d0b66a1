// When a run saves by the clock: at a fixed interval, or at the one that loses least time for what a save was
// measured to cost and how often the job is expected to fail. Rank 0's clock counts; the others learn of it
// from its vote. Clock values are seconds of any one clock.
#ifndef LOCKSTEP_TRAIN_SAVE_PACE_H
#define LOCKSTEP_TRAIN_SAVE_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct LsSavePace {
    bool adapts;         // policy auto
    double interval;     // seconds from the beginning of one save to the next; auto: 0 until it is known
    double mtbf;         // seconds from one failure of the job to the next
    bool measuring;      // the save from which the interval will be known is under way
    double begun;        // when the newest save began, or training
    double step_ended;   // the newest step's end, 0: none yet
    double plain;        // mean seconds of steps without a save in flight
    int64_t plain_steps; // in it
    double excess;       // seconds by which saves in flight made steps longer, since the last one that ended
    double cost;         // mean seconds that a save costs training
    int64_t costs;       // in it
} LsSavePace;

// The interval between beginnings of saves that makes the expected loss least: Daly's higher-order estimate
// (Future Generation Computer Systems 22, 2006), which begins as Young's √(2 cost mtbf). Both in seconds, >
// 0.
double ls_save_interval(double cost, double mtbf);

// fixed > 0: every so many seconds. fixed 0: as measured costs and mtbf ask for.
void ls_save_pace_start(LsSavePace *pace, double fixed, double mtbf, double now);

void ls_save_pace_begin(LsSavePace *pace, double now); // of a save
void ls_save_pace_step(LsSavePace *pace, double now, bool in_flight);
void ls_save_pace_skip(LsSavePace *pace); // what follows is no step: an evaluation

// A save is durable; it was under way for so many seconds. True when the interval is first known.
bool ls_save_pace_end(LsSavePace *pace, double seconds);

bool ls_save_pace_due(const LsSavePace *pace, double now);

#endif
