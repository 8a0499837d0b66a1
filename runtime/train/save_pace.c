#include "save_pace.h"

#include <math.h>
#include <string.h>

enum { PLAIN_STEPS = 10, PLAIN_WINDOW = 50, COST_WINDOW = 8 };

// No save costs nothing: below this, more of them would not be noticed.
static const double LEAST_COST = 1e-3;

double ls_save_interval(double cost, double mtbf)
{
    if (cost >= 2 * mtbf)
        return mtbf;
    double ratio = cost / (2 * mtbf);
    return sqrt(2 * cost * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9);
}

void ls_save_pace_start(LsSavePace *pace, double fixed, double mtbf, double now)
{
    *pace = (LsSavePace){.adapts = fixed <= 0, .interval = fixed, .mtbf = mtbf, .begun = now};
}

void ls_save_pace_begin(LsSavePace *pace, double now)
{
    pace->begun = now;
    pace->measuring = true;
}

void ls_save_pace_step(LsSavePace *pace, double now, bool in_flight)
{
    double seconds = now - pace->step_ended;
    bool known = pace->step_ended > 0;
    pace->step_ended = now;
    if (!known)
        return;
    if (in_flight) {
        pace->excess += seconds - pace->plain;
        return;
    }
    if (pace->plain_steps < PLAIN_WINDOW)
        pace->plain_steps++;
    pace->plain += (seconds - pace->plain) / (double)pace->plain_steps;
}

void ls_save_pace_skip(LsSavePace *pace)
{
    pace->step_ended = 0;
}

bool ls_save_pace_end(LsSavePace *pace, double seconds)
{
    double cost = fmax(pace->excess, LEAST_COST);
    pace->excess = 0;
    pace->measuring = false;
    if (!pace->adapts || pace->plain_steps < PLAIN_STEPS)
        return false;
    if (pace->costs < COST_WINDOW)
        pace->costs++;
    pace->cost += (cost - pace->cost) / (double)pace->costs;
    bool first = pace->interval <= 0;
    // What takes longer to become durable than that cannot be had as often.
    pace->interval = fmax(ls_save_interval(pace->cost, pace->mtbf), seconds);
    return first;
}

bool ls_save_pace_due(const LsSavePace *pace, double now)
{
    // Until a save was measured, one is made as soon as there are steps to compare with.
    if (pace->interval <= 0)
        return !pace->measuring && pace->plain_steps >= PLAIN_STEPS;
    return now - pace->begun >= pace->interval;
}
